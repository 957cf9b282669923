//! Networks: made, listed, inspected and removed.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use net::{Driver, Ipv6, NewNetwork};
use store::Records;
use types::{Classify, ErrorKind, Id};

use crate::container::Record;
use crate::request::{CreateNetwork, Filters, NetworkPool};
use crate::{Engine, Error, filter};

/// The kind of document that a network is.
pub(crate) const NETWORKS: &str = "network";
const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// A network and who is on it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// The network.
    pub network: Arc<net::Network>,
    /// Running containers on it, by identifier.
    pub containers: BTreeMap<Id, NetworkUser>,
    /// Hosts with a container on it, by name, of an overlay network.
    pub peers: Vec<(String, std::net::IpAddr)>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUser {
    /// Its name.
    pub name: String,
    /// The endpoint's identifier.
    pub endpoint_id: String,
    /// The hardware address.
    pub mac_address: String,
    /// The address with the prefix length; empty where there is none.
    pub ipv4_address: String,
    /// The same of IPv6.
    pub ipv6_address: String,
}

impl Engine {
    /// Networks that the filters select.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkView>, Error> {
        filter::known(filters, FILTERS)?;
        let dangling = filter::flag(filters, "dangling")?;
        let holds = |network: &net::Network| {
            let built_in = !network.is_user_defined();
            filter::any(filters, "driver", |driver| driver == network.driver.as_str())
                && filter::any(filters, "id", |prefix| network.id.as_str().starts_with(prefix))
                && filter::any(filters, "name", |part| network.name.contains(part))
                && filter::any(filters, "scope", |scope| scope == network.driver.scope())
                && filter::any(filters, "type", |kind| kind == if built_in { "builtin" } else { "custom" })
                && dangling.is_none_or(|wanted| (!built_in && self.net.endpoints(&network.id).is_empty()) == wanted)
                && filter::labels_match(filters, &network.labels)
        };
        Ok(self.net.networks().into_iter().filter(|network| holds(network)).map(|network| self.network_view(network)).collect())
    }

    /// A network by name, identifier or unambiguous prefix of one.
    pub fn inspect_network(&self, name: &str) -> Result<NetworkView, Error> {
        Ok(self.network_view(self.network(name)?))
    }

    /// Makes a network.
    pub async fn create_network(self: &Arc<Self>, request: CreateNetwork) -> Result<Arc<net::Network>, Error> {
        let new = new_network(request)?;
        let _changing = self.network_lock.lock().await;
        if new.driver == Driver::Overlay {
            let network = self.create_overlay(new).await?;
            self.network_event(&network, "create", None);
            return Ok(network);
        }
        let engine = self.clone();
        let network = tokio::task::spawn_blocking(move || {
            let network = engine.net.create_network(new).map_err(Error::Network)?;
            // Without its record it would be gone after a restart.
            if let Err(source) = engine.store.db().put(NETWORKS, network.id.as_str(), &*network) {
                let _ = engine.net.remove_network(network.id.as_str());
                return Err(Error::Store { operation: "write the network's record", source });
            }
            Ok(network)
        })
        .await??;
        self.network_event(&network, "create", None);
        Ok(network)
    }

    /// Removes a network that no running container is on.
    pub async fn remove_network(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let network = self.network(name)?;
        if !network.is_user_defined() {
            return Err(Error::PredefinedNetwork { name: network.name.clone() });
        }
        let _changing = self.network_lock.lock().await;
        if network.carrier.is_some() {
            self.remove_overlay(&network).await?;
            self.network_event(&network, "destroy", None);
            return Ok(());
        }
        let (engine, removed) = (self.clone(), network.clone());
        tokio::task::spawn_blocking(move || {
            // A crash after this leaves a bridge that nobody knows, which the next start removes.
            let forgotten = || engine.store.db().delete(NETWORKS, removed.id.as_str());
            match engine.net.remove_network(removed.id.as_str()) {
                Err(error @ (net::Error::NetworkInUse { .. } | net::Error::ConfigNetwork { .. })) => return Err(Error::Network(error)),
                Err(error) => tracing::warn!(network = removed.name, error = types::error::chain(&error), "something of the network stays"),
                Ok(_) => (),
            }
            forgotten().map_err(|source| Error::Store { operation: "delete the network's record", source })
        })
        .await??;
        self.network_event(&network, "destroy", None);
        Ok(())
    }

    /// Removes the networks that the filters select and nobody is on. Answers their names.
    pub async fn prune_networks(self: &Arc<Self>, filters: Filters) -> Result<Vec<String>, Error> {
        filter::known(&filters, PRUNE_FILTERS)?;
        let until = match filter::values(&filters, "until") {
            [] => None,
            [text, ..] => Some(filter::moment("until", text)?),
        };
        let mut pruned = Vec::new();
        for network in self.net.networks() {
            let young = until.is_some_and(|until| jiff::Timestamp::try_from(network.created).is_ok_and(|created| created >= until));
            // What other hosts may count on is removed by name alone.
            if !network.is_user_defined() || network.carrier.is_some() || young || !filter::labels_match(&filters, &network.labels) {
                continue;
            }
            match self.remove_network(network.id.as_str()).await {
                Ok(()) => pruned.push(network.name.clone()),
                // In use, or removed by somebody else meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.pruned_event("network", 0);
        Ok(pruned)
    }

    /// Brings back the networks of the records. One that cannot be read is reported and left alone. Blocks.
    pub(crate) fn restore_networks(&self) -> Result<(), Error> {
        let all = self.store.db().scan_raw(NETWORKS).map_err(|source| Error::Store { operation: "read the networks' records", source })?;
        let decode = |(id, body): (String, Vec<u8>)| match serde_json::from_slice::<net::Network>(&body) {
            Ok(network) => Some(network),
            Err(source) => {
                let error = Error::Record { subject: format!("network {id}"), source };
                tracing::error!(error = types::error::chain(&error), "a network is left out");
                None
            }
        };
        // What fails is logged there; the engine goes on with the others.
        self.net.restore_networks(all.into_iter().filter_map(decode).collect());
        Ok(())
    }

    /// Tells of a container's coming to all of its networks, or going from them.
    pub(crate) fn network_events(&self, record: &Record, action: &str) {
        for name in record.networks.keys() {
            if let Ok(network) = self.net.network(name) {
                self.network_event(&network, action, Some(&record.id));
            }
        }
    }

    pub(crate) fn network_event(&self, network: &net::Network, action: &str, container: Option<&Id>) {
        let mut attributes =
            BTreeMap::from([("name".to_owned(), network.name.clone()), ("type".to_owned(), network.driver.as_str().to_owned())]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_string())));
        self.events.publish("network", action, network.id.as_str(), attributes);
    }

    fn network_view(&self, network: Arc<net::Network>) -> NetworkView {
        let records = self.containers.all().into_iter().map(|container| container.record());
        let containers = records.filter(|record| record.is_alive()).filter_map(|record| {
            let settings = record.networks.get(&network.name)?;
            let with_prefix = |address: &str, prefix: u8| if address.is_empty() { String::new() } else { format!("{address}/{prefix}") };
            let user = NetworkUser {
                name: record.name.clone(),
                endpoint_id: settings.endpoint_id.clone(),
                mac_address: settings.mac_address.clone(),
                ipv4_address: with_prefix(&settings.ip_address, settings.ip_prefix_len),
                ipv6_address: with_prefix(&settings.global_ipv6_address, settings.global_ipv6_prefix_len),
            };
            Some((record.id.clone(), user))
        });
        NetworkView { containers: containers.collect(), peers: self.peers(&network.id), network }
    }
}

/// Reads addresses off a request, and refuses what there is not.
fn new_network(request: CreateNetwork) -> Result<NewNetwork, Error> {
    let driver = match request.driver.as_str() {
        "" | "bridge" | "default" => Driver::Bridge,
        "macvlan" => Driver::Macvlan,
        "ipvlan" => Driver::Ipvlan,
        "overlay" => Driver::Overlay,
        "host" | "null" | "none" => return Err(Error::NotServed { field: format!("a second network with the driver {}", request.driver) }),
        _ => return Err(Error::NoSuchNetworkDriver { driver: request.driver }),
    };
    let mut new = NewNetwork {
        driver,
        ipv4: request.ipv4,
        ipv6: request.ipv6.then(Ipv6::default),
        internal: request.internal,
        attachable: request.attachable,
        config_only: request.config_only,
        config_from: request.config_from,
        ipam_options: request.ipam_options,
        options: request.options,
        labels: request.labels,
        ..NewNetwork::bridge(request.name)
    };
    for pool in request.pools {
        let of_ipv6 = [&pool.subnet, &pool.gateway, &pool.ip_range].into_iter().any(|text| text.contains(':'));
        match &mut new.ipv6 {
            Some(ipv6) if of_ipv6 && ipv6.subnet.is_some() => return Err(second_subnet("IPv6")),
            Some(ipv6) if of_ipv6 => *ipv6 = pool6(&pool)?,
            // As Docker does, which clients count on: without IPv6 its subnet is not looked at.
            None if of_ipv6 => {}
            _ if new.subnet.is_some() => return Err(second_subnet("IPv4")),
            _ => {
                new.subnet = parsed("Subnet", &pool.subnet, "an address range such as 172.28.0.0/16 is expected")?;
                new.gateway = parsed("Gateway", &pool.gateway, "an IPv4 address is expected")?;
                new.ip_range = parsed("IPRange", &pool.ip_range, "an address range such as 172.28.0.0/16 is expected")?;
                new.auxiliary = auxiliary(&pool, "an IPv4 address is expected")?;
            }
        }
    }
    Ok(new)
}

fn pool6(pool: &NetworkPool) -> Result<Ipv6, Error> {
    Ok(Ipv6 {
        subnet: parsed("Subnet", &pool.subnet, "an address range such as fd00:1:2:3::/64 is expected")?,
        gateway: parsed("Gateway", &pool.gateway, "an IPv6 address is expected")?,
        ip_range: parsed("IPRange", &pool.ip_range, "an address range such as fd00:1:2:3::/64 is expected")?,
        auxiliary: auxiliary(pool, "an IPv6 address is expected")?,
        configured: true,
    })
}

fn auxiliary<A: FromStr>(pool: &NetworkPool, reason: &str) -> Result<BTreeMap<String, A>, Error> {
    let read = |(name, text): (&String, &String)| {
        let address = parsed("AuxiliaryAddresses", text, reason)?;
        Ok((name.clone(), address.ok_or_else(|| wrong("AuxiliaryAddresses", name, "the address is missing"))?))
    };
    pool.auxiliary.iter().map(read).collect()
}

fn parsed<A: FromStr>(field: &'static str, text: &str, reason: &str) -> Result<Option<A>, Error> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| wrong(field, text, reason)) }
}

fn second_subnet(family: &str) -> Error {
    Error::NotServed { field: format!("a second {family} subnet of a network") }
}

fn wrong(field: &'static str, value: &str, reason: &str) -> Error {
    Error::BadField { field, value: value.to_owned(), reason: reason.to_owned() }
}
