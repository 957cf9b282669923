//! An OCI registry: the distribution specification served over HTTP, its content kept in a folder that survives crashes.
//!
//! [`Store`] keeps and collects; `http` speaks the protocol; nothing here knows the engine.
#![forbid(unsafe_code)]

mod auth;
mod config;
mod error;
mod http;
mod limit;
mod manifest;
mod name;
mod pattern;
mod store;
mod tls;

pub use auth::{Action, AuthOptions, Rule, Scheme, Users};
pub use config::{ConfigFile, duration};
pub use error::{Error, Result};
pub use http::{AccessLog, Options, Surroundings, serve};
pub use name::{RepositoryName, is_tag};
pub use pattern::Pattern;
pub use store::{Checked, Collected, Collection, Problem, Store};
pub use tls::Tls;
