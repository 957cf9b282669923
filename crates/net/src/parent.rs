//! Networks on an interface of the host: macvlan and ipvlan, VLAN sub-interfaces made for them, and the host's own way to such containers.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use types::Id;

use crate::ipam::Lease;
use crate::link::{self, Kind, OnParent};
use crate::manager::Inner;
use crate::networks::Live;
use crate::options::{option, truth};
use crate::{Driver, Endpoint, Error, Mac, Netns, Network, Result, Subnet};

/// The host's interface among the containers of a network is this and digits of the network's id.
const HOST_ACCESS_PREFIX: &str = "mv-";
const VLAN_MAX: u16 = 4094;

/// How the host reaches containers whose interfaces hang on its own: the kernel keeps the two apart, so it has one more among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAccess {
    pub index: u32,
    /// The address that the host has towards them.
    pub from: Option<Ipv4Addr>,
}

impl Inner {
    /// Makes what a macvlan or ipvlan network needs on the host. `false`: its parent is not there, and cannot be made.
    pub fn raise_parent(&self, live: &mut Live) -> Result<bool> {
        let network = live.network.clone();
        if !matches!(network.driver, Driver::Macvlan | Driver::Ipvlan) {
            return Ok(true);
        }
        let Some(parent) = self.parent_link(&network)? else { return Ok(false) };
        if network.driver == Driver::Ipvlan {
            self.try_ipvlan(&network, parent.index)?;
        }
        let access = network.option(option::HOST_ACCESS);
        if !access.is_empty() && truth(access) != Some(false) {
            let made = self.host_access(live, parent.index);
            if made.is_err() {
                self.lower_parent(&network)?;
            }
            live.host_access = Some(made?);
        }
        Ok(true)
    }

    /// Takes away what is ours of it, as far as nobody else uses it.
    pub fn lower_parent(&self, network: &Network) -> Result<()> {
        let parent = network.option(option::PARENT);
        let shared =
            self.state().networks.values().any(|live| live.network.id != network.id && live.network.option(option::PARENT) == parent);
        if shared { self.lower_host_access(network) } else { self.lower_parent_for_good(network) }
    }

    fn lower_host_access(&self, network: &Network) -> Result<()> {
        let name = [host_access_name(&network.id)];
        if network.option(option::HOST_ACCESS).is_empty() { Ok(()) } else { link::delete(&mut self.route(), &name) }
    }

    /// The same, whoever else uses it.
    pub fn lower_parent_for_good(&self, network: &Network) -> Result<()> {
        let mut done = self.lower_host_access(network);
        let parent = network.option(option::PARENT);
        if !parent.is_empty() {
            let ours = link::find(&mut self.route(), parent)?.filter(|link| link.kind == "vlan" && link.alias == self.config.mark());
            done = done.and(ours.map_or(Ok(()), |link| link::delete(&mut self.route(), &[link.name])));
        }
        done
    }

    /// An interface of the network in the namespace, still down.
    pub fn plug_on_parent(&self, netns: &Netns, network: &Network, endpoint: &Endpoint) -> Result<()> {
        let missing = || Error::NoSuchParent { network: network.name.clone(), parent: network.option(option::PARENT).to_owned() };
        let parent = self.parent_link(network)?.ok_or_else(missing)?;
        // Modes are checked when the network is made.
        let kind = match network.driver {
            Driver::Ipvlan => ipvlan(network),
            _ => Kind::Macvlan { mode: link::macvlan_mode(network.option(option::MACVLAN_MODE)).unwrap_or_default(), mac: endpoint.mac },
        };
        let wanted = OnParent { parent: parent.index, kind, mtu: network.mtu(), netns: Some(netns.as_fd()), name: &endpoint.ifname };
        link::create_on_parent(&mut self.route(), &wanted)
    }

    /// Adds (or takes away) the host's route to an endpoint, where it is to have one.
    pub fn route_from_host(&self, endpoint: &Endpoint, add: bool) -> Result<()> {
        let access = self.state().networks.get(&endpoint.network).and_then(|live| live.host_access.clone());
        match access.zip(endpoint.ipv4()) {
            Some((access, to)) => link::host_route(&mut self.route(), access.index, to, access.from, add),
            None => Ok(()),
        }
    }

    /// The parent, made first if its name says of which VLAN it is: `eth0.20`.
    fn parent_link(&self, network: &Network) -> Result<Option<link::Link>> {
        let name = network.option(option::PARENT);
        let mut route = self.route();
        if let Some(found) = link::find(&mut route, name)? {
            return Ok(Some(found));
        }
        let Some((base, id)) = vlan(name) else { return Ok(None) };
        let Some(base) = link::find(&mut route, base)? else { return Ok(None) };
        let wanted = OnParent { parent: base.index, kind: Kind::Vlan { id }, mtu: None, netns: None, name };
        link::create_on_parent(&mut route, &wanted)?;
        link::mark_and_set_up(&mut route, name, &self.config.mark())?;
        link::find(&mut route, name)
    }

    /// A kernel may lack this kind of interface: known when the network is made, and not only when somebody is to be on it.
    fn try_ipvlan(&self, network: &Network, parent: u32) -> Result<()> {
        let name = host_access_name(&network.id);
        let wanted = OnParent { parent, kind: ipvlan(network), mtu: None, netns: None, name: &name };
        link::create_on_parent(&mut self.route(), &wanted).map_err(|error| match error {
            Error::NoSuchKind { kind, .. } => Error::NoSuchKind { kind, subject: format!("network {}", network.name) },
            other => other,
        })?;
        link::delete(&mut self.route(), &[name])
    }

    fn host_access(&self, live: &mut Live, parent: u32) -> Result<HostAccess> {
        let network = live.network.clone();
        let name = host_access_name(&network.id);
        let given: Option<Ipv4Addr> = network.option(option::HOST_ACCESS).parse().ok();
        let present = link::find(&mut self.route(), &name)?;
        let addresses = link::addresses(&mut self.route())?;
        let address_of = |index: u32| {
            let inside = |address: Ipv4Addr| network.subnet.is_some_and(|subnet| subnet.contains(address));
            addresses
                .iter()
                .filter(|address| address.index == index)
                .map(|address| address.subnet.address())
                .find(|address| inside(*address))
        };
        let own = address_of(parent).filter(|_| given.is_none());
        // Without an address of the host's own on that wire, one of the network's is taken: the same as before.
        let wanted = given.or(present.as_ref().and_then(|link| address_of(link.index)));
        let leased = if own.is_some() { None } else { Some(self.lease_for_host(live, wanted)?) };
        let mut route = self.route();
        if present.is_none() {
            let kind = Kind::Macvlan { mode: link::macvlan_mode("bridge").unwrap_or_default(), mac: Mac::for_name(&name) };
            link::create_on_parent(&mut route, &OnParent { parent, kind, mtu: network.mtu(), netns: None, name: &name })?;
        }
        link::mark_and_set_up(&mut route, &name, &self.config.mark())?;
        let made = link::find(&mut route, &name)?.ok_or(Error::NoFreeSubnet)?;
        if let Some(leased) = leased {
            link::configure(&mut route, &made, Some(Subnet::new(leased, 32)), None)?;
        }
        Ok(HostAccess { index: made.index, from: own.or(leased) })
    }

    fn lease_for_host(&self, live: &mut Live, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let network = live.network.clone();
        let unusable = || Error::AddressUnusable {
            address: wanted.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            subnet: network.subnet.map(|subnet| subnet.to_string()).unwrap_or_default(),
        };
        let addresses = live.addresses.as_mut().ok_or_else(unusable)?;
        let lease = Lease { endpoint: network.id.clone(), owner: "(this host)".to_owned() };
        match addresses.lease(wanted.map(Into::into), lease) {
            Ok(std::net::IpAddr::V4(address)) => Ok(address),
            _ => Err(unusable()),
        }
    }
}

fn ipvlan(network: &Network) -> Kind {
    Kind::Ipvlan {
        mode: link::ipvlan_mode(network.option(option::IPVLAN_MODE)).unwrap_or_default(),
        flag: link::ipvlan_flag(network.option(option::IPVLAN_FLAG)).unwrap_or_default(),
    }
}

pub(crate) fn host_access_name(network: &Id) -> String {
    format!("{HOST_ACCESS_PREFIX}{}", network.short())
}

/// An interface and the number of a VLAN on it.
fn vlan(name: &str) -> Option<(&str, u16)> {
    let (base, id) = name.rsplit_once('.')?;
    let id = id.parse().ok().filter(|id| (1..=VLAN_MAX).contains(id))?;
    (!base.is_empty()).then_some((base, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_read_off_names() {
        assert_eq!(vlan("eth0.20"), Some(("eth0", 20)));
        assert_eq!(vlan("bond0.10.4094"), Some(("bond0.10", 4094)));
        for other in ["eth0", "eth0.", "eth0.0", "eth0.4095", ".5", "eth0.x"] {
            assert_eq!(vlan(other), None, "{other}");
        }
    }
}
