//! The networks of one engine: the front of this crate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use types::Id;

use crate::bridge::{self, Bridge, Extension, Own};
use crate::ipam::{Lease, Refused};
use crate::link::{self, DefaultRoutes, Pair};
use crate::names::Resolver;
use crate::netd::handle::Handle;
use crate::netlink::Socket;
use crate::networks::Live;
use crate::nft::foreign;
use crate::nft::table::{self, Content, Published};
use crate::options::option;
use crate::overlay;
use crate::{
    Driver, Endpoint, EndpointRequest, Error, ForeignForward, Mac, NetConfig, Netns, Network, PortBinding, PortRequest, PublishedPolicy,
    Result, conntrack, network, watch,
};

/// Host ends of interfaces are `ve` and 12 digits of the endpoint's id.
const HOST_IFNAME_PREFIX: &str = "ve";
const HOST_IFNAME_DIGITS: usize = 12;

/// The networks of one engine. Thread-safe. Calls block for the kernel, and where ports are concerned for netd: well under a millisecond each.
#[derive(Debug)]
pub struct Net {
    pub(crate) inner: Arc<Inner>,
    /// Ends when dropped.
    watcher: Mutex<Option<watch::Watcher>>,
}

/// What [`Net::reconcile`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Host ends of interfaces that belong to no live endpoint.
    pub links: Vec<String>,
    /// Keys (endpoint ids, and containers' for names) that netd held sockets for without need.
    pub held: Vec<String>,
}

/// Shared with the threads that watch netd and the packet filter.
///
/// Order of locks: `names`, then `filter`, then `route`, then `state`.
pub(crate) struct Inner {
    pub config: NetConfig,
    pub ipv6: bool,
    filter: Mutex<Socket>,
    filter_port: Option<u32>,
    route: Mutex<Socket>,
    state: Mutex<State>,
    pub netd: Handle,
    /// The table is gone for good: who still watches must not bring it back.
    closed: AtomicBool,
    /// Held while a lost netd is replaced.
    pub revival: Mutex<()>,
    /// Held from the look at who has which name until netd knows.
    pub names: Mutex<()>,
    /// What netd is to keep up; empty: nothing.
    pub kept: Mutex<String>,
    /// Called when an endpoint of an overlay network has gone or has changed its names.
    pub overlay_changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Inner({})", self.config.table)
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub networks: BTreeMap<Id, Live>,
    pub endpoints: HashMap<Id, Endpoint>,
    /// Who answers containers' questions for names, by container.
    pub resolvers: HashMap<Id, Resolver>,
    /// Endpoints whose ports are being given back: still in the way, but no longer written into the table.
    leaving: HashMap<Id, Endpoint>,
    foreign: foreign::Foreign,
}

impl Net {
    /// Makes what is missing: the bridge with its address, the nftables table, IPv4 forwarding. Idempotent: what is there with our
    /// names is taken over, and its address kept. To be followed by [`Net::restore`], also when nothing ran before.
    pub fn open(config: NetConfig) -> Result<Self> {
        let no_links = |source| Error::Link { operation: "open", subject: "a netlink socket".to_owned(), source };
        let mut route = Socket::route().map_err(no_links)?;
        let bridge = bridge::ensure(&mut route, &config, None)?;
        let default = Network::default_bridge(&config, bridge.addressing(), bridge.mtu);
        let networks = [
            Live { bridge: Some(bridge), ..Live::new(default) },
            Live::new(Network::without_addresses(&config, "host", Driver::Host)),
            Live::new(Network::without_addresses(&config, "none", Driver::None)),
        ];
        let state = State {
            networks: networks.into_iter().map(|live| (live.network.id.clone(), live)).collect(),
            endpoints: HashMap::new(),
            resolvers: HashMap::new(),
            leaving: HashMap::new(),
            foreign: foreign::Foreign::default(),
        };
        let no_filter = |source| Error::Nft { table: config.table.clone(), operation: "reach the packet filter".to_owned(), source };
        let mut filter = Socket::netfilter().map_err(no_filter)?;
        let present = table::present(&mut filter, &config.table)?;
        let inner = Arc::new(Inner {
            netd: Handle::new(config.netd_command.clone(), config.netd_socket()),
            ipv6: bridge::ipv6_present(),
            config,
            filter_port: filter.port(),
            filter: Mutex::new(filter),
            route: Mutex::new(route),
            state: Mutex::new(state),
            closed: AtomicBool::new(false),
            revival: Mutex::new(()),
            names: Mutex::new(()),
            kept: Mutex::default(),
            overlay_changed: OnceLock::new(),
        });
        // A table of an earlier run serves containers that still run: it is replaced when they are known.
        if !present {
            inner.install()?;
        }
        let watcher = Mutex::new(watch::Watcher::start(&inner));
        Ok(Self { inner, watcher })
    }

    /// The configuration in force.
    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }

    /// Takes over the endpoints of containers that still run (their leases, ports and names), after a restart of the engine.
    /// Ports that netd no longer holds are bound again. Failures are logged and returned, one per endpoint; the others are restored.
    pub fn restore(&self, endpoints: Vec<Endpoint>) -> Vec<Error> {
        let mut errors = Vec::new();
        for endpoint in endpoints {
            let mut state = self.inner.state();
            let lease = Lease { endpoint: endpoint.id.clone(), owner: endpoint.owner.clone() };
            let leased = endpoint.addresses().try_for_each(|address| state.lease(&endpoint.network, address, lease.clone()).map(drop));
            match leased {
                Ok(()) => {
                    if let Some(live) = state.networks.get_mut(&endpoint.network).filter(|_| endpoint.slot > 0) {
                        live.extensions.insert(endpoint.slot);
                    }
                    state.endpoints.insert(endpoint.id.clone(), endpoint.clone());
                }
                Err(error) => errors.push(error),
            }
            drop(state);
            errors.extend(self.inner.route_from_host(&endpoint, true).err());
        }
        errors.extend(self.inner.install().err());
        errors.extend(self.inner.reclaim_ports());
        for error in &errors {
            tracing::warn!(error = types::error::chain(error), "an endpoint was not restored whole");
        }
        errors
    }

    /// Removes this engine's leftovers: interfaces on our bridge and held ports that belong to no endpoint known from
    /// [`Net::restore`] and [`Net::attach`].
    pub fn reconcile(&self) -> Result<Reconciled> {
        let mut done = Reconciled::default();
        let links = link::links(&mut self.inner.route())?;
        {
            let state = self.inner.state();
            let known = |name: &str| state.every_endpoint().any(|endpoint| endpoint.host_ifname == name);
            let mark = self.inner.config.mark();
            let mut bridges: Vec<_> = state.networks.values().filter_map(|live| live.bridge).map(|bridge| bridge.index).collect();
            let extends = |name: &str| state.networks.keys().any(|id| Extension::owns(id, name));
            bridges.extend(links.iter().filter(|link| link.kind == "bridge" && extends(&link.name)).map(|link| link.index));
            // Bridges too, and what is on parents: of a network whose making or removal was interrupted.
            let named = |name: &str| state.networks.values().any(|live| live.names_link(name));
            let kinds = ["bridge", "vlan", "macvlan", "vxlan"];
            let lost = links.iter().filter(|link| kinds.contains(&link.kind.as_str()) && link.alias == mark && !named(&link.name));
            let lost: Vec<_> = lost.map(|link| (link.index, link.name.clone())).collect();
            let on_ours = |master: u32| bridges.contains(&master) || lost.iter().any(|(index, _)| *index == master);
            let ours = links.into_iter().filter(|link| link.master.is_some_and(on_ours) && is_host_ifname(&link.name));
            done.links = ours.map(|link| link.name).filter(|name| !known(name)).collect();
            done.links.extend(lost.iter().map(|(_, name)| name.clone()));
        }
        link::delete(&mut self.inner.route(), &done.links)?;
        for (key, _) in self.inner.netd.list()? {
            let known = {
                let state = self.inner.state();
                state.every_endpoint().any(|endpoint| endpoint.id.as_str() == key) || state.resolvers.keys().any(|id| id.as_str() == key)
            };
            if !known {
                self.inner.netd.release(&key)?;
                done.held.push(key);
            }
        }
        Ok(done)
    }

    /// Installs bridge, table and elements again from memory, after a flush by others for example.
    pub fn repair(&self) -> Result<()> {
        self.inner.repair()
    }

    /// Ends the engine's use of the network. With `remove` (no container runs), bridge (if it is of our making), table and netd go too, and nothing is left on the host.
    /// Finishes whatever fails on the way, then tells the first failure.
    pub fn close(&self, remove: bool) -> Result<()> {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if !remove {
            self.inner.netd.disconnect();
            return Ok(());
        }
        let config = &self.inner.config;
        let quit = self.inner.netd.quit();
        let mut filter = self.inner.filter();
        self.inner.closed.store(true, Ordering::Release);
        let accepts = foreign::remove_accepts(&mut filter, &config.mark());
        let table = table::remove(&mut filter, &config.table);
        let networks: Vec<_> = self.inner.state().networks.values().map(|live| live.network.clone()).collect();
        let lower = |network: &Arc<Network>| match &network.bridge {
            Some(name) => {
                let carrier = link::delete(&mut self.inner.route(), &[overlay::ifname(&network.id)]);
                let extensions = Extension::remove_all(&mut self.inner.route(), &network.id);
                carrier.and(extensions).and(bridge::remove(&mut self.inner.route(), config, name))
            }
            // No other network needs the parent when all go.
            None => self.inner.lower_parent_for_good(network),
        };
        let removed = networks.iter().map(lower).fold(Ok(()), Result::and);
        quit.and(accepts).and(table).and(removed)
    }

    /// What a person should know: a foreign firewall that cuts containers off, with the way out.
    pub fn warnings(&self) -> Vec<String> {
        let config = &self.inner.config;
        let state = self.inner.state();
        let mut warnings = Vec::new();
        if config.firewall.forward == ForeignForward::Report {
            warnings.extend(state.foreign.forward.iter().map(|chain| {
                format!(
                    "the firewall chain \"{chain}\" drops forwarded packets by default, so containers may have no way out and published ports no way in; \
                     set firewall=insert to let the engine accept its bridge {} there",
                    config.bridge
                )
            }));
        }
        if self.inner.restricts(&state) {
            warnings.extend(state.foreign.input.iter().map(|chain| {
                format!("the firewall chain \"{chain}\" drops by default, so other hosts reach only the published ports listed in published_allow")
            }));
        }
        warnings
    }

    /// All networks: the built-in `bridge`, `host` and `none`, then those that were made, the oldest first.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        let mut all: Vec<_> = self.inner.state().networks.values().map(|live| live.network.clone()).collect();
        let place = |network: &Network| network::PREDEFINED.iter().position(|name| *name == network.name).unwrap_or(usize::MAX);
        all.sort_by_key(|network| (place(network), network.created, network.id.clone()));
        all
    }

    /// A network by name, id, or unambiguous prefix of an id; `default` is `bridge`.
    pub fn network(&self, name: &str) -> Result<Arc<Network>> {
        self.inner.network(name)
    }

    /// The endpoints on a network, for `network inspect`.
    pub fn endpoints(&self, network: &Id) -> Vec<Endpoint> {
        self.inner.state().endpoints.values().filter(|endpoint| endpoint.network == *network).cloned().collect()
    }

    /// The address under which containers reach the host: `host.docker.internal`.
    pub fn host_address(&self) -> IpAddr {
        let state = self.inner.state();
        let default = state.networks.values().find(|live| live.network.name == "bridge").and_then(|live| live.bridge);
        default.and_then(|bridge| bridge.address).map_or(Ipv4Addr::UNSPECIFIED, |address| address.address()).into()
    }

    /// The same as seen from an endpoint, where it leads to the host: a bridge's gateway is the host itself.
    pub fn host_address_for(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        if !endpoint.host_ifname.is_empty() {
            return endpoint.gateway.map(IpAddr::V4).or(endpoint.gateway6.map(IpAddr::V6));
        }
        let state = self.inner.state();
        state.networks.get(&endpoint.network)?.host_access.as_ref()?.from.map(IpAddr::V4)
    }

    /// Puts an interface with addresses and default routes into the namespace.
    pub fn attach(&self, netns: &Netns, request: &EndpointRequest) -> Result<Endpoint> {
        let inner = &self.inner;
        let network = inner.network(&request.network)?;
        if network.config_only {
            let reason = "cannot have containers: it is a template for other networks".to_owned();
            return Err(Error::ConfigNetwork { name: network.name.clone(), reason });
        }
        if !network.driver.is_attachable() {
            return Err(Error::NotAttachable { name: network.name.clone(), driver: network.driver.as_str() });
        }
        let mut endpoint = inner.lease(&network, request)?;
        let mut attached = inner.plug(netns, &network, &endpoint, request);
        if let Some(bridge) = &network.bridge
            && attached.is_err()
            && link::find(&mut inner.route(), bridge)?.is_none()
        {
            tracing::warn!(bridge, "the bridge is gone; it is made anew");
            attached = inner.repair().and_then(|()| inner.plug(netns, &network, &endpoint, request));
        }
        match attached {
            Ok(Some(mac)) if mac != endpoint.mac => {
                endpoint.mac = mac;
                inner.state().endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Ok(_) => (),
            Err(error) => {
                inner.state().forget(&endpoint.id);
                return Err(error);
            }
        }
        if let Err(error) = inner.route_from_host(&endpoint, true).and_then(|()| inner.tell_names(&network.id)) {
            inner.unplug(netns, &endpoint);
            let _ = self.release(&endpoint.id);
            return Err(error);
        }
        Ok(endpoint)
    }

    /// Has a container's default route of a family lead through one of its endpoints. After a change of the networks that it is on.
    pub fn set_default_route(&self, netns: &Netns, endpoint: &Endpoint, ipv6: bool) -> Result<()> {
        let gateway = if ipv6 { endpoint.gateway6.map(IpAddr::V6) } else { endpoint.gateway.map(IpAddr::V4) };
        link::set_default_route(&mut netns.socket(), &endpoint.ifname, gateway, ipv6)
    }

    /// Takes an endpoint from a container that goes on: interface, address, names and ports.
    pub fn detach(&self, netns: &Netns, endpoint: &Endpoint) -> Result<()> {
        self.inner.unplug(netns, endpoint);
        self.release(&endpoint.id)
    }

    /// Publishes ports, all of them or none, and adds the bindings to `endpoint` (and to what this `Net` remembers of it).
    pub fn publish(&self, endpoint: &mut Endpoint, ports: &[PortRequest]) -> Result<Vec<PortBinding>> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        if !self.inner.state().endpoints.contains_key(&endpoint.id) {
            return Err(Error::NoSuchEndpoint { id: endpoint.id.clone() });
        }
        let reserved = self.inner.reserve(endpoint, ports)?;
        let bindings: Vec<_> = reserved.iter().flat_map(|reservation| reservation.bindings.iter().cloned()).collect();
        self.inner.hold(endpoint, &reserved)?;
        if let Err(error) = self.inner.translate(endpoint, &bindings) {
            self.inner.hold_anew(endpoint);
            return Err(error);
        }
        endpoint.bindings.extend(bindings.iter().cloned());
        Ok(bindings)
    }

    /// Gives back address and ports at once. The interface is not waited for: it goes with its namespace. Finishes
    /// whatever fails on the way, then tells the first failure. Releasing an unknown endpoint is not an error.
    pub fn release(&self, endpoint: &Id) -> Result<()> {
        self.inner.release(endpoint)
    }

    /// Tells messages about taken names and ports that the container is now called otherwise.
    pub fn rename(&self, container: &Id, owner: &str) {
        let mut state = self.inner.state();
        let State { endpoints, networks: all, .. } = &mut *state;
        let mut networks = Vec::new();
        for endpoint in endpoints.values_mut().filter(|endpoint| endpoint.container == *container) {
            if let Some(first) = endpoint.names.first_mut() {
                owner.clone_into(first);
                networks.push(endpoint.network.clone());
            }
            endpoint.owner = owner.to_owned();
            if let Some(live) = all.get_mut(&endpoint.network) {
                live.pools().for_each(|addresses| addresses.rename(&endpoint.id, owner));
            }
        }
        drop(state);
        for network in networks {
            self.inner.overlay_changed(&network);
            if let Err(error) = self.inner.tell_names(&network) {
                tracing::warn!(error = types::error::chain(&error), "the container's new name is not known to its network");
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.inner.netd.disconnect();
    }
}

impl Inner {
    /// Bridges and table as they should be, from memory.
    pub fn repair(&self) -> Result<()> {
        let before: Vec<_> = {
            let state = self.state();
            state.networks.values().filter_map(|live| Some((live.network.clone(), live.bridge?))).collect()
        };
        for (network, old) in before {
            let mut route = self.route();
            let bridge = if network.carrier.is_some() {
                self.raise_carrier(&mut route, &network)?
            } else if network.is_user_defined() {
                let name = network.bridge.as_deref().unwrap_or_default();
                bridge::ensure_own(&mut route, &self.config, &Own::again(name, old.addressing(), network.mtu()))?
            } else {
                bridge::ensure(&mut route, &self.config, Some(old.addressing()))?
            };
            let (mut ports, mut slots) = (Vec::new(), BTreeSet::new());
            {
                let mut state = self.state();
                if let Some(live) = state.networks.get_mut(&network.id) {
                    live.bridge = Some(bridge);
                }
                let on_it = || state.endpoints.values().filter(|endpoint| endpoint.network == network.id);
                if bridge.index != old.index {
                    ports.extend(on_it().filter(|endpoint| endpoint.slot == 0).map(|endpoint| endpoint.host_ifname.clone()));
                }
                slots.extend(on_it().filter(|endpoint| endpoint.slot > 0).map(|endpoint| (endpoint.slot, endpoint.host_ifname.clone())));
            }
            link::enslave(&mut route, &ports, bridge.index)?;
            self.repair_extensions(&mut route, &network, &bridge, &slots)?;
        }
        self.install()
    }

    /// The further bridges of a network, with their ports, on its first one.
    fn repair_extensions(&self, route: &mut Socket, network: &Network, first: &Bridge, ports: &BTreeSet<(u32, String)>) -> Result<()> {
        let slots: BTreeSet<_> = ports.iter().map(|(slot, _)| *slot).collect();
        for slot in slots {
            let extension = Extension::new(&network.id, slot);
            let (index, fresh) = extension.ensure(route, &self.config, first, !network.is_on(option::ICC))?;
            link::enslave(route, &[extension.upper], first.index)?;
            if fresh {
                let names: Vec<_> = ports.iter().filter(|(of, _)| *of == slot).map(|(_, name)| name.clone()).collect();
                link::enslave(route, &names, index)?;
            }
        }
        Ok(())
    }

    /// Writes the table anew and looks at the firewalls of others.
    pub fn install(&self) -> Result<()> {
        self.install_with(&mut self.filter())
    }

    /// Looks at the firewalls of others again; writes the table anew only if what they do has changed.
    pub fn refresh_foreign(&self) -> Result<()> {
        let mut filter = self.filter();
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let foreign = foreign::look(&mut filter, &self.config.table)?;
        let changed = self.state().foreign != foreign;
        if changed { self.install_with(&mut filter) } else { self.insert_accepts(&mut filter, &foreign) }
    }

    pub(crate) fn install_with(&self, filter: &mut Socket) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let foreign = foreign::look(filter, &self.config.table)?;
        let (bridges, published, restrict) = {
            let mut state = self.state();
            state.foreign = foreign.clone();
            let bridges: Vec<_> = state.networks.values().flat_map(Live::all_rules).collect();
            let published: Vec<_> = state.endpoints.values().flat_map(|endpoint| Published::of(endpoint, &endpoint.bindings)).collect();
            (bridges, published, self.restricts(&state))
        };
        let content = Content { bridges: &bridges, published, restrict, allow: &self.config.firewall.published_allow };
        table::install(filter, &self.config.table, &content)?;
        self.insert_accepts(filter, &foreign)
    }

    fn insert_accepts(&self, filter: &mut Socket, foreign: &foreign::Foreign) -> Result<()> {
        if self.config.firewall.forward != ForeignForward::Insert {
            return Ok(());
        }
        let bridges: Vec<_> = self.state().networks.values().filter_map(|live| live.network.bridge.clone()).collect();
        foreign.forward.iter().try_for_each(|chain| foreign::insert_accepts(filter, chain, &bridges, &self.config.mark()))
    }

    /// Whether a netlink port is the one that our changes of the packet filter come from.
    pub fn is_own_port(&self, port: u32) -> bool {
        self.filter_port == Some(port)
    }

    fn restricts(&self, state: &State) -> bool {
        self.config.firewall.published == PublishedPolicy::RespectHost && !state.foreign.input.is_empty()
    }

    pub(crate) fn network(&self, name: &str) -> Result<Arc<Network>> {
        let name = if name == "default" { "bridge" } else { name };
        let state = self.state();
        let networks = || state.networks.values().map(|live| &live.network);
        let exact = networks().find(|network| network.name == name || network.id.as_str() == name);
        let mut by_prefix = networks().filter(|network| !name.is_empty() && network.id.as_str().starts_with(name));
        let found = exact.or_else(|| match (by_prefix.next(), by_prefix.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        });
        found.cloned().ok_or_else(|| Error::NoSuchNetwork { name: name.to_owned() })
    }

    /// Leases an address and remembers the endpoint.
    fn lease(&self, network: &Network, request: &EndpointRequest) -> Result<Endpoint> {
        let id = request.id.clone().unwrap_or_else(Id::random);
        let mut state = self.state();
        if let Some(mac) = request.mac
            && let Some(other) = state.every_endpoint().find(|endpoint| endpoint.mac == mac && endpoint.network == network.id)
        {
            return Err(Error::MacTaken { mac, owner: other.owner.clone() });
        }
        let lease = Lease { endpoint: id.clone(), owner: request.owner.clone() };
        let address = match network.subnet {
            Some(_) => Some(state.lease_any(&network.id, request.address.map(IpAddr::V4), false, lease.clone())?),
            None => refuse_family(network, request.address.map(IpAddr::V4))?,
        };
        let address6 = match network.subnet6() {
            Some(_) => state.lease_any(&network.id, request.address6.map(IpAddr::V6), true, lease).map(Some),
            None => refuse_family(network, request.address6.map(IpAddr::V6)),
        };
        let address6 = address6.inspect_err(|_| {
            if let Some((live, address)) = state.networks.get_mut(&network.id).zip(address) {
                live.pools().for_each(|addresses| addresses.release(address, &id));
            }
        })?;
        let host_ifname = match network.driver {
            driver if driver.has_bridge() => format!("{HOST_IFNAME_PREFIX}{}", &id.as_str()[..HOST_IFNAME_DIGITS]),
            _ => String::new(),
        };
        let (address, address6) = (network.with_prefix(address), network.with_prefix6(address6));
        let mac = request.mac.or(address.map(|v4| Mac::for_address(v4.address())));
        let mac = mac.or(address6.map(|v6| Mac::for_address6(v6.address())));
        let endpoint = Endpoint {
            host_ifname,
            network: network.id.clone(),
            container: request.container.clone(),
            owner: request.owner.clone(),
            address,
            address6,
            gateway: network.gateway,
            gateway6: network.gateway6(),
            link_local: request.link_local.clone(),
            mac: mac.unwrap_or_else(|| Mac::for_name(id.as_str())),
            ifname: request.ifname.clone().unwrap_or_else(|| "eth0".to_owned()),
            slot: state.free_slot(network, self.config.bridge_ports_max),
            names: if network.is_user_defined() { request.names.clone() } else { Vec::new() },
            bindings: Vec::new(),
            id,
        };
        state.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// Tells the hardware address where it is not ours to give.
    fn plug(&self, netns: &Netns, network: &Network, endpoint: &Endpoint, request: &EndpointRequest) -> Result<Option<Mac>> {
        link::check_name(&endpoint.ifname)?;
        if network.driver.has_bridge() {
            let bridge = self.state().networks.get(&network.id).and_then(|live| live.bridge);
            let bridge = bridge.ok_or_else(|| Error::NoSuchNetwork { name: network.name.clone() })?;
            let isolated = !network.is_on(option::ICC);
            let port_of = match endpoint.slot {
                0 => bridge.index,
                slot => {
                    let (index, _) = Extension::new(&network.id, slot).ensure(&mut self.route(), &self.config, &bridge, isolated)?;
                    self.know_extension(&network.id, slot)?;
                    index
                }
            };
            let pair = Pair {
                host_name: &endpoint.host_ifname,
                bridge: port_of,
                mtu: bridge.mtu,
                netns: netns.as_fd(),
                inside_name: &endpoint.ifname,
                mac: endpoint.mac,
                ipv6: self.ipv6,
                isolated,
            };
            link::create_pair(&mut self.route(), &pair)?;
        } else {
            self.plug_on_parent(netns, network, endpoint)?;
        }
        let routes = DefaultRoutes {
            v4: request.default_route && !network.internal && endpoint.address.is_some(),
            v6: request.default_route6 && !network.internal && endpoint.address6.is_some(),
        };
        let configured = netns.set_interface_sysctls(&endpoint.ifname, &request.sysctls);
        let configured = configured.and_then(|()| link::configure_inside(&mut netns.socket(), endpoint, self.ipv6, routes));
        let configured = configured.and_then(|()| match network.driver {
            driver if driver.has_bridge() => Ok(None),
            _ => Ok(link::find(&mut netns.socket(), &endpoint.ifname)?.and_then(|link| link.mac)),
        });
        configured.inspect_err(|_| {
            // The namespace may live on (of another container), so the interface has to go now.
            self.unplug(netns, endpoint);
        })
    }

    /// Removes an endpoint's interface.
    fn unplug(&self, netns: &Netns, endpoint: &Endpoint) {
        let removed = match endpoint.host_ifname.as_str() {
            "" => link::delete(&mut netns.socket(), std::slice::from_ref(&endpoint.ifname)),
            _ => link::delete(&mut self.route(), std::slice::from_ref(&endpoint.host_ifname)),
        };
        if let Err(error) = removed {
            tracing::warn!(error = types::error::chain(&error), "an interface could not be removed");
        }
    }

    /// Has the kernel translate the ports, and remembers them.
    fn translate(&self, endpoint: &Endpoint, bindings: &[PortBinding]) -> Result<()> {
        let mut filter = self.filter();
        let published: Vec<_> = Published::of(endpoint, bindings).collect();
        let before = {
            let mut state = self.state();
            let known = state.endpoints.get_mut(&endpoint.id).ok_or_else(|| Error::NoSuchEndpoint { id: endpoint.id.clone() })?;
            known.bindings.extend(bindings.iter().cloned());
            known.bindings.len() - bindings.len()
        };
        let done = table::publish(&mut filter, &self.config.table, &published);
        let done = done.and_then(|whole| if whole { Ok(()) } else { self.install_with(&mut filter) });
        if done.is_err()
            && let Some(known) = self.state().endpoints.get_mut(&endpoint.id)
        {
            known.bindings.truncate(before);
        }
        done
    }

    fn release(&self, id: &Id) -> Result<()> {
        let Some(endpoint) = self.state().leave(id) else { return Ok(()) };
        let mut done = self.route_from_host(&endpoint, false);
        if !endpoint.bindings.is_empty() {
            let mut filter = self.filter();
            let published: Vec<_> = Published::of(&endpoint, &endpoint.bindings).collect();
            let withdrawn = table::withdraw(&mut filter, &self.config.table, &published);
            done = done.and(withdrawn.and_then(|whole| if whole { Ok(()) } else { self.install_with(&mut filter) }));
            conntrack::forget_datagrams(&mut filter, &endpoint);
            drop(filter);
            done = done.and(self.netd.release(id.as_str()));
        }
        self.state().forget(id);
        self.overlay_changed(&endpoint.network);
        done.and(self.tell_names(&endpoint.network))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn filter(&self) -> MutexGuard<'_, Socket> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn route(&self) -> MutexGuard<'_, Socket> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those that have something, the leaving ones too.
    pub fn every_endpoint(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().chain(self.leaving.values())
    }

    /// The first of a network's bridges that has a port left.
    fn free_slot(&self, network: &Network, ports_max: usize) -> u32 {
        if network.driver != Driver::Bridge {
            return 0;
        }
        let mut used: HashMap<u32, usize> = HashMap::new();
        for endpoint in self.every_endpoint().filter(|endpoint| endpoint.network == network.id) {
            *used.entry(endpoint.slot).or_default() += 1;
        }
        (0..).find(|slot| used.get(slot).is_none_or(|count| *count < ports_max)).unwrap_or_default()
    }

    /// Leases an address of a network that is known.
    fn lease(&mut self, network: &Id, wanted: IpAddr, lease: Lease) -> Result<IpAddr> {
        self.lease_any(network, Some(wanted), wanted.is_ipv6(), lease)
    }

    /// Leases an address of a network, the wanted one or the next.
    fn lease_any(&mut self, network: &Id, wanted: Option<IpAddr>, ipv6: bool, lease: Lease) -> Result<IpAddr> {
        let missing = || Error::NoSuchNetwork { name: network.to_string() };
        let live = self.networks.get_mut(network).ok_or_else(missing)?;
        let addresses = if ipv6 { live.addresses6.as_mut() } else { live.addresses.as_mut() }.ok_or_else(missing)?;
        let v4 = || live.network.subnet.map(|subnet| subnet.to_string());
        let subnet = if ipv6 { live.network.subnet6().map(|subnet| subnet.to_string()) } else { v4() }.unwrap_or_default();
        let address = wanted.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        addresses.lease(wanted, lease).map_err(|refused| match refused {
            Refused::Exhausted { capacity } => Error::AddressesExhausted { network: live.network.name.clone(), subnet, capacity },
            Refused::Taken { owner } => Error::AddressTaken { address, owner },
            Refused::Unusable => Error::AddressUnusable { address, subnet },
        })
    }

    /// The first half of a release: no longer part of the table, but still in the way of others.
    fn leave(&mut self, id: &Id) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(id)?;
        self.leaving.insert(id.clone(), endpoint.clone());
        Some(endpoint)
    }

    /// The second half.
    fn forget(&mut self, id: &Id) {
        let Some(endpoint) = self.leaving.remove(id).or_else(|| self.endpoints.remove(id)) else { return };
        let Some(live) = self.networks.get_mut(&endpoint.network) else { return };
        for addresses in live.pools() {
            endpoint.addresses().for_each(|address| addresses.release(address, id));
        }
    }
}

/// A fixed address of a family that the network does not have.
fn refuse_family(network: &Network, wanted: Option<IpAddr>) -> Result<Option<IpAddr>> {
    match wanted {
        Some(address) => Err(Error::AddressUnusable { address, subnet: format!("network {}, which has none of its family", network.name) }),
        None => Ok(None),
    }
}

fn is_host_ifname(name: &str) -> bool {
    name.strip_prefix(HOST_IFNAME_PREFIX)
        .is_some_and(|digits| digits.len() == HOST_IFNAME_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
