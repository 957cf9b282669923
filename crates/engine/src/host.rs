//! Facts about the machine, read off /proc and /etc.

use std::fs;

/// Bytes of memory that the machine has.
pub(crate) fn memory_total() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Processors online.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Nanoseconds of processor time used by the whole machine, all processors together (idle time included, as Docker counts).
pub(crate) fn system_cpu_ns() -> u64 {
    const NS_PER_TICK: u64 = 10_000_000;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal: guest time is contained in user time.
    line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() * NS_PER_TICK
}

/// A field of /etc/os-release.
pub(crate) fn os_release(field: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// The name of the filesystem that a path is on, as `/proc/filesystems` writes it.
pub(crate) fn filesystem(path: &std::path::Path) -> String {
    let Ok(found) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    let name = match found.f_type as u64 {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        other => return format!("<unknown {other:#x}>"),
    };
    name.to_owned()
}
