//! Containers' questions for names: datagrams are answered in the loop, each connection on a short-lived thread.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::dns::{self, Code, DATAGRAM_LEN_MAX, MESSAGE_LEN_MAX, Question};
use super::forward::{Asked, Forwarder, HostServers, addresses, ask_connected, read_message, write_message};
use super::zone::{Verdict, View, ZoneFile, Zones};

/// Queries are short; what is longer is cut, and so malformed.
const QUERY_LEN_MAX: usize = 4096;
/// Queries of one socket before others get their turn.
const ROUNDS_MAX: usize = 64;
/// Connections at a time, of all containers.
const CONNECTIONS_MAX: usize = 64;
/// Queries on one connection.
const QUERIES_PER_CONNECTION_MAX: usize = 64;
/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const EXPIRY_INTERVAL: Duration = Duration::from_millis(200);
/// Who has which name on one network.
const ZONE_LEN_MAX: usize = 16 << 20;

/// What is known, shared with the threads of connections.
#[derive(Debug, Default)]
struct Known {
    zones: Zones,
    host: HostServers,
}

#[derive(Debug)]
struct Asking {
    key: String,
    socket: Rc<OwnedFd>,
    connections: bool,
}

/// All that answers.
#[derive(Debug)]
pub struct Names {
    known: Arc<Mutex<Known>>,
    sockets: HashMap<u64, Asking>,
    forwarder: Forwarder,
    connections: Arc<AtomicUsize>,
    expired: Instant,
}

impl Names {
    pub fn new() -> Self {
        Self {
            known: Arc::default(),
            sockets: HashMap::new(),
            forwarder: Forwarder::default(),
            connections: Arc::default(),
            expired: Instant::now(),
        }
    }

    /// Whether questions wait for answers of others.
    pub fn waits(&self) -> bool {
        !self.forwarder.is_empty()
    }

    /// Puts what a file says in place of what was known of a network.
    pub fn set_zone(&mut self, network: String, file: &OwnedFd) -> Result<(), String> {
        let body = read_file(file).map_err(|error| format!("read the names of {network}: {error}"))?;
        let zone: ZoneFile = serde_json::from_slice(&body).map_err(|error| format!("read the names of {network}: {error}"))?;
        self.known().zones.set_zone(network, zone);
        Ok(())
    }

    pub fn forget_zone(&mut self, network: &str) {
        self.known().zones.forget_zone(network);
    }

    /// Answers for a key. `watch` registers its sockets, which may be none, and gives them tokens.
    pub fn resolve(
        &mut self,
        key: &str,
        view: View,
        sockets: Vec<OwnedFd>,
        mut watch: impl FnMut(&OwnedFd) -> Result<u64, Errno>,
    ) -> Result<Vec<u64>, String> {
        let mut tokens = Vec::new();
        for socket in sockets {
            let added = sockopt::socket_type(&socket).and_then(|kind| Ok((kind == SocketType::STREAM, watch(&socket)?)));
            let (connections, token) = added.map_err(|errno| format!("watch the sockets of {key}: {errno}"))?;
            self.sockets.insert(token, Asking { key: key.to_owned(), socket: Rc::new(socket), connections });
            tokens.push(token);
        }
        self.known().zones.set_view(key.to_owned(), view);
        Ok(tokens)
    }

    pub fn knows(&self, key: &str) -> bool {
        self.known().zones.has_view(key)
    }

    /// Closes a socket.
    pub fn close(&mut self, token: u64) {
        self.sockets.remove(&token);
    }

    /// Stops answering for a key.
    pub fn forget(&mut self, key: &str) {
        self.forwarder.forget(key);
        self.known().zones.forget_view(key);
    }

    /// Something arrived at a container's socket.
    pub fn arrive(&mut self, token: u64, mut watch: impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        let Some(asking) = self.sockets.get(&token) else { return };
        let (key, socket) = (asking.key.clone(), Rc::clone(&asking.socket));
        if asking.connections {
            return self.accept(&key, &socket);
        }
        let mut buffer = [0; QUERY_LEN_MAX];
        for _ in 0..ROUNDS_MAX {
            let (query, client) = match rustix::net::recvfrom(&*socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((len, _, Some(peer))) => match SocketAddr::try_from(peer) {
                    Ok(client) => (&buffer[..len], client),
                    Err(_) => continue,
                },
                Err(Errno::AGAIN) => return,
                // What earlier answers met is told on the next receive.
                Ok(_) | Err(_) => continue,
            };
            let step = self.known().step(&key, query, DATAGRAM_LEN_MAX);
            match step {
                Step::Silence => (),
                Step::Answer(answer) => {
                    let _ = rustix::net::sendto(&*socket, &answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &client);
                }
                Step::HandOn(servers) => {
                    let asked = Asked { key: key.clone(), socket: Rc::clone(&socket), client, query: query.to_vec() };
                    self.forwarder.hand_on(asked, servers, &mut watch);
                }
            }
        }
    }

    /// A server of others answered.
    pub fn receive(&mut self, token: u64, mut watch: impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        self.forwarder.receive(token, &mut watch);
    }

    /// Looks after servers that take too long.
    pub fn expire(&mut self, mut watch: impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        if self.waits() && self.expired.elapsed() >= EXPIRY_INTERVAL {
            self.expired = Instant::now();
            self.forwarder.expire(&mut watch);
        }
    }

    fn accept(&self, key: &str, socket: &OwnedFd) {
        let Ok(client) = rustix::net::accept_with(socket, SocketFlags::CLOEXEC) else { return };
        // One too many is closed at once: its client asks again.
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let place = Place(Arc::clone(&self.connections));
        let (known, key) = (Arc::clone(&self.known), key.to_owned());
        let serve = move || {
            let _place = place;
            // The client's end of a connection is its own affair.
            let _ = serve_connection(&known, &key, TcpStream::from(client));
        };
        let _ = thread::Builder::new().name("names".to_owned()).stack_size(256 * 1024).spawn(serve);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the connections that may be, given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What becomes of a query.
enum Step {
    Silence,
    Answer(Vec<u8>),
    HandOn(Vec<SocketAddr>),
}

impl Known {
    fn step(&mut self, key: &str, query: &[u8], len_max: usize) -> Step {
        let question: Question = match dns::parse(query) {
            Ok(question) => question,
            Err(None) => return Step::Silence,
            Err(Some(code)) => return Step::Answer(dns::complaint(query, None, code)),
        };
        match self.zones.judge(key, &question) {
            Verdict::Answer(records) => Step::Answer(dns::answer(query, &question, Code::NoError, &records, len_max)),
            Verdict::NoSuchName => Step::Answer(dns::answer(query, &question, Code::NoSuchName, &[], len_max)),
            Verdict::Refuse => Step::Answer(dns::complaint(query, Some(&question), Code::Refused)),
            Verdict::HandOn => Step::HandOn(match self.zones.servers(key) {
                Some(servers) => addresses(&servers),
                None => addresses(self.host.get()),
            }),
        }
    }
}

fn serve_connection(known: &Mutex<Known>, key: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    for _ in 0..QUERIES_PER_CONNECTION_MAX {
        let query = read_message(&mut stream)?;
        let step = known.lock().unwrap_or_else(PoisonError::into_inner).step(key, &query, MESSAGE_LEN_MAX);
        let answer = match step {
            Step::Silence => return Ok(()),
            Step::Answer(answer) => answer,
            Step::HandOn(servers) => {
                ask_connected(&query, &servers).unwrap_or_else(|| dns::complaint(&query, dns::parse(&query).ok().as_ref(), Code::Failed))
            }
        };
        write_message(&mut stream, &answer)?;
    }
    Ok(())
}

fn read_file(file: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut body = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let len = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut chunk[..], body.len() as u64))?;
        if len == 0 {
            return Ok(body);
        }
        if body.len() + len > ZONE_LEN_MAX {
            return Err(Errno::FBIG);
        }
        body.extend_from_slice(&chunk[..len]);
    }
}
