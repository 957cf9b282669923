//! Accepting connections and serving them, one request after the other, until they end, are taken over or the server stops.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Uri};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::error::Failure;
use crate::http::{Reply, TakenOver};
use crate::wire::{self, Connection, Serving, Socket, Wire};
use crate::{Error, http, route};

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
                    serve_one(socket, stopping, |connection, request| route::answer(engine.clone(), connection, request)).await;
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

/// Serves one connection until it ends, is taken over, or the server stops. An answer of nothing means that it was taken over.
async fn serve_one<A, F>(socket: Socket, mut stopping: watch::Receiver<bool>, answer: A)
where
    A: Fn(Arc<Connection>, Request<Incoming>) -> F,
    F: Future<Output = Result<Option<Reply>, Failure>>,
{
    let connection = Connection::new(socket);
    let wire = Wire::new(connection.clone());
    let service = service_fn(|request: Request<Incoming>| {
        // Counted when hyper hands the request over, not when its future first runs: hyper reads on in between.
        let serving = connection.serving();
        let about = (request.method().clone(), request.uri().clone());
        finish(connection.clone(), serving, about, answer(connection.clone(), request))
    });
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_buf_size(wire::HEAD_BYTES_MAX * 2);
    let served = builder.serve_connection(wire, service);
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

/// Waits for the answer and completes it. The error ends the connection without one: its socket has gone elsewhere.
async fn finish(
    connection: Arc<Connection>,
    serving: Serving,
    (method, target): (Method, Uri),
    answer: impl Future<Output = Result<Option<Reply>, Failure>>,
) -> Result<Reply, TakenOver> {
    let began = Instant::now();
    let mut reply = match answer.await {
        Ok(Some(reply)) => reply,
        Ok(None) => return Err(TakenOver),
        Err(failure) => {
            let status = failure.status.as_u16();
            tracing::debug!(%method, path = target.path(), status, message = failure.message, "refused");
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
    use hyper::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::hijack;
    use crate::query::Query;
    use crate::version::Version;

    /// Answers like a small engine: `/ping`, `/slow` (a stream until the client goes), `/upload` (counts), and what may take over.
    async fn answer(connection: Arc<Connection>, request: Request<Incoming>, gone: mpsc::Sender<()>) -> Result<Option<Reply>, Failure> {
        let path = request.uri().path().to_owned();
        let (parts, body) = request.into_parts();
        let request = http::Request {
            method: parts.method,
            version: Version::CURRENT,
            query: Query::default(),
            headers: parts.headers,
            body: http::Inflow::new(body),
            connection,
        };
        match path.as_str() {
            "/ping" => Ok(Some(http::text(StatusCode::OK, "pong"))),
            "/slow" => {
                let (sender, lines) = mpsc::channel::<()>(1);
                tokio::spawn(async move {
                    sender.closed().await;
                    let _ = gone.send(()).await;
                });
                Ok(Some(http::streamed(http::JSON, http::received(lines, |()| Ok(bytes::Bytes::new())))))
            }
            "/upload" => {
                let mut pieces = request.upload();
                let mut count = 0;
                while let Some(piece) = pieces.recv().await {
                    count += piece.map_or(0, |piece| piece.len());
                }
                Ok(Some(http::text(StatusCode::OK, format!("{count} bytes"))))
            }
            "/refused" | "/containers/missing/attach" => Err(Failure::new(types::ErrorKind::NotFound, "No such container: missing")),
            _ => {
                let hijack = hijack::Hijack::of(&request);
                let asked = request.bytes().await?;
                let client = hijack.take(false).await?;
                let socket = std::os::unix::net::UnixStream::from(client.socket);
                socket.set_nonblocking(true).expect("a socket");
                let mut socket = UnixStream::from_std(socket).expect("a socket");
                tokio::spawn(async move {
                    let line = format!("<{}><{}>", String::from_utf8_lossy(&asked), String::from_utf8_lossy(&client.read_ahead));
                    socket.write_all(line.as_bytes()).await.expect("writes");
                    let (mut from, mut to) = socket.split();
                    tokio::io::copy(&mut from, &mut to).await.expect("copies");
                    to.write_all(b"!").await.expect("writes");
                });
                Ok(None)
            }
        }
    }

    struct Client {
        socket: UnixStream,
        gone: mpsc::Receiver<()>,
        _stop: watch::Sender<bool>,
    }

    impl Client {
        fn connect() -> Self {
            let (socket, served) = UnixStream::pair().expect("a pair");
            let (sender, gone) = mpsc::channel(1);
            let (stop, stopping) = watch::channel(false);
            let serve = serve_one(Socket::Unix(served), stopping, move |connection, request| answer(connection, request, sender.clone()));
            tokio::spawn(serve);
            Self { socket, gone, _stop: stop }
        }

        async fn send(&mut self, text: &str) {
            self.socket.write_all(text.as_bytes()).await.expect("sends");
        }

        async fn read_until(&mut self, end: &str) -> String {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.ends_with(end) {
                let count =
                    tokio::time::timeout(Duration::from_secs(5), self.socket.read(&mut buffer)).await.expect("in time").expect("reads");
                assert!(count > 0, "ended after {text:?}");
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            text
        }

        async fn expect_end(&mut self) {
            let mut rest = Vec::new();
            tokio::time::timeout(Duration::from_secs(5), self.socket.read_to_end(&mut rest)).await.expect("in time").expect("reads");
            assert_eq!(rest, b"");
        }
    }

    #[tokio::test]
    async fn requests_follow_each_other_and_headers_are_there() {
        let mut client = Client::connect();
        for _ in 0..2 {
            client.send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let text = client.read_until("pong").await;
            assert!(
                text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Api-Version: 1.51\r\n") && text.contains("Ostype: linux\r\n"),
                "{text}"
            );
        }
        client.send("GET /ping HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n").await;
        let both = client.read_until("pong").await;
        if both.matches("pong").count() == 1 {
            client.read_until("pong").await;
        }
    }

    #[tokio::test]
    async fn a_connection_is_taken_over_with_what_was_read_ahead() {
        for (upgrade, status) in [("", "200 OK"), ("Connection: Upgrade\r\nUpgrade: tcp\r\n", "101 UPGRADED")] {
            let mut client = Client::connect();
            // The connection has been in use before, as kept ones have.
            client.send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
            client.read_until("pong").await;
            client
                .send(&format!(
                    "POST /exec/1/start HTTP/1.1\r\n{upgrade}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}typed"
                ))
                .await;
            let text = client.read_until("<{}><typed>").await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{text}");
            client.send("more").await;
            client.read_until("more").await;
            // The end of what the client sends arrives as such, and the other half stays open.
            client.socket.shutdown().await.expect("half-closes");
            client.read_until("!").await;
            client.expect_end().await;
        }
    }

    #[tokio::test]
    async fn a_refused_takeover_leaves_the_connection_usable() {
        let mut client = Client::connect();
        client.send("POST /containers/missing/attach HTTP/1.1\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n").await;
        let text = client.read_until("}\n").await;
        assert!(
            text.starts_with("HTTP/1.1 404 Not Found\r\n") && text.ends_with("{\"message\":\"No such container: missing\"}\n"),
            "{text}"
        );
        client.send("GET /ping HTTP/1.1\r\n\r\n").await;
        client.read_until("pong").await;
        // The same while the body of the request is on its way.
        client.send("POST /containers/missing/attach HTTP/1.1\r\nContent-Length: 2\r\n\r\n").await;
        client.read_until("}\n").await;
        client.send("{}GET /ping HTTP/1.1\r\n\r\n").await;
        client.read_until("pong").await;
    }

    #[tokio::test]
    async fn a_refused_upload_is_taken_in_so_that_the_answer_is_read() {
        let mut client = Client::connect();
        const LENGTH: usize = 8 << 20;
        client.send(&format!("POST /refused HTTP/1.1\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        client.socket.write_all(&vec![0; LENGTH]).await.expect("the whole body is taken");
        let text = client.read_until("}\n").await;
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        client.send("GET /ping HTTP/1.1\r\n\r\n").await;
        client.read_until("pong").await;
    }

    #[tokio::test]
    async fn so_is_a_refused_upload_of_unknown_length() {
        let mut client = Client::connect();
        client.send("PUT /refused HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..64 {
            client.send("20000\r\n").await;
            client.socket.write_all(&[0; 0x20000]).await.expect("the whole body is taken");
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        let text = client.read_until("}\n").await;
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_client_but_not_with_half_of_it() {
        let mut client = Client::connect();
        client.send("GET /slow HTTP/1.1\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        client.socket.shutdown().await.expect("half-closes");
        tokio::time::timeout(Duration::from_millis(100), client.gone.recv()).await.expect_err("still served");
        let Client { socket, mut gone, .. } = client;
        drop(socket);
        tokio::time::timeout(Duration::from_secs(5), gone.recv()).await.expect("noticed").expect("noticed");
    }

    #[tokio::test]
    async fn a_half_closed_client_gets_its_answer_and_then_the_end() {
        let mut client = Client::connect();
        client.send("GET /ping HTTP/1.1\r\n\r\n").await;
        client.socket.shutdown().await.expect("half-closes");
        client.read_until("pong").await;
        client.expect_end().await;
    }

    #[tokio::test]
    async fn a_chunked_upload_ends_the_connection() {
        let mut client = Client::connect();
        client.send("POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
        let text = client.read_until("5 bytes").await;
        assert!(text.contains("Connection: close\r\n"), "{text}");
        client.expect_end().await;
    }

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
