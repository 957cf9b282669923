//! Commands run in running containers.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use monitor::{Attach, ExecExit, ExecRequest, Reply, Request};
use runtime::oci;
use rustix::net::Shutdown;
use tokio::io::AsyncWriteExt;
use types::Id;
use types::container::Status;

use crate::container::{Container, Record, attach, lock};
use crate::link::ExecEnd;
use crate::request::{ClientStream, ExecConfig, ExecView};
use crate::{Engine, Error, spec};

/// Execs that are remembered: those that run, those that wait for their start, and, as long as there is room, ended ones for their exit codes.
const EXECS_LEN_MAX: usize = 4096;
/// The exit code of an exec whose container ended with it.
const EXIT_CODE_KILLED: i64 = 137;

/// All execs that can still be asked for.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    by_id: Mutex<HashMap<String, Exec>>,
    /// Counts ends, for those who wait for one.
    ends: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Exec {
    view: ExecView,
    started: bool,
}

/// An exec that may start: everything is checked, only the client's socket may be missing.
#[derive(Debug)]
pub struct ExecTicket {
    /// It gets a terminal: the stream is raw.
    pub tty: bool,
    engine: Arc<Engine>,
    container: Arc<Container>,
    id: Id,
    config: ExecConfig,
}

impl Execs {
    /// Those that run in a container.
    pub(crate) fn running_in(&self, container: &Id) -> Vec<Id> {
        let all = lock(&self.by_id);
        all.values().filter(|exec| exec.view.running && exec.view.container == *container).map(|exec| exec.view.id.clone()).collect()
    }

    /// The monitor tells that one has ended.
    fn end(&self, exit: &ExecExit) {
        let Ok(id) = exit.id.parse::<Id>() else { return };
        self.change(&id, |exec| {
            exec.view.running = false;
            exec.view.exit_code = Some(exit.code.into());
            exec.view.pid = 0;
        });
        self.ends.send_modify(|count| *count += 1);
    }

    /// The container has ended, and its execs with it.
    pub(crate) fn container_ended(&self, container: &Id) {
        let mut all = lock(&self.by_id);
        for exec in all.values_mut().filter(|exec| exec.view.container == *container && exec.view.running) {
            exec.view.running = false;
            exec.view.exit_code.get_or_insert(EXIT_CODE_KILLED);
        }
        self.ends.send_modify(|count| *count += 1);
    }

    /// The exit code of an exec, once it has one.
    pub(crate) async fn ended(&self, id: &Id) -> i64 {
        let mut ends = self.ends.subscribe();
        loop {
            ends.borrow_and_update();
            let exec = lock(&self.by_id).get(id.as_str()).cloned();
            match exec {
                Some(Exec { view: ExecView { exit_code: None, .. }, .. }) => {}
                Some(exec) => return exec.view.exit_code.unwrap_or(EXIT_CODE_KILLED),
                None => return EXIT_CODE_KILLED,
            }
            // The sender is part of `self`.
            let _ = ends.changed().await;
        }
    }

    /// Nobody will ask for it any more.
    pub(crate) fn forget(&self, id: &Id) {
        lock(&self.by_id).remove(id.as_str());
    }

    /// Nobody can ask for them any more.
    pub(crate) fn container_removed(&self, container: &Id) {
        lock(&self.by_id).retain(|_, exec| exec.view.container != *container);
    }

    /// An exec that a restarted engine finds running.
    pub(crate) fn restore(&self, id: &str, container: &Id, pid: i32) {
        let Ok(parsed) = id.parse::<Id>() else { return };
        let view =
            ExecView { id: parsed, container: container.clone(), config: ExecConfig::default(), running: true, exit_code: None, pid };
        lock(&self.by_id).insert(id.to_owned(), Exec { view, started: true });
    }

    fn add(&self, view: ExecView) -> Result<(), Error> {
        let mut all = lock(&self.by_id);
        if all.len() >= EXECS_LEN_MAX {
            all.retain(|_, exec| exec.view.running || !exec.started);
        }
        if all.len() >= EXECS_LEN_MAX {
            return Err(Error::TooManyExecs { limit: EXECS_LEN_MAX });
        }
        all.insert(view.id.to_string(), Exec { view, started: false });
        Ok(())
    }

    /// An exec by its identifier or an unambiguous prefix of it.
    fn find(&self, id: &str) -> Result<Exec, Error> {
        let all = lock(&self.by_id);
        if let Some(exec) = all.get(id) {
            return Ok(exec.clone());
        }
        let mut hits = all.iter().filter(|(known, _)| !id.is_empty() && known.starts_with(id)).map(|(_, exec)| exec);
        match (hits.next(), hits.next()) {
            (Some(exec), None) => Ok(exec.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix { prefix: id.to_owned() }),
            (None, _) => Err(Error::NoSuchExec { id: id.to_owned() }),
        }
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Exec)) {
        if let Some(exec) = lock(&self.by_id).get_mut(id.as_str()) {
            change(exec);
        }
    }
}

impl Engine {
    /// Prepares a command for a running container. It runs when it is started.
    pub fn create_exec(&self, name: &str, config: ExecConfig) -> Result<Id, Error> {
        let container = self.find(name)?;
        let record = container.record();
        runs(&record)?;
        if config.cmd.first().is_none_or(String::is_empty) {
            return Err(Error::NoExecCommand);
        }
        attach::detach_keys(config.detach_keys.as_deref())?;
        let id = Id::random();
        let command = config.cmd.join(" ");
        self.execs.add(ExecView { id: id.clone(), container: container.id.clone(), config, running: false, exit_code: None, pid: 0 })?;
        self.exec_event(&record, &format!("exec_create: {command}"), &id);
        Ok(id)
    }

    /// Checks that an exec may be started, and takes its only start. The ticket then runs it.
    pub fn start_exec(self: &Arc<Self>, id: &str, console_size: Option<(u16, u16)>) -> Result<ExecTicket, Error> {
        let exec = self.execs.find(id)?;
        let container = self.containers.get(&exec.view.container).ok_or_else(|| Error::NoSuchExec { id: id.to_owned() })?;
        runs(&container.record())?;
        let mut config = exec.view.config.clone();
        config.console_size = console_size.or(config.console_size);
        let mut first = false;
        self.execs.change(&exec.view.id, |exec| first = !std::mem::replace(&mut exec.started, true));
        if !first {
            return Err(Error::ExecAlreadyRun { id: exec.view.id });
        }
        Ok(ExecTicket { tty: config.tty, engine: self.clone(), container, id: exec.view.id, config })
    }

    /// An exec by its identifier or an unambiguous prefix of it.
    ///
    /// A client whose stream has ended asks for the exit code at once: the monitor tells it before it ends the stream, but on another socket. Its answer to
    /// a question comes after what it told before.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecView, Error> {
        let exec = self.execs.find(id)?;
        let link = self.containers.get(&exec.view.container).and_then(|container| container.link());
        let Some(link) = link.filter(|_| exec.view.running) else { return Ok(exec.view) };
        // A monitor that does not answer has told all that it will tell.
        let _ = link.order(Request::Ping, &[]).await;
        self.execs.find(exec.view.id.as_str()).map(|exec| exec.view)
    }

    /// Notes an exec's end as soon as the monitor's word is read.
    pub(crate) fn exec_end(self: &Arc<Self>) -> ExecEnd {
        let engine = Arc::downgrade(self);
        Box::new(move |exit| {
            if let Some(engine) = engine.upgrade() {
                engine.execs.end(exit);
            }
        })
    }

    /// Sets the size of an exec's terminal.
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let exec = self.execs.find(id)?;
        let link = self.containers.get(&exec.view.container).and_then(|container| container.link());
        let link = link.filter(|_| exec.view.running).ok_or(Error::ExecNotRunning { id: exec.view.id.clone() })?;
        link.order(Request::Resize { exec: Some(exec.view.id.to_string()), rows, columns }, &[]).await
    }

    /// Publishes that an exec has ended.
    pub(crate) fn exec_ended(&self, container: &Container, exit: &ExecExit) {
        let mut attributes = container.record().attributes();
        attributes.extend([("execID".to_owned(), exit.id.clone()), ("exitCode".to_owned(), exit.code.to_string())]);
        self.events.publish("container", "exec_die", container.id.as_str(), attributes);
    }

    fn exec_event(&self, record: &Record, action: &str, exec: &Id) {
        let mut attributes = record.attributes();
        attributes.insert("execID".to_owned(), exec.to_string());
        self.events.publish("container", action, record.id.as_str(), attributes);
    }
}

impl ExecTicket {
    /// Runs the command with its streams on the client's socket. A failure is told on the stream, since the reply has begun.
    pub async fn attached(self, client: ClientStream) {
        let streams = Attach {
            stdin: self.config.attach_stdin,
            stdout: self.config.attach_stdout,
            stderr: self.config.attach_stderr,
            multiplexed: !self.config.tty,
            detach_keys: attach::detach_keys(self.config.detach_keys.as_deref()).unwrap_or_default(),
            read_ahead: client.read_ahead.to_vec(),
        };
        if let Err(error) = self.run(Some((streams, &client))).await {
            let text = types::error::chain(&error);
            tracing::debug!(exec = %self.id, error = text, "an exec could not be started");
            tell(client, &text, self.tty).await;
        }
    }

    /// Runs the command with empty input, its output discarded.
    pub async fn detached(self) -> Result<(), Error> {
        self.run(None).await
    }

    pub(crate) async fn run(&self, client: Option<(Attach, &ClientStream)>) -> Result<(), Error> {
        let record = self.container.record();
        // Told before, as Docker does: the end of a short one must not come first.
        self.engine.exec_event(&record, &format!("exec_start: {}", self.config.cmd.join(" ")), &self.id);
        let started = self.request(&record, client).await;
        match &started {
            Ok(_) => {}
            Err(error) => {
                let code = match error {
                    Error::Start { exit_code, .. } => *exit_code,
                    _ => spec::EXIT_CODE_FAILED,
                };
                self.engine.execs.change(&self.id, |exec| {
                    exec.view.running = false;
                    exec.view.exit_code = Some(code.into());
                });
            }
        }
        started
    }

    async fn request(&self, record: &Record, client: Option<(Attach, &ClientStream)>) -> Result<(), Error> {
        let link = self.container.link().ok_or_else(|| Error::NotRunning { id: record.id.clone() })?;
        let (attach, sockets) = match &client {
            Some((streams, client)) => (Some(streams.clone()), vec![client.socket.as_fd()]),
            None => (None, Vec::new()),
        };
        let request = ExecRequest {
            id: self.id.to_string(),
            process: Box::new(process(record, &self.config)?),
            user: if self.config.user.is_empty() { record.config.user.clone() } else { self.config.user.clone() },
            additional_groups: record.host.group_add.to_vec(),
            unconfined: self.config.privileged,
            attach,
        };
        // Before the answer: a short command's end may be told ahead of it.
        self.engine.execs.change(&self.id, |exec| exec.view.running = true);
        match link.request(Request::Exec(Box::new(request)), &sockets).await? {
            Reply::ExecStarted { pid } => {
                self.engine.execs.change(&self.id, |exec| {
                    if exec.view.running {
                        exec.view.pid = pid;
                    }
                });
                Ok(())
            }
            Reply::ExecFailed(failure) => Err(Error::Start { text: failure.text, exit_code: failure.exit_code }),
            Reply::Failed { text, .. } => Err(Error::Monitor { name: record.name.clone(), what: text }),
            other => Err(Error::Monitor { name: record.name.clone(), what: format!("answered the exec with {other:?}") }),
        }
    }
}

/// Whether commands can be run in the container now.
fn runs(record: &Record) -> Result<(), Error> {
    match record.state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(Error::Paused { name: record.name.clone(), what: "exec" }),
        Status::Restarting => Err(Error::Restarting { name: record.name.clone() }),
        _ => Err(Error::NotRunning { id: record.id.clone() }),
    }
}

fn process(record: &Record, config: &ExecConfig) -> Result<oci::Process, Error> {
    let mut env = spec::environment(&record.config);
    if config.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    spec::override_variables(&mut env, &config.env);
    let cwd = [&config.working_dir, &record.config.working_dir].into_iter().find(|path| !path.is_empty());
    if let Some(path) = cwd
        && !path.starts_with('/')
    {
        return Err(Error::BadField { field: "WorkingDir", value: path.clone(), reason: "it must be an absolute path".to_owned() });
    }
    let security = spec::Security::parse(&record.host)?;
    Ok(oci::Process {
        terminal: config.tty,
        console_size: config
            .console_size
            .map(|(height, width)| oci::ConsoleSize { height, width })
            .filter(|size| size.height > 0 && size.width > 0),
        args: config.cmd.clone(),
        env,
        cwd: cwd.map_or_else(|| "/".into(), Into::into),
        capabilities: Some(spec::exec_capabilities(&record.host, config.privileged)?),
        no_new_privileges: security.no_new_privileges,
        ..oci::Process::default()
    })
}

/// Writes an error to a client whose reply has begun, and ends the stream.
async fn tell(client: ClientStream, text: &str, raw: bool) {
    let line = format!("{text}\r\n");
    let mut bytes = Vec::new();
    if !raw {
        bytes.extend_from_slice(&[2, 0, 0, 0]);
        bytes.extend_from_slice(&(line.len() as u32).to_be_bytes());
    }
    bytes.extend_from_slice(line.as_bytes());
    let Ok(mut socket) = attach::stream(client.socket) else { return };
    let _ = socket.write_all(&bytes).await;
    let _ = rustix::net::shutdown(socket.as_fd(), Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_that_are_never_started_are_bounded() {
        let execs = Execs::default();
        let container = Id::random();
        let view = || ExecView {
            id: Id::random(),
            container: container.clone(),
            config: ExecConfig::default(),
            running: false,
            exit_code: None,
            pid: 0,
        };
        for _ in 0..EXECS_LEN_MAX {
            execs.add(view()).expect("there is room");
        }
        assert!(matches!(execs.add(view()), Err(Error::TooManyExecs { .. })));
        execs.container_removed(&container);
        execs.add(view()).expect("there is room again");
    }
}
