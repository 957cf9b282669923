//! Proxied datagrams: one socket towards the container for each client, forgotten when it falls silent.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

/// Silence after which a client is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// Clients of all ports together; the most silent one makes room for a new one.
const SESSIONS_MAX: usize = 1024;
/// The longest datagram.
const DATAGRAM_LEN_MAX: usize = 65_536;
/// Datagrams of one socket before others get their turn.
const ROUNDS_MAX: usize = 64;

/// A held UDP socket.
#[derive(Debug)]
pub struct Port {
    pub socket: OwnedFd,
    pub target: SocketAddr,
    /// An IPv6 socket, which may take IPv4 too.
    pub ipv6: bool,
}

/// Who sent a datagram, to which of our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client {
    port: u64,
    peer: SocketAddr,
    destination: Option<Ipv6Addr>,
    interface: u32,
}

#[derive(Debug)]
struct Session {
    client: Client,
    port: Rc<Port>,
    upstream: OwnedFd,
    last: Instant,
}

/// The clients of all ports.
#[derive(Debug)]
pub struct Sessions {
    sessions: HashMap<u64, Session>,
    clients: HashMap<Client, u64>,
    buffer: Vec<u8>,
}

impl Sessions {
    pub fn new() -> Self {
        Self { sessions: HashMap::new(), clients: HashMap::new(), buffer: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Passes on what clients sent to a port. `watch` registers the socket of a new session and gives it a token.
    pub fn pass_to_container(&mut self, token: u64, port: &Rc<Port>, mut watch: impl FnMut(&OwnedFd) -> Result<u64, Errno>) {
        self.buffer.resize(DATAGRAM_LEN_MAX, 0);
        for _ in 0..ROUNDS_MAX {
            let (len, client) = match receive(token, port, &mut self.buffer) {
                Ok(got) => got,
                Err(Errno::AGAIN) => return,
                // What earlier answers met (an unreachable client) is told on the next receive.
                Err(_) => continue,
            };
            let known = self.clients.get(&client).copied();
            let Some(session) = known.or_else(|| self.open(client, port, &mut watch).ok()) else { continue };
            if let Some(session) = self.sessions.get_mut(&session) {
                session.last = Instant::now();
                // Lost datagrams are the clients' to handle, as on any network.
                let _ = rustix::net::send(&session.upstream, &self.buffer[..len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
        }
    }

    /// Passes on what the container answered in a session.
    pub fn pass_to_client(&mut self, session: u64) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        self.buffer.resize(DATAGRAM_LEN_MAX, 0);
        for _ in 0..ROUNDS_MAX {
            match rustix::net::recv(&session.upstream, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    session.last = Instant::now();
                    answer(session, &self.buffer[..len]);
                }
                Err(Errno::AGAIN) => return,
                // Nobody listens in the container just now.
                Err(_) => (),
            }
        }
    }

    /// Forgets the clients of a port, so that its socket can close.
    pub fn forget_port(&mut self, token: u64) {
        self.retain(|session| session.client.port != token);
    }

    /// Forgets silent clients.
    pub fn expire(&mut self) {
        let now = Instant::now();
        self.retain(|session| now.duration_since(session.last) < IDLE_MAX);
        self.buffer = Vec::new();
    }

    fn open(&mut self, client: Client, port: &Rc<Port>, watch: &mut impl FnMut(&OwnedFd) -> Result<u64, Errno>) -> Result<u64, Errno> {
        if self.sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = self.sessions.iter().min_by_key(|(_, session)| session.last).map(|(token, _)| *token)
            && let Some(session) = self.sessions.remove(&oldest)
        {
            self.clients.remove(&session.client);
        }
        let upstream = rustix::net::socket_with(
            super::tcp::family(port.target),
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&upstream, &port.target)?;
        let token = watch(&upstream)?;
        self.clients.insert(client, token);
        self.sessions.insert(token, Session { client, port: Rc::clone(port), upstream, last: Instant::now() });
        Ok(token)
    }

    fn retain(&mut self, keep: impl Fn(&Session) -> bool) {
        self.sessions.retain(|_, session| keep(session));
        let sessions = &self.sessions;
        self.clients.retain(|_, token| sessions.contains_key(token));
    }
}

fn receive(token: u64, port: &Port, buffer: &mut [u8]) -> Result<(usize, Client), Errno> {
    if port.ipv6 {
        let got = kernel::net::receive_datagram(&port.socket, buffer)?;
        return Ok((got.len, Client { port: token, peer: got.peer.into(), destination: got.destination, interface: got.interface }));
    }
    let (len, _, peer) = rustix::net::recvfrom(&port.socket, buffer, RecvFlags::DONTWAIT)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::AFNOSUPPORT)?;
    Ok((len, Client { port: token, peer, destination: None, interface: 0 }))
}

/// Answers come from the address that the client wrote to.
fn answer(session: &Session, bytes: &[u8]) {
    let client = &session.client;
    let _ = match client.peer {
        SocketAddr::V6(peer) => {
            // Naming the interface matters for link-local addresses only, and would defeat routing for others.
            let interface = if peer.ip().is_unicast_link_local() { client.interface } else { 0 };
            kernel::net::send_datagram(&session.port.socket, bytes, peer, client.destination, interface)
        }
        SocketAddr::V4(peer) => rustix::net::sendto(&session.port.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &peer),
    };
}
