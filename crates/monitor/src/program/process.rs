//! A process that the monitor is the parent of: the container's first, or an exec. Its streams and its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use rustix::termios::Winsize;

use super::log::Stream;
use super::poll::{Interest, Poll, Token};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// Our ends of a process's streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// Where its input goes.
    pub stdin: Option<OwnedFd>,
    /// Where its output comes from.
    pub stdout: Option<OwnedFd>,
    /// Where its standard error comes from.
    pub stderr: Option<OwnedFd>,
    /// The terminal, if it has one: then `stdin` and `stdout` are copies of it.
    pub terminal: Option<OwnedFd>,
}

/// A child.
#[derive(Debug)]
pub struct Process {
    /// Our own number for it; zero is the container's first process.
    pub number: u32,
    /// The exec's id, none for the container's first process.
    pub exec: Option<String>,
    /// Its process id on the host.
    pub pid: i32,
    pidfd: Option<OwnedFd>,
    streams: Streams,
    input: Vec<u8>,
    closing_input: bool,
    reading: bool,
    /// Standard input ends with the first client that feeds it.
    pub stdin_once: bool,
    /// How it ended.
    pub status: Option<Status>,
    /// Until when its output is read after its end, if others keep it open.
    pub drain_until: Option<std::time::Instant>,
}

impl Process {
    /// Takes a started child over and waits for its output and its end from now on.
    pub fn new(poll: &Poll, number: u32, exec: Option<String>, pid: i32, pidfd: OwnedFd, streams: Streams) -> io::Result<Self> {
        for fd in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        poll.add(&pidfd, Token::Exit(number), Interest::READ)?;
        if let Some(stdout) = &streams.stdout {
            poll.add(stdout, Token::Stdout(number), Interest::READ)?;
        }
        if let Some(stderr) = &streams.stderr {
            poll.add(stderr, Token::Stderr(number), Interest::READ)?;
        }
        if let Some(stdin) = &streams.stdin {
            poll.add(stdin, Token::Stdin(number), Interest::NONE)?;
        }
        let pidfd = Some(pidfd);
        let (input, closing_input, reading, stdin_once) = (Vec::new(), false, true, false);
        Ok(Self { number, exec, pid, pidfd, streams, input, closing_input, reading, stdin_once, status: None, drain_until: None })
    }

    /// Whether it has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.streams.terminal.is_some()
    }

    /// Takes its exit status if it has ended, and forgets its descriptor.
    pub fn reap(&mut self, poll: &Poll) -> Option<Status> {
        let pidfd = self.pidfd.as_ref()?;
        let waited = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        });
        let status = match waited {
            Ok(None) => return None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status { code, signal: None },
                (None, Some(signal)) => Status { code: 128 + signal, signal: Some(signal) },
                (None, None) => return None,
            },
            // Somebody else took it: nothing is known but that it ended.
            Err(_) => Status { code: 255, signal: None },
        };
        if let Some(pidfd) = self.pidfd.take() {
            poll.remove(&pidfd);
        }
        self.status = Some(status);
        Some(status)
    }

    /// Its number and its descriptor, unless it has ended.
    pub fn identity(&self) -> Option<(Pid, BorrowedFd<'_>)> {
        Some((Pid::from_raw(self.pid)?, self.pidfd.as_ref()?.as_fd()))
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        let pidfd = self.pidfd.as_ref().ok_or(Errno::SRCH)?;
        kernel::pidfd::send_signal(pidfd.as_fd(), signal)
    }

    /// Sets the terminal's size; None if there is no terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Option<Result<(), Errno>> {
        let terminal = self.streams.terminal.as_ref()?;
        Some(rustix::termios::tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }))
    }

    /// One of its outputs, while it is open.
    pub fn output(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.output_slot(stream).as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing more can come out of it.
    pub fn outputs_ended(&self) -> bool {
        self.streams.stdout.is_none() && self.streams.stderr.is_none()
    }

    /// Closes one of its outputs.
    pub fn close_output(&mut self, poll: &Poll, stream: Stream) {
        let slot = match stream {
            Stream::Stdout => &mut self.streams.stdout,
            Stream::Stderr => &mut self.streams.stderr,
        };
        if let Some(fd) = slot.take() {
            poll.remove(&fd);
        }
    }

    /// Whether its outputs are read, which a slow client prevents for a while.
    pub fn set_reading(&mut self, poll: &Poll, reading: bool) {
        if self.reading == reading {
            return;
        }
        self.reading = reading;
        for (stream, token) in [(Stream::Stdout, Token::Stdout(self.number)), (Stream::Stderr, Token::Stderr(self.number))] {
            let Some(fd) = self.output(stream) else { continue };
            if reading {
                let _ = poll.add(fd, token, Interest::READ);
            } else {
                // A paused descriptor leaves the set: epoll reports a hang-up whether one asks for it or not.
                poll.remove(fd);
            }
        }
    }

    /// Whether no more input is to be read for it now.
    pub fn input_full(&self) -> bool {
        self.streams.stdin.is_some() && !self.input.is_empty()
    }

    /// Gives it input: as much as it takes now, the rest waits. Without an open input the bytes are dropped.
    pub fn feed(&mut self, poll: &Poll, bytes: &[u8]) {
        if self.streams.stdin.is_some() && !bytes.is_empty() {
            self.input.extend_from_slice(bytes);
            self.flush_input(poll);
        }
    }

    /// Writes input that waits.
    pub fn flush_input(&mut self, poll: &Poll) {
        let Some(stdin) = &self.streams.stdin else { return };
        while !self.input.is_empty() {
            match rustix::io::write(stdin, &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.discard_input(poll);
                    return;
                }
            }
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        let interest = if self.input.is_empty() { Interest::NONE } else { Interest::WRITE };
        let _ = poll.change(stdin, Token::Stdin(self.number), interest);
        if self.input.is_empty() && self.closing_input {
            self.discard_input(poll);
        }
    }

    /// Closes its input as soon as what waits is written.
    pub fn close_input(&mut self, poll: &Poll) {
        self.closing_input = true;
        self.flush_input(poll);
    }

    /// Closes its input now.
    pub fn discard_input(&mut self, poll: &Poll) {
        self.input = Vec::new();
        if let Some(stdin) = self.streams.stdin.take() {
            poll.remove(&stdin);
        }
    }

    fn output_slot(&self, stream: Stream) -> &Option<OwnedFd> {
        match stream {
            Stream::Stdout => &self.streams.stdout,
            Stream::Stderr => &self.streams.stderr,
        }
    }
}
