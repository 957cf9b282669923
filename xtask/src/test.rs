//! Everything that a change has to pass, and a look around afterwards for what the tests left behind.

use crate::{built, cargo, packages, tidy, tools, vm};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use tests::leaks::Machine;
use tests::sh::{Cmd, eventually, which};
use tests::{Client, image};

/// Where .config/nextest.toml has nextest write what every test printed.
const REPORT: &str = "target/nextest/default/junit.xml";
const LEFT_GRACE_SECS: u64 = 5;

/// Runs it all; the first failure ends it, but the tests themselves run to their end.
pub fn run() -> Result<()> {
    let started = Instant::now();
    step("what the tests need", || {
        packages::ensure(packages::FOR_TESTS)?;
        println!("   docker client: {}", docker_version()?);
        Ok(())
    })?;
    step("tidy", tidy::run)?;
    step("format", || cargo().args(["fmt", "--all", "--check"]).pass())?;
    let nextest = tools::nextest();
    let cais = step("build", || build(nextest.as_deref()))?;
    step("lints", || cargo().args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]).pass())?;
    step("licences and bans", deny)?;
    step("base images", || {
        println!("   {}", image::busybox()?.display());
        vm::prepare()
    })?;
    let before = Machine::look();
    let outcome = step("tests", || tests(nextest.as_deref(), &cais));
    let left = step("what is left behind", || leaks(&before));
    println!("== {:.0} s in all", started.elapsed().as_secs_f64());
    let skipped = outcome?;
    left?;
    judge(&skipped)
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let started = Instant::now();
    let outcome = work().with_context(|| name.to_owned());
    let secs = started.elapsed().as_secs_f64();
    if secs > 1.0 {
        println!("   {secs:.0} s");
    }
    outcome
}

fn docker_version() -> Result<String> {
    let program = Client::Docker.program()?;
    let version = Cmd::new(&program).arg("--version").ok()?;
    Ok(format!("{} ({})", version.text(), program.display()))
}

/// Builds the binary under test and the tests; answers where the binary is.
fn build(nextest: Option<&Path>) -> Result<PathBuf> {
    // Of other platforms too: the check of licences works offline and wants the whole graph.
    cargo().args(["fetch", "--quiet", "--locked"]).pass()?;
    cargo().args(["build", "--quiet", "--locked", "-p", "cais"]).pass()?;
    match nextest {
        Some(nextest) => Cmd::new(nextest).args(["nextest", "run", "--locked", "--workspace", "--no-run", "--cargo-quiet"]).pass()?,
        None => cargo().args(["test", "--quiet", "--locked", "--workspace", "--no-run"]).pass()?,
    }
    Ok(built("debug")?.join("cais"))
}

fn deny() -> Result<()> {
    let deny = tools::deny()?;
    Cmd::new(&deny).args(["--locked", "--offline", "--log-level", "error", "check", "licenses", "bans", "sources"]).pass()?;
    // The database of advisories is a repository that a run does not fetch by itself; `cargo deny fetch` does.
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = cargo_home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        Cmd::new(&deny).args(["--locked", "--offline", "--log-level", "error", "check", "--disable-fetch", "advisories"]).pass()?;
    } else {
        println!("   advisories: not checked, there is no database of them here (cargo deny fetch)");
    }
    Ok(())
}

/// Runs every test; answers the reasons of those that were skipped.
fn tests(nextest: Option<&Path>, cais: &Path) -> Result<Vec<String>> {
    let Some(nextest) = nextest else { return plain_tests(cais) };
    drop(fs::remove_file(REPORT));
    let ran = Cmd::new(nextest)
        .args(["nextest", "run", "--locked", "--workspace", "--cargo-quiet", "--show-progress", "none"])
        .env("CAIS_BIN", cais)
        .env("RUST_BACKTRACE", "0")
        .pass();
    ran?;
    let report = fs::read_to_string(REPORT).with_context(|| format!("read {REPORT}"))?;
    Ok(skips(&report))
}

/// The way without nextest: threads rather than processes, the same tests.
fn plain_tests(cais: &Path) -> Result<Vec<String>> {
    println!("   cargo-nextest is not to be had: cargo test");
    let log = built("debug")?.join("tests.log");
    let file = fs::File::create(&log)?;
    let mut child = cargo()
        .args(["test", "--locked", "--workspace", "--no-fail-fast", "--", "--show-output", "--test-threads", "2"])
        .env("CAIS_BIN", cais)
        .env("RUST_BACKTRACE", "0")
        .spawn(Stdio::from(file.try_clone()?), Stdio::from(file))?;
    let status = child.wait()?;
    let text = fs::read_to_string(&log)?;
    print!("{text}");
    if !status.success() {
        bail!("tests failed");
    }
    Ok(skips(&text))
}

fn skips(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once("SKIP: ")).map(|(_, reason)| reason);
    lines.map(|reason| reason.trim().trim_end_matches("</system-err>").to_owned()).collect()
}

/// What is on the machine now and was not before. Kernels destroy namespaces in the background, hence the patience.
fn leaks(before: &Machine) -> Result<()> {
    let clean = eventually("nothing new", LEFT_GRACE_SECS, || Machine::look().since(before).is_empty().then_some(()));
    if clean.is_err() {
        let left = Machine::look().since(before);
        bail!("the tests left on the machine:\n   {}", left.join("\n   "));
    }
    println!(
        "   nothing: no mount, link, table, cgroup, process or file{}",
        if which("nft").is_none() { " (tables not seen: no nft)" } else { "" }
    );
    Ok(())
}

/// A skipped test is a hole. On a person's machine it is shown; in continuous integration only the holes that ARCHITECTURE.md
/// explains are let through.
fn judge(skipped: &[String]) -> Result<()> {
    let allowed = tidy::allowed_skips()?;
    let (known, unknown): (Vec<_>, Vec<_>) =
        skipped.iter().partition(|reason| allowed.iter().any(|prefix| reason.starts_with(prefix.as_str())));
    println!("== skipped: {} allowed, {} not", known.len(), unknown.len());
    for reason in known.iter().chain(&unknown) {
        println!("   SKIP: {reason}");
    }
    if !unknown.is_empty() && std::env::var("CI").is_ok_and(|value| value == "true") {
        bail!("tests were skipped for reasons that ARCHITECTURE.md does not list");
    }
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::skips;

    #[test]
    fn skips_are_found_in_a_report() {
        let report = "<system-err>SKIP: not root</system-err>\nother\nx SKIP: no kvm\n";
        assert_eq!(skips(report), ["not root", "no kvm"]);
    }
}
