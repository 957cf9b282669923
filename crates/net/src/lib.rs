//! Networks of one host: the bridge that containers hang on, their addresses, the way out, and published ports.
//!
//! A synchronous library over rtnetlink and nf_tables messages: no helper program is ever run, and a change is one
//! message batch. [`Net`] is thread-safe; callers in asynchronous code run it on a blocking thread.
//!
//! * [`Net::open`] makes (or repairs) the bridge and the nftables table, [`Net::close`] takes them away.
//! * [`Netns`] is a network namespace as a descriptor; [`Net::attach`] puts an interface into it.
//! * [`Net::publish`] reserves host ports by bound sockets, held by the [`netd`] process, and translates them in the kernel.
//! * [`Net::release`] gives address and ports back at once; the interface dies with its namespace.
//! * [`Net::create_network`] makes further networks, which do not reach each other; containers on those find each other by
//!   name, answered by netd: [`Net::serve_names`].
//! * [`files`] writes what a container reads about names: `/etc/hosts` and `/etc/resolv.conf`.
#![forbid(unsafe_code)]

mod bridge;
mod config;
mod conntrack;
mod endpoint;
mod error;
pub mod files;
mod holding;
mod ipam;
mod link;
mod manager;
mod names;
pub mod netd;
mod netlink;
mod netns;
mod network;
mod networks;
mod nft;
mod options;
mod overlay;
mod owner;
mod parent;
mod ports;
mod subnet;
mod vxlan;
mod watch;

pub use config::{Firewall, ForeignForward, NetConfig, Pool, Pool6, PublishedPolicy};
pub use endpoint::{Endpoint, EndpointRequest, PortBinding, PortRequest, Protocol};
pub use error::Error;
pub use manager::{Net, Reconciled};
pub use names::Resolving;
pub use netns::Netns;
pub use network::{Driver, Ipv6, Network, NewNetwork};
pub use overlay::{Carrier, Remote, interface_address};
pub use subnet::{Mac, Subnet, Subnet6};

/// What the operations of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
