//! Networks that people make, and names on them, on the real kernel.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::*;
use net::{Driver, EndpointRequest, Error, Net, Netns, NewNetwork, Resolving};
use types::Id;

fn on_network(net: &Net, network: &str, name: &str) -> Container {
    let netns = Netns::create(&[]).unwrap();
    let endpoint = net.attach(&netns, &named(network, name)).unwrap();
    Container { netns, endpoint }
}

fn named(network: &str, name: &str) -> EndpointRequest {
    EndpointRequest { names: vec![name.to_owned(), format!("{name}-alias")], ..EndpointRequest::new(Id::random(), name, network) }
}

fn new(name: &str, subnet: &str) -> NewNetwork {
    NewNetwork { subnet: subnet.parse().ok(), ..NewNetwork::bridge(name) }
}

/// Asks for the address of a name where containers ask: what came back, or its code.
fn resolve(name: &str, connected: bool) -> Result<Vec<Ipv4Addr>, u8> {
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let server = SocketAddr::from(([127, 0, 0, 11], 53));
    let mut answer = vec![0; 1024];
    if connected {
        let mut stream = TcpStream::connect(server).map_err(|_| 255)?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).map_err(|_| 252)?;
        let mut len = [0; 2];
        stream.read_exact(&mut len).map_err(|_| 253)?;
        answer.truncate(u16::from_be_bytes(len).into());
        stream.read_exact(&mut answer).unwrap();
    } else {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(&query, server).map_err(|_| 255)?;
        let (len, from) = socket.recv_from(&mut answer).map_err(|_| 254)?;
        assert_eq!(from, server, "answers come from where the question went");
        answer.truncate(len);
    }
    assert_eq!(&answer[..2], &[7, 7]);
    match answer[3] & 15 {
        0 => Ok(answer[query.len()..].chunks(16).map(|record| Ipv4Addr::from([record[12], record[13], record[14], record[15]])).collect()),
        code => Err(code),
    }
}

#[test]
fn networks_are_apart_and_internal_ones_closed() {
    on_host("apart", |host| {
        let net = host.open();
        let front = net.create_network(NewNetwork::bridge("front")).unwrap();
        let back = net.create_network(NewNetwork { internal: true, ..NewNetwork::bridge("back") }).unwrap();
        let alone = NewNetwork {
            options: [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())].into(),
            ..NewNetwork::bridge("alone")
        };
        net.create_network(alone).unwrap();
        let (web, peer, outsider) = (on_network(&net, "front", "web"), on_network(&net, "front", "peer"), container(&net, "outsider"));
        let (db, client) = (on_network(&net, "back", "db"), on_network(&net, back.id.short(), "client"));
        let (one, other) = (on_network(&net, "alone", "one"), on_network(&net, "alone", "other"));
        for (served, name) in [(&web, "web"), (&db, "db"), (&outsider, "outsider"), (&one, "one")] {
            served.serve_tcp(80, name);
        }
        let outside = inside(&host.outside, || TcpListener::bind((OUTSIDE, 7000)).unwrap());
        assert_eq!(inside(&peer.netns, || talk(web.ip(), 80, "")).unwrap(), format!("web sees {}\n", peer.ip()));
        assert_eq!(inside(&client.netns, || talk(db.ip(), 80, "")).unwrap(), format!("db sees {}\n", client.ip()));
        inside(&web.netns, || TcpStream::connect((OUTSIDE, 7000)).unwrap());
        assert_eq!(outside.accept().unwrap().1.ip(), IpAddr::from(HOST), "the world sees the host");
        // From one bridge to another there is no way, nor out of the internal one, whatever routes somebody sets.
        assert!(inside(&web.netns, || talk(outsider.ip(), 80, "")).is_err());
        assert!(inside(&outsider.netns, || talk(web.ip(), 80, "")).is_err());
        assert!(inside(&other.netns, || talk(one.ip(), 80, "")).is_err());
        inside(&client.netns, || {
            assert!(!run("ip", &["route"]).1.contains("default"));
            ip(&format!("route add default via {}", client.endpoint.gateway.unwrap()));
            assert!(talk(web.ip(), 80, "").is_err());
            assert!(TcpStream::connect_timeout(&(OUTSIDE, 7000).into(), Duration::from_secs(1)).is_err());
        });
        // What is flushed comes back with every bridge in its place.
        if has_nft() {
            nft("flush ruleset");
            eventually("isolation", || inside(&outsider.netns, || talk(web.ip(), 80, "")).is_err());
            assert!(inside(&peer.netns, || talk(web.ip(), 80, "")).is_ok());
        }
        let busy = net.remove_network("front").unwrap_err().to_string();
        assert!(busy.starts_with("error while removing network: network front has active endpoints (name:"), "{busy}");
        for endpoint in [&web, &peer, &outsider, &db, &client, &one, &other] {
            net.release(&endpoint.endpoint.id).unwrap();
        }
        let bridge = front.bridge.clone().unwrap();
        assert!(run("ip", &["link", "show", &bridge]).0);
        net.remove_network("front").unwrap();
        assert!(!run("ip", &["link", "show", &bridge]).0);
        assert!(matches!(net.remove_network("front"), Err(Error::NoSuchNetwork { .. })));
        net.close(true).unwrap();
        assert!(!run("ip", &["-o", "link"]).1.contains("br-"), "all bridges go with the engine");
    });
}

#[test]
fn requests_are_checked() {
    on_host("checked", |host| {
        let net = host.open();
        let made = net.create_network(NewNetwork {
            gateway: "10.99.0.9".parse().ok(),
            ip_range: "10.99.0.64/26".parse().ok(),
            auxiliary: [("router".to_owned(), Ipv4Addr::new(10, 99, 0, 65))].into(),
            options: [
                ("com.docker.network.bridge.name".to_owned(), "mine0".to_owned()),
                ("com.docker.network.driver.mtu".to_owned(), "1400".to_owned()),
            ]
            .into(),
            ..new("full", "10.99.0.0/24")
        });
        assert_eq!(made.unwrap().bridge.as_deref(), Some("mine0"));
        let web = on_network(&net, "full", "web");
        assert_eq!(web.ip().octets()[3], 64);
        assert_eq!(on_network(&net, "full", "next").ip().octets()[3], 66);
        let shown = inside(&web.netns, || run("ip", &["-o", "link", "show", "eth0"]).1 + &run("ip", &["route"]).1);
        assert!(shown.contains("mtu 1400") && shown.contains("default via 10.99.0.9"), "{shown}");
        let text = |new: NewNetwork| net.create_network(new).unwrap_err().to_string();
        assert_eq!(text(new("full", "10.98.0.0/24")), "network with name full already exists");
        assert_eq!(text(new("other", "10.99.0.0/16")), "invalid pool request: Pool overlaps with other one on this address space");
        assert_eq!(text(new("host", "10.98.0.0/24")), "operation is not permitted on predefined host network ");
        assert_eq!(text(new("n", "10.98.0.5/24")), "invalid subnet 10.98.0.5/24: it should be 10.98.0.0/24");
        let gateway = NewNetwork { gateway: "10.97.0.1".parse().ok(), ..new("n", "10.98.0.0/24") };
        assert_eq!(text(gateway), "no matching subnet for gateway 10.97.0.1");
        assert!(text(new("n", "198.51.100.0/24")).contains("overlaps"), "a subnet of the host's own");
        assert!(text(NewNetwork { options: [("x".to_owned(), "y".to_owned())].into(), ..new("n", "10.98.0.0/24") }).contains("not served"));
        assert!(text(new("a b", "10.98.0.0/24")).contains("invalid network name"));
        let parentless =
            NewNetwork { driver: Driver::Macvlan, options: [("parent".to_owned(), "nope0".to_owned())].into(), ..new("m", "10.98.0.0/24") };
        assert!(text(parentless).contains("nope0"));
        assert_eq!(net.networks().len(), 4);
        net.close(true).unwrap();
    });
}

#[test]
fn names_resolve_on_networks_and_outlive_engine_and_netd() {
    on_host("names", |host| {
        let net = host.open();
        let front = net.create_network(NewNetwork::bridge("front")).unwrap();
        net.create_network(NewNetwork::bridge("back")).unwrap();
        // A server of the world: every name is at 203.0.113.5, and it counts who asks.
        let asked = inside(&host.outside, || UdpSocket::bind((OUTSIDE, 53)).unwrap());
        let world = asked.try_clone().unwrap();
        let (sender, questions) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, peer)) = world.recv_from(&mut buffer) {
                let mut answer = buffer[..len].to_vec();
                (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 5]);
                let _ = world.send_to(&answer, peer);
                if sender.send(String::from_utf8_lossy(&buffer[12..len]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let (web, db, lone) = (on_network(&net, "front", "web"), on_network(&net, "front", "db"), on_network(&net, "back", "lone"));
        let resolving = Resolving { servers: Some(vec![OUTSIDE.into()]), links: vec![("cache".to_owned(), "db".to_owned())] };
        net.serve_names(&web.netns, &web.endpoint.container, resolving.clone()).unwrap();
        net.serve_names(&lone.netns, &lone.endpoint.container, Resolving { servers: Some(Vec::new()), ..Resolving::default() }).unwrap();
        let in_web = |name: &str, connected: bool| inside(&web.netns, || resolve(name, connected));
        for name in ["db", "DB", "db-alias", "db.front", "cache"] {
            assert_eq!((in_web(name, false), in_web(name, true)), (Ok(vec![db.ip()]), Ok(vec![db.ip()])), "{name}");
        }
        assert_eq!(in_web("example.org", false), Ok(vec![Ipv4Addr::new(203, 0, 113, 5)]));
        assert_eq!(in_web("lone", false), Err(3), "a name of another network goes nowhere");
        assert_eq!(inside(&lone.netns, || resolve("web", false)), Err(3));
        assert_eq!(inside(&lone.netns, || resolve("example.org", false)), Err(2), "nobody to ask");
        assert_eq!(questions.try_iter().count(), 1, "only the world's name left this host");
        // Names come and go with endpoints, and follow a new name.
        let late = on_network(&net, "front", "late");
        assert_eq!(in_web("late", false), Ok(vec![late.ip()]));
        net.rename(&late.endpoint.container, "later");
        assert_eq!((in_web("later", false), in_web("late-alias", false)), (Ok(vec![late.ip()]), Ok(vec![late.ip()])));
        net.release(&late.endpoint.id).unwrap();
        assert_eq!(in_web("later", false), Ok(vec![Ipv4Addr::new(203, 0, 113, 5)]), "nobody's name any more");
        // A second network brings its names, and takes them along.
        let second = EndpointRequest { ifname: Some("eth1".to_owned()), default_route: false, ..named("back", "web") };
        let second = EndpointRequest { container: web.endpoint.container.clone(), ..second };
        let second = net.attach(&web.netns, &second).unwrap();
        net.refresh_names(&web.endpoint.container).unwrap();
        assert_eq!(in_web("lone", false), Ok(vec![lone.ip()]));
        net.set_default_route(&web.netns, &second, false).unwrap();
        assert!(inside(&web.netns, || run("ip", &["route"]).1).contains(&format!("default via {} dev eth1", second.gateway.unwrap())));
        net.detach(&web.netns, &second).unwrap();
        net.refresh_names(&web.endpoint.container).unwrap();
        assert_eq!(in_web("lone", false), Err(3));
        assert!(!inside(&web.netns, || run("ip", &["-o", "link"]).1).contains("eth1"));
        // A netd that is killed has a successor that knows everything.
        let [pid] = netd_processes(&host.run_dir)[..] else { panic!("one netd") };
        assert!(run("kill", &["-9", &pid.to_string()]).0);
        eventually("names after netd's death", || netd_processes(&host.run_dir) != [pid] && in_web("db", false) == Ok(vec![db.ip()]));
        eventually("the other container's names", || inside(&lone.netns, || resolve("lone", false)) == Ok(vec![lone.ip()]));
        // Without an engine names resolve all the same, and the next engine takes over.
        drop(net);
        assert_eq!(in_web("db", false), Ok(vec![db.ip()]));
        let net = Net::open(host.config()).unwrap();
        assert_eq!(net.restore_networks(vec![(*front).clone()]).len(), 0);
        assert_eq!(net.restore(vec![web.endpoint.clone(), db.endpoint.clone()]).len(), 0);
        assert_eq!(in_web("db", false), Ok(vec![db.ip()]));
        net.serve_names(&web.netns, &web.endpoint.container, resolving).unwrap();
        let left = net.reconcile().unwrap();
        assert_eq!(left.held, [lone.endpoint.container.to_string()]);
        assert!(left.links.iter().any(|name| name.starts_with("br-")), "the bridge of a network that nobody knows: {left:?}");
        assert_eq!((in_web("db", false), in_web("cache", true)), (Ok(vec![db.ip()]), Ok(vec![db.ip()])));
        net.forget_names(&web.endpoint.container).unwrap();
        assert!(in_web("db", true).is_err());
        net.close(true).unwrap();
    });
}

#[test]
fn floods_and_noise_do_not_keep_names_from_resolving() {
    on_host("flood", |host| {
        let net = host.open();
        net.create_network(NewNetwork::bridge("front")).unwrap();
        let (web, db) = (on_network(&net, "front", "web"), on_network(&net, "front", "db"));
        // Nobody answers at the first server; the second one is reached over IPv6, by datagrams and connections.
        let second: IpAddr = "2001:db8::2".parse().unwrap();
        let udp = inside(&host.outside, || UdpSocket::bind((second, 53)).unwrap());
        let tcp = inside(&host.outside, || TcpListener::bind((second, 53)).unwrap());
        let answer = |query: &[u8]| {
            let mut answer = query.to_vec();
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 5]);
            answer
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&answer(&buffer[..len]), peer);
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut len = [0; 2];
                if stream.read_exact(&mut len).is_ok() {
                    let mut query = vec![0; u16::from_be_bytes(len).into()];
                    if stream.read_exact(&mut query).is_ok() {
                        let answer = answer(&query);
                        let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
                    }
                }
            }
        });
        let closed: IpAddr = "198.51.100.2".parse().unwrap();
        let resolving = Resolving { servers: Some(vec![closed, second]), links: Vec::new() };
        net.serve_names(&web.netns, &web.endpoint.container, resolving).unwrap();
        let in_web = |name: &str, connected: bool| inside(&web.netns, || resolve(name, connected));
        let world = Ok(vec![Ipv4Addr::new(203, 0, 113, 5)]);
        assert_eq!((in_web("example.org", false), in_web("example.org", true)), (world.clone(), world));
        let server = SocketAddr::from(([127, 0, 0, 11], 53));
        inside(&web.netns, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut seed: u64 = 7;
            for round in 0..20_000_usize {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut packet = vec![
                    1,
                    (seed >> 16) as u8,
                    1,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    4,
                    b'n',
                    b'a',
                    b'm',
                    b'e',
                    3,
                    b'o',
                    b'r',
                    b'g',
                    0,
                    0,
                    1,
                    0,
                    1,
                ];
                if round % 2 == 0 {
                    let place = (seed >> 33) as usize % packet.len();
                    packet[place] = (seed >> 24) as u8;
                    packet.truncate(1 + (seed >> 40) as usize % 26);
                }
                // A full buffer is the kernel's way to bound it.
                let _ = socket.send_to(&packet, server);
            }
            // Connections that say nothing, or half of something.
            let idle: Vec<_> = (0..80).filter_map(|_| TcpStream::connect(server).ok()).collect();
            for mut stream in idle.iter().take(40) {
                let _ = stream.write_all(&[0, 200, 1]);
            }
        });
        eventually("a name after the flood", || in_web("db", false) == Ok(vec![db.ip()]));
        eventually("a name over a connection", || in_web("db", true) == Ok(vec![db.ip()]));
        net.close(true).unwrap();
    });
}

#[test]
fn macvlan_containers_are_neighbours_on_the_wire() {
    on_host("macvlan", |host| {
        let net = host.open();
        let wire = NewNetwork {
            driver: Driver::Macvlan,
            gateway: Some(OUTSIDE),
            options: [("parent".to_owned(), "up0".to_owned())].into(),
            ..new("wire", "198.51.100.0/24")
        };
        net.create_network(wire).unwrap();
        let netns = Netns::create(&[]).unwrap();
        let mac = "02:00:00:00:00:77".parse().ok();
        let request = EndpointRequest { address: "198.51.100.77".parse().ok(), mac, ..named("wire", "web") };
        let endpoint = match net.attach(&netns, &request) {
            Err(error) if types::error::chain(&error).contains("not supported") => {
                eprintln!("SKIP: this kernel has no macvlan: {error}");
                return net.close(true).unwrap();
            }
            attached => attached.unwrap(),
        };
        let web = Container { netns, endpoint };
        web.serve_tcp(80, "web");
        assert_eq!(inside(&host.outside, || talk(web.ip(), 80, "")).unwrap(), format!("web sees {OUTSIDE}\n"));
        assert!(inside(&host.outside, || run("ip", &["neigh"]).1).contains("02:00:00:00:00:77"));
        net.detach(&web.netns, &web.endpoint).unwrap();
        assert!(!inside(&web.netns, || run("ip", &["-o", "link"]).1).contains("eth0"));
        net.remove_network("wire").unwrap();
        net.close(true).unwrap();
    });
}

/// Whether macvlan interfaces can be made here; says so if not.
fn attached(outcome: Result<net::Endpoint, Error>) -> Option<net::Endpoint> {
    match outcome {
        Err(Error::NoSuchKind { kind, .. }) => {
            eprintln!("SKIP: this kernel has no {kind}");
            None
        }
        outcome => Some(outcome.unwrap()),
    }
}

fn on_wire(name: &str, subnet: &str, options: &[(&str, &str)]) -> NewNetwork {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    NewNetwork { driver: Driver::Macvlan, options, ..new(name, subnet) }
}

#[test]
fn macvlan_modes_keep_containers_apart_and_the_host_may_be_let_in() {
    on_host("macvlan-modes", |host| {
        let net = host.open();
        let join = |network: &str, name: &str| -> Option<Container> {
            let netns = Netns::create(&[]).unwrap();
            let endpoint = attached(net.attach(&netns, &named(network, name)))?;
            Some(Container { netns, endpoint })
        };
        let subnet = format!("{}/24", Ipv4Addr::from(u32::from(HOST) & 0xffff_ff00));
        let wire = |mode: &str| NewNetwork {
            gateway: Some(OUTSIDE),
            ip_range: "198.51.100.64/26".parse().ok(),
            ..on_wire(&format!("m-{mode}"), &subnet, &[("parent", "up0"), ("macvlan_mode", mode)])
        };
        for (mode, neighbours) in [("bridge", true), ("private", false), ("vepa", false)] {
            let network = net.create_network(wire(mode)).unwrap();
            let Some(web) = join(&network.name, "web") else { return net.close(true).unwrap() };
            let peer = join(&network.name, "peer").unwrap();
            web.serve_tcp(80, "web");
            assert_eq!(inside(&peer.netns, || talk(web.ip(), 80, "")).is_ok(), neighbours, "{mode}");
            assert!(inside(&host.outside, || talk(web.ip(), 80, "")).is_ok(), "{mode}: the wire");
            assert!(talk(web.ip(), 80, "").is_err(), "{mode}: the host has no way to them by itself");
            for one in [web, peer] {
                net.detach(&one.netns, &one.endpoint).unwrap();
            }
            net.remove_network(&network.name).unwrap();
        }
        // Passed through: the parent is one container's alone, with its hardware address.
        net.create_network(wire("passthru")).unwrap();
        let only = join("m-passthru", "only").unwrap();
        let parent = run("ip", &["-o", "link", "show", "up0"]).1;
        assert!(parent.contains(&only.endpoint.mac.to_string()), "{parent} {}", only.endpoint.mac);
        assert!(net.attach(&Netns::create(&[]).unwrap(), &named("m-passthru", "second")).is_err());
        net.detach(&only.netns, &only.endpoint).unwrap();
        net.remove_network("m-passthru").unwrap();
        // With host_access the host and its containers reach each other, from the host's own address.
        let open = NewNetwork {
            ip_range: "198.51.100.64/26".parse().ok(),
            ..on_wire("open", &subnet, &[("parent", "up0"), ("host_access", "true")])
        };
        let open = net.create_network(open).unwrap();
        let web = join("open", "web").unwrap();
        web.serve_tcp(80, "web");
        assert_eq!(talk(web.ip(), 80, "").unwrap(), format!("web sees {HOST}\n"));
        assert_eq!(net.host_address_for(&web.endpoint), Some(HOST.into()));
        let own = TcpListener::bind((HOST, 7070)).unwrap();
        inside(&web.netns, || TcpStream::connect((HOST, 7070)).unwrap());
        assert_eq!(own.accept().unwrap().1.ip(), IpAddr::from(web.ip()));
        // An engine that comes back finds it as it was.
        drop(net);
        let net = Net::open(host.config()).unwrap();
        assert!(net.restore_networks(vec![(*open).clone()]).is_empty());
        assert!(net.restore(vec![web.endpoint.clone()]).is_empty());
        assert!(net.reconcile().unwrap().links.is_empty());
        assert!(talk(web.ip(), 80, "").is_ok());
        net.detach(&web.netns, &web.endpoint).unwrap();
        assert!(!run("ip", &["route"]).1.contains(&web.ip().to_string()), "its route goes with it");
        net.remove_network("open").unwrap();
        assert!(!run("ip", &["-o", "link"]).1.contains("mv-"));
        net.close(true).unwrap();
    });
}

#[test]
fn what_a_kernel_lacks_is_said() {
    on_host("lacks", |host| {
        let net = host.open();
        let ipvlan = NewNetwork { driver: Driver::Ipvlan, ..on_wire("ipv", "10.98.0.0/24", &[("parent", "up0")]) };
        match net.create_network(ipvlan.clone()) {
            Ok(_) => {
                let other = NewNetwork { name: "other".to_owned(), subnet: "10.97.0.0/24".parse().ok(), ..ipvlan };
                let options = [("parent", "up0"), ("ipvlan_mode", "l3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
                let error = net.create_network(NewNetwork { options: options.into(), ..other }).unwrap_err().to_string();
                assert!(error.contains("mode l2"), "{error}");
            }
            Err(error) => {
                assert_eq!(error.to_string(), "this kernel has no ipvlan interfaces: network ipv cannot be made");
                assert!(matches!(error, Error::NoSuchKind { kind: "ipvlan", .. }));
            }
        }
        match net.create_network(on_wire("vlan", "10.96.0.0/24", &[("parent", "up0.20")])) {
            Ok(_) => {
                assert!(run("ip", &["link", "show", "up0.20"]).0);
                net.remove_network("vlan").unwrap();
                assert!(!run("ip", &["link", "show", "up0.20"]).0);
            }
            Err(error) => assert!(matches!(error, Error::NoSuchKind { kind: "vlan", .. }), "{error}"),
        }
        let text = |new: NewNetwork| net.create_network(new).unwrap_err().to_string();
        assert!(text(on_wire("m", "10.95.0.0/24", &[("parent", "up0"), ("macvlan_mode", "x")])).contains("passthru"));
        assert!(
            text(on_wire("m", "10.95.0.0/24", &[("parent", "up0"), ("macvlan_mode", "vepa"), ("host_access", "1")]))
                .contains("mode bridge")
        );
        assert!(text(on_wire("m", "10.95.0.0/24", &[("parent", "up0"), ("host_access", "10.94.0.1")])).contains("10.94.0.1"));
        assert!(!run("ip", &["-o", "link"]).1.contains("mv-"), "a refused network leaves nothing");
        assert_eq!(net.networks().iter().filter(|network| network.is_user_defined() && network.name != "ipv").count(), 0);
        net.close(true).unwrap();
    });
}
