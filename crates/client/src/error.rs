//! What can go wrong between a client and its engine.

use std::io;

use types::{Classify, ErrorKind};

use crate::Endpoint;

/// A failed exchange with an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text does not name an endpoint.
    #[error("bad endpoint {text:?}: {reason}")]
    BadEndpoint {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A transport of which this client knows only the name.
    #[error("endpoint {text:?}: {scheme} is not served by this client")]
    SchemeNotServed {
        /// As given.
        text: String,
        /// The part before `://`.
        scheme: String,
    },
    /// The host part of a tcp endpoint is neither an address nor listed in `/etc/hosts`.
    #[error("look up host {host:?}: not an address, and not in /etc/hosts")]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// Nothing listens at the endpoint.
    #[error("cannot connect to the engine at {endpoint}")]
    NoEngine {
        /// Where it was sought.
        endpoint: Endpoint,
        /// ENOENT or ECONNREFUSED.
        source: io::Error,
    },
    /// The endpoint cannot be reached for another reason.
    #[error("cannot connect to the engine at {endpoint}")]
    Connect {
        /// Where it was sought.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{operation} the engine")]
    Transfer {
        /// "send a request to", "read the answer of".
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What came back is not HTTP, or exceeds a bound.
    #[error("the engine's answer is not understood: {reason}")]
    Protocol {
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON document of the engine does not have the expected shape.
    #[error("the engine's answer is not the expected JSON")]
    Decode {
        /// Where it deviates.
        source: serde_json::Error,
    },
    /// The engine answered with an error status; its own words are shown.
    #[error("{message}")]
    Api {
        /// HTTP status.
        status: u16,
        /// The engine's message.
        message: String,
    },
}

impl Error {
    /// The HTTP status, if the engine answered at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the engine says that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadEndpoint { .. } => ErrorKind::InvalidInput,
            Self::SchemeNotServed { .. } => ErrorKind::NotServed,
            Self::UnknownHost { .. } => ErrorKind::NotFound,
            Self::NoEngine { .. } | Self::Connect { .. } | Self::Transfer { .. } => ErrorKind::Unavailable,
            Self::Protocol { .. } | Self::Decode { .. } => ErrorKind::Internal,
            Self::Api { status, .. } => match status {
                400 => ErrorKind::InvalidInput,
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                501 => ErrorKind::NotServed,
                503 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::SchemeNotServed { .. } => Some("use unix:///PATH, or tcp://HOST:PORT inside a trusted network".to_owned()),
            Self::UnknownHost { .. } => Some("give the address itself".to_owned()),
            Self::NoEngine { .. } => Some("is it running? start one with `cais engine`".to_owned()),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("be root, or join the group that owns the socket".to_owned())
            }
            _ => None,
        }
    }
}
