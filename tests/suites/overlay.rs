//! Networks across machines: three hosts, each a network namespace with an engine of its own, joined by a switch at which etcd listens.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tests::engine::{BUSYBOX, binary};
use tests::sh::{Cmd, Done, eventually};
use tests::{Engine, image, skip_unless_root};

const ETCD_ADDRESS: &str = "10.200.0.1";
const PATIENCE_SECS: u64 = 60;

/// The switch, etcd and the hosts; everything is gone when it is dropped.
struct Fleet {
    engines: Vec<Engine>,
    etcd: Option<Child>,
    dir: PathBuf,
    name: String,
    hosts: usize,
}

impl Fleet {
    fn start(name: &str, hosts: usize) -> Result<Self> {
        let name = format!("cais{}{name}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir)?;
        let mut fleet = Self { engines: Vec::new(), etcd: None, dir, name, hosts };
        fleet.lay_wires()?;
        fleet.start_etcd()?;
        for number in 1..=hosts {
            let engine = fleet.start_engine(number)?;
            engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(image::busybox()?).arg(BUSYBOX).ok()?;
            fleet.engines.push(engine);
        }
        Ok(fleet)
    }

    fn lay_wires(&self) -> Result<()> {
        let switch = self.netns(0);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "set", "lo", "up"])?;
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge"])?;
        ip(&["-n", &switch, "addr", "add", &format!("{ETCD_ADDRESS}/24"), "dev", "sw"])?;
        ip(&["-n", &switch, "link", "set", "sw", "up"])?;
        for number in 1..=self.hosts {
            let (host, port) = (self.netns(number), format!("p{number}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "sw", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", address(number)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "route", "add", "default", "via", ETCD_ADDRESS])?;
        }
        Ok(())
    }

    fn start_etcd(&mut self) -> Result<()> {
        let url = format!("http://{ETCD_ADDRESS}:2379");
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("etcd.log"))?;
        let etcd = self.inside(0, "etcd").arg("--data-dir").arg(self.dir.join("etcd"));
        let etcd =
            etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", "http://127.0.0.1:2380"]);
        self.etcd = Some(etcd.spawn(Stdio::from(log.try_clone()?), Stdio::from(log))?);
        Ok(())
    }

    fn stop_etcd(&mut self) -> Result<()> {
        if let Some(mut etcd) = self.etcd.take() {
            etcd.kill()?;
            etcd.wait()?;
        }
        Ok(())
    }

    fn start_engine(&self, number: usize) -> Result<Engine> {
        let store = format!("etcd://{ETCD_ADDRESS}");
        let flags = ["--cluster-store", &store, "--cluster-advertise", &address(number), "--cluster-ttl", "6s"];
        let netns = format!("--net=/run/netns/{}", self.netns(number));
        Engine::start_under(self.dir.join(format!("h{number}")), &binary()?, &["nsenter", &netns, "--"], &flags)
    }

    /// A program in the namespace of a host; zero is the switch.
    fn inside(&self, number: usize, program: &str) -> Cmd {
        Cmd::new("nsenter").arg(format!("--net=/run/netns/{}", self.netns(number))).arg("--").arg(program)
    }

    fn netns(&self, number: usize) -> String {
        format!("{}h{number}", self.name)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.engines.clear();
        let _ = self.stop_etcd();
        for number in 0..=self.hosts {
            let _ = ip(&["netns", "del", &self.netns(number)]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ip(args: &[&str]) -> Result<Done> {
    Cmd::new("ip").args(args).ok()
}

fn address(number: usize) -> String {
    format!("10.200.0.{}", 10 + number)
}

/// Runs a command in a container until it succeeds: what other hosts do is known a moment later.
fn reaches(engine: &Engine, container: &str, command: &[&str]) -> Result<String> {
    let mut args = vec!["exec", container];
    args.extend(command);
    let ask = || engine.run(&args).ok().filter(|done| done.code == 0).map(|done| done.text().to_owned());
    eventually(&format!("{command:?} in {container}"), PATIENCE_SECS, ask)
}

fn knows(engine: &Engine, network: &str) -> Result<()> {
    eventually(&format!("network {network}"), PATIENCE_SECS, || {
        engine.run(&["network", "inspect", network]).ok().filter(|done| done.code == 0)
    })?;
    Ok(())
}

fn web(engine: &Engine, name: &str, network: &str, more: &[&str]) -> Result<()> {
    let serve = format!("echo {name} > /tmp/index.html && httpd -f -p 80 -h /tmp");
    let mut args = vec!["run", "-d", "--name", name, "--network", network];
    args.extend(more);
    args.extend([BUSYBOX, "sh", "-c", &serve]);
    engine.ok(&args)?;
    Ok(())
}

fn address_of(engine: &Engine, name: &str) -> Result<String> {
    engine.inspect(name, "{{.NetworkSettings.Networks.wide.IPAddress}}")
}

fn fetch(host: &str) -> [String; 5] {
    ["wget", "-q", "-O", "-", &format!("http://{host}/")].map(str::to_owned)
}

fn page(engine: &Engine, container: &str, host: &str) -> Result<String> {
    let command = fetch(host);
    reaches(engine, container, &command.each_ref().map(String::as_str))
}

/// A network made on one host is used from all: names, aliases, addresses, published ports, and what is in the way is named.
#[test]
fn one_network_on_three_hosts() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let fleet = Fleet::start("a", 3)?;
    let [one, two, three] = &fleet.engines[..] else { unreachable!("three hosts") };
    one.ok(&["network", "create", "-d", "overlay", "--attachable", "--subnet", "10.77.0.0/24", "wide"])?;
    for engine in [two, three] {
        knows(engine, "wide")?;
    }
    ensure!(two.ok(&["network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}"])?.text() == "wide global");
    web(one, "web", "wide", &["--network-alias", "site", "-p", "8088:80"])?;
    web(two, "other", "wide", &["--network-alias", "site"])?;
    three.ok(&["run", "-d", "--name", "client", "--network", "wide", BUSYBOX, "sleep", "1d"])?;
    ensure!(page(three, "client", "web")? == "web");
    ensure!(page(three, "client", "other")? == "other");
    // An alias that two hosts have stands for both.
    let addresses = [address_of(one, "web")?, address_of(two, "other")?];
    eventually("both addresses of the alias", PATIENCE_SECS, || {
        let told = three.run(&["exec", "client", "nslookup", "site"]).ok()?;
        addresses.iter().all(|address| told.stdout.contains(address.as_str())).then_some(())
    })?;
    // Large packets fit: what is inside is smaller than the wire by what VXLAN adds.
    ensure!(reaches(three, "client", &["cat", "/sys/class/net/eth0/mtu"])? == "1450");
    reaches(three, "client", &["ping", "-c1", "-s1400", "web"])?;
    // A port is published on the host of its container.
    let outside = format!("http://{}:8088/", address(1));
    let got = eventually("the published port", PATIENCE_SECS, || {
        fleet.inside(3, "busybox").args(["wget", "-q", "-O", "-", &outside]).run().ok().filter(|done| done.code == 0)
    })?;
    ensure!(got.text() == "web");
    // Everything that is taken is named, on whatever host.
    let done = two.run(&["run", "--rm", "--network", "wide", "--ip", &addresses[0], BUSYBOX, "true"])?;
    ensure!(done.code == 125 && done.stderr.contains("is in use by container web on"), "{done}");
    let done = three.run(&["network", "rm", "wide"])?;
    ensure!(done.code == 1 && done.stderr.contains("has active endpoints"), "{done}");
    let done = three.run(&["network", "create", "-d", "overlay", "--subnet", "10.77.0.128/25", "more"])?;
    ensure!(done.code == 1 && done.stderr.contains("overlaps with 10.77.0.0/24"), "{done}");
    // A new name is known everywhere; so is the end.
    one.ok(&["rename", "web", "shop"])?;
    ensure!(page(three, "client", "shop")? == "web");
    one.ok(&["rm", "-f", "shop"])?;
    eventually("the name is gone", PATIENCE_SECS, || {
        three.run(&["exec", "client", "nslookup", "shop"]).ok().filter(|done| done.code != 0)
    })?;
    two.ok(&["rm", "-f", "other"])?;
    three.ok(&["rm", "-f", "client"])?;
    eventually("nobody is on it", PATIENCE_SECS, || two.run(&["network", "rm", "wide"]).ok().filter(|done| done.code == 0))?;
    eventually("the network is gone", PATIENCE_SECS, || one.run(&["network", "inspect", "wide"]).ok().filter(|done| done.code != 0))?;
    // Nothing of it stays on a host without a container on it.
    for number in 1..=3 {
        eventually("no interface is left", PATIENCE_SECS, || {
            let links = Cmd::new("ip").args(["-n", &fleet.netns(number), "-o", "link"]).ok().ok()?;
            (!links.text().contains(": vx")).then_some(())
        })?;
    }
    Ok(())
}

/// Engines are killed, etcd goes away and comes back, a host dies: what runs goes on, and all catches up.
#[test]
fn outages_and_ends() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut fleet = Fleet::start("b", 2)?;
    fleet.engines[0].ok(&["network", "create", "-d", "overlay", "wide"])?;
    knows(&fleet.engines[1], "wide")?;
    web(&fleet.engines[0], "web", "wide", &[])?;
    web(&fleet.engines[1], "other", "wide", &[])?;
    ensure!(page(&fleet.engines[1], "other", "web")? == "web");
    let before = address_of(&fleet.engines[0], "web")?;

    fleet.engines[0].kill()?;
    ensure!(page(&fleet.engines[1], "other", "web")? == "web", "the engine's death is nothing to its containers");
    // For longer than the lease would last without netd.
    std::thread::sleep(std::time::Duration::from_secs(9));
    ensure!(page(&fleet.engines[1], "other", "web")? == "web", "netd keeps the lease");
    fleet.engines[0].restart()?;
    ensure!(address_of(&fleet.engines[0], "web")? == before);
    ensure!(page(&fleet.engines[0], "web", "other")? == "other");

    fleet.stop_etcd()?;
    ensure!(page(&fleet.engines[1], "other", "web")? == "web", "without etcd what is known goes on");
    let done = fleet.engines[1].run(&["run", "--rm", "--network", "wide", BUSYBOX, "true"])?;
    ensure!(done.code == 125 && done.stderr.contains("etcd"), "{done}");
    fleet.engines[1].ok(&["run", "--rm", BUSYBOX, "true"]).context("other networks need no etcd")?;
    fleet.start_etcd()?;
    eventually("new containers after the outage", PATIENCE_SECS, || {
        fleet.engines[1]
            .run(&["run", "-d", "--name", "late", "--network", "wide", BUSYBOX, "sleep", "1d"])
            .ok()
            .filter(|done| done.code == 0)
            .or_else(|| {
                let _ = fleet.engines[1].run(&["rm", "-f", "late"]);
                None
            })
    })?;
    reaches(&fleet.engines[0], "web", &["ping", "-c1", "late"])?;
    ensure!(page(&fleet.engines[0], "web", "other")? == "other");

    // A host that leaves in order takes its records along, and its addresses are free.
    let gone = fleet.engines.remove(0);
    let left = gone.finish()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    eventually("the address is free", PATIENCE_SECS, || {
        let done = fleet.engines[0].run(&["run", "--rm", "--network", "wide", "--ip", &before, BUSYBOX, "true"]).ok()?;
        (done.code == 0 || done.stderr.contains("user specified IP address")).then_some(())
    })?;
    Ok(())
}

/// Settings that cannot be are refused with the way out, and an engine without a store says so.
#[test]
fn settings_are_checked() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    for (flags, words) in [
        (&["--cluster-store", "consul://x", "--cluster-advertise", "10.0.0.1"][..], "etcd://"),
        (&["--cluster-store", "etcd://10.0.0.1"], "--cluster-advertise"),
        (&["--cluster-advertise", "10.0.0.1"], "--cluster-store"),
        (&["--cluster-store", "etcd://10.0.0.1", "--cluster-advertise", "nope0"], "nope0"),
        (&["--cluster-store", "etcd://10.0.0.1", "--cluster-advertise", "10.0.0.2", "--cluster-ttl", "1s"], "5"),
        (&["--cluster-store", "etcds://10.0.0.1", "--cluster-advertise", "10.0.0.2"], "kv.cacertfile"),
        (&["--cluster-store", "etcd://10.0.0.1", "--cluster-advertise", "10.0.0.2", "--cluster-store-opt", "kv.nonsense=1"], "kv.nonsense"),
    ] {
        let root = Path::new("/nonexistent/cais");
        let done = Cmd::new(binary()?).args(["engine", "--config-file", "/dev/null", "--data-root"]).arg(root).args(flags).run()?;
        ensure!(done.code != 0 && done.stderr.contains(words), "{flags:?}: {done}");
    }
    let engine = Engine::with_busybox("alone")?;
    let done = engine.run(&["network", "create", "-d", "overlay", "wide"])?;
    ensure!(done.code == 1 && done.stderr.contains("--cluster-store"), "{done}");
    Ok(())
}
