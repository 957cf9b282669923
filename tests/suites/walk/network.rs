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
