//! One proxied connection: bytes both ways through bounded buffers, each direction closed when its source is.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

/// Of one direction of one connection.
const BUFFER_LEN: usize = 64 * 1024;
/// Turns of one connection before others get theirs.
const ROUNDS_MAX: usize = 16;

/// What became of a connection when it was moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits for one of its sockets.
    Waits,
    /// It could go on at once, but had its turn.
    Again,
    /// It has ended.
    Ended,
}

/// The family of sockets that reach an address.
pub fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A connection from a client to the container.
#[derive(Debug)]
pub struct Flow {
    pub client: OwnedFd,
    pub upstream: OwnedFd,
    connecting: bool,
    to_upstream: Direction,
    to_client: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    closed: bool,
}

impl Flow {
    /// Takes an accepted connection and starts one to the target.
    pub fn open(client: OwnedFd, target: SocketAddr) -> Result<Self, Errno> {
        let upstream = rustix::net::socket_with(family(target), SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        for socket in [&client, &upstream] {
            sockopt::set_tcp_nodelay(socket, true)?;
            sockopt::set_socket_keepalive(socket, true)?;
        }
        match rustix::net::connect(&upstream, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => (),
            Err(errno) => {
                reset(&client);
                return Err(errno);
            }
        }
        Ok(Self { client, upstream, connecting: true, to_upstream: Direction::default(), to_client: Direction::default() })
    }

    /// Moves bytes as far as the sockets allow. To be called at each edge of readiness of either.
    pub fn advance(&mut self) -> Progress {
        if self.connecting {
            match connected(&self.upstream) {
                Ok(true) => self.connecting = false,
                Ok(false) => return Progress::Waits,
                Err(_) => return self.abort(),
            }
        }
        for _ in 0..ROUNDS_MAX {
            let up = self.to_upstream.advance(&self.client, &self.upstream);
            let down = self.to_client.advance(&self.upstream, &self.client);
            match (up, down) {
                (Ok(up), Ok(down)) if self.to_upstream.closed && self.to_client.closed => {
                    let _ = (up, down);
                    return Progress::Ended;
                }
                (Ok(false), Ok(false)) => return Progress::Waits,
                (Ok(_), Ok(_)) => (),
                _ => return self.abort(),
            }
        }
        Progress::Again
    }

    /// Both ends learn that this was no orderly end.
    fn abort(&self) -> Progress {
        reset(&self.client);
        reset(&self.upstream);
        Progress::Ended
    }
}

impl Direction {
    /// One read and one write; tells whether something moved.
    fn advance(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Errno> {
        let mut moved = false;
        if self.start == self.buffer.len() && !self.ended {
            self.buffer.resize(BUFFER_LEN, 0);
            self.start = 0;
            let outcome = ready(rustix::net::recv(from, &mut self.buffer[..], RecvFlags::empty()).map(|(len, _)| len));
            self.buffer.truncate(outcome.ok().flatten().unwrap_or(0));
            match outcome? {
                Some(0) => (self.ended, moved) = (true, true),
                Some(_) => moved = true,
                // An idle connection costs no memory.
                None => self.buffer = Vec::new(),
            }
        }
        if self.start < self.buffer.len()
            && let Some(len) = ready(rustix::net::send(to, &self.buffer[self.start..], SendFlags::NOSIGNAL))?
        {
            self.start += len;
            moved = true;
        }
        if self.ended && !self.closed && self.start == self.buffer.len() {
            self.closed = true;
            match rustix::net::shutdown(to, Shutdown::Write) {
                Err(Errno::NOTCONN) | Ok(()) => (),
                Err(errno) => return Err(errno),
            }
        }
        Ok(moved)
    }
}

/// `None`: the socket is not ready.
fn ready(outcome: Result<usize, Errno>) -> Result<Option<usize>, Errno> {
    match outcome {
        Ok(len) => Ok(Some(len)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn connected(socket: &OwnedFd) -> Result<bool, Errno> {
    sockopt::socket_error(socket)??;
    match rustix::net::getpeername(socket) {
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Closing it will send a reset instead of an orderly end.
fn reset(socket: impl AsFd) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
