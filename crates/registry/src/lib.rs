//! Client of the OCI distribution protocol: manifests and blobs of remote repositories, verified as they stream.
#![forbid(unsafe_code)]

mod error;

pub use error::Error;

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

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

/// The client. Connections and TLS are set up when the first request is made.
#[derive(Debug)]
pub struct Registry {}
