//! `--network` and the flags that say more about it.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::mounts::csv;
use crate::flags::Matches;

/// Networks as the API words them.
#[derive(Debug, Default)]
pub struct Networks {
    /// The first network, or another mode; `default` where none is given.
    pub mode: String,
    /// By name of the network.
    pub endpoints: Map<String, Value>,
}

/// Reads all `--network` values: a name, or `name=…,alias=…,ip=…`. The plain flags are about the first one.
pub fn parse(m: &Matches) -> Result<Networks> {
    let mut networks = Networks::default();
    for spec in m.list("network") {
        let (name, endpoint) = one(spec)?;
        if networks.endpoints.contains_key(&name) {
            bail!("network {name:?} is given twice");
        }
        if networks.mode.is_empty() {
            networks.mode.clone_from(&name);
        }
        networks.endpoints.insert(name, endpoint);
    }
    if networks.mode.is_empty() {
        "default".clone_into(&mut networks.mode);
    }
    let shared = |name: &str| matches!(name, "host" | "none") || name.starts_with("container:");
    if networks.endpoints.len() > 1
        && let Some(name) = networks.endpoints.keys().find(|name| shared(name))
    {
        bail!("conflicting options: with --network {name} there can be no other network");
    }
    let endpoint = networks.endpoints.entry(networks.mode.clone()).or_insert_with(|| json!({}));
    plain_flags(m, endpoint);
    // What says nothing is left to the engine.
    networks
        .endpoints
        .retain(|name, endpoint| !shared(name) && (*name != networks.mode || endpoint.as_object().is_some_and(|map| !map.is_empty())));
    Ok(networks)
}

fn plain_flags(m: &Matches, endpoint: &mut Value) {
    for (key, flag) in [("IPv4Address", "ip"), ("IPv6Address", "ip6")] {
        if let Some(address) = m.text(flag) {
            endpoint["IPAMConfig"][key] = address.into();
        }
    }
    for address in m.list("link-local-ip") {
        push(&mut endpoint["IPAMConfig"], "LinkLocalIPs", address);
    }
    if let Some(mac) = m.text("mac-address") {
        endpoint["MacAddress"] = mac.into();
    }
    for (key, flag) in [("Aliases", "network-alias"), ("Links", "link")] {
        for name in m.list(flag) {
            push(endpoint, key, name);
        }
    }
}

fn one(spec: &str) -> Result<(String, Value)> {
    let mut endpoint = json!({});
    if !spec.contains('=') {
        return Ok((spec.to_owned(), endpoint));
    }
    let invalid = |reason: String| anyhow::anyhow!("invalid argument {spec:?} for \"--network\" flag: {reason}");
    let mut name = None;
    for field in csv(spec).ok_or_else(|| invalid("a quote is not closed".to_owned()))? {
        let (key, value) = field.split_once('=').ok_or_else(|| invalid(format!("{field:?} is no KEY=VALUE")))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = Some(value.to_owned()),
            "alias" => push(&mut endpoint, "Aliases", value),
            "ip" => endpoint["IPAMConfig"]["IPv4Address"] = value.into(),
            "ip6" => endpoint["IPAMConfig"]["IPv6Address"] = value.into(),
            "link-local-ip" => push(&mut endpoint["IPAMConfig"], "LinkLocalIPs", value),
            "driver-opt" => {
                let (option, value) = value.split_once('=').ok_or_else(|| invalid(format!("driver-opt {value:?} is no NAME=VALUE")))?;
                endpoint["DriverOpts"][option.trim()] = value.into();
            }
            "mac-address" => endpoint["MacAddress"] = value.into(),
            "gw-priority" => {
                let priority: i64 = value.parse().map_err(|_| invalid(format!("gw-priority {value:?} is not a whole number")))?;
                endpoint["GwPriority"] = priority.into();
            }
            other => {
                return Err(invalid(format!(
                    "unexpected key {other:?}: name, alias, ip, ip6, link-local-ip, mac-address, gw-priority or driver-opt is expected"
                )));
            }
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| invalid("name=… is missing".to_owned()))?;
    Ok((name, endpoint))
}

fn push(endpoint: &mut Value, key: &str, value: &str) {
    if !endpoint[key].is_array() {
        endpoint[key] = json!([]);
    }
    if let Some(list) = endpoint[key].as_array_mut() {
        list.push(value.into());
    }
}
