//! Starting the container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cgroup::OomWatch;
use monitor::protocol::FdRole;
use monitor::{ErrorCode, Failure, LaunchRequest, Reply, Root, Started, exit_record};
use runtime::{Created, Launch, Running, Stdio, oci};
use rustix::pipe::PipeFlags;
use types::Classify;

use super::container::{Container, Kept, read_program, start_ticks};
use super::external::External;
use super::log::LogWriter;
use super::poll::{Interest, Token};
use super::process::{Process, Streams};
use super::{Monitor, now_ns, null};

/// The descriptors that came with a launch.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) net: Option<OwnedFd>,
    pub(super) ipc: Option<OwnedFd>,
    pub(super) uts: Option<OwnedFd>,
    pub(super) pid: Option<OwnedFd>,
    seccomp: Option<OwnedFd>,
    secrets: Option<OwnedFd>,
    clients: Vec<OwnedFd>,
}

/// What a launch has before the container is made.
struct Prepared {
    exit_record: std::fs::File,
    system: cgroup::System,
    ends: Option<Ends>,
    streams: Streams,
}

/// The process's ends of its standard streams.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Monitor {
    /// Creates and starts the container.
    pub(super) fn launch(&mut self, request: LaunchRequest, roles: &[FdRole], fds: Vec<OwnedFd>) -> Reply {
        if self.container.is_some() {
            return Reply::Failed { code: ErrorCode::Conflict, text: "the container has been launched already".to_owned() };
        }
        match self.try_launch(request, Given::sort(roles, fds)) {
            Ok(started) => Reply::Started(started),
            Err(failure) => {
                self.over = true;
                Reply::LaunchFailed(failure)
            }
        }
    }

    fn try_launch(&mut self, request: LaunchRequest, given: Given) -> Result<Started, Failure> {
        let told_at = now_ns();
        let exit_record = exit_record::prepare(&request.exit_record).map_err(|error| failure("exit record", &error))?;
        self.log = request.log.as_ref().map(LogWriter::open).transpose().map_err(|error| failure("open log", &error))?;
        let system = match self.prepared.take() {
            Some((system, _)) => system,
            None => cgroup::System::detect().map_err(|error| classified("cgroup", &error))?,
        };
        let size = terminal_size(request.spec.process.as_ref());
        let (ends, streams) = match size {
            Some(_) => (None, Streams::default()),
            None => {
                pipes(request.open_stdin).map(|(ends, streams)| (Some(ends), streams)).map_err(|error| failure("make pipes", &error))?
            }
        };
        if let Some(runtime) = request.runtime.clone() {
            let external = External::prepare(&request, &given, runtime)?;
            return self.launch_external(request, given, external, Prepared { exit_record, system, ends, streams });
        }
        let created = create(&request, &given, &system, stdio(ends.as_ref(), size))?;
        drop(ends);
        let created_at = now_ns();
        let oom = created.group.as_ref().map(OomWatch::new).transpose().map_err(|error| classified("watch for out of memory", &error))?;
        let pid = created.pid.as_raw_nonzero().get();
        let mounts = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map_err(|error| failure("hold the mount namespace", &error))?;
        let start_ticks = start_ticks(pid).map_err(|error| failure("read the start time", &error))?;
        let mut running = created.start().map_err(|error| runtime_failure(&error))?;

        let at_ns = now_ns();
        let steps = [("launch received", told_at), ("root, namespaces and control group ready", created_at), ("program executed", at_ns)];
        let started = Started { pid, start_ticks, at_ns, steps: steps.map(|(name, at)| (name.to_owned(), at)).to_vec() };
        let group = running.group.take().unwrap_or_else(|| cgroup::Group::open(&system, Path::new(&request.cgroup)));
        self.watch_first(running, streams, &request)?;
        if let Some(Some(oom)) = &oom {
            let _ = self.poll.add(oom, Token::Oom, Interest::READ);
        }
        let precompiled = given.seccomp.is_some();
        let spec = reduced(*request.spec, precompiled);
        let container = Container::new(
            request.id,
            spec,
            started.clone(),
            Kept { group, exit_record, mounts, seccomp: given.seccomp, oom: oom.flatten(), external: None },
        );
        self.container = Some(container);
        for (attach, socket) in request.attach.iter().zip(given.clients) {
            self.seat_client(0, socket, attach);
        }
        Ok(started)
    }

    /// The same by a program of the host.
    fn launch_external(
        &mut self,
        request: LaunchRequest,
        given: Given,
        mut external: External,
        prepared: Prepared,
    ) -> Result<Started, Failure> {
        let Prepared { exit_record, system, ends, streams } = prepared;
        let made = external.create(ends.as_ref())?;
        drop(ends);
        let pid = made.pid.as_raw_nonzero().get();
        let group = cgroup::Group::open(&system, Path::new(&request.cgroup));
        let watched = (|| {
            let oom = OomWatch::new(&group).map_err(|error| classified("watch for out of memory", &error))?;
            let mounts = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map_err(|error| failure("hold the mount namespace", &error))?;
            let start_ticks = start_ticks(pid).map_err(|error| failure("read the start time", &error))?;
            Ok((oom, mounts, start_ticks))
        })();
        let (oom, mounts, start_ticks) = watched.inspect_err(|_| external.delete())?;
        external.start()?;
        let started = Started { pid, start_ticks, at_ns: now_ns(), steps: Vec::new() };
        self.watch_first(Running { pid: made.pid, pidfd: made.pidfd, tty_master: made.terminal, group: None }, streams, &request)?;
        if let Some(oom) = &oom {
            let _ = self.poll.add(oom, Token::Oom, Interest::READ);
        }
        let spec = reduced(*request.spec, true);
        let kept = Kept { group, exit_record, mounts, seccomp: None, oom, external: Some(external) };
        self.container = Some(Container::new(request.id, spec, started.clone(), kept));
        for (attach, socket) in request.attach.iter().zip(given.clients) {
            self.seat_client(0, socket, attach);
        }
        Ok(started)
    }

    /// Waits for the first process's output and its end from now on.
    fn watch_first(&mut self, running: Running, streams: Streams, request: &LaunchRequest) -> Result<(), Failure> {
        let pid = running.pid.as_raw_nonzero().get();
        let streams = match running.tty_master {
            Some(master) => terminal_streams(master, request.open_stdin).map_err(|error| failure("use the terminal", &error))?,
            None => streams,
        };
        let mut process =
            Process::new(&self.poll, 0, None, pid, running.pidfd, streams).map_err(|error| failure("watch the process", &error))?;
        process.stdin_once = request.stdin_once;
        self.processes.push(process);
        Ok(())
    }
}

/// Makes the container up to the point where its program would be executed.
fn create(request: &LaunchRequest, given: &Given, system: &cgroup::System, stdio: Stdio<'_>) -> Result<Created, Failure> {
    let program = given.seccomp.as_ref().map(read_program).transpose().map_err(|error| failure("read seccomp program", &error))?;
    let init = if request.init { Some(own_program().map_err(|error| failure("open init", &error))?) } else { None };
    let mut launch = Launch::new(&request.id, &request.spec, root(&request.root), stdio);
    launch.namespaces.net = given.net.as_ref().map(AsFd::as_fd);
    launch.namespaces.ipc = given.ipc.as_ref().map(AsFd::as_fd);
    launch.namespaces.uts = given.uts.as_ref().map(AsFd::as_fd);
    launch.namespaces.pid = given.pid.as_ref().map(AsFd::as_fd);
    launch.cgroup = Some(runtime::Group { system, path: Path::new(&request.cgroup) });
    launch.seccomp_program = program.as_deref();
    launch.secrets = given.secrets.as_ref().map(AsFd::as_fd);
    launch.init = init.as_ref().map(AsFd::as_fd);
    launch.user = Some(request.user.clone()).filter(|user| !user.is_empty());
    launch.additional_groups.clone_from(&request.additional_groups);
    // Without its monitor nobody would log, reap or stop it.
    launch.die_with_caller = true;
    runtime::create(&launch).map_err(|error| runtime_failure(&error))
}

impl Given {
    fn sort(roles: &[FdRole], fds: Vec<OwnedFd>) -> Self {
        let mut given = Self::default();
        for (role, fd) in roles.iter().zip(fds) {
            match role {
                FdRole::NetNamespace => given.net = Some(fd),
                FdRole::IpcNamespace => given.ipc = Some(fd),
                FdRole::UtsNamespace => given.uts = Some(fd),
                FdRole::PidNamespace => given.pid = Some(fd),
                FdRole::Seccomp => given.seccomp = Some(fd),
                FdRole::Secrets => given.secrets = Some(fd),
                FdRole::Client => given.clients.push(fd),
            }
        }
        given
    }
}

/// Rows and columns, where the process wants a terminal: the kernel's 0 × 0 if it does not say a size.
pub(super) fn terminal_size(process: Option<&oci::Process>) -> Option<Option<(u16, u16)>> {
    let process = process.filter(|process| process.terminal)?;
    Some(process.console_size.as_ref().map(|size| (size.height, size.width)))
}

pub(super) fn stdio(ends: Option<&Ends>, size: Option<Option<(u16, u16)>>) -> Stdio<'_> {
    match ends {
        Some(ends) => Stdio::Fds { stdin: ends.stdin.as_fd(), stdout: ends.stdout.as_fd(), stderr: ends.stderr.as_fd() },
        None => Stdio::Tty { size: size.flatten() },
    }
}

pub(super) fn pipes(open_stdin: bool) -> io::Result<(Ends, Streams)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (stdin, feed) = if open_stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let (from_stdout, stdout) = pipe()?;
    let (from_stderr, stderr) = pipe()?;
    Ok((Ends { stdin, stdout, stderr }, Streams { stdin: feed, stdout: Some(from_stdout), stderr: Some(from_stderr), terminal: None }))
}

pub(super) fn terminal_streams(master: OwnedFd, open_stdin: bool) -> io::Result<Streams> {
    let stdin = if open_stdin { Some(master.try_clone()?) } else { None };
    Ok(Streams { stdin, stdout: Some(master.try_clone()?), stderr: None, terminal: Some(master) })
}

fn root(root: &Root) -> runtime::Root {
    match root.clone() {
        Root::Path(path) => runtime::Root::Path(path),
        Root::Overlay { lower, upper, work, volatile, idmap } => runtime::Root::Overlay { lower, upper, work, volatile, idmap },
    }
}

/// This program, which is the init too.
fn own_program() -> io::Result<std::fs::File> {
    std::fs::File::open("/proc/self/exe")
}

/// What an exec, or the end, needs of a specification; the rest need not stay in memory.
fn reduced(mut spec: oci::Spec, precompiled: bool) -> oci::Spec {
    spec.process = None;
    spec.mounts = Vec::new();
    spec.annotations.clear();
    spec.linux.resources = None;
    spec.linux.devices = Vec::new();
    spec.linux.masked_paths = Vec::new();
    spec.linux.readonly_paths = Vec::new();
    if let Some(seccomp) = spec.linux.seccomp.as_mut().filter(|_| precompiled) {
        seccomp.syscalls = Vec::new();
    }
    spec
}

pub(super) fn failure(step: &str, error: &dyn std::error::Error) -> Failure {
    Failure {
        step: step.to_owned(),
        text: format!("{step}: {}", types::error::chain(error)),
        exit_code: runtime::error::EXIT_ENGINE,
        kind: types::ErrorKind::Internal.into(),
        hint: None,
    }
}

fn classified(step: &str, error: &dyn Classify) -> Failure {
    let error_text = types::error::chain(error);
    Failure {
        step: step.to_owned(),
        text: error_text,
        exit_code: runtime::error::EXIT_ENGINE,
        kind: error.kind().into(),
        hint: error.hint(),
    }
}

pub(super) fn runtime_failure(error: &runtime::Error) -> Failure {
    let step = match error {
        runtime::Error::Step { step, .. } => step,
        runtime::Error::Exec { .. } => "exec",
        runtime::Error::UnknownUser { .. } => "user",
        runtime::Error::Hook { .. } => "hook",
        runtime::Error::Cgroup(_) => "cgroup",
        runtime::Error::ChildLost { .. } => "lost",
        _ => "spec",
    };
    Failure { exit_code: error.exit_code(), ..classified(step, error) }
}
