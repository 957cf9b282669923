//! Networks across machines: what the hosts share through the cluster store is brought together with what this host's network layer has.
//!
//! Whatever changes (a record of another host, an endpoint of this one, the lease), one task compares both sides and does what is missing;
//! nothing else writes to the store but claims of addresses and the making and removing of networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use cluster::{Claim, Cluster, Keeper, Prefix};
use net::{Carrier, Driver, Endpoint, EndpointRequest, Ipv6, Mac, Netns, Remote, Subnet};
use store::Records;
use types::Id;

use crate::container::Record;
use crate::network::NETWORKS;
use crate::{Engine, Error};

/// The option that sets the packet size.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// The option that asks for encryption.
const ENCRYPTED_OPTION: &str = "encrypted";

/// How this engine takes part in networks across machines.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where etcd is.
    pub store: cluster::Store,
    /// Certificates.
    pub tls: cluster::Tls,
    /// A user of etcd and its password.
    pub user: Option<(String, String)>,
    /// The address under which other hosts reach this one.
    pub advertise: IpAddr,
    /// How long this host's endpoints outlive its last sign of life, in seconds.
    pub ttl_secs: u32,
}

impl ClusterConfig {
    /// Checks what can be checked without the store.
    pub fn check(&self) -> Result<(), cluster::Error> {
        self.with_host(Id::random(), "host".to_owned()).check()
    }

    fn with_host(&self, host: Id, name: String) -> cluster::Config {
        cluster::Config {
            store: self.store.clone(),
            tls: self.tls.clone(),
            user: self.user.clone(),
            host,
            name,
            advertise: self.advertise,
            ttl_secs: self.ttl_secs,
        }
    }
}

/// This engine's part in networks across machines.
#[derive(Debug)]
pub(crate) struct Overlay {
    cluster: Cluster,
    advertise: IpAddr,
    /// Endpoints that have an address but are not plugged in yet.
    attaching: Mutex<Vec<Id>>,
    changed: Arc<tokio::sync::Notify>,
    lease_file: PathBuf,
}

/// An endpoint on its way. Dropped, it is either plugged in or to be given back.
pub(crate) struct Attaching<'a> {
    overlay: &'a Overlay,
    id: Id,
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        self.overlay.attaching().retain(|id| *id != self.id);
        self.overlay.changed.notify_one();
    }
}

impl Overlay {
    /// Joins the other hosts; does not wait for the store. To be called on a thread of the runtime.
    pub(crate) fn open(config: &ClusterConfig, store: &store::Store, run: &Path, name: String) -> Result<Arc<Self>, Error> {
        let lease_file = run.join("cluster-lease");
        let lease = std::fs::read_to_string(&lease_file).ok().and_then(|text| text.trim().parse().ok());
        let cluster = Cluster::open(config.with_host(host_id(store)?, name), lease);
        Ok(Arc::new(Self {
            cluster: cluster.map_err(Error::Cluster)?,
            advertise: config.advertise,
            attaching: Mutex::default(),
            changed: Arc::new(tokio::sync::Notify::new()),
            lease_file,
        }))
    }

    fn attaching(&self) -> MutexGuard<'_, Vec<Id>> {
        self.attaching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, id: &Id) -> Attaching<'_> {
        self.attaching().push(id.clone());
        Attaching { overlay: self, id: id.clone() }
    }

    /// The containers of other hosts on a network.
    fn remote(&self, network: &Id) -> Vec<Remote> {
        let view = self.cluster.view();
        let remote = view.remote(network, self.cluster.host()).into_iter().map(|(endpoint, host)| Remote {
            mac: Mac(endpoint.mac),
            addresses: [Some(IpAddr::V4(endpoint.address)), endpoint.address6.map(IpAddr::V6)].into_iter().flatten().collect(),
            host,
            names: endpoint.names.clone(),
        });
        remote.collect()
    }

    /// The network as this host's network layer takes it.
    fn local(&self, network: &cluster::Network) -> Option<net::Network> {
        let v4 = network.subnets.first().and_then(v4_of)?;
        let gateway = network.gateways.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })?;
        let ipv6 = network.subnets.get(1).zip(network.gateways.get(1)).map(|(subnet, gateway)| Ipv6 {
            subnet: subnet.to_string().parse().ok(),
            configured: true,
            gateway: gateway.to_string().parse().ok(),
            ip_range: None,
            auxiliary: BTreeMap::new(),
        });
        let auxiliary = network.auxiliary.iter().filter_map(|(name, address)| match address {
            IpAddr::V4(address) => Some((name.clone(), *address)),
            IpAddr::V6(_) => None,
        });
        Some(net::Network {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: Driver::Overlay,
            created: UNIX_EPOCH + Duration::from_secs(network.created),
            ipv4: true,
            ipv6,
            subnet: Some(v4),
            configured: true,
            gateway: Some(gateway),
            ip_range: network.ip_range.as_ref().and_then(v4_of),
            auxiliary: auxiliary.collect(),
            bridge: None,
            internal: network.internal,
            attachable: network.attachable,
            config_only: false,
            config_from: String::new(),
            ipam_options: BTreeMap::new(),
            options: network.options.clone(),
            labels: network.labels.clone(),
            carrier: Some(Carrier { vni: network.vni, local: self.advertise, mtu: network.mtu }),
        })
    }
}

impl Engine {
    /// Plugs a container into a network. Blocks.
    pub(crate) fn plug(
        &self,
        netns: &Netns,
        record: &Record,
        network: &net::Network,
        mut request: EndpointRequest,
    ) -> Result<Endpoint, Error> {
        const OPERATION: &str = "connect the container to its network";
        let failed = |source| Error::Net { operation: OPERATION, source };
        if network.carrier.is_none() {
            return self.net.attach(netns, &request).map_err(failed);
        }
        let overlay = self.overlay()?;
        let id = Id::random();
        let _attaching = overlay.attach(&id);
        let claim = Claim {
            endpoint: id.clone(),
            network: network.id.clone(),
            container: record.id.clone(),
            name: record.name.clone(),
            names: request.names.clone(),
            address: request.address,
            mac: request.mac.map(|mac| mac.0),
        };
        let claimed = tokio::runtime::Handle::current().block_on(overlay.cluster.claim(&claim)).map_err(Error::Cluster)?;
        if request.address6.is_some() && request.address6 != claimed.address6 {
            let reason = "an IPv6 address on an overlay network follows from the IPv4 address: ask for that one".to_owned();
            return Err(Error::BadEndpoint { network: network.name.clone(), reason });
        }
        self.net.raise_overlay(&network.id).map_err(failed)?;
        self.net.set_remote(&network.id, &overlay.remote(&network.id)).map_err(failed)?;
        request.id = Some(id);
        request.address = Some(claimed.address);
        request.address6 = claimed.address6;
        request.mac = Some(Mac(claimed.mac));
        self.net.attach(netns, &request).map_err(failed)
    }

    /// Makes a network for all hosts.
    pub(crate) async fn create_overlay(&self, new: net::NewNetwork) -> Result<Arc<net::Network>, Error> {
        let overlay = self.overlay()?;
        let refused = |reason: String| Error::BadField { field: "Options", value: new.name.clone(), reason };
        if let Some(name) = new.options.keys().find(|name| ![MTU_OPTION, ENCRYPTED_OPTION].contains(&name.as_str())) {
            return Err(refused(format!("the option {name} is not one of overlay networks")));
        }
        if new.options.contains_key(ENCRYPTED_OPTION) {
            return Err(Error::NotServed { field: "an encrypted overlay network".to_owned() });
        }
        if self.net.network(&new.name).is_ok_and(|network| network.name == new.name) {
            return Err(Error::Cluster(cluster::Error::NameTaken { name: new.name }));
        }
        let mtu = match new.options.get(MTU_OPTION) {
            Some(text) => Some(text.parse().map_err(|_| refused(format!("{text:?} is no packet size")))?),
            None => None,
        };
        let v6 = new.ipv6.as_ref();
        if new.subnet.is_none() && v6.is_some() {
            return Err(refused("an overlay network with IPv6 needs both its subnets".to_owned()));
        }
        let subnets = new.subnet.map(|subnet| prefix(IpAddr::V4(subnet.address()), subnet.prefix()));
        let subnets6 = v6.and_then(|ipv6| ipv6.subnet).map(|subnet| prefix(IpAddr::V6(subnet.address()), subnet.prefix()));
        let gateways = new.gateway.or(new.subnet.map(|subnet| subnet.nth(1))).map(IpAddr::V4);
        let gateways6 = v6.and_then(|ipv6| ipv6.gateway.or(ipv6.subnet.map(|subnet| subnet.nth(1)))).map(IpAddr::V6);
        let used = self.net.ranges_in_use().map_err(Error::Network)?;
        let wanted = cluster::NewNetwork {
            name: new.name,
            subnets: subnets.into_iter().chain(subnets6).collect::<Result<_, _>>()?,
            gateways: gateways.into_iter().chain(gateways6).collect(),
            ip_range: new.ip_range.map(|range| prefix(IpAddr::V4(range.address()), range.prefix())).transpose()?,
            auxiliary: new.auxiliary.into_iter().map(|(name, address)| (name, IpAddr::V4(address))).collect(),
            internal: new.internal,
            attachable: new.attachable,
            encrypted: false,
            mtu,
            options: new.options,
            labels: new.labels,
            avoid: used.into_iter().filter_map(|range| prefix(IpAddr::V4(range.first()), range.prefix()).ok()).collect(),
        };
        let made = overlay.cluster.create_network(wanted).await.map_err(Error::Cluster)?;
        self.adopt(overlay, &made)
    }

    /// Removes a network from all hosts.
    pub(crate) async fn remove_overlay(&self, network: &net::Network) -> Result<(), Error> {
        match self.overlay()?.cluster.remove_network(&network.id).await {
            // Gone on all other hosts already.
            Ok(()) | Err(cluster::Error::NoSuchNetwork { .. }) => self.forget_overlay(&network.id),
            Err(error) => Err(Error::Cluster(error)),
        }
    }

    /// Other hosts, by name, with a container on a network.
    pub(crate) fn peers(&self, network: &Id) -> Vec<(String, IpAddr)> {
        let Some(overlay) = &self.overlay else { return Vec::new() };
        let view = overlay.cluster.view();
        let mut hosts: Vec<_> = view.on(network).filter_map(|endpoint| view.hosts.get(&endpoint.host)).collect();
        hosts.sort_by_key(|host| (host.name.clone(), host.id.clone()));
        hosts.dedup();
        hosts.into_iter().map(|host| (host.name.clone(), host.address)).collect()
    }

    /// Begins to bring both sides together. To be called when the containers that run are known.
    pub(crate) fn follow_overlay(self: &Arc<Self>) {
        let Some(overlay) = self.overlay.clone() else { return };
        overlay.cluster.restore(self.overlay_endpoints());
        let changed = overlay.changed.clone();
        self.net.on_overlay_change(move || changed.notify_one());
        tokio::spawn(follow(Arc::downgrade(self), overlay));
    }

    /// Leaves the other hosts for good.
    pub(crate) async fn leave_overlay(&self) {
        let Some(overlay) = &self.overlay else { return };
        if let Err(error) = overlay.cluster.leave().await {
            tracing::warn!(error = types::error::chain(&error), "this host's records stay in the cluster store until its lease ends");
        }
        let _ = std::fs::remove_file(&overlay.lease_file);
    }

    fn overlay(&self) -> Result<&Overlay, Error> {
        self.overlay.as_deref().ok_or(Error::NoCluster)
    }

    fn adopt(&self, overlay: &Overlay, network: &cluster::Network) -> Result<Arc<net::Network>, Error> {
        let wrong = || Error::NoSuchNetwork { name: network.name.clone() };
        let adopted = self.net.adopt_overlay(overlay.local(network).ok_or_else(wrong)?).map_err(Error::Network)?;
        let written = self.store.db().put(NETWORKS, adopted.id.as_str(), &*adopted);
        written.map_err(|source| Error::Store { operation: "write the network's record", source })?;
        Ok(adopted)
    }

    fn forget_overlay(&self, id: &Id) -> Result<(), Error> {
        self.net.forget_overlay(id).map_err(Error::Network)?;
        self.store.db().delete(NETWORKS, id.as_str()).map_err(|source| Error::Store { operation: "delete the network's record", source })
    }

    /// What this host has on overlay networks, as the store has it.
    fn overlay_endpoints(&self) -> Vec<cluster::Endpoint> {
        let Some(overlay) = &self.overlay else { return Vec::new() };
        let networks = self.net.networks().into_iter().filter(|network| network.carrier.is_some());
        let endpoints = networks.flat_map(|network| self.net.endpoints(&network.id));
        let shared = |endpoint: Endpoint| {
            Some(cluster::Endpoint {
                address: endpoint.ipv4()?,
                address6: endpoint.ipv6(),
                id: endpoint.id,
                network: endpoint.network,
                host: overlay.cluster.host().clone(),
                container: endpoint.container,
                name: endpoint.owner,
                mac: endpoint.mac.0,
                names: endpoint.names,
            })
        };
        endpoints.filter_map(shared).collect()
    }

    /// What the store says, done here. Blocks.
    fn bring_together(&self, overlay: &Overlay) {
        let view = overlay.cluster.view();
        let known: Vec<_> = self.net.networks().into_iter().filter(|network| network.carrier.is_some()).collect();
        if view.connected {
            for network in view.networks.values().filter(|network| !known.iter().any(|known| known.id == network.id)) {
                if let Err(error) = self.adopt(overlay, network) {
                    tracing::warn!(
                        network = network.name,
                        error = types::error::chain(&error),
                        "an overlay network cannot be used on this host"
                    );
                }
            }
        }
        for network in known {
            let gone = view.connected && !view.networks.contains_key(&network.id);
            let in_use = !self.net.endpoints(&network.id).is_empty() || !overlay.attaching().is_empty();
            let done = match () {
                () if gone && !in_use => self.forget_overlay(&network.id),
                () if in_use && view.connected => self.net.set_remote(&network.id, &overlay.remote(&network.id)).map_err(Error::Network),
                // What is known stays as it is while the store is away.
                () if in_use => Ok(()),
                () => self.net.lower_overlay(&network.id).map_err(Error::Network),
            };
            if let Err(error) = done {
                tracing::warn!(network = network.name, error = types::error::chain(&error), "an overlay network is not up to date");
            }
        }
        if let Err(error) = self.keep_lease(overlay) {
            tracing::warn!(error = types::error::chain(&error), "nobody renews this host's lease while the engine is away");
        }
    }

    /// Has the lease renewed by netd, too, which outlives the engine, and found again by the next engine.
    fn keep_lease(&self, overlay: &Overlay) -> Result<(), Error> {
        let keeper = overlay.cluster.keeper();
        let lease = keeper.as_ref().map_or(0, Keeper::lease);
        if std::fs::read_to_string(&overlay.lease_file).ok().and_then(|text| text.parse().ok()) != Some(lease) {
            let failed = |source| Error::File { operation: "write", path: overlay.lease_file.clone(), source };
            std::fs::write(&overlay.lease_file, lease.to_string()).map_err(failed)?;
        }
        let needed = !self.overlay_endpoints().is_empty();
        let what = keeper.filter(|_| needed).and_then(|keeper| serde_json::to_string(&keeper).ok()).unwrap_or_default();
        self.net.keep(what).map_err(Error::Network)
    }
}

/// One round after another, as long as there is an engine.
async fn follow(engine: Weak<Engine>, overlay: Arc<Overlay>) {
    let mut changes = overlay.cluster.changes();
    let mut leases = overlay.cluster.leases();
    loop {
        let Some(this) = engine.upgrade() else { return };
        let side = overlay.clone();
        let round = tokio::task::spawn_blocking(move || {
            this.bring_together(&side);
            this.overlay_endpoints()
        });
        let Ok(here) = round.await else { return };
        for held in overlay.cluster.held() {
            let done = match here.iter().find(|endpoint| endpoint.id == held.id) {
                Some(now) if now.names != held.names || now.name != held.name => {
                    overlay.cluster.rename(&held.id, &now.name, now.names.clone()).await
                }
                Some(_) => Ok(()),
                None if overlay.attaching().contains(&held.id) => Ok(()),
                // Looked at again: it may have been plugged in since.
                None if engine.upgrade().is_some_and(|engine| engine.net.endpoint(&held.id).is_some()) => Ok(()),
                None => overlay.cluster.release(&held.network, &held.id).await,
            };
            if let Err(error) = done {
                tracing::warn!(container = held.name, error = types::error::chain(&error), "the other hosts are told later");
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = leases.changed() => {}
            () = overlay.changed.notified() => {}
        }
        changes.mark_unchanged();
    }
}

/// Who this host is among others: the same at each start.
fn host_id(store: &store::Store) -> Result<Id, Error> {
    const KIND: &str = "engine";
    const KEY: &str = "host";
    let failed = |source| Error::Store { operation: "read the host's identifier", source };
    if let Some(id) = store.db().get::<Id>(KIND, KEY).map_err(failed)? {
        return Ok(id);
    }
    let id = Id::random();
    store.db().put(KIND, KEY, &id).map_err(failed)?;
    Ok(id)
}

fn v4_of(prefix: &Prefix) -> Option<Subnet> {
    match prefix.first() {
        IpAddr::V4(first) => Some(Subnet::new(first, prefix.len())),
        IpAddr::V6(_) => None,
    }
}

fn prefix(first: IpAddr, len: u8) -> Result<Prefix, Error> {
    let text = format!("{first}/{len}");
    Prefix::new(first, len).ok_or_else(|| Error::BadField { field: "Subnet", value: text, reason: "it has bits of hosts".to_owned() })
}
