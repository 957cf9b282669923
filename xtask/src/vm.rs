//! `cargo xtask vm`: containers on cgroup v2, in an emulated machine.

use crate::{built, cargo, packages};
use anyhow::Result;
use tests::sh::Cmd;
use tests::vm;

/// Boots the machine with a freshly built binary and shows each check.
pub fn run() -> Result<()> {
    packages::ensure(packages::FOR_TESTS)?;
    prepare()?;
    cargo().args(["build", "--quiet", "--locked", "-p", "cais"]).pass()?;
    let report = vm::smoke(&built("debug")?.join("cais"))?;
    for (name, fault) in &report.checks {
        println!("{:28} {}", name, fault.as_deref().unwrap_or("ok"));
    }
    report.judge()?;
    println!("{} passed, 0 failed", report.checks.len());
    Ok(())
}

/// Has the kernel in the cache, so that no test waits for a download.
pub fn prepare() -> Result<()> {
    if vm::kernel().is_err() {
        Cmd::new("apt-get").args(["-qq", "update"]).ok()?;
        vm::kernel()?;
    }
    Ok(())
}
