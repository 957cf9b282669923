//! What containers use: sampled while somebody looks, one sample shared by all who look at the same time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use types::Id;

use crate::container::{Container, lock};
use crate::request::{InterfaceCounters, StatsPair, StatsSample};
use crate::{Engine, Error, host};

const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// Between the two samples of a single look: five periods of the kernel's processor quota.
const SINGLE_INTERVAL: Duration = Duration::from_millis(500);
/// A sample is as good as a new one for this long.
const SHARED_FOR: Duration = Duration::from_millis(100);

/// The latest sample of each container that somebody looks at.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    latest: Mutex<HashMap<Id, Arc<StatsSample>>>,
}

impl Sampler {
    pub(crate) fn forget(&self, id: &Id) {
        lock(&self.latest).remove(id);
    }

    fn recent(&self, id: &Id) -> Option<Arc<StatsSample>> {
        let sample = lock(&self.latest).get(id).cloned()?;
        let age = Timestamp::now().duration_since(sample.read?);
        (age.unsigned_abs() < SHARED_FOR).then_some(sample)
    }
}

impl Engine {
    /// What a container uses: every second while `stream`, else once, with a sample before it unless `one_shot`.
    /// Of a container that does not run come empty samples.
    pub async fn stats(self: &Arc<Self>, name: &str, stream: bool, one_shot: bool) -> Result<mpsc::Receiver<StatsPair>, Error> {
        let container = self.find(name)?;
        let (sender, receiver) = mpsc::channel(1);
        let engine = self.clone();
        tokio::spawn(async move {
            let mut before = None;
            if !stream && !one_shot && container.record().is_alive() {
                before = engine.sample(&container).await.ok();
                tokio::time::sleep(SINGLE_INTERVAL).await;
            }
            let mut gone = container.gone.subscribe();
            loop {
                let Ok(now) = engine.sample(&container).await else { return };
                if sender.send(StatsPair { now: now.clone(), before: before.replace(now) }).await.is_err() || !stream {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(STREAM_INTERVAL) => {}
                    () = sender.closed() => return,
                    _ = gone.wait_for(|gone| *gone) => return,
                }
            }
        });
        Ok(receiver)
    }

    async fn sample(self: &Arc<Self>, container: &Arc<Container>) -> Result<Arc<StatsSample>, Error> {
        if let Some(sample) = self.stats.recent(&container.id) {
            return Ok(sample);
        }
        let (engine, container) = (self.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            let sample = Arc::new(engine.read_sample(&container));
            if sample.read.is_some() {
                lock(&engine.stats.latest).insert(container.id.clone(), sample.clone());
            }
            Ok(sample)
        })
        .await?
    }

    fn read_sample(&self, container: &Container) -> StatsSample {
        let record = container.record();
        let mut sample = StatsSample {
            id: record.id.clone(),
            name: record.name.clone(),
            read: None,
            usage: cgroup::Stats::default(),
            system_cpu_ns: 0,
            online_cpus: 0,
            memory_total: 0,
            cgroup_v1: self.cgroups.mode() != cgroup::Mode::V2,
            networks: BTreeMap::new(),
        };
        if !record.is_alive() {
            return sample;
        }
        // A container that ends at this moment shows as one that does not run.
        if let Ok(usage) = self.group(&record).stats() {
            sample.usage = usage;
            sample.system_cpu_ns = host::system_cpu_ns();
            sample.online_cpus = host::cpus() as u32;
            sample.memory_total = host::memory_total();
            sample.networks = interfaces(&std::fs::read_to_string(format!("/proc/{}/net/dev", record.state.pid)).unwrap_or_default());
            sample.read = Some(Timestamp::now());
        }
        sample
    }
}

/// The counters in `/proc/PID/net/dev`, without loopback.
fn interfaces(text: &str) -> BTreeMap<String, InterfaceCounters> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let counters = InterfaceCounters {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().skip(2).filter_map(line).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_interface() {
        let text =
            "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 932 10 1 2 0 0 0 0 126 3 4 5 0 0 0 0\n";
        let all = interfaces(text);
        assert_eq!(all.len(), 1);
        let eth0 = all["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (932, 2, 126, 5));
    }
}
