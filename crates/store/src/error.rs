//! What can fail in the store, as operation and subject.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use types::{Classify, Digest, ErrorKind};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another engine has the data root.
    #[error("the data root {} is in use by another engine", .root.display())]
    Locked {
        /// The data root.
        root: PathBuf,
    },
    /// A file operation failed.
    #[error("{operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A crash-safe file operation failed.
    #[error(transparent)]
    Durable(#[from] durable::Error),
    /// The database failed.
    #[error("{operation} the database {}", .path.display())]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The database's file.
        path: PathBuf,
        /// What SQLite answered.
        source: Arc<rusqlite::Error>,
    },
    /// The database's writer has ended.
    #[error("the database is closed")]
    DatabaseGone,
    /// The database was written by a newer program.
    #[error("the database {} has schema version {found}, this program knows {known}", .path.display())]
    Schema {
        /// The database's file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// A kind or id that no document can have.
    #[error("{key:?} is not usable as the key of a record")]
    Key {
        /// The kind or id.
        key: String,
    },
    /// A document can't be serialised.
    #[error("encode the record {kind}/{id}")]
    Encode {
        /// Its kind.
        kind: String,
        /// Its id.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document can't be read.
    #[error("decode the record {kind}/{id}")]
    Decode {
        /// Its kind.
        kind: String,
        /// Its id.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// No image has that name or id, in Docker's words.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Several images' ids begin so.
    #[error("image id prefix {prefix:?} is ambiguous: it fits {count} images")]
    AmbiguousImage {
        /// What was typed.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
    /// A text that is no image reference.
    #[error(transparent)]
    Reference(#[from] types::reference::InvalidReference),
    /// An image can't be removed, in Docker's words.
    #[error("conflict: {0}")]
    ImageInUse(String),
    /// What came is not an image or not a layer, or asks for something refused.
    #[error("{subject}: {reason}")]
    Invalid {
        /// The archive, layer or file.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Packing an archive failed.
    #[error(transparent)]
    Archive(#[from] tarball::Error),
    /// Reading an archive or a stream failed.
    #[error("read {subject}")]
    Read {
        /// What was read.
        subject: String,
        /// Why.
        source: io::Error,
    },
    /// Content has another digest than promised.
    #[error("{subject} has the digest {found}, {expected} was expected")]
    DigestMismatch {
        /// What was verified.
        subject: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Content that should be there is not.
    #[error("content {0} is missing from the store")]
    MissingContent(Digest),
    /// A layer that should be there is not, or is being removed.
    #[error("layer {0} is missing from the store")]
    MissingLayer(Digest),
    /// A `--change` instruction is wrong.
    #[error("{0}")]
    Change(String),
    /// No volume has that name, in Docker's words.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// A name that no volume can have, in Docker's words.
    #[error(
        "create {0}: {0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    VolumeName(String),
    /// A volume name of one character.
    #[error("create {0}: volume name is too short, names should be at least two alphanumeric characters")]
    VolumeNameShort(String),
    /// A volume driver that is not there, in Docker's words.
    #[error("create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found")]
    NoSuchVolumeDriver {
        /// The volume.
        name: String,
        /// The driver asked for.
        driver: String,
    },
    /// An option of a volume driver that is not served.
    #[error("{0}")]
    VolumeOptions(String),
    /// No snapshot belongs to that container.
    #[error("container {0} has no snapshot")]
    NoSuchSnapshot(String),
    /// A snapshot of that container exists already.
    #[error("container {0} has a snapshot already")]
    SnapshotExists(String),
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { subject: subject.into(), reason: reason.into() }
    }

    /// What the kernel answered, where it was asked.
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Read { source, .. } => source.raw_os_error(),
            Self::Archive(error) => error.errno(),
            _ => None,
        }
    }

    fn is_disk_full(&self) -> bool {
        let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
        full.contains(&self.errno()) || matches!(self, Self::Database { source, .. } if is_sqlite_full(source))
    }
}

fn is_sqlite_full(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.code == rusqlite::ErrorCode::DiskFull)
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage(_) | Self::NoSuchVolume(_) | Self::NoSuchSnapshot(_) => ErrorKind::NotFound,
            Self::AmbiguousImage { .. } | Self::Reference(_) | Self::Invalid { .. } | Self::Change(_) | Self::DigestMismatch { .. } => {
                ErrorKind::InvalidInput
            }
            Self::VolumeName(_) | Self::VolumeNameShort(_) => ErrorKind::InvalidInput,
            Self::VolumeOptions(_) => ErrorKind::NotServed,
            Self::NoSuchVolumeDriver { .. } => ErrorKind::NotFound,
            Self::ImageInUse(_) | Self::SnapshotExists(_) => ErrorKind::Conflict,
            Self::Locked { .. } => ErrorKind::Unavailable,
            Self::Durable(error) => error.kind(),
            _ if self.is_disk_full() => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Durable(error) => error.hint(),
            Self::Locked { .. } => Some("stop the other engine, or choose another directory with --data-root".to_owned()),
            Self::AmbiguousImage { .. } => Some("give more digits of the id".to_owned()),
            Self::Schema { .. } => Some("use the newer version of the engine, or another --data-root".to_owned()),
            _ if self.is_disk_full() => Some("free some disk space, for instance by removing images and stopped containers".to_owned()),
            _ => None,
        }
    }
}
