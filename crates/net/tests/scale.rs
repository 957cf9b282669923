//! Many of everything, on the real kernel: what a small limit would break.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::*;
use net::{EndpointRequest, Net, NetConfig, Netns, NewNetwork, Protocol};
use types::Id;

fn on(net: &Net, network: &str, name: &str) -> Container {
    let netns = Netns::create(&[]).unwrap();
    let endpoint = net.attach(&netns, &EndpointRequest::new(Id::random(), name, network)).unwrap();
    Container { netns, endpoint }
}

#[test]
fn a_network_has_more_containers_than_a_bridge_has_ports() {
    on_host("chained", |host| {
        let config = || NetConfig { bridge_ports_max: 3, ..host.config() };
        let net = Net::open(config()).unwrap();
        assert!(net.restore(Vec::new()).is_empty());
        let front = net.create_network(NewNetwork::bridge("front")).unwrap();
        let icc = [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())];
        let apart = net.create_network(NewNetwork { options: icc.into(), ..NewNetwork::bridge("apart") }).unwrap();
        let mut all: Vec<_> = (0..8).map(|number| on(&net, "front", &format!("c{number}"))).collect();
        assert_eq!(all.iter().map(|one| one.endpoint.slot).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 2, 2]);
        for (number, name) in [(0, "first"), (4, "middle"), (7, "last")] {
            all[number].serve_tcp(80, name);
        }
        let reach = |from: &Container, to: &Container| inside(&from.netns, || talk(to.ip(), 80, "")).is_ok();
        for from in &all {
            assert!(reach(from, &all[0]) && reach(from, &all[4]) && reach(from, &all[7]), "from {}", from.ip());
        }
        // Published, with the way out and back, from the farthest bridge.
        let last = &mut all[7];
        net.publish(&mut last.endpoint, &[port(Protocol::Tcp, None, 0..=0, 80)]).unwrap();
        let number = last.endpoint.bindings[0].host_port;
        assert_eq!(inside(&host.outside, || talk(HOST, number, "")).unwrap(), format!("last sees {OUTSIDE}\n"));
        // Who must not see neighbours does not see those of another bridge either.
        let alone: Vec<_> = (0..5).map(|number| on(&net, "apart", &format!("a{number}"))).collect();
        alone[0].serve_tcp(80, "one");
        alone[4].serve_tcp(80, "other");
        for from in [&alone[1], &alone[3]] {
            assert!(!reach(from, &alone[0]) && !reach(from, &alone[4]));
        }
        // A place that becomes free is taken first; an engine that comes back knows who is where.
        let gone = all.remove(1);
        net.detach(&gone.netns, &gone.endpoint).unwrap();
        drop(net);
        let net = Net::open(config()).unwrap();
        assert!(net.restore_networks(vec![(*front).clone(), (*apart).clone()]).is_empty());
        let endpoints = || all.iter().chain(&alone).map(|one| one.endpoint.clone()).collect::<Vec<_>>();
        assert!(net.restore(endpoints()).is_empty());
        assert!(net.reconcile().unwrap().links.is_empty(), "the further bridges are known");
        let late = on(&net, "front", "late");
        assert_eq!(late.endpoint.slot, 0);
        assert!(reach(&late, &all[6]));
        // What somebody removed is made anew with all its ports.
        let bridges = run("ip", &["-o", "link", "show", "type", "bridge"]).1;
        let name = |text: &str| text.split(": ").nth(1).unwrap_or_default().to_owned();
        let extensions: Vec<_> = bridges.lines().map(name).filter(|name| name.starts_with("bx-")).collect();
        assert_eq!(extensions.len(), 3, "{bridges}");
        ip(&format!("link del {}", extensions[0]));
        ip(&format!("link del {}", front.bridge.as_deref().unwrap()));
        net.repair().unwrap();
        for from in all.iter().chain([&late]) {
            assert!(reach(from, &all[0]) && reach(from, &all[6]), "after the repair, from {}", from.ip());
        }
        net.close(true).unwrap();
        let left = run("ip", &["-o", "link"]).1;
        assert!(!["bx-", "bu-", "bv-", "br-"].iter().any(|kind| left.contains(kind)), "{left}");
    });
}

#[test]
fn hundreds_of_networks_come_from_the_default_pools() {
    on_host("networks", |host| {
        let net = host.open();
        let mut subnets = BTreeSet::new();
        for number in 0..500 {
            let made = net.create_network(NewNetwork::bridge(format!("n{number}"))).unwrap();
            assert!(subnets.insert(made.subnet.unwrap().to_string()), "a subnet twice");
        }
        let web = on(&net, "n499", "web");
        web.serve_tcp(80, "web");
        assert!(talk(web.ip(), 80, "").unwrap().starts_with("web"));
        net.remove_network("n0").unwrap();
        // One by one the bridges would take the kernel a while; all at once they go with the test's host.
        net.close(false).unwrap();
    });
}

#[test]
fn ten_thousand_ports_are_published() {
    on_host("ports", |host| {
        let net = host.open();
        let mut containers: Vec<_> = (0..50).map(|number| container(&net, &format!("c{number}"))).collect();
        let mut first = None;
        for one in &mut containers {
            // At one address of the host, of its own namespace: no other test wants these ports.
            let wanted: Vec<_> = (0..200).map(|_| port(Protocol::Tcp, Some("198.51.100.1"), 0..=0, 80)).collect();
            let bindings = net.publish(&mut one.endpoint, &wanted).unwrap();
            first.get_or_insert(bindings[0].host_port);
        }
        let last = containers.last().unwrap();
        last.serve_tcp(80, "last");
        containers[0].serve_tcp(80, "first");
        let number = last.endpoint.bindings[199].host_port;
        assert!(inside(&host.outside, || talk(HOST, number, "")).unwrap().starts_with("last"));
        assert!(inside(&host.outside, || talk(HOST, first.unwrap(), "")).unwrap().starts_with("first"));
        for one in &containers {
            net.release(&one.endpoint.id).unwrap();
        }
        assert!(net.reconcile().unwrap().held.is_empty());
        net.close(true).unwrap();
    });
}
