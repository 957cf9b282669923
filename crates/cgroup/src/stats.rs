//! What a group uses.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::io::Errno;

use crate::group::Member;
use crate::{Error, Group, Result, file};

/// Figures of one group at one moment. What the machine does not count is 0, empty or `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub block_io: BlockIo,
    /// Huge pages by size name.
    pub hugetlb: BTreeMap<String, HugeTlb>,
}

/// CPU time, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// User and system.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In kernel mode.
    pub system_ns: u64,
    /// By CPU (version 1 only).
    pub per_cpu_ns: Vec<u64>,
    /// How the quota bit.
    pub throttling: Throttling,
}

/// Effects of a CPU quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that passed while the group wanted to run.
    pub periods: u64,
    /// Of these, the ones in which it was stopped.
    pub throttled_periods: u64,
    /// How long it was stopped, nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was in use (`None` where the kernel does not record it).
    pub max_usage: Option<u64>,
    /// The limit; `u64::MAX` for none.
    pub limit: u64,
    /// Swap in use.
    pub swap_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// How often the kernel killed a process of the group.
    pub oom_kills: u64,
    /// The lines of `memory.stat`, under the names of the machine's version.
    pub stat: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// There are now.
    pub current: u64,
    /// May be; `None` without limit.
    pub limit: Option<u64>,
}

/// Block device traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Bytes.
    pub service_bytes: Vec<BlockOperation>,
    /// Operations.
    pub serviced: Vec<BlockOperation>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOperation {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read`, `write`, `sync`, `async`, `discard` or `total` on version 1; `read`, `write` or `discard` on version 2.
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Huge pages of one size, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugeTlb {
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
}

pub(crate) fn read(group: &Group) -> Result<Stats> {
    Ok(Stats { cpu: cpu(group)?, memory: memory(group)?, pids: pids(group)?, block_io: block_io(group)?, hugetlb: hugetlb(group)? })
}

/// The text of a file of the group; empty when the kernel does not have it.
fn text(member: &Member, name: &str) -> Result<String> {
    let path = member.directory.join(name);
    match file::try_read(&path) {
        Ok(text) => Ok(text),
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(String::new()),
        Err(source) => Err(Error::Read { path, source }),
    }
}

fn value(member: &Member, name: &str) -> Result<Option<u64>> {
    Ok(file::number(&text(member, name)?))
}

fn cpu(group: &Group) -> Result<Cpu> {
    let mut cpu = Cpu::default();
    if let Some(member) = group.member("cpuacct") {
        // Linux counts user and system time of a group in ticks of 1/100 s here.
        const TICK_NS: u64 = 10_000_000;
        let ticks = text(member, "cpuacct.stat")?;
        cpu.total_ns = value(member, "cpuacct.usage")?.unwrap_or(0);
        cpu.user_ns = file::field(&ticks, "user").unwrap_or(0).saturating_mul(TICK_NS);
        cpu.system_ns = file::field(&ticks, "system").unwrap_or(0).saturating_mul(TICK_NS);
        cpu.per_cpu_ns = text(member, "cpuacct.usage_percpu")?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    }
    if let Some(member) = group.member("cpu").or(group.member("")) {
        let stat = text(member, "cpu.stat")?;
        let field = |name| file::field(&stat, name).unwrap_or(0);
        if member.unified {
            cpu.total_ns = field("usage_usec").saturating_mul(1000);
            cpu.user_ns = field("user_usec").saturating_mul(1000);
            cpu.system_ns = field("system_usec").saturating_mul(1000);
        }
        let throttled_ns = if member.unified { field("throttled_usec").saturating_mul(1000) } else { field("throttled_time") };
        cpu.throttling = Throttling { periods: field("nr_periods"), throttled_periods: field("nr_throttled"), throttled_ns };
    }
    Ok(cpu)
}

fn memory(group: &Group) -> Result<Memory> {
    let Some(member) = group.member("memory") else { return Ok(Memory { limit: u64::MAX, ..Memory::default() }) };
    let stat = text(member, "memory.stat")?
        .lines()
        .filter_map(|line| line.split_once(' ').and_then(|(key, number)| Some((key.to_owned(), number.parse().ok()?))))
        .collect();
    // The largest multiple of a page below 2^63 is version 1's word for unlimited.
    let limit = |limit: Option<u64>| limit.filter(|&bytes| bytes < i64::MAX as u64 & !0xf_ffff).unwrap_or(u64::MAX);
    if member.unified {
        let events = text(member, "memory.events")?;
        return Ok(Memory {
            usage: value(member, "memory.current")?.unwrap_or(0),
            max_usage: value(member, "memory.peak")?,
            limit: limit(value(member, "memory.max")?),
            swap_usage: value(member, "memory.swap.current")?,
            fail_count: file::field(&events, "max").unwrap_or(0),
            oom_kills: file::field(&events, "oom_kill").unwrap_or(0),
            stat,
        });
    }
    let usage = value(member, "memory.usage_in_bytes")?.unwrap_or(0);
    Ok(Memory {
        usage,
        max_usage: value(member, "memory.max_usage_in_bytes")?,
        limit: limit(value(member, "memory.limit_in_bytes")?),
        swap_usage: value(member, "memory.memsw.usage_in_bytes")?.map(|both| both.saturating_sub(usage)),
        fail_count: value(member, "memory.failcnt")?.unwrap_or(0),
        oom_kills: file::field(&text(member, "memory.oom_control")?, "oom_kill").unwrap_or(0),
        stat,
    })
}

fn pids(group: &Group) -> Result<Pids> {
    let Some(member) = group.member("pids") else { return Ok(Pids::default()) };
    Ok(Pids { current: value(member, "pids.current")?.unwrap_or(0), limit: value(member, "pids.max")?.filter(|&limit| limit != u64::MAX) })
}

fn block_io(group: &Group) -> Result<BlockIo> {
    if let Some(member) = group.member("blkio") {
        let counters = |name: &str| -> Result<Vec<BlockOperation>> {
            // Which of the two has figures depends on the I/O scheduler.
            for family in ["bfq", "throttle"] {
                let found = counters_v1(&text(member, &format!("blkio.{family}.{name}_recursive"))?);
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            Ok(Vec::new())
        };
        return Ok(BlockIo { service_bytes: counters("io_service_bytes")?, serviced: counters("io_serviced")? });
    }
    let Some(member) = group.member("io") else { return Ok(BlockIo::default()) };
    Ok(counters_v2(&text(member, "io.stat")?))
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines like `8:0 Read 4096`; the last one is a sum over all devices and has no device.
fn counters_v1(text: &str) -> Vec<BlockOperation> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        Some(BlockOperation { major, minor, operation: words.next()?.to_lowercase(), value: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(parse).collect()
}

/// Lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn counters_v2(text: &str) -> BlockIo {
    let mut io = BlockIo::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut io.service_bytes, "read"),
                "wbytes" => (&mut io.service_bytes, "write"),
                "dbytes" => (&mut io.service_bytes, "discard"),
                "rios" => (&mut io.serviced, "read"),
                "wios" => (&mut io.serviced, "write"),
                "dios" => (&mut io.serviced, "discard"),
                _ => continue,
            };
            list.extend(value.parse().ok().map(|value| BlockOperation { major, minor, operation: operation.to_owned(), value }));
        }
    }
    io
}

fn hugetlb(group: &Group) -> Result<BTreeMap<String, HugeTlb>> {
    let Some(member) = group.member("hugetlb") else { return Ok(BTreeMap::new()) };
    let mut sizes = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/kernel/mm/hugepages")) else { return Ok(sizes) };
    for kib in entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
    {
        let size = if kib >= 1 << 20 {
            format!("{}GB", kib >> 20)
        } else if kib >= 1 << 10 {
            format!("{}MB", kib >> 10)
        } else {
            format!("{kib}KB")
        };
        let (usage, max_usage, fail_count) = if member.unified {
            let events = text(member, &format!("hugetlb.{size}.events"))?;
            (value(member, &format!("hugetlb.{size}.current"))?, None, file::field(&events, "max"))
        } else {
            let read = |name: &str| value(member, &format!("hugetlb.{size}.{name}"));
            (read("usage_in_bytes")?, read("max_usage_in_bytes")?, read("failcnt")?)
        };
        if let Some(usage) = usage {
            sizes.insert(size, HugeTlb { usage, max_usage, fail_count: fail_count.unwrap_or(0) });
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_counters_of_both_versions() {
        let v1 = counters_v1("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n");
        assert_eq!(v1.len(), 2);
        assert_eq!(v1[0], BlockOperation { major: 8, minor: 0, operation: "read".into(), value: 4096 });
        let v2 = counters_v2("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n");
        assert_eq!((v2.service_bytes.len(), v2.serviced.len()), (3, 3));
        assert_eq!(v2.serviced[1].value, 4);
    }
}
