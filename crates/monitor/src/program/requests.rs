//! What engines ask.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use monitor::protocol::{Header, RequestMessage};
use monitor::{Attach, ErrorCode, ExecRequest, Reply, Request, State};
use runtime::oci;
use rustix::io::Errno;

use super::Monitor;
use super::container::Container;
use super::poll::Ready;
use super::process::Process;

const SIGKILL: i32 = 9;

impl Monitor {
    /// A new engine: it is told everything at once.
    pub(super) fn welcome(&mut self) {
        if let Some(number) = self.engines.accept(&self.poll) {
            let state = self.state();
            self.engines.reply(&self.poll, number, 0, state);
        }
    }

    /// An engine has sent something, reads again, or is gone.
    pub(super) fn engine_ready(&mut self, number: u32, ready: Ready) {
        if ready.write {
            self.engines.flush(&self.poll, number);
        }
        while let Some((text, fds)) = self.engines.receive(&self.poll, number) {
            self.answer(number, &text, fds);
        }
        // An engine that died before it said what to launch: there is nothing to look after.
        if self.container.is_none() && self.engines.alone_since().is_some() {
            self.over = true;
        }
    }

    fn answer(&mut self, engine: u32, text: &[u8], fds: Vec<OwnedFd>) {
        let (id, reply) = match serde_json::from_slice::<RequestMessage>(text) {
            Ok(message) => {
                let id = message.id;
                match self.perform(engine, message, fds) {
                    Some(reply) => (id, reply),
                    None => return,
                }
            }
            Err(error) => {
                let Ok(header) = serde_json::from_slice::<Header>(text) else { return };
                (header.id, failed(ErrorCode::Unsupported, format!("this monitor does not understand the request: {error}")))
            }
        };
        self.engines.reply(&self.poll, engine, id, reply);
        if self.container.as_ref().is_some_and(|container| container.acknowledged) {
            self.engines.close_all(&self.poll);
        }
    }

    /// None when the answer comes later.
    fn perform(&mut self, engine: u32, message: RequestMessage, mut fds: Vec<OwnedFd>) -> Option<Reply> {
        Some(match message.request {
            Request::Launch(request) => self.launch(*request, &message.fds, fds),
            Request::Prepare { cgroup } => self.prepare(&cgroup),
            Request::Attach(attach) => self.attach(&attach, fds.pop()),
            Request::Exec(request) => return self.request_exec((engine, message.id), *request, fds.pop()),
            Request::Resize { exec, rows, columns } => self.resize(exec.as_deref(), rows, columns),
            Request::Signal { signal, exec } => self.signal(signal, exec.as_deref()),
            Request::Stop { signal, timeout_ms } => self.stop(signal, timeout_ms),
            Request::Pause => self.freeze(true),
            Request::Unpause => self.freeze(false),
            Request::Update { resources } => self.update(&resources),
            Request::State => self.state(),
            Request::Ack => self.acknowledge(),
            Request::Ping => Reply::Done,
        })
    }

    fn prepare(&mut self, path: &str) -> Reply {
        if self.container.is_some() || self.prepared.is_some() {
            return failed(ErrorCode::Conflict, "the container has been launched or prepared already");
        }
        let made = cgroup::System::detect().and_then(|system| {
            let group = cgroup::Group::create(&system, std::path::Path::new(path))?;
            Ok((system, group))
        });
        match made {
            Ok(prepared) => {
                self.prepared = Some(prepared);
                Reply::Done
            }
            Err(error) => failed(ErrorCode::Failed, types::error::chain(&error)),
        }
    }

    fn attach(&mut self, attach: &Attach, socket: Option<OwnedFd>) -> Reply {
        let Some(socket) = socket else { return failed(ErrorCode::Invalid, "attach needs the client's socket") };
        if self.running().is_err() {
            return not_running();
        }
        if self.seat_client(0, socket, attach) { Reply::Done } else { failed(ErrorCode::Failed, "too many clients are attached") }
    }

    fn request_exec(&mut self, asked: (u32, u64), request: ExecRequest, client: Option<OwnedFd>) -> Option<Reply> {
        if request.attach.is_some() != client.is_some() {
            return Some(failed(ErrorCode::Invalid, "an exec's attachment and its client's socket belong together"));
        }
        self.exec(asked, request, client)
    }

    fn resize(&mut self, exec: Option<&str>, rows: u16, columns: u16) -> Reply {
        match self.find(exec).map(|process| process.resize(rows, columns)) {
            Ok(Some(result)) => done(result, "resize the terminal"),
            Ok(None) => failed(ErrorCode::Conflict, "the process has no terminal"),
            Err(reply) => *reply,
        }
    }

    fn signal(&mut self, signal: i32, exec: Option<&str>) -> Reply {
        let result = match self.find(exec) {
            Ok(process) => process.signal(signal),
            Err(reply) => return *reply,
        };
        if signal == SIGKILL && exec.is_none() {
            self.thaw();
        }
        match result {
            Err(Errno::SRCH) => not_running(),
            Err(Errno::INVAL) => failed(ErrorCode::Invalid, format!("there is no signal {signal}")),
            other => done(other, "send the signal"),
        }
    }

    fn stop(&mut self, signal: i32, timeout_ms: Option<u64>) -> Reply {
        if timeout_ms == Some(0) {
            return if self.running().is_ok() { self.kill_container() } else { not_running() };
        }
        let reply = self.signal(signal, None);
        if let (Reply::Done, Some(container)) = (&reply, &mut self.container) {
            let deadline = timeout_ms.and_then(|timeout_ms| Instant::now().checked_add(Duration::from_millis(timeout_ms)));
            // A second stop may only bring the end nearer.
            container.kill_at = [container.kill_at, deadline].into_iter().flatten().min();
        }
        reply
    }

    /// Kills the container's first process, frozen or not; the rest follows when it has ended.
    pub(super) fn kill_container(&mut self) -> Reply {
        if let Some(container) = &mut self.container {
            container.kill_at = None;
        }
        self.signal(SIGKILL, None)
    }

    fn freeze(&mut self, freeze: bool) -> Reply {
        let Ok(container) = self.running() else { return not_running() };
        if container.paused == freeze {
            return failed(ErrorCode::Conflict, if freeze { "the container is already paused" } else { "the container is not paused" });
        }
        let result = if freeze { container.group.freeze() } else { container.group.thaw() };
        match result {
            Ok(()) => {
                container.paused = freeze;
                Reply::Done
            }
            Err(error) => {
                if freeze {
                    let _ = container.group.thaw();
                }
                failed(ErrorCode::Failed, types::error::chain(&error))
            }
        }
    }

    fn thaw(&mut self) {
        if let Some(container) = self.container.as_mut().filter(|container| container.paused) {
            let _ = container.group.thaw();
            container.paused = false;
        }
    }

    fn update(&mut self, resources: &oci::Resources) -> Reply {
        let Ok(container) = self.running() else { return not_running() };
        let result = runtime::resources::limits(resources).and_then(|limits| Ok(container.group.set(&limits)?));
        match result {
            Ok(()) => Reply::Done,
            Err(error) => failed(ErrorCode::Failed, types::error::chain(&error)),
        }
    }

    fn state(&self) -> Reply {
        let execs = self.processes.iter().filter(|process| process.status.is_none());
        let execs = execs.filter_map(|process| Some((process.exec.clone()?, process.pid))).collect();
        let none = || State {
            id: String::new(),
            monitor_pid: std::process::id().try_into().unwrap_or_default(),
            started: None,
            paused: false,
            oom_kills: 0,
            exit: None,
            execs: Vec::new(),
            exec_exits: Vec::new(),
        };
        Reply::State(Box::new(self.container.as_ref().map_or_else(none, |container| container.state(execs))))
    }

    fn acknowledge(&mut self) -> Reply {
        match &mut self.container {
            Some(container) if container.exit.is_some() => {
                container.acknowledged = true;
                container.mounts = None;
                Reply::Done
            }
            _ => failed(ErrorCode::Conflict, "the container has not ended"),
        }
    }

    fn running(&mut self) -> Result<&mut Container, ()> {
        self.container.as_mut().filter(|container| container.ended.is_none()).ok_or(())
    }

    fn find(&self, exec: Option<&str>) -> Result<&Process, Box<Reply>> {
        let wanted = |process: &&Process| if exec.is_none() { process.number == 0 } else { process.exec.as_deref() == exec };
        let found = self.processes.iter().filter(wanted).find(|process| process.status.is_none());
        found.ok_or_else(|| {
            Box::new(match exec {
                None => not_running(),
                Some(exec) => failed(ErrorCode::NoSuchExec, format!("no exec {exec} is running")),
            })
        })
    }
}

fn failed(code: ErrorCode, text: impl Into<String>) -> Reply {
    Reply::Failed { code, text: text.into() }
}

fn not_running() -> Reply {
    failed(ErrorCode::NotRunning, "the container is not running")
}

fn done(result: Result<(), Errno>, what: &str) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(errno) => failed(ErrorCode::Failed, format!("{what}: {errno}")),
    }
}
