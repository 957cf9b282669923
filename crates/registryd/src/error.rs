//! What can fail below the protocol, as operation and subject.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use types::{Classify, Digest, ErrorKind};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the registry itself; what a client did wrong is told in the protocol's own words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the registry could not be handled.
    #[error("{operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A crash-safe file operation failed.
    #[error(transparent)]
    File(#[from] durable::Error),
    /// The database refused.
    #[error("{operation} the registry's database")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What SQLite answered.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The thread that writes the database has ended.
    #[error("the registry's database is closed")]
    DatabaseGone,
    /// The database was written by a newer program.
    #[error("the database {path} has the format {found}, and this program knows {known}", path = path.display())]
    Schema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Another process serves the same folder.
    #[error("the folder {root} is served by another registry", root = root.display())]
    Served {
        /// The folder.
        root: PathBuf,
    },
    /// What was uploaded is not what its digest says.
    #[error("the content has the digest {found}, not {expected}")]
    DigestMismatch {
        /// What the client announced.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// A quota would be exceeded.
    #[error("the repository {repository} would take {needed} bytes, more than its quota of {quota}")]
    Quota {
        /// The repository.
        repository: String,
        /// What it would take.
        needed: u64,
        /// What it may take.
        quota: u64,
    },
    /// A manifest names what the repository does not have.
    #[error("the repository {repository} does not have {digest}")]
    MissingContent {
        /// The repository.
        repository: String,
        /// What is missing.
        digest: Digest,
    },
    /// A condition of the request does not hold.
    #[error("the reference is not what the request's condition says")]
    Precondition,
    /// The named thing is not there.
    #[error("{what} {name} is not there")]
    Absent {
        /// Its kind.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn sql(operation: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| Self::Database { operation, source: Arc::new(source) }
    }

    /// Whether there is no room for more.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::File(durable::Error { source, .. }) => {
                matches!(source.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
            }
            Self::Database { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Served { .. } | Self::Precondition => ErrorKind::Conflict,
            Self::DigestMismatch { .. } | Self::Configuration(_) => ErrorKind::InvalidInput,
            Self::Quota { .. } => ErrorKind::Forbidden,
            Self::MissingContent { .. } | Self::Absent { .. } => ErrorKind::NotFound,
            Self::Listen { .. } => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Database { .. } if self.is_full() => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Database { .. } | Self::DatabaseGone | Self::Schema { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Served { .. } => Some("stop the other one, or choose another --root".to_owned()),
            Self::Schema { .. } => Some("use the newer program, or another --root".to_owned()),
            Self::Quota { .. } => Some("remove tags with `cais registry rm` and run `cais registry gc`, or raise the quota".to_owned()),
            Self::File(error) => error.hint(),
            error if error.is_full() => Some("free some disk space, for instance with `cais registry gc`".to_owned()),
            _ => None,
        }
    }
}
