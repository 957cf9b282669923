//! The program: one loop over engines' connections, held ports, proxied connections and datagrams.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::Keep;
use super::names::Names;
use super::protocol::{self, HeldPort, KEYS_PER_MESSAGE_MAX, PORTS_PER_MESSAGE_MAX, Received, Reply, Request};
use super::tcp::{Flow, Progress};
use super::udp::{Port, Sessions};
use super::zone::View;
use crate::endpoint::Protocol;

/// How long it stays without ports and engines.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long names are still answered when there is a successor: until the engine has told that one about them.
const RETIRED_NAMES_MAX: Duration = Duration::from_secs(60);
/// How often it looks after idle clients and itself, while there is something to look after.
const TICK: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// How often it looks after servers that owe it answers.
const IMPATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Proxied connections at a time; more wait in the sockets' queues.
const FLOWS_MAX: usize = 4096;
/// Connections accepted from one socket before others get their turn.
const ACCEPTS_MAX: usize = 64;
const EVENTS_MAX: usize = 256;
const KEY_LEN_MAX: usize = 128;
/// The descriptor that the engine which starts netd leaves it.
const FIRST_ENGINE: i32 = 3;
/// What `ps` and messages about taken ports call it.
const PROCESS_NAME: &CStr = c"cais-netd";
/// The user and group "nobody".
const NOBODY: u32 = 65534;

/// Serves engines at the path, as a netd of that version of the protocol, until there is nothing to do.
pub fn run(path: &Path, version: u32, keep: Keep) -> io::Result<()> {
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(PROCESS_NAME);
    raise_descriptor_limit();
    let mut program = Program::new(rustix::process::geteuid(), version, keep)?;
    program.adopt_first_engine()?;
    let listener = listen(path)?;
    give_up_privileges()?;
    program.watch(listener.as_fd(), Token::Listener, EventFlags::IN)?;
    program.run(&listener)
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Engine(u64),
    Port(u64),
    Flow(u64),
    Session(u64),
    /// Where a container asks for names.
    Names(u64),
    /// Where a server of others answers.
    Server(u64),
}

impl Token {
    const KIND_SHIFT: u32 = 56;

    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener => (0, 0),
            Self::Engine(id) => (1, id),
            Self::Port(id) => (2, id),
            Self::Flow(id) => (3, id),
            Self::Session(id) => (4, id),
            Self::Names(id) => (5, id),
            Self::Server(id) => (6, id),
        };
        kind << Self::KIND_SHIFT | id
    }

    fn unpack(number: u64) -> Self {
        let id = number & ((1 << Self::KIND_SHIFT) - 1);
        match number >> Self::KIND_SHIFT {
            0 => Self::Listener,
            1 => Self::Engine(id),
            2 => Self::Port(id),
            3 => Self::Flow(id),
            4 => Self::Session(id),
            5 => Self::Names(id),
            _ => Self::Server(id),
        }
    }
}

#[derive(Debug)]
enum Held {
    Tcp {
        socket: OwnedFd,
        target: SocketAddr,
    },
    Udp(Rc<Port>),
    /// Reserved, and no more: what the kernel does not pass on is lost.
    Sctp {
        socket: OwnedFd,
        target: SocketAddr,
    },
}

#[derive(Debug)]
struct Program {
    epoll: OwnedFd,
    /// Who may give orders.
    owner: Uid,
    next: u64,
    engines: HashMap<u64, OwnedFd>,
    /// Tokens of ports by the key that they are held for.
    keys: BTreeMap<String, Vec<u64>>,
    ports: HashMap<u64, Held>,
    flows: HashMap<u64, Flow>,
    sessions: Sessions,
    names: Names,
    /// Connections that had their turn but not their fill.
    again: Vec<u64>,
    /// Given up for a moment when descriptors run out, to accept and refuse a connection that would wake us forever.
    spare: Option<OwnedFd>,
    idle_since: Option<Instant>,
    quit: bool,
    version: u32,
    /// Since when a successor holds the ports.
    retired_since: Option<Instant>,
    keep: Keep,
    kept: Kept,
}

/// What is being kept, and whether it is still wanted.
#[derive(Debug, Default)]
struct Kept {
    what: String,
    wanted: Arc<AtomicBool>,
}

impl Program {
    fn new(owner: Uid, version: u32, keep: Keep) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            owner,
            next: 1,
            engines: HashMap::new(),
            keys: BTreeMap::new(),
            ports: HashMap::new(),
            flows: HashMap::new(),
            sessions: Sessions::new(),
            names: Names::new(),
            again: Vec::new(),
            spare: spare(),
            idle_since: None,
            quit: false,
            version,
            retired_since: None,
            keep,
            kept: Kept::default(),
        })
    }

    fn run(&mut self, listener: &OwnedFd) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.quit && !self.idle_for_long() {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => (),
                Err(errno) => return Err(errno.into()),
            }
            for flow in std::mem::take(&mut self.again) {
                self.advance(flow);
            }
            for event in &events {
                match Token::unpack(event.data.u64()) {
                    Token::Listener => self.accept_engine(listener),
                    Token::Engine(id) => self.serve(id),
                    Token::Port(id) => self.arrive(id),
                    Token::Flow(id) => self.advance(id),
                    Token::Session(id) => self.sessions.pass_to_client(id),
                    Token::Names(id) => self.names.arrive(id, watch_server(&self.epoll, &mut self.next)),
                    Token::Server(id) => self.names.receive(id, watch_server(&self.epoll, &mut self.next)),
                }
            }
            self.names.expire(watch_server(&self.epoll, &mut self.next));
            if events.is_empty() {
                self.sessions.expire();
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Timespec> {
        let idle = self.retired_since.is_some() || self.engines.is_empty() && self.keys.is_empty();
        match () {
            () if !self.again.is_empty() => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            () if self.names.waits() => Some(IMPATIENCE),
            () if idle || !self.sessions.is_empty() => Some(TICK),
            () => None,
        }
    }

    fn idle_for_long(&mut self) -> bool {
        if let Some(since) = self.retired_since {
            return self.flows.is_empty() && since.elapsed() >= RETIRED_NAMES_MAX;
        }
        if !self.engines.is_empty() || !self.keys.is_empty() {
            self.idle_since = None;
            return false;
        }
        self.idle_since.get_or_insert_with(Instant::now).elapsed() >= IDLE_MAX
    }

    fn watch(&self, socket: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token.pack()), flags)
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Engines and what they ask for.
impl Program {
    fn adopt_first_engine(&mut self) -> io::Result<()> {
        match kernel::spawn::inherited(FIRST_ENGINE) {
            Ok(engine) if sockopt::socket_type(&engine) == Ok(SocketType::SEQPACKET) => Ok(self.add_engine(engine)?),
            // Started by hand.
            _ => Ok(()),
        }
    }

    fn accept_engine(&mut self, listener: &OwnedFd) {
        let Ok(engine) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        let trusted = sockopt::socket_peercred(&engine).is_ok_and(|peer| peer.uid == self.owner || peer.uid.is_root());
        if trusted {
            let _ = self.add_engine(engine);
        }
    }

    fn add_engine(&mut self, engine: OwnedFd) -> Result<(), Errno> {
        let id = self.token();
        self.watch(&engine, Token::Engine(id), EventFlags::IN)?;
        self.engines.insert(id, engine);
        Ok(())
    }

    fn serve(&mut self, id: u64) {
        let Some(engine) = self.engines.get(&id) else { return };
        let mut given = Vec::new();
        let reply = match protocol::receive::<Request>(engine, false) {
            Err(Errno::AGAIN) => return,
            Ok(Received::Message(Request::Give { key, offset }, _)) => match self.give(&key, offset) {
                Ok((ports, sockets)) => {
                    given = sockets;
                    Reply::Given { ports }
                }
                Err(errno) => Reply::Refused { reason: format!("copy the sockets of {key}: {errno}") },
            },
            Ok(Received::Message(request, sockets)) => self.answer(request, sockets),
            Ok(Received::Unknown) => Reply::Refused { reason: "this netd does not know such a request".to_owned() },
            Ok(Received::End) | Err(_) => {
                self.engines.remove(&id);
                return;
            }
        };
        let Some(engine) = self.engines.get(&id) else { return };
        // An engine that does not read its answers is no longer served.
        let sockets: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        if protocol::send(engine, &reply, &sockets, false).is_err() {
            self.engines.remove(&id);
        }
    }

    fn answer(&mut self, request: Request, sockets: Vec<OwnedFd>) -> Reply {
        match request {
            Request::Hold { key, ports } => self.hold(key, ports, sockets),
            Request::Release { key } => {
                for port in self.keys.remove(&key).unwrap_or_default() {
                    self.sessions.forget_port(port);
                    self.ports.remove(&port);
                    self.names.close(port);
                }
                self.names.forget(&key);
                Reply::Done
            }
            Request::Zone { network } => {
                let told = sockets.first().ok_or("no file came along".to_owned()).and_then(|file| self.names.set_zone(network, file));
                told.map_or_else(|reason| Reply::Refused { reason }, |()| Reply::Done)
            }
            Request::ForgetZone { network } => {
                self.names.forget_zone(&network);
                Reply::Done
            }
            Request::Resolve { key, networks, links, servers } => {
                let links = links.into_iter().map(|(name, target)| (name.to_lowercase(), target.to_lowercase())).collect();
                self.resolve(key, View { networks, links, servers }, sockets)
            }
            Request::List { after } => {
                let rest = self.keys.range::<str, _>((Bound::Excluded(after.as_str()), Bound::Unbounded));
                Reply::Held { keys: rest.take(KEYS_PER_MESSAGE_MAX).map(|(key, ports)| (key.clone(), ports.len() as u32)).collect() }
            }
            Request::Version => Reply::Version { number: self.version },
            // Answered where it came in, with sockets.
            Request::Give { .. } => Reply::Refused { reason: "nothing can be given here".to_owned() },
            Request::Retire => {
                self.retire();
                Reply::Done
            }
            Request::Keep { what } => self.keep(what),
            Request::Quit => {
                self.quit = true;
                Reply::Done
            }
        }
    }

    fn keep(&mut self, what: String) -> Reply {
        if what == self.kept.what {
            return Reply::Done;
        }
        self.kept.wanted.store(false, Ordering::Relaxed);
        self.kept = Kept { what: what.clone(), wanted: Arc::new(AtomicBool::new(true)) };
        if what.is_empty() {
            return Reply::Done;
        }
        let (keep, wanted) = (self.keep, self.kept.wanted.clone());
        let thread = std::thread::Builder::new().name("keep".to_owned());
        match thread.spawn(move || keep(&what, &|| wanted.load(Ordering::Relaxed))) {
            Ok(_) => Reply::Done,
            Err(error) => Reply::Refused { reason: format!("start a thread: {error}") },
        }
    }

    fn hold(&mut self, key: String, ports: Vec<HeldPort>, sockets: Vec<OwnedFd>) -> Reply {
        let fits = ports.len() == sockets.len() && ports.len() <= PORTS_PER_MESSAGE_MAX && (1..=KEY_LEN_MAX).contains(&key.len());
        if !fits {
            return Reply::Refused { reason: format!("{} ports came with {} sockets", ports.len(), sockets.len()) };
        }
        let mut tokens = Vec::with_capacity(ports.len());
        let mut failure = None;
        for (port, socket) in ports.into_iter().zip(sockets) {
            match self.add_port(&port, socket) {
                Ok(token) => tokens.push(token),
                Err(errno) => failure = Some(format!("watch the socket of {}: {errno}", port.target)),
            }
        }
        if let Some(reason) = failure {
            tokens.iter().for_each(|token| drop(self.ports.remove(token)));
            return Reply::Refused { reason };
        }
        self.keys.entry(key).or_default().extend(tokens);
        Reply::Done
    }

    /// Copies of the ports of a key.
    fn give(&self, key: &str, offset: u32) -> Result<(Vec<HeldPort>, Vec<OwnedFd>), Errno> {
        // Sockets for names are among a key's tokens, but not among the ports.
        let tokens = self.keys.get(key).into_iter().flatten();
        let held = tokens.filter_map(|token| self.ports.get(token)).skip(offset as usize).take(PORTS_PER_MESSAGE_MAX);
        let copy = |held: &Held| {
            let (protocol, target, socket) = match held {
                Held::Tcp { socket, target } => (Protocol::Tcp, *target, socket),
                Held::Udp(port) => (Protocol::Udp, port.target, &port.socket),
                Held::Sctp { socket, target } => (Protocol::Sctp, *target, socket),
            };
            Ok((HeldPort { protocol, target }, rustix::io::fcntl_dupfd_cloexec(socket, 0)?))
        };
        held.map(copy).collect::<Result<Vec<_>, Errno>>().map(|pairs| pairs.into_iter().unzip())
    }

    /// Lets go of all ports, whose sockets a successor has too. What is under way stays until it ends.
    fn retire(&mut self) {
        for (token, held) in std::mem::take(&mut self.ports) {
            let socket = match &held {
                Held::Tcp { socket, .. } | Held::Sctp { socket, .. } => socket,
                Held::Udp(port) => &port.socket,
            };
            // A copy elsewhere would keep it in the set.
            let _ = epoll::delete(&self.epoll, socket);
            self.sessions.forget_port(token);
        }
        self.kept.wanted.store(false, Ordering::Relaxed);
        self.retired_since = Some(Instant::now());
    }

    fn resolve(&mut self, key: String, view: View, sockets: Vec<OwnedFd>) -> Reply {
        let known = self.names.knows(&key);
        let fits = (1..=KEY_LEN_MAX).contains(&key.len()) && (sockets.len() == 2 || sockets.is_empty() && known);
        if !fits {
            return Reply::Refused { reason: format!("{} sockets came for names", sockets.len()) };
        }
        let replaces = !sockets.is_empty();
        let (epoll, next) = (&self.epoll, &mut self.next);
        let resolved = self.names.resolve(&key, view, sockets, |socket| {
            *next += 1;
            epoll::add(epoll, socket, EventData::new_u64(Token::Names(*next).pack()), EventFlags::IN)?;
            Ok(*next)
        });
        match resolved {
            Ok(tokens) if replaces => {
                let old = self.keys.insert(key, tokens).unwrap_or_default();
                old.into_iter().for_each(|token| self.names.close(token));
                Reply::Done
            }
            Ok(_) => Reply::Done,
            Err(reason) => Reply::Refused { reason },
        }
    }

    fn add_port(&mut self, port: &HeldPort, socket: OwnedFd) -> Result<u64, Errno> {
        let local: SocketAddr = rustix::net::getsockname(&socket)?.try_into()?;
        let token = self.token();
        if port.protocol != Protocol::Sctp {
            self.watch(&socket, Token::Port(token), EventFlags::IN)?;
        }
        let held = match port.protocol {
            Protocol::Sctp => Held::Sctp { socket, target: port.target },
            Protocol::Tcp => Held::Tcp { socket, target: port.target },
            Protocol::Udp => {
                if local.is_ipv6() {
                    kernel::net::set_receive_destination(&socket)?;
                }
                Held::Udp(Rc::new(Port { socket, target: port.target, ipv6: local.is_ipv6() }))
            }
        };
        self.ports.insert(token, held);
        Ok(token)
    }
}

/// What arrives at held ports.
impl Program {
    fn arrive(&mut self, id: u64) {
        match self.ports.get(&id) {
            Some(Held::Udp(port)) => {
                let port = Rc::clone(port);
                let (epoll, next) = (&self.epoll, &mut self.next);
                self.sessions.pass_to_container(id, &port, |socket| {
                    *next += 1;
                    epoll::add(epoll, socket, EventData::new_u64(Token::Session(*next).pack()), EventFlags::IN)?;
                    Ok(*next)
                });
            }
            Some(Held::Tcp { target, .. }) => {
                let target = *target;
                self.accept(id, target);
            }
            Some(Held::Sctp { .. }) | None => (),
        }
    }

    fn accept(&mut self, id: u64, target: SocketAddr) {
        for _ in 0..ACCEPTS_MAX {
            let Some(Held::Tcp { socket, .. }) = self.ports.get(&id) else { return };
            match rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) if self.flows.len() < FLOWS_MAX => self.open_flow(client, target),
                Ok(client) => drop(client),
                Err(Errno::MFILE | Errno::NFILE) => {
                    self.spare = None;
                    drop(rustix::net::accept_with(socket, SocketFlags::CLOEXEC));
                    self.spare = spare();
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn open_flow(&mut self, client: OwnedFd, target: SocketAddr) {
        let Ok(flow) = Flow::open(client, target) else { return };
        let id = self.token();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = self.watch(&flow.client, Token::Flow(id), flags).and_then(|()| self.watch(&flow.upstream, Token::Flow(id), flags));
        if watched.is_ok() {
            self.flows.insert(id, flow);
        }
    }

    fn advance(&mut self, id: u64) {
        match self.flows.get_mut(&id).map(Flow::advance) {
            Some(Progress::Ended) => drop(self.flows.remove(&id)),
            Some(Progress::Again) if !self.again.contains(&id) => self.again.push(id),
            _ => (),
        }
    }
}

/// Registers sockets at which servers will answer.
fn watch_server<'a>(epoll: &'a OwnedFd, next: &'a mut u64) -> impl FnMut(&OwnedFd) -> Result<u64, Errno> + 'a {
    move |socket| {
        *next += 1;
        epoll::add(epoll, socket, EventData::new_u64(Token::Server(*next).pack()), EventFlags::IN)?;
        Ok(*next)
    }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // The engine starts a netd only when nobody answers at the path: what is there is of a dead one.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let (address, _folder) = protocol::address(path)?;
    rustix::net::bind(&socket, &address)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// From here on nothing of the machine can be changed: no capability, no way to gain one, and the user nobody where
/// that is possible (in a user namespace without that user it is not).
fn give_up_privileges() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() {
        let changed = rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user));
        match changed {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => (),
            Err(errno) => return Err(errno.into()),
        }
    }
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn spare() -> Option<OwnedFd> {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_pack_and_unpack() {
        for token in [
            Token::Listener,
            Token::Engine(1),
            Token::Port(2),
            Token::Flow((1 << 56) - 1),
            Token::Session(9),
            Token::Names(7),
            Token::Server(8),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
