//! What can fail at a registry.

use std::io;

use types::{Classify, Digest, ErrorKind};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

/// A request to a registry that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client can't be set up: no certificates, say.
    #[error("set up the connection to registries")]
    Setup(#[source] reqwest::Error),
    /// The registry does not answer.
    #[error("{method} {url:?}")]
    Request {
        /// The method, capitalised.
        method: &'static str,
        /// What was asked for.
        url: String,
        /// Why there was no answer.
        source: reqwest::Error,
    },
    /// Somebody sends on to where one does not go.
    #[error("{url} sends on to {to}: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where to go instead.
        to: String,
        /// Why not.
        reason: String,
    },
    /// A proxy's address that is none.
    #[error("{proxy:?} is not the address of a proxy")]
    Proxy {
        /// The address, without a password.
        proxy: String,
    },
    /// A certificate or key that is not usable.
    #[error("read the certificates of a registry from {}: {reason}", .path.display())]
    Certificate {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A registry that can't be searched.
    #[error("the registry {host} does not offer searching")]
    NoSearch {
        /// The registry.
        host: String,
    },
    /// The registry answered with an error of its own words.
    #[error("{subject}: the registry {host} answered {status}{message}")]
    Status {
        /// What was asked for.
        subject: String,
        /// Whom.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What it said, after a colon.
        message: String,
    },
    /// The registry has no such manifest.
    #[error("manifest for {reference} not found: manifest unknown{message}")]
    ManifestUnknown {
        /// What was asked for.
        reference: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// The registry has no such repository.
    #[error("repository {repository} not found: name unknown{message}")]
    NameUnknown {
        /// What was asked for.
        repository: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// The registry has no such blob.
    #[error("blob {digest} of {repository} not found: blob unknown")]
    BlobUnknown {
        /// The repository.
        repository: String,
        /// What was asked for.
        digest: Digest,
    },
    /// The registry does not let this user in.
    #[error("pull access denied for {repository}, repository does not exist or may require 'docker login': denied{message}")]
    Denied {
        /// What was asked for.
        repository: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// The registry does not let this user change the repository.
    #[error("push access denied for {repository}, repository does not exist or may require 'docker login': denied{message}")]
    PushDenied {
        /// What was to be changed.
        repository: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// A token service does not give this user a token.
    #[error("the token service {host} denied: unauthorized{message}")]
    TokenDenied {
        /// The service.
        host: String,
        /// What it said, after a colon.
        message: String,
    },
    /// A registry does not know this user, or not with this password.
    #[error("login attempt to {url} failed: unauthorized{message}")]
    LoginDenied {
        /// Where.
        url: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// The registry has lost an upload that had begun.
    #[error("upload blob to {repository}: the registry has lost the upload{message}")]
    UploadLost {
        /// The repository.
        repository: String,
        /// What the registry said, after a colon.
        message: String,
    },
    /// The registry asks for a way of logging in that is not known, or whose details make no sense.
    #[error("{host} asks for authentication in a way that is not supported: {challenge}")]
    Challenge {
        /// The registry.
        host: String,
        /// What it asks for.
        challenge: String,
    },
    /// The registry's answer makes no sense.
    #[error("{subject}: unexpected answer of the registry {host}: {reason}")]
    Answer {
        /// What was asked for.
        subject: String,
        /// Whom.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// What came is not what was promised.
    #[error("{subject} of {repository} has the digest {found}, {expected} was expected")]
    DigestMismatch {
        /// What was verified.
        subject: &'static str,
        /// The repository.
        repository: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// What came has another size than was promised.
    #[error("{subject} {digest} of {repository} has {found} bytes, {expected} were expected")]
    SizeMismatch {
        /// What was verified.
        subject: &'static str,
        /// Its digest.
        digest: Digest,
        /// The repository.
        repository: String,
        /// What was promised.
        expected: u64,
        /// What came, at least.
        found: u64,
    },
    /// Nothing in the index is for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries of {reference}")]
    NoPlatform {
        /// The platform wanted.
        platform: String,
        /// What was asked for.
        reference: String,
    },
    /// A format that is not supported any more.
    #[error("{reference} is a manifest of schema 1, which is obsolete and not supported")]
    Schema1 {
        /// What was asked for.
        reference: String,
    },
    /// Whoever takes the bytes failed.
    #[error("take the bytes of blob {digest}")]
    Sink {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Whether somebody answered at all, if only to refuse.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Status { status: 400..=499, .. }
                | Self::ManifestUnknown { .. }
                | Self::NameUnknown { .. }
                | Self::BlobUnknown { .. }
                | Self::Denied { .. }
        )
    }

    /// Whether a server's certificate was not accepted.
    pub(crate) fn is_certificate(&self) -> bool {
        matches!(self, Self::Request { .. }) && types::error::chain(self).contains("certificate")
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Request { source, .. } => !source.is_connect() && !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ManifestUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::BlobUnknown { .. }
            | Self::Denied { .. }
            | Self::NoPlatform { .. } => ErrorKind::NotFound,
            Self::Request { .. } => ErrorKind::Unavailable,
            Self::PushDenied { .. } | Self::TokenDenied { .. } | Self::LoginDenied { .. } => ErrorKind::Unauthorized,
            Self::UploadLost { .. } => ErrorKind::Unavailable,
            Self::Status { status: 401, .. } => ErrorKind::Unauthorized,
            Self::Status { status: 403, .. } => ErrorKind::Forbidden,
            Self::Status { .. } => ErrorKind::Unavailable,
            Self::Redirect { .. } => ErrorKind::Unavailable,
            Self::Proxy { .. } => ErrorKind::InvalidInput,
            Self::NoSearch { .. } => ErrorKind::NotFound,
            Self::Schema1 { .. } | Self::Challenge { .. } => ErrorKind::NotServed,
            Self::Certificate { .. }
            | Self::Setup(_)
            | Self::Answer { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Sink { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Status { status: 429, .. } => Some("the registry limits how often one may pull; wait, or log in".to_owned()),
            Self::Request { .. } if self.is_certificate() => Some(
                "put the certificate of its authority into HOST:PORT/ca.crt in the folder of certificates, or name the registry in insecure-registry"
                    .to_owned(),
            ),
            Self::Request { source, .. } if source.is_connect() => {
                Some("check that the registry runs, its name, and the network".to_owned())
            }
            Self::Schema1 { .. } => Some("push the image again with a tool of this decade".to_owned()),
            _ => None,
        }
    }
}
