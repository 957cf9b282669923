//! What can fail in a build, as operation and subject.

use std::io;

use types::{Classify, ErrorKind};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of a build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The build was told to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// A command ended with another code than 0.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// The command's words.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// Something that is to be copied is not there.
    #[error("file not found in build context or excluded by .dockerignore: stat {path}: file does not exist")]
    NotFound {
        /// The path as it was given.
        path: String,
    },
    /// A path leads where it must not, or what is there does not fit.
    #[error("{path}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A user or group that the step's base does not have.
    #[error("{what} {name:?} is not in {file} of the step's base")]
    NoSuchName {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// The kernel refused.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The store refused.
    #[error("{operation}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: store::Error,
    },
    /// An archive cannot be unpacked.
    #[error("unpack {path}")]
    Unpack {
        /// The archive.
        path: String,
        /// Why not.
        source: tarball::Error,
    },
    /// A secret or an agent's socket that the step needs was not given.
    #[error("{what} {id} is required, but the client gave none of that id")]
    NotGiven {
        /// `secret` or `ssh agent`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// The step asks for more than the build was allowed.
    #[error("{what} is not allowed")]
    NotAllowed {
        /// What it asks for, by the name of the entitlement.
        what: &'static str,
    },
    /// This is not built here.
    #[error("{what} is not supported")]
    NotSupported {
        /// What.
        what: String,
    },
    /// The worker failed.
    #[error("{operation}")]
    Worker {
        /// What was tried.
        operation: String,
        /// What kind of failure.
        kind: ErrorKind,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }

    pub(crate) fn path(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Path { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
    }

    /// The exit code of the command that failed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Command { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { source, .. } => source.kind(),
            Self::Worker { kind, .. } => *kind,
            Self::Io { .. } => ErrorKind::Internal,
            Self::NotSupported { .. } => ErrorKind::NotServed,
            Self::NotAllowed { .. } => ErrorKind::Forbidden,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("the path is relative to the build context; see what .dockerignore leaves out".to_owned()),
            Self::NotGiven { what: "secret", id } => Some(format!("give it with --secret id={id},src=FILE")),
            Self::NotGiven { id, .. } => Some(format!("give it with --ssh {id}")),
            Self::NotAllowed { what } => Some(format!("allow it with --allow {what}")),
            Self::Store { source, .. } => source.hint(),
            _ => None,
        }
    }
}
