//! The way to whoever a filter asks (`linux.seccomp.listenerPath`): a connection that the caller opens and the child sends the filter's descriptor over.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, sendmsg,
    socket_with,
};

use crate::{Error, Result, hook, oci};

/// The connection, and what is to be said beside the descriptor.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    path: String,
    metadata: String,
}

impl Listener {
    /// Connects, if the profile asks anybody.
    pub(crate) fn connect(profile: Option<&oci::Seccomp>) -> Result<Option<Self>> {
        let Some(profile) = profile.filter(|profile| !profile.listener_path.is_empty()) else { return Ok(None) };
        let path = &profile.listener_path;
        let open = || -> std::result::Result<OwnedFd, Errno> {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            connect(&socket, &SocketAddrUnix::new(path.as_str())?)?;
            Ok(socket)
        };
        let socket = open().map_err(Error::step(format!("linux.seccomp.listenerPath: connect to {path}")))?;
        Ok(Some(Self { socket, path: path.clone(), metadata: profile.listener_metadata.clone() }))
    }

    /// The specification's "container process state". `pid` is the process under the filter, in the runtime's pid namespace.
    pub(crate) fn message(&self, pid: i32, state: &hook::State<'_>) -> Vec<u8> {
        let said = serde_json::json!({
            "ociVersion": crate::config::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.metadata,
            "state": state.json(),
        });
        said.to_string().into_bytes()
    }

    /// Sends it, with the descriptor.
    pub(crate) fn send(&self, message: &[u8], descriptor: BorrowedFd<'_>) -> Result<()> {
        let fds = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fail = || Error::step(format!("hand the seccomp descriptor over to {}", self.path));
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(fail()(Errno::NOBUFS));
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL))
            .map(drop)
            .map_err(fail())
    }
}

/// This process's number as the mounted /proc counts: to be asked before the host's is out of sight.
pub(crate) fn number_outside() -> Result<i32> {
    let link = rustix::fs::readlink(c"/proc/self", Vec::new()).map_err(Error::step("read /proc/self"))?;
    link.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| Error::invalid("/proc/self does not name a process"))
}
