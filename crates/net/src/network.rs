//! Records of networks, as `network ls` and `network inspect` show them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use types::Id;

use crate::config::fnv1a;
use crate::{Error, NetConfig, Result, Subnet, link};

/// How much smaller than the usual packets may be.
const MTU_MIN: u32 = 576;
const MTU_MAX: u32 = 65_535;
const NAME_LEN_MAX: usize = 200;

/// What carries a network's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with address translation.
    Bridge,
    /// Interfaces with hardware addresses of their own on an interface of the host.
    Macvlan,
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
            Self::Host => "host",
            Self::None => "null",
        }
    }
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
    /// The addresses of a bridge network.
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
    /// Driver options under their Docker names.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

/// The names that no network may be given.
pub(crate) const PREDEFINED: [&str; 5] = ["bridge", "host", "none", "default", "container"];

/// A network to be made.
#[derive(Debug, Clone)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// `Bridge` or `Macvlan`.
    pub driver: Driver,
    /// Its addresses; without one the first free range of the pools.
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
            subnet: None,
            gateway: None,
            ip_range: None,
            auxiliary: BTreeMap::new(),
            internal: false,
            attachable: false,
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
        let Some(subnet) = self.subnet else {
            let needs_one = self.gateway.is_some() || self.ip_range.is_some() || !self.auxiliary.is_empty();
            return if needs_one { Err(bad("gateway, ip-range and aux-address need a subnet".to_owned())) } else { self.check_options() };
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
        if let Some(address) = self.auxiliary.values().find(|address| !subnet.contains(**address)) {
            return Err(bad(format!("no matching subnet for aux-address {address}")));
        }
        self.check_options()
    }

    /// Options that change nothing would promise what is not kept.
    fn check_options(&self) -> Result<()> {
        let bad = |reason: String| Error::BadNetwork { reason };
        let known: &[&str] = match self.driver {
            Driver::Macvlan => &[option::PARENT, option::MACVLAN_MODE, option::MTU],
            _ => &[option::BRIDGE_NAME, option::MTU, option::ICC, option::MASQUERADE],
        };
        for (name, value) in &self.options {
            match name.as_str() {
                other if !known.contains(&other) => return Err(bad(format!("the option {other} of a network is not served"))),
                option::BRIDGE_NAME | option::PARENT => link::check_name(value)?,
                option::MTU if !value.parse().is_ok_and(|mtu: u32| (MTU_MIN..=MTU_MAX).contains(&mtu)) => {
                    return Err(bad(format!("{value:?} is not a packet size: {MTU_MIN} to {MTU_MAX} is expected")));
                }
                option::ICC | option::MASQUERADE if truth(value).is_none() => {
                    return Err(bad(format!("the option {name} is neither true nor false: {value:?}")));
                }
                option::MACVLAN_MODE if link::macvlan_mode(value).is_none() => {
                    return Err(bad(format!("unknown macvlan mode {value:?}: bridge, private, vepa or passthru is expected")));
                }
                _ => (),
            }
        }
        if self.driver == Driver::Macvlan && !self.options.contains_key(option::PARENT) {
            return Err(bad("a macvlan network needs an interface of the host: give -o parent=NAME".to_owned()));
        }
        if self.driver == Driver::Macvlan && self.subnet.is_none() {
            return Err(bad("a macvlan network needs the subnet of its parent's wire: give --subnet".to_owned()));
        }
        Ok(())
    }

    /// The record of it, once its addresses are known.
    pub(crate) fn into_network(self, id: Id, subnet: Subnet, gateway: Ipv4Addr) -> Network {
        let bridge = match self.driver {
            Driver::Bridge => Some(self.options.get(option::BRIDGE_NAME).cloned().unwrap_or_else(|| format!("br-{}", &id.as_str()[..12]))),
            _ => None,
        };
        Network {
            id,
            name: self.name,
            driver: self.driver,
            created: SystemTime::now(),
            subnet: Some(subnet),
            configured: self.subnet.is_some(),
            gateway: Some(gateway),
            ip_range: self.ip_range,
            auxiliary: self.auxiliary,
            bridge,
            internal: self.internal,
            attachable: self.attachable,
            options: self.options,
            labels: self.labels,
        }
    }
}

/// Driver options.
pub(crate) mod option {
    pub const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
    pub const MTU: &str = "com.docker.network.driver.mtu";
    pub const ICC: &str = "com.docker.network.bridge.enable_icc";
    pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
    pub const PARENT: &str = "parent";
    pub const MACVLAN_MODE: &str = "macvlan_mode";
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Network {
    /// Whether somebody made it: names resolve in such networks alone.
    pub fn is_user_defined(&self) -> bool {
        !PREDEFINED.contains(&self.name.as_str())
    }

    /// The packet size that was asked for.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.options.get(option::MTU)?.parse().ok()
    }

    /// An option that is on unless it is switched off.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.options.get(name).and_then(|value| truth(value)).unwrap_or(true)
    }

    /// The default network, on the bridge with that address.
    pub(crate) fn default_bridge(config: &NetConfig, address: Subnet, mtu: u32) -> Self {
        let options = [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", "true".to_owned()),
            ("com.docker.network.bridge.enable_ip_masquerade", "true".to_owned()),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0".to_owned()),
            ("com.docker.network.bridge.name", config.bridge.clone()),
            ("com.docker.network.driver.mtu", mtu.to_string()),
        ];
        Self {
            subnet: Some(address.network()),
            gateway: Some(address.address()),
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
            subnet: None,
            configured: false,
            gateway: None,
            ip_range: None,
            auxiliary: BTreeMap::new(),
            bridge: None,
            internal: false,
            attachable: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
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
