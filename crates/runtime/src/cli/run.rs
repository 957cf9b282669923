//! `create`, `run` and `start`.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::args::{Args, Flags};
use super::state::{self, Folder, Record};
use super::{EXIT_FAILED, Global, Outcome, seal, stdio, terminal, words};
use crate::launch::{Gate, after_stop};
use crate::{Group, Launch, Root, Stdio, control, oci};

const FLAGS: Flags = Flags {
    values: &["b", "bundle", "f", "config", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"],
    switches: &["d", "detach", "keep", "no-pivot", "no-new-keyring", "no-subreaper"],
};

/// What `create` and `run` have in common.
struct Job {
    id: String,
    bundle: PathBuf,
    spec: oci::Spec,
    folder: Folder,
    group: PathBuf,
    system: cgroup::System,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    no_pivot: bool,
    keep_keyring: bool,
    groups: bool,
    detach: bool,
    keep: bool,
}

impl Job {
    fn parse(global: &Global, args: &[OsString]) -> Result<Self, String> {
        // `no-subreaper` needs nothing: this runtime never makes itself one.
        let args = Args::parse_anywhere(args, &FLAGS)?;
        let bundle = args.any(&["b", "bundle"]).map_or(PathBuf::from("."), PathBuf::from);
        let bundle = fs::canonicalize(&bundle).map_err(|error| format!("open the bundle {}: {error}", bundle.display()))?;
        let (console_socket, pid_file) = (args.value("console-socket").map(PathBuf::from), args.value("pid-file").map(PathBuf::from));
        let pidfd_socket = args.value("pidfd-socket").map(PathBuf::from);
        let (no_pivot, keep_keyring) = (args.has(&["no-pivot"]), args.has(&["no-new-keyring"]));
        let config = args.any(&["f", "config"]).map_or(bundle.join("config.json"), PathBuf::from);
        let preserve_fds = args.number("preserve-fds")?.unwrap_or(0);
        let (detach, keep) = (args.has(&["d", "detach"]), args.has(&["keep"]));
        let id = args.only_id()?;
        let folder = Folder::of(global, &id)?;
        let spec = state::read_spec(&config)?;
        let group = match spec.linux.cgroups_path.as_str() {
            "" => PathBuf::from(format!("cais-runtime-{id}")),
            path => PathBuf::from(path),
        };
        let system = cgroup::System::detect().map_err(words)?;
        Ok(Self {
            id,
            bundle,
            spec,
            folder,
            group,
            system,
            console_socket,
            pid_file,
            pidfd_socket,
            preserve_fds,
            no_pivot,
            keep_keyring,
            groups: global.groups,
            detach,
            keep,
        })
    }

    fn terminal(&self) -> bool {
        self.spec.process.as_ref().is_some_and(|process| process.terminal)
    }

    /// Makes the container; with a gate its start is left to another command.
    fn make(&self, gate: Option<Gate<'_>>) -> Result<crate::Created, String> {
        let (stdin, stdout, stderr) = (stdio::stdin(), stdio::stdout(), stdio::stderr());
        let streams = if self.terminal() {
            let size = self.spec.process.as_ref().and_then(|process| process.console_size.as_ref()).map(|size| (size.height, size.width));
            Stdio::Tty { size: size.or_else(|| terminal::size(stdin)) }
        } else {
            Stdio::Fds { stdin, stdout, stderr }
        };
        let root = self.spec.root.as_ref().map_or(Path::new("rootfs"), |root| root.path.as_path());
        let launch = Launch {
            bundle: &self.bundle,
            cgroup: self.groups.then_some(Group { system: &self.system, path: &self.group }),
            preserve_fds: self.preserve_fds,
            no_pivot: self.no_pivot,
            keep_keyring: self.keep_keyring,
            gate,
            ..Launch::new(&self.id, &self.spec, Root::Path(self.bundle.join(root)), streams)
        };
        crate::create(&launch).map_err(words)
    }

    /// Notes what other commands need.
    fn record(&self, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<Record, String> {
        let start_time = state::start_time(pid).map_or(0, |(start, _)| start);
        let record = Record {
            id: self.id.clone(),
            pid: pid.as_raw_nonzero().get(),
            start_time,
            bundle: self.bundle.clone(),
            cgroup: self.group.clone(),
            grouped: self.groups,
            created: state::now(),
            spec: self.spec.clone(),
        };
        self.folder.save(&record)?;
        write_pid(self.pid_file.as_deref(), pid)?;
        if let Some(socket) = &self.pidfd_socket {
            terminal::hand_over(socket, b"pidfd", pidfd)?;
        }
        Ok(record)
    }
}

/// Writes a `--pid-file`: complete, or not at all.
pub(super) fn write_pid(path: Option<&Path>, pid: Pid) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let written = fs::write(&temporary, pid.as_raw_nonzero().to_string()).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| format!("write {}: {error}", path.display()))
}

/// Makes a container whose program waits for `start`.
pub(super) fn create(global: &Global, args: &[OsString]) -> Outcome {
    seal::ensure()?;
    let job = Job::parse(global, args)?;
    if job.terminal() && job.console_socket.is_none() {
        return Err("the process wants a terminal: give --console-socket to receive it".into());
    }
    job.folder.make()?;
    let made = create_in(&job);
    if made.is_err() {
        // The first failure is what the user needs to hear.
        let _ = job.folder.remove();
    }
    made.map(|()| 0)
}

fn create_in(job: &Job) -> Result<(), String> {
    let (start, outcome) = job.folder.make_gates()?;
    let mut created = job.make(Some(Gate { start: start.as_fd(), outcome: outcome.as_fd() }))?;
    let master = created.tty_master.take();
    let (pid, pidfd, group) = created.leave();
    let finish = || {
        if let (Some(master), Some(socket)) = (master, &job.console_socket) {
            terminal::hand_over(socket, terminal::NAME, master.as_fd())?;
        }
        job.record(pid, pidfd.as_fd()).map(drop)
    };
    finish().inspect_err(|_| crate::launch::discard(pidfd.as_fd(), group.as_ref()))
}

/// Lets a created container execute its program.
pub(super) fn start(global: &Global, args: &[OsString]) -> Outcome {
    let id = Args::parse_anywhere(args, &Flags { values: &[], switches: &[] })?.only_id()?;
    let folder = Folder::of(global, &id)?;
    let record = folder.load()?;
    match folder.status(&record) {
        state::Status::Created => {}
        other => return Err(format!("the container {id:?} cannot be started: it is {}", other.name())),
    }
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| format!("open {}: {error}", path.display())
    };
    // The end that tells what became of it is opened first, without waiting for a writer: the process holds one until its program runs.
    let outcome = rustix::fs::open(
        folder.outcome_gate(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| fail(&folder.outcome_gate())(errno.into()))?;
    let gate = folder.start_gate();
    // Taken away first, so that of two starts only one gets through.
    let mut file = fs::OpenOptions::new().write(true).open(&gate).map_err(fail(&gate))?;
    fs::remove_file(&gate).map_err(|_| format!("the container {id:?} is being started already"))?;
    std::io::Write::write_all(&mut file, b"s").map_err(fail(&gate))?;
    let bytes = terminal::read_all(&outcome)?;
    let _ = fs::remove_file(folder.outcome_gate());
    if !bytes.is_empty() {
        // It has said its last word; what comes next finds it stopped.
        super::manage::wait_for_end(&record)?;
        return Err(words(control::decode(&bytes)));
    }
    for hook in &record.spec.hooks.poststart {
        let state = crate::hook::State {
            id: &id,
            bundle: &record.bundle,
            annotations: &record.spec.annotations,
            status: "running",
            pid: Pid::from_raw(record.pid),
        };
        crate::hook::run("poststart", hook, &state).map_err(words)?;
    }
    Ok(0)
}

/// Creates, starts, and unless detached waits and cleans up.
pub(super) fn run(global: &Global, args: &[OsString]) -> Outcome {
    seal::ensure()?;
    let job = Job::parse(global, args)?;
    if job.detach && job.terminal() && job.console_socket.is_none() {
        return Err("the process wants a terminal: give --console-socket to receive it, or run it without --detach".into());
    }
    if job.detach || job.keep { job.folder.make() } else { job.folder.make_file() }?;
    let result = run_in(&job);
    if result.is_err() || !(job.detach || job.keep) {
        // What went wrong before is what the user needs to hear.
        let _ = job.folder.remove();
    }
    result
}

fn run_in(job: &Job) -> Outcome {
    // Before there is a process whose end could be missed.
    let signals = if job.detach { None } else { Some(terminal::signals()?) };
    let mut running = job.make(None)?.start().map_err(words)?;
    let group = running.group.take();
    let noted = job.record(running.pid, running.pidfd.as_fd()).and_then(|_| match (running.tty_master.take(), &job.console_socket) {
        (Some(master), Some(socket)) => terminal::hand_over(socket, terminal::NAME, master.as_fd()).map(|()| None),
        (master, _) => Ok(master),
    });
    let master: Option<OwnedFd> = match (noted, &signals) {
        (Ok(_), None) => return Ok(0),
        (Ok(master), Some(_)) => master,
        (Err(error), _) => {
            crate::launch::discard(running.pidfd.as_fd(), group.as_ref());
            return Err(error);
        }
    };
    let code = signals.as_ref().map_or(Ok(EXIT_FAILED), |signals| terminal::serve(signals, &running.pidfd, master.as_ref()));
    if let Some(group) = group {
        // Without a pid namespace of its own the container's other processes would go on.
        group.kill_all().and_then(|()| group.remove()).map_err(words)?;
    }
    let failed: Vec<String> = after_stop(&job.spec, &job.id, &job.bundle).into_iter().map(words).collect();
    if failed.is_empty() { code } else { Err(failed.join("; ")) }
}
