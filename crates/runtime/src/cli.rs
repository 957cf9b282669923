//! `cais runtime`: the command line of an OCI runtime, with the commands, flags and exit codes that containerd, podman and people know from runc.

mod args;
mod exec;
mod manage;
mod run;
mod seal;
mod state;
mod stdio;
mod terminal;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use self::args::{Args, Flags};

/// The version of the OCI runtime specification that is followed.
pub const OCI_VERSION: &str = "1.2.0";

/// Exit code of a command that failed.
const EXIT_FAILED: i32 = 1;
/// Exit code of an exec that failed before its program ran.
const EXIT_EXEC_FAILED: i32 = 255;

/// Result of a command: an exit code or words for the user.
type Outcome = Result<i32, String>;

/// What holds for every command.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    root: PathBuf,
    log: Option<PathBuf>,
    json: bool,
}

const HELP: &str = "cais runtime: run containers from OCI bundles

Usage: cais runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND

Commands:
  create [-b DIR] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] ID
                     make a container; its program waits for start
  start ID           let it execute its program
  run [-b DIR] [-d] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] [--keep] ID
                     create, start, wait, delete; give the program's exit code
  exec [-t] [-d] [-u UID[:GID]] [--cwd DIR] [-e NAME=VALUE] [--cap NAME] [--no-new-privs] [-p FILE]
       [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] ID [COMMAND [ARGUMENT...]]
                     run a further process in it
  state ID           print its state as JSON
  kill [--all] ID [SIGNAL]
                     send a signal (default SIGTERM)
  pause ID           stop its processes
  resume ID          let them go on
  ps [-f table|json] ID
                     list its processes
  delete [-f] ID     remove it; -f kills it first
  list [-q] [-f table|json]
                     list the containers below the root directory

Options:
  --root DIR               where states are kept (default /run/cais/runtime)
  --log FILE               append errors to FILE
  --log-format text|json   in this form
  -h, --help               print this text
  -v, --version            print the version
";

/// Runs the command of `args` (without the program's name): `create run start state kill pause resume ps delete exec list`. Returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let mut global = Global { root: PathBuf::from("/run/cais/runtime"), log: None, json: false };
    match dispatch(args, &mut global) {
        Ok(code) => code,
        Err((message, code)) => {
            report(&global, &message);
            code
        }
    }
}

fn dispatch(args: &[OsString], global: &mut Global) -> Result<i32, (String, i32)> {
    let failed = |message: String| (message, EXIT_FAILED);
    const FLAGS: Flags =
        Flags { values: &["root", "log", "log-format", "rootless"], switches: &["h", "help", "v", "version", "debug", "systemd-cgroup"] };
    let mut parsed = Args::parse(args, &FLAGS).map_err(failed)?;
    if parsed.has(&["h", "help"]) {
        print(HELP);
        return Ok(0);
    }
    if parsed.has(&["v", "version"]) {
        print(&format!("cais runtime version {}\nspec: {OCI_VERSION}\n", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    if parsed.has(&["systemd-cgroup"]) {
        return Err(failed("--systemd-cgroup is not supported: groups are made in the control group filesystem itself".into()));
    }
    if let Some(root) = parsed.value("root") {
        global.root = root.into();
    }
    global.log = parsed.value("log").map(PathBuf::from);
    global.json = match parsed.value("log-format").as_deref().map(|format| format.to_string_lossy().into_owned()).as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => return Err(failed(format!("--log-format takes text or json, not {other:?}"))),
    };
    let Some(command) = parsed.next() else {
        print(HELP);
        return Ok(EXIT_FAILED);
    };
    let rest = parsed.rest();
    if rest.first().is_some_and(|first| first == "-h" || first == "--help") {
        print(HELP);
        return Ok(0);
    }
    match command.as_str() {
        "create" => run::create(global, &rest).map_err(failed),
        "run" => run::run(global, &rest).map_err(failed),
        "start" => run::start(global, &rest).map_err(failed),
        "exec" => exec::exec(global, &rest).map_err(|message| (message, EXIT_EXEC_FAILED)),
        "state" => manage::state(global, &rest).map_err(failed),
        "kill" => manage::kill(global, &rest).map_err(failed),
        "pause" => manage::pause(global, &rest).map_err(failed),
        "resume" => manage::resume(global, &rest).map_err(failed),
        "ps" => manage::ps(global, &rest).map_err(failed),
        "delete" => manage::delete(global, &rest).map_err(failed),
        "list" => manage::list(global, &rest).map_err(failed),
        other => Err(failed(format!("{other:?} is not a command of cais runtime: see cais runtime --help"))),
    }
}

/// Prints to standard output; a reader that has gone is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// An error and its causes on one line.
fn words(error: impl std::error::Error) -> String {
    types::error::chain(&error)
}

fn report(global: &Global, message: &str) {
    eprintln!("cais runtime: {message}");
    let Some(path) = &global.log else { return };
    let line = if global.json {
        format!("{}\n", serde_json::json!({"level": "error", "msg": message, "time": state::now()}))
    } else {
        format!("time={:?} level=error msg={message:?}\n", state::now())
    };
    // Where even the log cannot be written, standard error has the message.
    let _ = std::fs::OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
}
