//! An OCI registry: the distribution specification served over HTTP, its content kept in a folder that survives crashes.
//!
//! [`Store`] keeps and collects; `http` speaks the protocol; nothing here knows the engine.
#![forbid(unsafe_code)]

mod error;
mod http;
mod manifest;
mod name;
mod pattern;
mod store;

pub use error::{Error, Result};
pub use http::{Options, serve};
pub use name::{RepositoryName, is_tag};
pub use pattern::Pattern;
pub use store::{Collected, Collection, Store};
