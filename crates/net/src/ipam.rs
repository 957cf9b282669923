//! Leases of the addresses of one subnet, in memory. The records of endpoints are the durable form.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use types::Id;

use crate::{Subnet, Subnet6};

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub endpoint: Id,
    pub owner: String,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// All are leased.
    Exhausted { capacity: u32 },
    /// Another endpoint has it.
    Taken { owner: String },
    /// Not an address for a container.
    Unusable,
}

/// The addresses of one network and family, as numbers. The first of the subnet, of IPv4 the last too (the broadcast
/// address), the gateway and the reserved ones are never leased.
#[derive(Debug)]
pub struct Addresses {
    subnet: Range,
    ipv6: bool,
    /// Whether first and last address are for nobody.
    edges: (bool, bool),
    /// Where free ones are looked for; a wanted one may lie outside.
    range: Range,
    reserved: HashSet<u128>,
    leases: HashMap<u128, Lease>,
    /// Where the search for a free one starts: after the last one given, so that an address rests before it is given again.
    next: u128,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    first: u128,
    last: u128,
}

impl Range {
    fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

impl From<Subnet> for Range {
    fn from(subnet: Subnet) -> Self {
        Self { first: subnet.first().to_bits().into(), last: subnet.last().to_bits().into() }
    }
}

impl From<Subnet6> for Range {
    fn from(subnet: Subnet6) -> Self {
        Self { first: subnet.first().to_bits(), last: subnet.last().to_bits() }
    }
}

impl Addresses {
    /// The IPv4 addresses of a network.
    pub fn v4(subnet: Subnet, range: Option<Subnet>) -> Self {
        let edge = subnet.prefix() < 31;
        Self::new(subnet.into(), range.map(Range::from), false, (edge, edge))
    }

    /// The IPv6 addresses of a network.
    pub fn v6(subnet: Subnet6, range: Option<Subnet6>) -> Self {
        Self::new(subnet.into(), range.map(Range::from), true, (subnet.prefix() < 127, false))
    }

    fn new(subnet: Range, range: Option<Range>, ipv6: bool, edges: (bool, bool)) -> Self {
        Self { subnet, ipv6, edges, range: range.unwrap_or(subnet), reserved: HashSet::new(), leases: HashMap::new(), next: 0 }
    }

    /// Never leases these.
    pub fn without(mut self, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        self.reserved.extend(reserved.into_iter().map(number));
        self
    }

    /// Leases the wanted address, or the next free one.
    pub fn lease(&mut self, wanted: Option<IpAddr>, lease: Lease) -> Result<IpAddr, Refused> {
        let address = match wanted {
            Some(wanted) if wanted.is_ipv6() != self.ipv6 || !self.usable(number(wanted)) => return Err(Refused::Unusable),
            Some(wanted) => number(wanted),
            None => self.next_free()?,
        };
        if let Some(other) = self.leases.get(&address)
            && other.endpoint != lease.endpoint
        {
            return Err(Refused::Taken { owner: other.owner.clone() });
        }
        self.leases.insert(address, lease);
        Ok(self.address(address))
    }

    /// Gives back what the endpoint has.
    pub fn release(&mut self, address: IpAddr, endpoint: &Id) {
        if address.is_ipv6() != self.ipv6 {
            return;
        }
        let address = number(address);
        if self.leases.get(&address).is_some_and(|lease| lease.endpoint == *endpoint) {
            self.leases.remove(&address);
        }
    }

    /// Tells messages that the owner is called otherwise now.
    pub fn rename(&mut self, endpoint: &Id, owner: &str) {
        for lease in self.leases.values_mut().filter(|lease| lease.endpoint == *endpoint) {
            owner.clone_into(&mut lease.owner);
        }
    }

    fn next_free(&mut self) -> Result<u128, Refused> {
        let size = (self.range.last - self.range.first).saturating_add(1);
        // Every step that finds nothing meets a lease or one of the few others that are not to be had, so a wide range takes no longer.
        for step in 0..size {
            let offset = (self.next.wrapping_add(step)) % size;
            let address = self.range.first + offset;
            if self.usable(address) && !self.leases.contains_key(&address) {
                self.next = offset.wrapping_add(1);
                return Ok(address);
            }
        }
        Err(Refused::Exhausted { capacity: self.leases.len() as u32 })
    }

    fn usable(&self, address: u128) -> bool {
        let edge = self.edges.0 && address == self.subnet.first || self.edges.1 && address == self.subnet.last;
        self.subnet.contains(address) && !edge && !self.reserved.contains(&address)
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.ipv6 { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(owner: &str) -> Lease {
        Lease { endpoint: Id::random(), owner: owner.to_owned() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn small() -> Addresses {
        Addresses::v4("10.0.0.0/29".parse().unwrap(), None).without([ip("10.0.0.1")])
    }

    #[test]
    fn addresses_rotate_and_run_out() {
        let mut addresses = small();
        let first = lease("a");
        let given = addresses.lease(None, first.clone()).unwrap();
        assert_eq!(given, ip("10.0.0.2"));
        addresses.release(given, &first.endpoint);
        let next: Vec<_> = (0..5).map(|_| addresses.lease(None, lease("b")).unwrap()).collect();
        assert_eq!(next, [3, 4, 5, 6, 2].map(|last| ip(&format!("10.0.0.{last}"))), "an address rests before it is given again");
        assert_eq!(addresses.lease(None, lease("c")), Err(Refused::Exhausted { capacity: 5 }));
    }

    #[test]
    fn wanted_addresses_are_checked() {
        let mut addresses = small();
        for bad in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "::a00:2", "fd00::2"] {
            assert_eq!(addresses.lease(Some(ip(bad)), lease("a")), Err(Refused::Unusable), "{bad}");
        }
        let wanted = ip("10.0.0.5");
        let holder = lease("web");
        assert_eq!(addresses.lease(Some(wanted), holder.clone()), Ok(wanted));
        assert_eq!(addresses.lease(Some(wanted), holder.clone()), Ok(wanted), "again for the same endpoint");
        assert_eq!(addresses.lease(Some(wanted), lease("b")), Err(Refused::Taken { owner: "web".to_owned() }));
        addresses.rename(&holder.endpoint, "shop");
        assert_eq!(addresses.lease(Some(wanted), lease("b")), Err(Refused::Taken { owner: "shop".to_owned() }));
        addresses.release(wanted, &Id::random());
        assert!(addresses.lease(Some(wanted), lease("b")).is_err(), "only the holder gives back");
        addresses.release(wanted, &holder.endpoint);
        assert_eq!(addresses.lease(Some(wanted), lease("b")), Ok(wanted));
    }

    #[test]
    fn ranges_and_reserved_addresses_are_kept() {
        let mut addresses =
            Addresses::v4("10.0.0.0/24".parse().unwrap(), "10.0.0.128/30".parse().ok()).without([ip("10.0.0.1"), ip("10.0.0.129")]);
        let given: Vec<_> = (0..3).map(|_| addresses.lease(None, lease("a")).unwrap()).collect();
        assert_eq!(given, [ip("10.0.0.128"), ip("10.0.0.130"), ip("10.0.0.131")]);
        assert!(matches!(addresses.lease(None, lease("a")), Err(Refused::Exhausted { .. })));
        assert_eq!(addresses.lease(Some(ip("10.0.0.129")), lease("a")), Err(Refused::Unusable));
        assert!(addresses.lease(Some(ip("10.0.0.9")), lease("a")).is_ok(), "a wanted one may lie outside the range");
    }

    #[test]
    fn the_widest_and_narrowest_subnets_work() {
        let mut all = Addresses::v4("0.0.0.0/0".parse().unwrap(), None).without([ip("0.0.0.1")]);
        assert_eq!(all.lease(None, lease("a")), Ok(ip("0.0.0.2")));
        let mut pair = Addresses::v4("10.0.0.0/31".parse().unwrap(), None).without([ip("10.0.0.0")]);
        assert_eq!(pair.lease(None, lease("a")), Ok(ip("10.0.0.1")));
        assert!(pair.lease(None, lease("b")).is_err());
        let mut wide = Addresses::v6("::/0".parse().unwrap(), None);
        assert_eq!(wide.lease(None, lease("a")), Ok(ip("::1")));
        let mut usual = Addresses::v6("fd00::/64".parse().unwrap(), "fd00::ff00/120".parse().ok()).without([ip("fd00::1")]);
        assert_eq!(usual.lease(None, lease("a")), Ok(ip("fd00::ff00")));
        assert_eq!(usual.lease(Some(ip("fd00::")), lease("a")), Err(Refused::Unusable), "the routers' address");
        assert!(usual.lease(Some(ip("fd00::ffff:ffff:ffff:ffff")), lease("a")).is_ok(), "there is no broadcast address");
    }
}
