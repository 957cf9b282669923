//! The bridge of a network on the host: its interface, its subnet, and the settings that it needs.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::link::{self, Link};
use crate::netlink::Socket;
use crate::network::Addressing;
use crate::{Error, Mac, NetConfig, Result, Subnet, Subnet6, netns};

const MTU_DEFAULT: u32 = 1500;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_PRESENT: &str = "/proc/sys/net/ipv6";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";
/// How long another engine may take to choose its subnet.
const CHOICE_MAX: Duration = Duration::from_secs(5);

/// A bridge that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    pub index: u32,
    pub address: Option<Subnet>,
    pub address6: Option<Subnet6>,
    pub mtu: u32,
}

impl Bridge {
    pub fn addressing(&self) -> Addressing {
        Addressing { v4: self.address, v6: self.address6, has_gateways: true }
    }
}

/// Makes or takes over the default network's bridge. `known` is what it must have (of a bridge that was lost).
pub fn ensure(socket: &mut Socket, config: &NetConfig, known: Option<Addressing>) -> Result<Bridge> {
    link::check_name(&config.bridge)?;
    // Between the look at what is free and the new address, another engine of this host must not choose.
    let _choosing = lock_choice()?;
    let links = link::links(socket)?;
    let addresses = link::addresses(socket)?;
    let present = bridge_of(&links, &config.bridge)?;
    let own = |link: &Link| addresses.iter().find(|address| address.index == link.index).map(|address| address.subnet);
    let current = present.and_then(own);
    let wanted = known.and_then(|known| known.v4).or(config.bip.filter(|bip| !in_use(*bip, present, current, &links)));
    let address = match (wanted, current) {
        (Some(wanted), _) => checked(socket, wanted, present, &links)?,
        (None, Some(current)) => current,
        (None, None) => choose(socket, config, &[])?,
    };
    let address6 = match (known, config.default_ipv6) {
        (Some(known), _) => known.v6,
        (None, None) => None,
        (None, Some(Some(subnet))) => {
            needs_ipv6(ipv6_present())?;
            Some(checked6(socket, Subnet6::new(first_host6(subnet), subnet.prefix()), present, &links)?)
        }
        (None, Some(None)) => Some(match present.map(|link| own6(socket, link)).transpose()?.flatten() {
            Some(current) => current,
            None => choose6(socket, config, &[])?,
        }),
    };
    let current = current.filter(|current| *current != address);
    let shape = Shape { name: &config.bridge, address: Some(address), address6, mtu: config.mtu };
    finish(socket, config, &shape, present, current, &links)
}

/// Makes or takes over the bridge of another network, at its addresses, or at the first of the pools that are free on this host and meet none of those taken.
pub fn ensure_own(socket: &mut Socket, config: &NetConfig, own: &Own<'_>) -> Result<Bridge> {
    link::check_name(own.name)?;
    let _choosing = lock_choice()?;
    let links = link::links(socket)?;
    let present = bridge_of(&links, own.name)?;
    let address = match own.v4 {
        Wanted::No => None,
        Wanted::Given(wanted) => Some(checked(socket, wanted, present, &links)?),
        Wanted::Any(taken) => Some(choose(socket, config, taken)?),
    };
    let address6 = match own.v6 {
        Wanted::No => None,
        Wanted::Given(wanted) => {
            needs_ipv6(ipv6_present())?;
            Some(checked6(socket, wanted, present, &links)?)
        }
        Wanted::Any(taken) => Some(choose6(socket, config, taken)?),
    };
    let shape = Shape { name: own.name, address, address6, mtu: own.mtu.or(config.mtu) };
    finish(socket, config, &shape, present, None, &links)
}

/// Addresses of one family.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a, S> {
    /// None.
    No,
    /// These.
    Given(S),
    /// Some that meet none of these, which are of other networks.
    Any(&'a [S]),
}

/// What [`ensure_own`] is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub name: &'a str,
    pub v4: Wanted<'a, Subnet>,
    pub v6: Wanted<'a, Subnet6>,
    pub mtu: Option<u32>,
}

impl<'a> Own<'a> {
    /// A bridge as it was.
    pub fn again(name: &'a str, addressing: Addressing, mtu: Option<u32>) -> Self {
        let v4 = addressing.v4.map_or(Wanted::No, Wanted::Given);
        let v6 = addressing.v6.map_or(Wanted::No, Wanted::Given);
        Self { name, v4, v6, mtu }
    }
}

struct Shape<'a> {
    name: &'a str,
    address: Option<Subnet>,
    address6: Option<Subnet6>,
    mtu: Option<u32>,
}

fn bridge_of<'a>(links: &'a [Link], name: &str) -> Result<Option<&'a Link>> {
    match links.iter().find(|link| link.name == name) {
        Some(other) if other.kind != "bridge" => {
            Err(Error::Link { operation: "use as a bridge the interface", subject: other.name.clone(), source: Errno::EXIST })
        }
        present => Ok(present),
    }
}

/// Makes the bridge if it is missing, and gives it its address in place of an old one.
fn finish(
    socket: &mut Socket,
    config: &NetConfig,
    shape: &Shape<'_>,
    present: Option<&Link>,
    old: Option<Subnet>,
    links: &[Link],
) -> Result<Bridge> {
    let mtu = match shape.mtu {
        Some(mtu) => mtu,
        None => uplink_mtu(socket, links)?,
    };
    let link = match present {
        Some(link) => link.clone(),
        None => {
            let mac = shape.address.map(|v4| Mac::for_address(v4.address()));
            let mac = mac.or(shape.address6.map(|v6| Mac::for_address6(v6.address()))).unwrap_or_else(|| Mac::for_name(shape.name));
            link::create_bridge(socket, shape.name, mac, mtu, &config.mark())?;
            link::find(socket, shape.name)?.ok_or(Error::NoFreeSubnet)?
        }
    };
    if let Some(old) = old {
        link::remove_address(socket, &link, old)?;
    }
    if shape.address6.is_some() {
        set_up_host6(socket, shape.name)?;
    }
    link::configure(socket, &link, shape.address, shape.address6)?;
    set_up_host(shape.name)?;
    Ok(Bridge { index: link.index, address: shape.address, address6: shape.address6, mtu: link.mtu })
}

/// The further bridges of a network, each on the first one: the kernel gives a bridge 1,023 ports and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// `bx-` and digits of the network's id.
    pub name: String,
    /// The end of the pair between the two that is a port of the first bridge.
    pub upper: String,
    lower: String,
}

impl Extension {
    /// The one of that number, from 1.
    pub fn new(network: &types::Id, slot: u32) -> Self {
        let digits = &network.as_str()[..8];
        let name = |kind: &str| format!("{kind}-{digits}-{slot}");
        Self { name: name("bx"), upper: name("bu"), lower: name("bv") }
    }

    /// Whether an interface of that name belongs to the network.
    pub fn owns(network: &types::Id, name: &str) -> bool {
        let digits = &network.as_str()[..8];
        ["bx", "bu", "bv"]
            .iter()
            .any(|kind| name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')?.strip_prefix(digits)).is_some())
    }

    /// Makes it, if it is not there. Tells its index, and whether it is new.
    pub fn ensure(&self, socket: &mut Socket, config: &NetConfig, first: &Bridge, isolated: bool) -> Result<(u32, bool)> {
        let present = link::find(socket, &self.name)?;
        let fresh = present.is_none();
        if fresh {
            link::create_bridge(socket, &self.name, Mac::for_name(&self.name), first.mtu, &config.mark())?;
            link::mark_and_set_up(socket, &self.name, &config.mark())?;
        }
        let index = present.or(link::find(socket, &self.name)?).map(|link| link.index).ok_or(Error::NoFreeSubnet)?;
        if fresh {
            link::delete(socket, std::slice::from_ref(&self.upper))?;
            link::create_trunk(socket, (&self.upper, first.index), (&self.lower, index), first.mtu, isolated)?;
        }
        Ok((index, fresh))
    }

    /// Removes all of a network.
    pub fn remove_all(socket: &mut Socket, network: &types::Id) -> Result<()> {
        for slot in 1.. {
            let extension = Self::new(network, slot);
            if link::find(socket, &extension.name)?.is_none() {
                break;
            }
            link::delete(socket, &[extension.upper, extension.name])?;
        }
        Ok(())
    }
}

/// Removes the bridge, unless it was there before us.
pub fn remove(socket: &mut Socket, config: &NetConfig, name: &str) -> Result<()> {
    let ours = link::find(socket, name)?.filter(|link| link.alias == config.mark());
    ours.map_or(Ok(()), |link| link::delete(socket, &[link.name]))
}

/// Whether the kernel knows IPv6.
pub fn ipv6_present() -> bool {
    Path::new(IPV6_PRESENT).exists()
}

/// Refuses what a kernel without IPv6 cannot give.
pub fn needs_ipv6(present: bool) -> Result<()> {
    if present { Ok(()) } else { Err(Error::NoIpv6) }
}

/// Whether containers still use another address of the bridge than the one that the configuration now asks for.
fn in_use(bip: Subnet, bridge: Option<&Link>, current: Option<Subnet>, links: &[Link]) -> bool {
    let Some((bridge, current)) = bridge.zip(current).filter(|(_, current)| *current != bip) else { return false };
    let used = links.iter().any(|link| link.master == Some(bridge.index));
    if used {
        tracing::warn!(%current, wanted = %bip, bridge = bridge.name, "containers use the bridge: it gets its new address when none runs");
    }
    used
}

/// The wanted address, unless its subnet meets another interface's.
fn checked(socket: &mut Socket, wanted: Subnet, own: Option<&Link>, links: &[Link]) -> Result<Subnet> {
    let usable = wanted.prefix() <= 30 && wanted.address() != wanted.first() && wanted.address() != wanted.last();
    if !usable {
        return Err(Error::AddressUnusable { address: wanted.address().into(), subnet: wanted.network().to_string() });
    }
    let others = link::addresses(socket)?;
    match others.iter().find(|other| Some(other.index) != own.map(|link| link.index) && other.subnet.overlaps(&wanted)) {
        Some(other) => {
            let name = links.iter().find(|link| link.index == other.index).map_or("an interface", |link| link.name.as_str());
            Err(Error::SubnetTaken { subnet: wanted.network().to_string(), other: format!("{} of {name}", other.subnet) })
        }
        None => Ok(wanted),
    }
}

/// The same of IPv6.
fn checked6(socket: &mut Socket, wanted: Subnet6, own: Option<&Link>, links: &[Link]) -> Result<Subnet6> {
    let others = link::ranges6(socket)?.into_iter().filter(|other| !other.is_route && Some(other.index) != own.map(|link| link.index));
    match others.into_iter().find(|other| other.subnet.overlaps(&wanted)) {
        Some(other) => {
            let name = links.iter().find(|link| link.index == other.index).map_or("an interface", |link| link.name.as_str());
            Err(Error::SubnetTaken { subnet: wanted.network().to_string(), other: format!("{} of {name}", other.subnet) })
        }
        None => Ok(wanted),
    }
}

fn own6(socket: &mut Socket, own: &Link) -> Result<Option<Subnet6>> {
    let mut ranges = link::ranges6(socket)?.into_iter();
    Ok(ranges.find(|range| !range.is_route && range.index == own.index).map(|range| range.subnet))
}

/// The first IPv6 network of the pools that meets nothing this host knows; the bridge gets its first address.
fn choose6(socket: &mut Socket, config: &NetConfig, taken: &[Subnet6]) -> Result<Subnet6> {
    needs_ipv6(ipv6_present())?;
    let mut avoid: Vec<Subnet6> = link::ranges6(socket)?.into_iter().map(|range| range.subnet).collect();
    avoid.extend(taken);
    let free = config.candidates6().find(|candidate| !avoid.iter().any(|taken| taken.overlaps(candidate)));
    let subnet = free.ok_or(Error::NoFreeSubnet)?;
    Ok(Subnet6::new(first_host6(subnet), subnet.prefix()))
}

fn first_host6(subnet: Subnet6) -> std::net::Ipv6Addr {
    subnet.nth(1)
}

/// The first network of the pools that meets nothing this host knows; the bridge gets its first address.
fn choose(socket: &mut Socket, config: &NetConfig, taken: &[Subnet]) -> Result<Subnet> {
    let routes = link::routes(socket)?.into_iter().map(|route| route.destination).filter(|destination| destination.prefix() > 0);
    let mut avoid: Vec<Subnet> = routes.chain(taken.iter().copied()).collect();
    avoid.extend(link::addresses(socket)?.into_iter().map(|address| address.subnet));
    avoid.extend(resolvers().into_iter().map(|address| Subnet::new(address, 32)));
    let free = config.candidates().find(|candidate| !avoid.iter().any(|taken| taken.overlaps(candidate)));
    let subnet = free.ok_or(Error::NoFreeSubnet)?;
    Ok(Subnet::new((subnet.first().to_bits() + 1).into(), subnet.prefix()))
}

/// The machine's resolvers: a subnet that hides them would take names from the host itself.
fn resolvers() -> Vec<Ipv4Addr> {
    let read = |path: &str| fs::read_to_string(path).map(|text| link::resolvers(&text)).unwrap_or_default();
    [read(RESOLV_CONF), read(crate::files::RESOLVED_UPSTREAM)].concat()
}

/// What fits through the interface of the default route, so that containers need no path discovery.
fn uplink_mtu(socket: &mut Socket, links: &[Link]) -> Result<u32> {
    let default = link::routes(socket)?.into_iter().find(|route| route.destination.prefix() == 0);
    let uplink = default.and_then(|route| links.iter().find(|link| Some(link.index) == route.index));
    Ok(uplink.map_or(MTU_DEFAULT, |link| link.mtu).min(MTU_DEFAULT))
}

/// Forwarding for the host, and for the bridge the permission to carry connections that start at 127.0.0.1 (our table
/// keeps containers from starting any to there). Forwarding stays on when the engine ends: others may have come to need it.
fn set_up_host(bridge: &str) -> Result<()> {
    set_if_other(PathBuf::from(IP_FORWARD), "1")?;
    set_if_other(PathBuf::from(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet")), "1")
}

/// The same of IPv6. A host that forwards no longer listens to its routers' announcements, unless it is told to (`accept_ra` 2):
/// where it did, it goes on.
fn set_up_host6(socket: &mut Socket, bridge: &str) -> Result<()> {
    let conf = |interface: &str, setting: &str| PathBuf::from(IPV6_CONF).join(interface).join(setting);
    set_if_other(conf(bridge, "disable_ipv6"), "0")?;
    set_if_other(conf(bridge, "accept_ra"), "0")?;
    let forwarding = conf("all", "forwarding");
    if fs::read_to_string(&forwarding).is_ok_and(|current| current.trim() == "1") {
        return Ok(());
    }
    for link in link::links(socket)? {
        let listens = conf(&link.name, "accept_ra");
        if link.kind != "bridge" && fs::read_to_string(&listens).is_ok_and(|current| current.trim() == "1") {
            set_if_other(listens, "2")?;
        }
    }
    set_if_other(conf("default", "forwarding"), "1")?;
    set_if_other(forwarding, "1")
}

fn set_if_other(path: PathBuf, value: &str) -> Result<()> {
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    tracing::info!(path = %path.display(), value, "changing a network setting of this host");
    fs::write(&path, value).map_err(|source| Error::File { operation: "write", path, source })
}

/// Engines that share a network namespace take turns: a lock on the namespace itself, which leaves no file behind.
fn lock_choice() -> Result<OwnedFd> {
    let fd = netns::own()?;
    let start = Instant::now();
    loop {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(errno) if errno == Errno::WOULDBLOCK && start.elapsed() < CHOICE_MAX => std::thread::sleep(Duration::from_millis(5)),
            Err(errno) => {
                // Anybody may hold this lock, so it is a courtesy that must not keep the engine from starting.
                tracing::debug!(error = %io::Error::from(errno), "choosing a subnet without the lock");
                return Ok(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipv6_is_told_of() {
        assert!(needs_ipv6(true).is_ok());
        let text = types::error::chain(&needs_ipv6(false).unwrap_err());
        assert!(text.contains("IPv6"), "{text}");
    }
}
