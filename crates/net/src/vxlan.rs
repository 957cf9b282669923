//! The interface that carries a network between hosts: VXLAN (RFC 7348) without multicast and without learning. It knows where each
//! container of another host is, answers address questions for them itself, and drops everything else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::link::{
    self, IFF_UP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, NEWLINK, SETLINK,
};
use crate::netlink::{self, Attributes, Batch, Socket, read_u32};
use crate::{Error, Result};

/// Where VXLAN packets are sent: IANA's port.
pub const PORT: u16 = 4789;
/// What a packet grows by on its way, over IPv4 and over IPv6.
const OVERHEAD: u32 = 50;
const OVERHEAD6: u32 = 70;

const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDMSG_LEN: usize = 12;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;

/// Changes that go to the kernel in one message.
const CHANGES_PER_BATCH: usize = 200;

/// What [`create`] makes.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan<'a> {
    pub name: &'a str,
    /// The network's number.
    pub vni: u32,
    /// This host's address, from which packets are sent.
    pub local: IpAddr,
    /// The index of the bridge that it is a port of.
    pub bridge: u32,
    pub mtu: u32,
    /// The free text by which it is known to be ours.
    pub mark: &'a str,
}

/// A container on another host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// The address of its host.
    pub host: IpAddr,
}

/// The largest packet inside, given that of the interface that has the host's address.
pub fn mtu_within(underlay: u32, local: IpAddr) -> u32 {
    underlay.saturating_sub(if local.is_ipv4() { OVERHEAD } else { OVERHEAD6 })
}

/// Makes the interface, a port of the network's bridge, and sets it up. One that is there is taken over, if it is the same.
pub fn create(socket: &mut Socket, wanted: &Vxlan<'_>) -> Result<u32> {
    let mut batch = Batch::new();
    batch.add(NEWLINK, netlink::CREATE | netlink::EXCL, &link::ifinfo(0, 0, 0), |link| {
        link.text(IFLA_IFNAME, wanted.name);
        link.number(IFLA_MTU, wanted.mtu);
        link.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vxlan");
            info.nest(IFLA_INFO_DATA, |data| fill(data, wanted));
        });
    });
    let made = socket.transact(batch);
    if let Err(refusal) = made {
        let ours = link::find(socket, wanted.name)?.is_some_and(|link| link.kind == "vxlan");
        match refusal.errno {
            Errno::EXIST if ours => {}
            Errno::EXIST => return Err(Error::VniTaken { vni: wanted.vni }),
            Errno::OPNOTSUPP => return Err(Error::NoSuchKind { kind: "vxlan", subject: wanted.name.to_owned() }),
            _ => return Err(link::refused("create VXLAN interface", wanted.name)(refusal)),
        }
    }
    let mut batch = Batch::new();
    batch.add(SETLINK, 0, &link::ifinfo(0, IFF_UP, IFF_UP), |link| {
        link.text(IFLA_IFNAME, wanted.name);
        link.number(IFLA_MASTER, wanted.bridge);
        link.number(IFLA_MTU, wanted.mtu);
        link.bytes(IFLA_IFALIAS, wanted.mark.as_bytes());
    });
    socket.transact(batch).map_err(link::refused("put on its bridge the VXLAN interface", wanted.name))?;
    let made = link::find(socket, wanted.name)?.map(|link| link.index);
    made.ok_or_else(|| Error::Link { operation: "find VXLAN interface", subject: wanted.name.to_owned(), source: Errno::NODEV })
}

/// Has the interface know these containers of other hosts, and no others. Answers how many entries changed.
pub fn set_peers(socket: &mut Socket, index: u32, peers: &[Peer]) -> Result<usize> {
    let wanted: BTreeSet<Entry> = peers.iter().flat_map(entries).collect();
    let present = present(socket, index)?;
    let gone: Vec<&Entry> = present.difference(&wanted).collect();
    let new: Vec<&Entry> = wanted.difference(&present).collect();
    for (kind, flags, changes) in [(DELNEIGH, 0, &gone), (NEWNEIGH, netlink::CREATE | netlink::REPLACE, &new)] {
        for part in changes.chunks(CHANGES_PER_BATCH) {
            let mut batch = Batch::new();
            for entry in part {
                batch.add(kind, flags, &entry.header(index), |attributes| entry.write(attributes));
            }
            match socket.transact(batch) {
                Err(refusal) if kind == NEWNEIGH || refusal.errno != Errno::NOENT => {
                    return Err(link::refused("set where containers of other hosts are:", "the VXLAN interface")(refusal));
                }
                _ => (),
            }
        }
    }
    Ok(gone.len() + new.len())
}

/// What the kernel is told of a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// Frames to a hardware address go to a host.
    Forward { mac: [u8; 6], host: IpAddr },
    /// Who asks for an address is answered with a hardware address.
    Neighbour { address: IpAddr, mac: [u8; 6] },
}

impl Entry {
    fn header(&self, index: u32) -> [u8; NDMSG_LEN] {
        let (family, state, flags) = match self {
            Self::Forward { .. } => (AF_BRIDGE, NUD_NOARP | NUD_PERMANENT, NTF_SELF),
            Self::Neighbour { address: IpAddr::V4(_), .. } => (AF_INET, NUD_PERMANENT, 0),
            Self::Neighbour { address: IpAddr::V6(_), .. } => (AF_INET6, NUD_PERMANENT, 0),
        };
        let mut header = ndmsg(family, index);
        header[8..10].copy_from_slice(&state.to_ne_bytes());
        header[10] = flags;
        header
    }

    fn write(&self, attributes: &mut Attributes<'_>) {
        let (address, mac) = match self {
            Self::Forward { mac, host } => (host, mac),
            Self::Neighbour { address, mac } => (address, mac),
        };
        attributes.bytes(NDA_LLADDR, mac);
        match address {
            IpAddr::V4(address) => attributes.bytes(NDA_DST, &address.octets()),
            IpAddr::V6(address) => attributes.bytes(NDA_DST, &address.octets()),
        }
    }
}

fn entries(peer: &Peer) -> impl Iterator<Item = Entry> {
    let neighbours = peer.addresses.iter().map(|address| Entry::Neighbour { address: *address, mac: peer.mac });
    neighbours.chain([Entry::Forward { mac: peer.mac, host: peer.host }])
}

/// What the interface knows now.
fn present(socket: &mut Socket, index: u32) -> Result<BTreeSet<Entry>> {
    let mut all = BTreeSet::new();
    for family in [AF_BRIDGE, AF_INET, AF_INET6] {
        let each = |message: netlink::Message<'_>| all.extend(read(&message, family, index));
        // The kernel lists all interfaces; those of others are passed over.
        let listed = socket.query(GETNEIGH, netlink::DUMP, &ndmsg(family, 0), |_| (), each);
        listed.map_err(|source| Error::Link { operation: "list", subject: "neighbours".to_owned(), source })?;
    }
    Ok(all)
}

fn read(message: &netlink::Message<'_>, family: u8, index: u32) -> Option<Entry> {
    let header = message.payload.get(..NDMSG_LEN)?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    if header[0] != family || read_u32(&header[4..])? != index || state & NUD_PERMANENT == 0 {
        return None;
    }
    let attributes = message.attributes(NDMSG_LEN);
    let mac: [u8; 6] = attributes.find(NDA_LLADDR)?.try_into().ok()?;
    let address = match attributes.find(NDA_DST) {
        Some(bytes) if bytes.len() == 4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Some(bytes) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        // Of the bridge, which lists its own entries among the interface's.
        None => return None,
    };
    Some(if family == AF_BRIDGE { Entry::Forward { mac, host: address } } else { Entry::Neighbour { address, mac } })
}

fn fill(data: &mut Attributes<'_>, wanted: &Vxlan<'_>) {
    data.number(IFLA_VXLAN_ID, wanted.vni);
    match wanted.local {
        IpAddr::V4(local) => data.bytes(IFLA_VXLAN_LOCAL, &local.octets()),
        IpAddr::V6(local) => {
            data.bytes(IFLA_VXLAN_LOCAL6, &local.octets());
            data.bytes(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, &[1]);
        }
    }
    data.bytes(IFLA_VXLAN_LEARNING, &[0]);
    data.bytes(IFLA_VXLAN_PROXY, &[1]);
    data.bytes(IFLA_VXLAN_PORT, &PORT.to_be_bytes());
}

fn ndmsg(family: u8, index: u32) -> [u8; NDMSG_LEN] {
    let mut header = [0; NDMSG_LEN];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}
