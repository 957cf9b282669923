//! Which numbers, ranges and addresses are free. Pure: the store decides whether somebody was faster.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use types::Id;

use crate::record::{Network, Prefix, VNI_MAX, VNI_MIN};
use crate::view::View;
use crate::{Error, Result};

/// Ranges for networks without one of their own: 10.128.0.0/9 in pieces of 256 addresses, where neither Docker's nor this engine's local pools are.
const POOL_FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const POOL_LEN: u8 = 9;
const PIECE_LEN: u8 = 24;

/// Refuses a network that is in the way of another.
pub(crate) fn check<'a>(name: &str, subnets: &[Prefix], others: impl Iterator<Item = &'a Network>) -> Result<()> {
    for other in others {
        if other.name == name {
            return Err(Error::NameTaken { name: name.to_owned() });
        }
        for subnet in subnets {
            if let Some(taken) = other.subnets.iter().find(|taken| taken.overlaps(subnet)) {
                return Err(Error::Overlap { subnet: subnet.to_string(), other: taken.to_string(), name: other.name.clone() });
            }
        }
    }
    Ok(())
}

/// The lowest number that no network has.
pub(crate) fn vni<'a>(others: impl Iterator<Item = &'a Network>) -> Result<u32> {
    let taken: HashSet<u32> = others.map(|network| network.vni).collect();
    (VNI_MIN..=VNI_MAX).find(|vni| !taken.contains(vni)).ok_or(Error::Exhausted { what: "number" })
}

/// The first piece of the pool that overlaps with no network, nor with `avoid`: this host's own routes.
pub(crate) fn subnet<'a>(others: impl Iterator<Item = &'a Network>, avoid: &[Prefix]) -> Result<Prefix> {
    let taken: Vec<Prefix> = others.flat_map(|network| network.subnets.iter().copied()).chain(avoid.iter().copied()).collect();
    let pieces = (0..1u32 << (PIECE_LEN - POOL_LEN)).map(|place| {
        let first = Ipv4Addr::from_bits(POOL_FIRST.to_bits() + (place << (32 - PIECE_LEN)));
        Prefix::new(IpAddr::V4(first), PIECE_LEN)
    });
    let free = |piece: &Prefix| !taken.iter().any(|taken| taken.overlaps(piece));
    pieces.flatten().find(free).ok_or(Error::Exhausted { what: "range of addresses" })
}

/// The first address of a network that nobody has and that is not among `lost`, which others took a moment ago.
pub(crate) fn address(view: &View, network: &Network, lost: &HashSet<Ipv4Addr>) -> Result<Ipv4Addr> {
    let taken: HashSet<Ipv4Addr> = view.on(&network.id).map(|endpoint| endpoint.address).collect();
    let none = || Error::NoAddress { network: network.name.clone() };
    let range = network.ip_range.or(network.subnets.first().copied()).ok_or_else(none)?;
    let free = |address: &Ipv4Addr| {
        let all = IpAddr::V4(*address);
        !taken.contains(address)
            && !lost.contains(address)
            && network.has_room_for(all)
            && !network.auxiliary.values().any(|other| *other == all)
    };
    let all = (0..range.size()).map_while(|place| range.nth(place));
    let mut all = all.filter_map(|address| if let IpAddr::V4(address) = address { Some(address) } else { None });
    all.find(free).ok_or_else(none)
}

/// Who has an address, for a message.
pub(crate) fn owner(view: &View, network: &Id, address: Ipv4Addr) -> String {
    view.on(network).find(|endpoint| endpoint.address == address).map_or_else(
        || "an endpoint of another host".to_owned(),
        |endpoint| format!("container {} on {}", endpoint.name, view.host_name(&endpoint.host)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{endpoint, network};
    use std::sync::Arc;

    #[test]
    fn names_and_ranges_are_given_once() {
        let there = network("web", VNI_MIN, "10.0.0.0/24");
        let all = || [&there].into_iter();
        let error = |name: &str, subnet: &str| check(name, &[subnet.parse().expect("a prefix")], all()).expect_err("taken").to_string();
        assert_eq!(error("web", "10.9.0.0/24"), "network with name web already exists");
        assert_eq!(error("other", "10.0.0.128/25"), "subnet 10.0.0.128/25 overlaps with 10.0.0.0/24 of the overlay network web");
        assert!(check("other", &["10.0.1.0/24".parse().expect("a prefix")], all()).is_ok());
        assert_eq!(vni(all()).expect("free"), VNI_MIN + 1);
    }

    #[test]
    fn free_ranges_keep_off_the_hosts_own() {
        let there = network("web", VNI_MIN, "10.128.0.0/24");
        let avoid = ["10.128.1.0/24".parse().expect("a prefix"), "10.128.2.0/23".parse().expect("a prefix")];
        assert_eq!(subnet([&there].into_iter(), &avoid).expect("free").to_string(), "10.128.4.0/24");
        assert!(subnet([].into_iter(), &["10.0.0.0/8".parse().expect("a prefix")]).is_err());
    }

    #[test]
    fn addresses_are_given_in_order_and_end() {
        let net = Arc::new(Network {
            auxiliary: [("printer".to_owned(), "10.0.0.3".parse().expect("an address"))].into(),
            ..network("web", VNI_MIN, "10.0.0.0/29")
        });
        let mut view = View::default();
        view.networks.insert(net.id.clone(), net.clone());
        let mut given = Vec::new();
        while let Ok(next) = address(&view, &net, &HashSet::new()) {
            let record = Arc::new(endpoint(&net, &Id::random(), &next.to_string()));
            view.endpoints.insert((net.id.clone(), record.id.clone()), record);
            given.push(next.to_string());
        }
        assert_eq!(given, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let error = address(&view, &net, &HashSet::new()).expect_err("full").to_string();
        assert_eq!(error, "no address is left in network web");
        assert!(owner(&view, &net.id, Ipv4Addr::new(10, 0, 0, 4)).starts_with("container web on "));
    }

    #[test]
    fn what_others_took_is_not_tried_again() {
        let net = network("web", VNI_MIN, "10.0.0.0/24");
        let lost = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)].into();
        assert_eq!(address(&View::default(), &net, &lost).expect("free"), Ipv4Addr::new(10, 0, 0, 4));
    }
}
