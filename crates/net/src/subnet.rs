//! Networks in prefix notation, and interface (MAC) addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Defines a network of one family; the two differ in their width alone.
macro_rules! subnet {
    ($name:ident, $address:ty, $bits:ty, $width:literal, $family:literal) => {
        #[doc = concat!("An ", $family, " address with a prefix length. As a network the host bits are ignored; as `--bip` they are the bridge's address.")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            address: $address,
            prefix: u8,
        }

        impl $name {
            #[doc = concat!("`prefix` above ", stringify!($width), " is taken as ", stringify!($width), ".")]
            pub fn new(address: $address, prefix: u8) -> Self {
                Self { address, prefix: prefix.min($width) }
            }

            /// The address as written, host bits included.
            pub fn address(&self) -> $address {
                self.address
            }

            /// The prefix length.
            pub fn prefix(&self) -> u8 {
                self.prefix
            }

            /// The network mask as a number.
            pub fn mask(&self) -> $bits {
                <$bits>::MAX.checked_shl($width - u32::from(self.prefix)).unwrap_or(0)
            }

            /// The first address (all host bits zero).
            pub fn first(&self) -> $address {
                (self.address.to_bits() & self.mask()).into()
            }

            /// The last address (all host bits one): of IPv4 the broadcast address of anything up to /30.
            pub fn last(&self) -> $address {
                (self.address.to_bits() | !self.mask()).into()
            }

            /// The same network without host bits.
            pub fn network(&self) -> Self {
                Self { address: self.first(), prefix: self.prefix }
            }

            /// Whether the address is inside.
            pub fn contains(&self, address: $address) -> bool {
                address.to_bits() & self.mask() == self.first().to_bits()
            }

            /// Whether the two share an address.
            pub fn overlaps(&self, other: &Self) -> bool {
                self.contains(other.first()) || other.contains(self.first())
            }

            /// The address that many after the first one; beyond the last it starts anew.
            pub fn nth(&self, offset: $bits) -> $address {
                (self.first().to_bits() | offset & !self.mask()).into()
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let parse = || {
                    let (address, prefix) = text.split_once('/')?;
                    let prefix: u8 = prefix.parse().ok().filter(|bits| *bits <= $width)?;
                    Some(Self { address: address.parse().ok()?, prefix })
                };
                parse().ok_or_else(|| Error::BadSubnet { text: text.to_owned() })
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(subnet: $name) -> Self {
                subnet.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}/{}", self.address, self.prefix)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{self}")
            }
        }
    };
}

subnet!(Subnet, Ipv4Addr, u32, 32, "IPv4");
subnet!(Subnet6, Ipv6Addr, u128, 128, "IPv6");

/// The hardware address of an Ethernet interface, written as `02:ca:ac:1e:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The locally administered address that goes with an IPv4 address: as long as an address is leased to one endpoint the
    /// MAC is unique on its bridge, and a neighbour's ARP entry stays right when the lease passes to another container.
    pub fn for_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0xca, a, b, c, d])
    }

    /// The one that goes with an interface without addresses.
    pub fn for_name(name: &str) -> Self {
        let [a, b, c, d, ..] = crate::config::fnv1a(name.as_bytes(), 0).to_be_bytes();
        Self([0x02, 0xcc, a, b, c, d])
    }

    /// The same for an endpoint that has an IPv6 address alone: containers' addresses differ in their last bytes.
    pub fn for_address6(address: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = address.octets();
        Self([0x02, 0xcb, a, b, c, d])
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadMac { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        let multicast = bytes[0] & 1 == 1;
        if parts.next().is_some() || multicast || bytes == [0; 6] { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_parse_contain_and_overlap() {
        let subnet: Subnet = "172.30.5.1/20".parse().unwrap();
        assert_eq!(subnet.network().to_string(), "172.30.0.0/20");
        assert_eq!(subnet.last(), Ipv4Addr::new(172, 30, 15, 255));
        assert!(subnet.contains(Ipv4Addr::new(172, 30, 15, 1)) && !subnet.contains(Ipv4Addr::new(172, 30, 16, 1)));
        assert!(subnet.overlaps(&"172.30.8.0/24".parse().unwrap()) && !subnet.overlaps(&"172.30.16.0/24".parse().unwrap()));
        assert!(Subnet::new(Ipv4Addr::UNSPECIFIED, 0).contains(Ipv4Addr::LOCALHOST));
        for bad in ["", "banana", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "1.2.3.4/-1", "::/0"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_subnets_do_the_same() {
        let subnet: Subnet6 = "fd00:1:2:3::5/64".parse().unwrap();
        assert_eq!(subnet.network().to_string(), "fd00:1:2:3::/64");
        assert_eq!(subnet.last().to_string(), "fd00:1:2:3:ffff:ffff:ffff:ffff");
        assert_eq!((subnet.nth(2).to_string().as_str(), subnet.nth(1 << 64).to_string().as_str()), ("fd00:1:2:3::2", "fd00:1:2:3::"));
        assert!(subnet.overlaps(&"fd00:1:2::/48".parse().unwrap()) && !subnet.overlaps(&"fd00:1:2:4::/64".parse().unwrap()));
        assert!("::/0".parse::<Subnet6>().unwrap().contains(Ipv6Addr::LOCALHOST));
        for bad in ["", "::", "::/129", "1.2.3.4/8", "fd00::zz/64"] {
            assert!(bad.parse::<Subnet6>().is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_parse_and_refuse_groups() {
        assert_eq!("02:CA:00:00:00:01".parse::<Mac>().unwrap().to_string(), "02:ca:00:00:00:01");
        for bad in ["", "02:ca", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:ca:00:00:00:01:02", "+2:ca:00:00:00:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
