//! Records of networks, as `network ls` and `network inspect` show them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use types::Id;

use crate::config::fnv1a;
use crate::options::{self, option};
use crate::overlay::Carrier;
use crate::{Error, NetConfig, Result, Subnet, Subnet6};

const NAME_LEN_MAX: usize = 200;

/// What carries a network's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with address translation.
    Bridge,
    /// Interfaces with hardware addresses of their own on an interface of the host.
    Macvlan,
    /// Interfaces on one of the host that share its hardware address.
    Ipvlan,
    /// A bridge on each host, joined by VXLAN.
    Overlay,
    /// The host's own namespace.
    Host,
    /// Nothing but loopback. Docker's word for it is `null`.
    None,
}

impl Driver {
    /// The driver's name in the Engine API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Overlay => "overlay",
            Self::Host => "host",
            Self::None => "null",
        }
    }

    /// Where its networks are known: on this host, or on all that share them.
    pub fn scope(self) -> &'static str {
        if self == Self::Overlay { "global" } else { "local" }
    }

    /// Whether containers get interfaces on it.
    pub fn is_attachable(self) -> bool {
        self.has_bridge() || matches!(self, Self::Macvlan | Self::Ipvlan)
    }

    /// Whether the host is its gateway, through a bridge: ports can be published there.
    pub fn has_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Overlay)
    }
}

/// The IPv6 half of a network's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6 {
    /// All of them; of a new network without one the first that is free of the pools.
    pub subnet: Option<Subnet6>,
    /// Whether somebody chose the subnet.
    pub configured: bool,
    /// The bridge's own address, by default the first of the subnet.
    pub gateway: Option<Ipv6Addr>,
    /// The part of the subnet that free addresses are taken from.
    pub ip_range: Option<Subnet6>,
    /// Addresses of others in the subnet, by name.
    pub auxiliary: BTreeMap<String, Ipv6Addr>,
}

/// A network. `bridge`, `host` and `none` always exist; their ids are the same at each start of an engine with the same data root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    /// Its identifier.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// What carries it.
    pub driver: Driver,
    /// When it was made: for the built-in ones, when this engine opened it.
    pub created: SystemTime,
    /// Whether it gives IPv4 addresses.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// Its IPv6 addresses, if it gives any.
    #[serde(default)]
    pub ipv6: Option<Ipv6>,
    /// Its IPv4 addresses.
    pub subnet: Option<Subnet>,
    /// Whether somebody chose the subnet: fixed addresses of containers are for such networks alone.
    pub configured: bool,
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet that free addresses are taken from.
    pub ip_range: Option<Subnet>,
    /// Addresses of others in the subnet, by name.
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
    /// The bridge interface's name.
    pub bridge: Option<String>,
    /// Without a way out.
    pub internal: bool,
    /// Whether it was made to be attached to by hand: remembered only.
    pub attachable: bool,
    /// A template for others, without anything in the kernel.
    #[serde(default)]
    pub config_only: bool,
    /// The template that it was made from.
    #[serde(default)]
    pub config_from: String,
    /// Options of the address management: remembered only.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// Driver options under their Docker names.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// What carries an overlay network between hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Carrier>,
}

/// The names that no network may be given.
pub(crate) const PREDEFINED: [&str; 5] = ["bridge", "host", "none", "default", "container"];

/// A network to be made.
#[derive(Debug, Clone)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// One that containers can be attached to.
    pub driver: Driver,
    /// Whether it gives IPv4 addresses.
    pub ipv4: bool,
    /// Its IPv6 addresses, if it is to give any.
    pub ipv6: Option<Ipv6>,
    /// Its IPv4 addresses; without one the first free range of the pools.
    pub subnet: Option<Subnet>,
    /// The bridge's own address, by default the first of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet that free addresses are taken from.
    pub ip_range: Option<Subnet>,
    /// Addresses of others in the subnet, by name.
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
    /// Without a way out.
    pub internal: bool,
    /// Remembered only.
    pub attachable: bool,
    /// A template for others, without anything in the kernel.
    pub config_only: bool,
    /// The template whose addresses and options it takes.
    pub config_from: String,
    /// Options of the address management: remembered only.
    pub ipam_options: BTreeMap<String, String>,
    /// Driver options under their Docker names.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

impl NewNetwork {
    /// A bridge network with defaults for everything else.
    pub fn bridge(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: None,
            subnet: None,
            gateway: None,
            ip_range: None,
            auxiliary: BTreeMap::new(),
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            ipam_options: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Checks what can be checked without the kernel.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |reason: String| Error::BadNetwork { reason };
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let shape = self.name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && self.name.len() <= NAME_LEN_MAX;
        if !shape || !self.name.bytes().all(letters) {
            return Err(bad(format!("invalid network name {:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed", self.name)));
        }
        if PREDEFINED.contains(&self.name.as_str()) {
            return Err(Error::Predefined { name: self.name.clone() });
        }
        if !self.ipv4 && self.ipv6.is_none() {
            return Err(bad("IPv4 or IPv6 must be enabled".to_owned()));
        }
        if !self.ipv4 && (self.subnet.is_some() || self.gateway.is_some() || self.ip_range.is_some()) {
            return Err(bad("the network has an IPv4 subnet, but IPv4 is disabled".to_owned()));
        }
        self.check_v4()?;
        if let Some(ipv6) = &self.ipv6 {
            ipv6.check()?;
        }
        if self.config_only { Ok(()) } else { options::check(self) }
    }

    fn check_v4(&self) -> Result<()> {
        let bad = |reason: String| Error::BadNetwork { reason };
        let Some(subnet) = self.subnet else {
            let needs_one = self.gateway.is_some() || self.ip_range.is_some() || !self.auxiliary.is_empty();
            return if needs_one { Err(bad("gateway, ip-range and aux-address need a subnet".to_owned())) } else { Ok(()) };
        };
        if subnet != subnet.network() {
            return Err(bad(format!("invalid subnet {subnet}: it should be {}", subnet.network())));
        }
        if subnet.prefix() > 30 || subnet.prefix() < 8 {
            return Err(bad(format!("invalid subnet {subnet}: a prefix length from 8 to 30 is expected")));
        }
        let inside = |address: &Ipv4Addr| subnet.contains(*address) && *address != subnet.first() && *address != subnet.last();
        if let Some(gateway) = self.gateway.filter(|gateway| !inside(gateway)) {
            return Err(bad(format!("no matching subnet for gateway {gateway}")));
        }
        if let Some(range) = self.ip_range.filter(|range| !subnet.contains(range.first()) || !subnet.contains(range.last())) {
            return Err(bad(format!("no matching subnet for range {range}")));
        }
        match self.auxiliary.values().find(|address| !subnet.contains(**address)) {
            Some(address) => Err(bad(format!("no matching subnet for aux-address {address}"))),
            None => Ok(()),
        }
    }

    /// The bridge's name, which needs no address.
    pub(crate) fn bridge_name(&self, id: &Id) -> String {
        self.options.get(option::BRIDGE_NAME).cloned().unwrap_or_else(|| format!("br-{}", &id.as_str()[..12]))
    }

    /// The record of it, once its addresses are known.
    pub(crate) fn into_network(self, id: Id, addressing: Addressing) -> Network {
        let bridge = (self.driver == Driver::Bridge && !self.config_only).then(|| self.bridge_name(&id));
        Network {
            id,
            name: self.name,
            driver: self.driver,
            created: SystemTime::now(),
            ipv4: self.ipv4,
            ipv6: self.ipv6.map(|ipv6| Ipv6 {
                configured: ipv6.subnet.is_some(),
                subnet: addressing.v6.map(|v6| v6.network()),
                gateway: addressing.v6.map(|v6| v6.address()).filter(|_| addressing.has_gateways),
                ..ipv6
            }),
            subnet: addressing.v4.map(|v4| v4.network()),
            configured: self.subnet.is_some(),
            gateway: addressing.v4.map(|v4| v4.address()).filter(|_| addressing.has_gateways),
            ip_range: self.ip_range,
            auxiliary: self.auxiliary,
            bridge,
            internal: self.internal,
            attachable: self.attachable,
            config_only: self.config_only,
            config_from: self.config_from,
            ipam_options: self.ipam_options,
            options: self.options,
            labels: self.labels,
            carrier: None,
        }
    }
}

impl Ipv6 {
    fn check(&self) -> Result<()> {
        let bad = |reason: String| Error::BadNetwork { reason };
        let Some(subnet) = self.subnet else {
            let needs_one = self.gateway.is_some() || self.ip_range.is_some() || !self.auxiliary.is_empty();
            return if needs_one { Err(bad("gateway, ip-range and aux-address need a subnet".to_owned())) } else { Ok(()) };
        };
        if subnet != subnet.network() {
            return Err(bad(format!("invalid subnet {subnet}: it should be {}", subnet.network())));
        }
        let odd = subnet.first().is_multicast() || subnet.first().is_unspecified() || subnet.contains(Ipv6Addr::LOCALHOST);
        if subnet.prefix() > 126 || subnet.prefix() < 8 || odd {
            return Err(bad(format!("invalid subnet {subnet}: a unicast range with a prefix length from 8 to 126 is expected")));
        }
        let inside = |address: &Ipv6Addr| subnet.contains(*address) && *address != subnet.first();
        if let Some(gateway) = self.gateway.filter(|gateway| !inside(gateway)) {
            return Err(bad(format!("no matching subnet for gateway {gateway}")));
        }
        if let Some(range) = self.ip_range.filter(|range| !subnet.contains(range.first()) || !subnet.contains(range.last())) {
            return Err(bad(format!("no matching subnet for range {range}")));
        }
        match self.auxiliary.values().find(|address| !subnet.contains(**address)) {
            Some(address) => Err(bad(format!("no matching subnet for aux-address {address}"))),
            None => Ok(()),
        }
    }
}

/// The gateways of a network with its prefix lengths.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addressing {
    pub v4: Option<Subnet>,
    pub v6: Option<Subnet6>,
    /// Whether the addresses are gateways, and not just the network's.
    pub has_gateways: bool,
}

fn yes() -> bool {
    true
}

impl Network {
    /// Whether somebody made it: names resolve in such networks alone.
    pub fn is_user_defined(&self) -> bool {
        !PREDEFINED.contains(&self.name.as_str())
    }

    /// Its IPv6 subnet.
    pub fn subnet6(&self) -> Option<Subnet6> {
        self.ipv6.as_ref().and_then(|ipv6| ipv6.subnet)
    }

    /// Its IPv6 gateway.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.ipv6.as_ref().and_then(|ipv6| ipv6.gateway)
    }

    /// An address of it with the length of its prefix.
    pub(crate) fn with_prefix(&self, address: Option<IpAddr>) -> Option<Subnet> {
        match (address, self.subnet) {
            (Some(IpAddr::V4(address)), Some(subnet)) => Some(Subnet::new(address, subnet.prefix())),
            _ => None,
        }
    }

    /// The same of IPv6.
    pub(crate) fn with_prefix6(&self, address: Option<IpAddr>) -> Option<Subnet6> {
        match (address, self.subnet6()) {
            (Some(IpAddr::V6(address)), Some(subnet)) => Some(Subnet6::new(address, subnet.prefix())),
            _ => None,
        }
    }

    /// What its bridge has.
    pub(crate) fn addressing(&self) -> Addressing {
        Addressing {
            v4: self.subnet.zip(self.gateway).map(|(subnet, gateway)| Subnet::new(gateway, subnet.prefix())),
            v6: self.subnet6().zip(self.gateway6()).map(|(subnet, gateway)| Subnet6::new(gateway, subnet.prefix())),
            has_gateways: true,
        }
    }

    /// The packet size that was asked for.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.options.get(option::MTU)?.parse().ok()
    }

    /// An option that is on unless it is switched off.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.options.get(name).and_then(|value| options::truth(value)).unwrap_or(true)
    }

    /// An option's text; empty where it is not given.
    pub(crate) fn option(&self, name: &str) -> &str {
        self.options.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The default network, on the bridge with that address.
    pub(crate) fn default_bridge(config: &NetConfig, addressing: Addressing, mtu: u32) -> Self {
        let options = [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", "true".to_owned()),
            ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0".to_owned()),
            ("com.docker.network.bridge.name", config.bridge.clone()),
            ("com.docker.network.driver.mtu", mtu.to_string()),
        ];
        Self {
            subnet: addressing.v4.map(|v4| v4.network()),
            gateway: addressing.v4.map(|v4| v4.address()),
            ipv6: addressing.v6.map(|v6| Ipv6 { subnet: Some(v6.network()), gateway: Some(v6.address()), ..Ipv6::default() }),
            bridge: Some(config.bridge.clone()),
            options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Self::without_addresses(config, "bridge", Driver::Bridge)
        }
    }

    /// A network that gives no addresses: `host` and `none`.
    pub(crate) fn without_addresses(config: &NetConfig, name: &str, driver: Driver) -> Self {
        Self {
            id: stable_id(config, name),
            name: name.to_owned(),
            driver,
            created: SystemTime::now(),
            ipv4: true,
            ipv6: None,
            subnet: None,
            configured: false,
            gateway: None,
            ip_range: None,
            auxiliary: BTreeMap::new(),
            bridge: None,
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            ipam_options: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            carrier: None,
        }
    }
}

/// An id that a built-in network has at every start, so that records which mention it stay right.
fn stable_id(config: &NetConfig, name: &str) -> Id {
    let key = format!("{}/{}/{name}", config.table, config.suffix);
    let text: String =
        (1..=4).map(|seed: u64| format!("{:016x}", fnv1a(key.as_bytes(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))).collect();
    // 64 hexadecimal digits always parse.
    text.parse().unwrap_or_else(|_| Id::random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn built_in_ids_are_stable_and_apart() {
        let config = NetConfig::derive(Path::new("/a"), Path::new("/r"));
        let other = NetConfig::derive(Path::new("/b"), Path::new("/r"));
        assert_eq!(stable_id(&config, "bridge"), stable_id(&config, "bridge"));
        assert_ne!(stable_id(&config, "bridge"), stable_id(&config, "host"));
        assert_ne!(stable_id(&config, "bridge"), stable_id(&other, "bridge"));
    }
}
