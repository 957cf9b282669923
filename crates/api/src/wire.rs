//! A client's connection below HTTP: what hyper reads goes through here, message by message, so that attach and exec can take the socket over.
//!
//! Docker's streams leave HTTP in the middle of a connection, with an `Upgrade` header or without one. hyper knows only the first kind and
//! reads ahead in both. So it is never given a byte beyond the message that it serves, and is given nothing at all after the head and body of
//! a request that may take the connection over, until the handler has decided. What was read ahead goes with the socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::event::{PollFd, PollFlags};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// The largest head of a request.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
const READ_BYTES: usize = 64 * 1024;
/// How often a client that closed its sending half is looked at: is it there still?
const HALF_CLOSED_CHECK: Duration = Duration::from_millis(500);

/// A socket that was accepted.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Socket::Unix($stream) => $call,
            Socket::Tcp($stream) => $call,
        }
    };
}

impl Socket {
    fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        either!(self, stream => stream.try_read_buf(buffer))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_write(bytes))
    }

    fn try_write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(slices))
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(context))
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(context))
    }

    async fn writable(&self) -> io::Result<()> {
        either!(self, stream => stream.ready(Interest::WRITABLE).await.map(drop))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }

    /// Whether the client is gone altogether, as opposed to having closed its sending half. TCP does not tell the two apart.
    fn hung_up(&self) -> bool {
        let Self::Unix(stream) = self else { return true };
        let mut polled = [PollFd::new(stream, PollFlags::empty())];
        match rustix::event::poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
            Err(_) => true,
        }
    }
}

/// Where the next byte for hyper belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To a request's head, which is handed on when it is whole.
    Head,
    /// To a message, of which this much is left; then a head follows.
    Message(u64),
    /// To a request that may take the connection over, of which this much is left; then nothing is handed on.
    LastMessage(u64),
    /// Nothing is handed on until the handler has decided.
    Held,
    /// To something that is not followed: a chunked body, or no HTTP at all. The connection ends with it.
    Open,
}

#[derive(Debug)]
struct Inbound {
    place: Place,
    pending: BytesMut,
    /// Set when hyper waits though bytes may be there.
    waker: Option<Waker>,
    ended: bool,
}

/// What the handler of a request knows of its connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    inbound: Mutex<Inbound>,
    /// Requests whose response is not finished.
    served: AtomicUsize,
}

/// Held from the arrival of a request until its response is written.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.served.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Arc<Self> {
        let inbound = Inbound { place: Place::Head, pending: BytesMut::new(), waker: None, ended: false };
        Arc::new(Self { socket, inbound: Mutex::new(inbound), served: AtomicUsize::new(0) })
    }

    /// A request has arrived.
    pub(crate) fn serving(self: &Arc<Self>) -> Serving {
        self.served.fetch_add(1, Ordering::AcqRel);
        Serving(self.clone())
    }

    /// Whether the client came through the network stack, where web pages can come from, too.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    /// Whether the client sits on the same machine and is root or whom the engine runs as: it may name files of the machine.
    pub(crate) fn is_trusted(&self) -> bool {
        let Socket::Unix(stream) = &self.socket else { return false };
        stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw())
    }

    /// Whether the connection must end after this response, because the message's end is not known here.
    pub(crate) fn is_last(&self) -> bool {
        self.inbound().place == Place::Open
    }

    /// The request does not take the connection over: the next one may come.
    pub(crate) fn release(&self) {
        let mut inbound = self.inbound();
        inbound.place = match inbound.place {
            Place::Held => Place::Head,
            // The body is on its way still.
            Place::LastMessage(left) => Place::Message(left),
            other => other,
        };
        if let Some(waker) = inbound.waker.take() {
            waker.wake();
        }
    }

    /// Writes around hyper, which must have nothing to write.
    pub(crate) async fn write_raw(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the connection over: a Unix socket, and what was read beyond the request. hyper gets nothing more of it.
    pub(crate) fn take_over(&self) -> io::Result<(OwnedFd, Bytes)> {
        let mut inbound = self.inbound();
        inbound.place = Place::Held;
        let socket = rustix::io::fcntl_dupfd_cloexec(self.socket.fd(), 3)?;
        let socket = match self.socket {
            Socket::Unix(_) => socket,
            Socket::Tcp(_) => proxied(socket)?,
        };
        Ok((socket, inbound.pending.split().freeze()))
    }

    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A Unix socket that stands for a TCP connection: streams end with the engine there.
fn proxied(socket: OwnedFd) -> io::Result<OwnedFd> {
    let mut outer = TcpStream::from_std(std::net::TcpStream::from(socket))?;
    let (inner, handed) = std::os::unix::net::UnixStream::pair()?;
    inner.set_nonblocking(true)?;
    let mut inner = UnixStream::from_std(inner)?;
    tokio::spawn(async move {
        if let Err(error) = tokio::io::copy_bidirectional(&mut outer, &mut inner).await {
            tracing::debug!(%error, "a proxied stream ended");
        }
    });
    Ok(handed.into())
}

/// hyper's end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    connection: Arc<Connection>,
    check: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Wire {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, check: None }
    }
}

impl Inbound {
    /// How many of the pending bytes may be handed on.
    fn allowed(&mut self) -> usize {
        if self.place == Place::Head && !self.pending.is_empty() {
            self.place = match look_at_head(&self.pending) {
                Look::Partial if self.pending.len() < HEAD_BYTES_MAX => Place::Head,
                Look::Partial | Look::Chunked | Look::NotHttp => Place::Open,
                Look::Sized { bytes, takes_over: false } => Place::Message(bytes),
                Look::Sized { bytes, takes_over: true } => Place::LastMessage(bytes),
            };
        }
        match self.place {
            Place::Head | Place::Held => 0,
            Place::Message(left) | Place::LastMessage(left) => usize::try_from(left).unwrap_or(usize::MAX).min(self.pending.len()),
            Place::Open => self.pending.len(),
        }
    }

    fn hand_on(&mut self, count: usize) {
        self.place = match self.place {
            Place::Message(left) if left == count as u64 => Place::Head,
            Place::Message(left) => Place::Message(left - count as u64),
            Place::LastMessage(left) if left == count as u64 => Place::Held,
            Place::LastMessage(left) => Place::LastMessage(left - count as u64),
            other => other,
        };
        self.pending.advance(count);
    }
}

enum Look {
    Partial,
    NotHttp,
    Chunked,
    /// A whole message of head and body has this many bytes.
    Sized {
        bytes: u64,
        takes_over: bool,
    },
}

fn look_at_head(bytes: &[u8]) -> Look {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head as u64,
        Ok(httparse::Status::Partial) => return Look::Partial,
        Err(_) => return Look::NotHttp,
    };
    let takes_over = request.method.zip(request.path).is_some_and(|(method, path)| may_take_over(method, path));
    let mut body = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Look::Chunked;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            match std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse::<u64>().ok()) {
                Some(length) => body = length,
                None => return Look::NotHttp,
            }
        }
    }
    Look::Sized { bytes: head.saturating_add(body), takes_over }
}

/// `POST /containers/NAME/attach`, `GET /containers/NAME/attach/ws` and `POST /exec/ID/start`, with or without a version before them.
fn may_take_over(method: &str, target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut last = path.rsplit('/').filter(|segment| !segment.is_empty());
    match (method, last.next(), last.next(), last.next()) {
        ("POST", Some("attach"), Some(_), Some(noun)) => noun == "containers",
        ("POST", Some("start"), Some(_), Some(noun)) => noun == "exec",
        ("GET", Some("ws"), Some("attach"), Some(_)) => last.next() == Some("containers"),
        _ => false,
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.clone();
        let mut inbound = connection.inbound();
        loop {
            let count = inbound.allowed().min(buffer.remaining());
            if count > 0 {
                buffer.put_slice(&inbound.pending[..count]);
                inbound.hand_on(count);
                return Poll::Ready(Ok(()));
            }
            if inbound.place == Place::Held {
                inbound.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            if inbound.ended {
                drop(inbound);
                return self.poll_hang_up(context);
            }
            inbound.pending.reserve(READ_BYTES);
            match connection.socket.try_read_buf(&mut inbound.pending) {
                Ok(0) => inbound.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(connection.socket.poll_read_ready(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Wire {
    /// The end of the input counts as the end of the connection, and drops the request being served, only when the client is gone: some
    /// close their sending half and still wait for the answer.
    fn poll_hang_up(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.connection.served.load(Ordering::Acquire) == 0 || self.connection.socket.hung_up() {
                return Poll::Ready(Ok(()));
            }
            let check = self.check.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED_CHECK)));
            ready!(check.as_mut().poll(context));
            self.check = None;
        }
    }

    fn poll_write_with(&self, context: &mut Context<'_>, write: impl Fn(&Socket) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            match write(&self.connection.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.connection.socket.poll_write_ready(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write_vectored(slices))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket taken over belongs to another process by now; hyper is dropped without this call then.
        let result = rustix::net::shutdown(self.connection.socket.fd(), rustix::net::Shutdown::Write);
        Poll::Ready(result.map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_may_take_over_are_known() {
        for yes in
            ["/v1.51/containers/a/attach?stream=1", "/containers/a/attach", "/exec/1/start", "/v1.24/exec/1/start/", "//exec/1/start"]
        {
            assert!(may_take_over("POST", yes), "{yes}");
            assert!(!may_take_over("GET", yes), "{yes}");
        }
        assert!(may_take_over("GET", "/v1.51/containers/a/attach/ws?stream=1") && !may_take_over("GET", "/attach/ws"));
        for no in
            ["/containers/a/start", "/containers/a/attach/ws", "/exec/1/json", "/attach", "/images/exec/x/start/json", "/containers/attach"]
        {
            assert!(!may_take_over("POST", no), "{no}");
        }
    }

    #[test]
    fn only_whole_messages_are_handed_on() {
        let mut inbound = Inbound { place: Place::Head, pending: BytesMut::new(), waker: None, ended: false };
        inbound.pending.extend_from_slice(b"POST /exec/1/start HTTP/1.1\r\nContent-Le");
        assert_eq!(inbound.allowed(), 0);
        inbound.pending.extend_from_slice(b"ngth: 2\r\n\r\n{");
        let count = inbound.pending.len();
        assert_eq!(inbound.allowed(), count);
        inbound.hand_on(count);
        assert_eq!(inbound.place, Place::LastMessage(1));
        inbound.pending.extend_from_slice(b"}typed by the user");
        assert_eq!(inbound.allowed(), 1);
        inbound.hand_on(1);
        assert_eq!((inbound.place, inbound.allowed()), (Place::Held, 0));
        assert_eq!(&inbound.pending[..], b"typed by the user");

        let two = b"GET /_ping HTTP/1.1\r\n\r\nGET /info HTTP/1.1\r\n\r\n";
        let mut inbound = Inbound { place: Place::Head, pending: BytesMut::from(&two[..]), waker: None, ended: false };
        assert_eq!(inbound.allowed(), 23);
        inbound.hand_on(23);
        assert_eq!(inbound.allowed(), two.len() - 23);
    }

    #[test]
    fn bodies_without_a_known_length_and_other_protocols_pass() {
        for text in [&b"POST /images/load HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"[..], b"\x16\x03\x01 no http"] {
            let mut inbound = Inbound { place: Place::Head, pending: BytesMut::from(text), waker: None, ended: false };
            assert_eq!((inbound.allowed(), inbound.place), (text.len(), Place::Open));
        }
        let endless = vec![b'a'; HEAD_BYTES_MAX];
        let mut inbound = Inbound { place: Place::Head, pending: BytesMut::from(&endless[..]), waker: None, ended: false };
        assert_eq!(inbound.allowed(), HEAD_BYTES_MAX);
    }
}
