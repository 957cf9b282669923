//! One small program with three names: `cais-monitor` (one per container), `cais-runtime` (the OCI runtime's command line) and `cais-init`
//! (the first process of containers that want one).

#![forbid(unsafe_code)]

mod init;
mod program;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = if args.is_empty() { OsString::new() } else { args.remove(0) };
    let code = match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("cais-monitor") => program::run(),
        Some("cais-runtime") => runtime::cli::main(&args),
        Some("cais-init" | "docker-init" | "init") => init::run(&args),
        _ => {
            eprintln!("this program is started as cais-monitor, cais-runtime or cais-init");
            125
        }
    };
    // An exit code is what fits into eight bits; -1 and the like are failures.
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
