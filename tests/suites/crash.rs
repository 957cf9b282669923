//! Containers outlive the engine: SIGKILL at any instant, then every record, log, port and exit code is right.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::engine::BUSYBOX;
use tests::http::{self, free_port};
use tests::sh::{Cmd, eventually};
use tests::{Engine, skip_unless_root};

const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
const WEB: &str = "mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www";

/// One container that counts into its log, one that serves a page, one that goes away with its process: after SIGKILL and a new
/// start all are as if nothing had happened.
#[test]
fn running_containers_survive() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("survive")?;
    let port = free_port()?;
    engine.ok(&["run", "-d", "--name", "counter", BUSYBOX, "sh", "-c", COUNTER])?;
    engine.ok(&["run", "-d", "--rm", "--name", "web", "-p", &format!("{port}:80"), BUSYBOX, "sh", "-c", WEB])?;
    page(port)?;
    let pid = engine.inspect("counter", "{{.State.Pid}}")?;
    let started = engine.inspect("counter", "{{.State.StartedAt}}")?;

    engine.kill()?;
    page(port).context("while no engine runs")?;
    sleep(Duration::from_millis(300));
    engine.restart()?;

    ensure!(engine.ok(&["ps", "--format", "{{.Names}}"])?.stdout.split_whitespace().count() == 2);
    ensure!(engine.inspect("counter", "{{.State.Pid}} {{.State.StartedAt}}")? == format!("{pid} {started}"));
    page(port).context("after the engine came back")?;
    ensure!(engine.ok(&["exec", "counter", "echo", "inside"])?.text() == "inside");
    ensure!(engine.run(&["exec", "counter", "sh", "-c", "exit 6"])?.code == 6);
    ensure!(engine.ok(&["port", "web", "80"])?.stdout.contains(&port.to_string()));
    let taken = engine.run(&["run", "--rm", "-p", &format!("{port}:80"), BUSYBOX, "true"])?;
    ensure!(taken.code == 125, "the port was given away: {taken}");
    engine.ok(&["stop", "-t", "0", "counter"])?;
    ensure!(engine.inspect("counter", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 137");
    whole_log(&engine, "counter")?;
    engine.ok(&["stop", "-t", "0", "web"])?;
    eventually("the container of --rm is gone", 10, || engine.run(&["inspect", "web"]).ok().filter(|done| done.code == 1))?;
    engine.ok(&["start", "counter"])?;
    ensure!(engine.inspect("counter", "{{.State.Running}}")? == "true");
    Ok(())
}

/// A removal that a crash interrupts is finished as it was asked for: without `-v`, anonymous volumes stay.
#[test]
fn an_interrupted_removal_takes_no_volumes_that_were_to_stay() -> Result<()> {
    const CONTAINERS: usize = 12;
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("removal")?;
    for round in 1..=3 {
        let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{round}-{number}")).collect();
        for name in &names {
            engine.ok(&["create", "--name", name, "-v", "/data", BUSYBOX, "true"])?;
        }
        let removals: Result<Vec<_>> =
            names.iter().map(|name| engine.cais().args(["rm", name.as_str()]).spawn(Stdio::null(), Stdio::null())).collect();
        sleep(Duration::from_millis(10 * round));
        engine.kill()?;
        for mut removal in removals? {
            removal.wait()?;
        }
        engine.restart()?;
        let left = engine.ok(&["volume", "ls", "-q"])?.stdout.lines().count();
        ensure!(left == CONTAINERS * round as usize, "{left} volumes are left of {}", CONTAINERS * round as usize);
        for name in &names {
            // Some are gone already.
            engine.run(&["rm", name])?;
        }
    }
    engine.ok(&["volume", "prune", "-f"])?;
    Ok(())
}

/// What ends while no engine runs is reported with its exit code; what had `--rm` is gone.
#[test]
fn exits_in_between_are_kept() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("exits")?;
    engine.ok(&["run", "-d", "--name", "nine", BUSYBOX, "sh", "-c", "sleep 0.5; echo last words; exit 9"])?;
    engine.ok(&["run", "-d", "--rm", "--name", "gone", BUSYBOX, "sleep", "0.5"])?;
    engine.ok(&["run", "-d", "--name", "again", "--restart", "on-failure", BUSYBOX, "sh", "-c", "sleep 0.5; exit 1"])?;
    engine.kill()?;
    sleep(Duration::from_millis(1500));
    engine.restart()?;
    ensure!(engine.inspect("nine", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 9");
    ensure!(engine.ok(&["wait", "nine"])?.text() == "9");
    ensure!(engine.ok(&["logs", "nine"])?.text() == "last words");
    let finished = engine.inspect("nine", "{{.State.FinishedAt}}")?;
    ensure!(finished.starts_with("20"), "it ended at {finished}");
    eventually("the container of --rm is gone", 10, || engine.run(&["inspect", "gone"]).ok().filter(|done| done.code == 1))?;
    eventually("the restart policy went on", 20, || {
        let count = engine.inspect("again", "{{.RestartCount}}").ok()?;
        count.parse::<u32>().ok().filter(|&count| count > 0)
    })?;
    Ok(())
}

/// `attach` with standard input works on a container that an earlier engine started, and so do `pause` and `update`.
#[test]
fn streams_and_limits_after_a_restart() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("streams")?;
    engine.ok(&["run", "-d", "-i", "--name", "cat", BUSYBOX, "cat"])?;
    engine.kill()?;
    engine.restart()?;
    engine.ok(&["pause", "cat"])?;
    ensure!(engine.inspect("cat", "{{.State.Status}}")? == "paused");
    engine.kill()?;
    engine.restart()?;
    ensure!(engine.inspect("cat", "{{.State.Status}}")? == "paused", "the pause was forgotten");
    engine.ok(&["unpause", "cat"])?;
    engine.ok(&["update", "-m", "64m", "--memory-swap", "64m", "cat"])?;
    // The end of the input would end the attachment before the answer is there, as it does with docker.
    let script = format!("(echo through; sleep 2) | timeout -s KILL 3 {} attach cat", engine.cais().line());
    let attached = Cmd::new("sh").args(["-c", &script]).run()?;
    ensure!(attached.stdout == "through\n", "{attached:?}");
    ensure!(engine.ok(&["logs", "cat"])?.stdout == "through\n");
    Ok(())
}

/// A `stop` whose engine dies ends at its deadline all the same.
#[test]
fn stop_ends_without_the_engine() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("stop")?;
    engine.ok(&["run", "-d", "--name", "deaf", BUSYBOX, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])?;
    let pid = engine.inspect("deaf", "{{.State.Pid}}")?;
    let mut stop = engine.cais().args(["stop", "-t", "1", "deaf"]).spawn(Stdio::null(), Stdio::null())?;
    sleep(Duration::from_millis(300));
    let asked = Instant::now();
    engine.kill()?;
    drop(stop.wait());
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "it was killed before its time");
    eventually("it is killed at its deadline", 5, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))?;
    ensure!(asked.elapsed() < Duration::from_secs(4));
    engine.restart()?;
    ensure!(engine.inspect("deaf", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 137");
    Ok(())
}

/// SIGKILL at many instants of `create` and `start` leaves nothing half-made: what is listed can be inspected, started and
/// removed, and its name can be taken again.
#[test]
fn killed_while_creating_and_starting() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("midway")?;
    for round in 0..16_u64 {
        let rm: &[&str] = if round % 2 == 0 { &["--rm"] } else { &[] };
        let flags =
            [&["run", "-d", "--name", "midway", "-v", "data:/data", "-p", "127.0.0.1::80"], rm, &[BUSYBOX, "sleep", "300"]].concat();
        let mut client = engine.cais().args(&flags).spawn(Stdio::null(), Stdio::null())?;
        sleep(Duration::from_millis(3 + 4 * round));
        engine.kill()?;
        drop(client.wait());
        engine.restart().with_context(|| format!("round {round}"))?;
        let ids = engine.ok(&["ps", "-aq", "--no-trunc"])?.stdout;
        for id in ids.split_whitespace() {
            let state = engine.inspect(id, "{{.State.Status}} {{.State.Pid}}")?;
            let alive = state.strip_prefix("running ").map(|pid| Path::new(&format!("/proc/{pid}")).exists());
            ensure!(alive != Some(false), "round {round}: {state}, and there is no such process");
            engine.ok(&["rm", "-f", id]).with_context(|| format!("round {round}: {state}"))?;
        }
        engine.ok(&["run", "--name", "midway", BUSYBOX, "true"]).with_context(|| format!("round {round}: the name"))?;
        engine.ok(&["rm", "midway"])?;
    }
    engine.ok(&["volume", "rm", "-f", "data"])?;
    let containers = engine.data_root().join("containers");
    let left = fs::read_dir(&containers).map(|entries| entries.flatten().count()).unwrap_or(0);
    ensure!(left == 0, "{left} folders are left in {}", containers.display());
    Ok(())
}

/// A killed monitor is noticed: its container's processes end, and the record says what happened.
#[test]
fn killed_monitor() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("monitor")?;
    engine.ok(&["run", "-d", "--name", "orphan", BUSYBOX, "sh", "-c", "sleep 300 & sleep 300"])?;
    let pid = engine.inspect("orphan", "{{.State.Pid}}")?;
    kill(parent(&pid)?)?;
    eventually("the container's process is gone", 10, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))?;
    let state = eventually("the record says so", 10, || {
        let state = engine.inspect("orphan", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}").ok()?;
        (!state.starts_with("running")).then_some(state)
    })?;
    ensure!(!state.starts_with("exited 0"), "a lost container is reported as a good end: {state}");
    engine.ok(&["start", "orphan"])?;
    engine.ok(&["rm", "-f", "orphan"])?;
    Ok(())
}

/// After a reboot (a fresh run directory, no process left) nothing claims to run, restart policies are heeded, and what had `--rm`
/// is gone.
#[test]
fn reboot() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox("reboot")?;
    for (name, flag) in [("plain", "--restart=no"), ("always", "--restart=always"), ("gone", "--rm")] {
        engine.ok(&["run", "-d", "--name", name, flag, "-p", "127.0.0.1::80", BUSYBOX, "sleep", "300"])?;
    }
    let mut pids = Vec::new();
    for name in ["plain", "always", "gone"] {
        pids.push(engine.inspect(name, "{{.State.Pid}}")?);
    }
    engine.kill()?;
    for pid in &pids {
        // The monitor first: it must not see the end, as it would not in a power cut.
        kill(parent(pid)?)?;
        if let Ok(pid) = pid.parse::<i32>() {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
    eventually("they are gone", 10, || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(()))?;
    tests::leaks::kill_all_in(&engine.exec_root());
    fs::remove_dir_all(engine.exec_root())?;
    engine.restart()?;
    ensure!(
        engine.inspect("plain", "{{.State.Status}} {{.State.Pid}}")? == "exited 0"
            || engine.inspect("plain", "{{.State.Running}} {{.State.Pid}}")? == "false 0"
    );
    eventually("the restart policy is heeded", 20, || engine.inspect("always", "{{.State.Running}}").ok().filter(|state| state == "true"))?;
    ensure!(engine.run(&["inspect", "gone"])?.code == 1, "a container of --rm came back from the dead");
    engine.ok(&["start", "plain"])?;
    Ok(())
}

fn page(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually("the page is served", 10, || http::get(address, "/").ok().filter(|answer| answer.body == "page\n"))?;
    Ok(())
}

/// Every line of the counter is in the log, once and in order.
fn whole_log(engine: &Engine, name: &str) -> Result<()> {
    let log = engine.ok(&["logs", name])?.stdout;
    let mut expected = 0;
    for line in log.lines() {
        expected += 1;
        ensure!(line == format!("line {expected}"), "after line {} comes {line:?}", expected - 1);
    }
    ensure!(expected > 10, "only {expected} lines");
    Ok(())
}

fn parent(pid: &str) -> Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no parent")?;
    Pid::from_raw(parent.trim().parse()?).context("no parent")
}

fn kill(pid: Pid) -> Result<()> {
    ensure!(!pid.is_init(), "the container has no monitor");
    kill_process(pid, Signal::KILL)?;
    Ok(())
}
