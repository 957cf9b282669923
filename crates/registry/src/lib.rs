//! Client of the OCI distribution protocol: manifests and blobs of remote repositories, verified as they stream, in both directions.
//!
//! Nothing is set up before the first request: a client that is never used costs no connection, no certificates and no memory to speak of.
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod client;
mod endpoint;
mod error;
mod login;
mod manifest;
mod push;
mod search;
mod tags;
mod tls;
mod token;
mod transport;
mod verify;
mod web;

pub use blob::BlobSink;
pub use client::{Options, Registry};
pub use error::{Error, Result};
pub use manifest::{Document, choose_platform};
pub use push::{Begun, Upload};
pub use search::Found;
pub use transport::Proxies;
pub use web::Downloaded;

/// A user at a registry: by name and password, or by a token that a registry gave before.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password or access token.
    pub password: String,
    /// What a token service gave in exchange for the password, if it did; goes before the password.
    pub identity_token: String,
    /// A token that the registry itself takes as it is; goes before everything else.
    pub registry_token: String,
}

impl Credentials {
    /// A user with a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), ..Self::default() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials({}, …)", self.username)
    }
}
