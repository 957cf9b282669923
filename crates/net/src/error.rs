//! What can go wrong with a network.

use std::net::IpAddr;
use std::path::PathBuf;

use rustix::io::Errno;
use types::{Classify, ErrorKind, Id};

use crate::Mac;
use crate::endpoint::Protocol;

/// A failed operation and its subject.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not `a.b.c.d/n`.
    #[error("{text:?} is not a subnet: an address and a prefix length such as 172.30.0.0/16 or fd00:1:2:3::/64 are expected")]
    BadSubnet {
        /// As given.
        text: String,
    },
    /// Not six bytes, or a group address.
    #[error("{text:?} is not a MAC address of one interface: six bytes such as 02:ca:ac:1e:00:02 are expected")]
    BadMac {
        /// As given.
        text: String,
    },
    /// Not `base=…,size=…`.
    #[error("{text:?} is not an address pool: base=172.30.0.0/16,size=24 is expected")]
    BadPool {
        /// As given.
        text: String,
    },
    /// Too long, or with characters that the kernel refuses.
    #[error("{name:?} cannot name an interface: 1 to 15 characters without '/' and blanks are expected")]
    BadInterfaceName {
        /// As given.
        name: String,
    },
    /// Not a setting of a network namespace.
    #[error("{name:?} is not a setting of a network namespace: a name that starts with net. is expected")]
    BadSysctl {
        /// As given.
        name: String,
    },
    /// A network cannot be made like that.
    #[error("{reason}")]
    BadNetwork {
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// A name of the engine's own networks.
    #[error("operation is not permitted on predefined {name} network ")]
    Predefined {
        /// Which.
        name: String,
    },
    /// Two networks of one name.
    #[error("network with name {name} already exists")]
    NetworkExists {
        /// The name.
        name: String,
    },
    /// The wanted subnet meets another network's.
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    PoolOverlaps {
        /// The wanted one.
        subnet: String,
        /// The network in the way.
        other: String,
    },
    /// Containers are on the network.
    #[error("error while removing network: network {name} has active endpoints ({})", endpoints.join(", "))]
    NetworkInUse {
        /// The network.
        name: String,
        /// `name:"web" id:"0123456789ab"`.
        endpoints: Vec<String>,
    },
    /// The host has no such interface.
    #[error("network {network} needs the interface {parent}, which this host does not have")]
    NoSuchParent {
        /// The network.
        network: String,
        /// The interface.
        parent: String,
    },
    /// No network of that name or id.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// As given.
        name: String,
    },
    /// IPv6 is switched off in the kernel.
    #[error("this kernel has IPv6 switched off, so no network can have it")]
    NoIpv6,
    /// A protocol that the kernel lacks.
    #[error("this kernel has no SCTP, so no port of it can be published")]
    NoSctp,
    /// A kind of interface that the kernel lacks.
    #[error("this kernel has no {kind} interfaces: {subject} cannot be made")]
    NoSuchKind {
        /// "macvlan", "ipvlan" or "vlan".
        kind: &'static str,
        /// The interface that was to be.
        subject: String,
    },
    /// Two networks of this host want the same VXLAN number.
    #[error("VXLAN number {vni} is in use on this host")]
    VniTaken {
        /// The number.
        vni: u32,
    },
    /// A template of others has no interfaces to give, and no template is made from another.
    #[error("configuration network {name:?} {reason}")]
    ConfigNetwork {
        /// Which.
        name: String,
        /// What cannot be done with it.
        reason: String,
    },
    /// `host` and `none` have no interfaces to give.
    #[error("network {name} has no interfaces to attach: its driver is {driver}")]
    NotAttachable {
        /// The network.
        name: String,
        /// Its driver.
        driver: &'static str,
    },
    /// Every range meets a route, an address or a resolver of the host.
    #[error("no free subnet in the address pools: each one overlaps a route, an address or a resolver of this host")]
    NoFreeSubnet,
    /// The bridge's wanted subnet meets another interface's.
    #[error("subnet {subnet} overlaps {other} of this host")]
    SubnetTaken {
        /// The wanted one.
        subnet: String,
        /// What is in the way.
        other: String,
    },
    /// All leased.
    #[error("no free address left in {subnet} of network {network}: all {capacity} are leased")]
    AddressesExhausted {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: String,
        /// How many it has.
        capacity: u32,
    },
    /// Leased to another container.
    #[error("address {address} is in use by container {owner}")]
    AddressTaken {
        /// The wanted address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// Outside the subnet, or the gateway's, network's or broadcast address.
    #[error("address {address} cannot be given to a container of {subnet}")]
    AddressUnusable {
        /// The wanted address.
        address: IpAddr,
        /// The network's subnet.
        subnet: String,
    },
    /// Two endpoints with one hardware address.
    #[error("MAC address {mac} is in use by container {owner}")]
    MacTaken {
        /// The wanted one.
        mac: Mac,
        /// Who has it.
        owner: String,
    },
    /// Published by another container of this engine.
    #[error("bind for {host}:{port}/{protocol} failed: port is already allocated to container {owner}")]
    PortAllocated {
        /// The host's address.
        host: IpAddr,
        /// The port, the last one tried of a range.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Who has it.
        owner: String,
    },
    /// Bound by some process of the host.
    #[error("bind for {host}:{port}/{protocol} failed: address already in use{}", by(.holder))]
    PortInUse {
        /// The host's address.
        host: IpAddr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// "python3 (pid 77)", where it can be seen.
        holder: Option<String>,
    },
    /// The host has no such address, or the port needs a right that the engine lacks.
    #[error("bind for {host}:{port}/{protocol} failed")]
    Bind {
        /// The host's address.
        host: IpAddr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A request to the kernel's link, address or route tables.
    #[error("{operation} {subject}")]
    Link {
        /// "create bridge".
        operation: &'static str,
        /// "cais0".
        subject: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A request to nf_tables.
    #[error("change the nftables table {table}: {operation}")]
    Nft {
        /// The table.
        table: String,
        /// "publish ports of web".
        operation: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A namespace operation.
    #[error("{operation} a network namespace")]
    Namespace {
        /// "create".
        operation: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file of `/proc/sys` or the run directory.
    #[error("{operation} {}", path.display())]
    File {
        /// "write".
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Port holding process.
    #[error("netd: {operation}")]
    Netd {
        /// "start", "hand over ports".
        operation: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `release` or `publish` of something unknown.
    #[error("endpoint {id} is not attached")]
    NoSuchEndpoint {
        /// Its id.
        id: Id,
    },
}

fn by(holder: &Option<String>) -> String {
    holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadSubnet { .. }
            | Self::BadMac { .. }
            | Self::BadPool { .. }
            | Self::BadNetwork { .. }
            | Self::NoIpv6
            | Self::NoSuchParent { .. }
            | Self::BadInterfaceName { .. }
            | Self::BadSysctl { .. } => ErrorKind::InvalidInput,
            Self::NotAttachable { .. } | Self::AddressUnusable { .. } => ErrorKind::InvalidInput,
            Self::NoSuchNetwork { .. } | Self::NoSuchEndpoint { .. } => ErrorKind::NotFound,
            Self::SubnetTaken { .. } | Self::AddressTaken { .. } | Self::MacTaken { .. } | Self::NetworkExists { .. } => {
                ErrorKind::Conflict
            }
            // Docker's answer to these is 403.
            Self::Predefined { .. } | Self::PoolOverlaps { .. } | Self::NetworkInUse { .. } => ErrorKind::Forbidden,
            // Docker answers 500 to a taken port and its clients look at the text alone.
            Self::PortAllocated { .. } | Self::PortInUse { .. } => ErrorKind::Internal,
            Self::ConfigNetwork { .. } => ErrorKind::Forbidden,
            Self::VniTaken { .. } => ErrorKind::Conflict,
            Self::NoFreeSubnet | Self::AddressesExhausted { .. } => ErrorKind::Unavailable,
            Self::NoSuchKind { .. } | Self::NoSctp => ErrorKind::NotServed,
            Self::Link { source, .. } | Self::Nft { source, .. } | Self::Namespace { source, .. } | Self::Bind { source, .. } => {
                match *source {
                    Errno::PERM | Errno::ACCESS => ErrorKind::Forbidden,
                    _ => ErrorKind::Internal,
                }
            }
            Self::File { .. } | Self::Netd { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoFreeSubnet => "give the engine a range of your own: --bip 172.30.0.1/16, or --default-address-pool base=…,size=…",
            Self::NoIpv6 => "start the kernel without ipv6.disable=1, or make the network without IPv6",
            Self::NoSctp => "load the kernel module sctp",
            Self::NoSuchKind { .. } => "load the kernel module of that name, or use another driver: bridge",
            Self::SubnetTaken { .. } => "choose another one, for the default bridge with --bip",
            Self::AddressesExhausted { .. } => "remove containers, or give the engine a larger range with --bip",
            Self::PortAllocated { .. } | Self::PortInUse { .. } => "publish another host port, or 0 for any free one",
            Self::Bind { source: Errno::ADDRNOTAVAIL, .. } => "the host address must be one of this machine's: see ip address",
            Self::Link { source: Errno::PERM, .. }
            | Self::Nft { source: Errno::PERM, .. }
            | Self::Namespace { source: Errno::PERM, .. } => "the engine needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN",
            Self::Link { source: Errno::OPNOTSUPP, .. } => "the kernel lacks bridge or veth: load the modules bridge and veth",
            Self::Nft { source: Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::NOENT, .. } => {
                "the kernel lacks a part of nf_tables: load the modules nf_tables, nft_chain_nat, nft_ct, nft_fib_inet and nft_masq"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
