//! Who is called what: the names of networks, and what a container may know of them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dns::{CLASS_IN, KIND_A, KIND_AAAA, KIND_PTR, Question, Record, pointed_at};
use crate::{Subnet, Subnet6};

/// The names of one network as the engine hands them over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneFile {
    /// The network's name.
    pub network: String,
    /// Its addresses, if nobody else has names for any.
    pub subnet: Option<Subnet>,
    /// The same of IPv6.
    pub subnet6: Option<Subnet6>,
    /// Its containers.
    pub entries: Vec<Entry>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its names, the one that the address is called by first.
    pub names: Vec<String>,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The name is ours; there may be no records of that kind.
    Answer(Vec<Record>),
    /// The name is ours, but not for this container.
    NoSuchName,
    /// The name is none of ours.
    HandOn,
    /// Not a question about the internet.
    Refuse,
}

/// What a container may know.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub networks: Vec<String>,
    pub links: HashMap<String, String>,
    pub servers: Option<Vec<IpAddr>>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Zones {
    zones: HashMap<String, Arc<Zone>>,
    views: HashMap<String, View>,
    turn: usize,
}

#[derive(Debug)]
struct Zone {
    subnet: Option<Subnet>,
    subnet6: Option<Subnet6>,
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
    /// Names that nobody outside can mean.
    own: HashSet<String>,
}

impl Zone {
    fn new(file: ZoneFile) -> Self {
        let mut zone =
            Self { subnet: file.subnet, subnet6: file.subnet6, addresses: HashMap::new(), names: HashMap::new(), own: HashSet::new() };
        let network = file.network.to_lowercase();
        for entry in file.entries {
            for (at, name) in entry.names.iter().enumerate() {
                let name = name.to_lowercase();
                let qualified = format!("{name}.{network}");
                if at == 0 {
                    zone.names.extend(entry.addresses.iter().map(|address| (*address, qualified.clone())));
                }
                if !name.contains('.') {
                    zone.own.insert(name.clone());
                }
                zone.own.insert(qualified.clone());
                for key in [name, qualified] {
                    let addresses = zone.addresses.entry(key).or_default();
                    for address in &entry.addresses {
                        if !addresses.contains(address) {
                            addresses.push(*address);
                        }
                    }
                }
            }
        }
        zone
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.subnet.is_some_and(|subnet| subnet.contains(address)),
            IpAddr::V6(address) => self.subnet6.is_some_and(|subnet| subnet.contains(address)),
        }
    }
}

impl Zones {
    pub fn set_zone(&mut self, network: String, file: ZoneFile) {
        self.zones.insert(network, Arc::new(Zone::new(file)));
    }

    pub fn forget_zone(&mut self, network: &str) {
        self.zones.remove(network);
    }

    pub fn set_view(&mut self, key: String, view: View) {
        self.views.insert(key, view);
    }

    pub fn forget_view(&mut self, key: &str) {
        self.views.remove(key);
    }

    pub fn has_view(&self, key: &str) -> bool {
        self.views.contains_key(key)
    }

    /// Who is asked for names of others; `None`: the host's servers.
    pub fn servers(&self, key: &str) -> Option<Vec<IpAddr>> {
        self.views.get(key).map_or(Some(Vec::new()), |view| view.servers.clone())
    }

    /// What to do about a container's question. Addresses take turns.
    pub fn judge(&mut self, key: &str, question: &Question) -> Verdict {
        let Some(view) = self.views.get(key) else { return Verdict::Refuse };
        if question.class != CLASS_IN {
            return Verdict::Refuse;
        }
        let visible = || view.networks.iter().filter_map(|network| self.zones.get(network));
        if let Some(address) = pointed_at(&question.name) {
            let name = visible().find_map(|zone| zone.names.get(&address));
            let ours = || self.zones.values().any(|zone| zone.contains(address));
            return match name {
                Some(name) if question.kind == KIND_PTR => Verdict::Answer(vec![Record::Name(name.clone())]),
                Some(_) => Verdict::Answer(Vec::new()),
                None if ours() => Verdict::NoSuchName,
                None => Verdict::HandOn,
            };
        }
        let name = view.links.get(&question.name).unwrap_or(&question.name);
        match visible().find_map(|zone| zone.addresses.get(name)) {
            Some(addresses) if matches!(question.kind, KIND_A | KIND_AAAA) => {
                self.turn = self.turn.wrapping_add(1);
                let of_kind = addresses.iter().filter(|address| address.is_ipv6() == (question.kind == KIND_AAAA));
                let addresses: Vec<_> = of_kind.collect();
                let first = self.turn % addresses.len().max(1);
                let turned = addresses[first..].iter().chain(&addresses[..first]);
                Verdict::Answer(turned.map(|address| Record::Address(**address)).collect())
            }
            Some(_) => Verdict::Answer(Vec::new()),
            None if self.zones.values().any(|zone| zone.own.contains(name)) => Verdict::NoSuchName,
            None => Verdict::HandOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns::{parse, tests::query};
    use super::*;

    fn zones() -> Zones {
        let mut zones = Zones::default();
        let entry = |address: [u8; 4], names: &[&str]| Entry {
            addresses: vec![address.into(), format!("fd00::{}", address[3]).parse().unwrap()],
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let front = ZoneFile {
            network: "front".to_owned(),
            subnet: "10.1.0.0/24".parse().ok(),
            subnet6: "fd00::/64".parse().ok(),
            entries: vec![entry([10, 1, 0, 2], &["Web", "www", "example.com"]), entry([10, 1, 0, 3], &["web2", "www"])],
        };
        let back = ZoneFile {
            network: "back".to_owned(),
            subnet: "10.2.0.0/24".parse().ok(),
            subnet6: None,
            entries: vec![entry([10, 2, 0, 2], &["db"])],
        };
        zones.set_zone("1".to_owned(), front);
        zones.set_zone("2".to_owned(), back);
        let links = HashMap::from([("cache".to_owned(), "web2".to_owned())]);
        zones.set_view("a".to_owned(), View { networks: vec!["1".to_owned()], links, servers: None });
        zones.set_view("b".to_owned(), View { networks: vec!["2".to_owned()], ..View::default() });
        zones
    }

    fn ask(zones: &mut Zones, key: &str, name: &str, kind: u16) -> Verdict {
        zones.judge(key, &parse(&query(name, kind)).unwrap())
    }

    fn address(octets: [u8; 4]) -> Record {
        Record::Address(octets.into())
    }

    #[test]
    fn names_are_those_of_the_networks_one_is_on() {
        let mut zones = zones();
        for name in ["web", "WEB", "web.front", "example.com"] {
            assert_eq!(ask(&mut zones, "a", name, KIND_A), Verdict::Answer(vec![address([10, 1, 0, 2])]), "{name}");
        }
        assert_eq!(ask(&mut zones, "a", "cache", KIND_A), Verdict::Answer(vec![address([10, 1, 0, 3])]));
        assert_eq!(ask(&mut zones, "a", "web", KIND_AAAA), Verdict::Answer(vec![Record::Address("fd00::2".parse().unwrap())]));
        assert_eq!(
            ask(&mut zones, "a", "web", 15),
            Verdict::Answer(Vec::new()),
            "a name of ours has no mail server, and nobody else is asked"
        );
        // Names of another network are ours all the same; what others may mean is theirs.
        assert_eq!(ask(&mut zones, "a", "db", KIND_A), Verdict::NoSuchName);
        assert_eq!(ask(&mut zones, "b", "web.front", KIND_A), Verdict::NoSuchName);
        assert_eq!(ask(&mut zones, "b", "example.com", KIND_A), Verdict::HandOn);
        assert_eq!(ask(&mut zones, "b", "cache", KIND_A), Verdict::HandOn);
        assert_eq!(ask(&mut zones, "nobody", "web", KIND_A), Verdict::Refuse);
    }

    #[test]
    fn addresses_take_turns() {
        let mut zones = zones();
        let mut firsts = HashSet::new();
        for _ in 0..2 {
            let Verdict::Answer(records) = ask(&mut zones, "a", "www", KIND_A) else { panic!("no answer") };
            assert_eq!(records.len(), 2);
            firsts.insert(format!("{:?}", records[0]));
        }
        assert_eq!(firsts.len(), 2);
    }

    #[test]
    fn addresses_have_names_where_they_are_seen() {
        let mut zones = zones();
        let reverse = "2.0.1.10.in-addr.arpa";
        assert_eq!(ask(&mut zones, "a", reverse, KIND_PTR), Verdict::Answer(vec![Record::Name("web.front".to_owned())]));
        assert_eq!(ask(&mut zones, "b", reverse, KIND_PTR), Verdict::NoSuchName);
        assert_eq!(ask(&mut zones, "a", "9.0.1.10.in-addr.arpa", KIND_PTR), Verdict::NoSuchName);
        assert_eq!(ask(&mut zones, "a", "8.8.8.8.in-addr.arpa", KIND_PTR), Verdict::HandOn);
        let reverse6 = |last: &str| format!("{last}.{}d.f.ip6.arpa", "0.".repeat(29));
        assert_eq!(ask(&mut zones, "a", &reverse6("2"), KIND_PTR), Verdict::Answer(vec![Record::Name("web.front".to_owned())]));
        assert_eq!(ask(&mut zones, "a", &reverse6("9"), KIND_PTR), Verdict::NoSuchName);
    }
}
