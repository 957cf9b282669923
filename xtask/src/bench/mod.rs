//! `cargo xtask bench`: speed and memory against the engines and runtimes that are installed, interleaved in one run.
//!
//! Everything happens in a mount and a network namespace of its own, so that no peer touches the machine's firewall, and so that
//! crun gets the hugetlb hierarchy that it insists on.

mod bundle;
mod peers;
mod report;
mod work;

use crate::{built, cargo, packages};
use anyhow::{Context, Result, bail, ensure};
use peers::{Peer, Runtime};
use report::{Report, Row, Unit};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use tests::image;
use tests::sh::Cmd;

/// Set for the program that runs inside the namespaces: the folder of everything that it makes.
const INSIDE: &str = "CAIS_BENCH_INSIDE";
const HUGETLB: &str = "/sys/fs/cgroup/hugetlb";
const PEER_GROUPS: [&str; 7] = ["docker", "libpod_parent", "libpod", "cais-runtime", "bench-cais", "bench-crun", "bench-runc"];
const OUT: &str = "bench/out";
const SETTLE: Duration = Duration::from_secs(2);

/// How many samples of each kind are taken.
struct Size {
    runs: usize,
    execs: usize,
    many: usize,
    listed: usize,
    idle: usize,
    log_megabytes: usize,
    copied: usize,
    committed_megabytes: usize,
    watched: usize,
}

const FULL: Size = Size {
    runs: 21,
    execs: 21,
    many: 40,
    listed: 1000,
    idle: 20,
    log_megabytes: 202,
    copied: 10_000,
    committed_megabytes: 500,
    watched: 100,
};
const QUICK: Size =
    Size { runs: 7, execs: 7, many: 10, listed: 50, idle: 8, log_megabytes: 20, copied: 1000, committed_megabytes: 50, watched: 10 };

/// Runs the benchmark, prints its table, and writes the samples and the plot.
pub fn run(quick: bool) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes containers: run it as root");
    let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) else { return outside(quick) };
    Cmd::new("ip").args(["link", "set", "lo", "up"]).ok()?;
    let hugetlb = mount_hugetlb();
    let foreign = peer_groups();
    let outcome = measure(if quick { &QUICK } else { &FULL }, &dir);
    for group in peer_groups().difference(&foreign) {
        remove_group(group);
    }
    if hugetlb {
        // A hierarchy goes away with its mount only when its last group has really ended.
        sleep(SETTLE);
        let _ = rustix::mount::unmount(HUGETLB, rustix::mount::UnmountFlags::empty());
        drop(fs::remove_dir(HUGETLB));
    }
    let report = outcome?;
    report.print();
    report.write(Path::new(OUT))
}

/// Builds, then runs this program again inside its namespaces.
fn outside(quick: bool) -> Result<()> {
    packages::ensure(packages::FOR_BENCH)?;
    println!("$ cargo build --release -p cais");
    cargo().args(["build", "--release", "--quiet", "--locked", "-p", "cais"]).pass()?;
    let own = std::env::current_exe()?;
    let unshare = Cmd::new("unshare").args(["--mount", "--net", "--propagation", "private"]).arg(own).arg("bench");
    let unshare = if quick { unshare.arg("--quick") } else { unshare };
    let dir = std::env::temp_dir().join(format!("cais-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = unshare.env(INSIDE, &dir).env("CAIS_BIN", built("release")?.join("cais")).pass();
    // Only out here, where what the peers left mounted is not.
    drop(fs::remove_dir_all(&dir));
    outcome
}

/// crun refuses hybrid control groups without a v1 hierarchy of hugetlb.
fn mount_hugetlb() -> bool {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new(HUGETLB).exists() {
        return false;
    }
    let mounted =
        fs::create_dir(HUGETLB).is_ok() && Cmd::new("mount").args(["-t", "cgroup", "-o", "hugetlb", "none", HUGETLB]).ok().is_ok();
    if !mounted {
        drop(fs::remove_dir(HUGETLB));
    }
    mounted
}

/// The parents of containers' control groups, which engines and runtimes do not remove.
fn peer_groups() -> BTreeSet<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    all.flat_map(|root| PEER_GROUPS.map(|name| root.join(name))).filter(|group| group.is_dir()).collect()
}

/// Removes a group and those below it; one that has a process stays.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

fn measure(size: &Size, dir: &Path) -> Result<Report> {
    let tar = image::busybox()?;
    let mut peers = peers::start_all(dir, &tar)?;
    let mut report = Report::new(peers.iter().map(Peer::version).collect());
    let outcome = rows(size, dir, &peers, &mut report);
    for peer in &mut peers {
        if let Err(error) = peer.stop() {
            eprintln!("{}: {error:#}", peer.name());
        }
    }
    outcome.map(|()| report)
}

fn rows(size: &Size, dir: &Path, peers: &[Peer], report: &mut Report) -> Result<()> {
    sleep(SETTLE);
    report.add(memory_of_engines("engine after its start", peers));
    for network in ["bridge", "none", "host"] {
        let name = format!("run --rm busybox true, {network}");
        report.add(timed(&name, peers, size.runs, |peer| peer.run(&["--rm", "--network", network], &["true"])));
    }
    runtimes(size, dir, report)?;
    execs(size, peers, report)?;
    lists(size, peers, report)?;
    many(size, peers, report)?;
    idle(size, peers, report)?;
    work::rows(size, dir, peers, report)?;
    sleep(SETTLE);
    report.add(memory_of_engines("engine at rest after all this", peers));
    Ok(())
}

/// A row of wall times: each round asks every peer once. A peer that fails is left out of the row, with its words on stderr.
fn timed(name: &str, peers: &[Peer], rounds: usize, command: impl Fn(&Peer) -> Cmd) -> Row {
    println!("   {name}");
    let mut row = Row::new(name, Unit::Milliseconds);
    for peer in peers {
        // The first one warms caches and shows whether the peer can do this at all.
        if let Err(error) = command(peer).ok() {
            eprintln!("   {}: {error:#}", peer.name());
            row.cannot(peer.name());
        }
    }
    for _ in 0..rounds {
        for peer in peers {
            if row.can(peer.name()) {
                match time(command(peer)) {
                    Ok(took) => row.sample(peer.name(), took),
                    Err(error) => eprintln!("   {}: {error:#}", peer.name()),
                }
            }
        }
    }
    row
}

/// Milliseconds of one command that works, its streams to nowhere. Blocks in wait(2): a poll would add its own pause.
fn time(cmd: Cmd) -> Result<f64> {
    use std::process::Stdio;
    let line = cmd.line();
    let mut inner = cmd.into_inner();
    inner.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = std::time::Instant::now();
    let status = inner.status().with_context(|| format!("run `{line}`"))?;
    let took = started.elapsed();
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(took.as_secs_f64() * 1e3)
}

/// One bundle, run by each OCI runtime.
fn runtimes(size: &Size, dir: &Path, report: &mut Report) -> Result<()> {
    let name = "run of a bundle by the bare runtime";
    println!("   {name}");
    let bundle = bundle::make(&dir.join("bundle"))?;
    let runtimes: Vec<_> = Runtime::installed(dir)?;
    let mut row = Row::new(name, Unit::Milliseconds);
    for runtime in &runtimes {
        if let Err(error) = runtime.run(&bundle).ok() {
            eprintln!("   {}: {error:#}", runtime.name());
            row.cannot(runtime.name());
        }
    }
    for _ in 0..size.runs {
        for runtime in runtimes.iter().filter(|runtime| row.can(runtime.name())).collect::<Vec<_>>() {
            let took = time(runtime.run(&bundle))?;
            row.sample(runtime.name(), took);
        }
    }
    report.add(row);
    Ok(())
}

fn execs(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    for peer in peers {
        peer.run(&["-d", "--name", "one"], &["sleep", "3600"]).ok()?;
    }
    report.add(timed("exec CONTAINER true", peers, size.execs, |peer| peer.cmd(&["exec", "one", "true"])));
    report.add(timed("ps with 1 container", peers, size.execs, |peer| peer.cmd(&["ps"])));
    for peer in peers {
        peer.remove(&["one"]).ok()?;
    }
    Ok(())
}

/// `ps -a` over many containers that were only created.
fn lists(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    println!("   creating {} containers each", size.listed);
    for peer in peers {
        for _ in 0..size.listed {
            peer.create(&["--network", "none"], &["true"]).ok()?;
        }
    }
    report.add(timed(&format!("ps -a with {} containers", size.listed), peers, size.execs.min(9), |peer| peer.cmd(&["ps", "-a"])));
    for peer in peers {
        remove_all(peer)?;
    }
    Ok(())
}

fn many(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    let names: Vec<_> = (0..size.many).map(|number| format!("many{number}")).collect();
    let mut start = Row::new(&format!("{} × run -d, one after the other", size.many), Unit::Milliseconds);
    let mut remove = Row::new(&format!("rm -f of {} running containers", size.many), Unit::Milliseconds);
    println!("   {}", start.name());
    for peer in peers {
        let mut total = 0.0;
        for name in &names {
            total += time(peer.run(&["-d", "--name", name], &["sleep", "3600"]))?;
        }
        start.sample(peer.name(), total);
        let all: Vec<_> = names.iter().map(String::as_str).collect();
        remove.sample(peer.name(), time(peer.remove(&all))?);
    }
    report.add(start);
    report.add(remove);
    Ok(())
}

/// What the process costs that stands behind each idle container: the parent of its first process.
fn idle(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    let mut row = Row::new("memory per idle container, PSS", Unit::Megabytes);
    println!("   {}", row.name());
    for peer in peers {
        let names: Vec<_> = (0..size.idle).map(|number| format!("idle{number}")).collect();
        for name in &names {
            peer.run(&["-d", "--name", name], &["sleep", "3600"]).ok()?;
        }
        sleep(SETTLE);
        for name in &names {
            let pid = peer.cmd(&["inspect", "-f", "{{.State.Pid}}", name]).ok()?;
            if let Some(pss) = parent(pid.text()).and_then(|parent| memory(&parent, "smaps_rollup", "Pss:")) {
                row.sample(peer.name(), pss);
            }
        }
        remove_all(peer)?;
    }
    report.add(row);
    Ok(())
}

fn remove_all(peer: &Peer) -> Result<()> {
    let ids = peer.cmd(&["ps", "-aq"]).ok()?.stdout;
    let ids: Vec<_> = ids.split_whitespace().collect();
    for some in ids.chunks(200) {
        peer.remove(some).timeout(Duration::from_secs(600)).ok()?;
    }
    Ok(())
}

fn memory_of_engines(name: &str, peers: &[Peer]) -> Row {
    let mut row = Row::new(&format!("{name}, RSS"), Unit::Megabytes);
    for peer in peers {
        let pids = peer.engine_pids();
        if !pids.is_empty() {
            row.sample(peer.name(), pids.iter().filter_map(|pid| memory(pid, "status", "VmRSS:")).sum());
        }
    }
    row
}

fn parent(pid: &str) -> Option<String> {
    let status = fs::read_to_string(PathBuf::from("/proc").join(pid).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")).map(|parent| parent.trim().to_owned())
}

/// Megabytes of a field that the kernel gives in kibibytes.
fn memory(pid: &str, file: &str, field: &str) -> Option<f64> {
    let text = fs::read_to_string(PathBuf::from("/proc").join(pid).join(file)).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = value.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}
