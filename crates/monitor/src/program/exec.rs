//! Starting further processes in the container.
//!
//! Until its program runs, such a process can be held up by the container's own, which may stop it with a signal. So nothing waits for it: the
//! request is answered when the process has said how it went, or when the monitor has given it up.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use monitor::{ErrorCode, ExecRequest, Failure, Reply};
use runtime::exec::{Entering, Progress};
use runtime::{ExecTarget, Joining, Running};

use super::container::Container;
use super::external::{Step, resolve_user};
use super::launch::{Ends, failure, pipes, runtime_failure, stdio, terminal_size, terminal_streams};
use super::poll::{Interest, Token};
use super::process::{Process, Streams};
use super::{Monitor, null};

/// How long a process may take to begin: less than an engine waits for the answer.
const ENTER_MS_MAX: u64 = 20_000;

/// An exec whose program does not run yet.
#[derive(Debug)]
pub(super) struct Pending {
    number: u32,
    /// The engine that asked, and the number of its request.
    asked: (u32, u64),
    request: ExecRequest,
    client: Option<OwnedFd>,
    streams: Streams,
    entering: Entering,
    give_up_at: Instant,
    given_up: bool,
}

impl Pending {
    /// When it is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.given_up).then_some(self.give_up_at)
    }
}

/// An exec that another runtime starts.
#[derive(Debug)]
pub(super) struct PendingStep {
    number: u32,
    asked: (u32, u64),
    request: ExecRequest,
    client: Option<OwnedFd>,
    streams: Streams,
    step: Step,
    give_up_at: Instant,
    given_up: bool,
}

impl PendingStep {
    /// When it is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.given_up).then_some(self.give_up_at)
    }
}

impl Monitor {
    /// Begins to start another process in the container. None when the answer comes later.
    pub(super) fn exec(&mut self, asked: (u32, u64), request: ExecRequest, client: Option<OwnedFd>) -> Option<Reply> {
        if self.container.as_ref().is_some_and(|container| container.external.is_some()) {
            return self.exec_externally(asked, request, client);
        }
        let (entering, streams) = match self.enter(&request) {
            Ok(begun) => begun,
            Err(reply) => return Some(*reply),
        };
        let number = self.next_number();
        if let Err(error) = self.poll.add(&entering, Token::Entering(number), Interest::READ) {
            entering.kill();
            // It ends, and is reaped without a look at what it says.
            self.proceed_blindly(entering);
            return Some(Reply::ExecFailed(failure("watch the process", &error)));
        }
        let give_up_at = Instant::now() + Duration::from_millis(ENTER_MS_MAX);
        self.pending.push(Pending { number, asked, request, client, streams, entering, give_up_at, given_up: false });
        None
    }

    /// A process on its way says how far it is.
    pub(super) fn exec_proceeds(&mut self, number: u32) {
        if let Some(index) = self.steps.iter().position(|step| step.number == number) {
            let step = self.steps.swap_remove(index);
            return self.step_ended(step);
        }
        let Some(index) = self.pending.iter().position(|pending| pending.number == number) else { return };
        let pending = self.pending.swap_remove(index);
        self.poll.remove(&pending.entering);
        let Pending { asked, request, client, streams, entering, give_up_at, given_up, .. } = pending;
        let reply = match entering.proceed() {
            Progress::Entering(entering) => match self.poll.add(&entering, Token::Entering(number), Interest::READ) {
                Ok(()) => {
                    self.pending.push(Pending { number, asked, request, client, streams, entering, give_up_at, given_up });
                    return;
                }
                Err(error) => {
                    entering.kill();
                    self.proceed_blindly(entering);
                    Reply::ExecFailed(failure("watch the process", &error))
                }
            },
            Progress::Running(running) if given_up => {
                self.reap_later(running.pid.as_raw_nonzero().get(), running.pidfd);
                let text = "it did not begin to run in time: the container's processes hold it up, or the machine is too busy";
                Reply::ExecFailed(failure("start the process", &io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Progress::Running(running) => self.exec_runs(number, &request, client, running, streams),
            Progress::Failed { error, pid, pidfd } => {
                self.reap_later(pid.as_raw_nonzero().get(), pidfd);
                Reply::ExecFailed(runtime_failure(&error))
            }
        };
        self.engines.reply(&self.poll, asked.0, asked.1, reply);
    }

    /// Kills those that take too long.
    pub(super) fn give_up_execs(&mut self, now: Instant) {
        for one in self.steps.iter_mut().filter(|one| one.deadline().is_some_and(|at| at <= now)) {
            one.given_up = true;
            one.step.kill();
        }
        for pending in self.pending.iter_mut().filter(|pending| pending.deadline().is_some_and(|at| at <= now)) {
            pending.given_up = true;
            pending.entering.kill();
        }
    }

    /// The container has ended: what is still on its way has nowhere to go.
    pub(super) fn kill_pending(&self) {
        self.pending.iter().for_each(|pending| pending.entering.kill());
        self.steps.iter().for_each(|one| one.step.kill());
    }

    /// Has the container's runtime start the process.
    fn exec_externally(&mut self, asked: (u32, u64), mut request: ExecRequest, client: Option<OwnedFd>) -> Option<Reply> {
        let refused = |code, text: &str| Some(Reply::Failed { code, text: text.to_owned() });
        let alive = self.process(0).is_some_and(|process| process.status.is_none());
        let taken = self.steps.iter().any(|one| one.request.id == request.id);
        if taken || self.processes.iter().any(|process| process.exec.as_ref() == Some(&request.id)) {
            return refused(ErrorCode::Conflict, "an exec of this id is running");
        }
        let number = self.next_number();
        let Some(container) = self.container.as_mut().filter(|_| alive) else {
            return refused(ErrorCode::NotRunning, "the container is not running");
        };
        if container.paused {
            return refused(ErrorCode::Conflict, "the container is paused");
        }
        match begin_step(container, &mut request) {
            Ok((step, streams)) => {
                if let Err(error) = self.poll.add(&step.pidfd, Token::Entering(number), Interest::READ) {
                    step.kill();
                    return Some(Reply::ExecFailed(failure("watch the runtime", &error)));
                }
                let give_up_at = Instant::now() + Duration::from_millis(ENTER_MS_MAX);
                self.steps.push(PendingStep { number, asked, request, client, streams, step, give_up_at, given_up: false });
                None
            }
            Err(failure) => Some(Reply::ExecFailed(failure)),
        }
    }

    fn step_ended(&mut self, ended: PendingStep) {
        let PendingStep { number, asked, request, client, streams, step, .. } = ended;
        self.poll.remove(&step.pidfd);
        let reply = match step.made() {
            Ok(made) => {
                let running = Running { pid: made.pid, pidfd: made.pidfd, tty_master: made.terminal, group: None };
                self.exec_runs(number, &request, client, running, streams)
            }
            Err(failure) => Reply::ExecFailed(failure),
        };
        self.engines.reply(&self.poll, asked.0, asked.1, reply);
    }

    /// Takes off the process table what nobody waits for: this process adopts orphans where another runtime needs it to.
    pub(super) fn reap_strangers(&mut self) {
        if self.container.as_ref().is_none_or(|container| container.external.is_none()) {
            return;
        }
        let own = std::process::id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            let known = self.processes.iter().any(|process| process.pid == pid && process.status.is_none())
                || self.steps.iter().any(|one| one.step.is(pid));
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| !known) {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
            }
        }
    }

    fn exec_runs(
        &mut self,
        number: u32,
        request: &ExecRequest,
        client: Option<OwnedFd>,
        mut running: Running,
        mut streams: Streams,
    ) -> Reply {
        let pid = running.pid.as_raw_nonzero().get();
        if let Some(master) = running.tty_master.take() {
            match terminal_streams(master, wants_stdin(request)) {
                Ok(terminal) => streams = terminal,
                Err(error) => {
                    let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
                    self.reap_later(pid, running.pidfd);
                    return Reply::ExecFailed(failure("use the terminal", &error));
                }
            }
        }
        match Process::new(&self.poll, number, Some(request.id.clone()), pid, running.pidfd, streams) {
            Ok(mut process) => {
                process.stdin_once = true;
                self.processes.push(process);
            }
            Err(error) => return Reply::ExecFailed(failure("watch the process", &error)),
        }
        if let (Some(attach), Some(client)) = (&request.attach, client) {
            self.seat_client(number, client, attach);
        }
        Reply::ExecStarted { pid }
    }

    /// A process that ends without having been an exec is still to be reaped, or the container's pid namespace could not end.
    fn reap_later(&mut self, pid: i32, pidfd: OwnedFd) {
        let number = self.next_number();
        if let Ok(process) = Process::new(&self.poll, number, None, pid, pidfd, Streams::default()) {
            self.processes.push(process);
        }
    }

    fn proceed_blindly(&mut self, mut entering: Entering) {
        loop {
            match entering.proceed() {
                Progress::Entering(still) => entering = still,
                Progress::Running(Running { pid, pidfd, .. }) | Progress::Failed { pid, pidfd, .. } => {
                    return self.reap_later(pid.as_raw_nonzero().get(), pidfd);
                }
            }
        }
    }

    fn enter(&self, request: &ExecRequest) -> Result<(Entering, Streams), Box<Reply>> {
        let refuse = |code, text: &str| Box::new(Reply::Failed { code, text: text.to_owned() });
        let fail = |failure: Failure| Box::new(Reply::ExecFailed(failure));
        let (Some(container), Some(first)) = (&self.container, self.process(0).filter(|process| process.status.is_none())) else {
            return Err(refuse(ErrorCode::NotRunning, "the container is not running"));
        };
        if container.paused {
            return Err(refuse(ErrorCode::Conflict, "the container is paused"));
        }
        let pending = self.pending.iter().any(|pending| pending.request.id == request.id);
        if pending || self.processes.iter().any(|process| process.exec.as_ref() == Some(&request.id)) {
            return Err(refuse(ErrorCode::Conflict, "an exec of this id is running"));
        }
        let Some((pid, pidfd)) = first.identity() else {
            return Err(refuse(ErrorCode::NotRunning, "the container is not running"));
        };
        let program = container.seccomp_program().map_err(|error| fail(failure("read seccomp program", &error)))?;
        let target = ExecTarget { pid, pidfd, group: Some(&container.group), spec: &container.spec, seccomp_program: program.as_deref() };
        let joining = Joining {
            user: Some(request.user.clone()).filter(|user| !user.is_empty()),
            additional_groups: request.additional_groups.clone(),
            unconfined: request.unconfined,
            ..Joining::default()
        };
        let size = terminal_size(Some(&request.process));
        let (ends, streams) = match (size, &request.attach) {
            (Some(_), _) => (None, Streams::default()),
            (None, Some(_)) => pipes(wants_stdin(request))
                .map(|(ends, streams)| (Some(ends), streams))
                .map_err(|error| fail(failure("make pipes", &error)))?,
            (None, None) => (Some(nowhere().map_err(|error| fail(failure("open /dev/null", &error)))?), Streams::default()),
        };
        let entering = runtime::exec::begin(&target, &request.process, stdio(ends.as_ref(), size), &joining);
        entering.map(|entering| (entering, streams)).map_err(|error| fail(runtime_failure(&error)))
    }
}

/// Resolves the user, makes the streams and starts the runtime.
fn begin_step(container: &mut Container, request: &mut ExecRequest) -> Result<(Step, Streams), Failure> {
    let root = format!("/proc/{}/root", container.started.pid);
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, rustix::fs::Mode::empty())
        .map_err(|errno| failure("open the container's root", &io::Error::from(errno)))?;
    resolve_user(&mut request.process, &root, &request.user, &request.additional_groups)?;
    let (ends, streams) = match (terminal_size(Some(&request.process)), &request.attach) {
        (Some(_), _) => (None, Streams::default()),
        (None, Some(_)) => {
            pipes(wants_stdin(request)).map(|(ends, streams)| (Some(ends), streams)).map_err(|error| failure("make pipes", &error))?
        }
        (None, None) => (Some(nowhere().map_err(|error| failure("open /dev/null", &error))?), Streams::default()),
    };
    let external = container.external.as_mut().ok_or_else(|| failure("run the runtime", &io::Error::from(io::ErrorKind::NotFound)))?;
    Ok((external.exec(&request.process, ends.as_ref())?, streams))
}

fn wants_stdin(request: &ExecRequest) -> bool {
    request.attach.as_ref().is_some_and(|attach| attach.stdin)
}

/// For a process that nobody listens to.
fn nowhere() -> io::Result<Ends> {
    let null = null()?;
    Ok(Ends { stdin: null.try_clone()?, stdout: null.try_clone()?, stderr: null })
}
