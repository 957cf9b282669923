//! Networks with IPv6, alone and beside IPv4, on the real kernel.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use common::*;
use net::{EndpointRequest, Error, Ipv6, Net, NetConfig, Netns, NewNetwork, Protocol, Subnet6};
use types::Id;

const OUTSIDE6: &str = "2001:db8::2";

fn on(net: &Net, network: &str, name: &str) -> Container {
    let netns = Netns::create(&[]).unwrap();
    let request = EndpointRequest { names: vec![name.to_owned()], ..EndpointRequest::new(Id::random(), name, network) };
    let endpoint = net.attach(&netns, &request).unwrap();
    Container { netns, endpoint }
}

fn dual(name: &str) -> NewNetwork {
    NewNetwork { ipv6: Some(Ipv6::default()), ..NewNetwork::bridge(name) }
}

fn given(name: &str, subnet: &str) -> NewNetwork {
    let ipv6 = Ipv6 { subnet: subnet.parse().ok(), ..Ipv6::default() };
    NewNetwork { ipv6: Some(ipv6), ..NewNetwork::bridge(name) }
}

fn has_ipv6() -> bool {
    let there = std::path::Path::new("/proc/sys/net/ipv6").exists();
    if !there {
        eprintln!("SKIP: this kernel has no IPv6");
    }
    there
}

/// Listens on every IPv6 address inside, and says whom it sees.
fn serve6(container: &Container, port: u16, name: &'static str) {
    use std::io::Write;
    let listener = inside(&container.netns, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(format!("{name} sees {peer}\n").as_bytes());
        }
    });
}

#[test]
fn both_families_reach_each_other_the_world_and_nobody_else() {
    if !has_ipv6() {
        return;
    }
    on_host("dual", |host| {
        let net = host.open();
        let front = net.create_network(dual("front")).unwrap();
        net.create_network(dual("back")).unwrap();
        net.create_network(NewNetwork { internal: true, ..dual("closed") }).unwrap();
        let (web, peer, stranger) = (on(&net, "front", "web"), on(&net, "front", "peer"), on(&net, "back", "stranger"));
        let closed = on(&net, "closed", "closed");
        let address = web.endpoint.ipv6().unwrap();
        assert!(front.subnet6().unwrap().contains(address) && address != front.gateway6().unwrap());
        assert!(front.subnet6().unwrap().to_string().starts_with("fd"), "of the machine's own range");
        for served in [&web, &stranger] {
            serve6(served, 80, "server");
        }
        assert_eq!(inside(&peer.netns, || talk(address, 80, "")).unwrap(), format!("server sees {}\n", peer.endpoint.ipv6().unwrap()));
        assert!(inside(&stranger.netns, || talk(address, 80, "")).is_err(), "networks are apart");
        assert_eq!(talk(address, 80, "").unwrap(), format!("server sees {}\n", front.gateway6().unwrap()), "the host is its gateway");
        let outside = inside(&host.outside, || TcpListener::bind((OUTSIDE6.parse::<Ipv6Addr>().unwrap(), 7000)).unwrap());
        let world = SocketAddr::new(OUTSIDE6.parse().unwrap(), 7000);
        inside(&web.netns, || TcpStream::connect(world).unwrap());
        assert_eq!(outside.accept().unwrap().1.ip(), HOST6.parse::<IpAddr>().unwrap(), "the world sees the host");
        inside(&closed.netns, || {
            assert!(!run("ip", &["-6", "route"]).1.contains("default"));
            assert!(TcpStream::connect_timeout(&world, std::time::Duration::from_secs(1)).is_err());
        });
        // Who is not published is not reached from outside, even where the way is known.
        inside(&host.outside, || {
            ip(&format!("-6 route add {} via {HOST6}", front.subnet6().unwrap()));
            assert!(talk(address, 80, "").is_err());
        });
        net.close(true).unwrap();
    });
}

#[test]
fn published_ports_are_translated_in_both_families() {
    if !has_ipv6() {
        return;
    }
    on_host("publish6", |host| {
        let net = host.open();
        net.create_network(dual("front")).unwrap();
        net.create_network(NewNetwork { ipv4: false, ..dual("six") }).unwrap();
        let (mut web, peer) = (on(&net, "front", "web"), on(&net, "front", "peer"));
        serve6(&web, 80, "web");
        net.publish(&mut web.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
        let number = web.endpoint.bindings[0].host_port;
        assert_eq!(web.endpoint.bindings.len(), 2);
        let from_outside = |address: &str| inside(&host.outside, || talk(address.parse::<IpAddr>().unwrap(), number, ""));
        assert_eq!(from_outside(HOST6).unwrap(), format!("web sees {OUTSIDE6}\n"), "the source address is kept");
        assert_eq!(from_outside(&HOST.to_string()).unwrap(), format!("web sees {OUTSIDE}\n"));
        for address in [HOST6, "::1", "127.0.0.1", "198.51.100.1"] {
            assert!(talk(address.parse::<IpAddr>().unwrap(), number, "").unwrap().starts_with("web sees"), "{address}");
        }
        // A container of the same network uses the published port, and the answers come back the same way.
        assert!(inside(&peer.netns, || talk(HOST6.parse::<IpAddr>().unwrap(), number, "")).unwrap().starts_with("web sees"));
        net.release(&web.endpoint.id).unwrap();
        assert!(from_outside(HOST6).is_err(), "gone with the endpoint");
        // A container with IPv6 alone is published too: over IPv4 by netd.
        let mut six = on(&net, "six", "six");
        assert_eq!((six.endpoint.address, six.endpoint.gateway), (None, None));
        serve6(&six, 80, "six");
        net.publish(&mut six.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
        let number = six.endpoint.bindings[0].host_port;
        for address in ["127.0.0.1", "::1", HOST6] {
            assert!(talk(address.parse::<IpAddr>().unwrap(), number, "").unwrap().starts_with("six sees"), "{address}");
        }
        let shown = inside(&six.netns, || run("ip", &["-4", "addr", "show", "dev", "eth0"]).1);
        assert!(!shown.contains("inet "), "{shown}");
        net.close(true).unwrap();
    });
}

#[test]
fn ipv6_requests_are_checked_and_addresses_leased() {
    if !has_ipv6() {
        return;
    }
    on_host("checked6", |host| {
        let net = host.open();
        let text = |new: NewNetwork| net.create_network(new).unwrap_err().to_string();
        assert_eq!(text(given("n", "fd00:1::5/64")), "invalid subnet fd00:1::5/64: it should be fd00:1::/64");
        for odd in ["ff00::/16", "::/96", "fd00::/127"] {
            assert!(text(given("n", odd)).contains("invalid subnet"), "{odd}");
        }
        assert!(text(given("n", "2001:db8::/48")).contains("overlaps"), "a subnet of the host's own");
        let gateway = Ipv6 { subnet: "fd00:1::/64".parse().ok(), gateway: "fd00:2::1".parse().ok(), ..Ipv6::default() };
        assert_eq!(text(NewNetwork { ipv6: Some(gateway), ..NewNetwork::bridge("n") }), "no matching subnet for gateway fd00:2::1");
        assert_eq!(text(NewNetwork { ipv4: false, ..NewNetwork::bridge("n") }), "IPv4 or IPv6 must be enabled");
        let tight = [("com.docker.network.driver.mtu".to_owned(), "1000".to_owned())];
        assert!(text(NewNetwork { options: tight.into(), ..dual("n") }).contains("1280 to"));
        let whole = Ipv6 {
            subnet: "fd00:1::/64".parse().ok(),
            gateway: "fd00:1::ff".parse().ok(),
            ip_range: "fd00:1::a:0/112".parse().ok(),
            auxiliary: [("router".to_owned(), "fd00:1::a:1".parse().unwrap())].into(),
            ..Ipv6::default()
        };
        let made = net.create_network(NewNetwork { ipv6: Some(whole), ..NewNetwork::bridge("whole") }).unwrap();
        assert!(made.ipv6.as_ref().unwrap().configured && !made.configured);
        assert_eq!(text(given("n", "fd00:1::/80")), "invalid pool request: Pool overlaps with other one on this address space");
        let web = on(&net, "whole", "web");
        assert_eq!(web.endpoint.address6, "fd00:1::a:0/64".parse::<Subnet6>().ok());
        assert_eq!(on(&net, "whole", "next").endpoint.ipv6(), "fd00:1::a:2".parse().ok());
        assert!(inside(&web.netns, || run("ip", &["-6", "route"]).1).contains("default via fd00:1::ff dev eth0"));
        let wanted = |address: &str| {
            let request = EndpointRequest { address6: address.parse().ok(), ..EndpointRequest::new(Id::random(), "late", "whole") };
            net.attach(&Netns::create(&[]).unwrap(), &request)
        };
        let taken = wanted("fd00:1::a:0").unwrap_err();
        assert_eq!(taken.to_string(), "address fd00:1::a:0 is in use by container web");
        let before = on(&net, "whole", "before").ip();
        assert_eq!(u32::from(on(&net, "whole", "after").ip()), u32::from(before) + 1, "a refused endpoint keeps no address");
        assert!(matches!(wanted("fd00:2::1"), Err(Error::AddressUnusable { .. })));
        assert_eq!(wanted("fd00:1::77").unwrap().ipv6(), "fd00:1::77".parse().ok());
        net.close(true).unwrap();
    });
}

#[test]
fn the_default_network_may_have_ipv6_and_keeps_it() {
    if !has_ipv6() {
        return;
    }
    on_host("default6", |host| {
        let config = || NetConfig { default_ipv6: Some(None), ..host.config() };
        let net = Net::open(config()).unwrap();
        assert!(net.restore(Vec::new()).is_empty());
        let subnet = net.networks()[0].subnet6().unwrap();
        let web = container(&net, "web");
        assert!(subnet.contains(web.endpoint.ipv6().unwrap()));
        drop(net);
        let net = Net::open(config()).unwrap();
        assert_eq!(net.networks()[0].subnet6(), Some(subnet));
        assert!(net.restore(vec![web.endpoint.clone()]).is_empty());
        ip(&format!("link del {}", net.config().bridge));
        net.repair().unwrap();
        serve6(&web, 80, "web");
        assert!(talk(web.endpoint.ipv6().unwrap(), 80, "").unwrap().starts_with("web sees"), "the bridge has both addresses again");
        net.close(true).unwrap();
    });
}
