//! Questions about names of others, handed on to the servers of the host from the host's own namespace.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::dns::{self, Code, MESSAGE_LEN_MAX};

/// How long one server may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Questions under way, of all containers and of one.
const PENDING_MAX: usize = 1024;
const PENDING_OF_ONE_MAX: usize = 256;
/// How often servers are asked, all together.
const TRIES_MAX: usize = 4;
const SERVERS_MAX: usize = 3;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_LEN_MAX: u64 = 64 * 1024;

/// The servers that the host uses, read again when the file has changed.
#[derive(Debug, Default)]
pub struct HostServers {
    seen: Option<SystemTime>,
    servers: Vec<IpAddr>,
}

impl HostServers {
    pub fn get(&mut self) -> &[IpAddr] {
        let changed = fs::metadata(RESOLV_CONF).and_then(|meta| meta.modified()).ok();
        if self.servers.is_empty() || changed != self.seen {
            self.seen = changed;
            let mut text = String::new();
            let _ = fs::File::open(RESOLV_CONF).and_then(|file| file.take(RESOLV_CONF_LEN_MAX).read_to_string(&mut text));
            self.servers = crate::files::servers(&text);
        }
        &self.servers
    }
}

/// The first few servers, as addresses to send to.
pub fn addresses(servers: &[IpAddr]) -> Vec<SocketAddr> {
    servers.iter().take(SERVERS_MAX).map(|address| SocketAddr::new(*address, 53)).collect()
}

/// A question that came as a datagram.
#[derive(Debug)]
pub struct Asked {
    /// Who asked, by the key of [`super::zone::Zones`].
    pub key: String,
    /// Where it came in, and from whom.
    pub socket: Rc<OwnedFd>,
    pub client: SocketAddr,
    pub query: Vec<u8>,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    /// With an id of our own.
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    tries: usize,
    upstream: OwnedFd,
    since: Instant,
}

/// Questions that wait for an answer.
#[derive(Debug, Default)]
pub struct Forwarder {
    pending: HashMap<u64, Pending>,
    random: RandomState,
    count: u64,
    buffer: Vec<u8>,
}

impl Forwarder {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Hands a question on. `watch` registers the socket for the answer and gives it a token.
    pub fn hand_on(&mut self, asked: Asked, servers: Vec<SocketAddr>, watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        let of_one = self.pending.values().filter(|pending| pending.asked.key == asked.key).count();
        if servers.is_empty() || self.pending.len() >= PENDING_MAX || of_one >= PENDING_OF_ONE_MAX {
            return give_up(&asked);
        }
        self.count += 1;
        let mut query = asked.query.clone();
        // Who cannot see the question cannot guess number and port of its answer.
        dns::set_id(&mut query, (self.random.hash_one(self.count) as u16).to_be_bytes());
        self.ask(asked, query, servers, 0, watch);
    }

    /// What came back on a socket.
    pub fn receive(&mut self, token: u64, watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        let Some(pending) = self.pending.get(&token) else { return };
        self.buffer.resize(MESSAGE_LEN_MAX, 0);
        let got = rustix::net::recv(&pending.upstream, &mut self.buffer[..], RecvFlags::DONTWAIT);
        let len = match got {
            Ok((len, _)) => len,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.try_next(token, watch),
        };
        let answer = &mut self.buffer[..len];
        if !dns::answers(answer, &pending.query) {
            return;
        }
        let fails = [Code::Failed as u8, Code::Refused as u8, Code::NotImplemented as u8].contains(&dns::code(answer));
        if fails && pending.tries < pending.servers.len() {
            return self.try_next(token, watch);
        }
        dns::set_id(answer, dns::id(&pending.asked.query).unwrap_or_default());
        let _ = rustix::net::sendto(&*pending.asked.socket, answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &pending.asked.client);
        self.pending.remove(&token);
    }

    /// Asks the next server where one took too long.
    pub fn expire(&mut self, watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        let late = self.pending.iter().filter(|(_, pending)| pending.since.elapsed() >= ANSWER_MAX).map(|(token, _)| *token);
        for token in late.collect::<Vec<_>>() {
            self.try_next(token, watch);
        }
        self.buffer = Vec::new();
    }

    /// Whoever asked is gone.
    pub fn forget(&mut self, key: &str) {
        self.pending.retain(|_, pending| pending.asked.key != key);
    }

    fn try_next(&mut self, token: u64, watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        let Some(pending) = self.pending.remove(&token) else { return };
        self.ask(pending.asked, pending.query, pending.servers, pending.tries, watch);
    }

    fn ask(
        &mut self,
        asked: Asked,
        query: Vec<u8>,
        servers: Vec<SocketAddr>,
        mut tries: usize,
        watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>,
    ) {
        while tries < TRIES_MAX.min(servers.len() * 2) {
            let sent = send(&query, servers[tries % servers.len()]);
            tries += 1;
            if let Ok((upstream, token)) = sent.and_then(|upstream| watch(&upstream).map(|token| (upstream, token))) {
                self.pending.insert(token, Pending { asked, query, servers, tries, upstream, since: Instant::now() });
                return;
            }
        }
        give_up(&asked);
    }
}

/// Says that there is no answer to be had.
fn give_up(asked: &Asked) {
    let question = dns::parse(&asked.query).ok();
    let answer = dns::complaint(&asked.query, question.as_ref(), Code::Failed);
    let _ = rustix::net::sendto(&*asked.socket, &answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &asked.client);
}

/// A socket, and so a port, for this question alone.
fn send(query: &[u8], server: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::connect(&socket, &server)?;
    rustix::net::send(&socket, query, SendFlags::NOSIGNAL)?;
    Ok(socket)
}

/// Asks one server after the other over a connection, for a client that asked over one. Blocks.
pub fn ask_connected(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    let ask = |server: &SocketAddr| -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(server, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        write_message(&mut stream, query)?;
        let answer = read_message(&mut stream)?;
        if dns::answers(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    servers.iter().find_map(|server| ask(server).ok())
}

/// A message on a connection: its length, then itself.
pub fn read_message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

pub fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&len.to_be_bytes()[..], message].concat())
}
