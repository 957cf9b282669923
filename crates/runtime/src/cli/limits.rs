//! `update`: other limits for a container that exists.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;

use super::args::{Args, Flags};
use super::state::{Folder, Status};
use super::{Global, Outcome, words};
use crate::{config, oci, resources};

const FLAGS: Flags = Flags {
    values: &[
        "r",
        "resources",
        "blkio-weight",
        "cpu-period",
        "cpu-quota",
        "cpu-burst",
        "cpu-share",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "cpu-idle",
        "cpuset-cpus",
        "cpuset-mems",
        "memory",
        "memory-reservation",
        "memory-swap",
        "pids-limit",
    ],
    switches: &[],
};

pub(super) fn update(global: &Global, args: &[OsString]) -> Outcome {
    let args = Args::parse_anywhere(args, &FLAGS)?;
    let changes = changes(&args)?;
    let id = args.only_id()?;
    let folder = Folder::of(global, &id)?;
    let mut record = folder.load()?;
    if folder.status(&record) == Status::Stopped {
        return Err(format!("the container {id:?} cannot be updated: it is stopped"));
    }
    if changes == oci::Resources::default() {
        return Err("there is nothing to change: give a limit, or --resources FILE".into());
    }
    let limits = resources::limits(&changes).map_err(words)?;
    let system = cgroup::System::detect().map_err(words)?;
    cgroup::Group::open(&system, &record.cgroup).set(&limits).map_err(words)?;
    merge(record.spec.linux.resources.get_or_insert_default(), changes);
    folder.save(&record)?;
    Ok(0)
}

/// What is asked for: the file's resources, and the flags over them.
fn changes(args: &Args) -> Result<oci::Resources, String> {
    let mut wanted = match args.any(&["r", "resources"]) {
        Some(path) => from_file(&PathBuf::from(path))?,
        None => oci::Resources::default(),
    };
    let bytes = |name: &str| args.text(&[name]).map(|text| bytes(name, &text)).transpose();
    let (limit, reservation, swap) = (bytes("memory")?, bytes("memory-reservation")?, bytes("memory-swap")?);
    if limit.or(reservation).or(swap).is_some() {
        let memory = wanted.memory.get_or_insert_default();
        memory.limit = limit.or(memory.limit);
        memory.reservation = reservation.or(memory.reservation);
        memory.swap = swap.or(memory.swap);
    }
    let mut cpu = wanted.cpu.clone().unwrap_or_default();
    cpu.period = args.parsed("cpu-period")?.or(cpu.period);
    cpu.quota = args.parsed("cpu-quota")?.or(cpu.quota);
    cpu.burst = args.parsed("cpu-burst")?.or(cpu.burst);
    cpu.shares = args.parsed("cpu-share")?.or(cpu.shares);
    cpu.realtime_period = args.parsed("cpu-rt-period")?.or(cpu.realtime_period);
    cpu.realtime_runtime = args.parsed("cpu-rt-runtime")?.or(cpu.realtime_runtime);
    cpu.idle = args.parsed("cpu-idle")?.or(cpu.idle);
    cpu.cpus = args.text(&["cpuset-cpus"]).unwrap_or(cpu.cpus);
    cpu.mems = args.text(&["cpuset-mems"]).unwrap_or(cpu.mems);
    if cpu != oci::Cpu::default() {
        wanted.cpu = Some(cpu);
    }
    if let Some(limit) = args.parsed("pids-limit")? {
        wanted.pids = Some(oci::Pids { limit: Some(limit) });
    }
    if let Some(weight) = args.parsed("blkio-weight")? {
        wanted.block_io.get_or_insert_default().weight = Some(weight);
    }
    Ok(wanted)
}

/// The resources in a file, or in standard input for `-`.
fn from_file(path: &std::path::Path) -> Result<oci::Resources, String> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().take(config::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes),
        _ => std::fs::File::open(path).and_then(|file| file.take(config::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| format!("read {}: {error}", path.display()))?;
    config::parse_part(&bytes).map_err(|error| format!("read {}: {}", path.display(), words(error)))
}

/// `512m`, `1G`, a plain number of bytes, or -1.
fn bytes(name: &str, text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let shift = match plain.bytes().last() {
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        _ => 0,
    };
    let digits = if shift == 0 { plain } else { &plain[..plain.len() - 1] };
    let number = digits.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift)).filter(|number| *number >= -1);
    number.ok_or_else(|| format!("--{name} takes a size such as 512m, or -1 for no limit, not {text:?}"))
}

/// Notes what is in force now.
fn merge(now: &mut oci::Resources, changes: oci::Resources) {
    if let Some(change) = changes.memory {
        let memory = now.memory.get_or_insert_default();
        *memory = oci::Memory {
            limit: change.limit.or(memory.limit),
            reservation: change.reservation.or(memory.reservation),
            swap: change.swap.or(memory.swap),
            swappiness: change.swappiness.or(memory.swappiness),
            disable_oom_killer: change.disable_oom_killer.or(memory.disable_oom_killer),
            ..memory.clone()
        };
    }
    if let Some(change) = changes.cpu {
        let cpu = now.cpu.get_or_insert_default();
        let text = |new: String, old: &str| if new.is_empty() { old.to_owned() } else { new };
        *cpu = oci::Cpu {
            shares: change.shares.or(cpu.shares),
            quota: change.quota.or(cpu.quota),
            burst: change.burst.or(cpu.burst),
            period: change.period.or(cpu.period),
            realtime_runtime: change.realtime_runtime.or(cpu.realtime_runtime),
            realtime_period: change.realtime_period.or(cpu.realtime_period),
            idle: change.idle.or(cpu.idle),
            cpus: text(change.cpus, &cpu.cpus),
            mems: text(change.mems, &cpu.mems),
        };
    }
    now.pids = changes.pids.or(now.pids.take());
    now.block_io = changes.block_io.or(now.block_io.take());
    now.unified.extend(changes.unified);
    if !changes.hugepage_limits.is_empty() {
        now.hugepage_limits = changes.hugepage_limits;
    }
    if !changes.devices.is_empty() {
        now.devices = changes.devices;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, wanted) in [("512m", 512 << 20), ("1G", 1 << 30), ("4096", 4096), ("-1", -1), ("2kb", 2048), ("3MiB", 3 << 20)] {
            assert_eq!(bytes("memory", text), Ok(wanted), "{text}");
        }
        for bad in ["", "m", "-2", "1x", "9999999999999g", "1.5"] {
            assert!(bytes("memory", bad).is_err(), "{bad}");
        }
    }
}
