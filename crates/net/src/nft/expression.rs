//! The expressions that our rules are made of.

use crate::netlink::Attributes;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const NAT_DNAT: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const IFNAME_LEN: usize = 16;

/// A 4-byte register, `0` to `15`; longer values take the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

/// The first register: most expressions hand their value on in it.
const FIRST: Register = Register(0);

impl Register {
    fn number(self) -> u32 {
        const REG32_00: u32 = 8;
        REG32_00 + self.0
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Goto(&'a str),
}

/// A step of a rule: it loads, compares (and ends the rule if the comparison fails) or acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expression<'a> {
    /// Goes on for IPv4 packets only: two steps in one.
    OnlyIpv4,
    /// The same for IPv6.
    OnlyIpv6,
    /// Loads the incoming interface's name, 16 bytes.
    InputInterface(Register),
    /// Loads the outgoing interface's name, 16 bytes.
    OutputInterface(Register),
    /// Goes on if the incoming (`true`) or outgoing interface has that name.
    InterfaceIs(bool, &'a str),
    /// Loads the transport protocol's number.
    TransportProtocol(Register),
    /// Loads the IPv4 source address.
    SourceAddress(Register),
    /// Loads the IPv4 destination address.
    DestinationAddress(Register),
    /// Loads the IPv6 source address, 16 bytes.
    SourceAddress6(Register),
    /// Loads the IPv6 destination address, 16 bytes.
    DestinationAddress6(Register),
    /// Loads the destination port.
    DestinationPort(Register),
    /// Loads the destination port that the connection was made to, before any translation.
    OriginalPort(Register),
    /// Loads a constant of four bytes.
    Load(Register, [u8; 4]),
    /// Goes on if the value in the first registers is this.
    Is(&'a [u8]),
    /// Goes on if the address in the first register is in 127.0.0.0/8.
    IsLoopback,
    /// Goes on if the IPv6 address in the first registers is of the link alone (fe80::/10).
    IsLinkLocal6,
    /// Goes on if the destination is an address of this host.
    DestinationIsLocal,
    /// Goes on if the connection is established or related to one that is.
    Established,
    /// Goes on if the connection's destination was translated.
    Translated,
    /// Goes on if the value in the first registers is in the set.
    InSet(&'a str),
    /// Goes on if the value in the first registers is not in the set.
    NotInSet(&'a str),
    /// Replaces the value in the first registers by what the map has for it; ends the rule if it has nothing.
    Map(&'a str),
    /// Translates the destination to address and port in registers 0 and 1.
    TranslateDestination,
    /// Translates the destination to the IPv6 address in registers 0 to 3 and the port in register 4.
    TranslateDestination6,
    /// Translates the source to the outgoing interface's address.
    Masquerade,
    /// Ends.
    Verdict(Verdict<'a>),
}

impl Expression<'_> {
    /// Writes it as elements of a rule's list.
    pub fn write(&self, list: &mut Attributes<'_>) {
        match *self {
            Self::OnlyIpv4 => {
                meta(list, META_NFPROTO, FIRST);
                compare(list, CMP_EQ, &[NFPROTO_IPV4 as u8]);
            }
            Self::OnlyIpv6 => {
                meta(list, META_NFPROTO, FIRST);
                compare(list, CMP_EQ, &[NFPROTO_IPV6 as u8]);
            }
            Self::InputInterface(to) => meta(list, META_IIFNAME, to),
            Self::OutputInterface(to) => meta(list, META_OIFNAME, to),
            Self::InterfaceIs(input, name) => {
                meta(list, if input { META_IIFNAME } else { META_OIFNAME }, FIRST);
                compare(list, CMP_EQ, &ifname(name));
            }
            Self::TransportProtocol(to) => meta(list, META_L4PROTO, to),
            Self::SourceAddress(to) => payload(list, PAYLOAD_NETWORK, 12, 4, to),
            Self::DestinationAddress(to) => payload(list, PAYLOAD_NETWORK, 16, 4, to),
            Self::SourceAddress6(to) => payload(list, PAYLOAD_NETWORK, 8, 16, to),
            Self::DestinationAddress6(to) => payload(list, PAYLOAD_NETWORK, 24, 16, to),
            Self::DestinationPort(to) => payload(list, PAYLOAD_TRANSPORT, 2, 2, to),
            Self::OriginalPort(to) => conntrack(list, CT_PROTO_DST, to, true),
            Self::Load(to, value) => expression(list, "immediate", |immediate| {
                immediate.big(1, to.number());
                immediate.nest(2, |data| data.bytes(DATA_VALUE, &value));
            }),
            Self::Is(value) => compare(list, CMP_EQ, value),
            Self::IsLoopback => {
                mask(list, [255, 0, 0, 0]);
                compare(list, CMP_EQ, &[127, 0, 0, 0]);
            }
            Self::IsLinkLocal6 => {
                mask(list, [0xff, 0xc0, 0, 0]);
                compare(list, CMP_EQ, &[0xfe, 0x80, 0, 0]);
            }
            Self::DestinationIsLocal => {
                expression(list, "fib", |fib| {
                    fib.big(1, FIRST.number());
                    fib.big(2, FIB_RESULT_ADDRTYPE);
                    fib.big(3, FIB_DADDR);
                });
                compare(list, CMP_EQ, &RTN_LOCAL.to_ne_bytes());
            }
            Self::Established => any_bit(list, CT_STATE, 2 | 4),
            Self::Translated => any_bit(list, CT_STATUS, 1 << 5),
            Self::InSet(set) => lookup(list, set, None, 0),
            Self::NotInSet(set) => lookup(list, set, None, LOOKUP_INVERTED),
            Self::Map(map) => lookup(list, map, Some(FIRST), 0),
            Self::TranslateDestination => translate(list, NFPROTO_IPV4, Register(1)),
            Self::TranslateDestination6 => translate(list, NFPROTO_IPV6, Register(4)),
            Self::Masquerade => expression(list, "masq", |_| ()),
            Self::Verdict(verdict) => write_verdict(list, verdict),
        }
    }
}

/// An interface name as a key: padded to the kernel's length.
pub fn ifname(name: &str) -> [u8; IFNAME_LEN] {
    let mut bytes = [0; IFNAME_LEN];
    let len = name.len().min(IFNAME_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

fn expression(list: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(LIST_ELEM, |item| {
        item.text(EXPR_NAME, name);
        item.nest(EXPR_DATA, fill);
    });
}

fn meta(list: &mut Attributes<'_>, key: u32, to: Register) {
    expression(list, "meta", |meta| {
        meta.big(1, to.number());
        meta.big(2, key);
    });
}

fn payload(list: &mut Attributes<'_>, base: u32, offset: u32, len: u32, to: Register) {
    expression(list, "payload", |payload| {
        payload.big(1, to.number());
        payload.big(2, base);
        payload.big(3, offset);
        payload.big(4, len);
    });
}

fn conntrack(list: &mut Attributes<'_>, key: u32, to: Register, original: bool) {
    expression(list, "ct", |ct| {
        ct.big(1, to.number());
        ct.big(2, key);
        if original {
            ct.bytes(3, &[0]);
        }
    });
}

fn any_bit(list: &mut Attributes<'_>, key: u32, bits: u32) {
    conntrack(list, key, FIRST, false);
    mask(list, bits.to_ne_bytes());
    compare(list, CMP_NEQ, &[0; 4]);
}

fn mask(list: &mut Attributes<'_>, mask: [u8; 4]) {
    expression(list, "bitwise", |bitwise| {
        bitwise.big(1, FIRST.number());
        bitwise.big(2, FIRST.number());
        bitwise.big(3, 4);
        bitwise.nest(4, |value| value.bytes(DATA_VALUE, &mask));
        bitwise.nest(5, |value| value.bytes(DATA_VALUE, &[0; 4]));
    });
}

fn compare(list: &mut Attributes<'_>, operator: u32, value: &[u8]) {
    expression(list, "cmp", |cmp| {
        cmp.big(1, FIRST.number());
        cmp.big(2, operator);
        cmp.nest(3, |data| data.bytes(DATA_VALUE, value));
    });
}

/// The address is in the first registers.
fn translate(list: &mut Attributes<'_>, family: u32, port: Register) {
    expression(list, "nat", |nat| {
        nat.big(1, NAT_DNAT);
        nat.big(2, family);
        nat.big(3, FIRST.number());
        nat.big(5, port.number());
    });
}

fn lookup(list: &mut Attributes<'_>, set: &str, to: Option<Register>, flags: u32) {
    expression(list, "lookup", |lookup| {
        lookup.text(1, set);
        lookup.big(2, FIRST.number());
        if let Some(to) = to {
            lookup.big(3, to.number());
        }
        if flags != 0 {
            lookup.big(5, flags);
        }
    });
}

fn write_verdict(list: &mut Attributes<'_>, verdict: Verdict<'_>) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    expression(list, "immediate", |immediate| {
        immediate.big(1, 0);
        immediate.nest(2, |data| {
            data.nest(DATA_VERDICT, |value| {
                value.big(VERDICT_CODE, code as u32);
                if let Some(chain) = chain {
                    value.text(VERDICT_CHAIN, chain);
                }
            });
        });
    });
}
