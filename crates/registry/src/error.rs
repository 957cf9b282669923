//! What can fail at a registry.

use types::{Classify, ErrorKind};

/// A request to a registry that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry has no such manifest.
    #[error("manifest for {reference} not found: manifest unknown")]
    ManifestUnknown {
        /// What was asked for.
        reference: String,
    },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ManifestUnknown { .. } => ErrorKind::NotFound,
        }
    }
}
