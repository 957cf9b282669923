//! The project's own tasks: `cargo xtask test | tidy | demo | bench | vm`.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod packages;
mod test;
mod tidy;
mod tools;
mod vm;

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  test            everything a change has to pass: tidy, format, lints, licences, all tests; looks for what was left behind
  tidy            the rules that no compiler checks
  demo [--keep]   a web service in a container, from packages to a page, with every command shown
  bench [--quick] speed and memory against the engines that are installed
  vm              a container on cgroup v2, in an emulated machine
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "one thread, at the start: every task works from the root of the checkout")]
fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    std::env::set_current_dir(root()?).context("enter the checkout")?;
    match words[..] {
        ["test"] => test::run(),
        ["tidy"] => tidy::run(),
        ["demo"] => demo::run(false),
        ["demo", "--keep"] => demo::run(true),
        ["bench"] => bench::run(false),
        ["bench", "--quick"] => bench::run(true),
        ["vm"] => vm::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown task: {}\n{USAGE}", words.join(" ")),
    }
}

/// The checkout that this program was built from.
fn root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).context("the checkout of this task")
}

/// The cargo that runs this task.
fn cargo() -> tests::sh::Cmd {
    tests::sh::Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The folder of built programs for a profile (`debug`, `release`).
fn built(profile: &str) -> Result<PathBuf> {
    let metadata = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).ok()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata.stdout).context("read cargo's metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(target).join(TRIPLE).join(profile))
}

/// The only platform so far; .cargo/config.toml builds for it.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
