//! Containers on cgroup v2 and an older kernel, in an emulated machine.

#![forbid(unsafe_code)]

use anyhow::Result;
use tests::{engine, sh, skip, vm};

/// The engine starts, limits hold, execs and exit codes are right, and containers outlive the engine there too.
#[test]
fn cgroup_v2() -> Result<()> {
    if sh::which("qemu-system-x86_64").is_none() {
        skip("no qemu-system-x86_64");
        return Ok(());
    }
    let report = vm::smoke(&engine::binary()?)?;
    for (name, fault) in &report.checks {
        println!("{name}: {}", fault.as_deref().unwrap_or("ok"));
    }
    report.judge()
}
