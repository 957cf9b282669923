//! `cais runtime`: the command line of an OCI runtime, with the commands, flags and exit codes that containerd, podman and people know from runc.

mod args;
mod events;
mod exec;
mod features;
mod limits;
mod manage;
mod run;
mod seal;
mod state;
mod stdio;
mod template;
mod terminal;

#[cfg(test)]
pub(crate) use template::template;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use self::args::{Args, Flags};

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
    /// Containers get control groups of their own.
    groups: bool,
}

const HELP: &str = "cais runtime: run containers from OCI bundles

Usage: cais runtime [OPTION...] COMMAND [FLAG...] [ARGUMENT...]

Commands:
  create [-b DIR] [-f FILE] [--console-socket PATH] [--pid-file FILE] [--pidfd-socket PATH] [--preserve-fds N]
         [--no-pivot] [--no-new-keyring] ID
                     make a container; its program waits for start
  start ID           let it execute its program
  run [-d] [--keep] [flags of create] ID
                     create, start, wait, delete; give the program's exit code
  exec [-t] [-d] [-u UID[:GID]] [-g GID] [--cwd DIR] [-e NAME=VALUE] [--cap NAME] [--no-new-privs] [--ignore-paused]
       [-p FILE] [--console-socket PATH] [--pid-file FILE] [--pidfd-socket PATH] [--preserve-fds N] ID [COMMAND [ARGUMENT...]]
                     run a further process in it
  state ID           print its state as JSON
  kill [-a] ID [SIGNAL]
                     send a signal (default SIGTERM) to its first process, or with -a to all of them
  pause ID           stop its processes
  resume ID          let them go on
  ps [-f table|json] ID
                     list its processes
  update [-r FILE|-] [--memory SIZE] [--memory-reservation SIZE] [--memory-swap SIZE] [--pids-limit N] [--blkio-weight N]
         [--cpu-share N] [--cpu-quota N] [--cpu-period N] [--cpu-burst N] [--cpu-idle 0|1] [--cpu-rt-period N]
         [--cpu-rt-runtime N] [--cpuset-cpus LIST] [--cpuset-mems LIST] ID
                     change its limits
  events [--stats] [--interval DURATION] ID
                     print what it uses every 5 s, or once with --stats, and when memory ran out, as lines of JSON
  stats ID           the same as events --stats
  delete [-f] ID     remove it; -f kills it first
  list [-q] [-f table|json]
                     list the containers below the root directory
  spec [-b DIR]      write a config.json to begin with
  features           print what this runtime and this machine can do, as JSON

Options:
  --root DIR                      where states are kept (default /run/cais/runtime)
  --log FILE                      append errors to FILE
  --log-format text|json          in this form
  --debug                         note each command in the log too
  --cgroup-manager cgroupfs|disabled
                                  disabled leaves containers in the caller's control group, without limits
  -h, --help                      print this text
  -v, --version                   print the version

Flags may stand before and after the id, but for exec, where what follows the id is the command.
";

/// Runs the command of `args` (without the program's name). Returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let mut global = Global { root: PathBuf::from("/run/cais/runtime"), log: None, json: false, groups: true };
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
    const FLAGS: Flags = Flags {
        values: &["root", "log", "log-format", "log-level", "cgroup-manager", "rootless"],
        switches: &["h", "help", "v", "version", "debug", "systemd-cgroup"],
    };
    let mut parsed = Args::parse(args, &FLAGS).map_err(failed)?;
    if parsed.has(&["h", "help"]) {
        print(HELP);
        return Ok(0);
    }
    if parsed.has(&["v", "version"]) {
        print(&format!("cais runtime version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), crate::config::OCI_VERSION));
        return Ok(0);
    }
    let manager = parsed.text(&["cgroup-manager"]);
    if parsed.has(&["systemd-cgroup"]) || manager.as_deref() == Some("systemd") {
        let words = "control groups by systemd are not supported (--systemd-cgroup): give --cgroup-manager=cgroupfs to the engine that calls, or \
                     SystemdCgroup = false in containerd's configuration";
        return Err(failed(words.into()));
    }
    global.groups = match manager.as_deref() {
        None | Some("cgroupfs") => true,
        Some("disabled") => false,
        Some(other) => return Err(failed(format!("--cgroup-manager takes cgroupfs or disabled, not {other:?}"))),
    };
    match parsed.text(&["rootless"]).as_deref() {
        None | Some("false" | "auto") => {}
        Some(_) => return Err(failed("--rootless is not supported: containers are made by root".into())),
    }
    let debug = parsed.has(&["debug"]) || parsed.text(&["log-level"]).as_deref() == Some("debug");
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
    if debug {
        let words: Vec<_> = rest.iter().map(|argument| argument.to_string_lossy()).collect();
        log(global, "debug", &format!("{command} {}", words.join(" ")));
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
        "update" => limits::update(global, &rest).map_err(failed),
        "events" => events::events(global, &rest).map_err(failed),
        "stats" => events::stats(global, &rest).map_err(failed),
        "features" => features::features(global, &rest).map_err(failed),
        "spec" => template::spec(global, &rest).map_err(failed),
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
    log(global, "error", message);
}

/// Adds a line to the log, if there is one.
fn log(global: &Global, level: &str, message: &str) {
    let Some(path) = &global.log else { return };
    let line = if global.json {
        format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": state::now()}))
    } else {
        format!("time={:?} level={level} msg={message:?}\n", state::now())
    };
    // Where even the log cannot be written, standard error has the message.
    let _ = std::fs::OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
}
