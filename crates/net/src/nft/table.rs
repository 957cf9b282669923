//! Our table: what a packet meets on its way to and from containers.
//!
//! The chains are the same for any number of networks and ports, which are elements of sets and maps: to publish a port or to
//! add a bridge is to add elements. The whole table is written anew in one transaction when it is missing or of unknown state.
//!
//! | chain | does |
//! |---|---|
//! | `raw_prerouting` | keeps containers off the host's 127.0.0.0/8, which `route_localnet` on the bridges would open |
//! | `prerouting`, `output` | translate published ports: of one address first, then of any address of the host |
//! | `postrouting` | masquerades what leaves for other interfaces, answers that must come back through us (a container that uses a published port), and connections to 127.0.0.1 |
//! | `forward`, `to_container` | let in answers and published ports, between containers of one bridge, and out; nothing else. Internal bridges have neither in nor out |

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustix::io::Errno;

use super::expression::ifname;
use super::{Element, Expression as E, FAMILY_INET, GET_TABLE, Hook, Register, SUBSYSTEM, SetShape, TABLE_NAME, Transaction, Verdict};
use crate::endpoint::{PortBinding, Protocol};
use crate::netlink::{Refusal, Socket};
use crate::{Endpoint, Error, Result, Subnet, Subnet6};

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

const LOOPBACK6: [u8; 16] = std::net::Ipv6Addr::LOCALHOST.octets();

/// Numbers by which the `nft` program knows data types.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTO: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_IFNAME: u32 = 41;

/// The sets and maps.
const BRIDGES: &str = "bridges";
const PAIRS: &str = "bridge_pairs";
const INTERNAL: &str = "internal";
const MASQUERADE: &str = "masquerade";
const PUBLISHED: &str = "published";
const PUBLISHED_AT: &str = "published_at";
const MASQUERADE6: &str = "masquerade6";
const PUBLISHED6: &str = "published6";
const PUBLISHED_AT6: &str = "published_at6";
const ALLOWED: &str = "published_allow";

/// A bridge network as the table sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    pub bridge: String,
    pub subnet: Option<Subnet>,
    pub subnet6: Option<Subnet6>,
    /// Neither in nor out.
    pub internal: bool,
    /// Whether containers of this bridge reach each other.
    pub connects: bool,
    /// Whether what leaves takes the host's address.
    pub masquerades: bool,
}

impl BridgeRules {
    fn elements(&self) -> [(&'static str, Vec<Element>); 5] {
        let name = ifname(&self.bridge);
        let when = |is: bool, element: Element| if is { vec![element] } else { Vec::new() };
        [
            (BRIDGES, vec![plain(name)]),
            (PAIRS, when(self.connects, plain([name; 2].concat()))),
            (INTERNAL, when(self.internal, plain(name))),
            (MASQUERADE, self.subnet.filter(|_| self.masquerades).map(interval).unwrap_or_default()),
            (MASQUERADE6, self.subnet6.filter(|_| self.masquerades).map(interval6).unwrap_or_default()),
        ]
    }
}

/// All that the table is made from.
#[derive(Debug, Clone, Default)]
pub struct Content<'a> {
    pub bridges: &'a [BridgeRules],
    pub published: Vec<Published>,
    /// Keep other hosts from published ports that are not in `allow`.
    pub restrict: bool,
    pub allow: &'a [(Protocol, u16)],
}

/// A published port: at one of the host's addresses, or at all of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub protocol: Protocol,
    pub at: Option<IpAddr>,
    pub port: u16,
    pub target: (IpAddr, u16),
}

impl Published {
    /// The ports of an endpoint that the kernel translates: those of a family in which the container has an address. netd serves
    /// the others, and those on the host's `::1`.
    pub fn of<'a>(endpoint: &'a Endpoint, bindings: &'a [PortBinding]) -> impl Iterator<Item = Self> + 'a {
        bindings.iter().filter_map(|binding| {
            let host = binding.host_ip;
            let target = match host {
                IpAddr::V4(_) => IpAddr::V4(endpoint.ipv4()?),
                IpAddr::V6(_) => IpAddr::V6(endpoint.ipv6()?),
            };
            let untranslatable = host.is_ipv6() && host.is_loopback();
            (!untranslatable).then_some(Self {
                protocol: binding.protocol,
                at: (!host.is_unspecified()).then_some(host),
                port: binding.host_port,
                target: (target, binding.container_port),
            })
        })
    }

    fn element(&self, with_data: bool) -> Element {
        let mut key = vec![self.protocol.number(), 0, 0, 0];
        key.extend(self.at.into_iter().flat_map(octets));
        key.extend(port_key(self.port));
        let data = with_data.then(|| {
            let mut data = octets(self.target.0);
            data.extend(port_key(self.target.1));
            data
        });
        Element { key, data, interval_end: false }
    }

    fn map(&self) -> &'static str {
        match (self.target.0, self.at) {
            (IpAddr::V4(_), Some(_)) => PUBLISHED_AT,
            (IpAddr::V4(_), None) => PUBLISHED,
            (IpAddr::V6(_), Some(_)) => PUBLISHED_AT6,
            (IpAddr::V6(_), None) => PUBLISHED6,
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Whether the table is there.
pub fn present(socket: &mut Socket, table: &str) -> Result<bool> {
    match socket.query(SUBSYSTEM << 8 | GET_TABLE, 0, &[FAMILY_INET, 0, 0, 0], |request| request.text(TABLE_NAME, table), |_| ()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(Error::Nft { table: table.to_owned(), operation: "look it up".to_owned(), source }),
    }
}

/// Writes the whole table anew, in place of one that may be there.
pub fn install(socket: &mut Socket, table: &str, content: &Content<'_>) -> Result<()> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    // To create, delete and create again succeeds whether the table was there or not.
    transaction.create_table();
    transaction.delete_table();
    transaction.create_table();
    create_sets(&mut transaction);
    create_chains(&mut transaction);
    translate(&mut transaction);
    masquerade(&mut transaction);
    filter(&mut transaction, content.restrict);
    for (set, elements) in content.bridges.iter().flat_map(BridgeRules::elements) {
        transaction.add_elements(set, &elements);
    }
    let allow: Vec<_> = content.allow.iter().map(|&(protocol, port)| plain(protocol_port(protocol, port))).collect();
    transaction.add_elements(ALLOWED, &allow);
    add_published(&mut transaction, &content.published);
    transaction.commit(socket).map_err(|refusal| failed(table, "install", refusal))
}

/// Adds a bridge. `false`: the table is not as we left it, [`install`] it again.
pub fn add_bridge(socket: &mut Socket, table: &str, rules: &BridgeRules) -> Result<bool> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    for (set, elements) in rules.elements() {
        transaction.add_elements(set, &elements);
    }
    known(transaction.commit(socket), table, "add a bridge")
}

/// Takes a bridge away. `false`: as of [`add_bridge`].
pub fn remove_bridge(socket: &mut Socket, table: &str, rules: &BridgeRules) -> Result<bool> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    for (set, elements) in rules.elements() {
        transaction.delete_elements(set, &elements);
    }
    known(transaction.commit(socket), table, "take a bridge away")
}

/// Adds published ports. `false`: the table is not as we left it, [`install`] it again.
pub fn publish(socket: &mut Socket, table: &str, ports: &[Published]) -> Result<bool> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    add_published(&mut transaction, ports);
    known(transaction.commit(socket), table, "publish ports")
}

/// Takes published ports away. `false`: as of [`publish`].
pub fn withdraw(socket: &mut Socket, table: &str, ports: &[Published]) -> Result<bool> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    for (set, elements) in split(ports, false) {
        transaction.delete_elements(set, &elements);
    }
    known(transaction.commit(socket), table, "withdraw ports")
}

/// Removes the table, if it is there.
pub fn remove(socket: &mut Socket, table: &str) -> Result<()> {
    let mut transaction = Transaction::new(FAMILY_INET, table);
    transaction.create_table();
    transaction.delete_table();
    transaction.commit(socket).map_err(|refusal| failed(table, "remove", refusal))
}

fn add_published(transaction: &mut Transaction<'_>, ports: &[Published]) {
    for (set, elements) in split(ports, true) {
        transaction.add_elements(set, &elements);
    }
}

/// The ports as elements of the maps, each port once.
fn split(ports: &[Published], with_data: bool) -> impl Iterator<Item = (&'static str, Vec<Element>)> {
    let ports: BTreeSet<_> = ports.iter().collect();
    [PUBLISHED_AT, PUBLISHED, PUBLISHED_AT6, PUBLISHED6].into_iter().filter_map(move |map| {
        let elements: Vec<_> = ports.iter().filter(|port| port.map() == map).map(|port| port.element(with_data)).collect();
        (!elements.is_empty()).then_some((map, elements))
    })
}

fn create_sets(transaction: &mut Transaction<'_>) {
    let target = Some((concat([TYPE_IPV4, TYPE_PORT]), 8));
    let set = |key_type, key_len| SetShape { key_type, key_len, ..SetShape::default() };
    transaction.create_set(BRIDGES, set(TYPE_IFNAME, 16));
    transaction.create_set(PAIRS, set(concat([TYPE_IFNAME, TYPE_IFNAME]), 32));
    transaction.create_set(INTERNAL, set(TYPE_IFNAME, 16));
    transaction.create_set(MASQUERADE, SetShape { interval: true, ..set(TYPE_IPV4, 4) });
    transaction.create_set(ALLOWED, set(concat([TYPE_PROTO, TYPE_PORT]), 8));
    transaction.create_set(PUBLISHED, SetShape { data: target, ..set(concat([TYPE_PROTO, TYPE_PORT]), 8) });
    let target6 = Some((concat([TYPE_IPV6, TYPE_PORT]), 20));
    transaction.create_set(MASQUERADE6, SetShape { interval: true, ..set(TYPE_IPV6, 16) });
    transaction.create_set(PUBLISHED6, SetShape { data: target6, ..set(concat([TYPE_PROTO, TYPE_PORT]), 8) });
    transaction.create_set(PUBLISHED_AT6, SetShape { data: target6, ..set(concat([TYPE_PROTO, TYPE_IPV6, TYPE_PORT]), 24) });
    transaction.create_set(PUBLISHED_AT, SetShape { data: target, ..set(concat([TYPE_PROTO, TYPE_IPV4, TYPE_PORT]), 12) });
}

fn create_chains(transaction: &mut Transaction<'_>) {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    transaction.create_chain("raw_prerouting", hook("filter", PREROUTING, PRIORITY_RAW));
    transaction.create_chain("prerouting", hook("nat", PREROUTING, PRIORITY_DSTNAT));
    transaction.create_chain("output", hook("nat", OUTPUT, PRIORITY_DSTNAT));
    transaction.create_chain("postrouting", hook("nat", POSTROUTING, PRIORITY_SRCNAT));
    transaction.create_chain("forward", hook("filter", FORWARD, PRIORITY_FILTER));
    transaction.create_chain("to_container", None);
}

fn translate(transaction: &mut Transaction<'_>) {
    let first = Register(0);
    let to_loopback = [E::OnlyIpv4, E::DestinationAddress(first), E::IsLoopback];
    let drop_from_bridges = [&[E::InputInterface(first), E::InSet(BRIDGES)], &to_loopback[..], &[E::Verdict(Verdict::Drop)]].concat();
    transaction.append_rule("raw_prerouting", &drop_from_bridges);
    // A packet from the wire to 127.0.0.1 is nobody's: translated here, it would reach ports published for this host alone.
    transaction.append_rule("prerouting", &[&to_loopback[..], &[E::Verdict(Verdict::Return)]].concat());
    let at_address = [
        E::OnlyIpv4,
        E::TransportProtocol(first),
        E::DestinationAddress(Register(1)),
        E::DestinationPort(Register(2)),
        E::Map(PUBLISHED_AT),
        E::TranslateDestination,
    ];
    let at_any = [
        E::OnlyIpv4,
        E::DestinationIsLocal,
        E::TransportProtocol(first),
        E::DestinationPort(Register(1)),
        E::Map(PUBLISHED),
        E::TranslateDestination,
    ];
    let at_address6 = [
        E::OnlyIpv6,
        E::TransportProtocol(first),
        E::DestinationAddress6(Register(1)),
        E::DestinationPort(Register(5)),
        E::Map(PUBLISHED_AT6),
        E::TranslateDestination6,
    ];
    let at_any6 = [
        E::OnlyIpv6,
        E::DestinationIsLocal,
        E::TransportProtocol(first),
        E::DestinationPort(Register(1)),
        E::Map(PUBLISHED6),
        E::TranslateDestination6,
    ];
    // What comes from ::1 or from an address of the link alone cannot go on to another link: netd serves it.
    let link_local = [E::OnlyIpv6, E::SourceAddress6(first), E::IsLinkLocal6, E::Verdict(Verdict::Return)];
    let loopback = [E::OnlyIpv6, E::DestinationAddress6(first), E::Is(&LOOPBACK6), E::Verdict(Verdict::Return)];
    for chain in ["prerouting", "output"] {
        transaction.append_rule(chain, &at_address);
        transaction.append_rule(chain, &at_any);
        transaction.append_rule(chain, &link_local);
        transaction.append_rule(chain, &loopback);
        transaction.append_rule(chain, &at_address6);
        transaction.append_rule(chain, &at_any6);
    }
}

fn masquerade(transaction: &mut Transaction<'_>) {
    let first = Register(0);
    let from_container = [E::OnlyIpv4, E::SourceAddress(first), E::InSet(MASQUERADE), E::OutputInterface(first)];
    transaction.append_rule("postrouting", &[&from_container[..], &[E::NotInSet(BRIDGES), E::Masquerade]].concat());
    transaction.append_rule("postrouting", &[&from_container[..], &[E::InSet(BRIDGES), E::Translated, E::Masquerade]].concat());
    let from_container6 = [E::OnlyIpv6, E::SourceAddress6(first), E::InSet(MASQUERADE6), E::OutputInterface(first)];
    transaction.append_rule("postrouting", &[&from_container6[..], &[E::NotInSet(BRIDGES), E::Masquerade]].concat());
    transaction.append_rule("postrouting", &[&from_container6[..], &[E::InSet(BRIDGES), E::Translated, E::Masquerade]].concat());
    let from_loopback = [E::OnlyIpv4, E::SourceAddress(first), E::IsLoopback, E::OutputInterface(first), E::InSet(BRIDGES), E::Masquerade];
    transaction.append_rule("postrouting", &from_loopback);
}

fn filter(transaction: &mut Transaction<'_>, restrict: bool) {
    let first = Register(0);
    let (accept, drop) = (E::Verdict(Verdict::Accept), E::Verdict(Verdict::Drop));
    let between = [E::InputInterface(first), E::OutputInterface(Register(4)), E::InSet(PAIRS), accept];
    transaction.append_rule("forward", &between);
    transaction.append_rule("forward", &[E::InputInterface(first), E::InSet(INTERNAL), drop]);
    transaction.append_rule("forward", &[E::OutputInterface(first), E::InSet(INTERNAL), drop]);
    transaction.append_rule("forward", &[E::OutputInterface(first), E::InSet(BRIDGES), E::Verdict(Verdict::Goto("to_container"))]);
    transaction.append_rule("forward", &[E::InputInterface(first), E::InSet(BRIDGES), accept]);
    transaction.append_rule("to_container", &[E::Established, accept]);
    if restrict {
        let unlisted = [
            E::InputInterface(first),
            E::NotInSet(BRIDGES),
            E::Translated,
            E::TransportProtocol(first),
            E::OriginalPort(Register(1)),
            E::NotInSet(ALLOWED),
            drop,
        ];
        transaction.append_rule("to_container", &unlisted);
    }
    transaction.append_rule("to_container", &[E::Translated, accept]);
    transaction.append_rule("to_container", &[drop]);
}

/// A subnet as the kernel's interval sets have it: a first key, and an end that is the first key after it.
fn interval(subnet: Subnet) -> Vec<Element> {
    let end = subnet.last().to_bits().checked_add(1).map(|end| Element { interval_end: true, ..plain(end.to_be_bytes()) });
    [plain(subnet.first().octets())].into_iter().chain(end).collect()
}

fn interval6(subnet: Subnet6) -> Vec<Element> {
    let end = subnet.last().to_bits().checked_add(1).map(|end| Element { interval_end: true, ..plain(end.to_be_bytes()) });
    [plain(subnet.first().octets())].into_iter().chain(end).collect()
}

fn plain(key: impl AsRef<[u8]>) -> Element {
    Element { key: key.as_ref().to_vec(), data: None, interval_end: false }
}

fn protocol_port(protocol: Protocol, port: u16) -> Vec<u8> {
    [[protocol.number(), 0, 0, 0], port_key(port)].concat()
}

/// A port takes a whole register.
fn port_key(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn concat<const N: usize>(types: [u32; N]) -> u32 {
    types.into_iter().fold(0, |all, one| all << 6 | one)
}

fn known(outcome: std::result::Result<(), Refusal>, table: &str, operation: &str) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(refusal) if matches!(refusal.errno, Errno::NOENT | Errno::EXIST) => Ok(false),
        Err(refusal) => Err(failed(table, operation, refusal)),
    }
}

fn failed(table: &str, operation: &str, refusal: Refusal) -> Error {
    let operation = refusal.text.map_or_else(|| operation.to_owned(), |text| format!("{operation} ({text})"));
    Error::Nft { table: table.to_owned(), operation, source: refusal.errno }
}
