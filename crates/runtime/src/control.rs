//! The few messages between the caller and the child that becomes the container's first process, over one SOCK_SEQPACKET pair.
//!
//! The child's end is close-on-exec: when the caller reads the end of the stream after it gave the start, the program runs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Pid;

use crate::error::ExecFailure;
use crate::{Error, Result};

/// Longer texts of an error are cut.
const MESSAGE_BYTES_MAX: usize = 8192;

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// To the child: its id maps are written.
    Mapped,
    /// From the child: namespaces are made, the caller may run its hooks.
    Hooks,
    /// To the child: the hooks have run.
    HooksDone,
    /// From the child: all is set up; with the terminal's master, if one was asked for.
    Ready(Option<OwnedFd>),
    /// To the child: execute.
    Start,
    /// From a go-between: the child that it made for the caller, by its number and its descriptor.
    Born(Pid, OwnedFd),
    /// From the child: what went wrong. Nothing follows.
    Failed(Error),
    /// The other end is closed.
    End,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::step("make a socket pair"))?;
        Ok((Self(one), Self(other)))
    }

    pub(crate) fn send(&self, message: &Message) -> std::result::Result<(), Errno> {
        let (bytes, fd) = match message {
            Message::Mapped => (vec![b'm'], None),
            Message::Hooks => (vec![b'H'], None),
            Message::HooksDone => (vec![b'h'], None),
            Message::Ready(fd) => (vec![b'R'], fd.as_ref()),
            Message::Start => (vec![b's'], None),
            Message::Born(pid, fd) => ([&b"B"[..], &pid.as_raw_nonzero().get().to_ne_bytes()].concat(), Some(fd)),
            Message::Failed(error) => (encode(error), None),
            Message::End => return Ok(()),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)).map(drop)
    }

    pub(crate) fn receive(&self) -> std::result::Result<Message, Errno> {
        let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Message::End),
                other => break other?,
            }
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        Ok(match buffer.get(..received.bytes).and_then(<[u8]>::split_first) {
            None => Message::End,
            Some((b'm', _)) => Message::Mapped,
            Some((b'H', _)) => Message::Hooks,
            Some((b'h', _)) => Message::HooksDone,
            Some((b'R', _)) => Message::Ready(fd),
            Some((b's', _)) => Message::Start,
            Some((b'B', number)) => {
                let pid = number.try_into().ok().and_then(|bytes| Pid::from_raw(i32::from_ne_bytes(bytes)));
                pid.zip(fd).map_or(Message::End, |(pid, fd)| Message::Born(pid, fd))
            }
            Some(_) => Message::Failed(decode(&buffer[..received.bytes])),
        })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An error as bytes: a letter and its fields, each after a zero byte.
pub(crate) fn encode(error: &Error) -> Vec<u8> {
    let number = |errno: &Errno| errno.raw_os_error().to_string();
    let fields = match error {
        Error::Invalid { what } => vec!["I".to_owned(), what.clone()],
        Error::Unsupported { what } => vec!["N".to_owned(), what.clone()],
        Error::Step { step, source } => vec!["S".to_owned(), number(source), step.clone()],
        Error::Exec { command, cause } => {
            let cause = match cause {
                ExecFailure::NotInPath => "path".to_owned(),
                ExecFailure::Directory => "directory".to_owned(),
                ExecFailure::Errno(errno) => number(errno),
            };
            vec!["X".to_owned(), cause, command.clone()]
        }
        Error::UnknownUser { kind, name, file } => vec!["U".to_owned(), kind.clone(), name.clone(), file.clone()],
        Error::Hook { stage, path, reason } => vec!["K".to_owned(), stage.clone(), path.clone(), reason.clone()],
        Error::NotRunning => vec!["Z".to_owned()],
        Error::ChildLost { stage } => vec!["L".to_owned(), stage.clone()],
        Error::Cgroup(error) => vec!["S".to_owned(), number(&error.errno().unwrap_or(Errno::INVAL)), error.to_string()],
    };
    let mut bytes = fields.join("\0").into_bytes();
    bytes.truncate(MESSAGE_BYTES_MAX);
    bytes
}

/// The error of such bytes.
pub(crate) fn decode(bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut fields = text.split('\0').map(str::to_owned);
    let mut next = || fields.next().unwrap_or_default();
    let errno = |text: String| Errno::from_raw_os_error(text.parse().ok().filter(|number| (1..4096).contains(number)).unwrap_or(22));
    match next().as_str() {
        "N" => Error::Unsupported { what: next() },
        "S" => Error::Step { source: errno(next()), step: next() },
        "X" => {
            let cause = match next().as_str() {
                "path" => ExecFailure::NotInPath,
                "directory" => ExecFailure::Directory,
                number => ExecFailure::Errno(errno(number.to_owned())),
            };
            Error::Exec { cause, command: next() }
        }
        "U" => Error::UnknownUser { kind: next(), name: next(), file: next() },
        "K" => Error::Hook { stage: next(), path: next(), reason: next() },
        "Z" => Error::NotRunning,
        "L" => Error::ChildLost { stage: next() },
        _ => Error::Invalid { what: next() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_way() {
        let errors = [
            Error::invalid("a: b"),
            Error::unsupported("c"),
            Error::Step { step: "mount x on y".into(), source: Errno::PERM },
            Error::Exec { command: "/no such".into(), cause: ExecFailure::NotInPath },
            Error::Exec { command: "x".into(), cause: ExecFailure::Errno(Errno::ACCESS) },
            Error::UnknownUser { kind: "user".into(), name: "nobody".into(), file: "passwd".into() },
            Error::Hook { stage: "createContainer".into(), path: "/h".into(), reason: "exit code 1".into() },
        ];
        for error in errors {
            assert_eq!(format!("{:?}", decode(&encode(&error))), format!("{error:?}"));
        }
    }

    #[test]
    fn messages_and_descriptors_pass() {
        let (one, other) = Channel::pair().unwrap();
        let file = rustix::fs::memfd_create(c"x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        one.send(&Message::Ready(Some(file))).unwrap();
        assert!(matches!(other.receive().unwrap(), Message::Ready(Some(_))));
        one.send(&Message::Start).unwrap();
        assert!(matches!(other.receive().unwrap(), Message::Start));
        drop(one);
        assert!(matches!(other.receive().unwrap(), Message::End));
    }
}
