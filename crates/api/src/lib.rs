//! The Docker Engine API over HTTP/1.1: decode a request, ask the engine, encode its answer. How anything is done, the engine knows.
//!
//! * `wire` is a connection below HTTP, `hijack` takes one out of it, `http` has requests and responses, `query` their parameters.
//! * `version` says which versions are served, `error` has the one table from kinds of errors to statuses.
//! * `route` finds the handler; then there is one file per resource.
#![forbid(unsafe_code)]

mod container_json;
mod containers;
mod error;
mod events;
mod exec;
mod hijack;
mod http;
mod images;
mod networks;
mod query;
mod route;
mod stats;
mod streams;
mod system;
mod version;
mod volumes;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use types::{Classify, ErrorKind};

pub use version::Version;

use crate::http::{Reply, TakenOver};
use crate::wire::{Connection, Socket, Wire};

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// How long answers that are under way may take when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where clients come in.
#[derive(Debug)]
pub struct Listener(Accept);

#[derive(Debug)]
enum Accept {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A listener that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever reaches an engine without TLS is root on its machine.
    #[error("serve the API without TLS on {address}, which others can reach")]
    Exposed {
        /// The listener's address.
        address: SocketAddr,
    },
    /// The socket cannot be made ready.
    #[error("prepare the socket of the API")]
    Prepare(#[source] io::Error),
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

impl Listener {
    /// Clients of a Unix socket. To be called within a tokio runtime.
    pub fn unix(listener: std::os::unix::net::UnixListener) -> Result<Self, Error> {
        listener.set_nonblocking(true).map_err(Error::Prepare)?;
        UnixListener::from_std(listener).map(|listener| Self(Accept::Unix(listener))).map_err(Error::Prepare)
    }

    /// Clients of a TCP port, which must be on loopback. To be called within a tokio runtime.
    pub fn tcp(listener: std::net::TcpListener) -> Result<Self, Error> {
        let address = listener.local_addr().map_err(Error::Prepare)?;
        if !address.ip().is_loopback() {
            return Err(Error::Exposed { address });
        }
        tracing::warn!(%address, "the API is served without TLS: every user of this machine who connects there has root's power");
        listener.set_nonblocking(true).map_err(Error::Prepare)?;
        TcpListener::from_std(listener).map(|listener| Self(Accept::Tcp(listener))).map_err(Error::Prepare)
    }

    async fn accept(&self) -> io::Result<Socket> {
        match &self.0 {
            Accept::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
            Accept::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

/// Serves the API until `shutdown` completes. Then nobody is accepted any more, and answers under way get a few seconds to end.
pub async fn serve(engine: Arc<Engine>, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(false);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_all(engine.clone(), listener, room.clone(), stopping.clone()));
    }
    drop(stopping);
    shutdown.await;
    // The loops end, then the connections that hold a receiver, too.
    let _ = stop.send(true);
    let ended = async {
        while loops.join_next().await.is_some() {}
        stop.closed().await;
    };
    if tokio::time::timeout(SHUTDOWN_GRACE, ended).await.is_err() {
        tracing::debug!("connections were still open when the server stopped");
    }
}

async fn accept_all(engine: Arc<Engine>, listener: Listener, room: Arc<Semaphore>, mut stopping: watch::Receiver<bool>) {
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|socket| (socket, permit))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stopping) => return,
        };
        match accepted {
            Ok((socket, permit)) => {
                let (engine, stopping) = (engine.clone(), stopping.clone());
                tokio::spawn(async move {
                    serve_one(engine, socket, stopping).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Completes when the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error says that nobody is left who could tell: that is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await.map(drop);
}

/// Serves one connection until it ends, is taken over, or the server stops.
async fn serve_one(engine: Arc<Engine>, socket: Socket, mut stopping: watch::Receiver<bool>) {
    let connection = Connection::new(socket);
    let wire = Wire::new(connection.clone());
    let service = service_fn(move |request| handle(engine.clone(), connection.clone(), request));
    let served = http1::Builder::new().max_buf_size(wire::HEAD_BYTES_MAX * 2).serve_connection(wire, service);
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = stopped(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = types::error::chain(&error), "a connection ended");
    }
}

/// Answers one request. The error ends the connection without an answer: its socket has gone elsewhere.
async fn handle(engine: Arc<Engine>, connection: Arc<Connection>, request: Request<Incoming>) -> Result<Reply, TakenOver> {
    let serving = connection.serving();
    let (method, target) = (request.method().clone(), request.uri().clone());
    let began = std::time::Instant::now();
    let answer = route::answer(engine, connection.clone(), request).await;
    let mut reply = match answer {
        Ok(Some(reply)) => reply,
        Ok(None) => return Err(TakenOver),
        Err(failure) => {
            tracing::debug!(%method, path = target.path(), status = failure.status.as_u16(), message = failure.message, "refused");
            http::refusal(&failure)
        }
    };
    tracing::trace!(%method, path = target.path(), status = reply.status().as_u16(), elapsed = ?began.elapsed(), "answered");
    for (name, value) in general_headers() {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if connection.is_last() {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    connection.release();
    Ok(reply.map(|payload| payload.keep(serving)))
}

/// Headers that every response has.
pub(crate) fn general_headers() -> [(&'static str, &'static str); 4] {
    [
        ("api-version", "1.51"),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        ("server", concat!("Cais/", env!("CARGO_PKG_VERSION"), " (linux)")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_version_served() {
        assert_eq!(general_headers()[0].1, Version::CURRENT.to_string());
    }

    #[tokio::test]
    async fn others_cannot_reach_an_engine_without_tls() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("binds");
        assert!(matches!(Listener::tcp(listener), Err(Error::Exposed { .. })));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        assert!(Listener::tcp(listener).is_ok());
    }
}
