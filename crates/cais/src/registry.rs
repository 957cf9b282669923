//! `cais registry`: serve a registry, and look after its folder.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cli::flags::{self, Flag, Matches, switch, text};
use registryd::{Options, Store};

use crate::serve::{StopSignals, described, raise_descriptor_limit};

const ROOT: &str = "/var/lib/cais-registry";
const ADDRESS: &str = "127.0.0.1:5000";
/// Threads for operations that wait for the disk.
const BLOCKING_THREADS_MAX: usize = 48;

const HELP: &str = "Usage:  cais registry COMMAND

Serves an OCI registry, and looks after its folder

Commands:
  serve       Serve a registry

Run 'cais registry COMMAND --help' for more information on a command.
";

/// One command below `cais registry`.
struct Command {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    run: fn(&Matches) -> Result<ExitCode>,
}

const COMMANDS: &[Command] = &[Command {
    name: "serve",
    usage: "[OPTIONS]",
    about: "Serves a registry in the foreground. Without users and TLS it listens on loopback only.",
    flags: &[
        text("addr", None, "Listen here (default 127.0.0.1:5000)"),
        text("root", None, "Folder of the registry (default /var/lib/cais-registry)"),
        text("log-level", Some('l'), "How much to log: trace, debug, info, warn or error (default info)"),
        switch("help", Some('h'), "Show help"),
    ],
    run: serve,
}];

/// Runs the command that the words name.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cais registry: {error:#}");
            ExitCode::from(crate::FAILED)
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<ExitCode> {
    let words: Vec<String> = args
        .iter()
        .map(|word| word.to_str().map(str::to_owned).with_context(|| format!("the argument {} is not UTF-8", word.display())))
        .collect::<Result<_>>()?;
    let Some(name) = words.first() else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let command = COMMANDS.iter().find(|command| command.name == name);
    let command = command.with_context(|| format!("unknown command {name:?}\n\nRun 'cais registry --help' for more information"))?;
    let parsed = flags::parse(&[command.flags], true, &words[1..]);
    let again = format!("Run 'cais registry {name} --help' for more information");
    let matches = parsed.map_err(|misuse| anyhow::anyhow!("{}\n\n{again}", misuse.0))?;
    if matches.on("help") {
        let flags = cli::flag_lines(&command.flags.iter().collect::<Vec<_>>());
        print!("Usage:  cais registry {name} {}\n\n{}\n\nOptions:\n{flags}", command.usage, command.about);
        return Ok(ExitCode::SUCCESS);
    }
    (command.run)(&matches)
}

fn root(matches: &Matches) -> Result<PathBuf> {
    let path = Path::new(matches.text("root").unwrap_or(ROOT));
    std::path::absolute(path).with_context(|| format!("make {} absolute", path.display()))
}

fn serve(matches: &Matches) -> Result<ExitCode> {
    if let Some(word) = matches.positional(0) {
        bail!("unexpected argument {word:?}");
    }
    let address = matches.text("addr").unwrap_or(ADDRESS);
    let address: SocketAddr = address.parse().with_context(|| format!("--addr {address:?}: an IP address and a port are expected"))?;
    if !address.ip().is_loopback() {
        bail!("--addr {address}: without users and TLS a registry is served on loopback only");
    }
    let level = matches.text("log-level").unwrap_or("info");
    let level: tracing::Level =
        level.parse().map_err(|_| anyhow::anyhow!("--log-level {level:?}: use trace, debug, info, warn or error"))?;
    let root = root(matches)?;
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
    raise_descriptor_limit();
    let store = Arc::new(Store::serve(&root).map_err(described)?);
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr().context("find the port that was chosen")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    runtime.block_on(async {
        let mut stop = StopSignals::new()?;
        tracing::info!(%address, root = %root.display(), "the registry listens");
        registryd::serve(store, Options::default(), listener, async { stop.recv().await }).await.map_err(described)
    })?;
    tracing::info!("the registry stops");
    Ok(ExitCode::SUCCESS)
}
