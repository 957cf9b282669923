//! Tar archives: read as untrusted input, written as Docker writes them, packed from and unpacked into directories through descriptors.
//!
//! Tar is read by an own parser rather than by a library, because two things are needed that libraries do not give: every byte that is not a file's content, from
//! which the exact archive can be made again, and one reading of ambiguous archives, the one that Docker (Go's `archive/tar`) has.
//!
//! No path is used after it was looked at: what is packed is read through the descriptor that told what it is, and what is unpacked is made below directories that
//! were opened without leaving the root they belong to. So a tree that somebody changes meanwhile, a running container say, leads nobody out of it.
#![forbid(unsafe_code)]

mod header;
mod pack;
mod parser;
mod sparse;
mod unpack;
mod write;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub use header::is_header;
pub use pack::{Directory, Node, Packer, Plain, Tree, names};
pub use parser::{Entry, Kind, ParseError, Parser, Xattrs};
pub use sparse::{Part, Sparse};
pub use unpack::{Owner, Target, Unpack, unpack};
pub use write::{Tap, Writer};

/// Directories above an entry that are followed.
pub(crate) const DEPTH_MAX: usize = 512;

/// A failure of packing or unpacking.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be read.
    #[error("read the archive")]
    Parse(#[from] ParseError),
    /// The archive cannot be written: whoever takes it has gone, or the disk is full.
    #[error("write the archive")]
    Write(#[source] io::Error),
    /// The kernel refused.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what, as the archive names it.
        path: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// What is there, or what the archive says, does not allow it.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    fn io(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }

    /// What the kernel answered, where it was asked about a file.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Parse(_) | Self::Write(_) | Self::Refused(_) => None,
        }
    }
}

/// A path that means the descriptor itself, for calls that take none.
pub(crate) fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// `above` and `name` with a slash between, unless there is no `above`.
pub(crate) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match above {
        b"" => name.to_vec(),
        _ if above.ends_with(b"/") => [above, name].concat(),
        _ => [above, b"/", name].concat(),
    }
}
