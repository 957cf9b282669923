//! What a container uses, once or as a stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::Engine;
use engine::request::{StatsPair, StatsSample};
use serde_json::{Value, json};

use crate::container_json::moment;
use crate::http::{JSON, Outcome, Request, received, streamed};
use crate::streams::json_line;

pub async fn stats(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let stream = request.query.flag_or("stream", true);
    let samples = engine.stats(name, stream, request.query.flag("one-shot")).await?;
    Ok(streamed(JSON, received(samples, |pair| json_line(&encode(&pair)))))
}

/// A sample as Docker shows it, with the one before it, so that clients can compute rates.
fn encode(pair: &StatsPair) -> Value {
    let now = &*pair.now;
    let before = pair.before.as_deref();
    let mut shown = json!({
        "id": now.id,
        "name": format!("/{}", now.name),
        "os_type": "linux",
        "read": moment(now.read),
        "cpu_stats": processor(Some(now)),
        "memory_stats": memory(now),
        "pids_stats": processes(now),
        "blkio_stats": block_io(now),
        "num_procs": 0,
        "storage_stats": {},
        "preread": moment(before.and_then(|before| before.read)),
        "precpu_stats": processor(before),
    });
    if !now.networks.is_empty() {
        shown["networks"] = networks(now);
    }
    shown
}

/// The processor's part. Of a container that does not run only zeros are shown, without the machine's figures.
fn processor(sample: Option<&StatsSample>) -> Value {
    let Some(sample) = sample else {
        return json!({
            "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
            "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
        });
    };
    let cpu = &sample.usage.cpu;
    let mut usage = json!({
        "total_usage": cpu.total_ns,
        "usage_in_kernelmode": cpu.system_ns,
        "usage_in_usermode": cpu.user_ns,
    });
    if !cpu.per_cpu_ns.is_empty() {
        usage["percpu_usage"] = json!(cpu.per_cpu_ns);
    }
    let throttling = &cpu.throttling;
    let mut shown = json!({ "cpu_usage": usage });
    if sample.read.is_some() {
        shown["system_cpu_usage"] = json!(sample.system_cpu_ns);
        shown["online_cpus"] = json!(sample.online_cpus);
    }
    shown["throttling_data"] = json!({
        "periods": throttling.periods,
        "throttled_periods": throttling.throttled_periods,
        "throttled_time": throttling.throttled_ns,
    });
    shown
}

fn memory(sample: &StatsSample) -> Value {
    if sample.read.is_none() {
        return json!({});
    }
    let memory = &sample.usage.memory;
    let mut shown = json!({ "usage": memory.usage });
    if let Some(max_usage) = memory.max_usage {
        shown["max_usage"] = json!(max_usage);
    }
    shown["stats"] = json!(memory.stat);
    if memory.fail_count > 0 {
        shown["failcnt"] = json!(memory.fail_count);
    }
    shown["limit"] = json!(memory.limit.min(sample.memory_total));
    shown
}

fn processes(sample: &StatsSample) -> Value {
    if sample.read.is_none() {
        return json!({});
    }
    let mut shown = json!({ "current": sample.usage.pids.current });
    if let Some(limit) = sample.usage.pids.limit {
        shown["limit"] = json!(limit);
    }
    shown
}

/// The traffic of block devices. Kinds of counters that kernels no longer have are empty on version 1 of cgroups, `null` on version 2.
fn block_io(sample: &StatsSample) -> Value {
    let io = &sample.usage.block_io;
    let list = |operations: Vec<Value>| match sample.read {
        Some(_) => json!(operations),
        None => Value::Null,
    };
    let gone = if sample.read.is_some() && sample.cgroup_v1 { json!([]) } else { Value::Null };
    macro_rules! operations {
        ($operations:expr) => {
            list($operations.iter().map(|one| json!({ "major": one.major, "minor": one.minor, "op": one.operation, "value": one.value })).collect())
        };
    }
    json!({
        "io_service_bytes_recursive": operations!(io.service_bytes),
        "io_serviced_recursive": operations!(io.serviced),
        "io_queue_recursive": gone,
        "io_service_time_recursive": gone,
        "io_wait_time_recursive": gone,
        "io_merged_recursive": gone,
        "io_time_recursive": gone,
        "sectors_recursive": gone,
    })
}

fn networks(sample: &StatsSample) -> Value {
    let counters = sample.networks.iter().map(|(name, counters)| {
        let shown = json!({
            "rx_bytes": counters.rx_bytes,
            "rx_packets": counters.rx_packets,
            "rx_errors": counters.rx_errors,
            "rx_dropped": counters.rx_dropped,
            "tx_bytes": counters.tx_bytes,
            "tx_packets": counters.tx_packets,
            "tx_errors": counters.tx_errors,
            "tx_dropped": counters.tx_dropped,
        });
        (name, shown)
    });
    json!(counters.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use engine::request::InterfaceCounters;
    use types::Id;

    use super::*;

    fn sample(read: Option<&str>) -> StatsSample {
        StatsSample {
            id: Id::random(),
            name: "g1".to_owned(),
            read: read.map(|time| time.parse().expect("a time")),
            usage: Default::default(),
            system_cpu_ns: 9,
            online_cpus: 2,
            memory_total: 1 << 30,
            cgroup_v1: true,
            networks: BTreeMap::new(),
        }
    }

    #[test]
    fn a_container_that_does_not_run_shows_zeros() {
        let now = Arc::new(sample(None));
        let zeros = json!({
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        });
        let expected = json!({
            "id": now.id, "name": "/g1", "os_type": "linux", "read": "0001-01-01T00:00:00Z", "cpu_stats": zeros, "memory_stats": {}, "pids_stats": {},
            "blkio_stats": {
                "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null, "io_service_time_recursive": null,
                "io_wait_time_recursive": null, "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
            },
            "num_procs": 0, "storage_stats": {}, "preread": "0001-01-01T00:00:00Z", "precpu_stats": zeros,
        });
        assert_eq!(encode(&StatsPair { now, before: None }), expected);
    }

    #[test]
    fn a_running_container_shows_what_it_uses_within_its_limits() {
        let mut now = sample(Some("2026-11-22T10:51:29Z"));
        now.usage.cpu.total_ns = 5;
        now.usage.memory.usage = 643_072;
        now.usage.memory.limit = u64::MAX;
        now.usage.pids.current = 1;
        now.networks.insert("eth0".to_owned(), InterfaceCounters { rx_bytes: 932, ..InterfaceCounters::default() });
        let before = Some(Arc::new(sample(Some("2026-11-22T10:51:28Z"))));
        let shown = encode(&StatsPair { now: Arc::new(now), before });
        assert_eq!((&shown["read"], &shown["preread"]), (&json!("2026-11-22T10:51:29Z"), &json!("2026-11-22T10:51:28Z")));
        assert_eq!((&shown["cpu_stats"]["system_cpu_usage"], &shown["cpu_stats"]["online_cpus"]), (&json!(9), &json!(2)));
        assert_eq!(shown["memory_stats"], json!({"usage": 643_072, "stats": {}, "limit": 1 << 30}));
        assert_eq!((&shown["pids_stats"], &shown["networks"]["eth0"]["rx_bytes"]), (&json!({"current": 1}), &json!(932)));
        assert_eq!(shown["blkio_stats"]["io_queue_recursive"], json!([]));
    }
}
