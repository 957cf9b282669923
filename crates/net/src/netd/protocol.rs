//! What engine and netd say to each other: one JSON text per packet of a `SOCK_SEQPACKET` socket, with the sockets it speaks of.
//!
//! The protocol only ever grows: netd answers what it doesn't know with [`Reply::Refused`], so a newer engine can tell.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::endpoint::Protocol;

/// Sockets in one packet: the kernel allows 253.
pub const PORTS_PER_MESSAGE_MAX: usize = 200;
/// Keys in one [`Reply::Held`].
pub const KEYS_PER_MESSAGE_MAX: usize = 500;
/// The longest packet.
const MESSAGE_LEN_MAX: usize = 128 * 1024;

/// From the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Hold these ports, whose sockets come along in the same order, until the key is released.
    Hold {
        /// Whose they are: an endpoint's id.
        key: String,
        /// What to do with what arrives.
        ports: Vec<HeldPort>,
    },
    /// Close the sockets of the key; an unknown one is fine.
    Release {
        /// The key of [`Request::Hold`].
        key: String,
    },
    /// Which keys are held, in order, from the first one after `after`.
    List {
        /// The last key of the answer before; empty for the first.
        after: String,
    },
    /// End at once.
    Quit,
}

/// A port in netd's care.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The container's address and port, to which what arrives is passed on.
    pub target: SocketAddrV4,
}

/// From netd, one for each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is so.
    Done,
    /// It is not, because.
    Refused {
        /// Why.
        reason: String,
    },
    /// To [`Request::List`]: keys and how many ports each holds; fewer than [`KEYS_PER_MESSAGE_MAX`] end the list.
    Held {
        /// In order.
        keys: Vec<(String, u32)>,
    },
}

/// Sends one message with descriptors.
pub fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>], wait: bool) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_PER_MESSAGE_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL | if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)).map(drop)
}

/// What [`receive`] got.
#[derive(Debug)]
pub enum Received<M> {
    /// A message with its descriptors.
    Message(M, Vec<OwnedFd>),
    /// Something that is no message of this protocol.
    Unknown,
    /// The other side is gone.
    End,
}

/// Receives one message.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd, wait: bool) -> Result<Received<M>, Errno> {
    let mut bytes = vec![0; MESSAGE_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_PER_MESSAGE_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let got = rustix::io::retry_on_intr(|| rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags))?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<_> = descriptors.flatten().collect();
    if got.bytes == 0 {
        return Ok(Received::End);
    }
    Ok(serde_json::from_slice(&bytes[..got.bytes]).map_or(Received::Unknown, |message| Received::Message(message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn messages_travel_with_their_sockets() {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let port = HeldPort { protocol: Protocol::Udp, target: "10.0.0.2:53".parse().unwrap() };
        let request = Request::Hold { key: "k".to_owned(), ports: vec![port] };
        send(&one, &request, &[one.as_fd()], true).unwrap();
        let Received::Message(got, descriptors) = receive::<Request>(&other, true).unwrap() else { panic!("no message") };
        assert_eq!((got, descriptors.len()), (request, 1));
        rustix::net::send(&one, b"{\"later\":{}}", SendFlags::empty()).unwrap();
        assert!(matches!(receive::<Request>(&other, true).unwrap(), Received::Unknown));
        drop((one, descriptors));
        assert!(matches!(receive::<Request>(&other, true).unwrap(), Received::End));
    }
}
