//! Records of networks, as `network ls` and `network inspect` show them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use types::Id;

use crate::config::fnv1a;
use crate::{NetConfig, Subnet};

/// What carries a network's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A Linux bridge with address translation.
    Bridge,
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
            Self::Host => "host",
            Self::None => "null",
        }
    }
}

/// A network. `bridge`, `host` and `none` always exist; their ids are the same at each start of an engine with the same data root.
#[derive(Debug, Clone)]
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
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge interface's name.
    pub bridge: Option<String>,
    /// Without a way out.
    pub internal: bool,
    /// Driver options under their Docker names.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

impl Network {
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
            gateway: None,
            bridge: None,
            internal: false,
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
