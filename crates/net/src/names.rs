//! Names of containers: who is called what on which network, told to netd, which answers the containers' questions.
//!
//! Sockets for questions are opened inside a container's namespace on ports of the kernel's choice, since whatever binds port
//! 53 there would take it from the container; a table of the container's own namespace translates 127.0.0.11:53 to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use types::Id;

use crate::endpoint::Protocol;
use crate::manager::Inner;
use crate::netd::zone::{Entry, ZoneFile};
use crate::netlink::Socket;
use crate::nft::{Expression as E, FAMILY_IPV4, Hook, Register, Transaction};
use crate::{Error, Net, Netns, Result, netns};

/// Where containers ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// The table inside a container's namespace.
const TABLE: &str = "cais_names";
const HOOK_OUTPUT: u32 = 3;
const PRIORITY_DSTNAT: i32 = -100;
const BACKLOG: i32 = 64;

/// How a container's questions are answered beyond the names of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolving {
    /// Servers for all other names. `None`: those that the host's `resolv.conf` lists at the time. Empty: nobody is asked.
    pub servers: Option<Vec<IpAddr>>,
    /// Names of this container alone, and the names that they stand for.
    pub links: Vec<(String, String)>,
}

/// The sockets at which a container asks; netd has copies.
#[derive(Debug)]
pub(crate) struct Resolver {
    udp: OwnedFd,
    tcp: OwnedFd,
    resolving: Resolving,
}

impl Net {
    /// Answers questions for names inside the namespace of a container, for as long as it is not told to stop. Once more: takes
    /// the place of the answers before. The networks are those that the container is attached to.
    pub fn serve_names(&self, netns: &Netns, container: &Id, resolving: Resolving) -> Result<()> {
        let (udp, tcp) = netns::inside(netns.as_fd(), open_sockets)?;
        self.inner.netd_ready()?;
        let _names = self.inner.names();
        self.inner.state().resolvers.insert(container.clone(), Resolver { udp, tcp, resolving });
        self.inner.tell_resolver(container, true)
    }

    /// Tells netd on which networks a container is now.
    pub fn refresh_names(&self, container: &Id) -> Result<()> {
        let _names = self.inner.names();
        self.inner.tell_resolver(container, false)
    }

    /// Stops answering.
    pub fn forget_names(&self, container: &Id) -> Result<()> {
        let _names = self.inner.names();
        match self.inner.state().resolvers.remove(container) {
            Some(_) => self.inner.netd.release(container.as_str()),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Tells netd who has which name on a network, if anybody asks there.
    pub fn tell_names(&self, network: &Id) -> Result<()> {
        let _names = self.names();
        let asked = {
            let state = self.state();
            !state.resolvers.is_empty()
                && state
                    .endpoints
                    .values()
                    .any(|endpoint| endpoint.network == *network && state.resolvers.contains_key(&endpoint.container))
        };
        if asked { self.tell_zone(network).or_else(lost) } else { Ok(()) }
    }

    /// A network is gone.
    pub fn forget_zone(&self, network: &Id) -> Result<()> {
        let _names = self.names();
        self.netd.forget_zone(network.as_str()).or_else(lost)
    }

    /// Gives a new netd everything that the one before had.
    pub fn tell_everything(&self) -> Result<()> {
        let _names = self.names();
        self.tell_kept()?;
        let containers: Vec<_> = self.state().resolvers.keys().cloned().collect();
        containers.iter().map(|container| self.tell_resolver(container, true)).fold(Ok(()), Result::and)
    }

    fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Networks of one container with their names, then who asks. The caller holds `names`.
    fn tell_resolver(&self, container: &Id, with_sockets: bool) -> Result<()> {
        let (networks, resolving, sockets) = {
            let state = self.state();
            let Some(resolver) = state.resolvers.get(container) else { return Ok(()) };
            let mut endpoints: Vec<_> = state.endpoints.values().filter(|endpoint| endpoint.container == *container).collect();
            endpoints.sort_by(|one, other| one.ifname.cmp(&other.ifname));
            let networks: Vec<_> = endpoints.into_iter().map(|endpoint| endpoint.network.clone()).collect();
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(|source| Error::Netd { operation: "copy a socket", source });
            let sockets = if with_sockets { vec![copy(&resolver.udp)?, copy(&resolver.tcp)?] } else { Vec::new() };
            (networks, resolver.resolving.clone(), sockets)
        };
        let told = networks.iter().try_for_each(|network| self.tell_zone(network));
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        told.and_then(|()| self.netd.resolve(container.as_str(), networks, &resolving, &sockets))
    }

    fn tell_zone(&self, network: &Id) -> Result<()> {
        let zone = {
            let state = self.state();
            let Some(live) = state.networks.get(network).filter(|live| live.network.is_user_defined()) else { return Ok(()) };
            let entry = |endpoint: &crate::Endpoint| Entry { addresses: endpoint.addresses().collect(), names: endpoint.names.clone() };
            let mut entries: Vec<_> = state.endpoints.values().filter(|endpoint| endpoint.network == *network).map(entry).collect();
            entries.extend(live.remote.iter().cloned());
            entries.sort_by(|one, other| one.addresses.cmp(&other.addresses));
            // The subnet of a wire has names of others.
            let own = live.network.driver.has_bridge();
            let (subnet, subnet6) = (live.network.subnet.filter(|_| own), live.network.subnet6().filter(|_| own));
            ZoneFile { network: live.network.name.clone(), subnet, subnet6, entries }
        };
        self.netd.zone(network.as_str(), &zone)
    }

    /// Whether somebody depends on netd for names.
    pub fn serves_names(self: &Arc<Self>) -> bool {
        !self.state().resolvers.is_empty()
    }
}

/// A netd that ended under our hands: its successor is told everything.
fn lost(error: Error) -> Result<()> {
    match error {
        Error::Netd { source, .. } if source.raw_os_error().is_some() => Ok(()),
        other => Err(other),
    }
}

/// On a thread inside the container's namespace.
fn open_sockets() -> Result<(OwnedFd, OwnedFd)> {
    let opened = || -> Result<_, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let any = SocketAddrV4::new(ADDRESS, 0);
        let udp = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&udp, &any)?;
        let tcp = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&tcp, &any)?;
        rustix::net::listen(&tcp, BACKLOG)?;
        Ok((udp, tcp))
    };
    let failed = |source| Error::Namespace { operation: "open sockets for names in", source };
    let (udp, tcp) = opened().map_err(failed)?;
    let port = |socket: &OwnedFd| -> Result<u16, Errno> { Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?.port()) };
    translate(&[(Protocol::Udp, port(&udp).map_err(failed)?), (Protocol::Tcp, port(&tcp).map_err(failed)?)])?;
    Ok((udp, tcp))
}

/// Writes the table of the calling thread's namespace.
fn translate(ports: &[(Protocol, u16)]) -> Result<()> {
    let failed = |source| Error::Nft { table: TABLE.to_owned(), operation: "install in the container's namespace".to_owned(), source };
    let mut socket = Socket::netfilter().map_err(failed)?;
    let mut transaction = Transaction::new(FAMILY_IPV4, TABLE);
    transaction.create_table();
    transaction.delete_table();
    transaction.create_table();
    transaction.create_chain("output", Some(Hook { kind: "nat", number: HOOK_OUTPUT, priority: PRIORITY_DSTNAT }));
    let first = Register(0);
    for (protocol, port) in ports {
        let [high, low] = port.to_be_bytes();
        let rule = [
            E::DestinationAddress(first),
            E::Is(&ADDRESS.octets()),
            E::TransportProtocol(first),
            E::Is(&[protocol.number()]),
            E::DestinationPort(first),
            E::Is(&PORT.to_be_bytes()),
            E::Load(first, ADDRESS.octets()),
            E::Load(Register(1), [high, low, 0, 0]),
            E::TranslateDestination,
        ];
        transaction.append_rule("output", &rule);
    }
    transaction.commit(&mut socket).map_err(|refusal| failed(refusal.errno))
}
