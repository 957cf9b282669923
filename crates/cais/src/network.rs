//! What the engine is told about networks and firewalls beyond the default bridge's name and address.

use anyhow::{Context, Result, bail};
use cli::flags::{Flag, Matches, list, switch, text};
use net::{Firewall, ForeignForward, NetConfig, Pool, Pool6, Protocol, PublishedPolicy, Subnet6};

/// Packets of networks.
const MTU_MIN: u32 = 576;
const MTU_MAX: u32 = 65_535;

/// Flags of `cais engine`; the same names are keys of the file.
pub(crate) const FLAGS: &[Flag] = &[
    list("default-address-pool", None, "Range that networks are cut from: base=10.10.0.0/16,size=24 or base=fd00:1:2::/48,size=64"),
    switch("ipv6", None, "Give the default network IPv6"),
    text("fixed-cidr-v6", None, "IPv6 range of the default network, fd00:1:2:3::/64 say (default of the pools)"),
    text("mtu", None, "Packet size of networks (default that of the way out)"),
    text("firewall", None, "Where a foreign firewall cuts containers off: report it, or insert accepts for our bridges (default report)"),
    text(
        "published",
        None,
        "Who reaches published ports: as the host's own firewall has it (host), or everybody as with Docker (open) (default host)",
    ),
    list("published-allow", None, "Published port that others reach although the host's firewall drops by default: 8080/tcp"),
];

/// The same from the file.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) default_address_pool: Vec<String>,
    pub(crate) ipv6: Option<bool>,
    pub(crate) fixed_cidr_v6: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) firewall: Option<String>,
    pub(crate) published: Option<String>,
    pub(crate) published_allow: Vec<String>,
}

/// Reads them; a flag wins over the file.
pub(crate) fn read(net: &mut NetConfig, matches: &Matches, keys: Keys) -> Result<()> {
    let word = |flag: &str, key: Option<String>| matches.text(flag).map(str::to_owned).or(key);
    let words = |flag: &str, key: Vec<String>| match matches.list(flag) {
        given if given.is_empty() => key,
        given => given.into_iter().map(str::to_owned).collect(),
    };
    let pools = words("default-address-pool", keys.default_address_pool);
    let (pools6, pools): (Vec<_>, Vec<_>) = pools.iter().partition(|text| Pool6::is_meant_by(text));
    if !pools.is_empty() {
        net.pools = parse_all::<Pool>("default-address-pool", pools)?;
    }
    if !pools6.is_empty() {
        net.pools6 = parse_all::<Pool6>("default-address-pool", pools6)?;
    }
    let fixed = word("fixed-cidr-v6", keys.fixed_cidr_v6);
    let fixed = fixed.map(|text| text.parse::<Subnet6>().with_context(|| format!("--fixed-cidr-v6 {text:?}"))).transpose()?;
    let ipv6 = matches.switch("ipv6").or(keys.ipv6).unwrap_or(fixed.is_some());
    net.default_ipv6 = ipv6.then(|| fixed.map(|subnet| subnet.network()));
    if let Some(mtu) = word("mtu", keys.mtu.map(|mtu| mtu.to_string())) {
        let parsed = mtu.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
        net.mtu = Some(parsed.with_context(|| format!("--mtu {mtu:?}: {MTU_MIN} to {MTU_MAX} is expected"))?);
    }
    let allow = words("published-allow", keys.published_allow);
    net.firewall = Firewall {
        forward: match word("firewall", keys.firewall).as_deref() {
            None | Some("report") => ForeignForward::Report,
            Some("insert") => ForeignForward::Insert,
            Some(other) => bail!("--firewall {other:?}: report or insert is expected"),
        },
        published: match word("published", keys.published).as_deref() {
            None | Some("host") => PublishedPolicy::RespectHost,
            Some("open") => PublishedPolicy::Open,
            Some(other) => bail!("--published {other:?}: host or open is expected"),
        },
        published_allow: allow
            .iter()
            .map(|text| allowed(text).with_context(|| format!("--published-allow {text:?}: PORT/tcp, PORT/udp or PORT/sctp is expected")))
            .collect::<Result<_>>()?,
    };
    Ok(())
}

fn parse_all<T: std::str::FromStr<Err = net::Error>>(flag: &str, texts: Vec<&String>) -> Result<Vec<T>> {
    texts.into_iter().map(|text| text.parse().with_context(|| format!("--{flag} {text:?}"))).collect()
}

/// `8080/tcp`, or `8080` for tcp.
fn allowed(text: &str) -> Option<(Protocol, u16)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.to_string() == protocol)?;
    Some((protocol, number.parse().ok().filter(|number| *number > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_allowed_have_a_protocol() {
        assert_eq!(allowed("8080"), Some((Protocol::Tcp, 8080)));
        assert_eq!(allowed("53/udp"), Some((Protocol::Udp, 53)));
        for bad in ["", "0/tcp", "80/icmp", "70000", "x/tcp"] {
            assert_eq!(allowed(bad), None, "{bad}");
        }
    }
}
