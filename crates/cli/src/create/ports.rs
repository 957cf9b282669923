//! `-p` and `--expose`.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Ports as the API words them.
#[derive(Debug, Default)]
pub struct Ports {
    /// `{"80/tcp": {}}`
    pub exposed: Map<String, Value>,
    /// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`
    pub bindings: Map<String, Value>,
}

/// Reads all `-p` and `--expose` values.
pub fn parse(publish: &[&str], expose: &[&str]) -> Result<Ports> {
    let mut ports = Ports::default();
    for spec in publish {
        one_published(spec, &mut ports)?;
    }
    for spec in expose {
        let (range, protocol) = with_protocol(spec)?;
        let (first, last) = parse_range(range).ok_or_else(|| anyhow::anyhow!("invalid range of ports for --expose: {spec:?}"))?;
        for port in first..=last {
            ports.exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok(ports)
}

fn one_published(spec: &str, ports: &mut Ports) -> Result<()> {
    let (rest, protocol) = with_protocol(spec)?;
    let invalid = |reason: String| anyhow::anyhow!("invalid argument {spec:?} for \"-p, --publish\" flag: {reason}");
    let (rest, inside) = rest.rsplit_once(':').map_or((None, rest), |(before, inside)| (Some(before), inside));
    let (address, outside) = match rest {
        None => ("", ""),
        Some(rest) => split_address(rest).ok_or_else(|| invalid(format!("{rest:?} is not [ADDRESS:]HOST_PORT")))?,
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(format!("{address:?} is not an IP address")));
    }
    let (first, last) = parse_range(inside).ok_or_else(|| invalid(format!("invalid container port {inside:?}")))?;
    let host = match outside {
        "" => None,
        _ => Some(parse_range(outside).ok_or_else(|| invalid(format!("invalid host port {outside:?}")))?),
    };
    for port in first..=last {
        let host_port = match host {
            None => String::new(),
            Some((low, high)) if high - low == last - first => (low + (port - first)).to_string(),
            // One port of the container may take any free one of a range.
            Some(_) if first == last => outside.to_owned(),
            Some(_) => return Err(invalid("the ranges of host and container differ in length".to_owned())),
        };
        let key = format!("{port}/{protocol}");
        ports.exposed.insert(key.clone(), json!({}));
        let slot = ports.bindings.entry(key).or_insert_with(|| json!([]));
        if let Value::Array(bindings) = slot {
            bindings.push(json!({"HostIp": address, "HostPort": host_port}));
        }
    }
    Ok(())
}

/// `ADDRESS:PORT`, `[V6]:PORT`, `ADDRESS:` or `PORT`.
fn split_address(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        return Some((address, port.strip_prefix(':')?));
    }
    Some(text.rsplit_once(':').unwrap_or(("", text)))
}

fn with_protocol(spec: &str) -> Result<(&str, String)> {
    let (rest, protocol) = spec.rsplit_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        bail!("invalid port {spec:?}: the protocol {protocol:?} is neither tcp, udp nor sctp");
    }
    Ok((rest, protocol))
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}
