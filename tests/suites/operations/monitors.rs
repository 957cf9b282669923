//! Monitors that are slow to answer.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use tests::engine::BUSYBOX;
use tests::sh::eventually;

use crate::with_engine;

/// The parent of a container's first process.
fn monitor_of(pid: &str) -> Result<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent.and_then(Pid::from_raw).context("a process has a parent")
}

/// Monitors that say nothing when the engine comes back hold up neither its start nor each other, and their containers are not ended.
#[test]
fn a_silent_monitor_keeps_its_container() -> Result<()> {
    with_engine("silent", |engine| {
        let mut silent = Vec::new();
        for name in ["one", "two", "three"] {
            engine.ok(&["run", "-d", "--name", name, BUSYBOX, "sleep", "300"])?;
            let pid = engine.inspect(name, "{{.State.Pid}}")?;
            silent.push((name, pid.clone(), monitor_of(&pid)?));
        }
        engine.kill()?;
        for (_, _, monitor) in &silent {
            kill_process(*monitor, Signal::STOP)?;
        }
        let restarted = engine.restart();
        let shown = engine.ok(&["ps", "-q"]);
        for (_, _, monitor) in &silent {
            kill_process(*monitor, Signal::CONT)?;
        }
        restarted?;
        ensure!(shown?.stdout.lines().count() == 3);
        for (name, pid, _) in &silent {
            eventually("the monitor is heard again", 60, || engine.run(&["exec", name, "true"]).ok().filter(|done| done.code == 0))?;
            ensure!(engine.inspect(name, "{{.State.Pid}} {{.State.Running}}")? == format!("{pid} true"));
        }
        Ok(())
    })
}
