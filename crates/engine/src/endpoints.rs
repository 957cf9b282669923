//! A container's places in networks: what is asked for, whether that can be, and what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use net::{Driver, Endpoint, EndpointRequest, Network, Resolving};
use types::Id;
use types::container::{EndpointSettings, HostConfig, NetworkingConfig};

use crate::container::Record;
use crate::sandbox::{Mode, address, bad};
use crate::{Engine, Error};

/// A network that a container is to be on.
pub(crate) struct Join {
    pub(crate) network: Arc<Network>,
    pub(crate) asked: EndpointSettings,
}

impl Engine {
    /// What a request says about networks, under the networks' own names, checked, and with the network of the mode among them.
    pub(crate) fn canonical_networks(&self, mac: &str, host: &HostConfig, asked: NetworkingConfig) -> Result<NetworkingConfig, Error> {
        let Mode::Network(mode) = Mode::parse(host) else { return Ok(asked) };
        let main = self.network(&mode)?.name.clone();
        let mut networks = BTreeMap::new();
        for (name, settings) in asked.endpoints_config.into_map() {
            networks.insert(self.network(&name)?.name.clone(), only_asked(settings));
        }
        let of_mode: &mut EndpointSettings = networks.entry(main).or_default();
        if of_mode.mac_address.is_empty() {
            mac.clone_into(&mut of_mode.mac_address);
        }
        for link in host.links.iter().filter(|link| !of_mode.links.contains(link)).cloned().collect::<Vec<_>>() {
            of_mode.links.push(link);
        }
        for (name, settings) in &networks {
            self.check_endpoint(&*self.network(name)?, settings)?;
        }
        Ok(NetworkingConfig { endpoints_config: networks.into() })
    }

    /// A network by name, identifier or unambiguous prefix of one.
    pub(crate) fn network(&self, name: &str) -> Result<Arc<Network>, Error> {
        self.net.network(name).map_err(|_| Error::NoSuchNetwork { name: name.to_owned() })
    }

    /// The networks that a container joins at its start: that of its mode first, which becomes `eth0`, then by name.
    pub(crate) fn joins(&self, record: &Record) -> Result<Vec<Join>, Error> {
        let Mode::Network(mode) = Mode::parse(&record.host) else { return Ok(Vec::new()) };
        let asked = &record.networking.endpoints_config;
        if asked.is_empty() {
            return Ok(vec![Join { network: self.network(&mode)?, asked: EndpointSettings::default() }]);
        }
        let main = self.network(&mode).map(|network| network.name.clone()).unwrap_or_default();
        let join = |(name, asked): (&String, &EndpointSettings)| Ok(Join { network: self.network(name)?, asked: asked.clone() });
        let mut joins = asked.iter().map(join).collect::<Result<Vec<_>, Error>>()?;
        joins.sort_by_key(|join| join.network.name != main);
        Ok(joins)
    }

    /// How the container's questions for names are answered.
    pub(crate) fn resolving(&self, record: &Record, joins: &[Join]) -> Result<Resolving, Error> {
        let given = record.host.dns.iter().map(|text| address("Dns", text)).collect::<Result<Vec<_>, _>>()?;
        let servers = match () {
            // Questions would be a way out.
            () if joins.iter().all(|join| join.network.internal) => Some(Vec::new()),
            () if given.is_empty() => None,
            () => Some(given),
        };
        let mut links = Vec::new();
        for link in joins.iter().flat_map(|join| join.asked.links.iter()) {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            let target = self.find(target).map_err(|error| bad("Links", link, &error.to_string()))?;
            links.push((alias.trim_start_matches('/').to_owned(), target.record().name.clone()));
        }
        Ok(Resolving { servers, links })
    }

    /// Refuses what a network cannot give.
    pub(crate) fn check_endpoint(&self, network: &Network, asked: &EndpointSettings) -> Result<(), Error> {
        let refused = |reason: &str| Error::BadEndpoint { network: network.name.clone(), reason: reason.to_owned() };
        let custom = network.is_user_defined();
        if !custom && !asked.aliases.is_empty() {
            return Err(refused("network-scoped alias is supported only for containers in user defined networks"));
        }
        if !custom && !asked.links.is_empty() {
            return Err(Error::NotServed { field: "Links (of the default network)".to_owned() });
        }
        for name in asked.aliases.iter() {
            if name.is_empty() || name.len() > 253 || name.contains(char::is_whitespace) {
                return Err(bad("Aliases", name, "a host name is expected"));
            }
        }
        for link in asked.links.iter() {
            self.find(link.split_once(':').map_or(link.as_str(), |(target, _)| target))?;
        }
        if !asked.mac_address.is_empty() {
            asked.mac_address.parse::<net::Mac>().map_err(|error| refused(&error.to_string()))?;
        }
        let Some(ipam) = &asked.ipam_config else { return Ok(()) };
        if !ipam.ipv6_address.is_empty() || !ipam.link_local_ips.is_empty() {
            return Err(Error::NotServed { field: "an IPv6 or link-local address in IPAMConfig".to_owned() });
        }
        if ipam.ipv4_address.is_empty() {
            return Ok(());
        }
        let wanted = fixed_address(asked)?;
        match (network.subnet, wanted) {
            _ if !custom => Err(refused("user specified IP address is supported on user defined networks only")),
            _ if !network.configured => {
                Err(refused("user specified IP address is supported only when connecting to networks with user configured subnets"))
            }
            (Some(subnet), Some(wanted)) if !subnet.contains(wanted) => {
                Err(refused(&format!("no configured subnet contains IP address {wanted}")))
            }
            _ => Ok(()),
        }
    }
}

/// The network through which the default route leads: the highest priority, then by name. Internal ones have none to give.
pub(crate) fn gateway<'a>(networks: impl Iterator<Item = (&'a Network, i64)>) -> Option<Id> {
    let open = networks.filter(|(network, _)| !network.internal);
    open.min_by_key(|(network, priority)| (-i128::from(*priority), network.name.clone())).map(|(network, _)| network.id.clone())
}

/// What the network layer is asked for.
pub(crate) fn request(record: &Record, join: &Join, ifname: String, default_route: bool) -> Result<EndpointRequest, Error> {
    let mac = Some(join.asked.mac_address.as_str()).filter(|mac| !mac.is_empty());
    Ok(EndpointRequest {
        address: fixed_address(&join.asked)?,
        mac: mac
            .map(|mac| mac.parse().map_err(|_| bad("MacAddress", mac, "six bytes such as 02:ca:ac:1e:00:02 are expected")))
            .transpose()?,
        ifname: Some(ifname),
        default_route,
        names: names(record, join),
        ..EndpointRequest::new(record.id.clone(), record.name.clone(), join.network.id.to_string())
    })
}

/// What `inspect` shows of it.
pub(crate) fn settings(record: &Record, join: &Join, endpoint: &Endpoint) -> EndpointSettings {
    let names = names(record, join);
    EndpointSettings {
        network_id: endpoint.network.to_string(),
        endpoint_id: endpoint.id.to_string(),
        gateway: if join.network.internal { String::new() } else { endpoint.gateway.to_string() },
        ip_address: endpoint.address.address().to_string(),
        ip_prefix_len: endpoint.address.prefix(),
        mac_address: endpoint.mac.to_string(),
        dns_names: if names.is_empty() { Default::default() } else { names.into() },
        ..join.asked.clone()
    }
}

/// Of settings that a client sends, what it asks for: an endpoint's id comes with what another endpoint got.
pub(crate) fn only_asked(settings: EndpointSettings) -> EndpointSettings {
    EndpointSettings {
        mac_address: if settings.endpoint_id.is_empty() { settings.mac_address } else { String::new() },
        ipam_config: settings.ipam_config,
        links: settings.links,
        aliases: settings.aliases,
        driver_opts: settings.driver_opts,
        gw_priority: settings.gw_priority,
        ..EndpointSettings::default()
    }
}

/// The container's name first: a renaming replaces that one.
fn names(record: &Record, join: &Join) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if !join.network.is_user_defined() || !matches!(join.network.driver, Driver::Bridge | Driver::Macvlan) {
        return names;
    }
    let hostname = Some(&record.config.hostname).filter(|name| !name.is_empty());
    let id = record.id.short().to_owned();
    for name in [&record.name].into_iter().chain(join.asked.aliases.iter()).chain([&id]).chain(hostname) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn fixed_address(asked: &EndpointSettings) -> Result<Option<std::net::Ipv4Addr>, Error> {
    let text = asked.ipam_config.as_ref().map(|ipam| ipam.ipv4_address.as_str()).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| bad("IPv4Address", text, "an IPv4 address is expected"))).transpose()
}
