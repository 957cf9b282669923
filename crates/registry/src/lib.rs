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
mod verify;

pub use blob::BlobSink;
pub use client::{Options, Registry};
pub use error::{Error, Result};
pub use manifest::{Document, choose_platform};
pub use push::{Begun, Upload};

/// A user at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials({}, …)", self.username)
    }
}
