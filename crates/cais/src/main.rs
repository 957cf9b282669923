//! The one program: client, engine, runtime and network helper, told apart by the first argument or by the name it is called under.
#![forbid(unsafe_code)]

mod background;
mod cluster_options;
mod control;
mod network;
mod options;
mod registry;
mod serve;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// The small program of monitors, the OCI runtime and `--init`.
static MONITOR_ELF: &[u8] = include_bytes!(env!("CAIS_MONITOR_ELF"));

/// Commands of the host, beside those of the client.
static HOOKS: cli::Hooks = cli::Hooks {
    start_engine: background::start,
    commands: &[
        ("engine", "Run the engine, or stop it and ask how it is: engine [stop|status]"),
        ("registry", "Serve a registry of one's own, and look after it: registry serve|gc|fsck|…"),
        ("runtime", "Run an OCI bundle: the runtime's own command line"),
    ],
};

/// Exit code of a command line or a machine that the engine cannot work with.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let rest: Vec<OsString> = args.collect();
    match (name.as_str(), rest.first().and_then(|word| word.to_str())) {
        ("cais-runtime", _) => runtime(rest),
        ("caisd", _) => host(&rest),
        ("docker", _) => client(name, rest),
        (_, Some("runtime")) => runtime(rest.into_iter().skip(1).collect()),
        (_, Some("engine")) => host(&rest[1..]),
        (_, Some("registry")) => registry::main(&rest[1..]),
        (_, Some("netd")) => net::netd::main(rest.into_iter().skip(1), keep),
        _ => client("cais".to_owned(), rest),
    }
}

fn client(name: String, rest: Vec<OsString>) -> ExitCode {
    let args = [OsString::from(name)].into_iter().chain(rest).collect();
    ExitCode::from(cli::main(args, &HOOKS).clamp(0, 255) as u8)
}

/// What netd keeps up while the engine is away: the sign of life of this host among those that share networks.
fn keep(what: &str, wanted: &dyn Fn() -> bool) {
    let Ok(keeper) = serde_json::from_str::<cluster::Keeper>(what) else { return };
    // Whatever ends it, the engine sees the lease end and gets another.
    let _ = keeper.run_blocking(wanted);
}

/// Becomes the runtime, from memory: what enters a container is never a file of the host.
fn runtime(args: Vec<OsString>) -> ExitCode {
    let error = match monitor::Program::seal(MONITOR_ELF) {
        Ok(program) => program.become_named("cais-runtime", args),
        Err(error) => error,
    };
    eprintln!("cais runtime: {}", types::error::chain(&error));
    ExitCode::from(FAILED)
}

fn host(args: &[OsString]) -> ExitCode {
    match control::main(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cais engine: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
