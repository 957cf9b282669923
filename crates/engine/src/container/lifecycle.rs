//! The running container: what its monitor tells, stop, kill, restart, pause, and what happens after its end.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use monitor::{Event, Exit, Request};
use tokio::sync::mpsc::UnboundedReceiver;
use types::container::Status;
use types::container::defaults::{STOP_SIGNAL, STOP_TIMEOUT_SECS};

use super::{Container, Record, lock};
use crate::link::{Link, Notice};
use crate::request::{Change, RemoveContainer};
use crate::signal::{self, SIGKILL};
use crate::{Engine, Error};

/// How long a killed container may take to end: its processes may hang in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);
/// A run of this length is taken for a success: the delay begins anew.
const RESTART_RESET_AFTER: Duration = Duration::from_secs(10);
/// The exit code of a container whose monitor was lost.
const EXIT_CODE_LOST: i32 = 137;

impl Engine {
    /// Stops a container: its stop signal, then SIGKILL after the timeout in seconds (-1: never).
    pub async fn stop_container(self: &Arc<Self>, name: &str, signal: Option<&str>, timeout_s: Option<i64>) -> Result<Change, Error> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        self.stop(&container, signal, timeout_s).await
    }

    /// Stops a container if it runs, and starts it.
    pub async fn restart_container(self: &Arc<Self>, name: &str, signal: Option<&str>, timeout_s: Option<i64>) -> Result<(), Error> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(Error::BeingRemoved { name: record.name.clone() });
        }
        container.keep.store(true, Ordering::Release);
        let stopped = self.stop(&container, signal, timeout_s).await;
        container.keep.store(false, Ordering::Release);
        stopped?;
        self.change(&container, |record| record.stopped_by_hand = false);
        self.launch(&container).await?;
        self.publish(&container, "restart");
        Ok(())
    }

    /// Sends a signal to the container's first process.
    pub async fn kill_container(self: &Arc<Self>, name: &str, signal: Option<&str>) -> Result<(), Error> {
        let container = self.find(name)?;
        let record = container.record();
        let text = signal.filter(|text| !text.is_empty()).unwrap_or("SIGKILL");
        let number = signal::parse(text).map_err(|_| Error::KillBadSignal { name: record.name.clone(), signal: text.to_owned() })?;
        let not_running = || Error::KillNotRunning { name: record.name.clone(), id: record.id.clone() };
        let link = container.link().filter(|_| container.record().is_alive()).ok_or_else(not_running)?;
        let ends_it = number == SIGKILL || Some(number) == signal::parse(stop_signal(&record)).ok();
        if ends_it {
            // Whoever kills a container does not want it restarted.
            container.stopping.store(true, Ordering::Release);
            self.change(&container, |record| record.stopped_by_hand = true);
        }
        link.order(Request::Signal { signal: number, exec: None }, &[]).await?;
        let mut attributes = record.attributes();
        attributes.insert("signal".to_owned(), number.to_string());
        self.events.publish("container", "kill", record.id.as_str(), attributes);
        if number == SIGKILL {
            self.ended_within(&container, KILL_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Freezes all processes of a container.
    pub async fn pause_container(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        match record.state.status {
            Status::Running => {}
            Status::Paused => return Err(Error::AlreadyPaused { id: record.id.clone() }),
            Status::Restarting => return Err(Error::Restarting { name: record.name.clone() }),
            _ => return Err(Error::NotRunning { id: record.id.clone() }),
        }
        let link = container.link().ok_or_else(|| Error::NotRunning { id: record.id.clone() })?;
        link.order(Request::Pause, &[]).await?;
        self.set_paused(&container, Status::Running, Status::Paused);
        self.publish(&container, "pause");
        Ok(())
    }

    /// Thaws them.
    pub async fn unpause_container(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        let link = container.link().filter(|_| record.state.status == Status::Paused);
        let link = link.ok_or_else(|| Error::NotPaused { id: record.id.clone() })?;
        link.order(Request::Unpause, &[]).await?;
        self.set_paused(&container, Status::Paused, Status::Running);
        self.publish(&container, "unpause");
        Ok(())
    }

    /// Sets the size of a container's terminal.
    pub async fn resize_container(&self, name: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let container = self.find(name)?;
        let record = container.record();
        let link = container.link().filter(|_| record.is_alive()).ok_or_else(|| Error::NotRunning { id: record.id.clone() })?;
        // Without a terminal there is nothing to do, and clients don't expect an error.
        if !record.config.tty {
            return Ok(());
        }
        link.order(Request::Resize { exec: None, rows, columns }, &[]).await?;
        let mut attributes = record.attributes();
        attributes.extend([("height".to_owned(), rows.to_string()), ("width".to_owned(), columns.to_string())]);
        self.events.publish("container", "resize", record.id.as_str(), attributes);
        Ok(())
    }

    /// Stops the container. The caller holds `operation`.
    pub(super) async fn stop(&self, container: &Arc<Container>, signal: Option<&str>, timeout_s: Option<i64>) -> Result<Change, Error> {
        let record = container.record();
        let number = signal::parse(signal.filter(|text| !text.is_empty()).unwrap_or(stop_signal(&record)))?;
        if !record.is_alive() {
            return Ok(self.cancel_restart(container));
        }
        let Some(link) = container.link() else { return Ok(Change::Already) };
        container.stopping.store(true, Ordering::Release);
        self.change(container, |record| record.stopped_by_hand = true);
        self.save_later(container);
        let seconds = timeout_s.or(record.config.stop_timeout).unwrap_or(STOP_TIMEOUT_SECS);
        let timeout_ms = u64::try_from(seconds).ok().map(|seconds| seconds.saturating_mul(1000));
        let asked = link.order(Request::Stop { signal: number, timeout_ms }, &[]).await;
        if record.state.status == Status::Paused && asked.is_ok() {
            // Frozen processes cannot react.
            let _ = link.order(Request::Unpause, &[]).await;
            self.set_paused(container, Status::Paused, Status::Running);
        }
        let mut attributes = record.attributes();
        attributes.insert("signal".to_owned(), number.to_string());
        self.events.publish("container", "kill", record.id.as_str(), attributes);
        match timeout_ms {
            Some(timeout_ms) => self.ended_within(container, Duration::from_millis(timeout_ms) + KILL_TIMEOUT).await?,
            None => self.ended(container).await,
        }
        self.publish(container, "stop");
        Ok(Change::Done)
    }

    /// Takes a container that waits for its restart out of that state.
    fn cancel_restart(&self, container: &Container) -> Change {
        container.policy_wake.notify_waiters();
        let mut change = Change::Already;
        self.change(container, |record| {
            record.stopped_by_hand = true;
            if record.state.status == Status::Restarting {
                record.state.status = Status::Exited;
                change = Change::Done;
            }
        });
        if change == Change::Done {
            self.save_later(container);
        }
        change
    }

    /// Waits until the container's process has ended and its end is recorded.
    pub(super) async fn ended(&self, container: &Container) {
        let mut watch = container.watch();
        // The sender lives in the container.
        let _ = watch.wait_for(|record| !record.is_alive()).await;
    }

    pub(super) async fn ended_within(&self, container: &Container, limit: Duration) -> Result<(), Error> {
        let name = container.record().name.clone();
        tokio::time::timeout(limit, self.ended(container)).await.map_err(|_| Error::DidNotEnd { name, seconds: KILL_TIMEOUT.as_secs() })
    }

    fn set_paused(&self, container: &Container, from: Status, to: Status) {
        self.change(container, |record| {
            if record.state.status == from {
                record.state.status = to;
            }
        });
        self.save_later(container);
    }

    pub(super) fn publish(&self, container: &Container, action: &str) {
        let record = container.record();
        self.events.publish("container", action, record.id.as_str(), record.attributes());
    }

    /// Listens to the monitor of a running container until it ends.
    /// Boxed, since an end may lead to a start, which listens again.
    pub(crate) fn supervise(
        self: Arc<Self>,
        container: Arc<Container>,
        link: Arc<Link>,
        notices: UnboundedReceiver<Notice>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.listen(container, link, notices))
    }

    async fn listen(self: Arc<Self>, container: Arc<Container>, link: Arc<Link>, mut notices: UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Event(Event::Exited(exit)) => return self.finish(&container, &link, exit).await,
                Notice::Event(Event::ExecExited(exit)) => self.exec_ended(&container, &exit),
                Notice::Event(Event::Oom { .. }) => {
                    self.change(&container, |record| record.state.oom_killed = true);
                    self.publish(&container, "oom");
                }
                Notice::Event(Event::Detached { exec: None }) => self.publish(&container, "detach"),
                Notice::Event(Event::Detached { exec: Some(exec) }) => {
                    let mut attributes = container.record().attributes();
                    attributes.insert("execID".to_owned(), exec);
                    self.events.publish("container", "exec_detach", container.id.as_str(), attributes);
                }
                Notice::Event(Event::LogRotated) => self.compress_log(&container),
                Notice::Event(Event::Warning { text }) => tracing::warn!(container = container.record().name, "{text}"),
                Notice::Lost => {
                    let exit = self.bury(&container).await;
                    return self.finish(&container, &link, exit).await;
                }
            }
        }
    }

    /// Ends what is left of a container whose monitor was lost, and says how it ended as far as that is known.
    pub(crate) async fn bury(self: &Arc<Self>, container: &Arc<Container>) -> Exit {
        let record_path = self.layout.exit_record(&container.id);
        let group = self.group(&container.record());
        let name = container.record().name.clone();
        let recorded = tokio::task::spawn_blocking(move || {
            // No monitor, no container: what runs on unwatched could never be stopped or accounted for.
            if let Err(error) = group.kill_all().and_then(|()| group.remove()) {
                tracing::warn!(container = name, error = types::error::chain(&error), "what is left of the container could not be ended");
            }
            monitor::exit_record::read(&record_path).ok().flatten()
        });
        if let Ok(Some(exit)) = recorded.await {
            return exit;
        }
        self.change(container, |record| record.state.error = "the container's monitor was lost: the container was ended".to_owned());
        Exit { code: EXIT_CODE_LOST, signal: Some(SIGKILL), oom_killed: false, at_ns: Timestamp::now().as_nanosecond() as i64 }
    }

    /// The container has ended: gives back what it held, records the end, tells everybody, and does what its policies say.
    pub(crate) async fn finish(self: &Arc<Self>, container: &Arc<Container>, link: &Arc<Link>, exit: Exit) {
        let settling = container.settling.lock().await;
        *lock(&container.link) = None;
        self.execs.container_ended(&container.id);
        let before = container.record();
        // Before anybody learns of the end: who waited for it may take the port at once.
        self.release_network(&before).await;
        self.release_cgroup_parent(&before).await;
        let restarts = self.restarts(container, &before, exit.code);
        // Read before the end is known: who waits for it may go on at once.
        let kept = container.keep.load(Ordering::Acquire);
        let record = self.change(container, |record| {
            mark_ended(record, &exit);
            if restarts {
                record.state.status = Status::Restarting;
                record.restart_count += 1;
            }
        });
        self.save_later(container);
        self.events.publish("container", "die", record.id.as_str(), with_exit_code(&record, exit.code));
        // The monitor lets the mounts go only now: the last unmount may take its time.
        let _ = link.order(Request::Ack, &[]).await;
        let run = self.layout.run(&record.id);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(run)).await;
        drop(settling);
        if restarts {
            tokio::spawn(self.clone().restart_later(container.clone(), before));
        } else if record.host.auto_remove && !kept {
            self.auto_remove(container).await;
        }
    }

    async fn auto_remove(self: &Arc<Self>, container: &Arc<Container>) {
        let removal = RemoveContainer { force: false, volumes: true };
        match self.remove_found(container, removal).await {
            // Somebody else removes it, or has.
            Ok(()) | Err(Error::RemovalInProgress { .. } | Error::NoSuchContainer { .. }) => {}
            Err(error) => {
                let name = &container.record().name;
                tracing::error!(container = name, error = types::error::chain(&error), "the container could not be removed at its end");
            }
        }
    }

    async fn release_cgroup_parent(self: &Arc<Self>, record: &Arc<Record>) {
        if record.host.cgroup_parent.starts_with('/') {
            let (engine, record) = (self.clone(), record.clone());
            // Only a panic can fail here, which has been told already.
            let _ = tokio::task::spawn_blocking(move || engine.drop_cgroup_parent(&record)).await;
        }
    }

    async fn release_network(self: &Arc<Self>, record: &Record) {
        self.network_events(record, "disconnect");
        self.volume_events(record, "unmount");
        if record.endpoints.is_empty() {
            return;
        }
        let (net, id, endpoints) = (self.net.clone(), record.id.clone(), record.endpoints.clone());
        let released = tokio::task::spawn_blocking(move || crate::sandbox::give_back(&net, &id, &endpoints)).await;
        if let Ok(Err(error)) = released {
            tracing::warn!(
                container = record.name,
                error = types::error::chain(&error),
                "the container's network could not be given back whole"
            );
        }
    }

    /// Whether the restart policy starts it again.
    fn restarts(&self, container: &Container, record: &Record, code: i32) -> bool {
        if container.stopping.load(Ordering::Acquire) || record.stopped_by_hand || container.keep.load(Ordering::Acquire) {
            return false;
        }
        policy_restarts(record, code)
    }

    /// Starts the container again after a pause that grows while it keeps ending at once.
    async fn restart_later(self: Arc<Self>, container: Arc<Container>, ended: Arc<Record>) {
        let ran = ended.state.started_at.map(|start| Timestamp::now().duration_since(start)).unwrap_or_default();
        let delay = if ran.unsigned_abs() >= RESTART_RESET_AFTER { RESTART_DELAY_MIN } else { restart_delay(ended.restart_count) };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = container.policy_wake.notified() => return,
        }
        let _operation = container.operation.lock().await;
        if container.record().state.status != Status::Restarting {
            return;
        }
        if let Err(error) = self.launch(&container).await {
            tracing::warn!(container = ended.name, error = types::error::chain(&error), "the container could not be restarted");
        }
    }

    /// Starts containers again that their policy wants to run, at the engine's start.
    pub(crate) async fn resume_policy(self: Arc<Self>, container: Arc<Container>) {
        let _operation = container.operation.lock().await;
        if !matches!(container.record().state.status, Status::Exited | Status::Restarting) {
            return;
        }
        if let Err(error) = self.launch(&container).await {
            tracing::warn!(
                container = container.record().name,
                error = types::error::chain(&error),
                "the container could not be restarted"
            );
        }
    }
}

/// Whether the policy wants a container that ended with this code to be started again.
pub(crate) fn policy_restarts(record: &Record, code: i32) -> bool {
    let policy = &record.host.restart_policy;
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => code != 0 && (policy.maximum_retry_count == 0 || i64::from(record.restart_count) < policy.maximum_retry_count),
        _ => false,
    }
}

/// The record of a container whose process has ended.
pub(crate) fn mark_ended(record: &mut Record, exit: &Exit) {
    record.state.status = Status::Exited;
    record.state.pid = 0;
    record.state.exit_code = exit.code;
    record.state.oom_killed |= exit.oom_killed;
    record.state.finished_at = Timestamp::from_nanosecond(exit.at_ns.into()).ok();
    record.exits += 1;
    forget_run(record);
}

/// Takes out of the record what belonged to the run that is over.
pub(crate) fn forget_run(record: &mut Record) {
    record.endpoints = Vec::new();
    record.sandbox_id = None;
    record.ports = Default::default();
    for (name, settings) in &mut record.networks {
        clear(settings);
        if let Some(asked) = record.networking.endpoints_config.get(name) {
            settings.mac_address.clone_from(&asked.mac_address);
        }
    }
}

/// What events of an end say.
pub(super) fn with_exit_code(record: &Record, code: i32) -> BTreeMap<String, String> {
    let mut attributes = record.attributes();
    attributes.insert("exitCode".to_owned(), code.to_string());
    if let (Some(start), Some(end)) = (record.state.started_at, record.state.finished_at) {
        attributes.insert("execDuration".to_owned(), end.duration_since(start).as_secs().to_string());
    }
    attributes
}

/// Leaves of an endpoint what was asked for.
fn clear(settings: &mut types::container::EndpointSettings) {
    settings.endpoint_id.clear();
    settings.gateway.clear();
    settings.ip_address.clear();
    settings.ip_prefix_len = 0;
    settings.ipv6_gateway.clear();
    settings.global_ipv6_address.clear();
    settings.global_ipv6_prefix_len = 0;
    settings.mac_address.clear();
}

fn stop_signal(record: &Record) -> &str {
    if record.config.stop_signal.is_empty() { STOP_SIGNAL } else { &record.config.stop_signal }
}

/// 100 ms, doubled with each restart in a row, up to a minute.
fn restart_delay(restarts: u32) -> Duration {
    RESTART_DELAY_MIN.saturating_mul(2_u32.saturating_pow(restarts)).min(RESTART_DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_a_minute() {
        assert_eq!(restart_delay(0), Duration::from_millis(100));
        assert_eq!(restart_delay(3), Duration::from_millis(800));
        assert_eq!(restart_delay(60), RESTART_DELAY_MAX);
    }
}
