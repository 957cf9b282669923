//! The Docker Engine API over HTTP/1.1: decode a request, ask the engine, encode its answer. How anything is done, the engine knows.
//!
//! * `server` accepts and serves connections; `wire` is one below HTTP, `hijack` takes one out of it, `http` has requests and responses, `query` their parameters.
//! * `version` says which versions are served, `error` has the one table from kinds of errors to statuses.
//! * `route` finds the handler; then there is one file per resource.
#![forbid(unsafe_code)]

mod build;
mod container_json;
mod containers;
mod error;
mod events;
mod exec;
mod files;
mod fsck;
mod hijack;
mod http;
mod images;
mod metrics;
mod networks;
mod push;
mod query;
mod registry_auth;
mod route;
mod server;
mod stats;
mod streams;
mod system;
mod version;
mod volumes;
mod websocket;
mod wire;

use types::{Classify, ErrorKind};

pub use metrics::serve_metrics;
pub use server::{Listener, serve};
pub use version::Version;

/// A listener that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever reaches an engine without TLS is root on its machine.
    #[error("serve the API without TLS on {address}, which others can reach")]
    Exposed {
        /// The listener's address.
        address: std::net::SocketAddr,
    },
    /// The socket cannot be made ready.
    #[error("prepare the socket of the API")]
    Prepare(#[source] std::io::Error),
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exposed { .. } => ErrorKind::Forbidden,
            Self::Prepare(_) => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { .. } => Some("listen on 127.0.0.1, or on a unix socket and reach it through ssh".to_owned()),
            Self::Prepare(_) => None,
        }
    }
}
