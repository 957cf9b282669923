//! How the process is scheduled: policies, I/O priority, CPUs of an exec, memory nodes.

use kernel::sched::Attributes;

use crate::{Error, Result, oci};

/// CPU numbers and memory nodes above this are refused.
const NUMBER_MAX: usize = 4095;

/// How the process gets time, disk and memory. `None` and empty leave things as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The scheduling policy.
    pub cpu: Option<Attributes>,
    /// Class and level of I/O.
    pub io: Option<(u16, u16)>,
    /// The mode with its flags, and the nodes as a mask.
    pub memory: Option<(u32, Vec<u64>)>,
    /// The CPUs of an exec before it joins the control group.
    pub cpus_initial: Vec<usize>,
    /// The CPUs of an exec from then on.
    pub cpus_final: Vec<usize>,
}

/// Scheduling policies and their numbers; 4, SCHED_ISO, no kernel has ever had.
const POLICIES: [(&str, u32); 6] =
    [("SCHED_OTHER", 0), ("SCHED_FIFO", 1), ("SCHED_RR", 2), ("SCHED_BATCH", 3), ("SCHED_IDLE", 5), ("SCHED_DEADLINE", 6)];
const POLICY_FLAGS: [(&str, u64); 5] = [
    ("SCHED_FLAG_RESET_ON_FORK", 1),
    ("SCHED_FLAG_RECLAIM", 2),
    ("SCHED_FLAG_DL_OVERRUN", 4),
    ("SCHED_FLAG_KEEP_POLICY", 8),
    ("SCHED_FLAG_KEEP_PARAMS", 16),
];
const IO_CLASSES: [(&str, u16); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];
/// Modes of `linux.memoryPolicy`.
pub(crate) const MEMORY_MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
/// Flags of `linux.memoryPolicy`.
pub(crate) const MEMORY_FLAGS: [(&str, u32); 3] =
    [("MPOL_F_STATIC_NODES", 1 << 15), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_NUMA_BALANCING", 1 << 13)];

pub(super) fn plan(process: &oci::Process, linux: &oci::Linux) -> Result<Schedule> {
    let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
    Ok(Schedule {
        cpu: process.scheduler.as_ref().map(policy).transpose()?,
        io: process.io_priority.as_ref().map(io_priority).transpose()?,
        memory: linux.memory_policy.as_ref().map(memory).transpose()?,
        cpus_initial: numbers("process.execCPUAffinity.initial", &affinity.initial)?,
        cpus_final: numbers("process.execCPUAffinity.final", &affinity.last)?,
    })
}

/// Looks a name up, or says what is allowed.
fn find<T: Copy>(field: &str, name: &str, table: &[(&str, T)]) -> Result<T> {
    let names = || table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    table
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
        .ok_or_else(|| Error::field(field, format!("{name:?} is none of {}", names())))
}

fn policy(wanted: &oci::Scheduler) -> Result<Attributes> {
    const DEADLINE: u32 = 6;
    let field = |name: &str| format!("process.scheduler.{name}");
    let policy = find(&field("policy"), &wanted.policy, &POLICIES)?;
    let mut flags = 0;
    for (at, name) in wanted.flags.iter().enumerate() {
        flags |= find(&field(&format!("flags[{at}]")), name, &POLICY_FLAGS)?;
    }
    if !(-20..=19).contains(&wanted.nice) {
        return Err(Error::field(field("nice"), format!("{} is not between -20 and 19", wanted.nice)));
    }
    let real_time = policy == 1 || policy == 2;
    if wanted.priority != 0 && !real_time || real_time && !(1..=99).contains(&wanted.priority) {
        return Err(Error::field(
            field("priority"),
            format!("{} is given, but SCHED_FIFO and SCHED_RR have 1 to 99, and others none", wanted.priority),
        ));
    }
    if policy != DEADLINE && (wanted.runtime | wanted.deadline | wanted.period) != 0 {
        return Err(Error::field("process.scheduler", "runtime, deadline and period are for SCHED_DEADLINE only"));
    }
    Ok(Attributes {
        policy,
        flags,
        nice: wanted.nice,
        priority: wanted.priority as u32,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    })
}

fn io_priority(wanted: &oci::IoPriority) -> Result<(u16, u16)> {
    let class = find("process.ioPriority.class", &wanted.class, &IO_CLASSES)?;
    let level = u16::try_from(wanted.priority).ok().filter(|level| *level <= 7);
    let level = level.ok_or_else(|| Error::field("process.ioPriority.priority", format!("{} is not between 0 and 7", wanted.priority)))?;
    Ok((class, level))
}

fn memory(wanted: &oci::MemoryPolicy) -> Result<(u32, Vec<u64>)> {
    let mut mode = find("linux.memoryPolicy.mode", &wanted.mode, &MEMORY_MODES)?;
    for (at, name) in wanted.flags.iter().enumerate() {
        mode |= find(&format!("linux.memoryPolicy.flags[{at}]"), name, &MEMORY_FLAGS)?;
    }
    let nodes = numbers("linux.memoryPolicy.nodes", &wanted.nodes)?;
    let mut mask = vec![0u64; nodes.iter().max().map_or(0, |most| most / 64 + 1)];
    for node in nodes {
        mask[node / 64] |= 1 << (node % 64);
    }
    Ok((mode, mask))
}

/// A list like `0-3,7`.
fn numbers(field: &str, list: &str) -> Result<Vec<usize>> {
    let fail = || Error::field(field, format!("{list:?} is not a list of numbers up to {NUMBER_MAX}, such as 0-3,7"));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= NUMBER_MAX).ok_or_else(fail);
    let mut found = Vec::new();
    for part in list.split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(fail());
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_their_parameters() {
        let get = |policy_name: &str, priority, nice| {
            policy(&oci::Scheduler { policy: policy_name.into(), priority, nice, ..oci::Scheduler::default() })
                .map(|attributes| attributes.policy)
        };
        assert_eq!(get("SCHED_BATCH", 0, 10).unwrap(), 3);
        assert_eq!(get("SCHED_RR", 7, 0).unwrap(), 2);
        for (name, priority, nice, said) in [
            ("SCHED_ISO", 0, 0, "process.scheduler.policy: \"SCHED_ISO\" is none of SCHED_OTHER"),
            ("SCHED_FIFO", 0, 0, "process.scheduler.priority: 0 is given"),
            ("SCHED_OTHER", 5, 0, "process.scheduler.priority: 5 is given"),
            ("SCHED_OTHER", 0, 20, "process.scheduler.nice: 20 is not between"),
        ] {
            assert!(get(name, priority, nice).unwrap_err().to_string().starts_with(said), "{name}");
        }
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("f", "0-2,5, 7-7").unwrap(), [0, 1, 2, 5, 7]);
        assert_eq!(numbers("f", "").unwrap(), [0usize; 0]);
        for bad in ["a", "1-", "3-1", "-1", "4096", "0-99999999999"] {
            assert!(numbers("f", bad).unwrap_err().to_string().starts_with("f: "), "{bad}");
        }
        let policy = oci::MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "1,65".into(), flags: vec!["MPOL_F_STATIC_NODES".into()] };
        assert_eq!(memory(&policy).unwrap(), (2 | 1 << 15, vec![2, 2]));
    }
}
