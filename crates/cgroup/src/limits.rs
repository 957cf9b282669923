//! What a group may use, and how each limit is written on either version.

use rustix::io::Errno;

use crate::group::Member;
use crate::{DeviceRule, Error, Group, Result, devices, file};

/// Limits of one group. `None` leaves a setting as it is; -1 means unlimited where the field says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Memory, bytes; -1 unlimited.
    pub memory: Option<i64>,
    /// Memory that is kept under pressure as far as possible, bytes; -1 none.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap, bytes, as Docker counts it; -1 unlimited.
    pub memory_swap: Option<i64>,
    /// Whether a memory limit below what is in use is refused, rather than met by killing.
    pub memory_check: bool,
    /// Tendency to swap, 0 to 100 (version 1 only; not a setting of version 2).
    pub memory_swappiness: Option<u64>,
    /// Whether the kernel stops processes of a full group instead of killing one (version 1 only).
    pub oom_kill_disable: Option<bool>,
    /// CPU weight as version 1 counts it, 2 to 262,144; 1,024 is the default.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds; -1 unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of a period, microseconds.
    pub cpu_period: Option<u64>,
    /// CPU time saved up at most, microseconds.
    pub cpu_burst: Option<u64>,
    /// Whether the group runs only when nothing else wants to.
    pub cpu_idle: Option<bool>,
    /// Real-time runtime per period, microseconds (version 1 only).
    pub cpu_realtime_runtime: Option<i64>,
    /// Real-time period, microseconds (version 1 only).
    pub cpu_realtime_period: Option<u64>,
    /// CPUs, as a list: `0-2,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads; -1 unlimited.
    pub pids: Option<i64>,
    /// Block I/O weight, 10 to 1,000.
    pub blkio_weight: Option<u16>,
    /// Block I/O weight of single devices.
    pub blkio_weight_devices: Vec<BlockRate>,
    /// Bytes read per second from single devices.
    pub blkio_read_bps: Vec<BlockRate>,
    /// Bytes written per second to single devices.
    pub blkio_write_bps: Vec<BlockRate>,
    /// Reads per second from single devices.
    pub blkio_read_iops: Vec<BlockRate>,
    /// Writes per second to single devices.
    pub blkio_write_iops: Vec<BlockRate>,
    /// Huge pages: size as the kernel names it (`2MB`) and bytes.
    pub hugetlb: Vec<(String, u64)>,
    /// Which devices may be used. The last rule that matches decides; empty means that devices are not filtered.
    pub devices: Vec<DeviceRule>,
    /// Files of version 2 to write verbatim, after everything else.
    pub unified: Vec<(String, String)>,
}

/// A number for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRate {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// The rate or the weight.
    pub value: u64,
}

/// Writes every limit that is set, on the version that the machine has.
pub(crate) fn apply(group: &Group, limits: &Limits) -> Result<()> {
    memory(group, limits)?;
    cpu(group, limits)?;
    cpuset(group, limits)?;
    if let Some(pids) = limits.pids {
        let text = if pids < 0 { "max".to_owned() } else { pids.to_string() };
        Setting::find(group, "pids", "the number of processes")?.write("pids.max", &text)?;
    }
    block_io(group, limits)?;
    for (size, bytes) in &limits.hugetlb {
        let setting = Setting::find(group, "hugetlb", "the use of huge pages")?;
        plain_name("huge page size", size)?;
        let name = format!("hugetlb.{size}.{}", setting.name("limit_in_bytes", "max"));
        if setting.unified() && !setting.member.directory.join(&name).exists() {
            group.hand_down(setting.member, "hugetlb")?;
        }
        setting.write(&name, &bytes.to_string())?;
    }
    if !limits.devices.is_empty() {
        devices::apply(group, &limits.devices)?;
    }
    for (name, value) in &limits.unified {
        plain_name("file of a control group", name)?;
        Setting::find(group, "", "a setting of version 2")?.write(name, value)?;
    }
    Ok(())
}

/// The group in the hierarchy of one controller.
struct Setting<'a> {
    member: &'a Member,
    what: &'static str,
}

impl<'a> Setting<'a> {
    fn find(group: &'a Group, controller: &'static str, what: &'static str) -> Result<Self> {
        let member = group
            .member(controller)
            .ok_or(Error::NoController { what, controller: if controller.is_empty() { "version 2" } else { controller } })?;
        Ok(Self { member, what })
    }

    fn unified(&self) -> bool {
        self.member.unified
    }

    fn name<'n>(&self, v1: &'n str, v2: &'n str) -> &'n str {
        if self.unified() { v2 } else { v1 }
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.member.directory.join(name);
        match file::try_write(&path, value) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(Error::NoSetting { what: self.what, file: name.to_owned() }),
            Err(source) => Err(Error::Write { path, value: value.to_owned(), source }),
        }
    }

    /// Writes what is set; on version 2 it is an error that the setting does not exist there.
    fn write_v1_only(&self, name: &str, value: Option<String>) -> Result<()> {
        match value {
            Some(_) if self.unified() => Err(Error::NoSetting { what: self.what, file: name.to_owned() }),
            Some(value) => self.write(name, &value),
            None => Ok(()),
        }
    }
}

/// A name that becomes part of a file's name must not leave the directory.
fn plain_name(what: &'static str, name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if plain {
        Ok(())
    } else {
        Err(Error::Invalid { what, value: name.to_owned(), reason: "letters, digits, dots, dashes and underlines are expected" })
    }
}

fn memory(group: &Group, limits: &Limits) -> Result<()> {
    let wanted = limits.memory.is_some() || limits.memory_reservation.is_some() || limits.memory_swap.is_some();
    if !(wanted || limits.memory_swappiness.is_some() || limits.oom_kill_disable == Some(true)) {
        return Ok(());
    }
    let setting = Setting::find(group, "memory", "memory")?;
    if let (true, Some(bytes @ 1..)) = (limits.memory_check, limits.memory) {
        let used = file::read(&setting.member.directory.join(setting.name("memory.usage_in_bytes", "memory.current")))?;
        if file::number(&used).is_some_and(|used| used > bytes as u64) {
            return Err(Error::Invalid { what: "the memory limit", value: bytes.to_string(), reason: "more is in use already" });
        }
    }
    if setting.unified() {
        memory_v2(&setting, limits)?
    } else {
        memory_v1(&setting, limits)?
    }
    let reservation = Setting { what: "the memory reservation", ..setting };
    if let Some(bytes) = limits.memory_reservation {
        let none = reservation.name("-1", "0");
        let text = if bytes < 0 { none.to_owned() } else { bytes.to_string() };
        reservation.write(reservation.name("memory.soft_limit_in_bytes", "memory.low"), &text)?;
    }
    let swappiness = Setting { what: "swappiness", ..reservation };
    swappiness.write_v1_only("memory.swappiness", limits.memory_swappiness.map(|value| value.to_string()))?;
    let killing = Setting { what: "out-of-memory killing", ..swappiness };
    killing.write_v1_only("memory.oom_control", (limits.oom_kill_disable == Some(true)).then(|| "1".to_owned()))
}

/// Memory plus swap may never be below memory, so the order of the two writes depends on what is there.
fn memory_v1(setting: &Setting<'_>, limits: &Limits) -> Result<()> {
    let memory = limits.memory.map(|bytes| ("memory.limit_in_bytes", bytes));
    let unlimited_too = (limits.memory == Some(-1) && setting.member.directory.join("memory.memsw.limit_in_bytes").exists()).then_some(-1);
    let swap = limits.memory_swap.or(unlimited_too).map(|bytes| ("memory.memsw.limit_in_bytes", bytes));
    let write = |pair: Option<(&str, i64)>| pair.map_or(Ok(()), |(name, bytes)| setting.write(name, &bytes.max(-1).to_string()));
    let raising = match (limits.memory, swap) {
        (Some(-1), Some(_)) => true,
        (Some(bytes), Some(_)) => file::try_read(&setting.member.directory.join("memory.memsw.limit_in_bytes"))
            .ok()
            .and_then(|text| file::number(&text))
            .is_some_and(|now| now < bytes as u64),
        _ => false,
    };
    let (first, second) = if raising { (swap, memory) } else { (memory, swap) };
    write(first)?;
    write(second)
}

/// Version 2 counts swap by itself.
fn memory_v2(setting: &Setting<'_>, limits: &Limits) -> Result<()> {
    let text = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    if let Some(both) = limits.memory_swap {
        let memory = match limits.memory {
            Some(bytes) => bytes,
            None => {
                let now = file::read(&setting.member.directory.join("memory.max"))?;
                file::number(&now).and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1)
            }
        };
        let swap = match (both, memory) {
            (-1, _) => -1,
            (0, _) => 0,
            (_, -1) => return Err(Error::Invalid { what: "memory and swap", value: both.to_string(), reason: "it needs a memory limit" }),
            (both, memory) if both < memory => {
                return Err(Error::Invalid {
                    what: "memory and swap",
                    value: both.to_string(),
                    reason: "it may not be below the memory limit",
                });
            }
            (both, memory) => both - memory,
        };
        Setting { member: setting.member, what: "swap" }.write("memory.swap.max", &text(swap))?;
    }
    limits.memory.map_or(Ok(()), |bytes| setting.write("memory.max", &text(bytes)))
}

fn cpu(group: &Group, limits: &Limits) -> Result<()> {
    let wanted = limits.cpu_shares.is_some() || limits.cpu_quota.is_some() || limits.cpu_period.is_some() || limits.cpu_burst.is_some();
    if !(wanted || limits.cpu_idle.is_some() || limits.cpu_realtime_runtime.is_some() || limits.cpu_realtime_period.is_some()) {
        return Ok(());
    }
    let setting = Setting::find(group, "cpu", "CPU time")?;
    let number = |value: u64| value.to_string();
    if let Some(idle) = limits.cpu_idle {
        setting.write("cpu.idle", if idle { "1" } else { "0" })?;
    }
    match limits.cpu_shares.filter(|&shares| shares != 0) {
        Some(shares) if setting.unified() => setting.write("cpu.weight", &number(weight_of_shares(shares)))?,
        Some(shares) => setting.write("cpu.shares", &number(shares))?,
        None => {}
    }
    quota(&setting, limits)?;
    if let Some(burst) = limits.cpu_burst {
        setting.write(setting.name("cpu.cfs_burst_us", "cpu.max.burst"), &number(burst))?;
    }
    let realtime = Setting { what: "real-time CPU time", ..setting };
    realtime.write_v1_only("cpu.rt_period_us", limits.cpu_realtime_period.map(number))?;
    realtime.write_v1_only("cpu.rt_runtime_us", limits.cpu_realtime_runtime.map(|value| value.to_string()))
}

fn quota(setting: &Setting<'_>, limits: &Limits) -> Result<()> {
    let (quota, period) = (limits.cpu_quota.filter(|&quota| quota != 0), limits.cpu_period.filter(|&period| period != 0));
    if setting.unified() {
        if quota.is_none() && period.is_none() {
            return Ok(());
        }
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".to_owned(),
            None => file::read(&setting.member.directory.join("cpu.max"))?.split_whitespace().next().unwrap_or("max").to_owned(),
        };
        let text = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
        return setting.write("cpu.max", &text);
    }
    // A new period is refused while the old quota would be more than the parent's share of it, so on refusal the quota goes first.
    let write_quota = || quota.map_or(Ok(()), |quota| setting.write("cpu.cfs_quota_us", &quota.max(-1).to_string()));
    let write_period = || period.map_or(Ok(()), |period| setting.write("cpu.cfs_period_us", &period.to_string()));
    match write_period() {
        Err(Error::Write { source: Errno::INVAL, .. }) if quota.is_some() => write_quota().and_then(|()| write_period()),
        Ok(()) => write_quota(),
        error => error,
    }
}

/// Version 2's weight (1 to 10,000, default 100) for version 1's shares (2 to 262,144, default 1,024): a curve through both ends and both defaults, the
/// one that runc, crun and systemd agreed on.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn cpuset(group: &Group, limits: &Limits) -> Result<()> {
    let list = |value: &Option<String>| value.clone().filter(|list| !list.is_empty());
    for (name, what, value) in [
        ("cpuset.cpus", "the choice of CPUs", list(&limits.cpuset_cpus)),
        ("cpuset.mems", "the choice of memory nodes", list(&limits.cpuset_mems)),
    ] {
        let Some(value) = value else { continue };
        if !value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b',')) {
            return Err(Error::Invalid { what: name, value, reason: "a list like 0-2,5 is expected" });
        }
        Setting::find(group, "cpuset", what)?.write(name, &value)?;
    }
    Ok(())
}

fn block_io(group: &Group, limits: &Limits) -> Result<()> {
    let rates = [
        (&limits.blkio_read_bps, "blkio.throttle.read_bps_device", "rbps"),
        (&limits.blkio_write_bps, "blkio.throttle.write_bps_device", "wbps"),
        (&limits.blkio_read_iops, "blkio.throttle.read_iops_device", "riops"),
        (&limits.blkio_write_iops, "blkio.throttle.write_iops_device", "wiops"),
    ];
    let what = "block I/O";
    let find = || match group.member("blkio") {
        Some(member) => Ok(Setting { member, what }),
        None => Setting::find(group, "io", what),
    };
    if let Some(weight) = limits.blkio_weight.filter(|&weight| weight != 0) {
        write_weight(&find()?, None, weight.into())?;
    }
    for device in &limits.blkio_weight_devices {
        write_weight(&find()?, Some((device.major, device.minor)), device.value)?;
    }
    for (devices, v1, v2) in rates {
        for BlockRate { major, minor, value } in devices {
            let setting = find()?;
            if setting.unified() {
                let value = if *value == 0 { "max".to_owned() } else { value.to_string() };
                setting.write("io.max", &format!("{major}:{minor} {v2}={value}"))?;
            } else {
                setting.write(v1, &format!("{major}:{minor} {value}"))?;
            }
        }
    }
    Ok(())
}

/// Weights exist only with certain I/O schedulers, each with files of its own.
fn write_weight(setting: &Setting<'_>, device: Option<(u64, u64)>, weight: u64) -> Result<()> {
    let what = Setting { member: setting.member, what: "the block I/O weight" };
    let plain = device.map_or(weight.to_string(), |(major, minor)| format!("{major}:{minor} {weight}"));
    let (first, second) = match (setting.unified(), device) {
        (true, _) => ("io.bfq.weight", "io.weight"),
        (false, None) => ("blkio.bfq.weight", "blkio.weight"),
        (false, Some(_)) => ("blkio.bfq.weight_device", "blkio.weight_device"),
    };
    match what.write(first, &plain) {
        Err(Error::NoSetting { .. }) if setting.unified() => {
            // From 10..1,000 to 1..10,000.
            let scaled = 1 + weight.saturating_sub(10) * 9_999 / 990;
            let text = device.map_or(format!("default {scaled}"), |(major, minor)| format!("{major}:{minor} {scaled}"));
            what.write(second, &text)
        }
        Err(Error::NoSetting { .. }) => what.write(second, &plain),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000), (0, 1), (1 << 40, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..262_144u64).step_by(97).map(weight_of_shares).is_sorted());
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for bad in ["", "../memory.max", "a/b", ".hidden", "x\n"] {
            assert!(plain_name("file", bad).is_err(), "{bad:?}");
        }
        assert!(plain_name("file", "memory.high").is_ok());
    }
}
