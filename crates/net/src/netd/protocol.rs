//! What engine and netd say to each other: one JSON text per packet of a `SOCK_SEQPACKET` socket, with the sockets it speaks of.
//!
//! The protocol only ever grows: netd answers what it doesn't know with [`Reply::Refused`], so a newer engine can tell.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::endpoint::Protocol;

/// What this engine and its netd agree on. A netd that says another number is replaced by one that says this; raise it when
/// a message changes its meaning.
pub const VERSION: u32 = 2;
/// Sockets in one packet: the kernel allows 253.
pub const PORTS_PER_MESSAGE_MAX: usize = 200;
/// Keys in one [`Reply::Held`].
pub const KEYS_PER_MESSAGE_MAX: usize = 500;
/// What fits into `sun_path` with its final NUL.
const SOCKET_PATH_LEN_MAX: usize = 107;
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
    /// Know who has which name on a network, in place of what was known: a [`super::zone::ZoneFile`] as JSON in the file that comes along.
    Zone {
        /// The network's id.
        network: String,
    },
    /// Forget the names of a network; an unknown one is fine.
    ForgetZone {
        /// The network's id.
        network: String,
    },
    /// Answer questions for names until the key is released. With two sockets, one for datagrams and one for connections: at
    /// these, in place of others that the key may have. Without: at those that it has.
    Resolve {
        /// Whose they are: a container's id.
        key: String,
        /// The networks that it is on, the one to look at first first.
        networks: Vec<String>,
        /// Names of its own, and the names that they stand for.
        links: Vec<(String, String)>,
        /// Who is asked for other names; none: the host's servers.
        servers: Option<Vec<IpAddr>>,
    },
    /// Which [`VERSION`] do you speak?
    Version,
    /// Copies of the ports of a key, from the one at `offset`: for a successor.
    Give {
        /// The key of [`Request::Hold`].
        key: String,
        /// How many were given already.
        offset: u32,
    },
    /// A successor holds the ports now: let go of them, and end when the connections that are under way have.
    Retire,
    /// Do this until something else is to be kept, in place of what was: what, only whoever started netd knows. Empty: nothing.
    Keep {
        /// What is kept.
        what: String,
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
    pub target: SocketAddr,
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
    /// To [`Request::Version`].
    Version {
        /// The number.
        number: u32,
    },
    /// To [`Request::Give`]: what the sockets that come along are; fewer than [`PORTS_PER_MESSAGE_MAX`] are the last.
    Given {
        /// In the order of the sockets.
        ports: Vec<HeldPort>,
    },
    /// To [`Request::List`]: keys and how many ports each holds; fewer than [`KEYS_PER_MESSAGE_MAX`] end the list.
    Held {
        /// In order.
        keys: Vec<(String, u32)>,
    },
}

/// The address of a socket in the file system, and the folder that must stay open while it is used: the kernel takes
/// paths up to 107 bytes, so a longer one is named through its folder's descriptor.
pub fn address(path: &Path) -> Result<(SocketAddrUnix, Option<OwnedFd>), Errno> {
    if path.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let (folder, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(short)?, Some(folder)))
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
    fn long_paths_are_reached_through_their_folder() {
        let folder = std::env::temp_dir().join(format!("cais-net-{}-{}", std::process::id(), "long".repeat(30)));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("netd.sock");
        let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let (listener, client) = (socket(), socket());
        let (bound, _folder) = address(&path).unwrap();
        rustix::net::bind(&listener, &bound).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let (there, _folder) = address(&path).unwrap();
        rustix::net::connect(&client, &there).unwrap();
        assert!(path.exists() && address(Path::new("/run/x")).unwrap().1.is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }

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
