//! One attached client: its socket, the output that it has not taken yet, and what it types.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use monitor::{Attach, DetachWatch};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::log::Stream;
use super::poll::Interest;

/// Output that a client may leave waiting before its process's output is no longer read.
const QUEUE_BYTES_HIGH: usize = 1024 * 1024;
/// A client that takes nothing for so long while its queue is full, and so holds the process up, is dropped.
const STALL_MS_MAX: u64 = 10_000;
/// A client that takes nothing of the last output for so long is dropped; it holds nobody up.
const FLUSH_MS_MAX: u64 = 600_000;
/// One read of what a client types.
const READ_BYTES: usize = 32 * 1024;
/// Length of the header that names the stream of a piece of output.
const HEADER_LEN: usize = 8;

/// What a client's turn of reading brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the process, maybe none.
    Bytes(Vec<u8>),
    /// Bytes for the process, and then the detach keys.
    Detach(Vec<u8>),
    /// The client has nothing more to say.
    End,
}

/// An attached client.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    wants: [bool; 2],
    multiplexed: bool,
    /// It feeds standard input, and has not ended.
    feeds: bool,
    /// Its direction towards us is open: read it, if only to notice its end.
    readable: bool,
    keys: DetachWatch,
    queue: Vec<u8>,
    queue_start: usize,
    progress_at: Instant,
    closing: bool,
    registered: Option<Interest>,
}

impl Client {
    /// Takes a client over. Its first input is in `attach.read_ahead`: see [`Self::filter`].
    pub fn new(socket: OwnedFd, attach: &Attach, tty: bool) -> Self {
        Self {
            socket,
            wants: if tty { [attach.stdout || attach.stderr, false] } else { [attach.stdout, attach.stderr] },
            multiplexed: attach.multiplexed,
            feeds: attach.stdin,
            readable: true,
            keys: DetachWatch::new(if tty && attach.stdin { attach.detach_keys.clone() } else { Vec::new() }),
            queue: Vec::new(),
            queue_start: 0,
            progress_at: Instant::now(),
            closing: false,
            registered: None,
        }
    }

    /// Whether its bytes go to the process.
    pub fn feeds(&self) -> bool {
        self.feeds
    }

    /// Sends a piece of output, as much as the socket takes now; the rest waits. An error means that the client is gone.
    pub fn output(&mut self, stream: Stream, piece: &[u8]) -> io::Result<()> {
        if !self.wants[stream as usize] || self.closing || piece.is_empty() {
            return Ok(());
        }
        let header = header(stream, piece.len());
        let header = if self.multiplexed { &header[..] } else { &[] };
        let sent = if self.queued() == 0 {
            self.progress_at = Instant::now();
            send(&self.socket, &[IoSlice::new(header), IoSlice::new(piece)])?
        } else {
            0
        };
        let total = header.len() + piece.len();
        if sent < total {
            self.queue.reserve(total - sent);
            self.queue.extend_from_slice(&header[sent.min(header.len())..]);
            self.queue.extend_from_slice(&piece[sent.saturating_sub(header.len())..]);
        }
        Ok(())
    }

    /// Sends what waits. An error means that the client is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.queued() > 0 {
            match send(&self.socket, &[IoSlice::new(&self.queue[self.queue_start..])])? {
                0 => break,
                count => {
                    self.queue_start += count;
                    self.progress_at = Instant::now();
                }
            }
        }
        if self.queued() == 0 {
            self.queue = Vec::new();
            self.queue_start = 0;
        } else if self.queue_start > self.queue.len() / 2 {
            self.queue.drain(..self.queue_start);
            self.queue_start = 0;
        }
        Ok(())
    }

    /// Reads once. An error means that the client is gone.
    pub fn read(&mut self) -> io::Result<Typed> {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        match rustix::net::recv(&self.socket, rustix::buffer::spare_capacity(&mut buffer), RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.readable = false;
                Ok(Typed::End)
            }
            Ok(_) => Ok(self.filter(&buffer)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Typed::Bytes(Vec::new())),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What of these typed bytes the process gets.
    pub fn filter(&mut self, typed: &[u8]) -> Typed {
        let mut passed = Vec::new();
        if !self.feeds {
            return Typed::Bytes(passed);
        }
        if self.keys.filter(typed, &mut passed) { Typed::Detach(passed) } else { Typed::Bytes(passed) }
    }

    /// Its input has ended: nothing of it feeds the process any more.
    pub fn stop_feeding(&mut self) {
        self.feeds = false;
    }

    /// No more output will come: it gets what waits, then the end.
    pub fn close_when_flushed(&mut self) {
        self.closing = true;
        self.progress_at = Instant::now();
    }

    /// Whether it has got everything that it will get.
    pub fn finished(&self) -> bool {
        self.closing && self.queued() == 0
    }

    /// Says good-bye to the peer, so that it sees the end of the stream even if another copy of the socket is open.
    pub fn shut(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Whether so much waits that no more output may be read for it.
    pub fn is_full(&self) -> bool {
        self.queued() >= QUEUE_BYTES_HIGH
    }

    /// When it is to be dropped if it takes nothing until then.
    pub fn drop_at(&self) -> Option<Instant> {
        let patience_ms = if self.closing { FLUSH_MS_MAX } else { STALL_MS_MAX };
        (self.is_full() || (self.closing && self.queued() > 0)).then(|| self.progress_at + Duration::from_millis(patience_ms))
    }

    /// What to wait for. `stdin_full`: the process does not take its input for now.
    pub fn interest(&self, stdin_full: bool) -> Interest {
        Interest { read: self.readable && !self.closing && !(self.feeds && stdin_full), write: self.queued() > 0, priority: false }
    }

    /// Whether its direction towards us is open.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// The interest that epoll knows, none while it is not in the set; to be changed only when it differs.
    pub fn registered(&mut self) -> &mut Option<Interest> {
        &mut self.registered
    }

    fn queued(&self) -> usize {
        self.queue.len() - self.queue_start
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How many bytes the socket takes now.
fn send(socket: &OwnedFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut none: [MaybeUninit<u8>; 0] = [];
    let mut control = SendAncillaryBuffer::new(&mut none);
    match rustix::net::sendmsg(socket, parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

fn header(stream: Stream, length: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = stream as u8 + 1;
    header[4..].copy_from_slice(&(length as u32).to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn attached(attach: Attach, tty: bool) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        (Client::new(ours.into(), &attach, tty), theirs)
    }

    #[test]
    fn pieces_are_framed_and_filtered_by_stream() {
        let (mut client, mut peer) = attached(Attach { stdout: true, multiplexed: true, ..Attach::default() }, false);
        client.output(Stream::Stdout, b"out").expect("sent");
        client.output(Stream::Stderr, b"err").expect("not wanted");
        client.close_when_flushed();
        assert!(client.finished());
        client.shut();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).expect("read");
        assert_eq!(got, b"\x01\0\0\0\0\0\0\x03out");
    }

    #[test]
    fn a_slow_reader_gets_everything_in_order() {
        let (mut client, mut peer) = attached(Attach { stdout: true, ..Attach::default() }, false);
        let piece: Vec<u8> = (0..65536u32).map(|index| (index % 253) as u8).collect();
        let mut sent = Vec::new();
        while !client.is_full() {
            client.output(Stream::Stdout, &piece).expect("queued");
            sent.extend_from_slice(&piece);
        }
        assert!(client.drop_at().is_some());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).map(|_| got)
        });
        client.close_when_flushed();
        while !client.finished() {
            client.flush().expect("the peer reads");
            std::thread::yield_now();
        }
        client.shut();
        assert!(reader.join().expect("no panic").expect("read") == sent);
    }

    #[test]
    fn input_ends_and_detach_keys_are_seen() {
        let attach = Attach { stdin: true, stdout: true, detach_keys: vec![16, 17], ..Attach::default() };
        let (mut client, mut peer) = attached(attach, true);
        peer.write_all(b"ab\x10").expect("typed");
        assert_eq!(client.read().expect("read"), Typed::Bytes(b"ab".to_vec()));
        peer.write_all(b"\x11").expect("typed");
        assert_eq!(client.read().expect("read"), Typed::Detach(Vec::new()));
        peer.shutdown(std::net::Shutdown::Write).expect("half closed");
        assert_eq!(client.read().expect("read"), Typed::End);
        assert!(!client.interest(false).read);
        drop(peer);
        assert!(client.output(Stream::Stdout, b"x").is_err());
    }
}
