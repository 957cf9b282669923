//! What can go wrong in a build, as the client is told.

use std::io;
use std::path::PathBuf;

use types::build::BuildFailure;
use types::{Classify, ErrorKind};

/// A build that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile is not there.
    #[error("Cannot locate specified Dockerfile: {path}")]
    NoDockerfile {
        /// Its path as it was given.
        path: String,
    },
    /// The Dockerfile is wrong.
    #[error(transparent)]
    Dockerfile(Box<Faulty>),
    /// A step failed.
    #[error("{message}")]
    Step {
        /// What and why, in one line.
        message: String,
        /// The whole, as the client is told.
        failure: Box<BuildFailure>,
        /// Why.
        source: build::Error,
    },
    /// The request asks for something that makes no sense, or that is not served.
    #[error("{message}")]
    Request {
        /// What and why.
        message: String,
        /// What kind of fault.
        kind: ErrorKind,
    },
    /// A context cannot be had.
    #[error("load the build context {what}")]
    Context {
        /// Which.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be read.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The result cannot be kept or exported.
    #[error("{operation}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: store::Error,
    },
    /// An image cannot be fetched or sent.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// The build was told to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// The engine's own task failed.
    #[error("the engine's own task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A wrong Dockerfile with the place that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Faulty {
    /// What is wrong.
    pub error: dockerfile::Error,
    /// The lines around it, ready to be printed.
    pub excerpt: String,
}

impl Error {
    pub(crate) fn request(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Request { message: message.into(), kind }
    }

    /// What the client is told.
    pub fn failure(&self) -> BuildFailure {
        match self {
            Self::Step { failure, .. } => BuildFailure::clone(failure),
            Self::Dockerfile(faulty) => BuildFailure {
                message: types::error::chain(&faulty.error),
                lines: faulty.error.place.as_ref().map(|place| (place.lines.first, place.lines.last)),
                excerpt: faulty.excerpt.clone(),
                hint: faulty.error.hint().unwrap_or_default(),
                ..BuildFailure::default()
            },
            other => {
                BuildFailure { message: types::error::chain(other), hint: other.hint().unwrap_or_default(), ..BuildFailure::default() }
            }
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Dockerfile(_) => ErrorKind::InvalidInput,
            Self::Step { source, .. } => source.kind(),
            Self::Request { kind, .. } => *kind,
            Self::Store { source, .. } => source.kind(),
            Self::Image(source) => source.kind(),
            Self::Cancelled => ErrorKind::Unavailable,
            // Docker calls it a fault of its own.
            Self::NoDockerfile { .. } | Self::Context { .. } | Self::File { .. } | Self::Task(_) => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Dockerfile(faulty) => faulty.error.hint(),
            Self::Step { source, .. } => source.hint(),
            Self::Store { source, .. } => source.hint(),
            Self::Image(source) => source.hint(),
            Self::NoDockerfile { .. } => Some("name it with -f, relative to the context".to_owned()),
            _ => None,
        }
    }
}
