//! Counters, as Prometheus reads them (its text format, version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the classes of times, in seconds.
const BOUNDS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// What is counted. All since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    received: AtomicU64,
    sent: AtomicU64,
    connections: AtomicU64,
    under_way: AtomicU64,
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    times: [AtomicU64; BOUNDS.len()],
    time_count: AtomicU64,
    time_sum_us: AtomicU64,
    pub(super) collected_files: AtomicU64,
    pub(super) collected_bytes: AtomicU64,
}

/// Counts a request as under way until dropped.
pub(super) struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.under_way)
    }

    /// A request was answered, after so long.
    pub(super) fn answered(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            // A client can make up any number of them.
            _ => "other",
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((method, route, status.as_u16())).or_default() += 1;
        drop(requests);
        let seconds = took.as_secs_f64();
        for (bound, count) in BOUNDS.iter().zip(&self.times) {
            if seconds <= *bound {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.time_count.fetch_add(1, Ordering::Relaxed);
        self.time_sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The page; `uploads` are under way now.
    pub(super) fn page(&self, uploads: usize) -> String {
        let mut page = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, lines: &[(String, String)]| {
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(page, "{name}{labels} {value}");
            }
        };
        let one = |value: &AtomicU64| [(String::new(), value.load(Ordering::Relaxed).to_string())];
        metric("cais_registry_received_bytes_total", "counter", "Bytes of blobs received.", &one(&self.received));
        metric("cais_registry_sent_bytes_total", "counter", "Bytes of bodies sent.", &one(&self.sent));
        metric("cais_registry_connections_total", "counter", "Connections accepted.", &one(&self.connections));
        metric("cais_registry_requests_under_way", "gauge", "Requests that are being answered.", &one(&self.under_way));
        metric("cais_registry_uploads_open", "gauge", "Uploads begun and not finished.", &[(String::new(), uploads.to_string())]);
        metric("cais_registry_collected_files_total", "counter", "Files removed by collections.", &one(&self.collected_files));
        metric("cais_registry_collected_bytes_total", "counter", "Bytes freed by collections.", &one(&self.collected_bytes));
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<_> = requests
            .iter()
            .map(|((method, route, status), count)| {
                (format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"), count.to_string())
            })
            .collect();
        drop(requests);
        metric("cais_registry_requests_total", "counter", "Requests answered.", &lines);
        let count = self.time_count.load(Ordering::Relaxed).to_string();
        let bounds = BOUNDS.iter().zip(&self.times).map(|(bound, value)| (bound.to_string(), value.load(Ordering::Relaxed).to_string()));
        let classes = bounds.chain([("+Inf".to_owned(), count.clone())]);
        let lines: Vec<_> = classes.map(|(bound, value)| (format!("_bucket{{le=\"{bound}\"}}"), value)).collect();
        let sum = self.time_sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let mut lines = lines;
        lines.extend([("_sum".to_owned(), sum.to_string()), ("_count".to_owned(), count)]);
        metric("cais_registry_request_seconds", "histogram", "Time until the head of an answer.", &lines);
        page
    }
}
