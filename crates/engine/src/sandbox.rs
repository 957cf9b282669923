//! The sandbox of one run of a container: its network namespace, endpoints and published ports, and the files that name hosts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use net::files::RESOLVED_UPSTREAM;
use net::{Endpoint, Netns, PortRequest, Protocol};
use types::Id;
use types::container::{Config, EndpointSettings, HostConfig, List, NamespaceMode, PortBinding, PortMap};

use crate::container::{Container, Record};
use crate::{Engine, Error, endpoints};

/// The name by which a container reaches its host.
const HOST_NAMES: [&str; 2] = ["host.docker.internal", "gateway.docker.internal"];
/// The option of a network for the host's address of its published ports.
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
/// What `--add-host NAME:host-gateway` stands for.
const HOST_GATEWAY: &str = "host-gateway";
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// What Docker sets in each new namespace: any user may bind low ports and send pings.
const DEFAULT_SYSCTLS: [(&str, &str); 2] = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// What a container's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An interface of its own in this network.
    Network(String),
    /// A namespace with nothing but loopback.
    None,
    /// The host's namespace.
    Host,
    /// That of another container.
    Container(String),
}

impl Mode {
    pub(crate) fn parse(host: &HostConfig) -> Self {
        match NamespaceMode::parse(&host.network_mode) {
            NamespaceMode::Host => Self::Host,
            NamespaceMode::Container(name) => Self::Container(name.to_owned()),
            NamespaceMode::Default | NamespaceMode::Other("default") => Self::Network("bridge".to_owned()),
            NamespaceMode::Other("none") => Self::None,
            NamespaceMode::Other(name) => Self::Network(name.to_owned()),
        }
    }
}

/// A network that is ready for a container to start in. Dropped without [`Prepared::keep`], it gives everything back.
pub(crate) struct Prepared {
    net: Arc<net::Net>,
    container: Id,
    /// The namespace to join; none is the host's.
    pub(crate) netns: Option<Netns>,
    endpoints: Vec<Endpoint>,
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
    pub(crate) ports: PortMap,
}

impl Prepared {
    /// The interfaces.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The container has started: what was made is its own now.
    pub(crate) fn keep(mut self) -> Vec<Endpoint> {
        std::mem::take(&mut self.endpoints)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Err(error) = give_back(&self.net, &self.container, &std::mem::take(&mut self.endpoints)) {
            tracing::warn!(error = types::error::chain(&error), "could not give back the network of a container that did not start");
        }
    }
}

/// Gives back what a container has of the network. Finishes whatever fails on the way, then tells the first failure. Blocks.
pub(crate) fn give_back(net: &net::Net, container: &Id, endpoints: &[Endpoint]) -> Result<(), net::Error> {
    if endpoints.is_empty() {
        return Ok(());
    }
    let forgotten = net.forget_names(container);
    endpoints.iter().map(|endpoint| net.release(&endpoint.id)).fold(forgotten, Result::and)
}

impl Engine {
    /// Makes namespace, interface and published ports, and writes the files that name hosts. Blocks.
    ///
    /// With what a standby has made, only the ports are left.
    pub(crate) fn prepare_network(&self, record: &Record, standby: Option<(Netns, Endpoint)>) -> Result<Prepared, Error> {
        let failed = |operation| move |source| Error::Net { operation, source };
        let mut prepared = Prepared {
            net: self.net.clone(),
            container: record.id.clone(),
            netns: None,
            endpoints: Vec::new(),
            networks: BTreeMap::new(),
            ports: PortMap::empty(),
        };
        let mode = Mode::parse(&record.host);
        match &mode {
            Mode::Host => self.describe(&mut prepared, "host")?,
            Mode::None => {
                prepared.netns = Some(Netns::create(&sysctls(&record.host)).map_err(failed("make a network namespace"))?);
                self.describe(&mut prepared, "none")?;
            }
            Mode::Container(name) => {
                let target = self.joinable(name)?;
                let fd = namespace(&target, "net")?;
                prepared.netns = Some(Netns::from_fd(fd).map_err(failed("join the network namespace"))?);
            }
            Mode::Network(_) => {
                let netns = match standby {
                    Some((netns, endpoint)) => {
                        // Held from now on, so that it is given back whatever comes.
                        prepared.endpoints.push(endpoint);
                        netns
                    }
                    None => Netns::create(&sysctls(&record.host)).map_err(failed("make a network namespace"))?,
                };
                self.join_networks(record, &netns, &mut prepared)?;
                prepared.netns = Some(netns);
            }
        }
        self.write_host_files(record, &mode, &prepared.endpoints)?;
        self.tell_linked(record, &prepared.endpoints);
        Ok(prepared)
    }

    /// An interface in each of the container's networks, its names, and its ports where its default route leads.
    fn join_networks(&self, record: &Record, netns: &Netns, prepared: &mut Prepared) -> Result<(), Error> {
        let failed = |operation| move |source| Error::Net { operation, source };
        let joins = self.joins(record)?;
        let networks: Vec<_> = joins.iter().map(|join| (&*join.network, join.asked.gw_priority)).collect();
        let gateways = endpoints::gateways(&networks);
        let mut gateway_endpoint = None;
        for (at, join) in joins.iter().enumerate() {
            let gives_ports = gateways.publishing() == Some(&join.network.id);
            // Only a standby's is there already.
            let endpoint = match prepared.endpoints.get(at).cloned() {
                Some(mut endpoint) => {
                    self.net.rename(&record.id, &record.name);
                    endpoint.owner.clone_from(&record.name);
                    endpoint
                }
                None => {
                    let ifname = endpoints::ifname(join, &prepared.endpoints)?;
                    let request = endpoints::request(record, join, ifname, gateways.routes(&join.network.id))?;
                    self.plug(netns, record, &join.network, request)?
                }
            };
            prepared.networks.insert(join.network.name.clone(), endpoints::settings(record, join, &endpoint));
            if gives_ports && join.network.driver.has_bridge() {
                gateway_endpoint = Some(at);
            }
            match prepared.endpoints.get_mut(at) {
                Some(held) => *held = endpoint,
                None => prepared.endpoints.push(endpoint),
            }
        }
        if let Some(endpoint) = gateway_endpoint.and_then(|at| prepared.endpoints.get_mut(at)) {
            let requests = self.port_requests_on(&endpoint.network, record)?;
            self.net.publish(endpoint, &requests).map_err(failed("publish the container's ports"))?;
        }
        prepared.ports = observed_ports(&record.config, &prepared.endpoints);
        if prepared.endpoints.iter().any(|endpoint| !endpoint.names.is_empty()) {
            let resolving = self.resolving(record, &joins)?;
            self.net.serve_names(netns, &record.id, resolving).map_err(failed("serve names to the container"))?;
        }
        Ok(())
    }

    /// The ports to publish on a network, which may say at which address of the host where the container does not.
    pub(crate) fn port_requests_on(&self, network: &Id, record: &Record) -> Result<Vec<PortRequest>, Error> {
        let mut requests = port_requests(&record.config, &record.host)?;
        let network = self.net.network(network.as_str()).map_err(Error::Network)?;
        let at = network.options.get(HOST_BINDING).and_then(|text| text.parse::<IpAddr>().ok()).filter(|address| !address.is_unspecified());
        if let Some(at) = at {
            requests.iter_mut().filter(|request| request.host_ip.is_none()).for_each(|request| request.host_ip = Some(at));
        }
        Ok(requests)
    }

    /// `host` and `none` are listed among the container's networks, too.
    fn describe(&self, prepared: &mut Prepared, name: &str) -> Result<(), Error> {
        let network = self.net.network(name).map_err(|source| Error::Net { operation: "look up the network", source })?;
        let settings =
            EndpointSettings { network_id: network.id.to_string(), endpoint_id: Id::random().to_string(), ..EndpointSettings::default() };
        prepared.networks.insert(name.to_owned(), settings);
        Ok(())
    }

    /// The running container whose namespaces may be joined.
    pub(crate) fn joinable(&self, name: &str) -> Result<Arc<Container>, Error> {
        let refused = |reason: String| Error::JoinTarget { target: name.to_owned(), reason };
        let target = self.find(name).map_err(|error| refused(error.to_string()))?;
        if !target.record().is_alive() {
            return Err(refused("that container is not running: start it first".to_owned()));
        }
        Ok(target)
    }

    /// Writes `hostname`, `hosts` and `resolv.conf`, unless the container shares those of another.
    fn write_host_files(&self, record: &Record, mode: &Mode, endpoints: &[Endpoint]) -> Result<(), Error> {
        if matches!(mode, Mode::Container(_)) {
            return Ok(());
        }
        let folder = self.layout.container(&record.id);
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| Error::File { operation: "write", path, source })
        };
        write("hostname", &format!("{}\n", record.config.hostname))?;
        write("hosts", &self.hosts(record, mode, endpoints)?)?;
        let has_names = endpoints.iter().any(|endpoint| !endpoint.names.is_empty());
        write("resolv.conf", &self.resolv_conf(record, mode, has_names)?)
    }

    fn hosts(&self, record: &Record, mode: &Mode, endpoints: &[Endpoint]) -> Result<String, Error> {
        let host_address = match mode {
            Mode::Host => Ipv4Addr::LOCALHOST.into(),
            _ => endpoints.iter().find_map(|endpoint| self.net.host_address_for(endpoint)).unwrap_or_else(|| self.net.host_address()),
        };
        let mut extra = extra_hosts(&record.host, host_address)?;
        if *mode == Mode::Host || !endpoints.is_empty() {
            for name in HOST_NAMES {
                if !extra.iter().any(|(given, _)| given == name) {
                    extra.push((name.to_owned(), host_address));
                }
            }
        }
        // The host's own table is what its namespace resolves by; the container's additions come after it.
        if *mode == Mode::Host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            for (name, address) in extra {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            return Ok(text);
        }
        extra.extend(self.linked_hosts(record)?);
        let own: Vec<IpAddr> = endpoints.iter().flat_map(Endpoint::addresses).collect();
        Ok(net::files::hosts_file(&own_names(record), &own, &extra))
    }

    /// What the container reads about servers for names; with `has_names` that is the engine's own.
    pub(crate) fn resolv_conf(&self, record: &Record, mode: &Mode, has_names: bool) -> Result<String, Error> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut own = read(HOST_RESOLV_CONF);
        if *mode != Mode::Host && net::files::is_stub(&own) && Path::new(RESOLVED_UPSTREAM).exists() {
            own = read(RESOLVED_UPSTREAM);
        }
        let host = &record.host;
        if has_names {
            return Ok(net::files::resolv_conf_with_names(&own, &host.dns_search, &host.dns_options));
        }
        let dns = host.dns.iter().map(|text| address("Dns", text)).collect::<Result<Vec<_>, _>>()?;
        Ok(net::files::resolv_conf(&own, &dns, &host.dns_search, &host.dns_options, *mode == Mode::Host))
    }
}

/// Checks everything about a container's network that can be checked before its start.
pub(crate) fn validate(config: &Config, host: &HostConfig) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    let ports = port_requests(config, host)?;
    extra_hosts(host, Ipv4Addr::LOCALHOST.into())?;
    for text in &host.dns {
        address("Dns", text)?;
    }
    let own = matches!(Mode::parse(host), Mode::Network(_));
    if !own && !ports.is_empty() {
        warnings.push(format!("Published ports are discarded when using the network mode {}", host.network_mode));
    }
    Ok(warnings)
}

/// A namespace of a running container, by descriptor.
pub(crate) fn namespace(target: &Container, kind: &'static str) -> Result<OwnedFd, Error> {
    let path = std::path::PathBuf::from(format!("/proc/{}/ns/{kind}", target.record().state.pid));
    rustix::fs::open(&path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|errno| Error::File { operation: "open the namespace", path, source: errno.into() })
}

/// The kernel parameters of the network namespace: the defaults, then what the request says.
pub(crate) fn sysctls(host: &HostConfig) -> Vec<(String, String)> {
    let defaults = DEFAULT_SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = host.sysctls.iter().filter(|(name, _)| name.starts_with("net.")).map(|(name, value)| (name.clone(), value.clone()));
    defaults.into_iter().chain(own).collect()
}

/// How a container calls itself in its `hosts`.
pub(crate) fn own_names(record: &Record) -> String {
    match record.config.domainname.as_str() {
        "" => record.config.hostname.clone(),
        domain => format!("{0}.{domain} {0}", record.config.hostname),
    }
}

/// The ports to publish: those bound in the request, and with `publish_all_ports` every other exposed one.
pub(crate) fn port_requests(config: &Config, host: &HostConfig) -> Result<Vec<PortRequest>, Error> {
    let mut requests = Vec::new();
    for (key, bindings) in &host.port_bindings {
        let (container_port, protocol) = port(key)?;
        for binding in bindings {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                text => Some(address("HostIp", text)?),
            };
            requests.push(PortRequest { protocol, host_ip, host_ports: range(&binding.host_port)?, container_port });
        }
    }
    if host.publish_all_ports {
        for key in config.exposed_ports.keys().filter(|key| !host.port_bindings.contains_key(*key)) {
            let (container_port, protocol) = port(key)?;
            requests.push(PortRequest { protocol, host_ip: None, host_ports: 0..=0, container_port });
        }
    }
    Ok(requests)
}

/// `80/tcp`, or `80` for tcp.
fn port(key: &str) -> Result<(u16, Protocol), Error> {
    let (number, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(bad("port", key, "the protocol must be tcp, udp or sctp")),
    };
    match number.parse() {
        Ok(number) if number > 0 => Ok((number, protocol)),
        _ => Err(bad("port", key, "a number from 1 to 65535 is expected")),
    }
}

fn range(text: &str) -> Result<std::ops::RangeInclusive<u16>, Error> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad("HostPort", text, "a number from 0 to 65535 is expected"));
    match text.split_once('-') {
        _ if text.is_empty() => Ok(0..=0),
        None => number(text).map(|port| port..=port),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first == 0 || first > last { Err(bad("HostPort", text, "the range is empty")) } else { Ok(first..=last) }
        }
    }
}

/// `name:address` or `name=address`; the address may be the word for the host's own.
fn extra_hosts(host: &HostConfig, gateway: IpAddr) -> Result<Vec<(String, IpAddr)>, Error> {
    host.extra_hosts
        .iter()
        .map(|entry| {
            let (name, text) = entry.split_once([':', '=']).ok_or_else(|| bad("ExtraHosts", entry, "NAME:ADDRESS is expected"))?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(bad("ExtraHosts", entry, "the name is empty or has spaces"));
            }
            let text = text.trim_start_matches('[').trim_end_matches(']');
            let address = if text == HOST_GATEWAY { gateway } else { address("ExtraHosts", text)? };
            Ok((name.to_owned(), address))
        })
        .collect()
}

pub(crate) fn address(field: &'static str, text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| bad(field, text, "an IP address is expected"))
}

pub(crate) fn bad(field: &'static str, value: &str, reason: &str) -> Error {
    Error::BadField { field, value: value.to_owned(), reason: reason.to_owned() }
}

/// Every exposed port, with the bindings of those that are published.
pub(crate) fn observed_ports(config: &Config, endpoints: &[Endpoint]) -> PortMap {
    let mut ports = PortMap::empty();
    for key in config.exposed_ports.keys() {
        ports.insert(key.clone(), List::default());
    }
    for binding in endpoints.iter().flat_map(|endpoint| &endpoint.bindings) {
        let key = format!("{}/{}", binding.container_port, binding.protocol);
        let shown = PortBinding { host_ip: binding.host_ip.to_string(), host_port: binding.host_port.to_string() };
        ports.entry(key).or_default().push(shown);
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bindings: &[(&str, &str)]) -> HostConfig {
        let mut host = HostConfig::default();
        for (key, port) in bindings {
            let binding = PortBinding { host_ip: String::new(), host_port: (*port).to_owned() };
            host.port_bindings.entry((*key).to_owned()).or_default().push(binding);
        }
        host
    }

    #[test]
    fn ports_are_read_and_bad_ones_refused() {
        let requests = port_requests(&Config::default(), &host(&[("80/tcp", "8000-8010"), ("53/udp", "")])).expect("good ports");
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().any(|request| request.host_ports == (8000..=8010) && request.protocol == Protocol::Tcp));
        for (key, port) in [("0/tcp", ""), ("80/icmp", ""), ("80/tcp", "70000"), ("80/tcp", "9-8"), ("x", "")] {
            assert!(port_requests(&Config::default(), &host(&[(key, port)])).is_err(), "{key} {port}");
        }
    }

    #[test]
    fn publishing_all_takes_exposed_ports_that_are_not_bound() {
        let mut config = Config::default();
        for key in ["80/tcp", "81/tcp"] {
            config.exposed_ports.insert(key.to_owned(), types::container::Empty {});
        }
        let host = HostConfig { publish_all_ports: true, ..host(&[("80/tcp", "8080")]) };
        let ports: Vec<_> = port_requests(&config, &host).expect("good").into_iter().map(|port| port.host_ports).collect();
        assert_eq!(ports, [8080..=8080, 0..=0]);
    }

    #[test]
    fn extra_hosts_know_the_gateway() {
        let host = HostConfig { extra_hosts: vec!["a:host-gateway".to_owned(), "b:[::1]".to_owned()].into(), ..HostConfig::default() };
        let hosts = extra_hosts(&host, Ipv4Addr::new(10, 0, 0, 1).into()).expect("good");
        assert_eq!(hosts, [("a".to_owned(), Ipv4Addr::new(10, 0, 0, 1).into()), ("b".to_owned(), "::1".parse().expect("an address"))]);
        let bad = HostConfig { extra_hosts: vec!["nothing".to_owned()].into(), ..HostConfig::default() };
        assert!(extra_hosts(&bad, Ipv4Addr::LOCALHOST.into()).is_err());
    }
}
