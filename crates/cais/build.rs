//! Builds the small program of crate `monitor` (`cais-monitor`, `cais-runtime`, `cais-init`) and tells where it is, so that `cais` can embed it:
//! `include_bytes!(env!("CAIS_MONITOR_ELF"))`.
//!
//! It is always optimised for size, whatever the profile of `cais` itself: each container pays for its pages. Only the slow link-time optimisation
//! is left to release builds. The nested cargo works in a target folder of its own below OUT_DIR, because the outer one holds the lock of the usual one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "cais-monitor";
/// Whatever the program is made of.
const SOURCES: [&str; 5] = ["crates/monitor", "crates/runtime", "crates/cgroup", "crates/kernel", "crates/types"];
const SETTINGS: [&str; 3] = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"];

fn main() {
    let workspace = workspace();
    for source in SOURCES {
        // Not the tests: they change nothing in the program.
        println!("cargo:rerun-if-changed={}", workspace.join(source).join("src").display());
        println!("cargo:rerun-if-changed={}", workspace.join(source).join("Cargo.toml").display());
    }
    for setting in SETTINGS {
        println!("cargo:rerun-if-changed={}", workspace.join(setting).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    let elf = build(&workspace);
    println!("cargo:rustc-env=CAIS_MONITOR_ELF={}", elf.display());
}

fn workspace() -> PathBuf {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    match here.parent().and_then(Path::parent) {
        Some(root) => root.to_owned(),
        None => fail(&format!("{} is not two levels below the workspace", here.display())),
    }
}

/// Runs the nested cargo and answers the program's path.
fn build(workspace: &Path) -> PathBuf {
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("monitor");
    let triple = variable("TARGET");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(workspace).arg("build").args(["--release", "--package", "monitor", "--bin", PROGRAM]).args(["--target", &triple]);
    cargo.arg("--target-dir").arg(&target_dir);
    // Nothing is fetched: whatever this needs, `cais` needs too, so it is there already.
    cargo.args(["--locked", "--offline"]);
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_outer_build(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let (lto, units) = if variable("PROFILE") == "release" { ("fat", "1") } else { ("off", "16") };
    for (name, value) in
        [("OPT_LEVEL", "s"), ("PANIC", "abort"), ("STRIP", "symbols"), ("DEBUG", "0"), ("LTO", lto), ("CODEGEN_UNITS", units)]
    {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    match cargo.status() {
        Ok(status) if status.success() => target_dir.join(triple).join("release").join(PROGRAM),
        Ok(status) => fail(&format!("the nested build of {PROGRAM} ended with {status}")),
        Err(error) => fail(&format!("run cargo to build {PROGRAM}: {error}")),
    }
}

/// What cargo (or clippy) sets for this build script is not meant for another build: flags, wrappers, features, the profile.
fn is_of_the_outer_build(name: &str) -> bool {
    let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR"];
    let of_cargo = name.starts_with("CARGO") || matches!(name, "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "CLIPPY_ARGS");
    let of_this_package = matches!(name, "TARGET" | "HOST" | "OUT_DIR" | "PROFILE" | "OPT_LEVEL" | "DEBUG" | "NUM_JOBS");
    (of_cargo && !kept.contains(&name)) || of_this_package
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| fail(&format!("{name}: {error}")))
}

fn fail(text: &str) -> ! {
    eprintln!("{text}");
    std::process::exit(1)
}
