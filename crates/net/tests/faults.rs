//! What others do to an engine's network, and what is left when an engine dies.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use common::*;
use net::{EndpointRequest, ForeignForward, Net, Netns, Protocol, PublishedPolicy};
use rustix::process::{Pid, Signal};
use types::Id;

fn kill(pid: u32) {
    rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn publish(net: &Net, container: &mut Container, protocol: Protocol) -> u16 {
    net.publish(&mut container.endpoint, &[port(protocol, None, 0..=0, 80)]).unwrap()[0].host_port
}

#[test]
fn a_killed_netd_is_replaced_and_holds_the_same_ports() {
    on_host("netd-killed", |host| {
        let net = host.open();
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        let p = publish(&net, &mut web, Protocol::Tcp);
        let [old] = netd_processes(&host.run_dir)[..] else { panic!("one netd") };
        kill(old);
        eventually("a new netd", || netd_processes(&host.run_dir).iter().any(|pid| *pid != old));
        eventually("the IPv6 proxy", || talk(Ipv6Addr::LOCALHOST, p, "a").is_ok_and(|text| text.ends_with('a')));
        assert!(TcpListener::bind(("0.0.0.0", p)).is_err(), "reserved again");
        assert!(talk(Ipv4Addr::LOCALHOST, p, "").unwrap().starts_with("web"));
        // Also when it dies at the very moment it is needed.
        netd_processes(&host.run_dir).into_iter().for_each(kill);
        let q = publish(&net, &mut web, Protocol::Tcp);
        for port in [p, q] {
            eventually("both ports", || talk(Ipv6Addr::LOCALHOST, port, "").is_ok_and(|text| text.starts_with("web")));
        }
        net.close(true).unwrap();
    });
}

#[test]
fn an_engine_that_died_is_followed_by_one_that_knows_everything() {
    on_host("engine-died", |host| {
        let first = host.open();
        let (mut web, gone) = (container(&first, "web"), container(&first, "gone"));
        web.serve_tcp(80, "web");
        let p = publish(&first, &mut web, Protocol::Tcp);
        let mut stale = container(&first, "stale");
        let q = publish(&first, &mut stale, Protocol::Tcp);
        let [netd] = netd_processes(&host.run_dir)[..] else { panic!("one netd") };
        let address = first.host_address();
        // As after SIGKILL: nothing is taken back.
        drop(first);
        assert!(
            talk(Ipv6Addr::LOCALHOST, p, "").unwrap().starts_with("web") && talk(Ipv4Addr::LOCALHOST, p, "").unwrap().starts_with("web")
        );

        let second = Net::open(host.config()).unwrap();
        assert!(talk(Ipv4Addr::LOCALHOST, p, "").unwrap().starts_with("web"), "no gap between open and restore");
        let record = serde_json::to_string(&web.endpoint).unwrap();
        assert!(second.restore(vec![serde_json::from_str(&record).unwrap()]).is_empty());
        assert_eq!(second.host_address(), address);
        assert_eq!(netd_processes(&host.run_dir), [netd], "the same netd");
        let done = second.reconcile().unwrap();
        assert_eq!(done.held, [stale.endpoint.id.to_string()]);
        let mut links = [gone.endpoint.host_ifname.clone(), stale.endpoint.host_ifname.clone()];
        links.sort();
        let mut removed = done.links.clone();
        removed.sort();
        assert_eq!(removed, links);
        assert!(TcpListener::bind(("0.0.0.0", q)).is_ok(), "the stale port is free");
        assert!(talk(HOST, p, "").unwrap().starts_with("web"));
        // Leases came back too.
        let taken = EndpointRequest { address: Some(web.ip()), ..EndpointRequest::new(Id::random(), "x", "bridge") };
        assert!(second.attach(&Netns::create(&[]).unwrap(), &taken).unwrap_err().to_string().contains("in use by container web"));
        second.release(&web.endpoint.id).unwrap();
        assert!(TcpListener::bind(("0.0.0.0", p)).is_ok());
        second.close(true).unwrap();
    });
}

#[test]
fn a_lost_netd_is_made_good_at_restore() {
    on_host("both-died", |host| {
        let first = host.open();
        let mut web = container(&first, "web");
        web.serve_tcp(80, "web");
        let p = publish(&first, &mut web, Protocol::Udp);
        drop(first);
        netd_processes(&host.run_dir).into_iter().for_each(kill);
        let second = Net::open(host.config()).unwrap();
        assert!(second.restore(vec![web.endpoint.clone()]).is_empty());
        assert!(std::net::UdpSocket::bind(("0.0.0.0", p)).is_err(), "reserved again");
        second.close(true).unwrap();
    });
}

#[test]
fn a_netd_of_another_version_has_a_successor_with_its_sockets() {
    on_host("succession", |host| {
        let mut config = host.config();
        config.netd_command.extend(["--protocol".into(), "1".into()]);
        let net = Net::open(config).unwrap();
        assert!(net.restore(Vec::new()).is_empty());
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        web.serve_udp(53, "web");
        // More than fit into one message.
        let many: Vec<_> = (0..230).map(|_| port(Protocol::Tcp, None, 0..=0, 80)).collect();
        let mut ports = net.publish(&mut web.endpoint, &many).unwrap();
        ports.extend(net.publish(&mut web.endpoint, &[port(Protocol::Udp, None, 0..=0, 53)]).unwrap());
        let [before] = netd_processes(&host.run_dir)[..] else { panic!("one netd") };
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, ports[0].host_port)).unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        drop(net);

        let net = Net::open(host.config()).unwrap();
        assert!(net.restore(vec![web.endpoint.clone()]).is_empty());
        let now = netd_processes(&host.run_dir);
        assert!(now.iter().any(|pid| *pid != before), "there is a successor");
        for binding in &ports {
            let address = if binding.host_ip.is_ipv4() { "127.0.0.1" } else { "::1" };
            let address: std::net::IpAddr = address.parse().unwrap();
            match binding.protocol {
                Protocol::Tcp => assert!(talk(address, binding.host_port, "").unwrap().starts_with("web"), "{binding:?}"),
                _ => assert!(ask_udp(address, binding.host_port, "x").unwrap().starts_with("web"), "{binding:?}"),
            }
        }
        // The connection of before goes on through the one that retired.
        stream.write_all(b"still here").unwrap();
        let mut echo = [0; 10];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"still here");
        assert!(run("kill", &[&before.to_string()]).0);
        net.release(&web.endpoint.id).unwrap();
        assert!(net.reconcile().unwrap().held.is_empty());
        net.close(true).unwrap();
    });
}

#[test]
fn a_flushed_table_comes_back_by_itself() {
    on_host("flush", |host| {
        if !has_nft() {
            return;
        }
        let net = host.open();
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        let p = publish(&net, &mut web, Protocol::Tcp);
        let outside = |from: &str| inside(&host.outside, || talk(HOST, p, "")).is_ok_and(|text| text == format!("web sees {from}\n"));
        assert!(outside(&OUTSIDE.to_string()));
        nft("flush ruleset");
        // Even now it answers, through netd; then the table is back.
        eventually("the table", || nft("list tables").contains(&net.config().table));
        eventually("translation", || outside(&OUTSIDE.to_string()));
        // Damage in the table counts too, and what is published without delay after it.
        nft(&format!("delete element inet {} published {{ tcp . {p} }}", net.config().table));
        eventually("the element", || nft(&format!("list table inet {}", net.config().table)).contains(&format!("tcp . {p}")));
        nft(&format!("delete table inet {}", net.config().table));
        let q = publish(&net, &mut web, Protocol::Tcp);
        let both = |text: &str| text.contains(&format!("tcp . {p}")) && text.contains(&format!("tcp . {q}"));
        assert!(both(&nft(&format!("list table inet {}", net.config().table))));
        nft("flush ruleset");
        // A bridge that is gone is made anew for the next container, and the others are put on it again.
        ip(&format!("link del {}", net.config().bridge));
        let again = container(&net, "again");
        again.serve_tcp(80, "again");
        assert!(talk(again.ip(), 80, "").unwrap().starts_with("again"));
        assert!(talk(web.ip(), 80, "").unwrap().starts_with("web"));
        net.release(&web.endpoint.id).unwrap();
        net.close(true).unwrap();
        assert!(!nft("list tables").contains("cais"));
    });
}

#[test]
fn the_nft_program_reads_our_table_as_it_is_meant() {
    on_host("oracle", |host| {
        if !has_nft() {
            return;
        }
        let mut config = host.config();
        config.bip = Some("10.77.0.1/24".parse().unwrap());
        config.firewall.published_allow = vec![(Protocol::Tcp, 8443)];
        let net = Net::open(config).unwrap();
        net.restore(Vec::new());
        let mut web = container(&net, "web");
        let ports = [port(Protocol::Tcp, None, 8080..=8080, 80), port(Protocol::Udp, Some("198.51.100.1"), 5353..=5353, 53)];
        net.publish(&mut web.endpoint, &ports).unwrap();
        let text = nft(&format!("list table inet {}", net.config().table));
        for part in [
            "tcp . 8080 : 10.77.0.2 . 80",
            "udp . 198.51.100.1 . 5353 : 10.77.0.2 . 53",
            "elements = { 10.77.0.0/24 }",
            "elements = { tcp . 8443 }",
            "type nat hook prerouting priority dstnat; policy accept;",
            "type filter hook forward priority filter; policy accept;",
            "fib daddr type local dnat ip to meta l4proto . th dport map @published",
            "dnat ip to meta l4proto . ip daddr . th dport map @published_at",
            "ip saddr @masquerade oifname != @bridges masquerade",
            "ip saddr 127.0.0.0/8 oifname @bridges masquerade",
            "oifname @bridges goto to_container",
            "ct state established,related accept",
            "ct status dnat accept",
            "iifname . oifname @bridge_pairs accept",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        net.close(true).unwrap();
    });
}

#[test]
fn a_foreign_forward_policy_is_reported_or_opened() {
    on_host("forward-drop", |host| {
        if !has_nft() {
            return;
        }
        // As dockerd leaves it.
        nft("add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
        let net = host.open();
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        let p = publish(&net, &mut web, Protocol::Tcp);
        let warnings = net.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("ip filter FORWARD") && warnings[0].contains("firewall=insert"),
            "{warnings:?}"
        );
        assert!(inside(&host.outside, || talk(HOST, p, "")).is_err());
        net.release(&web.endpoint.id).unwrap();
        net.close(true).unwrap();

        let mut config = host.config();
        config.firewall.forward = ForeignForward::Insert;
        let net = Net::open(config).unwrap();
        net.restore(Vec::new());
        assert!(net.warnings().is_empty());
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        let p = publish(&net, &mut web, Protocol::Tcp);
        assert!(inside(&host.outside, || talk(HOST, p, "")).unwrap().starts_with("web"));
        // Those who reload their rules find ours inserted again, once.
        nft("flush chain ip filter FORWARD");
        let count = || nft("list chain ip filter FORWARD").matches("comment \"cais").count();
        eventually("the accepts", || count() == 2);
        // The program that wrote the chain still understands it.
        if std::process::Command::new("iptables-nft").arg("--version").output().is_ok() {
            let (done, rules) = run("iptables-nft", &["-S", "FORWARD"]);
            assert!(done && rules.contains(&format!("-A FORWARD -o {}", net.config().bridge)), "{rules}");
        }
        net.repair().unwrap();
        assert_eq!(count(), 2);
        net.close(true).unwrap();
        assert_eq!(count(), 0);
        assert!(nft("list chain ip filter FORWARD").contains("policy drop"), "the rest is left alone");
    });
}

#[test]
fn a_host_that_drops_by_default_is_respected() {
    on_host("input-drop", |host| {
        if !has_nft() {
            return;
        }
        let mut config = host.config();
        config.firewall.published_allow = vec![(Protocol::Tcp, 8081)];
        let net = Net::open(config.clone()).unwrap();
        net.restore(Vec::new());
        let (mut web, other) = (container(&net, "web"), container(&net, "other"));
        web.serve_tcp(80, "web");
        net.publish(&mut web.endpoint, &[port(Protocol::Tcp, None, 8080..=8080, 80), port(Protocol::Tcp, None, 8081..=8081, 80)]).unwrap();
        let outside = |port: u16| inside(&host.outside, || talk(HOST, port, "")).is_ok();
        assert!(outside(8080) && outside(8081));
        // A firewall that comes later is noticed.
        nft("add table inet strict; add chain inet strict input { type filter hook input priority 0; policy drop; }");
        nft("add rule inet strict input iifname \"lo\" accept; add rule inet strict input ct state established,related accept");
        eventually("the closed port", || !outside(8080));
        assert!(outside(8081), "published_allow");
        assert!(talk(Ipv4Addr::LOCALHOST, 8080, "").is_ok(), "the host itself");
        assert!(inside(&other.netns, || talk(HOST, 8080, "")).is_ok(), "containers");
        assert!(net.warnings()[0].contains("published_allow"));
        net.close(false).unwrap();
        drop(net);

        config.firewall.published = PublishedPolicy::Open;
        let net = Net::open(config).unwrap();
        assert!(net.restore(vec![web.endpoint.clone()]).is_empty());
        assert!(outside(8080) && net.warnings().is_empty());
        net.close(true).unwrap();
    });
}

/// What firewalld 1.x writes for its default zone, in short.
const FIREWALLD: &str = r#"
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_IN_public
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_FWD_public
        reject with icmpx admin-prohibited
    }
    chain filter_IN_public {
        tcp dport 22 accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
    chain filter_FWD_public {
        meta l4proto { icmp, ipv6-icmp } accept
    }
}
"#;

/// What ufw writes through iptables-nft and ip6tables-nft, in short.
const UFW: &str = r#"
table ip filter {
    chain INPUT {
        type filter hook input priority filter; policy drop;
        counter jump ufw-before-input
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump ufw-before-forward
    }
    chain ufw-before-input {
        iifname "lo" counter accept
        ct state related,established counter accept
        tcp dport 22 counter accept
    }
    chain ufw-before-forward {
        ct state related,established counter accept
        ip protocol icmp counter accept
    }
}
table ip6 filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        ct state related,established counter accept
    }
}
"#;

#[test]
fn rule_sets_of_firewalld_and_ufw_keep_working_beside_ours() {
    for (name, rules) in [("firewalld", FIREWALLD), ("ufw", UFW)] {
        on_host(name, |host| {
            if !has_nft() {
                return;
            }
            let file = host.run_dir.join("rules.nft");
            std::fs::write(&file, rules).unwrap();
            let load = || assert!(run("nft", &["-f", file.to_str().unwrap()]).0);
            load();
            let theirs = || run("nft", &["-s", "list", "ruleset"]).1.split("table inet cais").next().unwrap().replace("counter ", "");
            let before = theirs();
            let net = host.open();
            assert!(net.warnings().iter().any(|text| text.contains("firewall=insert")), "{name}: {:?}", net.warnings());
            assert!(net.warnings().iter().any(|text| text.contains("published_allow")), "{name}: {:?}", net.warnings());
            assert_eq!(theirs(), before, "{name} is only looked at");
            net.close(true).unwrap();

            let mut config = host.config();
            config.firewall.forward = ForeignForward::Insert;
            config.firewall.published_allow = vec![(Protocol::Tcp, 8081)];
            let net = Net::open(config).unwrap();
            net.restore(Vec::new());
            let mut web = container(&net, "web");
            web.serve_tcp(80, "web");
            let ports = [8080, 8081].map(|number| port(Protocol::Tcp, None, number..=number, 80));
            net.publish(&mut web.endpoint, &ports).unwrap();
            let outside = inside(&host.outside, || TcpListener::bind((OUTSIDE, 7000)).unwrap());
            let way_out =
                || inside(&web.netns, || TcpStream::connect_timeout(&(OUTSIDE, 7000).into(), std::time::Duration::from_secs(1)).is_ok());
            let from_outside = |number: u16| inside(&host.outside, || talk(HOST, number, "")).is_ok();
            eventually("the way out", way_out);
            eventually("the published port", || from_outside(8081));
            assert!(!from_outside(8080), "{name}: the host drops by default, and this port is not in published_allow");
            // Their own rules hold: what they let in is let in, what they refuse is refused.
            let own = TcpListener::bind((HOST, 22)).unwrap();
            let closed = TcpListener::bind((HOST, 23)).unwrap();
            let reach = |port: u16| {
                inside(&host.outside, || TcpStream::connect_timeout(&(HOST, port).into(), std::time::Duration::from_secs(1)).is_ok())
            };
            eventually("what they let in", || reach(22));
            assert!(!reach(23), "{name}");
            drop((own, closed, outside));
            // They reload, as their services do: all of theirs anew.
            nft("flush ruleset");
            load();
            let again = inside(&host.outside, || TcpListener::bind((OUTSIDE, 7000)).unwrap());
            eventually("the way out after a reload", way_out);
            eventually("the published port after a reload", || from_outside(8081) && !from_outside(8080));
            drop(again);
            net.release(&web.endpoint.id).unwrap();
            net.close(true).unwrap();
            assert_eq!(theirs(), before, "{name} is as it was");
        });
    }
}

#[test]
fn rules_of_the_administrator_come_before_ours() {
    on_host("hook", |host| {
        if !has_nft() {
            return;
        }
        let net = host.open();
        let mut web = container(&net, "web");
        web.serve_tcp(80, "web");
        let ports = [8080, 8081].map(|number| port(Protocol::Tcp, None, number..=number, 80));
        net.publish(&mut web.endpoint, &ports).unwrap();
        let from_outside = |number: u16| inside(&host.outside, || talk(HOST, number, "")).is_ok();
        assert!(from_outside(8080) && from_outside(8081));
        // As docs/networks.md says: a chain of one's own, before ours, which sees the port that was asked for.
        nft("add table inet admin; add chain inet admin forward { type filter hook forward priority filter - 5; policy accept; }");
        nft("add rule inet admin forward iifname up0 meta l4proto tcp ct original proto-dst 8080 drop");
        assert!(!from_outside(8080) && from_outside(8081));
        assert!(talk(Ipv4Addr::LOCALHOST, 8080, "").is_ok(), "the host itself is not meant");
        // Our table may be written anew as often as it likes.
        net.repair().unwrap();
        assert!(!from_outside(8080) && from_outside(8081));
        net.release(&web.endpoint.id).unwrap();
        net.close(true).unwrap();
        assert!(nft("list ruleset").contains("ct original proto-dst 8080"));
    });
}

#[test]
fn two_engines_share_a_host_without_meeting() {
    on_host("two", |host| {
        let derive = |name: &str| {
            let dir = host.run_dir.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            let mut config = net::NetConfig::derive(&dir, &dir);
            config.netd_command = host.config().netd_command;
            // The same place to start from: the second has to step aside.
            config.pools = vec!["base=10.90.0.0/16,size=24".parse().unwrap()];
            config
        };
        ip("route add 10.90.0.0/17 dev up0");
        let (one, two) = (Net::open(derive("one")).unwrap(), Net::open(derive("two")).unwrap());
        let subnets = [one.networks()[0].subnet.unwrap(), two.networks()[0].subnet.unwrap()];
        assert!(
            !subnets[0].overlaps(&subnets[1]) && subnets.iter().all(|subnet| subnet.first() >= Ipv4Addr::new(10, 90, 128, 0)),
            "{subnets:?}"
        );
        one.restore(Vec::new());
        two.restore(Vec::new());
        let (mut web, other) = (container(&one, "web"), container(&two, "other"));
        web.serve_tcp(80, "web");
        let p = publish(&one, &mut web, Protocol::Tcp);
        assert!(inside(&other.netns, || talk(web.ip(), 80, "")).is_err(), "networks are apart");
        assert!(inside(&other.netns, || talk(HOST, p, "")).is_ok(), "a published port is for everybody");
        let mut late = container(&two, "late");
        let error = two.publish(&mut late.endpoint, &[port(Protocol::Tcp, None, p..=p, 80)]).unwrap_err().to_string();
        assert!(error.contains("already in use by cais-netd (pid "), "{error}");
        two.close(true).unwrap();
        assert!(talk(Ipv4Addr::LOCALHOST, p, "").is_ok(), "the end of one leaves the other alone");
        one.close(true).unwrap();
    });
}
