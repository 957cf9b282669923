//! Connections: accepted within bounds, served request by request, ended gracefully.
//!
//! hyper reads requests and writes answers. Files alone are sent around it on plain connections: the answer's head, then `sendfile`, so that the
//! bytes go from the page cache to the socket without being copied here. hyper then goes on with what it had read ahead.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::body::Outflow;
use super::reply::{Payload, Reply};
use super::{Answered, App, IDLE_MAX, Metrics, Options, Surroundings};
use crate::store::Store;
use crate::tls::Tls;
use crate::{Error, Result};

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// How long a client may take to send a request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// What hyper reads and writes at a time, for each connection.
const BUFFER_BYTES_MAX: usize = 32 * 1024;
/// What one call sends of a file.
const SEND_BYTES: usize = 1024 * 1024;
/// What one connection sends before the thread is free for another.
const TURN_BYTES: u64 = 16 * 1024 * 1024;
/// Smaller parts of files are sent through hyper.
const SENDFILE_BYTES_MIN: u64 = 16 * 1024;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves a store until `shutdown` completes; transfers under way then get the grace of the options to end.
pub async fn serve(
    store: Arc<Store>,
    options: Options,
    surroundings: Surroundings,
    listener: std::net::TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let address = listener.local_addr().map_err(|source| Error::Listen { address: SocketAddr::from(([0, 0, 0, 0], 0)), source })?;
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    let grace = options.grace;
    let app = Arc::new(App::new(store, options, surroundings.access_log)?);
    let (stop, stopping) = watch::channel(false);
    tokio::select! {
        () = accept_all(app.clone(), listener, surroundings.tls, stopping) => {}
        () = collect_all(app.clone()) => {}
        () = shutdown => {}
    }
    // Connections hold a receiver each until they end.
    let _ = stop.send(true);
    if tokio::time::timeout(grace, stop.closed()).await.is_err() {
        tracing::warn!("transfers were still under way when the registry stopped");
    }
    Ok(())
}

/// Collects now and then, beside everything else.
async fn collect_all(app: Arc<App>) {
    let Some((pause, collection)) = app.options.collection.clone() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(pause).await;
        let (store, collection) = (app.store.clone(), collection.clone());
        match tokio::task::spawn_blocking(move || store.collect(&collection)).await {
            Ok(Ok(collected)) => {
                app.metrics.collected_files.fetch_add(collected.files, Ordering::Relaxed);
                app.metrics.collected_bytes.fetch_add(collected.bytes, Ordering::Relaxed);
                tracing::info!(files = collected.files, bytes = collected.bytes, uploads = collected.uploads, "collected");
            }
            Ok(Err(error)) => tracing::error!(error = types::error::chain(&error), "a collection failed; it is tried again later"),
            Err(error) => tracing::error!(%error, "a collection's task failed"),
        }
    }
}

async fn accept_all(app: Arc<App>, listener: TcpListener, tls: Option<Tls>, stopping: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (app, stopping, tls) = (app.clone(), stopping.clone(), tls.as_ref().map(Tls::acceptor));
                app.metrics.connected();
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let ended = match tls {
                        Some(tls) => converse_secretly(app, stream, &tls, peer, stopping).await,
                        None => converse(app, stream, peer, stopping).await,
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a connection broke");
                    }
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

/// A file to be sent around hyper.
struct Direct {
    head: Vec<u8>,
    file: File,
    offset: u64,
    len: u64,
    keep: bool,
}

/// Answers one request, tells the log and the metrics, and gives the response or the file to be sent around hyper.
async fn respond(app: &App, request: Request<Incoming>, peer: SocketAddr, secure: bool) -> std::result::Result<Response<Outflow>, Direct> {
    let begun = Instant::now();
    let under_way = app.metrics.begin();
    let (head, body) = request.into_parts();
    let may_divert = !secure && head.version == Version::HTTP_11 && hyper::body::Body::is_end_stream(&body);
    let keep = !wants_close(&head.headers);
    let Answered { reply, route, user } = app.answer(&head, body, peer.ip().to_canonical(), secure).await;
    let took = begun.elapsed();
    drop(under_way);
    app.metrics.answered(&head.method, route, reply.status, took);
    if let Some(log) = &app.access_log {
        log.write(peer, user.as_deref(), &head, reply.status, reply.len(), took);
    }
    match reply {
        Reply { status, headers, payload: Payload::File { file, offset, len } } if may_divert && len >= SENDFILE_BYTES_MIN => {
            Err(Direct { head: head_text(status, &headers, keep), file, offset, len, keep })
        }
        Reply { status, headers, payload } => {
            let mut response = Response::new(Outflow::new(payload, app.metrics.clone()));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// Serves one connection under TLS to its end.
async fn converse_secretly(
    app: Arc<App>,
    stream: TcpStream,
    tls: &TlsAcceptor,
    peer: SocketAddr,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let stream = tokio::time::timeout(HEAD_TIME_MAX, tls.accept(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let service = service_fn(|request: Request<Incoming>| {
        let app = &app;
        // Nothing is sent around hyper here.
        async move { respond(app, request, peer, true).await.map_err(|_| Diverted) }
    });
    let mut connection = pin!(builder().serve_connection(TokioIo::new(Unhurried::new(stream)), service));
    let mut stop = pin!(stopped(&mut stopping));
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = stop.as_mut(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The error by which hyper lets go of a connection.
#[derive(Debug, thiserror::Error)]
#[error("the answer is sent around the protocol's own code")]
struct Diverted;

/// Serves one plain connection to its end.
async fn converse(app: Arc<App>, stream: TcpStream, peer: SocketAddr, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
    let mut stream = Ahead { ahead: Bytes::new(), stream };
    loop {
        let diverted = Mutex::new(None);
        let service = service_fn(|request: Request<Incoming>| {
            let (app, diverted) = (&app, &diverted);
            Box::pin(async move {
                respond(app, request, peer, false).await.map_err(|direct| {
                    *diverted.lock().unwrap_or_else(PoisonError::into_inner) = Some(direct);
                    Diverted
                })
            })
        });
        let mut connection = builder().serve_connection(TokioIo::new(Unhurried::new(stream)), service);
        let ended = {
            let mut told = false;
            let mut stop = pin!(stopped(&mut stopping));
            std::future::poll_fn(|context| {
                if !told && stop.as_mut().poll(context).is_ready() {
                    told = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                connection.poll_without_shutdown(context)
            })
            .await
        };
        let parts = connection.into_parts();
        let (io, ahead) = (parts.io, parts.read_buf);
        stream = io.into_inner().stream;
        let direct = diverted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(direct) = direct else {
            ended.map_err(io::Error::other)?;
            return stream.shutdown().await;
        };
        stream.ahead = ahead;
        let keep = direct.keep;
        stream.stream = send(stream.stream, direct, &app.metrics).await?;
        if !keep || *stopping.borrow() {
            return stream.shutdown().await;
        }
    }
}

/// Completes when the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error says that nobody is left who could tell: that is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await.map(drop);
}

fn wants_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// The head of an answer as it goes over the wire.
fn head_text(status: StatusCode, headers: &HeaderMap, keep: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    if !keep {
        text.extend_from_slice(b"connection: close\r\n");
    }
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    text.extend_from_slice(format!("date: {}\r\n\r\n", date.unwrap_or_default()).as_bytes());
    text
}

/// Sends head and file, and gives the connection back. An error ends it, by which the client sees that the answer is not whole.
async fn send(mut stream: TcpStream, mut direct: Direct, metrics: &Metrics) -> io::Result<TcpStream> {
    let mut head = Bytes::from(std::mem::take(&mut direct.head));
    while head.has_remaining() {
        within_idle(stream.writable()).await?;
        match stream.try_write(&head) {
            Ok(count) => head.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let file = Arc::new(direct.file);
    let end = direct.offset + direct.len;
    let mut offset = direct.offset;
    while offset < end {
        within_idle(stream.writable()).await?;
        let (file, from) = (Arc::clone(&file), offset);
        // The file may have to be read from the disk.
        let sending = tokio::task::spawn_blocking(move || {
            let sent = send_some(&stream, &file, from, end);
            (stream, sent)
        });
        let (back, sent) = sending.await.map_err(io::Error::other)?;
        stream = back;
        let sent = sent?;
        offset += sent;
        metrics.sent(sent);
    }
    Ok(stream)
}

/// Sends until the socket is full, the file is sent, or so much has gone that others should have their turn.
fn send_some(stream: &TcpStream, file: &File, from: u64, end: u64) -> io::Result<u64> {
    let mut offset = from;
    while offset < end && offset - from < TURN_BYTES {
        let count = usize::try_from(end - offset).unwrap_or(SEND_BYTES).min(SEND_BYTES);
        // Through the runtime, which must have looked at the socket before the call that finds it full: one that looked later could miss that
        // it was emptied in between.
        let sent = stream.try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, file, Some(&mut offset), count)?));
        match sent {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(offset - from)
}

async fn within_idle(ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(IDLE_MAX, ready).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection of which some was read already.
struct Ahead {
    ahead: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Ahead {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection on which a client that takes nothing for a while is an error. (That one sends nothing is seen where it is waited for.)
struct Unhurried<S> {
    stream: S,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S> Unhurried<S> {
    fn new(stream: S) -> Self {
        Self { stream, deadline: None }
    }

    fn watched<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE_MAX)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unhurried<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unhurried<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, polled)
    }
}
