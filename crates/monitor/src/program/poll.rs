//! Waiting for descriptors: epoll(7), with tokens that say what became ready.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// How many ready descriptors one wait reports.
const EVENTS_MAX: usize = 32;

/// What a descriptor belongs to. The numbers are never used twice, so that a late event cannot hit a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A new engine wants to connect.
    Listener,
    /// A connected engine.
    Engine(u32),
    /// An attached client.
    Client(u32),
    /// The end of a process.
    Exit(u32),
    /// A process's standard output or terminal.
    Stdout(u32),
    /// A process's standard error.
    Stderr(u32),
    /// A process's standard input or terminal.
    Stdin(u32),
    /// Out of memory in the container.
    Oom,
    /// An exec on its way into the container.
    Entering(u32),
}

/// What to wait for on a descriptor. Errors and hang-ups are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Bytes to read, or end of file.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// Urgent data, which is how cgroup files tell a change.
    pub priority: bool,
}

impl Interest {
    /// Only reading.
    pub const READ: Self = Self { read: true, write: false, priority: false };
    /// Only writing.
    pub const WRITE: Self = Self { read: false, write: true, priority: false };
    /// Nothing but errors and hang-ups.
    pub const NONE: Self = Self { read: false, write: false, priority: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags.set(EventFlags::PRI, self.priority);
        flags
    }
}

/// One ready descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// What it belongs to.
    pub token: Token,
    /// Bytes or end of file can be read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// Both directions are shut, or an error is pending.
    pub gone: bool,
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Adds a descriptor.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(encode(token)), interest.flags())?)
    }

    /// Changes what to wait for.
    pub fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(encode(token)), interest.flags())?)
    }

    /// Takes a descriptor out, before it is closed: a duplicate elsewhere would keep it in the set.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready or the deadline passes; then the answer is empty.
    pub fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<Ready>> {
        let mut space = [MaybeUninit::uninit(); EVENTS_MAX];
        let timeout = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let ready = events.iter().filter_map(|event| {
            let (flags, data) = (event.flags, event.data);
            Some(Ready {
                token: decode(data.u64())?,
                read: flags.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::HUP | EventFlags::ERR),
                write: flags.contains(EventFlags::OUT),
                gone: flags.intersects(EventFlags::HUP | EventFlags::ERR),
            })
        });
        Ok(ready.collect())
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

fn encode(token: Token) -> u64 {
    let (kind, number) = match token {
        Token::Listener => (0, 0),
        Token::Engine(number) => (1, number),
        Token::Client(number) => (2, number),
        Token::Exit(number) => (3, number),
        Token::Stdout(number) => (4, number),
        Token::Stderr(number) => (5, number),
        Token::Stdin(number) => (6, number),
        Token::Oom => (7, 0),
        Token::Entering(number) => (8, number),
    };
    (kind << 32) | u64::from(number)
}

fn decode(data: u64) -> Option<Token> {
    let number = (data & 0xffff_ffff) as u32;
    Some(match data >> 32 {
        0 => Token::Listener,
        1 => Token::Engine(number),
        2 => Token::Client(number),
        3 => Token::Exit(number),
        4 => Token::Stdout(number),
        5 => Token::Stderr(number),
        6 => Token::Stdin(number),
        7 => Token::Oom,
        8 => Token::Entering(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let all = [
            Token::Listener,
            Token::Engine(1),
            Token::Client(u32::MAX),
            Token::Exit(0),
            Token::Stdout(7),
            Token::Stderr(7),
            Token::Stdin(7),
            Token::Oom,
            Token::Entering(9),
        ];
        for token in all {
            assert_eq!(decode(encode(token)), Some(token));
        }
        assert_eq!(decode(u64::MAX), None);
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let poll = Poll::new().expect("epoll");
        assert!(poll.wait(Some(Instant::now() + Duration::from_millis(5))).expect("waited").is_empty());
    }
}
