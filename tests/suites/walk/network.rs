//! Networks and ports: the default bridge, host, none, another container's, published ports.

use crate::both;
use crate::support::{SLEEP, WEB, code, has, own_namespace, page_at, page_at_address};
use anyhow::ensure;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tests::engine::BUSYBOX;
use tests::http::free_port;
use tests::sh::eventually;

both! {
    /// `none` has only the loopback device; `host` is the host's own namespace.
    fn none_and_host(walk) {
        ensure!(walk.once(&["--network", "none"], &["ls", "/sys/class/net"])? == "lo");
        ensure!(walk.once(&["--network", "host"], &["readlink", "/proc/self/ns/net"])? == own_namespace("net")?);
    }

    /// `container:` shares another container's network.
    fn shared(walk) {
        let name = walk.sleeper(&[])?;
        let own = walk.inside(&name, "readlink /proc/self/ns/net")?;
        ensure!(walk.once(&["--network", &format!("container:{name}")], &["readlink", "/proc/self/ns/net"])? == own);
        code(&walk.try_once(&["--network", "container:no-such"], &["true"])?, 125)?;
    }

    /// Containers of the default bridge have addresses, a gateway, and reach each other and the host.
    fn bridge(walk) {
        let server = walk.detached(&[], &WEB)?;
        let address = walk.inspect(&server, "{{.NetworkSettings.Networks.bridge.IPAddress}}")?;
        let gateway = walk.inspect(&server, "{{.NetworkSettings.Networks.bridge.Gateway}}")?;
        page_at_address(SocketAddr::new(address.parse()?, 80))?;
        ensure!(walk.once(&[], &["wget", "-qO-", &format!("http://{address}/")])? == "page");
        has(&walk.inside(&server, "ip route")?, &format!("default via {gateway}"))?;
        has(&walk.inside(&server, "cat /etc/hosts")?, &address)?;
        walk.once(&[], &["ping", "-c", "1", "-W", "3", "host.docker.internal"])?;
    }

    /// `-p` answers on loopback in both families and on the host's own address, and a taken port says so.
    fn published(walk) {
        let port = free_port()?;
        let name = walk.detached(&["-p", &format!("{port}:80")], &WEB)?;
        page_at(port)?;
        page_at_address(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))?;
        let gateway = walk.inspect(&name, "{{.NetworkSettings.Networks.bridge.Gateway}}")?;
        page_at_address(SocketAddr::new(gateway.parse()?, port))?;
        has(&walk.out(&["port", &name, "80"])?, &format!("0.0.0.0:{port}"))?;
        let other = walk.name();
        let refused = walk.run(&["run", "-d", "--name", &other, "-p", &format!("{port}:80"), BUSYBOX, SLEEP[0], SLEEP[1]])?;
        code(&refused, 125)?;
        let said = refused.stderr.to_lowercase();
        ensure!(said.contains("already") || said.contains("in use"), "{}", refused.stderr);
        walk.remove(&[&name, &other])?;
        let name = walk.detached(&["-p", &format!("{port}:80")], &WEB)?;
        page_at(port)?;
        walk.remove(&[&name])?;
    }

    /// On a network of one's own names and aliases resolve, fixed addresses hold, and nobody else gets in; it comes and goes with running containers.
    fn own_networks(walk) {
        let (front, back) = (walk.name(), walk.name());
        // Engines that run at the same time share the host, and so its subnets.
        let subnet = format!("172.27.{}", std::process::id() % 250);
        let fixed = format!("{subnet}.50");
        walk.out(&["network", "create", "--subnet", &format!("{subnet}.0/24"), &front])?;
        walk.out(&["network", "create", "--internal", &back])?;
        let server = walk.detached(&["--network", &front, "--ip", &fixed, "--network-alias", "shop"], &WEB)?;
        for name in [server.as_str(), "shop"] {
            let address = format!("http://{name}/");
            let ask = || walk.once(&["--network", &front], &["wget", "-qO-", &address]).ok().filter(|text| text == "page");
            eventually("the page of a name", 10, ask)?;
        }
        ensure!(walk.try_once(&[], &["wget", "-T", "2", "-qO-", &format!("http://{fixed}/")])?.code != 0, "another network reaches it");
        let late = walk.sleeper(&["--network", &back])?;
        ensure!(!walk.inside(&late, "ip route")?.contains("default"), "an internal network has a way out");
        walk.out(&["network", "connect", "--alias", "newcomer", &front, &late])?;
        ensure!(walk.inside(&late, "wget -qO- http://shop/")? == "page");
        walk.inside(&server, "ping -c 1 -W 3 newcomer")?;
        has(&walk.run(&["network", "rm", &front])?.stderr, "has active endpoints")?;
        walk.out(&["network", "disconnect", &front, &late])?;
        ensure!(!walk.inside(&late, "ip -o addr")?.contains(&subnet));
        walk.remove(&[&server, &late])?;
        walk.out(&["network", "rm", &front, &back])?;
    }

    /// With `--ipv6` both families work: fixed and link-local addresses, names, published ports, what inspect shows; and IPv6 alone.
    fn ipv6(walk) {
        let (both, alone) = (walk.name(), walk.name());
        // Engines that run at the same time share the host, and so its subnets.
        let range = format!("fd7a:{:x}", std::process::id() % 0xffff);
        let (subnet, fixed, gateway) = (format!("{range}::/64"), format!("{range}::55"), format!("{range}::9"));
        walk.out(&["network", "create", "--ipv6", "--subnet", &subnet, "--gateway", &gateway, &both])?;
        walk.out(&["network", "create", "--ipv4=false", "--ipv6", &alone])?;
        let port = free_port()?;
        let publish = format!("{port}:80");
        let flags = ["--network", &both, "--ip6", &fixed, "--link-local-ip", "169.254.7.7", "-p", &publish];
        let server = walk.detached(&flags, &WEB)?;
        let shown = format!("{{{{(index .NetworkSettings.Networks \"{both}\").GlobalIPv6Address}}}}");
        ensure!(walk.inspect(&server, &shown)? == fixed);
        has(&walk.inside(&server, "ip addr")?, "169.254.7.7/16")?;
        for address in [gateway.parse()?, std::net::IpAddr::from(Ipv6Addr::LOCALHOST), [127, 0, 0, 1].into()] {
            page_at_address(SocketAddr::new(address, port))?;
        }
        let ask = format!("nslookup -type=aaaa {server} && wget -qO- http://[{fixed}]/");
        let told = walk.once(&["--network", &both], &["sh", "-c", &ask])?;
        has(&told, &fixed)?;
        has(&told, "page")?;
        has(&walk.out(&["network", "inspect", &both])?, &format!("\"IPv6Address\": \"{fixed}/64\""))?;
        let lone = walk.once(&["--network", &alone], &["sh", "-c", "ip -4 -o addr show eth0; ip -6 route"])?;
        ensure!(lone.contains("default via fd") && !lone.contains("inet "), "{lone}");
        has(&walk.try_once(&["--network", &both, "--ip6", &fixed], &["true"])?.stderr, "in use by container")?;
        walk.remove(&[&server])?;
        walk.out(&["network", "rm", &both, &alone])?;
    }

    /// Templates of networks, settings of one interface, and what is refused with a reason.
    fn network_options(walk) {
        let (template, made, other) = (walk.name(), walk.name(), walk.name());
        let subnet = format!("172.26.{}.0/24", std::process::id() % 250);
        walk.out(&["network", "create", "--config-only", "--subnet", &subnet, "-o", "com.docker.network.driver.mtu=1410", &template])?;
        walk.out(&["network", "create", "--config-from", &template, &made])?;
        let shown = walk.out(&["network", "inspect", &made])?;
        has(&shown, &subnet)?;
        has(&shown, &format!("\"Network\": \"{template}\""))?;
        has(&walk.run(&["network", "rm", &template])?.stderr, &format!("is in use by network {made}"))?;
        ensure!(walk.try_once(&["--network", &template], &["true"])?.code != 0, "a template took a container");
        let option = format!("name={made},driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1");
        let told = walk.once(&["--network", &option], &["sh", "-c", "cat /proc/sys/net/ipv4/conf/eth0/log_martians; ip link show eth0"])?;
        ensure!(told.starts_with('1') && told.contains("mtu 1410"), "{told}");
        for (words, said) in [
            (vec!["--subnet", "10.1.2.3/99"], "invalid"),
            (vec!["--gateway", "10.1.0.1"], "subnet"),
            (vec!["--ipv4=false"], "must be enabled"),
            (vec!["-o", "color=red"], "color"),
            (vec!["-d", "macvlan", "--subnet", "10.98.1.0/24", "-o", "parent=nope0"], "nope0"),
            (vec!["--config-from", "no-such"], "not found"),
        ] {
            let refused = walk.run(&[&["network", "create"], &words[..], &[&other]].concat())?;
            ensure!(refused.code != 0 && refused.stderr.contains(said), "{words:?}: {}", refused.stderr);
        }
        let local = walk.name();
        let binding = "com.docker.network.bridge.host_binding_ipv4=127.0.0.1";
        let prefix = "com.docker.network.container_iface_prefix=lan";
        walk.out(&["network", "create", "-o", binding, "-o", prefix, &local])?;
        let server = walk.detached(&["--network", &local, "-p", "80"], &WEB)?;
        ensure!(walk.out(&["port", &server])?.starts_with("80/tcp -> 127.0.0.1:"), "{}", walk.out(&["port", &server])?);
        has(&walk.inside(&server, "ip link")?, "lan0")?;
        walk.remove(&[&server])?;
        walk.out(&["network", "rm", &made, &local])?;
        walk.out(&["network", "rm", &template])?;
    }

    /// Links of the default network are lines in the container's hosts, which follow who is linked to.
    fn links(walk) {
        let server = walk.detached(&[], &WEB)?;
        let link = format!("{server}:shop");
        let client = walk.sleeper(&["--link", &link])?;
        let page = |walk: &crate::support::Walk| walk.inside(&client, &format!("wget -qO- http://shop/ && wget -qO- http://{server}/"));
        let both = eventually("the page of a link", 30, || page(walk).ok())?;
        ensure!(both == "page\npage", "{both}");
        // Its address is taken when it comes back, so it gets another one.
        walk.out(&["stop", "-t", "0", &server])?;
        let squatter = walk.sleeper(&[])?;
        walk.out(&["start", &server])?;
        eventually("the page of a link that moved", 30, || page(walk).ok())?;
        walk.out(&["stop", "-t", "0", &server])?;
        has(&walk.try_once(&["--link", &link], &["true"])?.stderr, "Cannot link to a non running container")?;
        walk.remove(&[&server, &client, &squatter])?;
    }

    /// A port taken by another program is refused by name.
    fn foreign_port(walk) {
        let taken = std::net::TcpListener::bind(("0.0.0.0", 0))?;
        let port = taken.local_addr()?.port();
        let refused = walk.try_once(&["-p", &format!("{port}:80")], &["true"])?;
        code(&refused, 125)?;
        has(&refused.stderr, &port.to_string())?;
    }

    /// `-P` gives every exposed port a port of the host, the same for both families.
    fn all_exposed(walk) {
        let name = walk.detached(&["--expose", "80", "--expose", "53/udp", "-P"], &WEB)?;
        page_at(walk.host_port(&name, "80/tcp")?)?;
        let shown = walk.out(&["port", &name, "80/tcp"])?;
        let ports: std::collections::BTreeSet<_> = shown.lines().filter_map(|line| line.rsplit(':').next()).collect();
        ensure!(ports.len() == 1, "{shown}");
        walk.host_port(&name, "53/udp")?;
    }

    /// A bound address, a range, udp, and a random port of an address.
    fn forms_of_publishing(walk) {
        let port = free_port()?;
        let name = walk.detached(&["-p", &format!("127.0.0.1:{port}:80")], &WEB)?;
        page_at(port)?;
        ensure!(walk.out(&["port", &name])? == format!("80/tcp -> 127.0.0.1:{port}"));
        walk.remove(&[&name])?;
        let name = walk.sleeper(&["-p", &format!("127.0.0.1:{port}-{}:7000-7002/udp", port + 2)])?;
        let shown = walk.out(&["port", &name])?;
        ensure!(shown.lines().count() == 3, "{shown}");
        has(&shown, &format!("7002/udp -> 127.0.0.1:{}", port + 2))?;
        let name = walk.detached(&["-p", "127.0.0.1::80"], &WEB)?;
        page_at(walk.host_port(&name, "80")?)?;
    }

    /// Datagrams to a published port arrive, and their answers come back.
    fn datagrams(walk) {
        // No applet of busybox serves udp; this very program is static and runs in any root.
        let own = std::env::current_exe()?;
        let bind = format!("{}:/echo:ro", own.display());
        let port = free_port()?;
        let publish = format!("127.0.0.1:{port}:9/udp");
        walk.detached(&["-v", &bind, "-p", &publish], &["/echo", "--ignored", "--exact", "network::echo_datagrams"])?;
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let answer = eventually("the datagram comes back", 10, || {
            socket.send(b"ping").ok()?;
            let mut buffer = [0; 16];
            socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())
        })?;
        ensure!(answer == b"ping");
    }
}

/// Sends back what comes to port 9, until nothing comes for a while.
#[test]
#[ignore = "the server of the check on datagrams, which runs it in a container"]
fn echo_datagrams() -> anyhow::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 9))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = [0; 64];
    loop {
        let (length, sender) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], sender)?;
    }
}

/// Who is on what, drawn as text and as a picture.
#[test]
fn graph() -> anyhow::Result<()> {
    crate::support::Walk::through("graph", tests::Client::Cais, |walk| {
        let network = walk.name();
        walk.out(&["network", "create", &network])?;
        let port = free_port()?;
        let name = walk.detached(&["--network", &network, "-p", &format!("127.0.0.1:{port}:80")], &WEB)?;
        let text = walk.out(&["network", "graph", &network])?;
        ensure!(text.starts_with(&format!("{network} (bridge, ")) && text.lines().count() == 2, "{text}");
        has(&text, &format!("└─ {name}"))?;
        has(&text, &format!("{port}->80/tcp"))?;
        has(&walk.out(&["network", "graph"])?, "none (null)")?;
        let picture = walk.out(&["network", "graph", "--format", "svg"])?;
        ensure!(picture.starts_with("<svg ") && picture.contains(&name) && picture.matches("<line ").count() == 1, "{picture}");
        has(&walk.run(&["network", "graph", "no-such"])?.stderr, "not found")?;
        walk.remove(&[&name])?;
        walk.out(&["network", "rm", &network])?;
        Ok(())
    })
}
