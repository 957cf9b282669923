//! What can fail at the engine's end of the protocol.

use std::path::PathBuf;

use types::{Classify, ErrorKind};

/// A failed operation of this library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's memfd could not be made, filled or sealed.
    #[error("put the monitor's program into memory")]
    Seal(#[source] std::io::Error),
    /// The monitor's process could not be started.
    #[error("start a monitor process")]
    Spawn(#[source] std::io::Error),
    /// The monitor's socket could not be made.
    #[error("listen on {path}")]
    Listen {
        /// Where the socket should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers at the monitor's socket: the monitor is gone.
    #[error("connect to the monitor at {path}")]
    Connect {
        /// The monitor's socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A message could not be sent.
    #[error("send a message to the monitor")]
    Send(#[source] std::io::Error),
    /// A message could not be received.
    #[error("receive a message from the monitor")]
    Receive(#[source] std::io::Error),
    /// A message that is longer than the protocol allows, or has more descriptors.
    #[error("a message of {size} exceeds the monitor protocol's limit of {limit}")]
    TooLarge {
        /// Bytes, or descriptors.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A message that is not what the protocol says.
    #[error("read a message of the monitor protocol")]
    Malformed(#[source] serde_json::Error),
    /// A message without the descriptors that it announces.
    #[error("a message of the monitor protocol lacks a descriptor")]
    DescriptorMissing,
    /// A record of an exit could not be read or prepared.
    #[error("exit record {path}")]
    ExitRecord {
        /// The record.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Text that does not name detach keys.
    #[error("invalid detach keys {0:?}")]
    DetachKeys(String),
}

impl Error {
    /// True when the socket is full (or empty, or has too many connections waiting) for now: wait, then try again.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Send(source) | Self::Receive(source) | Self::Connect { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::DetachKeys(_) => ErrorKind::InvalidInput,
            Self::Connect { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::DetachKeys(_) => Some("write single characters or ctrl-<letter>, separated by commas: ctrl-p,ctrl-q".to_owned()),
            _ => None,
        }
    }
}
