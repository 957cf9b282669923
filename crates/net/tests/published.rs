//! Containers' networks on the real kernel, on hosts made of namespaces.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::{Duration, Instant};

use common::*;
use net::{EndpointRequest, Error, Net, Netns, Protocol};
use types::Id;

#[test]
fn containers_get_addresses_a_way_out_and_nothing_in() {
    on_host("out", |host| {
        let net = host.open();
        let (web, other) = (container(&net, "web"), container(&net, "other"));
        assert_ne!(web.ip(), other.ip());
        web.serve_tcp(80, "web");
        let outside = inside(&host.outside, || TcpListener::bind((OUTSIDE, 7000)).unwrap());
        // To each other, to the host and out; the world sees the host's address.
        let seen = inside(&other.netns, || talk(web.ip(), 80, "")).unwrap();
        assert_eq!(seen, format!("web sees {}\n", other.ip()));
        assert_eq!(talk(web.ip(), 80, "x").unwrap(), format!("web sees {}\nx", net.host_address()));
        let _out = inside(&web.netns, || std::net::TcpStream::connect((OUTSIDE, 7000)).unwrap());
        assert_eq!(outside.accept().unwrap().1.ip(), IpAddr::from(HOST));
        // From outside only what is published, even for somebody who routes the subnet to us.
        inside(&host.outside, || {
            ip(&format!("route add {} via {HOST}", net.networks()[0].subnet.unwrap()));
            assert!(talk(web.ip(), 80, "").is_err());
        });
        net.release(&web.endpoint.id).unwrap();
        net.release(&other.endpoint.id).unwrap();
        net.close(true).unwrap();
    });
}

#[test]
fn published_ports_answer_from_everywhere() {
    on_host("everywhere", |host| {
        let net = host.open();
        let (mut web, other) = (container(&net, "web"), container(&net, "other"));
        web.serve_tcp(80, "web");
        let bindings = net.publish(&mut web.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
        assert_eq!(bindings.iter().map(|binding| binding.host_ip.to_string()).collect::<Vec<_>>(), ["0.0.0.0", "::"]);
        let p = bindings[0].host_port;
        assert_eq!(bindings[1].host_port, p);
        // Who comes from outside keeps its address; localhost and hairpins come back through the bridge.
        let gateway = net.host_address();
        assert_eq!(inside(&host.outside, || talk(HOST, p, "a")).unwrap(), format!("web sees {OUTSIDE}\na"));
        assert_eq!(talk(Ipv4Addr::LOCALHOST, p, "b").unwrap(), format!("web sees {gateway}\nb"));
        assert_eq!(talk(HOST, p, "c").unwrap(), format!("web sees {HOST}\nc"));
        assert_eq!(talk(gateway, p, "d").unwrap(), format!("web sees {gateway}\nd"));
        assert_eq!(inside(&web.netns, || talk(HOST, p, "e")).unwrap(), format!("web sees {gateway}\ne"));
        assert_eq!(inside(&other.netns, || talk(gateway, p, "f")).unwrap(), format!("web sees {gateway}\nf"));
        // IPv6 goes through netd.
        assert_eq!(talk(Ipv6Addr::LOCALHOST, p, "g").unwrap(), format!("web sees {gateway}\ng"));
        let six: IpAddr = HOST6.parse().unwrap();
        let long = "h".repeat(3_000_000);
        let answer = inside(&host.outside, || talk(six, p, &long)).unwrap();
        assert_eq!(answer.len(), format!("web sees {gateway}\n").len() + long.len());
        // Nobody reaches the host's own loopback through the bridge.
        let private = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let reached = inside(&other.netns, || {
            ip("route add 127.0.0.9 via 127.0.0.1 dev lo");
            talk(gateway, private.local_addr().unwrap().port(), "")
        });
        assert!(reached.is_err());
        net.release(&web.endpoint.id).unwrap();
        assert!(talk(Ipv4Addr::LOCALHOST, p, "").is_err() && talk(Ipv6Addr::LOCALHOST, p, "").is_err());
        net.close(true).unwrap();
    });
}

#[test]
fn datagrams_find_their_way_and_forget_the_dead() {
    on_host("udp", |host| {
        let net = host.open();
        let mut first = container(&net, "first");
        first.serve_udp(53, "first");
        let p = net.publish(&mut first.endpoint, &[port(Protocol::Udp, None, 0..=0, 53)]).unwrap()[0].host_port;
        let gateway = net.host_address();
        assert_eq!(inside(&host.outside, || ask_udp(HOST, p, "a")).unwrap(), format!("first sees {OUTSIDE} a"));
        assert_eq!(ask_udp(Ipv4Addr::LOCALHOST, p, "b").unwrap(), format!("first sees {gateway} b"));
        assert_eq!(ask_udp(Ipv6Addr::LOCALHOST, p, "c").unwrap(), format!("first sees {gateway} c"));
        let six: IpAddr = HOST6.parse().unwrap();
        assert_eq!(inside(&host.outside, || ask_udp(six, p, "d")).unwrap(), format!("first sees {gateway} d"));
        // One client that never stops talking meets the successor.
        let client = inside(&host.outside, || std::net::UdpSocket::bind((OUTSIDE, 0)).unwrap());
        client.connect((HOST, p)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let ask = || {
            let mut buffer = [0; 256];
            client.send(b"e").ok()?;
            client.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        assert!(ask().unwrap().starts_with("first"));
        net.release(&first.endpoint.id).unwrap();
        let mut second = container(&net, "second");
        second.serve_udp(53, "second");
        net.publish(&mut second.endpoint, &[port(Protocol::Udp, None, p..=p, 53)]).unwrap();
        eventually("an answer of the second", || ask().is_some_and(|text| text.starts_with("second")));
        // Without translation, and without an engine that would repair it, netd passes them on.
        net.close(false).unwrap();
        if has_nft() {
            nft("flush ruleset");
            assert_eq!(ask_udp(Ipv4Addr::LOCALHOST, p, "f").unwrap(), format!("second sees {gateway} f"));
            assert_eq!(inside(&host.outside, || ask_udp(HOST, p, "g")).unwrap(), format!("second sees {gateway} g"));
        }
        net.close(true).unwrap();
    });
}

#[test]
fn ports_of_one_address_ranges_and_conflicts() {
    on_host("conflicts", |host| {
        let net = host.open();
        let (mut web, mut late) = (container(&net, "web"), container(&net, "late"));
        web.serve_tcp(80, "web");
        net.publish(&mut web.endpoint, &[port(Protocol::Tcp, Some("127.0.0.1"), 8080..=8080, 80)]).unwrap();
        assert!(talk(Ipv4Addr::LOCALHOST, 8080, "").unwrap().starts_with("web"));
        assert!(talk(HOST, 8080, "").is_err() && inside(&host.outside, || talk(HOST, 8080, "")).is_err());
        // Nor by a packet from the wire that claims to go to 127.0.0.1.
        inside(&host.outside, || {
            ip("route del local 127.0.0.0/8 dev lo table local");
            ip(&format!("route add 127.0.0.1/32 via {HOST} dev eth0 src {OUTSIDE}"));
            assert!(talk(Ipv4Addr::LOCALHOST, 8080, "").is_err());
        });
        let taken = net.publish(&mut late.endpoint, &[port(Protocol::Tcp, None, 8080..=8080, 80)]).unwrap_err();
        assert_eq!(taken.to_string(), "bind for 0.0.0.0:8080/tcp failed: port is already allocated to container web");
        let stranger = TcpListener::bind("0.0.0.0:8081").unwrap();
        let taken = net
            .publish(&mut late.endpoint, &[port(Protocol::Tcp, None, 9000..=9000, 80), port(Protocol::Tcp, None, 8081..=8081, 80)])
            .unwrap_err();
        let text = taken.to_string();
        assert!(text.contains("address already in use") && text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(late.endpoint.bindings.is_empty(), "all or none");
        // A program that another test starts just now may hold a copy of the descriptor until it is executed.
        eventually("port 9000 to be free", || TcpListener::bind("0.0.0.0:9000").is_ok());
        // The next free one of a range, and a different address beside a taken one.
        let got = net.publish(&mut late.endpoint, &[port(Protocol::Tcp, None, 8080..=8085, 80)]).unwrap();
        assert_eq!(got[0].host_port, 8082);
        let own = HOST.to_string();
        net.publish(&mut late.endpoint, &[port(Protocol::Tcp, Some(&own), 8080..=8080, 80)]).unwrap();
        late.serve_tcp(80, "late");
        assert!(inside(&host.outside, || talk(HOST, 8080, "")).unwrap().starts_with("late"));
        assert!(talk(Ipv4Addr::LOCALHOST, 8080, "").unwrap().starts_with("web"));
        drop(stranger);
        // What is given back can be had at once, also after proxied connections.
        assert!(talk(Ipv6Addr::LOCALHOST, 8082, "x").unwrap().ends_with('x'));
        net.release(&late.endpoint.id).unwrap();
        net.publish(&mut web.endpoint, &[port(Protocol::Tcp, None, 8082..=8082, 80)]).unwrap();
        assert!(talk(HOST, 8082, "").unwrap().starts_with("web"));
        net.close(true).unwrap();
    });
}

#[test]
fn addresses_are_given_as_asked_or_refused() {
    on_host("addresses", |host| {
        let mut config = host.config();
        config.bip = Some("10.77.0.1/29".parse().unwrap());
        let net = Net::open(config).unwrap();
        net.restore(Vec::new());
        let netns = Netns::create(&[("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())]).unwrap();
        assert_eq!(inside(&netns, || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap()), "0\n");
        let request = |name: &str| EndpointRequest::new(Id::random(), name, "bridge");
        let fixed = EndpointRequest {
            address: Some("10.77.0.5".parse().unwrap()),
            mac: Some("02:00:00:00:00:05".parse().unwrap()),
            ..request("fixed")
        };
        let endpoint = net.attach(&netns, &fixed).unwrap();
        let shown = inside(&netns, || {
            run("ip", &["-o", "addr", "show", "eth0"]).1 + &run("ip", &["-o", "link", "show", "eth0"]).1 + &run("ip", &["route"]).1
        });
        for part in ["10.77.0.5/29", "02:00:00:00:00:05", "default via 10.77.0.1 dev eth0"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains("fe80"), "{shown}");
        let again = EndpointRequest { address: fixed.address, ..request("again") };
        let error = net.attach(&Netns::create(&[]).unwrap(), &again).unwrap_err();
        assert_eq!(error.to_string(), "address 10.77.0.5 is in use by container fixed");
        let elsewhere = EndpointRequest { address: Some("10.78.0.5".parse().unwrap()), ..request("x") };
        assert!(matches!(net.attach(&netns, &elsewhere), Err(Error::AddressUnusable { .. })));
        assert!(matches!(net.attach(&netns, &EndpointRequest::new(Id::random(), "x", "none")), Err(Error::NotAttachable { .. })));
        assert!(matches!(net.attach(&netns, &EndpointRequest::new(Id::random(), "x", "nosuch")), Err(Error::NoSuchNetwork { .. })));
        // A failure inside the namespace leaves neither lease nor interface: eth0 is there already.
        assert!(net.attach(&netns, &request("second")).is_err());
        assert_eq!(net.endpoints(&net.network("bridge").unwrap().id).len(), 1);
        let rest: Vec<_> = (0..4).map(|_| container(&net, "filler")).collect();
        let error = net.attach(&Netns::create(&[]).unwrap(), &request("late")).unwrap_err();
        assert!(matches!(error, Error::AddressesExhausted { capacity: 5, .. }), "{error}");
        net.release(&endpoint.id).unwrap();
        net.release(&endpoint.id).unwrap();
        assert_eq!(container(&net, "late").ip(), Ipv4Addr::new(10, 77, 0, 5));
        drop(rest);
        net.close(true).unwrap();
        drop(netns);
        eventually("a host without our interfaces", || {
            !run("ip", &["-o", "link"]).1.contains(": ve") && !run("ip", &["link"]).1.contains("cais")
        });
    });
}

#[test]
fn a_bridge_of_the_administrator_is_used_and_stays() {
    on_host("own-bridge", |host| {
        ip("link add br-own type bridge");
        ip("addr add 10.99.0.1/24 dev br-own");
        let mut config = host.config();
        config.bridge = "br-own".to_owned();
        let net = Net::open(config).unwrap();
        net.restore(Vec::new());
        let web = container(&net, "web");
        assert_eq!(web.ip(), Ipv4Addr::new(10, 99, 0, 2));
        web.serve_tcp(80, "web");
        assert!(talk(web.ip(), 80, "").is_ok());
        net.close(true).unwrap();
        assert!(run("ip", &["-o", "addr", "show", "br-own"]).1.contains("10.99.0.1/24"));
        // What is no bridge cannot be used as one, and a bad subnet says what it meets.
        let mut config = host.config();
        config.bridge = "up0".to_owned();
        assert!(Net::open(config).unwrap_err().to_string().contains("use as a bridge the interface up0"));
        let mut config = host.config();
        config.bip = Some("198.51.100.129/25".parse().unwrap());
        assert_eq!(Net::open(config).unwrap_err().to_string(), "subnet 198.51.100.128/25 overlaps 198.51.100.1/24 of up0 of this host");
        assert!(!run("ip", &["link"]).1.contains("cais"));
    });
}

#[test]
fn the_proxy_bears_crowds_and_silence() {
    on_host("crowd", |host| {
        let net = host.open();
        let (mut web, mut empty) = (container(&net, "web"), container(&net, "empty"));
        web.serve_tcp(80, "web");
        let p = net.publish(&mut web.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap()[0].host_port;
        let q = net.publish(&mut empty.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap()[0].host_port;
        let words = "w".repeat(200_000);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..100).map(|_| scope.spawn(|| talk(Ipv6Addr::LOCALHOST, p, &words).unwrap().len())).collect();
            let long = clients.into_iter().map(|client| client.join().unwrap()).filter(|len| *len > words.len()).count();
            assert_eq!(long, 100);
        });
        // Nobody listens in the container: refused where the kernel translates, reset where netd passes on.
        assert_eq!(talk(Ipv4Addr::LOCALHOST, q, "").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let error = talk(Ipv6Addr::LOCALHOST, q, "x").unwrap_err().kind();
        assert!(
            matches!(error, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::NotConnected | std::io::ErrorKind::BrokenPipe),
            "{error:?}"
        );
        net.close(true).unwrap();
    });
}

#[test]
fn many_at_once_leave_nothing() {
    on_host("many", |host| {
        let net = host.open();
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let net = &net;
                scope.spawn(move || {
                    for round in 0..10 {
                        let mut container = container(net, &format!("c{worker}-{round}"));
                        let ports = [port(Protocol::Tcp, None, 0..=0, 80), port(Protocol::Udp, None, 0..=0, 80)];
                        net.publish(&mut container.endpoint, &ports).unwrap();
                        if round % 3 == 0 {
                            net.repair().unwrap();
                        }
                        net.release(&container.endpoint.id).unwrap();
                    }
                });
            }
        });
        assert!(net.endpoints(&net.network("bridge").unwrap().id).is_empty());
        assert_eq!(net.reconcile().unwrap().held, [] as [String; 0]);
        if has_nft() {
            let table = nft(&format!("list table inet {}", net.config().table));
            assert!(!table.contains("tcp . "), "{table}");
        }
        // Two hundred ports of one container are one transaction.
        let mut wide = container(&net, "wide");
        let ports: Vec<_> = (0..200).map(|offset| port(Protocol::Tcp, None, 0..=0, 1000 + offset)).collect();
        let start = Instant::now();
        net.publish(&mut wide.endpoint, &ports).unwrap();
        eprintln!("200 ports published in {:?}", start.elapsed());
        net.release(&wide.endpoint.id).unwrap();
        net.close(true).unwrap();
    });
}

#[test]
fn a_start_takes_less_than_its_share_of_the_budget() {
    on_host("speed", |host| {
        let net = host.open();
        let mut warm = container(&net, "warm");
        net.publish(&mut warm.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
        let mut rounds: Vec<[Duration; 4]> = (0..50)
            .map(|_| {
                let start = Instant::now();
                let netns = Netns::create(&[]).unwrap();
                let made = start.elapsed();
                let mut endpoint = net.attach(&netns, &EndpointRequest::new(Id::random(), "c", "bridge")).unwrap();
                let attached = start.elapsed();
                net.publish(&mut endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
                let published = start.elapsed();
                net.release(&endpoint.id).unwrap();
                [made, attached - made, published - attached, start.elapsed() - published]
            })
            .collect();
        for (step, name) in ["namespace", "attach", "publish", "release"].iter().enumerate() {
            rounds.sort_by_key(|round| round[step]);
            eprintln!("{name}: median {:?}, best {:?}", rounds[25][step], rounds[0][step]);
        }
        net.close(true).unwrap();
    });
}
