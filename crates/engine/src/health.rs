//! Health checks: a command run in the container again and again, and what its exit codes say.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use monitor::{Attach, Request};
use types::container::{Config, Health, HealthConfig, HealthResult, Status};

use crate::container::{Container, Record};
use crate::probe::Direct;
use crate::request::{ClientStream, ExecConfig};
use crate::signal::SIGKILL;
use crate::{Engine, Error};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The shortest times that are accepted, as Docker has them.
const DURATION_MIN: Duration = Duration::from_millis(1);
/// Results that are remembered.
const LOG_LEN_MAX: usize = 5;
const OUTPUT_BYTES_MAX: usize = 4096;
/// The exit code of a probe that could not be run or was too slow.
const EXIT_CODE_FAILED: i32 = -1;

const STARTING: &str = "starting";
const HEALTHY: &str = "healthy";
const UNHEALTHY: &str = "unhealthy";

/// How a container is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Probe {
    check: Check,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    /// Runs a command in the container.
    Command(Vec<String>),
    /// Uses its network.
    Network(Direct),
}

impl Probe {
    /// None where there is nothing to run.
    fn of(config: &Config) -> Option<Self> {
        let health = config.healthcheck.as_ref()?;
        let check = match health.test.first().map(String::as_str)? {
            "CMD" => Check::Command(health.test[1..].to_vec()),
            kind @ ("HTTP" | "TCP") => Check::Network(Direct::parse(kind, health.test.get(1)?).ok()?),
            "CMD-SHELL" => {
                let shell = if config.shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { config.shell.to_vec() };
                Check::Command(shell.into_iter().chain(health.test.get(1).cloned()).collect())
            }
            _ => return None,
        };
        let duration = |nanos: i64, default| u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map_or(default, Duration::from_nanos);
        Some(Self {
            check,
            interval: duration(health.interval, INTERVAL),
            timeout: duration(health.timeout, TIMEOUT),
            start_period: duration(health.start_period, Duration::ZERO),
            start_interval: duration(health.start_interval, START_INTERVAL),
            retries: u32::try_from(health.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES),
        })
        .filter(|probe| !matches!(&probe.check, Check::Command(command) if command.is_empty()))
    }
}

/// Refuses what cannot be done.
pub(crate) fn validate(health: &HealthConfig) -> Result<(), Error> {
    let bad = |field: &'static str, value: String, reason: &str| Err(Error::BadField { field, value, reason: reason.to_owned() });
    match health.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => {}
        Some(kind @ ("HTTP" | "TCP")) => {
            let argument = health.test.get(1).map(String::as_str).unwrap_or_default();
            if let Err(reason) = Direct::parse(kind, argument) {
                return bad("Healthcheck.Test", argument.to_owned(), &reason);
            }
        }
        Some(other) => return bad("Healthcheck.Test", other.to_owned(), "it must begin with NONE, CMD, CMD-SHELL, HTTP or TCP"),
    }
    for (field, nanos) in [
        ("Healthcheck.Interval", health.interval),
        ("Healthcheck.Timeout", health.timeout),
        ("Healthcheck.StartPeriod", health.start_period),
        ("Healthcheck.StartInterval", health.start_interval),
    ] {
        if nanos < 0 || nanos > 0 && Duration::from_nanos(nanos.unsigned_abs()) < DURATION_MIN {
            return bad(field, nanos.to_string(), "it cannot be shorter than 1ms");
        }
    }
    if health.retries < 0 {
        return bad("Healthcheck.Retries", health.retries.to_string(), "it cannot be negative");
    }
    Ok(())
}

/// The health of a container that has just been started; none without a check.
pub(crate) fn at_start(config: &Config) -> Option<Health> {
    Probe::of(config).map(|_| Health { status: STARTING.to_owned(), failing_streak: 0, log: Vec::new() })
}

impl Engine {
    /// Probes a running container until it ends.
    pub(crate) fn watch_health(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        if let Some(probe) = Probe::of(&record.config) {
            tokio::spawn(self.clone().probe_until_end(container.clone(), probe, record.state.started_at));
        }
    }

    async fn probe_until_end(self: Arc<Self>, container: Arc<Container>, probe: Probe, run: Option<Timestamp>) {
        let mut changes = container.watch();
        loop {
            let pause =
                if in_start_period(&container.record(), &probe) { probe.start_interval.min(probe.interval) } else { probe.interval };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = changes.wait_for(|record| !is_run(record, run)) => return,
            }
            if container.record().state.status != Status::Running {
                // Frozen processes cannot answer, and are not ill for it.
                continue;
            }
            let result = self.probe(&container, &probe).await;
            if !is_run(&container.record(), run) {
                return;
            }
            self.judge(&container, &probe, result);
        }
    }

    /// Runs the check once.
    async fn probe(self: &Arc<Self>, container: &Arc<Container>, probe: &Probe) -> HealthResult {
        let start = Timestamp::now();
        let checked = async {
            match &probe.check {
                Check::Command(command) => self.run_check(container, command).await,
                Check::Network(check) => Ok(check.run(container.record().state.pid, probe.timeout).await),
            }
        };
        let (exit_code, output) = match tokio::time::timeout(probe.timeout, checked).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => (EXIT_CODE_FAILED, types::error::chain(&error)),
            Err(_) => (EXIT_CODE_FAILED, format!("Health check exceeded timeout ({:?})", probe.timeout)),
        };
        HealthResult { start, end: Timestamp::now(), exit_code, output }
    }

    async fn run_check(self: &Arc<Self>, container: &Arc<Container>, command: &[String]) -> Result<(i32, String), Error> {
        let config = ExecConfig { cmd: command.to_vec(), attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
        let id = self.create_exec(container.id.as_str(), config)?;
        let guard = Kill { engine: self.clone(), container: container.clone(), exec: id.to_string(), armed: true };
        let failed = |source| Error::File { operation: "make a socket for", path: "the health check's output".into(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let ticket = self.start_exec(id.as_str(), None)?;
        let streams = Attach { stdout: true, stderr: true, ..Attach::default() };
        ticket.run(Some((streams, &ClientStream { socket: OwnedFd::from(theirs), read_ahead: Default::default() }))).await?;
        let exit = self.execs.ended(&id).await;
        guard.disarm();
        let output = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            // What the check left running may hold the stream open: only what is there now is read.
            let _ = ours.set_nonblocking(true);
            let _ = ours.take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .await?;
        self.execs.forget(&id);
        Ok((exit as i32, output))
    }

    /// Draws the conclusion from a result.
    fn judge(&self, container: &Arc<Container>, probe: &Probe, result: HealthResult) {
        crate::metrics::HEALTH_CHECKS.fetch_add(1, Ordering::Relaxed);
        if result.exit_code != 0 {
            crate::metrics::HEALTH_CHECKS_FAILED.fetch_add(1, Ordering::Relaxed);
        }
        let before = container.record().state.health.clone().unwrap_or_default().status;
        let tolerant = in_start_period(&container.record(), probe);
        let record = self.change(container, |record| {
            let health = record.state.health.get_or_insert_default();
            conclude(health, result, probe.retries, tolerant);
        });
        let now = record.state.health.clone().unwrap_or_default().status;
        if now != before {
            self.save_later(container);
            self.events.publish("container", format!("health_status: {now}"), record.id.as_str(), record.attributes());
        }
    }
}

/// Ends a check that is given up.
struct Kill {
    engine: Arc<Engine>,
    container: Arc<Container>,
    exec: String,
    armed: bool,
}

impl Kill {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (engine, exec) = (self.engine.clone(), self.exec.clone());
        let Some(link) = self.container.link() else { return };
        tokio::spawn(async move {
            let _ = link.order(Request::Signal { signal: SIGKILL, exec: Some(exec.clone()) }, &[]).await;
            if let Ok(id) = exec.parse() {
                engine.execs.forget(&id);
            }
        });
    }
}

fn conclude(health: &mut Health, result: HealthResult, retries: u32, tolerant: bool) {
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HEALTHY.to_owned();
    } else if !(tolerant && health.status == STARTING) {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = UNHEALTHY.to_owned();
        }
    }
    if health.log.len() >= LOG_LEN_MAX {
        health.log.remove(0);
    }
    health.log.push(result);
}

/// Whether it is still the run that began at that moment.
fn is_run(record: &Record, run: Option<Timestamp>) -> bool {
    record.is_alive() && record.state.started_at == run
}

fn in_start_period(record: &Record, probe: &Probe) -> bool {
    let starting = record.state.health.as_ref().is_some_and(|health| health.status == STARTING);
    let age = record.state.started_at.map(|start| Timestamp::now().duration_since(start).unsigned_abs()).unwrap_or_default();
    starting && age < probe.start_period
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH, exit_code, output: String::new() }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_heals() {
        let mut health = Health { status: STARTING.to_owned(), failing_streak: 0, log: Vec::new() };
        conclude(&mut health, result(1), 2, true);
        assert_eq!((health.status.as_str(), health.failing_streak), (STARTING, 0));
        conclude(&mut health, result(1), 2, false);
        assert_eq!((health.status.as_str(), health.failing_streak), (STARTING, 1));
        conclude(&mut health, result(1), 2, false);
        assert_eq!((health.status.as_str(), health.failing_streak), (UNHEALTHY, 2));
        conclude(&mut health, result(0), 2, false);
        assert_eq!((health.status.as_str(), health.failing_streak), (HEALTHY, 0));
        for _ in 0..9 {
            conclude(&mut health, result(0), 2, false);
        }
        assert_eq!(health.log.len(), LOG_LEN_MAX);
    }

    #[test]
    fn probes_have_defaults_and_forms() {
        let config = |test: &[&str]| {
            let test: Vec<String> = test.iter().map(|word| (*word).to_owned()).collect();
            Config {
                healthcheck: Some(HealthConfig { test: test.into(), interval: 2_000_000_000, ..HealthConfig::default() }),
                ..Config::default()
            }
        };
        let probe = Probe::of(&config(&["CMD-SHELL", "test -e /ok"])).expect("a probe");
        assert_eq!(probe.check, Check::Command(["/bin/sh", "-c", "test -e /ok"].map(str::to_owned).to_vec()));
        assert_eq!((probe.interval, probe.timeout, probe.retries), (Duration::from_secs(2), TIMEOUT, RETRIES));
        assert_eq!(Probe::of(&config(&["NONE"])), None);
        assert_eq!(Probe::of(&config(&["CMD"])), None);
        assert!(matches!(Probe::of(&config(&["TCP", "80"])).map(|probe| probe.check), Some(Check::Network(_))));
        assert!(validate(&HealthConfig { test: vec!["TCP".to_owned(), "x".to_owned()].into(), ..HealthConfig::default() }).is_err());
        assert!(validate(&HealthConfig { interval: 5, ..HealthConfig::default() }).is_err());
    }
}
