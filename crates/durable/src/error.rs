//! What can fail, as operation and subject.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use types::{Classify, ErrorKind};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}", path = path.display())]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the kernel answered.
    #[source]
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.to_owned(), source: source.into() }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self.source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::Unavailable,
            Some(Errno::NOENT) => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self.source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => Some("free some disk space, for instance by removing images and stopped containers".to_owned()),
            Some(Errno::DQUOT) => Some("raise the disk quota, or remove images and stopped containers".to_owned()),
            _ => None,
        }
    }
}
