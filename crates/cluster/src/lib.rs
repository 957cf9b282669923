//! What engines on several machines share: networks, addresses, endpoints and names, in etcd.
//!
//! [`Cluster`] is one engine's membership. It holds a lease, which somebody has to renew (see [`Keeper`]) and which takes this host's
//! endpoints along when the host dies; it claims addresses by compare-and-swap, so that no two engines give one address twice;
//! and it follows what the others do, so that [`Cluster::view`] is current without a question to etcd.
//!
//! The schema is versioned and described in docs/overlay.md. Whatever is read from etcd is checked as untrusted input.
#![forbid(unsafe_code)]

mod allocate;
mod client;
mod config;
mod error;
mod keeper;
mod member;
mod record;
mod sync;
mod view;

pub use config::{Config, Store, TTL_SECS_DEFAULT, Tls};
pub use error::{Error, Result};
pub use keeper::Keeper;
pub use member::{Claim, Cluster, NewNetwork};
pub use record::{Endpoint, Host, Network, Prefix};
pub use view::View;
