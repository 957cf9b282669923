//! What connects a container to a network, and the ports of the host that lead to it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use types::Id;

use crate::{Mac, Subnet, Subnet6};

/// What [`crate::Net::attach`] is asked for.
#[derive(Debug, Clone)]
pub struct EndpointRequest {
    /// The endpoint's id, where it has one already; else a new one.
    pub id: Option<Id>,
    /// The container's id, the key under which its ports are held.
    pub container: Id,
    /// How people call the container: told to whoever wants an address or port that it has.
    pub owner: String,
    /// The network by name or id.
    pub network: String,
    /// A fixed address instead of the next free one.
    pub address: Option<Ipv4Addr>,
    /// The same of an IPv6 network.
    pub address6: Option<Ipv6Addr>,
    /// Further addresses of the link alone.
    pub link_local: Vec<IpAddr>,
    /// A fixed hardware address instead of one derived from the address.
    pub mac: Option<Mac>,
    /// The interface's name inside, `eth0` by default.
    pub ifname: Option<String>,
    /// Whether the container's default route leads through this network. An internal network never gives one.
    pub default_route: bool,
    /// The same of IPv6.
    pub default_route6: bool,
    /// Settings of the interface, `net.ipv4.conf.IFNAME.log_martians` say, and their values.
    pub sysctls: Vec<(String, String)>,
    /// The names under which it is found by containers of a user-defined network.
    pub names: Vec<String>,
}

impl EndpointRequest {
    /// A request with defaults for everything optional.
    pub fn new(container: Id, owner: impl Into<String>, network: impl Into<String>) -> Self {
        Self {
            id: None,
            container,
            owner: owner.into(),
            network: network.into(),
            address: None,
            address6: None,
            link_local: Vec::new(),
            mac: None,
            ifname: None,
            default_route: true,
            default_route6: true,
            sysctls: Vec::new(),
            names: Vec::new(),
        }
    }
}

/// A container's interface on a network with its lease and its published ports. The engine keeps it in the container's
/// record and hands it back to [`crate::Net::restore`] after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Of this connection; new with each attach.
    pub id: Id,
    /// The network's id.
    pub network: Id,
    /// The container's id.
    pub container: Id,
    /// The container's name, for messages.
    pub owner: String,
    /// The leased address with the network's prefix length, where the network has IPv4.
    pub address: Option<Subnet>,
    /// The leased IPv6 address with the network's prefix length, where the network has IPv6.
    #[serde(default)]
    pub address6: Option<Subnet6>,
    /// Where the default route may lead.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Further addresses of the link alone.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    /// The interface's hardware address.
    pub mac: Mac,
    /// The interface's name inside the container.
    pub ifname: String,
    /// The name of its other end on the host; empty where it has none (macvlan).
    pub host_ifname: String,
    /// Which of the network's bridges it hangs on: one takes no more than 1,023.
    #[serde(default)]
    pub slot: u32,
    /// The names under which it is found by containers of a user-defined network, its container's first.
    #[serde(default)]
    pub names: Vec<String>,
    /// The published ports.
    #[serde(default)]
    pub bindings: Vec<PortBinding>,
}

impl Endpoint {
    /// The leased IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.address.map(|subnet| subnet.address())
    }

    /// The leased IPv6 address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.address6.map(|subnet| subnet.address())
    }

    /// The leased addresses, that of IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4().map(IpAddr::V4).into_iter().chain(self.ipv6().map(IpAddr::V6))
    }
}

/// A transport protocol that ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Associations of several streams.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// The protocol.
    pub protocol: Protocol,
    /// An address of the host; `None` is every address, IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// The wanted host port: `0..=0` is any free one, a range is the first free port in it.
    pub host_ports: RangeInclusive<u16>,
    /// The port inside.
    pub container_port: u16,
}

/// One published port as Docker lists it: a port on every address gives two, of `0.0.0.0` and of `::`, with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The port inside.
    pub container_port: u16,
}
