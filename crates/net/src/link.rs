//! Bridges, interface pairs, addresses and routes: the rtnetlink messages of this crate (`linux/if_link.h`, `linux/rtnetlink.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::netlink::{self, Attributes, Batch, Refusal, Socket, read_u32, text};
use crate::{Endpoint, Error, Mac, Result, Subnet, Subnet6};

pub(crate) const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
pub(crate) const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
pub(crate) const IFF_UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Without the wait of a second for another host that might have the address.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_LINK: u8 = 253;

const IFINFO_LEN: usize = 16;
const IFADDR_LEN: usize = 8;
const RTMSG_LEN: usize = 12;

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// "bridge", "veth"; empty for hardware.
    pub kind: String,
    /// The free text that its maker gave it.
    pub alias: String,
    pub mac: Option<Mac>,
}

/// An IPv4 address on an interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub subnet: Subnet,
}

/// An IPv6 address or route of the host, link-local ones and the local table aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range6 {
    pub index: u32,
    pub subnet: Subnet6,
    pub is_route: bool,
}

/// An IPv4 route of the host, the local table aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// `0.0.0.0/0` is the default route.
    pub destination: Subnet,
    pub index: Option<u32>,
}

/// Checks an interface name by the kernel's rules (`dev_valid_name`).
pub fn check_name(name: &str) -> Result<()> {
    let shape = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let letters = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%');
    if shape && letters { Ok(()) } else { Err(Error::BadInterfaceName { name: name.to_owned() }) }
}

/// The interface of that name.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut found = None;
    let request = |attributes: &mut Attributes<'_>| attributes.text(IFLA_IFNAME, name);
    match socket.query(GETLINK, 0, &ifinfo(0, 0, 0), request, |message| found = read_link(&message)) {
        Ok(()) => Ok(found),
        Err(Errno::NODEV) => Ok(None),
        Err(source) => Err(Error::Link { operation: "look up interface", subject: name.to_owned(), source }),
    }
}

/// Every interface.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut all = Vec::new();
    let list = socket.query(GETLINK, netlink::DUMP, &ifinfo(0, 0, 0), |_| (), |message| all.extend(read_link(&message)));
    list.map_err(listing("interfaces"))?;
    Ok(all)
}

/// Every IPv4 address.
pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>> {
    let mut all = Vec::new();
    let list = socket.query(GETADDR, netlink::DUMP, &ifaddr(AF_INET, 0, 0), |_| (), |message| all.extend(read_address(&message)));
    list.map_err(listing("addresses"))?;
    Ok(all)
}

/// Every IPv6 address and route, link-local ones and default routes aside.
pub fn ranges6(socket: &mut Socket) -> Result<Vec<Range6>> {
    let mut all = Vec::new();
    let list = socket.query(GETADDR, netlink::DUMP, &ifaddr(AF_INET6, 0, 0), |_| (), |message| all.extend(read_address6(&message)));
    list.map_err(listing("IPv6 addresses"))?;
    let list = socket.query(GETROUTE, netlink::DUMP, &rtmsg(AF_INET6, 0, 0), |_| (), |message| all.extend(read_route6(&message)));
    list.map_err(listing("IPv6 routes"))?;
    all.retain(|range| {
        range.subnet.prefix() > 0 && !range.subnet.address().is_unicast_link_local() && !range.subnet.address().is_multicast()
    });
    Ok(all)
}

/// Every IPv4 route.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut all = Vec::new();
    let list = socket.query(GETROUTE, netlink::DUMP, &rtmsg(AF_INET, 0, 0), |_| (), |message| all.extend(read_route(&message)));
    list.map_err(listing("routes"))?;
    Ok(all)
}

/// Makes a bridge with a fixed hardware address (it would change with each port otherwise), down and without address, and
/// with a mark as its alias.
pub fn create_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: u32, mark: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(NEWLINK, netlink::CREATE | netlink::EXCL, &ifinfo(0, 0, 0), |link| {
        link.text(IFLA_IFNAME, name);
        link.bytes(IFLA_ADDRESS, &mac.0);
        link.number(IFLA_MTU, mtu);
        link.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
    });
    // A new link takes no alias.
    batch.add(SETLINK, 0, &ifinfo(0, 0, 0), |link| {
        link.text(IFLA_IFNAME, name);
        link.bytes(IFLA_IFALIAS, mark.as_bytes());
    });
    socket.transact(batch).map_err(refused("create bridge", name))
}

/// Gives an interface addresses and sets it up. All may be there already.
pub fn configure(socket: &mut Socket, link: &Link, address: Option<Subnet>, address6: Option<Subnet6>) -> Result<()> {
    let mut batch = Batch::new();
    if let Some(address) = address {
        add_address(&mut batch, link.index, address);
    }
    if let Some(address6) = address6 {
        add_address6(&mut batch, link.index, address6);
    }
    batch.add(SETLINK, 0, &ifinfo(link.index, IFF_UP, IFF_UP), |_| ());
    match socket.transact(batch) {
        Err(refusal) if refusal.errno != Errno::EXIST => Err(refused("configure interface", &link.name)(refusal)),
        _ => Ok(()),
    }
}

/// Takes an address from an interface.
pub fn remove_address(socket: &mut Socket, link: &Link, address: Subnet) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(DELADDR, 0, &ifaddr(AF_INET, link.index, address.prefix()), |attributes| {
        attributes.bytes(IFA_LOCAL, &address.address().octets());
    });
    socket.transact(batch).map_err(refused("remove the address of interface", &link.name))
}

/// Sets an interface up (`lo` of a new namespace).
pub fn set_up(socket: &mut Socket, name: &str) -> Result<(), Errno> {
    let mut batch = Batch::new();
    batch.add(SETLINK, 0, &ifinfo(0, IFF_UP, IFF_UP), |link| link.text(IFLA_IFNAME, name));
    socket.transact(batch).map_err(|refusal| refusal.errno)
}

/// What [`create_pair`] makes.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    pub host_name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub netns: BorrowedFd<'a>,
    pub inside_name: &'a str,
    pub mac: Mac,
    /// Whether the kernel knows IPv6, whose link-local addresses are kept off the host's end.
    pub ipv6: bool,
    /// Whether the bridge keeps it from other isolated ports.
    pub isolated: bool,
}

/// Makes an interface pair with one end on the bridge and up, the other straight in the namespace (still down).
pub fn create_pair(socket: &mut Socket, pair: &Pair<'_>) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(NEWLINK, netlink::CREATE | netlink::EXCL, &ifinfo(0, 0, 0), |link| {
        link.text(IFLA_IFNAME, pair.host_name);
        link.number(IFLA_MTU, pair.mtu);
        link.number(IFLA_MASTER, pair.bridge);
        single_queue(link);
        link.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest_after(VETH_INFO_PEER, &ifinfo(0, 0, 0), |peer| {
                    peer.text(IFLA_IFNAME, pair.inside_name);
                    peer.bytes(IFLA_ADDRESS, &pair.mac.0);
                    peer.number(IFLA_MTU, pair.mtu);
                    single_queue(peer);
                    peer.number(IFLA_NET_NS_FD, pair.netns.as_raw_fd() as u32);
                });
            });
        });
    });
    // NEWLINK of a link that exists changes it, and unlike SETLINK it takes settings of the bridge port.
    batch.add(NEWLINK, 0, &ifinfo(0, IFF_UP, IFF_UP), |link| {
        link.text(IFLA_IFNAME, pair.host_name);
        link.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            // With br_netfilter a container's packet to its own published port goes back out of the port where it came in.
            info.nest(IFLA_INFO_SLAVE_DATA, |port| {
                port.bytes(IFLA_BRPORT_MODE, &[1]);
                if pair.isolated {
                    port.bytes(IFLA_BRPORT_ISOLATED, &[1]);
                }
            });
        });
        without_link_local(link, pair.ipv6);
    });
    socket.transact(batch).map_err(refused("create interface pair", pair.host_name))
}

/// Makes a pair of interfaces that joins two bridges, both ends up. With `isolated` the upper end is kept from other isolated
/// ports of its bridge, as those beyond it are from each other.
pub fn create_trunk(socket: &mut Socket, upper: (&str, u32), lower: (&str, u32), mtu: u32, isolated: bool) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(NEWLINK, netlink::CREATE | netlink::EXCL, &ifinfo(0, IFF_UP, IFF_UP), |link| {
        link.text(IFLA_IFNAME, upper.0);
        link.number(IFLA_MTU, mtu);
        link.number(IFLA_MASTER, upper.1);
        link.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest_after(VETH_INFO_PEER, &ifinfo(0, 0, 0), |peer| {
                    peer.text(IFLA_IFNAME, lower.0);
                    peer.number(IFLA_MTU, mtu);
                });
            });
        });
    });
    batch.add(SETLINK, 0, &ifinfo(0, IFF_UP, IFF_UP), |link| {
        link.text(IFLA_IFNAME, lower.0);
        link.number(IFLA_MASTER, lower.1);
    });
    if isolated {
        batch.add(NEWLINK, 0, &ifinfo(0, 0, 0), |link| {
            link.text(IFLA_IFNAME, upper.0);
            link.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_SLAVE_KIND, "bridge");
                info.nest(IFLA_INFO_SLAVE_DATA, |port| port.bytes(IFLA_BRPORT_ISOLATED, &[1]));
            });
        });
    }
    socket.transact(batch).map_err(refused("join two bridges by", upper.0))
}

/// The kernel's number for a mode of macvlan interfaces.
pub fn macvlan_mode(name: &str) -> Option<u32> {
    Some(match name {
        "" | "bridge" => 4,
        "private" => 1,
        "vepa" => 2,
        "passthru" => 8,
        _ => return None,
    })
}

/// The kernel's number for a mode of ipvlan interfaces.
pub fn ipvlan_mode(name: &str) -> Option<u16> {
    Some(match name {
        "" | "l2" => 0,
        "l3" => 1,
        "l3s" => 2,
        _ => return None,
    })
}

/// The kernel's bits for a flag of ipvlan interfaces.
pub fn ipvlan_flag(name: &str) -> Option<u16> {
    Some(match name {
        "" | "bridge" => 0,
        "private" => 1,
        "vepa" => 2,
        _ => return None,
    })
}

/// What kind of interface [`create_on_parent`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With a hardware address of its own. The mode is the kernel's number.
    Macvlan { mode: u32, mac: Mac },
    /// With the parent's hardware address.
    Ipvlan { mode: u16, flag: u16 },
    /// The frames of the parent that carry that tag.
    Vlan { id: u16 },
}

/// What [`create_on_parent`] makes.
#[derive(Debug, Clone, Copy)]
pub struct OnParent<'a> {
    pub parent: u32,
    pub kind: Kind,
    pub mtu: Option<u32>,
    /// Where it is to be; none: beside its parent.
    pub netns: Option<BorrowedFd<'a>>,
    pub name: &'a str,
}

/// A macvlan mode in which the interface takes the parent's hardware address.
const MACVLAN_PASSTHRU: u32 = 8;

/// Makes an interface on one of the host, straight in the namespace (still down).
pub fn create_on_parent(socket: &mut Socket, wanted: &OnParent<'_>) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(NEWLINK, netlink::CREATE | netlink::EXCL, &ifinfo(0, 0, 0), |link| {
        link.text(IFLA_IFNAME, wanted.name);
        if let Kind::Macvlan { mode, mac } = wanted.kind
            && mode != MACVLAN_PASSTHRU
        {
            link.bytes(IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = wanted.mtu {
            link.number(IFLA_MTU, mtu);
        }
        link.number(IFLA_LINK, wanted.parent);
        if let Some(netns) = wanted.netns {
            link.number(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        }
        link.nest(IFLA_LINKINFO, |info| match wanted.kind {
            Kind::Macvlan { mode, .. } => {
                info.text(IFLA_INFO_KIND, "macvlan");
                info.nest(IFLA_INFO_DATA, |data| data.number(IFLA_MACVLAN_MODE, mode));
            }
            Kind::Ipvlan { mode, flag } => {
                info.text(IFLA_INFO_KIND, "ipvlan");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.bytes(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
                    data.bytes(IFLA_IPVLAN_FLAGS, &flag.to_ne_bytes());
                });
            }
            Kind::Vlan { id } => {
                info.text(IFLA_INFO_KIND, "vlan");
                info.nest(IFLA_INFO_DATA, |data| data.bytes(IFLA_VLAN_ID, &id.to_ne_bytes()));
            }
        });
    });
    let (driver, operation) = match wanted.kind {
        Kind::Macvlan { .. } => ("macvlan", "create macvlan interface"),
        Kind::Ipvlan { .. } => ("ipvlan", "create ipvlan interface"),
        Kind::Vlan { .. } => ("vlan", "create VLAN interface"),
    };
    socket.transact(batch).map_err(|refusal| match refusal.errno {
        Errno::OPNOTSUPP => Error::NoSuchKind { kind: driver, subject: wanted.name.to_owned() },
        _ => refused(operation, wanted.name)(refusal),
    })
}

/// Marks an interface as ours, and sets it up.
pub fn mark_and_set_up(socket: &mut Socket, name: &str, mark: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(SETLINK, 0, &ifinfo(0, IFF_UP, IFF_UP), |link| {
        link.text(IFLA_IFNAME, name);
        link.bytes(IFLA_IFALIAS, mark.as_bytes());
    });
    socket.transact(batch).map_err(refused("set up interface", name))
}

/// Adds (or takes away) the route to one host through an interface, from an address of ours.
pub fn host_route(socket: &mut Socket, index: u32, to: Ipv4Addr, from: Option<Ipv4Addr>, add: bool) -> Result<()> {
    let mut batch = Batch::new();
    let mut header = rtmsg(AF_INET, RTN_UNICAST, 32);
    header[6] = RT_SCOPE_LINK;
    let (kind, flags) = if add { (NEWROUTE, netlink::CREATE | netlink::REPLACE) } else { (DELROUTE, 0) };
    batch.add(kind, flags, &header, |route| {
        route.bytes(RTA_DST, &to.octets());
        route.number(RTA_OIF, index);
        if let Some(from) = from {
            route.bytes(RTA_PREFSRC, &from.octets());
        }
    });
    match socket.transact(batch) {
        Err(refusal) if !add && refusal.errno == Errno::SRCH => Ok(()),
        done => done.map_err(|refusal| refused("set the route to", &to.to_string())(refusal)),
    }
}

/// Inside the namespace: has the default route lead through the interface, in place of the one before. Without a gateway everything is on the link.
pub fn set_default_route(socket: &mut Socket, ifname: &str, gateway: Option<IpAddr>, ipv6: bool) -> Result<()> {
    let link = find(socket, ifname)?.ok_or_else(|| Error::Link {
        operation: "find in its namespace the interface",
        subject: ifname.to_owned(),
        source: Errno::NODEV,
    })?;
    let mut batch = Batch::new();
    default_route(&mut batch, link.index, gateway, ipv6, netlink::REPLACE);
    socket.transact(batch).map_err(refused("set the default route through", ifname))
}

fn default_route(batch: &mut Batch, index: u32, gateway: Option<IpAddr>, ipv6: bool, flag: u16) {
    let mut header = rtmsg(if ipv6 { AF_INET6 } else { AF_INET }, RTN_UNICAST, 0);
    if gateway.is_none() && !ipv6 {
        header[6] = RT_SCOPE_LINK;
    }
    batch.add(NEWROUTE, netlink::CREATE | flag, &header, |route| {
        match gateway {
            Some(IpAddr::V4(gateway)) => route.bytes(RTA_GATEWAY, &gateway.octets()),
            Some(IpAddr::V6(gateway)) => route.bytes(RTA_GATEWAY, &gateway.octets()),
            None => (),
        }
        route.number(RTA_OIF, index);
    });
}

/// Makes interfaces ports of a bridge again, which was made anew. One that is gone meanwhile is passed over.
pub fn enslave(socket: &mut Socket, names: &[String], bridge: u32) -> Result<()> {
    for name in names {
        let mut batch = Batch::new();
        batch.add(SETLINK, 0, &ifinfo(0, 0, 0), |link| {
            link.text(IFLA_IFNAME, name);
            link.number(IFLA_MASTER, bridge);
        });
        match socket.transact(batch) {
            Err(refusal) if refusal.errno != Errno::NODEV => return Err(refused("put on its bridge the interface", name)(refusal)),
            _ => (),
        }
    }
    Ok(())
}

/// Which default routes lead through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DefaultRoutes {
    pub v4: bool,
    pub v6: bool,
}

/// Inside the namespace: addresses, up, and where wanted the default routes.
pub fn configure_inside(socket: &mut Socket, endpoint: &Endpoint, ipv6: bool, routes: DefaultRoutes) -> Result<()> {
    let link = find(socket, &endpoint.ifname)?.ok_or_else(|| Error::Link {
        operation: "find in its namespace the interface",
        subject: endpoint.ifname.clone(),
        source: Errno::NODEV,
    })?;
    let mut batch = Batch::new();
    if let Some(address) = endpoint.address {
        add_address(&mut batch, link.index, address);
    }
    if let Some(address) = endpoint.address6 {
        add_address6(&mut batch, link.index, address);
    }
    for address in &endpoint.link_local {
        match address {
            IpAddr::V4(address) => add_address(&mut batch, link.index, Subnet::new(*address, 16)),
            IpAddr::V6(address) => add_address6(&mut batch, link.index, Subnet6::new(*address, 64)),
        }
    }
    let has_ipv6 = endpoint.address6.is_some() || endpoint.link_local.iter().any(IpAddr::is_ipv6);
    // Without IPv6 on the network a link-local address would only cost: duplicate detection, multicast reports, slower removal.
    batch.add(SETLINK, 0, &ifinfo(link.index, IFF_UP, IFF_UP), |link| without_link_local(link, ipv6 && !has_ipv6));
    if routes.v4 {
        default_route(&mut batch, link.index, endpoint.gateway.map(IpAddr::V4), false, netlink::EXCL);
    }
    if routes.v6 {
        default_route(&mut batch, link.index, endpoint.gateway6.map(IpAddr::V6), true, netlink::EXCL);
    }
    socket.transact(batch).map_err(refused("configure in its namespace the interface", &endpoint.ifname))
}

/// Deletes interfaces; one that is gone already is no failure. Waits tens of milliseconds for the kernel.
pub fn delete(socket: &mut Socket, names: &[String]) -> Result<()> {
    let mut first = Ok(());
    for name in names {
        let mut batch = Batch::new();
        batch.add(DELLINK, 0, &ifinfo(0, 0, 0), |link| link.text(IFLA_IFNAME, name));
        match socket.transact(batch) {
            Err(refusal) if refusal.errno != Errno::NODEV && first.is_ok() => first = Err(refused("delete interface", name)(refusal)),
            _ => (),
        }
    }
    first
}

/// The addresses that a resolver configuration names, IPv4 only.
pub fn resolvers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let v4 = |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => Ipv6Addr::to_ipv4_mapped(&address),
    };
    crate::files::nameservers(resolv_conf).filter_map(v4).collect()
}

fn add_address(batch: &mut Batch, index: u32, address: Subnet) {
    batch.add(NEWADDR, netlink::CREATE | netlink::EXCL, &ifaddr(AF_INET, index, address.prefix()), |attributes| {
        attributes.bytes(IFA_LOCAL, &address.address().octets());
        attributes.bytes(IFA_ADDRESS, &address.address().octets());
        attributes.bytes(IFA_BROADCAST, &address.last().octets());
    });
}

fn add_address6(batch: &mut Batch, index: u32, address: Subnet6) {
    let mut header = ifaddr(AF_INET6, index, address.prefix());
    header[2] = IFA_F_NODAD;
    batch.add(NEWADDR, netlink::CREATE | netlink::EXCL, &header, |attributes| {
        attributes.bytes(IFA_LOCAL, &address.address().octets());
        attributes.bytes(IFA_ADDRESS, &address.address().octets());
    });
}

/// By default there is a queue per processor, each with files of its own to make and remove, and nothing uses more than one.
fn single_queue(link: &mut Attributes<'_>) {
    link.number(IFLA_NUM_TX_QUEUES, 1);
    link.number(IFLA_NUM_RX_QUEUES, 1);
}

fn without_link_local(link: &mut Attributes<'_>, ipv6: bool) {
    if ipv6 {
        link.nest(IFLA_AF_SPEC, |families| {
            families.nest(AF_INET6.into(), |inet6| inet6.bytes(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]));
        });
    }
}

pub(crate) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO_LEN] {
    let mut header = [0; IFINFO_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn ifaddr(family: u8, index: u32, prefix: u8) -> [u8; IFADDR_LEN] {
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// A route's header; the same asks for a list.
fn rtmsg(family: u8, kind: u8, prefix: u8) -> [u8; RTMSG_LEN] {
    [family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, kind, 0, 0, 0, 0]
}

fn read_link(message: &netlink::Message<'_>) -> Option<Link> {
    let header = message.payload.get(..IFINFO_LEN)?;
    let attributes = message.attributes(IFINFO_LEN);
    let info = attributes.find(IFLA_LINKINFO).map(netlink::AttributeReader);
    Some(Link {
        index: read_u32(&header[4..])?,
        up: read_u32(&header[8..])? & IFF_UP != 0,
        name: text(attributes.find(IFLA_IFNAME)?),
        mtu: attributes.find(IFLA_MTU).and_then(read_u32).unwrap_or(0),
        master: attributes.find(IFLA_MASTER).and_then(read_u32),
        alias: attributes.find(IFLA_IFALIAS).map(text).unwrap_or_default(),
        mac: attributes.find(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac),
        kind: info.and_then(|info| info.find(IFLA_INFO_KIND)).map(text).unwrap_or_default(),
    })
}

fn read_address(message: &netlink::Message<'_>) -> Option<Address> {
    let header = message.payload.get(..IFADDR_LEN)?;
    let attributes = message.attributes(IFADDR_LEN);
    let address = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS)).and_then(ipv4)?;
    Some(Address { index: read_u32(&header[4..])?, subnet: Subnet::new(address, header[1]) })
}

fn read_route(message: &netlink::Message<'_>) -> Option<Route> {
    let header = message.payload.get(..RTMSG_LEN)?;
    let attributes = message.attributes(RTMSG_LEN);
    let table = attributes.find(RTA_TABLE).and_then(read_u32).unwrap_or(header[4].into());
    let destination = attributes.find(RTA_DST).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let index = attributes.find(RTA_OIF).and_then(read_u32);
    (header[0] == AF_INET && table != RT_TABLE_LOCAL).then(|| Route { destination: Subnet::new(destination, header[1]), index })
}

fn read_address6(message: &netlink::Message<'_>) -> Option<Range6> {
    let header = message.payload.get(..IFADDR_LEN)?;
    let attributes = message.attributes(IFADDR_LEN);
    let address = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS)).and_then(ipv6)?;
    (header[0] == AF_INET6).then_some(Range6 { index: read_u32(&header[4..])?, subnet: Subnet6::new(address, header[1]), is_route: false })
}

fn read_route6(message: &netlink::Message<'_>) -> Option<Range6> {
    let header = message.payload.get(..RTMSG_LEN)?;
    let attributes = message.attributes(RTMSG_LEN);
    let table = attributes.find(RTA_TABLE).and_then(read_u32).unwrap_or(header[4].into());
    let subnet = Subnet6::new(attributes.find(RTA_DST).and_then(ipv6)?, header[1]);
    let index = attributes.find(RTA_OIF).and_then(read_u32).unwrap_or(0);
    (header[0] == AF_INET6 && table != RT_TABLE_LOCAL).then_some(Range6 { index, subnet, is_route: true })
}

fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    Some(octets.into())
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(octets.into())
}

fn listing(subject: &str) -> impl Fn(Errno) -> Error {
    move |source| Error::Link { operation: "list", subject: subject.to_owned(), source }
}

pub(crate) fn refused<'a>(operation: &'static str, subject: &'a str) -> impl Fn(Refusal) -> Error + 'a {
    move |refusal| {
        let subject = refusal.text.map_or_else(|| subject.to_owned(), |text| format!("{subject} ({text})"));
        Error::Link { operation, subject, source: refusal.errno }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernels_rules() {
        for good in ["cais0", "a", "br-0123456789ab"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "sixteen-letters-", "a/b", "a b", ".", "..", "a:b", "é"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
