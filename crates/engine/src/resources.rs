//! Limits: checked once when they are asked for, and translated for the runtime. Pure, but for device numbers.

mod block;
mod machine;

use runtime::oci;
use types::container::HostConfig;
use types::container::defaults::{MEMORY_MIN, NANO_CPUS_MIN};

use crate::Error;
use crate::sandbox::bad as bad_text;

const CPU_PERIOD_US: i64 = 100_000;
const NANOS_PER_CPU: i64 = 1_000_000_000;
/// The kernel's period of the real-time scheduler where none is given.
const REALTIME_PERIOD_US: i64 = 1_000_000;
/// Annotations that limit huge pages: the size follows, as the kernel names it (`cais.hugetlb.2MB`), and the value is a number of bytes.
const HUGETLB_ANNOTATION: &str = "cais.hugetlb.";

/// Refuses limits that contradict each other or that no kernel can keep.
pub(crate) fn validate(host: &HostConfig) -> Result<(), Error> {
    let bad = |field: &'static str, value: i64, reason: String| Err(Error::BadField { field, value: value.to_string(), reason });
    if host.memory != 0 && host.memory < MEMORY_MIN {
        return bad("Memory", host.memory, format!("Minimum memory limit allowed is {}MB", MEMORY_MIN >> 20));
    }
    if host.memory_swap > 0 && host.memory == 0 {
        return bad("MemorySwap", host.memory_swap, "a limit of swap needs a limit of memory: set --memory too".to_owned());
    }
    if host.memory_swap > 0 && host.memory_swap < host.memory {
        return bad(
            "MemorySwap",
            host.memory_swap,
            "it counts memory and swap together, so it cannot be smaller than the memory limit".to_owned(),
        );
    }
    if host.memory_swap < -1 {
        return bad("MemorySwap", host.memory_swap, "-1 means unlimited".to_owned());
    }
    if host.memory_reservation < 0 || host.memory > 0 && host.memory_reservation > host.memory {
        return bad("MemoryReservation", host.memory_reservation, "it must not be above the memory limit".to_owned());
    }
    if host.nano_cpus < 0 || host.nano_cpus > 0 && host.nano_cpus < NANO_CPUS_MIN {
        return bad("NanoCpus", host.nano_cpus, "at least 0.01 of a processor is needed".to_owned());
    }
    let cpus = crate::host::cpus() as i64;
    if host.nano_cpus > cpus * NANOS_PER_CPU {
        let given = host.nano_cpus as f64 / NANOS_PER_CPU as f64;
        return bad("NanoCpus", host.nano_cpus, format!("{given} processors are asked for, this machine has {cpus}"));
    }
    if host.nano_cpus > 0 && (host.cpu_period != 0 || host.cpu_quota != 0) {
        return bad("NanoCpus", host.nano_cpus, "use either --cpus, or --cpu-period and --cpu-quota".to_owned());
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return bad("CpuPeriod", host.cpu_period, "1000 to 1000000 microseconds are possible".to_owned());
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return bad("CpuQuota", host.cpu_quota, "at least 1000 microseconds are needed".to_owned());
    }
    if host.cpu_shares < 0 {
        return bad("CpuShares", host.cpu_shares, "it cannot be negative".to_owned());
    }
    if let Some(value) = host.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
        return bad("MemorySwappiness", value, "0 to 100 are possible".to_owned());
    }
    realtime(host)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return bad("OomScoreAdj", host.oom_score_adj, "-1000 to 1000 are possible".to_owned());
    }
    for (field, list) in [("CpusetCpus", &host.cpuset_cpus), ("CpusetMems", &host.cpuset_mems)] {
        if !is_cpu_list(list) {
            return Err(Error::BadField { field, value: list.clone(), reason: "a list such as 0-2,4 is expected".to_owned() });
        }
    }
    for limit in &host.ulimits {
        rlimit(&limit.name, limit.soft, limit.hard)?;
    }
    for rule in &host.device_cgroup_rules {
        device_rule(rule)?;
    }
    huge_pages(host)?;
    block::validate(host)
}

fn realtime(host: &HostConfig) -> Result<(), Error> {
    let (runtime, period) = (host.cpu_realtime_runtime, host.cpu_realtime_period);
    if !(0..=REALTIME_PERIOD_US * 1000).contains(&period) {
        return Err(bad_text("CpuRealtimePeriod", &period.to_string(), "a positive number of microseconds is needed"));
    }
    let period = if period == 0 { REALTIME_PERIOD_US } else { period };
    if runtime < 0 || runtime > period {
        return Err(bad_text("CpuRealtimeRuntime", &runtime.to_string(), "it must not be above the period"));
    }
    Ok(())
}

/// The part of a processor's time that goes to real-time tasks, in microseconds of each second.
pub(crate) fn realtime_share(host: &HostConfig) -> i64 {
    let period = if host.cpu_realtime_period == 0 { REALTIME_PERIOD_US } else { host.cpu_realtime_period };
    let share = i128::from(host.cpu_realtime_runtime) * i128::from(REALTIME_PERIOD_US) / i128::from(period.max(1));
    i64::try_from(share).unwrap_or(i64::MAX)
}

/// `c 10:* rwm`: type, numbers and access.
pub(crate) fn device_rule(text: &str) -> Result<oci::DeviceRule, Error> {
    let expected = || bad_text("DeviceCgroupRules", text, "a rule such as \"c 10:* rwm\" is expected");
    let words: Vec<&str> = text.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words.as_slice() else { return Err(expected()) };
    let number = |text: &str| match text {
        "*" => Ok(None),
        _ => text.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| expected()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(expected)?;
    if !(1..=3).contains(&access.len()) || access.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(expected());
    }
    Ok(oci::DeviceRule {
        allow: true,
        kind: (*kind).to_owned(),
        major: number(major)?,
        minor: number(minor)?,
        access: (*access).to_owned(),
    })
}

/// Limits of huge pages, which only an annotation can ask for.
fn huge_pages(host: &HostConfig) -> Result<Vec<oci::HugepageLimit>, Error> {
    let limit = |(name, value): (&String, &String)| {
        let size = name.strip_prefix(HUGETLB_ANNOTATION)?;
        let plain = size.starts_with(|letter: char| letter.is_ascii_digit()) && ["KB", "MB", "GB"].iter().any(|unit| size.ends_with(unit));
        Some(match (plain, value.parse()) {
            (true, Ok(limit)) => Ok(oci::HugepageLimit { page_size: size.to_owned(), limit }),
            _ => Err(bad_text("Annotations", &format!("{name}={value}"), "a size such as 2MB and a number of bytes are expected")),
        })
    };
    host.annotations.iter().filter_map(limit).collect()
}

/// Limits for the runtime: those of a new container, or the changes of a running one.
pub(crate) fn limits(host: &HostConfig) -> Result<oci::Resources, Error> {
    let some = |value: i64| Some(value).filter(|value| *value != 0);
    let (quota, period) = match host.nano_cpus {
        0 => (some(host.cpu_quota), some(host.cpu_period)),
        nano => (Some(nano / (NANOS_PER_CPU / CPU_PERIOD_US)), Some(CPU_PERIOD_US)),
    };
    let memory = oci::Memory {
        limit: some(host.memory),
        reservation: some(host.memory_reservation),
        // Without a limit of memory there is nothing that swap could be limited against.
        swap: some(host.memory_swap).filter(|_| host.memory != 0),
        swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        disable_oom_killer: host.oom_kill_disable.filter(|disable| *disable),
        ..oci::Memory::default()
    };
    let cpu = oci::Cpu {
        shares: some(host.cpu_shares).map(|shares| shares as u64),
        quota,
        period: period.map(|period| period as u64),
        realtime_runtime: some(host.cpu_realtime_runtime),
        realtime_period: some(host.cpu_realtime_period).map(|period| period as u64),
        cpus: host.cpuset_cpus.clone(),
        mems: host.cpuset_mems.clone(),
        ..oci::Cpu::default()
    };
    Ok(oci::Resources {
        memory: Some(memory).filter(|memory| *memory != oci::Memory::default()),
        cpu: Some(cpu).filter(|cpu| *cpu != oci::Cpu::default()),
        pids: host.pids_limit.filter(|limit| *limit != 0).map(|limit| oci::Pids { limit: Some(limit) }),
        block_io: block::limits(host)?,
        hugepage_limits: huge_pages(host)?,
        ..oci::Resources::default()
    })
}

/// A resource limit by Docker's name; -1 is no limit.
pub(crate) fn rlimit(name: &str, soft: i64, hard: i64) -> Result<oci::Rlimit, Error> {
    let bad = |reason: &str| Error::BadField { field: "Ulimits", value: format!("{name}={soft}:{hard}"), reason: reason.to_owned() };
    let lower = name.to_ascii_lowercase();
    let lower = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    if !types::container::defaults::ULIMITS.contains(&lower) {
        return Err(bad("the limit is not known: use nofile, nproc, core, memlock, stack, …"));
    }
    if soft < -1 || hard < -1 {
        return Err(bad("-1 means unlimited"));
    }
    let value = |value: i64| if value == -1 { u64::MAX } else { value as u64 };
    if value(soft) > value(hard) {
        return Err(bad("the soft limit cannot be above the hard limit"));
    }
    Ok(oci::Rlimit { kind: format!("RLIMIT_{}", lower.to_ascii_uppercase()), soft: value(soft), hard: value(hard) })
}

/// `0-2,4`, or nothing.
fn is_cpu_list(text: &str) -> bool {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= last)
    };
    text.is_empty() || text.split(',').all(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_processors_becomes_quota_and_period() {
        let host = HostConfig { nano_cpus: 500_000_000, ..HostConfig::default() };
        let cpu = limits(&host).expect("limits").cpu.expect("a limit");
        assert_eq!((cpu.quota, cpu.period), (Some(50_000), Some(100_000)));
        assert_eq!(limits(&HostConfig::default()).expect("none"), oci::Resources::default());
    }

    #[test]
    fn contradictions_are_refused() {
        let good = HostConfig { memory: 64 << 20, memory_swap: 64 << 20, ..HostConfig::default() };
        assert!(validate(&good).is_ok());
        for bad in [
            HostConfig { memory: 1, ..HostConfig::default() },
            HostConfig { memory_swap: 64 << 20, ..HostConfig::default() },
            HostConfig { memory_swap: 1 << 20, ..good.clone() },
            HostConfig { nano_cpus: 1, ..HostConfig::default() },
            HostConfig { nano_cpus: 10_000 * NANOS_PER_CPU, ..HostConfig::default() },
            HostConfig { cpuset_cpus: "1-".into(), ..HostConfig::default() },
            HostConfig { blkio_weight: 5, ..HostConfig::default() },
            HostConfig { memory_swappiness: Some(101), ..HostConfig::default() },
            HostConfig { cpu_realtime_runtime: 2_000_000, ..HostConfig::default() },
            HostConfig { cpu_realtime_period: 1000, cpu_realtime_runtime: 2000, ..HostConfig::default() },
        ] {
            assert!(validate(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ulimits_are_checked() {
        let limit = rlimit("nofile", 1024, -1).expect("known");
        assert_eq!((limit.kind.as_str(), limit.soft, limit.hard), ("RLIMIT_NOFILE", 1024, u64::MAX));
        assert!(rlimit("nofiles", 1, 1).is_err() && rlimit("core", 2, 1).is_err() && rlimit("core", -1, 5).is_err());
    }

    #[test]
    fn rules_of_devices_are_read() {
        let rule = device_rule("c 10:* rw").expect("a rule");
        assert_eq!((rule.kind.as_str(), rule.major, rule.minor, rule.access.as_str(), rule.allow), ("c", Some(10), None, "rw", true));
        for bad in ["", "c", "c 10 rw", "x 1:1 r", "c 1:1 rx", "c 1:1  r", "c 1:-1 r", "c 1:1 rwmr"] {
            assert!(device_rule(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn huge_pages_are_limited_by_annotation() {
        let host = |name: &str, value: &str| HostConfig {
            annotations: [(name.to_owned(), value.to_owned())].into_iter().collect(),
            ..HostConfig::default()
        };
        let limits = limits(&host("cais.hugetlb.2MB", "4194304")).expect("good").hugepage_limits;
        assert_eq!((limits[0].page_size.as_str(), limits[0].limit), ("2MB", 4 << 20));
        assert!(validate(&host("cais.hugetlb.2MB", "much")).is_err() && validate(&host("cais.hugetlb.../x", "1")).is_err());
        assert!(validate(&host("other", "x")).is_ok());
    }

    #[test]
    fn real_time_is_a_share_of_each_second() {
        let host = HostConfig { cpu_realtime_runtime: 500, cpu_realtime_period: 10_000, ..HostConfig::default() };
        assert_eq!(realtime_share(&host), 50_000);
        assert_eq!(realtime_share(&HostConfig { cpu_realtime_runtime: 500, ..HostConfig::default() }), 500);
    }
}
