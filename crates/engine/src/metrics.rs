//! What the engine counts about itself, and the state it shows to whoever collects figures.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use types::container::Status;

use crate::Engine;

/// Times that a reader of a log met records that were torn.
pub(crate) static LOG_RECORDS_TORN: AtomicU64 = AtomicU64::new(0);
/// Records that a slow collector never got.
pub(crate) static LOG_RECORDS_LOST: AtomicU64 = AtomicU64::new(0);
/// Health checks that were run.
pub(crate) static HEALTH_CHECKS: AtomicU64 = AtomicU64::new(0);
/// Health checks that failed.
pub(crate) static HEALTH_CHECKS_FAILED: AtomicU64 = AtomicU64::new(0);
/// Events that were told.
pub(crate) static EVENTS: AtomicU64 = AtomicU64::new(0);

impl Engine {
    /// What the engine counts, in Prometheus' text format. Docker's names where Docker has the figure.
    pub fn metrics(&self) -> String {
        let records: Vec<_> = self.containers.all().iter().map(|container| container.record()).collect();
        let count = |wanted: &[Status]| records.iter().filter(|record| wanted.contains(&record.state.status)).count() as f64;
        let mut page = Page::default();
        let states = [
            ("state=\"paused\"", count(&[Status::Paused])),
            ("state=\"running\"", count(&[Status::Running, Status::Restarting])),
            ("state=\"stopped\"", count(&[Status::Created, Status::Exited, Status::Dead, Status::Removing])),
        ];
        page.family("engine_daemon_container_states_containers", "gauge", "Containers by state", &states);
        let info = format!("version=\"{}\",daemon_id=\"{}\",graphdriver=\"overlay2\"", env!("CARGO_PKG_VERSION"), self.id);
        page.family("engine_daemon_engine_info", "gauge", "The engine and what it is", &[(&info, 1.0)]);
        page.family("engine_daemon_engine_cpus_cpus", "gauge", "Processors of the machine", &[("", crate::host::cpus() as f64)]);
        page.family("engine_daemon_engine_memory_bytes", "gauge", "Memory of the machine", &[("", crate::host::memory_total() as f64)]);
        for (name, help, counter) in [
            ("engine_daemon_events_total", "Events told", &EVENTS),
            ("engine_daemon_health_checks_total", "Health checks run", &HEALTH_CHECKS),
            ("engine_daemon_health_checks_failed_total", "Health checks failed", &HEALTH_CHECKS_FAILED),
            ("cais_log_torn_total", "Times that a log had torn records when it was read", &LOG_RECORDS_TORN),
            ("cais_log_records_lost_total", "Records of logs that a collector was too slow for", &LOG_RECORDS_LOST),
        ] {
            page.family(name, "counter", help, &[("", counter.load(Ordering::Relaxed) as f64)]);
        }
        page.family("cais_images", "gauge", "Images", &[("", self.store.images().len() as f64)]);
        page.family("cais_volumes", "gauge", "Volumes", &[("", self.store.volumes().len() as f64)]);
        page.family("cais_event_listeners", "gauge", "Clients that listen to events", &[("", self.events.listeners() as f64)]);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        page.family("process_open_fds", "gauge", "Open descriptors of the engine", &[("", open as f64)]);
        page.0
    }
}

/// A page of figures being written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(&str, f64)]) {
        // Writing to a text does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = if labels.is_empty() { writeln!(self.0, "{name} {value}") } else { writeln!(self.0, "{name}{{{labels}}} {value}") };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_in_prometheus_format() {
        let mut page = Page::default();
        page.family("a_total", "counter", "Things", &[("", 2.0)]);
        page.family("b", "gauge", "Others", &[("state=\"x\"", 1.5)]);
        assert_eq!(
            page.0,
            "# HELP a_total Things\n# TYPE a_total counter\na_total 2\n# HELP b Others\n# TYPE b gauge\nb{state=\"x\"} 1.5\n"
        );
    }
}
