//! What is stored: networks, hosts and endpoints, as JSON values under versioned keys. Read as untrusted input.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::Id;

use crate::{Error, Result};

/// The version of the schema, a part of every key.
pub(crate) const SCHEMA: &str = "1";
/// A longer value is no record of ours.
pub(crate) const VALUE_LEN_MAX: usize = 64 << 10;
/// VXLAN network identifiers that are given away: below are those that people use by hand.
pub(crate) const VNI_MIN: u32 = 4096;
pub(crate) const VNI_MAX: u32 = (1 << 24) - 1;
const NAMES_MAX: usize = 256;
const NAME_LEN_MAX: usize = 253;
const PAIRS_MAX: usize = 256;
const TEXT_LEN_MAX: usize = 4096;

/// A range of addresses of either family, host bits cleared, written as `10.0.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    first: IpAddr,
    len: u8,
}

/// A network that every host can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its identifier, the same on every host.
    pub id: Id,
    /// Its name, unique among overlay networks.
    pub name: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// Its addresses: one range of IPv4, and perhaps one of IPv6.
    pub subnets: Vec<Prefix>,
    /// The address of each host's bridge, per range.
    pub gateways: Vec<IpAddr>,
    /// The part of the IPv4 range that free addresses are taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Prefix>,
    /// Addresses of others, by name.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Without a way out.
    #[serde(default)]
    pub internal: bool,
    /// Remembered for people.
    #[serde(default)]
    pub attachable: bool,
    /// Whether traffic between hosts is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Largest packet inside, in bytes; none: what the hosts' own network leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Driver options under their Docker names.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made, in seconds of Unix time.
    pub created: u64,
}

/// A host that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The engine's identifier.
    pub id: Id,
    /// What people call it.
    pub name: String,
    /// Where its VXLAN packets are sent.
    pub address: IpAddr,
    /// Its WireGuard key, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its identifier.
    pub id: Id,
    /// The network's identifier.
    pub network: Id,
    /// The identifier of the host where it is.
    pub host: Id,
    /// The container's identifier.
    pub container: Id,
    /// The container's name.
    pub name: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The names by which it is found.
    #[serde(default)]
    pub names: Vec<String>,
}

/// A value as it is stored: the record, and the version that wrote it.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<String>;

    fn encode(&self) -> Result<Vec<u8>> {
        let invalid = |reason: String| Error::Invalid { what: "a record".to_owned(), reason };
        if let Some(fault) = self.fault() {
            return Err(invalid(fault));
        }
        let text = serde_json::to_vec(self).map_err(|error| invalid(error.to_string()))?;
        if text.len() > VALUE_LEN_MAX { Err(invalid(format!("it is longer than {VALUE_LEN_MAX} bytes"))) } else { Ok(text) }
    }

    fn decode(text: &[u8]) -> std::result::Result<Self, String> {
        if text.len() > VALUE_LEN_MAX {
            return Err(format!("longer than {VALUE_LEN_MAX} bytes"));
        }
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match record.fault() {
            Some(fault) => Err(fault),
            None => Ok(record),
        }
    }
}

impl Record for Network {
    fn fault(&self) -> Option<String> {
        let fault = |text: &str| Some(text.to_owned());
        if !is_network_name(&self.name) {
            return fault("its name is not one");
        }
        if !(1..=VNI_MAX).contains(&self.vni) {
            return fault("its number is out of range");
        }
        let families: Vec<bool> = self.subnets.iter().map(|subnet| subnet.first.is_ipv4()).collect();
        if families != [true] && families != [true, false] {
            return fault("one IPv4 subnet is expected, and at most one IPv6 subnet after it");
        }
        if self.subnets[0].len > 30 || self.subnets[0].len < 8 || self.subnets.get(1).is_some_and(|subnet| subnet.len > 120) {
            return fault("a subnet is too small or too large");
        }
        let inside = self.gateways.len() == self.subnets.len()
            && self.gateways.iter().zip(&self.subnets).all(|(gateway, subnet)| subnet.contains(*gateway));
        if !inside {
            return fault("a gateway lies outside of its subnet");
        }
        if self.ip_range.is_some_and(|range| !self.subnets[0].contains(range.first) || range.len < self.subnets[0].len) {
            return fault("its range lies outside of its subnet");
        }
        let texts = self.options.iter().chain(&self.labels);
        if self.options.len() > PAIRS_MAX || self.labels.len() > PAIRS_MAX || self.auxiliary.len() > PAIRS_MAX {
            return fault("too many options or labels");
        }
        let long = |text: &String| text.len() > TEXT_LEN_MAX;
        texts.into_iter().any(|(key, value)| long(key) || long(value)).then(|| "an option or label is too long".to_owned())
    }
}

impl Record for Host {
    fn fault(&self) -> Option<String> {
        if self.name.is_empty() || self.name.len() > NAME_LEN_MAX || self.name.chars().any(char::is_control) {
            return Some("its name is not one".to_owned());
        }
        let wrong = self.address.is_unspecified() || self.address.is_multicast();
        wrong.then(|| format!("{} is no address of a host", self.address))
    }
}

impl Record for Endpoint {
    fn fault(&self) -> Option<String> {
        let fault = |text: &str| Some(text.to_owned());
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return fault("its hardware address is not one of an interface");
        }
        let letters = |name: &String| {
            !name.is_empty()
                && name.len() <= NAME_LEN_MAX
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        if self.names.len() > NAMES_MAX || !self.names.iter().all(letters) || !letters(&self.name) {
            return fault("a name is none that can be looked up");
        }
        None
    }
}

impl Network {
    /// Whether an address is one that containers can have.
    pub(crate) fn has_room_for(&self, address: IpAddr) -> bool {
        let subnet = self.subnets.iter().find(|subnet| subnet.first.is_ipv4() == address.is_ipv4());
        subnet.is_some_and(|subnet| subnet.contains(address) && !subnet.is_edge(address)) && !self.gateways.contains(&address)
    }
}

impl Prefix {
    /// None when there are host bits, or the length is not one of the family.
    pub fn new(first: IpAddr, len: u8) -> Option<Self> {
        let fits = len <= if first.is_ipv4() { 32 } else { 128 };
        let prefix = Self { first, len };
        (fits && prefix.key(first) == (bits(first), len)).then_some(prefix)
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many bits are given.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether it is everything.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether an address lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.key(address).0 == bits(self.first)
    }

    /// Whether two ranges have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The address at a place of the range.
    pub(crate) fn nth(&self, place: u128) -> Option<IpAddr> {
        let address = bits(self.first).checked_add(place)?;
        let address = match self.first {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(address).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(address)),
        };
        self.contains(address).then_some(address)
    }

    /// How many addresses there are, edges included; at most 2^64.
    pub(crate) fn size(&self) -> u128 {
        let width = if self.first.is_ipv4() { 32 } else { 128 };
        1u128 << u32::from(width - self.len).min(64)
    }

    /// The first of a range, and the last of an IPv4 one, are nobody's.
    pub(crate) fn is_edge(&self, address: IpAddr) -> bool {
        address == self.first || address.is_ipv4() && bits(address) == bits(self.first) + (self.size() - 1)
    }

    fn key(&self, address: IpAddr) -> (u128, u8) {
        let width = if self.first.is_ipv4() { 32u32 } else { 128 };
        let free = width.saturating_sub(u32::from(self.len));
        let mask = if free >= 128 { 0 } else { u128::MAX << free };
        (bits(address) & mask, self.len)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no subnet such as 10.0.0.0/24");
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        Self::new(address.parse().map_err(|_| wrong())?, len.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.len)
    }
}

/// A name as Docker allows it for networks.
fn is_network_name(name: &str) -> bool {
    name.len() <= 200
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn network(name: &str, vni: u32, subnet: &str) -> Network {
        let subnet: Prefix = subnet.parse().expect("a subnet");
        Network {
            id: Id::random(),
            name: name.to_owned(),
            vni,
            subnets: vec![subnet],
            gateways: vec![subnet.nth(1).expect("a gateway")],
            ip_range: None,
            auxiliary: BTreeMap::new(),
            internal: false,
            attachable: false,
            encrypted: false,
            mtu: None,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            created: 1,
        }
    }

    pub fn endpoint(network: &Network, host: &Id, address: &str) -> Endpoint {
        let address: Ipv4Addr = address.parse().expect("an address");
        let [a, b, c, d] = address.octets();
        Endpoint {
            id: Id::random(),
            network: network.id.clone(),
            host: host.clone(),
            container: Id::random(),
            name: "web".to_owned(),
            address,
            address6: None,
            mac: [2, 0x42, a, b, c, d],
            names: vec!["web".to_owned()],
        }
    }

    #[test]
    fn prefixes_of_both_families() {
        for text in ["10.0.0.0/24", "0.0.0.0/0", "fd00::/64", "::/0", "10.1.2.3/32"] {
            assert_eq!(text.parse::<Prefix>().expect(text).to_string(), text);
        }
        for text in ["10.0.0.1/24", "10.0.0.0/33", "10.0.0.0", "fd00::1/64", "x/1", "10.0.0.0/-1", "fd00::/129"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        let small: Prefix = "10.0.0.0/30".parse().expect("a prefix");
        assert_eq!(small.nth(3).map(|address| small.is_edge(address)), Some(true));
        assert_eq!(small.nth(4), None);
        let large: Prefix = "10.0.0.0/8".parse().expect("a prefix");
        assert!(small.overlaps(&large) && large.overlaps(&small));
    }

    #[test]
    fn records_round_trip() {
        let network = network("web", 4096, "10.0.0.0/24");
        assert_eq!(Network::decode(&network.encode().expect("valid")).expect("its own"), network);
        let endpoint = endpoint(&network, &Id::random(), "10.0.0.7");
        assert_eq!(Endpoint::decode(&endpoint.encode().expect("valid")).expect("its own"), endpoint);
    }

    #[test]
    fn foreign_values_are_refused() {
        let network = network("web", 4096, "10.0.0.0/24");
        let broken = [
            Network { name: "a/b".to_owned(), ..network.clone() },
            Network { vni: 1 << 24, ..network.clone() },
            Network { subnets: Vec::new(), gateways: Vec::new(), ..network.clone() },
            Network { gateways: vec!["10.9.0.1".parse().expect("an address")], ..network.clone() },
            Network { ip_range: Some("11.0.0.0/25".parse().expect("a prefix")), ..network.clone() },
        ];
        for record in broken {
            assert!(record.encode().is_err(), "{record:?}");
            assert!(Network::decode(&serde_json::to_vec(&record).expect("text")).is_err());
        }
        let endpoint = endpoint(&network, &Id::random(), "10.0.0.7");
        assert!(Endpoint { mac: [1, 0, 0, 0, 0, 1], ..endpoint.clone() }.encode().is_err());
        assert!(Endpoint { names: vec!["a b".to_owned()], ..endpoint }.encode().is_err());
        for text in [&b""[..], b"{}", b"[]", b"null", &[0xff, 0xfe], &vec![b' '; VALUE_LEN_MAX + 1]] {
            assert!(Network::decode(text).is_err());
        }
    }
}
