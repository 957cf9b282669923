//! What can fail in the operations on images.

use types::{Classify, ErrorKind};

/// An operation on images that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A registry refused or failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A text that is no image reference.
    #[error(transparent)]
    Reference(#[from] types::reference::InvalidReference),
    /// The image is for another platform than asked for.
    #[error("image {image} was found but its platform ({found}) does not match the specified platform ({wanted})")]
    Platform {
        /// The image.
        image: String,
        /// What it is for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A filter that images do not have.
    #[error("invalid filter '{0}'")]
    Filter(String),
    /// A filter's value is wrong.
    #[error("invalid filter '{key}={value}'")]
    FilterValue {
        /// The filter.
        key: String,
        /// Its value.
        value: String,
    },
    /// What came from the registry is no image that can be used.
    #[error("pull {reference}: {reason}")]
    Unusable {
        /// What was pulled.
        reference: String,
        /// Why it can't be used.
        reason: String,
    },
    /// The disk has less room than what is to be fetched.
    #[error("pull {reference}: its layers have {wanted} bytes, and the disk has room for {free}")]
    NoSpace {
        /// What was to be pulled.
        reference: String,
        /// The bytes of the missing layers.
        wanted: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// Nothing here has the name that is to be pushed, in Docker's words.
    #[error("An image does not exist locally with the tag: {0}")]
    NotTagged(String),
    /// A digest can't be pushed, in Docker's words.
    #[error("cannot push a digest reference: {0}")]
    PushDigest(String),
    /// A registry that answers what was not asked.
    #[error("push to {0}: the registry answers an upload as if it were a mount")]
    Unasked(String),
    /// A tag that would be a digest.
    #[error("refusing to create a tag with a digest reference: {0}")]
    TagDigest(String),
    /// Another pull of the same layer failed.
    #[error("{0}")]
    Shared(String, ErrorKind),
    /// The engine's own task failed.
    #[error("the engine's own task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Reference(_)
            | Self::TagDigest(_)
            | Self::PushDigest(_)
            | Self::Filter(_)
            | Self::FilterValue { .. }
            | Self::Unusable { .. } => ErrorKind::InvalidInput,
            Self::Platform { .. } | Self::NotTagged(_) => ErrorKind::NotFound,
            Self::NoSpace { .. } => ErrorKind::Unavailable,
            Self::Shared(_, kind) => *kind,
            Self::Task(_) | Self::Unasked(_) => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::NoSpace { .. } => Some("free some disk space, for instance by removing images and stopped containers".to_owned()),
            _ => None,
        }
    }
}
