//! Counters, as Prometheus reads them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted. All since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}
