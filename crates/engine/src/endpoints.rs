//! A container's places in networks: what is asked for, whether that can be, and what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use net::{Endpoint, EndpointRequest, Network, Resolving};
use types::Id;
use types::container::{EndpointSettings, HostConfig, NetworkingConfig};

use crate::container::Record;
use crate::sandbox::{Mode, address, bad};
use crate::{Engine, Error};

/// What interfaces of a network's containers are called, with a number behind.
const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const IFACE_PREFIX_DEFAULT: &str = "eth";
/// Driver options of an endpoint.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const ENDPOINT_IFNAME: &str = "com.docker.network.endpoint.ifname";
/// Stands for the interface's name in the names of its settings.
const IFNAME: &str = "IFNAME";

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
        // Those of the default network are lines in the container's hosts.
        for link in joins.iter().filter(|join| join.network.is_user_defined()).flat_map(|join| join.asked.links.iter()) {
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
        driver_options(asked)?;
        link_local(asked)?;
        let fixed = fixed_addresses(asked)?;
        let configured6 = network.ipv6.as_ref().is_some_and(|ipv6| ipv6.configured);
        let given = [
            fixed
                .v4
                .map(|address| (address.to_string(), network.configured, network.subnet.is_some_and(|subnet| subnet.contains(address)))),
            fixed.v6.map(|address| (address.to_string(), configured6, network.subnet6().is_some_and(|subnet| subnet.contains(address)))),
        ];
        for (address, configured, contains) in given.into_iter().flatten() {
            if !custom {
                return Err(refused("user specified IP address is supported on user defined networks only"));
            }
            if !configured {
                return Err(refused(
                    "user specified IP address is supported only when connecting to networks with user configured subnets",
                ));
            }
            if !contains {
                return Err(refused(&format!("no configured subnet contains IP address {address}")));
            }
        }
        Ok(())
    }
}

/// The networks through which a container's default routes lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gateways {
    pub(crate) v4: Option<Id>,
    pub(crate) v6: Option<Id>,
}

impl Gateways {
    /// The network on which the container's ports are published.
    pub(crate) fn publishing(&self) -> Option<&Id> {
        self.v4.as_ref().or(self.v6.as_ref())
    }

    /// Which of them lead through this network.
    pub(crate) fn routes(&self, network: &Id) -> Routes {
        Routes { v4: self.v4.as_ref() == Some(network), v6: self.v6.as_ref() == Some(network) }
    }
}

/// Which default routes lead through a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    v4: bool,
    v6: bool,
}

/// Of each family the network with the highest priority, then by name. Internal ones have no gateway to give.
pub(crate) fn gateways(networks: &[(&Network, i64)]) -> Gateways {
    let of_family = |has: &dyn Fn(&Network) -> bool| {
        let open = networks.iter().filter(|(network, _)| !network.internal && has(network));
        open.min_by_key(|(network, priority)| (-i128::from(*priority), network.name.clone())).map(|(network, _)| network.id.clone())
    };
    Gateways { v4: of_family(&|network| network.subnet.is_some()), v6: of_family(&|network| network.subnet6().is_some()) }
}

/// What the network layer is asked for.
pub(crate) fn request(record: &Record, join: &Join, ifname: String, routes: Routes) -> Result<EndpointRequest, Error> {
    let mac = Some(join.asked.mac_address.as_str()).filter(|mac| !mac.is_empty());
    let fixed = fixed_addresses(&join.asked)?;
    Ok(EndpointRequest {
        address: fixed.v4,
        address6: fixed.v6,
        link_local: link_local(&join.asked)?,
        mac: mac
            .map(|mac| mac.parse().map_err(|_| bad("MacAddress", mac, "six bytes such as 02:ca:ac:1e:00:02 are expected")))
            .transpose()?,
        ifname: Some(ifname),
        default_route: routes.v4,
        default_route6: routes.v6,
        sysctls: driver_options(&join.asked)?.sysctls,
        names: names(record, join),
        ..EndpointRequest::new(record.id.clone(), record.name.clone(), join.network.id.to_string())
    })
}

/// What the interface is called: as asked for, or the first name with a number that is not taken.
pub(crate) fn ifname(join: &Join, others: &[Endpoint]) -> Result<String, Error> {
    let taken = |name: &str| others.iter().any(|endpoint| endpoint.ifname == name);
    if let Some(name) = driver_options(&join.asked)?.ifname {
        return if taken(&name) { Err(bad("DriverOpts", &name, "another interface has this name")) } else { Ok(name) };
    }
    let prefix = join.network.options.get(IFACE_PREFIX).map_or(IFACE_PREFIX_DEFAULT, String::as_str);
    Ok((0..).map(|number: u32| format!("{prefix}{number}")).find(|name| !taken(name)).unwrap_or_default())
}

/// What `inspect` shows of it.
pub(crate) fn settings(record: &Record, join: &Join, endpoint: &Endpoint) -> EndpointSettings {
    let names = names(record, join);
    EndpointSettings {
        network_id: endpoint.network.to_string(),
        endpoint_id: endpoint.id.to_string(),
        gateway: shown(endpoint.gateway.filter(|_| !join.network.internal)),
        ip_address: shown(endpoint.ipv4()),
        ip_prefix_len: endpoint.address.map_or(0, |address| address.prefix()),
        ipv6_gateway: shown(endpoint.gateway6.filter(|_| !join.network.internal)),
        global_ipv6_address: shown(endpoint.ipv6()),
        global_ipv6_prefix_len: endpoint.address6.map_or(0, |address| address.prefix()),
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
    if !join.network.is_user_defined() || !join.network.driver.is_attachable() {
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

fn shown(address: Option<impl ToString>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// Addresses that a container is to have.
struct Fixed {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

fn fixed_addresses(asked: &EndpointSettings) -> Result<Fixed, Error> {
    let Some(ipam) = &asked.ipam_config else { return Ok(Fixed { v4: None, v6: None }) };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let v4 = given(&ipam.ipv4_address).map(|text| text.parse().map_err(|_| bad("IPv4Address", &text, "an IPv4 address is expected")));
    let v6 = given(&ipam.ipv6_address).map(|text| text.parse().map_err(|_| bad("IPv6Address", &text, "an IPv6 address is expected")));
    Ok(Fixed { v4: v4.transpose()?, v6: v6.transpose()? })
}

fn link_local(asked: &EndpointSettings) -> Result<Vec<IpAddr>, Error> {
    let given = asked.ipam_config.iter().flat_map(|ipam| ipam.link_local_ips.iter());
    given
        .map(|text| match text.parse() {
            Ok(IpAddr::V4(address)) if address.is_link_local() => Ok(address.into()),
            Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => Ok(address.into()),
            _ => Err(bad("LinkLocalIPs", text, "an address of 169.254.0.0/16 or fe80::/10 is expected")),
        })
        .collect()
}

/// What `driver-opt` says of an interface.
#[derive(Debug, Default)]
struct DriverOptions {
    sysctls: Vec<(String, String)>,
    ifname: Option<String>,
}

fn driver_options(asked: &EndpointSettings) -> Result<DriverOptions, Error> {
    let mut options = DriverOptions::default();
    for (name, value) in asked.driver_opts.iter() {
        match name.as_str() {
            SYSCTLS => {
                for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                    let (key, value) = entry.split_once('=').ok_or_else(|| bad("DriverOpts", entry, "NAME=VALUE is expected"))?;
                    let parts: Vec<_> = key.split('.').collect();
                    // Docker's client turns what it is given into small letters.
                    let named = parts.get(3).is_some_and(|part| part.eq_ignore_ascii_case(IFNAME));
                    let shape = parts.len() >= 5 && parts[0] == "net" && named && !parts.iter().any(|part| part.is_empty());
                    if !shape || key.contains('/') {
                        return Err(bad(
                            "DriverOpts",
                            entry,
                            "a setting of the interface such as net.ipv4.conf.IFNAME.log_martians is expected",
                        ));
                    }
                    let name = [&parts[..3], &[IFNAME], &parts[4..]].concat().join(".");
                    options.sysctls.push((name, value.to_owned()));
                }
            }
            ENDPOINT_IFNAME => options.ifname = Some(value.clone()),
            other => return Err(Error::NotServed { field: format!("the driver option {other} of an endpoint") }),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_options(options: &[(&str, &str)]) -> EndpointSettings {
        let map = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
        EndpointSettings { driver_opts: map.into(), ..EndpointSettings::default() }
    }

    #[test]
    fn settings_of_interfaces_are_read_and_others_refused() {
        let read = driver_options(&with_options(&[(SYSCTLS, "net.ipv4.conf.ifname.log_martians=1, net.ipv6.neigh.IFNAME.app_solicit=2")]));
        let sysctls = read.expect("good").sysctls;
        assert_eq!(sysctls[0].0, "net.ipv4.conf.IFNAME.log_martians");
        assert_eq!(sysctls[1], ("net.ipv6.neigh.IFNAME.app_solicit".to_owned(), "2".to_owned()));
        for odd in
            ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.forwarding=1", "kernel.x.y.IFNAME.z=1", "net.ipv4.conf.IFNAME./../x=1", "net"]
        {
            assert!(driver_options(&with_options(&[(SYSCTLS, odd)])).is_err(), "{odd}");
        }
        assert!(matches!(driver_options(&with_options(&[("x", "y")])), Err(Error::NotServed { .. })));
    }

    #[test]
    fn link_local_addresses_are_of_the_link() {
        let asked = |address: &str| EndpointSettings {
            ipam_config: Some(types::container::EndpointIpam { link_local_ips: vec![address.to_owned()].into(), ..Default::default() }),
            ..EndpointSettings::default()
        };
        assert_eq!(link_local(&asked("169.254.8.9")).expect("good").len(), 1);
        assert_eq!(link_local(&asked("fe80::9")).expect("good").len(), 1);
        for odd in ["10.0.0.1", "fd00::1", "x", ""] {
            assert!(link_local(&asked(odd)).is_err(), "{odd}");
        }
    }
}
