//! `exec`: a further process in a running container.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::args::{Args, Flags};
use super::state::{Folder, Status};
use super::{Global, Outcome, run, seal, stdio, terminal, words};
use crate::{ExecTarget, Joining, Stdio, config, oci};

const FLAGS: Flags = Flags {
    values: &[
        "u",
        "user",
        "g",
        "additional-gids",
        "cwd",
        "e",
        "env",
        "cap",
        "c",
        "p",
        "process",
        "console-socket",
        "pid-file",
        "pidfd-socket",
        "preserve-fds",
        "apparmor",
        "process-label",
    ],
    switches: &["t", "tty", "d", "detach", "no-new-privs", "ignore-paused"],
};

pub(super) fn exec(global: &Global, args: &[OsString]) -> Outcome {
    seal::ensure()?;
    let mut args = Args::parse(args, &FLAGS)?;
    let id = args.next().ok_or("a container's name is missing")?;
    let folder = Folder::of(global, &id)?;
    let record = folder.load()?;
    match folder.status(&record) {
        Status::Running | Status::Created => {}
        // It waits until the container goes on.
        Status::Paused if args.has(&["ignore-paused"]) => {}
        other => return Err(format!("cannot execute in the container {id:?}: it is {}", other.name())),
    }
    let (pid, pidfd) = record.process().ok_or_else(|| format!("the container {id:?} is not running"))?;
    let process = process(&args, &record.spec)?;
    let detach = args.has(&["d", "detach"]);
    let console_socket = args.value("console-socket").map(PathBuf::from);
    if process.terminal && detach && console_socket.is_none() {
        return Err("the process wants a terminal: give --console-socket to receive it".into());
    }
    let joining = Joining { preserve_fds: args.number("preserve-fds")?.unwrap_or(0), id: id.clone(), ..Joining::default() };
    let pid_file = args.value("pid-file").map(PathBuf::from);
    let signals = if detach { None } else { Some(terminal::signals()?) };
    let system = cgroup::System::detect().map_err(words)?;
    let group = cgroup::Group::open(&system, &record.cgroup);
    let target =
        ExecTarget { pid, pidfd: pidfd.as_fd(), group: record.grouped.then_some(&group), spec: &record.spec, seccomp_program: None };
    let streams = if process.terminal {
        Stdio::Tty { size: process.console_size.as_ref().map(|size| (size.height, size.width)).or_else(|| terminal::size(stdio::stdin())) }
    } else {
        Stdio::Fds { stdin: stdio::stdin(), stdout: stdio::stdout(), stderr: stdio::stderr() }
    };
    let running = crate::exec(&target, &process, streams, &joining).map_err(words)?;
    run::write_pid(pid_file.as_deref(), running.pid)?;
    if let Some(socket) = args.value("pidfd-socket") {
        terminal::hand_over(std::path::Path::new(&socket), b"pidfd", running.pidfd.as_fd())?;
    }
    let master = match (running.tty_master, console_socket) {
        (Some(master), Some(socket)) => {
            terminal::hand_over(&socket, terminal::NAME, master.as_fd())?;
            None
        }
        (master, _) => master,
    };
    signals.map_or(Ok(0), |signals| terminal::serve(&signals, &running.pidfd, master.as_ref()))
}

/// The process of `--process`, or the container's own with what the flags change.
fn process(args: &Args, spec: &oci::Spec) -> Result<oci::Process, String> {
    if let Some(path) = args.any(&["p", "process"]).map(PathBuf::from) {
        let bytes = fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
        return config::parse_part(&bytes).map_err(|error| format!("{}: {}", path.display(), words(error)));
    }
    let mut process = spec.process.clone().unwrap_or_default();
    process.args = args.command();
    if process.args.is_empty() {
        return Err("a command is missing".into());
    }
    process.terminal = args.has(&["t", "tty"]);
    process.console_size = None;
    process.env.extend(args.all(&["e", "env"]));
    if let Some(cwd) = args.any(&["cwd"]) {
        process.cwd = cwd.into();
    }
    if args.has(&["no-new-privs"]) {
        process.no_new_privileges = true;
    }
    if let Some(user) = args.text(&["u", "user"]) {
        let number = |text: &str| text.parse().map_err(|_| format!("--user takes UID[:GID] in numbers, not {user:?}"));
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        process.user = oci::User { uid: number(uid)?, gid: gid.map_or(Ok(process.user.gid), number)?, ..oci::User::default() };
    }
    for group in args.all(&["g", "additional-gids"]) {
        process.user.additional_gids.push(group.parse().map_err(|_| format!("--additional-gids takes a number, not {group:?}"))?);
    }
    process.apparmor_profile = args.text(&["apparmor"]).unwrap_or(process.apparmor_profile);
    process.selinux_label = args.text(&["process-label"]).unwrap_or(process.selinux_label);
    let added = args.all(&["cap", "c"]);
    if !added.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend(added.iter().cloned());
        }
    }
    Ok(process)
}
