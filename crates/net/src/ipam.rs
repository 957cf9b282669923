//! Leases of the addresses of one subnet, in memory. The records of endpoints are the durable form.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use types::Id;

use crate::Subnet;

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

/// The addresses of one network. The first and last of the subnet (its own and the broadcast address), the gateway and the
/// reserved ones are never leased.
#[derive(Debug)]
pub struct Addresses {
    subnet: Subnet,
    gateway: Ipv4Addr,
    /// Where free ones are looked for; a wanted one may lie outside.
    range: Subnet,
    reserved: Vec<Ipv4Addr>,
    leases: HashMap<Ipv4Addr, Lease>,
    /// Where the search for a free one starts: after the last one given, so that an address rests before it is given again.
    next: u32,
}

impl Addresses {
    pub fn new(subnet: Subnet, gateway: Ipv4Addr) -> Self {
        Self { subnet, gateway, range: subnet, reserved: Vec::new(), leases: HashMap::new(), next: 0 }
    }

    /// Looks for free addresses in a part of the subnet only.
    pub fn within(self, range: Option<Subnet>) -> Self {
        Self { range: range.unwrap_or(self.subnet), ..self }
    }

    /// Never leases these.
    pub fn without(self, reserved: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self { reserved: reserved.into_iter().collect(), ..self }
    }

    /// Leases the wanted address, or the next free one.
    pub fn lease(&mut self, wanted: Option<Ipv4Addr>, lease: Lease) -> Result<Ipv4Addr, Refused> {
        let address = match wanted {
            Some(address) if !self.usable(address) => return Err(Refused::Unusable),
            Some(address) => address,
            None => self.next_free()?,
        };
        if let Some(other) = self.leases.get(&address)
            && other.endpoint != lease.endpoint
        {
            return Err(Refused::Taken { owner: other.owner.clone() });
        }
        self.leases.insert(address, lease);
        Ok(address)
    }

    /// Gives back what the endpoint has.
    pub fn release(&mut self, address: Ipv4Addr, endpoint: &Id) {
        if self.leases.get(&address).is_some_and(|lease| lease.endpoint == *endpoint) {
            self.leases.remove(&address);
        }
    }

    fn next_free(&mut self) -> Result<Ipv4Addr, Refused> {
        let first = self.range.first().to_bits();
        let size = u64::from(self.range.last().to_bits() - first) + 1;
        for step in 0..size {
            let offset = ((u64::from(self.next) + step) % size) as u32;
            let address = Ipv4Addr::from_bits(first + offset);
            if self.usable(address) && !self.leases.contains_key(&address) {
                self.next = offset.wrapping_add(1);
                return Ok(address);
            }
        }
        Err(Refused::Exhausted { capacity: self.leases.len() as u32 })
    }

    fn usable(&self, address: Ipv4Addr) -> bool {
        let edge = self.subnet.prefix() < 31 && (address == self.subnet.first() || address == self.subnet.last());
        self.subnet.contains(address) && address != self.gateway && !edge && !self.reserved.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(owner: &str) -> Lease {
        Lease { endpoint: Id::random(), owner: owner.to_owned() }
    }

    fn small() -> Addresses {
        Addresses::new("10.0.0.0/29".parse().unwrap(), Ipv4Addr::new(10, 0, 0, 1))
    }

    #[test]
    fn addresses_rotate_and_run_out() {
        let mut addresses = small();
        let first = lease("a");
        let given = addresses.lease(None, first.clone()).unwrap();
        assert_eq!(given, Ipv4Addr::new(10, 0, 0, 2));
        addresses.release(given, &first.endpoint);
        let next: Vec<_> = (0..5).map(|_| addresses.lease(None, lease("b")).unwrap().octets()[3]).collect();
        assert_eq!(next, [3, 4, 5, 6, 2], "an address rests before it is given again");
        assert_eq!(addresses.lease(None, lease("c")), Err(Refused::Exhausted { capacity: 5 }));
    }

    #[test]
    fn wanted_addresses_are_checked() {
        let mut addresses = small();
        for bad in [[10, 0, 0, 0], [10, 0, 0, 1], [10, 0, 0, 7], [10, 0, 0, 8]] {
            assert_eq!(addresses.lease(Some(bad.into()), lease("a")), Err(Refused::Unusable), "{bad:?}");
        }
        let wanted = Ipv4Addr::new(10, 0, 0, 5);
        let holder = lease("web");
        assert_eq!(addresses.lease(Some(wanted), holder.clone()), Ok(wanted));
        assert_eq!(addresses.lease(Some(wanted), holder.clone()), Ok(wanted), "again for the same endpoint");
        assert_eq!(addresses.lease(Some(wanted), lease("b")), Err(Refused::Taken { owner: "web".to_owned() }));
        addresses.release(wanted, &Id::random());
        assert!(addresses.lease(Some(wanted), lease("b")).is_err(), "only the holder gives back");
        addresses.release(wanted, &holder.endpoint);
        assert_eq!(addresses.lease(Some(wanted), lease("b")), Ok(wanted));
    }

    #[test]
    fn ranges_and_reserved_addresses_are_kept() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let mut addresses = Addresses::new(subnet, gateway).within("10.0.0.128/30".parse().ok()).without([Ipv4Addr::new(10, 0, 0, 129)]);
        let given: Vec<_> = (0..3).map(|_| addresses.lease(None, lease("a")).unwrap().octets()[3]).collect();
        assert_eq!(given, [128, 130, 131]);
        assert!(matches!(addresses.lease(None, lease("a")), Err(Refused::Exhausted { .. })));
        assert_eq!(addresses.lease(Some(Ipv4Addr::new(10, 0, 0, 129)), lease("a")), Err(Refused::Unusable));
        assert!(addresses.lease(Some(Ipv4Addr::new(10, 0, 0, 9)), lease("a")).is_ok(), "a wanted one may lie outside the range");
    }

    #[test]
    fn the_widest_and_narrowest_subnets_work() {
        let mut all = Addresses::new("0.0.0.0/0".parse().unwrap(), Ipv4Addr::new(0, 0, 0, 1));
        assert_eq!(all.lease(None, lease("a")), Ok(Ipv4Addr::new(0, 0, 0, 2)));
        let mut pair = Addresses::new("10.0.0.0/31".parse().unwrap(), Ipv4Addr::new(10, 0, 0, 0));
        assert_eq!(pair.lease(None, lease("a")), Ok(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(pair.lease(None, lease("b")).is_err());
    }
}
