//! Networks that people make: from a request to a bridge, its addresses and its place in the packet filter, and back.

use std::net::Ipv4Addr;
use std::sync::Arc;

use types::Id;

use crate::bridge::{self, Bridge, Own};
use crate::ipam::Addresses;
use crate::link;
use crate::manager::Inner;
use crate::network::{NewNetwork, option};
use crate::nft::foreign;
use crate::nft::table::{self, BridgeRules};
use crate::{Driver, Error, ForeignForward, Net, Network, Result, Subnet};

/// A network with what there is of it now.
#[derive(Debug)]
pub(crate) struct Live {
    pub network: Arc<Network>,
    /// Of a bridge network.
    pub bridge: Option<Bridge>,
    /// None where it gives no addresses: `host` and `none`.
    pub addresses: Option<Addresses>,
}

impl Live {
    pub fn without_addresses(network: Network) -> Self {
        Self { network: Arc::new(network), bridge: None, addresses: None }
    }

    /// What the packet filter must know of it.
    pub fn rules(&self) -> Option<BridgeRules> {
        let network = &*self.network;
        Some(BridgeRules {
            bridge: network.bridge.clone()?,
            subnet: self.bridge?.address.network(),
            internal: network.internal,
            connects: network.is_on(option::ICC),
            masquerades: !network.internal && network.is_on(option::MASQUERADE),
        })
    }
}

impl Net {
    /// Makes a network. It is there until [`Net::remove_network`]; the caller keeps the record for [`Net::restore_networks`].
    pub fn create_network(&self, new: NewNetwork) -> Result<Arc<Network>> {
        new.check()?;
        let inner = &self.inner;
        // One at a time, so that no two take the same name, subnet or bridge.
        let mut filter = inner.filter();
        let taken: Vec<_> = {
            let state = inner.state();
            let networks = || state.networks.values().map(|live| &live.network);
            if networks().any(|network| network.name == new.name) {
                return Err(Error::NetworkExists { name: new.name });
            }
            networks().filter_map(|network| Some((network.name.clone(), network.subnet?))).collect()
        };
        if let Some(subnet) = new.subnet
            && let Some((other, _)) = taken.iter().find(|(_, other)| other.overlaps(&subnet))
        {
            return Err(Error::PoolOverlaps { subnet, other: other.clone() });
        }
        let taken: Vec<_> = taken.into_iter().map(|(_, subnet)| subnet).collect();
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
            let mut bridge = None;
            if let Some((name, subnet, gateway)) =
                network.bridge.as_deref().zip(network.subnet).zip(network.gateway).map(|((a, b), c)| (a, b, c))
            {
                let own = Own { name, address: Some(Subnet::new(gateway, subnet.prefix())), mtu: network.mtu(), taken: &[] };
                match bridge::ensure_own(&mut self.inner.route(), &self.inner.config, &own) {
                    Ok(made) => bridge = Some(made),
                    Err(error) => {
                        tracing::error!(
                            network = network.name,
                            error = types::error::chain(&error),
                            "the network could not be brought back"
                        );
                        errors.push(error);
                    }
                }
            }
            let addresses = network.subnet.zip(network.gateway).map(|(subnet, gateway)| addresses(&network, subnet, gateway));
            let live = Live { bridge, addresses, network: Arc::new(network) };
            self.inner.state().networks.insert(live.network.id.clone(), live);
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
            state.networks.remove(&network.id)
        };
        let mut done = Ok(());
        if let Some(rules) = live.as_ref().and_then(Live::rules) {
            let withdrawn = table::remove_bridge(&mut filter, &inner.config.table, &rules);
            done = withdrawn.and_then(|whole| if whole { Ok(()) } else { inner.install_with(&mut filter) });
            done = done.and(inner.renew_accepts(&mut filter));
        }
        drop(filter);
        if let Some(bridge) = &network.bridge {
            done = done.and(bridge::remove(&mut inner.route(), &inner.config, bridge));
        }
        done.and(inner.forget_zone(&network.id)).map(|()| network)
    }

    /// Finds addresses for the network, and makes its bridge.
    fn raise(&self, new: NewNetwork, taken: &[Subnet]) -> Result<Live> {
        let inner = &self.inner;
        let id = Id::random();
        let gateway_of = |subnet: Subnet| new.gateway.unwrap_or(Ipv4Addr::from_bits(subnet.first().to_bits() + 1));
        if new.driver == Driver::Macvlan {
            let parent = new.options.get(option::PARENT).cloned().unwrap_or_default();
            if link::find(&mut inner.route(), &parent)?.is_none() {
                return Err(Error::NoSuchParent { network: new.name, parent });
            }
            let subnet = new.subnet.ok_or(Error::NoFreeSubnet)?;
            let gateway = gateway_of(subnet);
            let network = new.into_network(id, subnet, gateway);
            let addresses = Some(addresses(&network, subnet, gateway));
            return Ok(Live { network: Arc::new(network), bridge: None, addresses });
        }
        let address = new.subnet.map(|subnet| Subnet::new(gateway_of(subnet), subnet.prefix()));
        // The bridge's name needs no address.
        let unspecified = Subnet::new(Ipv4Addr::UNSPECIFIED, 0);
        let name = new.clone().into_network(id.clone(), unspecified, Ipv4Addr::UNSPECIFIED).bridge.unwrap_or_default();
        let mtu = new.options.get(option::MTU).and_then(|mtu| mtu.parse().ok());
        let in_use = inner.state().networks.values().any(|live| live.network.bridge.as_deref() == Some(name.as_str()));
        if in_use {
            return Err(Error::BadNetwork { reason: format!("the bridge {name} is another network's") });
        }
        let bridge = bridge::ensure_own(&mut inner.route(), &inner.config, &Own { name: &name, address, mtu, taken })?;
        let network = new.into_network(id, bridge.address.network(), bridge.address.address());
        let addresses = Some(addresses(&network, bridge.address.network(), bridge.address.address()));
        Ok(Live { network: Arc::new(network), bridge: Some(bridge), addresses })
    }
}

impl Inner {
    /// Has the accept rules in chains of others, if we may put any there, name the bridges that there are now.
    fn renew_accepts(&self, filter: &mut crate::netlink::Socket) -> Result<()> {
        if self.config.firewall.forward != ForeignForward::Insert {
            return Ok(());
        }
        foreign::remove_accepts(filter, &self.config.mark())?;
        self.install_with(filter)
    }
}

fn addresses(network: &Network, subnet: Subnet, gateway: Ipv4Addr) -> Addresses {
    Addresses::new(subnet, gateway).within(network.ip_range).without(network.auxiliary.values().copied())
}
