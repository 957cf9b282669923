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
use crate::{Error, Mac, NetConfig, Result, Subnet, netns};

const MTU_DEFAULT: u32 = 1500;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_PRESENT: &str = "/proc/sys/net/ipv6";
/// How long another engine may take to choose its subnet.
const CHOICE_MAX: Duration = Duration::from_secs(5);

/// A bridge that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    pub index: u32,
    pub address: Subnet,
    pub mtu: u32,
}

/// Makes or takes over the default network's bridge. `known` is the address that it must have (of a bridge that was lost).
pub fn ensure(socket: &mut Socket, config: &NetConfig, known: Option<Subnet>) -> Result<Bridge> {
    link::check_name(&config.bridge)?;
    // Between the look at what is free and the new address, another engine of this host must not choose.
    let _choosing = lock_choice()?;
    let links = link::links(socket)?;
    let addresses = link::addresses(socket)?;
    let present = links.iter().find(|link| link.name == config.bridge);
    if let Some(other) = present.filter(|link| link.kind != "bridge") {
        return Err(Error::Link { operation: "use as a bridge the interface", subject: other.name.clone(), source: Errno::EXIST });
    }
    let own = |link: &Link| addresses.iter().find(|address| address.index == link.index).map(|address| address.subnet);
    let current = present.and_then(own);
    let wanted = known.or(config.bip.filter(|bip| !in_use(*bip, present, current, &links)));
    let address = match (wanted, current) {
        (Some(wanted), _) => checked(socket, wanted, present, &links)?,
        (None, Some(current)) => current,
        (None, None) => choose(socket, config, &[])?,
    };
    let current = current.filter(|current| *current != address);
    finish(socket, config, &Shape { name: &config.bridge, address, mtu: config.mtu }, present, current, &links)
}

/// Makes or takes over the bridge of another network, at that address, or at the first of the pools that is free on this host and meets none of `taken`.
pub fn ensure_own(socket: &mut Socket, config: &NetConfig, own: &Own<'_>) -> Result<Bridge> {
    link::check_name(own.name)?;
    let _choosing = lock_choice()?;
    let links = link::links(socket)?;
    let present = links.iter().find(|link| link.name == own.name);
    if let Some(other) = present.filter(|link| link.kind != "bridge") {
        return Err(Error::Link { operation: "use as a bridge the interface", subject: other.name.clone(), source: Errno::EXIST });
    }
    let address = match own.address {
        Some(wanted) => checked(socket, wanted, present, &links)?,
        None => choose(socket, config, own.taken)?,
    };
    finish(socket, config, &Shape { name: own.name, address, mtu: own.mtu.or(config.mtu) }, present, None, &links)
}

/// What [`ensure_own`] is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub name: &'a str,
    pub address: Option<Subnet>,
    pub mtu: Option<u32>,
    /// Subnets of other networks.
    pub taken: &'a [Subnet],
}

struct Shape<'a> {
    name: &'a str,
    address: Subnet,
    mtu: Option<u32>,
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
            link::create_bridge(socket, shape.name, Mac::for_address(shape.address.address()), mtu, &config.mark())?;
            link::find(socket, shape.name)?.ok_or(Error::NoFreeSubnet)?
        }
    };
    if let Some(old) = old {
        link::remove_address(socket, &link, old)?;
    }
    link::configure(socket, &link, shape.address)?;
    set_up_host(shape.name)?;
    Ok(Bridge { index: link.index, address: shape.address, mtu: link.mtu })
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
        return Err(Error::AddressUnusable { address: wanted.address(), subnet: wanted.network() });
    }
    let others = link::addresses(socket)?;
    match others.iter().find(|other| Some(other.index) != own.map(|link| link.index) && other.subnet.overlaps(&wanted)) {
        Some(other) => {
            let name = links.iter().find(|link| link.index == other.index).map_or("an interface", |link| link.name.as_str());
            Err(Error::SubnetTaken { subnet: wanted.network(), other: format!("{} of {name}", other.subnet) })
        }
        None => Ok(wanted),
    }
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
