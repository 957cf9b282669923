//! Datagrams: one message each, with descriptors beside it; a body that is too long for a datagram travels in a sealed memfd.
//!
//! A datagram is `J` and the JSON text, or `M` alone, with the text in the memfd that is the first descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::Error;

/// Longer bodies go through a memfd.
const INLINE_BYTES_MAX: usize = 16 * 1024;
/// No body may be longer. An OCI spec with thousands of mounts stays far below.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Descriptors in one message, the memfd included (the kernel's own limit is 253).
pub const FDS_MAX: usize = 64;

const TAG_INLINE: u8 = b'J';
const TAG_MEMFD: u8 = b'M';

/// A received datagram.
#[derive(Debug)]
pub enum Received {
    /// A message: its JSON text and its descriptors.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// Nothing there for now.
    Empty,
    /// The peer has closed its end.
    Closed,
}

/// Sends one message without blocking.
pub fn send(socket: BorrowedFd<'_>, text: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    if text.len() > BODY_BYTES_MAX {
        return Err(Error::TooLarge { size: text.len(), limit: BODY_BYTES_MAX });
    }
    if fds.len() >= FDS_MAX {
        return Err(Error::TooLarge { size: fds.len(), limit: FDS_MAX - 1 });
    }
    if text.len() <= INLINE_BYTES_MAX {
        return send_parts(socket, &[IoSlice::new(&[TAG_INLINE]), IoSlice::new(text)], fds);
    }
    let body = sealed(c"cais-message", text).map_err(Error::Send)?;
    let mut all = vec![body.as_fd()];
    all.extend_from_slice(fds);
    send_parts(socket, &[IoSlice::new(&[TAG_MEMFD])], &all)
}

/// Receives one message without blocking.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Received, Error> {
    let mut text = vec![0; 1 + INLINE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags));
    let got = match got {
        Ok(got) => got,
        Err(rustix::io::Errno::AGAIN) => return Ok(Received::Empty),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
        Err(errno) => return Err(Error::Receive(errno.into())),
    };
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::TooLarge { size: got.bytes, limit: INLINE_BYTES_MAX });
    }
    text.truncate(got.bytes);
    match text.first() {
        None => Ok(Received::Closed),
        Some(&TAG_MEMFD) => {
            if fds.is_empty() {
                return Err(Error::DescriptorMissing);
            }
            let body = read_body(fds.remove(0))?;
            Ok(Received::Message(body, fds))
        }
        Some(_) => {
            text.remove(0);
            Ok(Received::Message(text, fds))
        }
    }
}

/// A memfd with the given content that nobody can change any more.
pub fn sealed(name: &std::ffi::CStr, content: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC)
        // Kernels before 6.3 do not know MFD_EXEC, which is what they always do.
        .or_else(|_| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&memfd, rest))?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memfd)
}

fn send_parts(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
        .map(|_| ())
        .map_err(|errno| Error::Send(errno.into()))
}

fn read_body(memfd: OwnedFd) -> Result<Vec<u8>, Error> {
    let size = rustix::fs::fstat(&memfd).map_err(|errno| Error::Receive(errno.into()))?.st_size;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > BODY_BYTES_MAX {
        return Err(Error::TooLarge { size, limit: BODY_BYTES_MAX });
    }
    let mut body = vec![0; size];
    let mut filled = 0;
    while filled < size {
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(&memfd, &mut body[filled..], filled as u64));
        match got.map_err(|errno| Error::Receive(errno.into()))? {
            0 => return Err(Error::DescriptorMissing),
            count => filled += count,
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair")
    }

    #[test]
    fn short_and_long_messages_arrive_whole_with_their_descriptors() {
        let (left, right) = pair();
        let (_reader, writer) = rustix::pipe::pipe().expect("a pipe");
        for length in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1 << 20] {
            let text: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            send(left.as_fd(), &text, &[writer.as_fd(), writer.as_fd()]).expect("sent");
            let Received::Message(got, fds) = receive(right.as_fd()).expect("received") else { panic!("nothing came") };
            assert_eq!(got, text);
            assert_eq!(fds.len(), 2);
        }
        assert!(matches!(receive(right.as_fd()), Ok(Received::Empty)));
        drop(left);
        assert!(matches!(receive(right.as_fd()), Ok(Received::Closed)));
    }

    #[test]
    fn what_exceeds_the_limits_is_refused() {
        let (left, _right) = pair();
        let too_long = vec![0; BODY_BYTES_MAX + 1];
        assert!(matches!(send(left.as_fd(), &too_long, &[]), Err(Error::TooLarge { .. })));
        let fds = vec![left.as_fd(); FDS_MAX];
        assert!(matches!(send(left.as_fd(), b"x", &fds), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_full_socket_says_so() {
        let (left, _right) = pair();
        let text = vec![0; INLINE_BYTES_MAX];
        let error = (0..10_000).find_map(|_| send(left.as_fd(), &text, &[]).err()).expect("the queue is bounded");
        assert!(error.would_block());
    }
}
