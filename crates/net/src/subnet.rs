//! IPv4 networks in prefix notation, and interface (MAC) addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// An IPv4 address with a prefix length. As a network the host bits are ignored; as `--bip` they are the bridge's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// `prefix` above 32 is taken as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix: prefix.min(32) }
    }

    /// The address as written, host bits included.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length, 0 to 32.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network mask as a number.
    pub fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The first address (all host bits zero).
    pub fn first(&self) -> Ipv4Addr {
        (self.address.to_bits() & self.mask()).into()
    }

    /// The last address (all host bits one): the broadcast address of anything up to /30.
    pub fn last(&self) -> Ipv4Addr {
        (self.address.to_bits() | !self.mask()).into()
    }

    /// The same network without host bits.
    pub fn network(&self) -> Self {
        Self { address: self.first(), prefix: self.prefix }
    }

    /// Whether the address is inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.first().to_bits()
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix: u8 = prefix.parse().ok().filter(|bits| *bits <= 32)?;
            Some(Self { address: address.parse().ok()?, prefix })
        };
        parse().ok_or_else(|| Error::BadSubnet { text: text.to_owned() })
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

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
    fn macs_parse_and_refuse_groups() {
        assert_eq!("02:CA:00:00:00:01".parse::<Mac>().unwrap().to_string(), "02:ca:00:00:00:01");
        for bad in ["", "02:ca", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:ca:00:00:00:01:02", "+2:ca:00:00:00:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
