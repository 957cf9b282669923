//! Standby sandboxes: taken by starts on the default bridge, and gone when nobody needs them.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use std::path::Path;
use tests::Engine;
use tests::engine::BUSYBOX;
use tests::sh::eventually;

/// The run directories, those of standbys included.
fn runs(engine: &Engine) -> Vec<String> {
    let entries = std::fs::read_dir(engine.exec_root().join("containers")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until the pool is full.
fn full(engine: &Engine, number: usize) -> Result<Vec<String>> {
    let ready = |id: &&String| {
        // The interface is the last thing that is made.
        Path::new(&engine.exec_root()).join("containers").join(id).join("monitor.sock").exists()
    };
    eventually("the pool is full", 60, || Some(runs(engine)).filter(|ids| ids.iter().filter(ready).count() >= number))
}

fn engine(name: &str, standby: &str) -> Result<Engine> {
    let mut engine = Engine::with_busybox(name)?;
    engine.restart_with(&["--standby", standby])?;
    Ok(engine)
}

/// The next container is one of those that waited; it is in order in every way, and nothing is left behind.
#[test]
fn a_start_takes_a_standby() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let engine = engine("standby-taken", "2")?;
    ensure!(runs(&engine).is_empty(), "an engine at rest has standbys");
    engine.ok(&["run", "--rm", BUSYBOX, "true"])?;
    let waiting = full(&engine, 2)?;
    let mut taken = 0;
    for number in 0..4 {
        let name = format!("c{number}");
        engine.ok(&["run", "-d", "--name", &name, "-m", "32m", "-p", "80", "--hostname", "quay", BUSYBOX, "httpd", "-f", "-p", "80"])?;
        let id = engine.inspect(&name, "{{.Id}}")?;
        taken += usize::from(waiting.contains(&id));
        let shown = engine.ok(&["exec", &name, "sh", "-c", "hostname; ip -o -4 addr show eth0 | wc -l; cat /proc/self/cgroup"])?;
        ensure!(shown.text().starts_with("quay\n1\n") && shown.text().contains(&id), "{shown}");
        ensure!(engine.inspect(&name, "{{.NetworkSettings.IPAddress}}")? != "");
    }
    ensure!(taken >= 1, "none of {waiting:?} was taken");
    Ok(())
}

/// A container that is made and removed, or made and not started, gives its standby back.
#[test]
fn a_standby_is_given_back() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let engine = engine("standby-back", "1")?;
    engine.ok(&["run", "--rm", BUSYBOX, "true"])?;
    let waiting = full(&engine, 1)?;
    let id = eventually("a container takes the standby", 60, || {
        let id = engine.ok(&["create", "--name", "made", BUSYBOX, "echo", "late"]).ok()?.text().to_owned();
        // Its folder is there a little before it is ready.
        let taken = waiting.contains(&id);
        if !taken {
            engine.ok(&["rm", "made"]).ok()?;
        }
        taken.then_some(id)
    })?;
    // Nobody starts it: what waited for it goes, and it starts cold.
    eventually("the standby is given up", 60, || (!runs(&engine).contains(&id)).then_some(()))?;
    ensure!(engine.ok(&["start", "-a", "made"])?.text() == "late");
    engine.ok(&["rm", "made"])?;
    full(&engine, 1)?;
    let id = engine.ok(&["create", BUSYBOX, "true"])?.text().to_owned();
    engine.ok(&["rm", &id])?;
    ensure!(!runs(&engine).contains(&id), "a removed container left its standby");
    Ok(())
}

/// Killed, the engine leaves standbys that the next one removes; switched off, there are none.
#[test]
fn an_engine_that_is_killed_leaves_none() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut engine = engine("standby-killed", "2")?;
    engine.ok(&["run", "--rm", BUSYBOX, "true"])?;
    full(&engine, 2)?;
    engine.restart_with(&["--standby", "0"])?;
    ensure!(runs(&engine).is_empty(), "{:?} are left", runs(&engine));
    engine.ok(&["run", "--rm", BUSYBOX, "true"])?;
    engine.ok(&["run", "-d", "--name", "on", BUSYBOX, "sleep", "300"])?;
    ensure!(runs(&engine) == [engine.inspect("on", "{{.Id}}")?], "{:?}", runs(&engine));
    Ok(())
}

/// The time line of a start is told step by step, with the monitor's own among them.
#[test]
fn the_time_line_of_a_start() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("trace")?;
    let done = engine.ok(&["run", "--rm", "--trace-start", BUSYBOX, "echo", "out"])?;
    ensure!(done.stdout == "out\n", "{done}");
    let times: Vec<i64> = done.stderr.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    ensure!(times.len() >= 8 && times.is_sorted(), "{}", done.stderr);
    for who in ["client:", "engine: network ready", "monitor: program executed"] {
        ensure!(done.stderr.contains(who), "{who} is not in {}", done.stderr);
    }
    Ok(())
}
