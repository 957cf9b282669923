//! Limits: from the specification's form to the control group's.

use cgroup::{BlockRate, DeviceKind, DeviceRule, Limits};

use crate::{Error, Result, oci};

/// What `resources` asks of a control group; used at the start, and for an update of a running container ([`cgroup::Group::set`]).
///
/// # Errors
/// [`crate::Error::Invalid`] for device types and accesses that are not known, [`crate::Error::Unsupported`] for network classes and RDMA.
pub fn limits(resources: &oci::Resources) -> Result<Limits> {
    if resources.network.as_ref().is_some_and(|network| network.class_id.is_some() || !network.priorities.is_empty()) {
        return Err(Error::unsupported("linux.resources.network: network classes and priorities are not supported"));
    }
    if !resources.rdma.is_empty() {
        return Err(Error::unsupported("linux.resources.rdma: RDMA limits are not supported"));
    }
    let memory = resources.memory.clone().unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    let io = resources.block_io.clone().unwrap_or_default();
    if io.leaf_weight.is_some() || io.weight_device.iter().any(|device| device.leaf_weight.is_some()) {
        return Err(Error::unsupported(
            "linux.resources.blockIO.leafWeight: leaf weights are not supported: the kernel has none since 5.0",
        ));
    }
    let list = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Limits {
        // A limit of 0 is Go's way to say that there is none to set.
        memory: nonzero(memory.limit),
        memory_reservation: nonzero(memory.reservation),
        memory_swap: nonzero(memory.swap),
        memory_check: memory.check_before_update == Some(true),
        memory_swappiness: memory.swappiness,
        oom_kill_disable: memory.disable_oom_killer,
        cpu_shares: cpu.shares,
        cpu_quota: cpu.quota,
        cpu_period: cpu.period,
        cpu_burst: cpu.burst,
        cpu_idle: cpu.idle.map(|idle| idle != 0),
        cpu_realtime_runtime: nonzero(cpu.realtime_runtime),
        cpu_realtime_period: cpu.realtime_period.filter(|&period| period != 0),
        cpuset_cpus: list(cpu.cpus),
        cpuset_mems: list(cpu.mems),
        pids: nonzero(resources.pids.as_ref().and_then(|pids| pids.limit)),
        blkio_weight: io.weight,
        blkio_weight_devices: io
            .weight_device
            .iter()
            .filter_map(|device| device.weight.map(|weight| rate(device.major, device.minor, weight.into())))
            .collect::<Result<_>>()?,
        blkio_read_bps: rates(&io.throttle_read_bps_device)?,
        blkio_write_bps: rates(&io.throttle_write_bps_device)?,
        blkio_read_iops: rates(&io.throttle_read_iops_device)?,
        blkio_write_iops: rates(&io.throttle_write_iops_device)?,
        hugetlb: resources.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect(),
        devices: device_rules(&resources.devices)?,
        unified: resources.unified.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

fn nonzero(limit: Option<i64>) -> Option<i64> {
    limit.filter(|&limit| limit != 0)
}

fn rates(devices: &[oci::ThrottleDevice]) -> Result<Vec<BlockRate>> {
    devices.iter().map(|device| rate(device.major, device.minor, device.rate)).collect()
}

fn rate(major: i64, minor: i64, value: u64) -> Result<BlockRate> {
    match (u64::try_from(major), u64::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(BlockRate { major, minor, value }),
        _ => Err(Error::field("linux.resources.blockIO", format!("{major}:{minor} is not a device"))),
    }
}

/// What every container may use, since its /dev has it: null, zero, full, random, urandom, tty, console, ptmx, terminals; and it may make, though not
/// use, any node.
const ALWAYS: [(DeviceKind, Option<u32>, Option<u32>, &str); 11] = [
    (DeviceKind::Char, None, None, "m"),
    (DeviceKind::Block, None, None, "m"),
    (DeviceKind::Char, Some(1), Some(3), "rwm"),
    (DeviceKind::Char, Some(1), Some(5), "rwm"),
    (DeviceKind::Char, Some(1), Some(7), "rwm"),
    (DeviceKind::Char, Some(1), Some(8), "rwm"),
    (DeviceKind::Char, Some(1), Some(9), "rwm"),
    (DeviceKind::Char, Some(5), Some(0), "rwm"),
    (DeviceKind::Char, Some(5), Some(1), "rwm"),
    (DeviceKind::Char, Some(5), Some(2), "rwm"),
    (DeviceKind::Char, Some(136), None, "rwm"),
];

fn device_rules(rules: &[oci::DeviceRule]) -> Result<Vec<DeviceRule>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let mut result = rules.iter().enumerate().map(device_rule).collect::<Result<Vec<_>>>()?;
    result.extend(ALWAYS.iter().map(|&(kind, major, minor, access)| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    }));
    Ok(result)
}

fn device_rule((at, rule): (usize, &oci::DeviceRule)) -> Result<DeviceRule> {
    let fail = |name: &str, what: String| Error::field(format!("linux.resources.devices[{at}].{name}"), what);
    let kind = match rule.kind.as_str() {
        "" | "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" | "u" => DeviceKind::Char,
        other => return Err(fail("type", format!("{other:?} is not a type of device: a, b and c are"))),
    };
    if let Some(letter) = rule.access.chars().find(|letter| !"rwm".contains(*letter)) {
        return Err(fail("access", format!("{letter:?} is not an access to a device: r, w and m are")));
    }
    let number = |name: &str, number: Option<i64>| match number {
        // Both stand for any.
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| fail(name, format!("{number} is not a device number"))),
    };
    let has = |letter| rule.access.is_empty() || rule.access.contains(letter);
    Ok(DeviceRule {
        allow: rule.allow,
        kind,
        major: number("major", rule.major)?,
        minor: number("minor", rule.minor)?,
        read: has('r'),
        write: has('w'),
        mknod: has('m'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_nothing_to_set_and_minus_one_means_unlimited() {
        let memory = oci::Memory { limit: Some(0), swap: Some(-1), ..oci::Memory::default() };
        let limits = limits(&oci::Resources { memory: Some(memory), ..oci::Resources::default() }).unwrap();
        assert_eq!((limits.memory, limits.memory_swap), (None, Some(-1)));
        assert!(limits.devices.is_empty(), "no rules mean no filter");
    }

    #[test]
    fn device_lists_keep_the_usual_nodes() {
        let deny = oci::DeviceRule { access: "rwm".into(), ..oci::DeviceRule::default() };
        let rules = device_rules(&[deny]).unwrap();
        assert_eq!(rules.len(), 1 + ALWAYS.len());
        assert_eq!((rules[0].kind, rules[0].allow), (DeviceKind::All, false));
        assert!(device_rules(&[oci::DeviceRule { kind: "x".into(), ..oci::DeviceRule::default() }]).is_err());
        assert!(device_rules(&[oci::DeviceRule { access: "rx".into(), ..oci::DeviceRule::default() }]).is_err());
    }
}
