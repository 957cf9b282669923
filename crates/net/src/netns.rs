//! A network namespace as a pair of descriptors.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use crate::netlink::Socket;
use crate::{Error, Result, link};

/// The calling thread's own namespace, which is not always the process's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// What stands for an interface's name in the names of its settings.
const IFNAME: &str = "IFNAME";

/// A network namespace, kept alive by this value (and by the processes in it). Dropping the last holder destroys it with its interfaces.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    socket: Mutex<Socket>,
}

impl Netns {
    /// A new namespace with loopback up, made on a short-lived thread. `sysctls` are names below `net.` with their values,
    /// such as `("net.ipv4.ip_unprivileged_port_start", "0")`: Docker's defaults and the user's own, applied in order.
    pub fn create(sysctls: &[(String, String)]) -> Result<Self> {
        elsewhere(|| {
            kernel::net::unshare_network().map_err(|source| Error::Namespace { operation: "create", source })?;
            for (name, value) in sysctls {
                write_sysctl(name, value)?;
            }
            let mut socket = Socket::route().map_err(opening)?;
            link::set_up(&mut socket, "lo").map_err(|source| Error::Namespace { operation: "set up loopback in", source })?;
            Ok(Self { fd: own()?, socket: Mutex::new(socket) })
        })
    }

    /// The namespace behind a descriptor, such as an opened `/proc/PID/ns/net`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        elsewhere(|| {
            rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|source| Error::Namespace { operation: "enter", source })?;
            Ok(Self { fd, socket: Mutex::new(Socket::route().map_err(opening)?) })
        })
    }

    /// Writes settings of an interface inside, whose name stands as `IFNAME` in theirs.
    pub(crate) fn set_interface_sysctls(&self, ifname: &str, sysctls: &[(String, String)]) -> Result<()> {
        if sysctls.is_empty() {
            return Ok(());
        }
        let ifname = ifname.replace('.', "/");
        inside(self.as_fd(), || sysctls.iter().try_for_each(|(name, value)| write_sysctl(&name.replace(IFNAME, &ifname), value)))
    }

    /// A socket for links and addresses inside.
    pub(crate) fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The calling thread's network namespace.
pub(crate) fn own() -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(OWN_NAMESPACE, flags, rustix::fs::Mode::empty()).map_err(opening)
}

/// Runs something on a short-lived thread inside a namespace.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    elsewhere(|| {
        rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(|source| Error::Namespace { operation: "enter", source })?;
        work()
    })
}

/// Runs on a thread of its own, which may change namespaces without harm since it ends at once.
fn elsewhere<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("netns".to_owned()).stack_size(128 * 1024).spawn_scoped(scope, work);
        let failed = |source| Error::Namespace { operation: "start a thread for", source };
        let thread = spawned.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        thread.join().unwrap_or_else(|_| Err(failed(Errno::IO)))
    })
}

/// Writes a setting of the calling thread's network namespace. Dots separate; in an interface's name they are written as slashes.
fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let swapped: String = name
        .chars()
        .map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let path = PathBuf::from("/proc/sys").join(&swapped);
    let inside = swapped.starts_with("net/") && !swapped.split('/').any(|part| matches!(part, "" | "." | ".."));
    if !inside {
        return Err(Error::BadSysctl { name: name.to_owned() });
    }
    fs::write(&path, value).map_err(|source| Error::File { operation: "write", path, source })
}

fn opening(source: Errno) -> Error {
    Error::Namespace { operation: "open", source }
}
