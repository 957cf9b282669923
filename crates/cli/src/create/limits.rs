//! What a container may use: processors, memory, block I/O, devices.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::{pairs, put_list, put_text, put_values, restart_policy};
use crate::flags::{Flag, Kind, Matches, list, switch, text, value};
use crate::units;

/// The flags that `update` has, too.
pub const RESOURCE_FLAGS: &[Flag] = &[
    value("blkio-weight", None, Kind::Int, "Share of block I/O relative to others (10 to 1000)"),
    value("cpu-period", None, Kind::Int, "Length of a period of --cpu-quota, in microseconds"),
    value("cpu-quota", None, Kind::Int, "CPU time in each period, in microseconds"),
    value("cpu-rt-period", None, Kind::Int, "Length of a period of --cpu-rt-runtime, in microseconds"),
    value("cpu-rt-runtime", None, Kind::Int, "Time of real-time tasks in each period, in microseconds"),
    value("cpu-shares", Some('c'), Kind::Int, "Share of the CPU relative to others (1024 is usual)"),
    value("cpus", None, Kind::Decimal, "Number of CPUs"),
    text("cpuset-cpus", None, "CPUs to run on (0-2, or 0,1)"),
    text("cpuset-mems", None, "Memory nodes to use (0-2, or 0,1)"),
    value("kernel-memory", None, Kind::Bytes, "Limit of the kernel's memory: no kernel keeps it any more"),
    value("memory", Some('m'), Kind::Bytes, "Limit of memory"),
    value("memory-reservation", None, Kind::Bytes, "Memory that is left to the container when others need some"),
    value("memory-swap", None, Kind::BytesOrUnlimited, "Limit of memory and swap together; -1 for no limit"),
    value("pids-limit", None, Kind::Int, "Limit of processes; -1 for no limit"),
    text("restart", None, "When to restart it: no, always, unless-stopped or on-failure[:RETRIES]"),
];

/// The flags of `run` and `create` alone.
pub const LIMIT_FLAGS: &[Flag] = &[
    list("blkio-weight-device", None, "Share of block I/O on one device (DEVICE:WEIGHT)"),
    text("cgroup-parent", None, "Control group below which the container's is made"),
    list("device-cgroup-rule", None, "Allow a kind of device (\"c 10:* rwm\")"),
    list("device-read-bps", None, "Limit of bytes read each second from a device (DEVICE:BYTES)"),
    list("device-read-iops", None, "Limit of reads each second from a device (DEVICE:NUMBER)"),
    list("device-write-bps", None, "Limit of bytes written each second to a device (DEVICE:BYTES)"),
    list("device-write-iops", None, "Limit of writes each second to a device (DEVICE:NUMBER)"),
    list("gpus", None, "Give GPUs, as CDI specifications describe them (all, a number, or device=ID,…)"),
    value("memory-swappiness", None, Kind::Int, "Tendency to swap (0 to 100; -1 for the machine's)"),
    switch("oom-kill-disable", None, "Kill no process of the container when its memory runs out: they wait"),
    list("storage-opt", None, "Option of the storage of the root (NAME=VALUE)"),
];

/// The resource part of a host configuration, which `update` sends alone.
pub fn resources(m: &Matches) -> Result<Map<String, Value>> {
    let mut host = Map::new();
    let numbers = [
        ("BlkioWeight", m.int("blkio-weight")),
        ("CpuPeriod", m.int("cpu-period")),
        ("CpuQuota", m.int("cpu-quota")),
        ("CpuRealtimePeriod", m.int("cpu-rt-period")),
        ("CpuRealtimeRuntime", m.int("cpu-rt-runtime")),
        ("CpuShares", m.int("cpu-shares")),
        ("NanoCpus", m.nano("cpus")),
        ("KernelMemory", m.bytes("kernel-memory")),
        ("Memory", m.bytes("memory")),
        ("MemoryReservation", m.bytes("memory-reservation")),
        ("MemorySwap", m.bytes("memory-swap")),
        ("PidsLimit", m.int("pids-limit")),
    ];
    for (key, number) in numbers {
        if let Some(number) = number {
            host.insert(key.into(), number.into());
        }
    }
    put_text(&mut host, "CpusetCpus", m.text("cpuset-cpus"));
    put_text(&mut host, "CpusetMems", m.text("cpuset-mems"));
    if let Some(policy) = m.text("restart") {
        host.insert("RestartPolicy".into(), restart_policy(policy)?);
    }
    Ok(host)
}

/// What the other flags say.
pub fn host(m: &Matches, host: &mut Map<String, Value>) -> Result<()> {
    put_text(host, "CgroupParent", m.text("cgroup-parent"));
    put_list(host, "DeviceCgroupRules", m.list("device-cgroup-rule").into_iter().map(str::to_owned).collect());
    let weights = m.list("blkio-weight-device");
    let weights = weights.iter().map(|spec| on_device("blkio-weight-device", spec, "Weight", number)).collect::<Result<_>>()?;
    put_values(host, "BlkioWeightDevice", weights);
    for (key, flag, read) in [
        ("BlkioDeviceReadBps", "device-read-bps", bytes as fn(&str) -> Option<u64>),
        ("BlkioDeviceReadIOps", "device-read-iops", number),
        ("BlkioDeviceWriteBps", "device-write-bps", bytes),
        ("BlkioDeviceWriteIOps", "device-write-iops", number),
    ] {
        let rates = m.list(flag).iter().map(|spec| on_device(flag, spec, "Rate", read)).collect::<Result<_>>()?;
        put_values(host, key, rates);
    }
    if let Some(swappiness) = m.int("memory-swappiness") {
        host.insert("MemorySwappiness".into(), swappiness.into());
    }
    if m.on("oom-kill-disable") {
        host.insert("OomKillDisable".into(), true.into());
    }
    let storage = storage_options(m)?;
    if !storage.is_empty() {
        host.insert("StorageOpt".into(), Value::Object(storage));
    }
    let (cdi, _) = devices(m);
    let mut requests: Vec<Value> = m.list("gpus").iter().map(|spec| gpus(spec)).collect::<Result<_>>()?;
    if !cdi.is_empty() {
        requests.push(json!({"Driver": "cdi", "DeviceIDs": cdi}));
    }
    put_values(host, "DeviceRequests", requests);
    Ok(())
}

/// `--device` names a device of the host by its path, or one of a CDI specification as `vendor.com/class=name`.
pub fn devices(m: &Matches) -> (Vec<&str>, Vec<&str>) {
    m.list("device").into_iter().partition(|spec| !spec.starts_with('/') && spec.contains('/') && spec.contains('='))
}

/// `--storage-opt NAME=VALUE`.
fn storage_options(m: &Matches) -> Result<Map<String, Value>> {
    let given = m.list("storage-opt");
    if let Some(bad) = given.iter().find(|pair| pair.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
        bail!("invalid argument {bad:?} for \"--storage-opt\" flag: expected NAME=VALUE");
    }
    Ok(pairs(&given))
}

fn on_device(flag: &str, spec: &str, key: &str, read: fn(&str) -> Option<u64>) -> Result<Value> {
    let invalid = |reason: &str| anyhow::anyhow!("invalid argument {spec:?} for \"--{flag}\" flag: {reason}");
    let (path, value) = spec.rsplit_once(':').ok_or_else(|| invalid("expected DEVICE:VALUE"))?;
    if !path.starts_with("/dev/") {
        return Err(invalid("the device's path begins with /dev/"));
    }
    let value = read(value).ok_or_else(|| invalid("the value is not a whole number that fits"))?;
    Ok(json!({"Path": path, key: value}))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn bytes(text: &str) -> Option<u64> {
    units::parse_bytes(text).ok().and_then(|bytes| u64::try_from(bytes).ok())
}

/// `all`, `2`, `device=0,1` or a list of `count=`, `driver=`, `device=`, `capabilities=`; a value with commas of its own stands in quotes.
fn gpus(spec: &str) -> Result<Value> {
    let invalid = |reason: &str| anyhow::anyhow!("invalid argument {spec:?} for \"--gpus\" flag: {reason}");
    let count = |text: &str| match text {
        "all" => Ok(-1),
        _ => text.parse::<i64>().map_err(|_| invalid("the number is neither whole nor \"all\"")),
    };
    let (mut driver, mut devices, mut capabilities, mut wanted) = (String::new(), Vec::new(), vec!["gpu".to_owned()], None);
    let mut seen = Vec::new();
    for field in csv_fields(spec) {
        let (name, value) = match field.split_once('=') {
            Some(pair) => pair,
            None => ("count", field.as_str()),
        };
        if seen.contains(&name.to_owned()) {
            return Err(invalid(&format!("{name} is given twice")));
        }
        seen.push(name.to_owned());
        let words = || value.split(',').filter(|word| !word.is_empty()).map(str::to_owned);
        match name {
            "count" => wanted = Some(count(value)?),
            "driver" => value.clone_into(&mut driver),
            "device" => devices.extend(words()),
            "capabilities" => capabilities.extend(words().filter(|word| word != "gpu")),
            _ => return Err(invalid(&format!("unexpected key {name:?}"))),
        }
    }
    if wanted.is_some() && !devices.is_empty() {
        return Err(invalid("use either a number or device="));
    }
    let count = wanted.unwrap_or(if devices.is_empty() { 1 } else { 0 });
    Ok(json!({"Driver": driver, "Count": count, "DeviceIDs": devices, "Capabilities": [capabilities], "Options": {}}))
}

/// The fields of one line of comma-separated values.
fn csv_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(letter);
                }
            }
        }
    }
    fields
}
