//! Networks that people make: from a request to a bridge, its addresses and its place in the packet filter, and back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use types::Id;

use crate::bridge::{self, Bridge, Extension, Own, Wanted};
use crate::ipam::Addresses;
use crate::manager::Inner;
use crate::netd::zone::Entry;
use crate::network::{Addressing, NewNetwork};
use crate::nft::foreign;
use crate::nft::table::{self, BridgeRules};
use crate::options::option;
use crate::overlay;
use crate::parent::{self, HostAccess};
use crate::{Driver, Error, ForeignForward, Ipv6, Net, Network, Result, Subnet, Subnet6};

/// A network with what there is of it now.
#[derive(Debug)]
pub(crate) struct Live {
    pub network: Arc<Network>,
    /// Of a bridge network.
    pub bridge: Option<Bridge>,
    /// None where it gives no addresses: `host` and `none`.
    pub addresses: Option<Addresses>,
    pub addresses6: Option<Addresses>,
    /// The numbers of its further bridges.
    pub extensions: BTreeSet<u32>,
    /// Of a macvlan network whose containers the host reaches.
    pub host_access: Option<HostAccess>,
    /// Names of containers on other hosts, of an overlay network.
    pub remote: Vec<Entry>,
}

impl Live {
    /// Without anything in the kernel.
    pub fn new(network: Network) -> Self {
        let (addresses, addresses6) = if network.config_only { (None, None) } else { pools(&network) };
        Self {
            network: Arc::new(network),
            bridge: None,
            addresses,
            addresses6,
            extensions: BTreeSet::new(),
            host_access: None,
            remote: Vec::new(),
        }
    }

    /// The addresses that it gives.
    pub fn pools(&mut self) -> impl Iterator<Item = &mut Addresses> {
        self.addresses.iter_mut().chain(&mut self.addresses6)
    }

    /// Whether an interface of the host belongs to it.
    pub fn names_link(&self, name: &str) -> bool {
        let network = &*self.network;
        network.bridge.as_deref() == Some(name)
            || Extension::owns(&network.id, name)
            || network.carrier.is_some() && overlay::ifname(&network.id) == name
            || network.option(option::PARENT) == name
            || self.host_access.is_some() && parent::host_access_name(&network.id) == name
    }

    /// What the packet filter must know of it and of its further bridges.
    pub fn all_rules(&self) -> impl Iterator<Item = BridgeRules> {
        self.rules().into_iter().chain(self.extensions.iter().map(|slot| self.extension_rules(*slot)))
    }

    /// Where bridged packets pass the packet filter, too, a further bridge is only a part of the way.
    pub fn extension_rules(&self, slot: u32) -> BridgeRules {
        BridgeRules {
            bridge: Extension::new(&self.network.id, slot).name,
            subnet: None,
            subnet6: None,
            internal: false,
            connects: true,
            masquerades: false,
        }
    }

    /// What the packet filter must know of it.
    pub fn rules(&self) -> Option<BridgeRules> {
        let network = &*self.network;
        let bridge = self.bridge?;
        Some(BridgeRules {
            bridge: network.bridge.clone()?,
            subnet: bridge.address.map(|address| address.network()),
            subnet6: bridge.address6.map(|address| address.network()),
            internal: network.internal,
            connects: network.is_on(option::ICC),
            masquerades: !network.internal && network.is_on(option::MASQUERADE),
        })
    }
}

/// Subnets that other networks have.
#[derive(Debug, Default)]
struct Taken {
    v4: Vec<(String, Subnet)>,
    v6: Vec<(String, Subnet6)>,
}

impl Net {
    /// Makes a network. It is there until [`Net::remove_network`]; the caller keeps the record for [`Net::restore_networks`].
    pub fn create_network(&self, new: NewNetwork) -> Result<Arc<Network>> {
        let inner = &self.inner;
        // One at a time, so that no two take the same name, subnet or bridge.
        let mut filter = inner.filter();
        let new = inner.with_template(new)?;
        new.check()?;
        let taken = inner.taken(&new)?;
        let live = self.raise(new, &taken)?;
        let (network, rules) = (live.network.clone(), live.rules());
        inner.state().networks.insert(network.id.clone(), live);
        let Some(rules) = rules else { return Ok(network) };
        let added = table::add_bridge(&mut filter, &inner.config.table, &rules);
        let added = added.and_then(|whole| if whole { Ok(()) } else { inner.install_with(&mut filter) });
        let added = added.and_then(|()| inner.renew_accepts(&mut filter));
        if let Err(error) = added {
            inner.state().networks.remove(&network.id);
            let _ = bridge::remove(&mut inner.route(), &inner.config, &rules.bridge);
            return Err(error);
        }
        Ok(network)
    }

    /// Brings back networks that were made before, after a restart of the engine. To be called before [`Net::restore`].
    /// Failures are logged and returned, one per network; such a network is there, but nobody can be attached to it.
    pub fn restore_networks(&self, networks: Vec<Network>) -> Vec<Error> {
        let mut errors = Vec::new();
        for network in networks {
            let mut live = Live::new(network);
            let network = live.network.clone();
            let restored = match &network.bridge {
                Some(_) if network.carrier.is_some() => self.inner.restore_overlay(&mut live),
                Some(name) => {
                    let own = Own::again(name, network.addressing(), network.mtu());
                    bridge::ensure_own(&mut self.inner.route(), &self.inner.config, &own).map(|bridge| live.bridge = Some(bridge))
                }
                None => self.inner.raise_parent(&mut live).map(drop),
            };
            if let Err(error) = restored {
                tracing::error!(network = network.name, error = types::error::chain(&error), "the network could not be brought back");
                errors.push(error);
            }
            self.inner.state().networks.insert(network.id.clone(), live);
        }
        errors
    }

    /// Removes a network that nobody is on.
    pub fn remove_network(&self, name: &str) -> Result<Arc<Network>> {
        let inner = &self.inner;
        let network = inner.network(name)?;
        if !network.is_user_defined() {
            return Err(Error::Predefined { name: network.name.clone() });
        }
        let mut filter = inner.filter();
        let live = {
            let mut state = inner.state();
            let users: Vec<_> = state
                .every_endpoint()
                .filter(|endpoint| endpoint.network == network.id)
                .map(|endpoint| format!("name:{:?} id:{:?}", endpoint.owner, endpoint.id.short()))
                .collect();
            if !users.is_empty() {
                return Err(Error::NetworkInUse { name: network.name.clone(), endpoints: users });
            }
            let derived = |live: &&Live| network.config_only && live.network.config_from == network.name;
            if let Some(other) = state.networks.values().find(derived) {
                let reason = format!("is in use by network {}", other.network.name);
                return Err(Error::ConfigNetwork { name: network.name.clone(), reason });
            }
            state.networks.remove(&network.id)
        };
        let mut done = Ok(());
        for rules in live.iter().flat_map(Live::all_rules) {
            let withdrawn = table::remove_bridge(&mut filter, &inner.config.table, &rules);
            done = done.and(withdrawn.and_then(|whole| if whole { Ok(()) } else { inner.install_with(&mut filter) }));
        }
        if network.bridge.is_some() {
            done = done.and(inner.renew_accepts(&mut filter));
        }
        drop(filter);
        done = done.and(match &network.bridge {
            Some(bridge) => {
                let extensions = Extension::remove_all(&mut inner.route(), &network.id);
                extensions.and(bridge::remove(&mut inner.route(), &inner.config, bridge))
            }
            None => inner.lower_parent(&network),
        });
        done.and(inner.forget_zone(&network.id)).map(|()| network)
    }

    /// Finds addresses for the network, and makes its bridge or what it needs on its parent.
    fn raise(&self, new: NewNetwork, taken: &Taken) -> Result<Live> {
        let inner = &self.inner;
        let id = Id::random();
        let v4 = new.subnet.map(|subnet| Subnet::new(new.gateway.unwrap_or_else(|| subnet.nth(1)), subnet.prefix()));
        let given6 = new.ipv6.as_ref().and_then(|ipv6| Some((ipv6.subnet?, ipv6.gateway)));
        let v6 = given6.map(|(subnet, gateway)| Subnet6::new(gateway.unwrap_or_else(|| subnet.nth(1)), subnet.prefix()));
        if new.config_only {
            let has_gateways = new.gateway.is_some();
            return Ok(Live::new(NewNetwork { driver: Driver::None, ..new }.into_network(id, Addressing { v4, v6, has_gateways })));
        }
        if new.driver != Driver::Bridge {
            // Above layer 2 there are no neighbours, and so no gateway among them.
            let has_gateways = !matches!(new.options.get(option::IPVLAN_MODE).map(String::as_str), Some("l3" | "l3s"));
            let mut live = Live::new(new.into_network(id, Addressing { v4, v6, has_gateways }));
            if !inner.raise_parent(&mut live)? {
                return Err(Error::NoSuchParent {
                    network: live.network.name.clone(),
                    parent: live.network.option(option::PARENT).to_owned(),
                });
            }
            return Ok(live);
        }
        let name = new.bridge_name(&id);
        let mtu = new.options.get(option::MTU).and_then(|mtu| mtu.parse().ok());
        let in_use = inner.state().networks.values().any(|live| live.network.bridge.as_deref() == Some(name.as_str()));
        if in_use {
            return Err(Error::BadNetwork { reason: format!("the bridge {name} is another network's") });
        }
        let taken4: Vec<_> = taken.v4.iter().map(|(_, subnet)| *subnet).collect();
        let taken6: Vec<_> = taken.v6.iter().map(|(_, subnet)| *subnet).collect();
        let own = Own {
            name: &name,
            v4: if new.ipv4 { v4.map_or(Wanted::Any(&taken4), Wanted::Given) } else { Wanted::No },
            v6: if new.ipv6.is_some() { v6.map_or(Wanted::Any(&taken6), Wanted::Given) } else { Wanted::No },
            mtu,
        };
        let bridge = bridge::ensure_own(&mut inner.route(), &inner.config, &own)?;
        let network = new.into_network(id, bridge.addressing());
        Ok(Live { bridge: Some(bridge), ..Live::new(network) })
    }
}

impl Inner {
    /// Has the packet filter know a further bridge of a network.
    pub fn know_extension(&self, network: &Id, slot: u32) -> Result<()> {
        let mut filter = self.filter();
        let rules = {
            let mut state = self.state();
            let Some(live) = state.networks.get_mut(network) else { return Ok(()) };
            if !live.extensions.insert(slot) {
                return Ok(());
            }
            live.extension_rules(slot)
        };
        let added = table::add_bridge(&mut filter, &self.config.table, &rules);
        added.and_then(|whole| if whole { Ok(()) } else { self.install_with(&mut filter) })
    }

    /// Takes addresses and options from the configuration network that is named.
    fn with_template(&self, new: NewNetwork) -> Result<NewNetwork> {
        if new.config_from.is_empty() {
            return Ok(new);
        }
        let refused = |reason: &str| Err(Error::ConfigNetwork { name: new.config_from.clone(), reason: reason.to_owned() });
        let template = self.network(&new.config_from)?;
        let own = new.subnet.is_some() || new.ipv6.as_ref().is_some_and(|ipv6| ipv6.subnet.is_some()) || !new.options.is_empty();
        match () {
            () if new.config_only => refused("cannot be the source of another configuration network"),
            () if !template.config_only => refused("is no configuration network"),
            () if own => refused("sets addresses and options: a network that is made from it cannot have its own"),
            () => Ok(NewNetwork {
                ipv4: template.ipv4,
                ipv6: template.ipv6.clone().map(|ipv6| Ipv6 { configured: false, ..ipv6 }),
                subnet: template.subnet,
                gateway: template.gateway,
                ip_range: template.ip_range,
                auxiliary: template.auxiliary.clone(),
                ipam_options: template.ipam_options.clone(),
                options: template.options.clone(),
                labels: template.labels.clone().into_iter().chain(new.labels).collect(),
                config_from: template.name.clone(),
                ..new
            }),
        }
    }

    /// What other networks have; refuses names and subnets that are among it.
    fn taken(&self, new: &NewNetwork) -> Result<Taken> {
        let state = self.state();
        let networks = || state.networks.values().map(|live| &live.network);
        if networks().any(|network| network.name == new.name) {
            return Err(Error::NetworkExists { name: new.name.clone() });
        }
        let real = || networks().filter(|network| !network.config_only);
        let v4: Vec<_> = real().filter_map(|network| Some((network.name.clone(), network.subnet?))).collect();
        let v6: Vec<_> = real().filter_map(|network| Some((network.name.clone(), network.subnet6()?))).collect();
        if new.config_only {
            return Ok(Taken::default());
        }
        // The kernel has one mode for all ipvlan interfaces of a parent: another network would change it for those that are there.
        let option = |name: &str| new.options.get(name).map(String::as_str).unwrap_or_default();
        let same_parent =
            |network: &&Arc<Network>| network.driver == Driver::Ipvlan && network.option(option::PARENT) == option(option::PARENT);
        let mode = |text: &str| if text.is_empty() { "l2".to_owned() } else { text.to_owned() };
        if new.driver == Driver::Ipvlan
            && let Some(other) = real().find(same_parent)
            && mode(other.option(option::IPVLAN_MODE)) != mode(option(option::IPVLAN_MODE))
        {
            let reason = format!(
                "network {} has ipvlan interfaces of the mode {} on {}, which can have no others",
                other.name,
                mode(other.option(option::IPVLAN_MODE)),
                option(option::PARENT)
            );
            return Err(Error::BadNetwork { reason });
        }
        if let Some(subnet) = new.subnet
            && let Some((other, _)) = v4.iter().find(|(_, other)| other.overlaps(&subnet))
        {
            return Err(Error::PoolOverlaps { subnet: subnet.to_string(), other: other.clone() });
        }
        if let Some(subnet) = new.ipv6.as_ref().and_then(|ipv6| ipv6.subnet)
            && let Some((other, _)) = v6.iter().find(|(_, other)| other.overlaps(&subnet))
        {
            return Err(Error::PoolOverlaps { subnet: subnet.to_string(), other: other.clone() });
        }
        Ok(Taken { v4, v6 })
    }

    /// Has the accept rules in chains of others, if we may put any there, name the bridges that there are now.
    pub(crate) fn renew_accepts(&self, filter: &mut crate::netlink::Socket) -> Result<()> {
        if self.config.firewall.forward != ForeignForward::Insert {
            return Ok(());
        }
        foreign::remove_accepts(filter, &self.config.mark())?;
        self.install_with(filter)
    }
}

/// The addresses that a network gives.
fn pools(network: &Network) -> (Option<Addresses>, Option<Addresses>) {
    let v4 = network.subnet.map(|subnet| {
        let reserved = network.gateway.into_iter().chain(network.auxiliary.values().copied());
        Addresses::v4(subnet, network.ip_range).without(reserved.map(IpAddr::V4))
    });
    let v6 = network.ipv6.as_ref().and_then(|ipv6| {
        let reserved = ipv6.gateway.into_iter().chain(ipv6.auxiliary.values().copied());
        Some(Addresses::v6(ipv6.subnet?, ipv6.ip_range).without(reserved.map(IpAddr::V6)))
    });
    (v4, v6)
}
