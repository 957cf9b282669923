//! The engine's end: the program in memory, and one [`Handle`] per monitor.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kernel::fork::{Strings, execute_fd};
use kernel::spawn::{self, Child, Spawn};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};
use serde::Serialize;

use crate::protocol::{Event, FdRole, Header, LaunchRequest, MonitorMessage, Reply, Request, RequestMessage, VERSION};
use crate::{Error, wire};

/// The number of the launch request, and so of its reply. Later requests take higher numbers.
pub const LAUNCH_ID: u64 = 1;

/// Descriptors that the monitor finds at its start.
pub const CONTROL_FD: RawFd = 3;
/// The listening socket, see [`LaunchRequest::socket`].
pub const LISTEN_FD: RawFd = 4;

/// How many engines may wait to be accepted by one monitor.
const BACKLOG: i32 = 4;

/// Keeps the monitor's heap small: buffers are mapped and unmapped, not kept.
const MONITOR_ENV: &std::ffi::CStr =
    c"GLIBC_TUNABLES=glibc.malloc.mmap_threshold=65536:glibc.malloc.trim_threshold=65536:glibc.malloc.arena_max=1";

/// The multi-call program (`cais-monitor`, `cais-runtime`, `cais-init`) in one sealed memfd that all its processes share.
#[derive(Debug)]
pub struct Program {
    memfd: OwnedFd,
}

/// Descriptors that go with a launch.
#[derive(Debug, Default)]
pub struct LaunchFds<'a> {
    /// The network namespace to join; like the next three it comes before what the specification says.
    pub net_namespace: Option<BorrowedFd<'a>>,
    /// The IPC namespace to join.
    pub ipc_namespace: Option<BorrowedFd<'a>>,
    /// The UTS namespace to join.
    pub uts_namespace: Option<BorrowedFd<'a>>,
    /// The pid namespace to join.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// A compiled seccomp program, as an array of `struct sock_filter`.
    pub seccomp: Option<BorrowedFd<'a>>,
    /// A mount, attached nowhere yet, for the directory of secrets.
    pub secrets: Option<BorrowedFd<'a>>,
    /// The sockets of [`LaunchRequest::attach`], in its order.
    pub clients: Vec<BorrowedFd<'a>>,
}

/// One monitor, seen from the engine. Wrap it in tokio's `AsyncFd` to wait for messages.
#[derive(Debug)]
pub struct Handle {
    socket: OwnedFd,
    process: Option<Child>,
}

/// What [`Handle::try_recv`] found.
#[derive(Debug)]
pub enum Arrival {
    /// The answer to the request of this number; zero is the state that each new connection is told.
    Reply(u64, Reply),
    /// Something that happened.
    Event(Event),
    /// A message of a later version, with its request's number; an answer of no use, but an answer.
    Unknown(u64),
    /// Nothing for now: wait until the descriptor is readable.
    Empty,
    /// The monitor is gone. Without a preceding [`Event::Exited`] it was lost: kill the container's control group.
    Closed,
}

impl Program {
    /// Puts the program into a sealed memfd.
    pub fn seal(elf: &[u8]) -> Result<Self, Error> {
        wire::sealed(c"cais-monitor", elf).map(|memfd| Self { memfd }).map_err(Error::Seal)
    }

    /// Starts a monitor and tells it what to launch. Returns as soon as the process runs; the outcome arrives as the reply number [`LAUNCH_ID`].
    ///
    /// The monitor's socket is listening when this returns, so an engine that dies at any later instant finds the monitor again.
    pub fn spawn(&self, request: &LaunchRequest, fds: &LaunchFds<'_>) -> Result<Handle, Error> {
        self.start(&request.id, &request.socket, |handle| handle.launch(request, fds))
    }

    /// Starts a monitor that waits for its launch ([`Handle::launch`]), and ends when its engine does.
    pub fn standby(&self, id: &str, socket: &Path) -> Result<Handle, Error> {
        self.start(id, socket, |_| Ok(()))
    }

    fn start(&self, id: &str, socket: &Path, first: impl FnOnce(&Handle) -> Result<(), Error>) -> Result<Handle, Error> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .map_err(|errno| Error::Spawn(errno.into()))?;
        let listener = listen(socket).map_err(|source| Error::Listen { path: socket.to_owned(), source })?;
        // The request waits in the socket before the process exists: a monitor never meets a closed socket without it.
        let handle = Handle { socket: ours, process: None };
        first(&handle)?;
        let null = File::options().read(true).write(true).open("/dev/null").map_err(Error::Spawn)?;
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd(), listener.as_fd()];
        let args = [c"cais-monitor".to_owned(), CString::new(id).unwrap_or_default()];
        let spawned = spawn::spawn(&Spawn { program: self.memfd.as_fd(), args: &args, env: &[MONITOR_ENV.to_owned()], fds: &fds });
        match spawned {
            Ok(child) => Ok(Handle { process: Some(child), ..handle }),
            Err(source) => {
                let _ = std::fs::remove_file(socket);
                Err(Error::Spawn(source))
            }
        }
    }

    /// Becomes the program under another of its names, `cais-runtime` say, with these arguments after the name and the caller's environment.
    /// Returns only with an error.
    pub fn become_named(&self, name: &str, args: impl IntoIterator<Item = std::ffi::OsString>) -> Error {
        let given = args.into_iter().map(|argument| CString::new(argument.as_bytes()));
        let args: Result<Vec<CString>, _> = [CString::new(name)].into_iter().chain(given).collect();
        let env = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let env: Result<Vec<CString>, _> = env.map(CString::new).collect();
        match (args, env) {
            (Ok(args), Ok(env)) => match execute_fd(self.memfd.as_fd(), &Strings::new(args), &Strings::new(env)) {
                Ok(never) => match never {},
                Err(errno) => Error::Spawn(errno.into()),
            },
            _ => Error::Spawn(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Handle {
    /// Connects to the monitor that listens at `socket`. Its first message is its [`Reply::State`] with number zero.
    ///
    /// [`Error::Connect`] means that the monitor is gone: its exit record tells the rest, if it had the time to write one.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let connected = (|| {
            let (_directory, address) = address(socket)?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let ours = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::connect(&ours, &address)?;
            Ok(ours)
        })();
        connected.map(|socket| Self { socket, process: None }).map_err(|source| Error::Connect { path: socket.to_owned(), source })
    }

    /// Sends a request without blocking, with the clients' sockets that it mentions. The caller may close its copies of them afterwards.
    ///
    /// [`Error::would_block`] tells that the socket is full: wait until it is writable, then send again.
    pub fn send(&self, id: u64, request: Request, clients: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send_message(&RequestMessage { v: VERSION, id, request, fds: vec![FdRole::Client; clients.len()] }, clients)
    }

    /// The next message, without blocking.
    pub fn try_recv(&self) -> Result<Arrival, Error> {
        let text = match wire::receive(self.socket.as_fd())? {
            wire::Received::Message(text, _) => text,
            wire::Received::Empty => return Ok(Arrival::Empty),
            wire::Received::Closed => return Ok(Arrival::Closed),
        };
        match serde_json::from_slice::<MonitorMessage>(&text) {
            Ok(MonitorMessage { id, reply: Some(reply), .. }) => Ok(Arrival::Reply(id, reply)),
            Ok(MonitorMessage { event: Some(event), .. }) => Ok(Arrival::Event(event)),
            Ok(MonitorMessage { id, .. }) => Ok(Arrival::Unknown(id)),
            Err(error) => match serde_json::from_slice::<Header>(&text) {
                Ok(header) => Ok(Arrival::Unknown(header.id)),
                Err(_) => Err(Error::Malformed(error)),
            },
        }
    }

    /// The monitor's process id, if this handle started it.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|child| child.pid)
    }

    /// A descriptor of the monitor's process, if this handle started it: readable when it has ended.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Takes the ended monitor off the process table. True when it is gone (or never was this process's child), false while it runs.
    pub fn reap(&self) -> bool {
        let Some(child) = &self.process else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        !matches!(rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), options), Ok(None))
    }

    /// Tells a monitor in standby what to launch. The outcome arrives as the reply number [`LAUNCH_ID`].
    pub fn launch(&self, request: &LaunchRequest, fds: &LaunchFds<'_>) -> Result<(), Error> {
        let mut roles = Vec::new();
        let mut all = Vec::new();
        let single = [
            (FdRole::NetNamespace, fds.net_namespace),
            (FdRole::IpcNamespace, fds.ipc_namespace),
            (FdRole::UtsNamespace, fds.uts_namespace),
            (FdRole::PidNamespace, fds.pid_namespace),
            (FdRole::Seccomp, fds.seccomp),
            (FdRole::Secrets, fds.secrets),
        ];
        for (role, fd) in single {
            if let Some(fd) = fd {
                roles.push(role);
                all.push(fd);
            }
        }
        roles.extend(fds.clients.iter().map(|_| FdRole::Client));
        all.extend_from_slice(&fds.clients);
        self.send_message(&LaunchMessage { v: VERSION, id: LAUNCH_ID, request: Borrowed::Launch(request), fds: roles }, &all)
    }

    fn send_message(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let text = serde_json::to_vec(message).map_err(Error::Malformed)?;
        wire::send(self.socket.as_fd(), &text, fds)
    }
}

/// [`RequestMessage`] with a launch, on the wire the same, without a copy of what is often the longest message of all.
#[derive(Serialize)]
struct LaunchMessage<'a> {
    v: u32,
    id: u64,
    request: Borrowed<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fds: Vec<FdRole>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Borrowed<'a> {
    Launch(&'a LaunchRequest),
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let (_directory, address) = address(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The address of a socket whose path may be longer than an address can hold (107 bytes): through a descriptor of its directory, which must
/// live as long as the address is used.
fn address(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))?;
    Ok((directory, address))
}
