//! Overlay networks: on each host that has a container on one, a bridge like that of any network, and a VXLAN interface as one more of its
//! ports. Who is where is told by the engine, which knows it from the other hosts.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use types::Id;

use crate::bridge::{self, Extension, Own};
use crate::manager::Inner;
use crate::netd::zone::Entry;
use crate::netlink::Socket;
use crate::network::Addressing;
use crate::networks::Live;
use crate::nft::table;
use crate::vxlan::{self, Peer, Vxlan};
use crate::{Endpoint, Error, Mac, Net, Network, Result, Subnet, Subnet6, link};

/// VXLAN interfaces are `vx` and 12 digits of the network's id.
const IFNAME_PREFIX: &str = "vx";
const IFNAME_DIGITS: usize = 12;
/// Of an underlay that nobody knows the interface of.
const UNDERLAY_MTU: u32 = 1500;

/// What carries an overlay network on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// The network's number, the same on every host.
    pub vni: u32,
    /// This host's address, from which packets are sent and at which they arrive.
    pub local: IpAddr,
    /// The largest packet inside, in bytes; none: what the interface with that address leaves.
    pub mtu: Option<u32>,
}

/// A container of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// The address of its host.
    pub host: IpAddr,
    /// The names by which it is found.
    pub names: Vec<String>,
}

impl Net {
    /// Takes note of an overlay network: nothing is made until a container needs it. One that is known stays as it is.
    pub fn adopt_overlay(&self, mut network: Network) -> Result<Arc<Network>> {
        let mut state = self.inner.state();
        if let Some(known) = state.networks.get(&network.id)
            && (known.bridge.is_some() || known.network.carrier == network.carrier)
        {
            return Ok(known.network.clone());
        }
        if let Some(other) = state.networks.values().find(|live| live.network.name == network.name && live.network.id != network.id) {
            return Err(Error::NetworkExists { name: other.network.name.clone() });
        }
        network.bridge = Some(format!("br-{}", &network.id.as_str()[..IFNAME_DIGITS]));
        let live = Live::new(network);
        let network = live.network.clone();
        state.networks.insert(network.id.clone(), live);
        Ok(network)
    }

    /// Makes what a container on this host needs of the network. There already: nothing happens.
    pub fn raise_overlay(&self, id: &Id) -> Result<()> {
        let inner = &self.inner;
        // One at a time, and not while a network is made or removed.
        let mut filter = inner.filter();
        let network = inner.network(id.as_str())?;
        if inner.state().networks.get(id).is_some_and(|live| live.bridge.is_some()) {
            return Ok(());
        }
        let bridge = inner.raise_carrier(&mut inner.route(), &network)?;
        let rules = {
            let mut state = inner.state();
            let live = state.networks.get_mut(id).ok_or_else(|| Error::NoSuchNetwork { name: id.to_string() })?;
            live.bridge = Some(bridge);
            live.rules()
        };
        let added = match &rules {
            Some(rules) => table::add_bridge(&mut filter, &inner.config.table, rules),
            None => Ok(true),
        };
        let added = added.and_then(|whole| if whole { Ok(()) } else { inner.install_with(&mut filter) });
        let added = added.and_then(|()| inner.renew_accepts(&mut filter));
        drop(filter);
        added.inspect_err(|_| {
            let _ = self.lower_overlay(id);
        })
    }

    /// Removes what [`Net::raise_overlay`] made, if no container of this host needs it any more.
    pub fn lower_overlay(&self, id: &Id) -> Result<()> {
        let inner = &self.inner;
        let mut filter = inner.filter();
        let (network, rules) = {
            let mut state = inner.state();
            if state.every_endpoint().any(|endpoint| endpoint.network == *id) {
                return Ok(());
            }
            let Some(live) = state.networks.get_mut(id) else { return Ok(()) };
            let rules = live.rules();
            if live.bridge.take().is_none() {
                return Ok(());
            }
            live.remote.clear();
            (live.network.clone(), rules)
        };
        let mut done = Ok(());
        if let Some(rules) = rules {
            let withdrawn = table::remove_bridge(&mut filter, &inner.config.table, &rules);
            done = withdrawn.and_then(|whole| if whole { Ok(()) } else { inner.install_with(&mut filter) });
            done = done.and(inner.renew_accepts(&mut filter));
        }
        drop(filter);
        let carrier = link::delete(&mut inner.route(), &[ifname(id)]);
        let extensions = Extension::remove_all(&mut inner.route(), id);
        let bridge = bridge::remove(&mut inner.route(), &inner.config, network.bridge.as_deref().unwrap_or_default());
        done = done.and(carrier).and(extensions).and(bridge);
        done.and(inner.forget_zone(id))
    }

    /// Forgets an overlay network that is gone on all hosts. The containers that are still on it keep what they have.
    pub fn forget_overlay(&self, id: &Id) -> Result<()> {
        self.lower_overlay(id)?;
        let mut state = self.inner.state();
        if state.networks.get(id).is_some_and(|live| live.bridge.is_none()) {
            state.networks.remove(id);
        }
        Ok(())
    }

    /// Has netd do something that outlives this engine (renew a lease), in place of what it did. Empty: nothing.
    pub fn keep(&self, what: String) -> Result<()> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&what);
        if !what.is_empty() {
            self.inner.netd_ready()?;
        }
        self.inner.netd.keep(&what)
    }

    /// Has a function called whenever an endpoint of an overlay network has gone or has changed its names. To be called once.
    pub fn on_overlay_change(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.inner.overlay_changed.set(Box::new(call));
    }

    /// Ranges of addresses that this host uses or reaches otherwise.
    pub fn ranges_in_use(&self) -> Result<Vec<Subnet>> {
        let mut route = self.inner.route();
        let routes = link::routes(&mut route)?.into_iter().map(|route| route.destination).filter(|range| range.prefix() > 0);
        let mut ranges: Vec<Subnet> = routes.collect();
        ranges.extend(link::addresses(&mut route)?.into_iter().map(|address| address.subnet.network()));
        drop(route);
        ranges.extend(self.networks().iter().filter_map(|network| network.subnet));
        Ok(ranges)
    }

    /// An endpoint by its id.
    pub fn endpoint(&self, id: &Id) -> Option<Endpoint> {
        self.inner.state().endpoints.get(id).cloned()
    }

    /// Tells which containers of other hosts are on the network, all of them. Does nothing where no container of this host is.
    pub fn set_remote(&self, id: &Id, remote: &[Remote]) -> Result<()> {
        let inner = &self.inner;
        let entries: Vec<Entry> = remote.iter().map(|one| Entry { addresses: one.addresses.clone(), names: one.names.clone() }).collect();
        let renamed = {
            let mut state = inner.state();
            let Some(live) = state.networks.get_mut(id).filter(|live| live.bridge.is_some()) else { return Ok(()) };
            let renamed = live.remote != entries;
            live.remote = entries;
            renamed
        };
        let peers: Vec<Peer> = remote.iter().map(|one| Peer { mac: one.mac.0, addresses: one.addresses.clone(), host: one.host }).collect();
        {
            let mut route = inner.route();
            if let Some(carrier) = link::find(&mut route, &ifname(id))? {
                vxlan::set_peers(&mut route, carrier.index, &peers)?;
            }
        }
        if renamed { inner.tell_names(id) } else { Ok(()) }
    }
}

impl Inner {
    /// To be called without holding `state`.
    pub(crate) fn overlay_changed(&self, network: &Id) {
        let concerned = self.state().networks.get(network).is_some_and(|live| live.network.carrier.is_some());
        if let Some(call) = self.overlay_changed.get().filter(|_| concerned) {
            call();
        }
    }

    pub(crate) fn tell_kept(&self) -> Result<()> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if kept.is_empty() { Ok(()) } else { self.netd.keep(&kept) }
    }

    /// After a restart: a network that was up is up.
    pub(crate) fn restore_overlay(&self, live: &mut Live) -> Result<()> {
        let mut route = self.route();
        if link::find(&mut route, &ifname(&live.network.id))?.is_some() {
            live.bridge = Some(self.raise_carrier(&mut route, &live.network)?);
        }
        Ok(())
    }

    /// The bridge and the interface that joins it to those of other hosts.
    pub(crate) fn raise_carrier(&self, route: &mut Socket, network: &Network) -> Result<bridge::Bridge> {
        let name = network.bridge.as_deref().unwrap_or_default();
        let carrier = network.carrier.ok_or_else(|| Error::NoSuchNetwork { name: network.name.clone() })?;
        let mtu = match carrier.mtu {
            Some(mtu) => mtu,
            None => vxlan::mtu_within(underlay_mtu(route, carrier.local)?, carrier.local),
        };
        let addressing = Addressing {
            v4: network.subnet.zip(network.gateway).map(|(subnet, gateway)| Subnet::new(gateway, subnet.prefix())),
            v6: network.subnet6().zip(network.gateway6()).map(|(subnet, gateway)| Subnet6::new(gateway, subnet.prefix())),
            has_gateways: true,
        };
        let bridge = bridge::ensure_own(route, &self.config, &Own::again(name, addressing, Some(mtu)))?;
        let mark = self.config.mark();
        let wanted = Vxlan { name: &ifname(&network.id), vni: carrier.vni, local: carrier.local, bridge: bridge.index, mtu, mark: &mark };
        match vxlan::create(route, &wanted) {
            Ok(_) => Ok(bridge),
            Err(error) => {
                let _ = bridge::remove(route, &self.config, name);
                Err(error)
            }
        }
    }
}

/// The first address of an interface of this host.
pub fn interface_address(name: &str) -> Result<IpAddr> {
    link::check_name(name)?;
    let opened = Socket::route();
    let mut route = opened.map_err(|source| Error::Link { operation: "open", subject: "a netlink socket".to_owned(), source })?;
    let missing = || Error::Link { operation: "find an address of interface", subject: name.to_owned(), source: Errno::NODEV };
    let found = link::find(&mut route, name)?.ok_or_else(missing)?;
    let addresses = link::addresses(&mut route)?;
    let v4 = addresses.iter().find(|have| have.index == found.index).map(|have| IpAddr::V4(have.subnet.address()));
    let v6 = || {
        let ranges = link::ranges6(&mut route).ok()?;
        ranges.iter().find(|have| !have.is_route && have.index == found.index).map(|have| IpAddr::V6(have.subnet.address()))
    };
    v4.or_else(v6).ok_or_else(missing)
}

pub(crate) fn ifname(network: &Id) -> String {
    format!("{IFNAME_PREFIX}{}", &network.as_str()[..IFNAME_DIGITS])
}

/// What fits through the interface that has this host's address.
fn underlay_mtu(route: &mut Socket, local: IpAddr) -> Result<u32> {
    let index = match local {
        IpAddr::V4(local) => link::addresses(route)?.iter().find(|have| have.subnet.address() == local).map(|have| have.index),
        IpAddr::V6(local) => {
            link::ranges6(route)?.iter().find(|have| !have.is_route && have.subnet.address() == local).map(|have| have.index)
        }
    };
    let links = link::links(route)?;
    Ok(index.and_then(|index| links.iter().find(|link| link.index == index)).map_or(UNDERLAY_MTU, |link| link.mtu))
}
