//! The engine's end of netd: starts it, finds it again, asks it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::spawn::Spawn;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

use super::protocol::{self, HeldPort, KEYS_PER_MESSAGE_MAX, PORTS_PER_MESSAGE_MAX, Received, Reply, Request};
use super::zone::ZoneFile;
use crate::{Error, Resolving, Result};

/// How long an answer may take before netd counts as lost. It answers in microseconds.
const ANSWER_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What `ps` shows, instead of the path in /proc that the program is started by.
const ARGV0: &str = "cais";

/// netd as the engine sees it.
#[derive(Debug)]
pub struct Handle {
    command: Vec<OsString>,
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// The socket, and how many there were: so that the end of an old one is not taken for the end of its successor.
#[derive(Debug, Default)]
struct Connection {
    socket: Option<OwnedFd>,
    generation: u64,
    /// The engine is done: no other netd is to be started.
    closed: bool,
}

/// What a netd of before held for a key.
#[derive(Debug)]
struct Taken {
    key: String,
    ports: Vec<(OwnedFd, HeldPort)>,
}

impl Connection {
    fn replace(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
        self.generation += 1;
    }
}

impl Handle {
    pub fn new(command: Vec<OsString>, path: PathBuf) -> Self {
        Self { command, path, connection: Mutex::default() }
    }

    /// Connects to a netd that runs already. `false`: there is none.
    pub fn connect(&self) -> Result<bool> {
        let mut connection = self.lock();
        if connection.socket.is_some() {
            return Ok(true);
        }
        let failed = |errno: Errno| Error::Netd { operation: "connect", source: errno.into() };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
        let connected = protocol::address(&self.path).and_then(|(address, _folder)| rustix::net::connect(&socket, &address));
        match connected {
            Ok(()) => connection.replace(socket),
            Err(Errno::NOENT | Errno::CONNREFUSED) => (),
            Err(errno) => return Err(failed(errno)),
        }
        Ok(connection.socket.is_some())
    }

    /// Connects to a netd that runs already; one that speaks otherwise than this engine has a successor first, which gets its
    /// sockets: what is published stays reserved, and what is under way goes on. `false`: there is none.
    pub fn adopt(&self) -> Result<bool> {
        if !self.connect()? || self.speaks_the_same()? {
            return Ok(self.lock().socket.is_some());
        }
        tracing::info!("the netd that runs is of another version: it gets a successor");
        let Ok(held) = self.take_over() else {
            // One that cannot give: its ports are bound anew.
            self.end()?;
            return Ok(false);
        };
        let retired = self.ask(&Request::Retire, &[], "retire").map(drop);
        self.lock().socket = None;
        if let Err(error) = retired {
            tracing::warn!(error = types::error::chain(&error), "the netd of before was lost");
        }
        let socket = self.spawn().map_err(|source| Error::Netd { operation: "start", source })?;
        self.lock().replace(socket);
        for Taken { key, ports } in &held {
            let ports: Vec<_> = ports.iter().map(|(socket, port)| (socket.as_fd(), port.clone())).collect();
            self.hold(key, &ports)?;
        }
        Ok(true)
    }

    fn speaks_the_same(&self) -> Result<bool> {
        match self.ask(&Request::Version, &[], "ask for the version") {
            Ok(Reply::Version { number }) => Ok(number == protocol::VERSION),
            Ok(_) => Ok(false),
            Err(Error::Netd { source, .. }) if source.raw_os_error().is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies of all ports that are held, by key.
    fn take_over(&self) -> Result<Vec<Taken>> {
        let mut all = Vec::new();
        for key in self.list()?.into_keys() {
            let mut ports = Vec::new();
            loop {
                let offset = ports.len() as u32;
                let (reply, sockets) = self.ask_for_sockets(&Request::Give { key: key.clone(), offset }, "take over ports")?;
                let Reply::Given { ports: given } = reply else {
                    return Err(Error::Netd { operation: "take over ports", source: io::ErrorKind::InvalidData.into() });
                };
                let last = given.len() < PORTS_PER_MESSAGE_MAX;
                ports.extend(sockets.into_iter().zip(given));
                if last {
                    break;
                }
            }
            if !ports.is_empty() {
                all.push(Taken { key, ports });
            }
        }
        Ok(all)
    }

    /// Ends the netd that runs, and waits for it.
    fn end(&self) -> Result<()> {
        let Some(socket) = self.lock().socket.take() else { return Ok(()) };
        let asked = exchange(&socket, &Request::Quit, &[]);
        // The other end closes when the process ends.
        let _ = rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::empty())], Some(&ANSWER_MAX));
        let _ = std::fs::remove_file(&self.path);
        asked.map(drop).map_err(|errno| Error::Netd { operation: "end", source: errno.into() })
    }

    /// Starts a netd, which serves this connection first. Tells whether it was necessary.
    pub fn start(&self) -> Result<bool> {
        if self.adopt()? {
            return Ok(false);
        }
        let mut connection = self.lock();
        if connection.socket.is_some() {
            return Ok(false);
        }
        if connection.closed {
            return Err(Error::Netd { operation: "start", source: io::Error::other("the engine is ending") });
        }
        connection.replace(self.spawn().map_err(|source| Error::Netd { operation: "start", source })?);
        Ok(true)
    }

    /// Hands over ports to be held for a key.
    pub fn hold(&self, key: &str, ports: &[(BorrowedFd<'_>, HeldPort)]) -> Result<()> {
        for chunk in ports.chunks(PORTS_PER_MESSAGE_MAX) {
            let (sockets, ports): (Vec<_>, Vec<_>) = chunk.iter().cloned().unzip();
            self.ask(&Request::Hold { key: key.to_owned(), ports }, &sockets, "hand over ports")?;
        }
        Ok(())
    }

    /// Lets the ports of a key go. Without a netd nothing is held.
    pub fn release(&self, key: &str) -> Result<()> {
        if self.lock().socket.is_none() {
            return Ok(());
        }
        self.ask(&Request::Release { key: key.to_owned() }, &[], "release ports").map(drop)
    }

    /// Tells who has which name on a network. Without a netd there is nobody to ask it.
    pub fn zone(&self, network: &str, zone: &ZoneFile) -> Result<()> {
        if self.lock().socket.is_none() {
            return Ok(());
        }
        let failed = |source| Error::Netd { operation: "write down names", source };
        let file = rustix::fs::memfd_create(c"names", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(file);
        let body = serde_json::to_vec(zone).map_err(|error| failed(error.into()))?;
        file.write_all(&body).map_err(failed)?;
        self.ask(&Request::Zone { network: network.to_owned() }, &[file.as_fd()], "hand over names").map(drop)
    }

    /// Has the names of a network forgotten.
    pub fn forget_zone(&self, network: &str) -> Result<()> {
        if self.lock().socket.is_none() {
            return Ok(());
        }
        self.ask(&Request::ForgetZone { network: network.to_owned() }, &[], "forget names").map(drop)
    }

    /// Has questions answered: at these sockets, or at those that the key has.
    pub fn resolve(&self, key: &str, networks: Vec<String>, resolving: &Resolving, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        let Resolving { servers, links } = resolving.clone();
        self.ask(&Request::Resolve { key: key.to_owned(), networks, links, servers }, sockets, "answer for names").map(drop)
    }

    /// Has netd do something until told otherwise. Without a netd nothing is done.
    pub fn keep(&self, what: &str) -> Result<()> {
        if what.is_empty() && self.lock().socket.is_none() {
            return Ok(());
        }
        self.ask(&Request::Keep { what: what.to_owned() }, &[], "keep up what outlives the engine").map(drop)
    }

    /// What is held: keys and how many ports each has.
    pub fn list(&self) -> Result<BTreeMap<String, u32>> {
        let mut all = BTreeMap::new();
        if self.lock().socket.is_none() {
            return Ok(all);
        }
        loop {
            let after = all.last_key_value().map_or(String::new(), |(key, _): (&String, _)| key.clone());
            let Reply::Held { keys } = self.ask(&Request::List { after }, &[], "list ports")? else { return Ok(all) };
            let end = keys.len() < KEYS_PER_MESSAGE_MAX;
            all.extend(keys);
            if end {
                return Ok(all);
            }
        }
    }

    /// Ends netd, if one runs. None is started afterwards.
    pub fn quit(&self) -> Result<()> {
        self.connect()?;
        self.lock().closed = true;
        self.end()
    }

    /// A second descriptor of the connection, to be watched for netd's end, and what to tell [`Handle::lost`] then.
    pub fn watch(&self) -> Option<(OwnedFd, u64)> {
        let connection = self.lock();
        Some((connection.socket.as_ref()?.try_clone().ok()?, connection.generation))
    }

    /// Gives up a connection whose other end is gone. `false`: it was given up on purpose, or has a successor.
    pub fn lost(&self, generation: u64) -> bool {
        let mut connection = self.lock();
        connection.generation == generation && connection.socket.take().is_some()
    }

    /// Closes the connection. netd goes on as long as it holds anything.
    pub fn disconnect(&self) {
        let mut connection = self.lock();
        connection.closed = true;
        if let Some(connection) = connection.socket.take() {
            // For watchers, who hold descriptors of their own.
            let _ = rustix::net::shutdown(connection, Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: &Request, sockets: &[BorrowedFd<'_>], operation: &'static str) -> Result<Reply> {
        self.ask_all(request, sockets, operation).map(|(reply, _)| reply)
    }

    fn ask_for_sockets(&self, request: &Request, operation: &'static str) -> Result<(Reply, Vec<OwnedFd>)> {
        self.ask_all(request, &[], operation)
    }

    fn ask_all(&self, request: &Request, sockets: &[BorrowedFd<'_>], operation: &'static str) -> Result<(Reply, Vec<OwnedFd>)> {
        let mut connection = self.lock();
        let outcome = match connection.socket.as_ref() {
            None => Err(Errno::NOTCONN),
            Some(socket) => exchange(socket, request, sockets),
        };
        match outcome {
            Ok((Reply::Refused { reason }, _)) => Err(Error::Netd { operation, source: io::Error::other(reason) }),
            Ok(answer) => Ok(answer),
            Err(errno) => {
                // After a broken exchange the answers would no longer match the questions.
                if let Some(socket) = connection.socket.take() {
                    let _ = rustix::net::shutdown(socket, Shutdown::Both);
                }
                Err(Error::Netd { operation, source: errno.into() })
            }
        }
    }

    fn spawn(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (program, arguments) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let program = File::open(program)?;
        let words = [OsStr::new(ARGV0)].into_iter().chain(arguments.iter().map(OsString::as_os_str));
        let words = words.chain([OsStr::new("--socket"), self.path.as_os_str()]);
        let args: Vec<_> = words.map(|word| CString::new(word.as_encoded_bytes())).collect::<Result<_, _>>()?;
        // It outlives us, so it must not hold whatever our output goes to.
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()];
        let child = kernel::spawn::spawn(&Spawn { program: program.as_fd(), args: &args, env: &[], fds: &fds })?;
        let reap = move || rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        std::thread::Builder::new().name("netd-reaper".to_owned()).stack_size(64 * 1024).spawn(reap)?;
        Ok(ours)
    }
}

/// Waits until the other end of a connection is gone.
pub fn wait_for_end(connection: &OwnedFd) {
    loop {
        let mut polled = [PollFd::new(connection, PollFlags::empty())];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) if polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => return,
            Ok(_) | Err(Errno::INTR) => (),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn exchange(socket: &OwnedFd, request: &Request, sockets: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), Errno> {
    protocol::send(socket, request, sockets, true)?;
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&ANSWER_MAX)))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    match protocol::receive::<Reply>(socket, true)? {
        Received::Message(reply, sockets) => Ok((reply, sockets)),
        Received::Unknown => Err(Errno::PROTO),
        Received::End => Err(Errno::PIPE),
    }
}
