//! `events` (and `stats`): what a container uses, and when the kernel killed for lack of memory, as lines of JSON.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use super::args::{Args, Flags};
use super::state::Folder;
use super::{Global, Outcome, print, words};

const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

pub(super) fn events(global: &Global, args: &[OsString]) -> Outcome {
    let args = Args::parse_anywhere(args, &Flags { values: &["interval"], switches: &["stats"] })?;
    let interval = args.text(&["interval"]).map(|text| duration(&text)).transpose()?.unwrap_or(INTERVAL_DEFAULT);
    follow(global, args.has(&["stats"]), interval, args.only_id()?)
}

/// The same once.
pub(super) fn stats(global: &Global, args: &[OsString]) -> Outcome {
    let id = Args::parse(args, &Flags { values: &[], switches: &[] })?.only_id()?;
    follow(global, true, INTERVAL_DEFAULT, id)
}

fn follow(global: &Global, once: bool, interval: Duration, id: String) -> Outcome {
    let record = Folder::of(global, &id)?.load()?;
    let (_, pidfd) = record.process().ok_or_else(|| format!("the container {id:?} is not running"))?;
    let system = cgroup::System::detect().map_err(words)?;
    let group = cgroup::Group::open(&system, &record.cgroup);
    let line = |kind: &str, data: serde_json::Value| print(&format!("{}\n", json!({"type": kind, "id": id, "data": data})));
    if once {
        line("stats", described(&group.stats().map_err(words)?));
        return Ok(0);
    }
    let watch = cgroup::OomWatch::new(&group).map_err(words)?;
    let mut kills = watch.as_ref().and_then(|watch| watch.kills().ok()).unwrap_or(0);
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next {
            line("stats", described(&group.stats().map_err(words)?));
            next = now + interval;
        }
        let left = next.saturating_duration_since(now);
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(watch.as_ref().map(|watch| PollFd::new(watch, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout))).map_err(words)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if let Some(watch) = watch.as_ref().filter(|_| ready.contains(&true)) {
            watch.acknowledge();
            let now = watch.kills().unwrap_or(kills);
            if now > kills {
                line("oom", json!(null));
                kills = now;
            }
        }
        if ready[0] {
            return Ok(0);
        }
    }
}

/// `5s`, `500ms`, `1m`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let millis = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor_ms)).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| format!("--interval takes a duration such as 5s or 500ms, not {text:?}"))
}

/// The form that runc gives its statistics, which other programs read.
fn described(stats: &cgroup::Stats) -> serde_json::Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let operations = |list: &[cgroup::BlockOperation]| {
        let one = |entry: &cgroup::BlockOperation| json!({"major": entry.major, "minor": entry.minor, "op": entry.operation, "value": entry.value});
        list.iter().map(one).collect::<Vec<_>>()
    };
    let swap = memory.swap_usage.unwrap_or(0);
    json!({
        "cpu": {
            "usage": {"total": cpu.total_ns, "percpu": cpu.per_cpu_ns, "kernel": cpu.system_ns, "user": cpu.user_ns},
            "throttling": {
                "periods": cpu.throttling.periods,
                "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.stat.get("cache").or_else(|| memory.stat.get("file")).copied().unwrap_or(0),
            "usage": {"limit": memory.limit, "usage": memory.usage, "max": memory.max_usage, "failcnt": memory.fail_count},
            "swap": {"usage": swap},
            "raw": memory.stat,
        },
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": operations(&stats.block_io.service_bytes),
            "ioServicedRecursive": operations(&stats.block_io.serviced),
        },
        "hugetlb": stats.hugetlb.iter().map(|(size, huge)| {
            (size.clone(), json!({"usage": huge.usage, "max": huge.max_usage, "failcnt": huge.fail_count}))
        }).collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "s", "0s", "-1s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
