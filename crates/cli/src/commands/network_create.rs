//! `network create`: make a network.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use client::Request;
use serde_json::{Map, Value, json};

use crate::command::Command;
use crate::context::{Context, print};
use crate::create::pairs;
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::list::text as field;

const FLAGS: &[Flag] = &[
    switch("attachable", None, "Remembered, and shown by inspect"),
    list("aux-address", None, "Address in the subnet that no container gets (NAME=ADDRESS)"),
    text("config-from", None, "Take addresses and options from a configuration network"),
    switch("config-only", None, "Make a configuration network: a template for others"),
    text("driver", Some('d'), "Driver of the network: bridge, macvlan or ipvlan"),
    list("gateway", None, "Address of the host in the subnet"),
    switch("internal", None, "Leave no way out of the network, nor in"),
    list("ip-range", None, "Part of the subnet that containers get addresses from"),
    text("ipam-driver", None, "Driver of the address management: default"),
    list("ipam-opt", None, "Option of the address management (NAME=VALUE), remembered"),
    switch("ipv4", None, "Give IPv4 addresses (--ipv4=false: none)"),
    switch("ipv6", None, "Give IPv6 addresses"),
    list("label", None, "Attach a label (NAME=VALUE)"),
    list("opt", Some('o'), "Option of the driver (NAME=VALUE)"),
    text("scope", None, "Where the network is: local"),
    list("subnet", None, "Addresses of the network (172.28.0.0/16, fd00:1:2:3::/64), once for each family"),
];

pub const COMMAND: Command = Command {
    paths: &["network create"],
    usage: "[OPTIONS] NETWORK",
    about: "Make a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let pools = pools(m)?;
    let mut body = json!({
        "Name": m.positional(0).unwrap_or_default(), "Driver": m.text("driver").unwrap_or("bridge"), "Internal": m.on("internal"),
        "Attachable": m.on("attachable"), "ConfigOnly": m.on("config-only"), "Scope": m.text("scope").unwrap_or_default(),
        "IPAM": {"Driver": m.text("ipam-driver").unwrap_or("default"), "Options": pairs(&m.list("ipam-opt")), "Config": pools},
        "Options": pairs(&m.list("opt")), "Labels": pairs(&m.list("label")),
    });
    for (key, flag) in [("EnableIPv4", "ipv4"), ("EnableIPv6", "ipv6")] {
        if let Some(wanted) = m.switch(flag) {
            body[key] = wanted.into();
        }
    }
    if let Some(name) = m.text("config-from") {
        body["ConfigFrom"] = json!({ "Network": name });
    }
    let network: Value = context.client()?.send(Request::post("/networks/create").json(&body))?.json()?;
    print(&format!("{}\n", field(&network, "/Id")))?;
    Ok(0)
}

/// The subnets, each with what lies in it.
fn pools(m: &Matches) -> Result<Vec<Value>> {
    let mut pools: Vec<(Range, Map<String, Value>)> = Vec::new();
    for text in m.list("subnet") {
        let range =
            Range::parse(text).with_context(|| format!("invalid subnet {text:?}: 172.28.0.0/16 or fd00:1:2:3::/64, say, is expected"))?;
        if pools.iter().any(|(other, _)| other.contains(range.address) || range.contains(other.address)) {
            bail!("multiple overlapping subnet configuration is not supported");
        }
        pools.push((range, Map::from_iter([("Subnet".to_owned(), text.into())])));
    }
    for (key, flag) in [("IPRange", "ip-range"), ("Gateway", "gateway")] {
        for text in m.list(flag) {
            let place = holder(&mut pools, text.split('/').next().unwrap_or_default())
                .with_context(|| format!("no matching subnet for {flag} {text}"))?;
            if place.insert(key.to_owned(), text.into()).is_some() {
                bail!("cannot configure multiple values of --{flag} on the same subnet");
            }
        }
    }
    for (name, address) in pairs(&m.list("aux-address")) {
        let text = address.as_str().unwrap_or_default();
        let place = holder(&mut pools, text).with_context(|| format!("no matching subnet for aux-address {text}"))?;
        place.entry("AuxiliaryAddresses").or_insert_with(|| json!({}))[name] = address;
    }
    Ok(pools.into_iter().map(|(_, pool)| Value::Object(pool)).collect())
}

fn holder<'a>(pools: &'a mut [(Range, Map<String, Value>)], address: &str) -> Option<&'a mut Map<String, Value>> {
    let address: IpAddr = address.parse().ok()?;
    pools.iter_mut().find(|(range, _)| range.contains(address)).map(|(_, pool)| pool)
}

/// An address range of either family.
#[derive(Debug, Clone, Copy)]
struct Range {
    address: IpAddr,
    prefix: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let range = Self { address: address.parse().ok()?, prefix: prefix.parse().ok()? };
        (range.prefix <= if range.address.is_ipv4() { 32 } else { 128 }).then_some(range)
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.prefix).unwrap_or(0) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.prefix).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    fn made(line: &str) -> Result<Vec<Value>> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        pools(&flags::parse(&[FLAGS], false, &words).map_err(|misuse| anyhow::anyhow!("{}", misuse.0))?)
    }

    #[test]
    fn what_lies_in_a_subnet_goes_with_it() {
        let line = "--subnet 10.1.0.0/16 --subnet fd00::/64 --gateway fd00::1 --ip-range 10.1.5.0/24 --gateway 10.1.0.9 --aux-address r=10.1.5.1 n";
        let expected = json!([
            {"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "Gateway": "10.1.0.9", "AuxiliaryAddresses": {"r": "10.1.5.1"}},
            {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
        ]);
        assert_eq!(json!(made(line).expect("parses")), expected);
        assert!(made("n").expect("parses").is_empty());
    }

    #[test]
    fn what_lies_nowhere_is_refused() {
        for (line, said) in [
            ("--gateway 10.1.0.1 n", "no matching subnet for gateway 10.1.0.1"),
            ("--subnet 10.1.0.0/16 --ip-range 10.2.0.0/24 n", "no matching subnet for ip-range"),
            ("--subnet 10.1.0.0/16 --aux-address x=banana n", "no matching subnet for aux-address banana"),
            ("--subnet banana n", "invalid subnet"),
            ("--subnet 10.1.0.0/33 n", "invalid subnet"),
            ("--subnet 10.1.0.0/16 --subnet 10.1.2.0/24 n", "overlapping"),
            ("--subnet 10.1.0.0/16 --gateway 10.1.0.1 --gateway 10.1.0.2 n", "multiple values of --gateway"),
        ] {
            let error = format!("{:#}", made(line).expect_err(line));
            assert!(error.contains(said), "{error}");
        }
    }
}
