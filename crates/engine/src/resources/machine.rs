//! What this machine's kernel cannot keep of the limits asked for: taken out of the request, with a warning, as clients know it.

use std::path::Path;

use types::container::{HostConfig, List};

use crate::restore::HOST_LEAF;
use crate::sandbox::bad;
use crate::{Engine, Error};

/// Which limits the kernel keeps.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    memory: bool,
    swap: bool,
    swappiness: bool,
    oom_kill_disable: bool,
    cpu: bool,
    realtime: bool,
    cpuset: bool,
    pids: bool,
    weight: bool,
    throttle: bool,
}

impl Engine {
    /// Takes out of `host` what the kernel does not keep, and tells what that was.
    ///
    /// # Errors
    /// Real-time scheduling is refused rather than left out: who asks for it depends on it.
    pub(crate) fn fit_limits(&self, host: &mut HostConfig) -> Result<Vec<String>, Error> {
        let leaf = cgroup::Group::open(&self.cgroups, &Path::new(&self.layout.cgroup_root).join(HOST_LEAF));
        let has = |controller: &str, names: &[&str]| {
            leaf.directory_of(controller).is_some_and(|directory| names.iter().any(|name| directory.join(name).exists()))
        };
        let controller = |name: &str| self.cgroups.controller(name).is_some();
        let asked_rarely = host.memory_swappiness.is_some() || host.oom_kill_disable == Some(true) || asks_block_io(host);
        let abilities = Abilities {
            memory: controller("memory"),
            swap: host.memory == 0 || self.limits_swap(),
            swappiness: asked_rarely && has("memory", &["memory.swappiness"]),
            oom_kill_disable: asked_rarely && has("memory", &["memory.oom_control"]),
            cpu: controller("cpu"),
            realtime: asks_realtime(host) && has("cpu", &["cpu.rt_runtime_us"]),
            cpuset: controller("cpuset"),
            pids: controller("pids"),
            weight: asked_rarely && (has("blkio", &["blkio.weight", "blkio.bfq.weight"]) || has("io", &["io.weight", "io.bfq.weight"])),
            throttle: asked_rarely && (has("blkio", &["blkio.throttle.read_bps_device"]) || has("io", &["io.max"])),
        };
        fit(host, abilities)
    }
}

fn asks_block_io(host: &HostConfig) -> bool {
    host.blkio_weight != 0 || !host.blkio_weight_device.is_empty() || throttles(host).iter().any(|list| !list.is_empty())
}

fn asks_realtime(host: &HostConfig) -> bool {
    host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0
}

fn throttles(host: &HostConfig) -> [&List<types::container::ThrottleDevice>; 4] {
    [&host.blkio_device_read_bps, &host.blkio_device_write_bps, &host.blkio_device_read_iops, &host.blkio_device_write_iops]
}

fn fit(host: &mut HostConfig, can: Abilities) -> Result<Vec<String>, Error> {
    if asks_realtime(host) && !can.realtime {
        let reason = "this kernel has no real-time groups (cgroup v1 and CONFIG_RT_GROUP_SCHED are needed)";
        return Err(bad("CpuRealtimeRuntime", &host.cpu_realtime_runtime.to_string(), reason));
    }
    let mut warnings = Vec::new();
    let mut without = |lacks: bool, what: &str| {
        if lacks {
            warnings.push(format!("This machine's kernel does not keep {what}: it has no effect"));
        }
        lacks
    };
    if without(host.kernel_memory != 0 || host.kernel_memory_tcp != 0, "a limit of kernel memory") {
        (host.kernel_memory, host.kernel_memory_tcp) = (0, 0);
    }
    without(host.memory != 0 && !can.swap, "a limit of swap");
    if without((host.memory != 0 || host.memory_reservation != 0) && !can.memory, "a limit of memory") {
        (host.memory, host.memory_swap, host.memory_reservation) = (0, 0, 0);
    }
    if without(host.memory_swappiness.is_some() && !can.swappiness, "swappiness by container") {
        host.memory_swappiness = None;
    }
    if without(host.oom_kill_disable == Some(true) && !can.oom_kill_disable, "processes from being killed when memory runs out") {
        host.oom_kill_disable = Some(false);
    }
    if without((host.nano_cpus != 0 || host.cpu_quota != 0 || host.cpu_shares != 0) && !can.cpu, "a limit of processors") {
        (host.nano_cpus, host.cpu_quota, host.cpu_period, host.cpu_shares) = (0, 0, 0, 0);
    }
    if without(!(host.cpuset_cpus.is_empty() && host.cpuset_mems.is_empty()) && !can.cpuset, "a choice of processors") {
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
    }
    if without(host.pids_limit.is_some_and(|limit| limit > 0) && !can.pids, "a limit of processes") {
        host.pids_limit = None;
    }
    if without((host.blkio_weight != 0 || !host.blkio_weight_device.is_empty()) && !can.weight, "a weight of block I/O") {
        host.blkio_weight = 0;
        host.blkio_weight_device = List::default();
    }
    if without(throttles(host).iter().any(|list| !list.is_empty()) && !can.throttle, "a rate of block I/O") {
        (host.blkio_device_read_bps, host.blkio_device_write_bps) = (List::default(), List::default());
        (host.blkio_device_read_iops, host.blkio_device_write_iops) = (List::default(), List::default());
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        let text = "The OOM killer is disabled for the container, but no limit of memory is set: it can take all of the machine's memory";
        warnings.push(text.to_owned());
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Abilities = Abilities {
        memory: true,
        swap: true,
        swappiness: true,
        oom_kill_disable: true,
        cpu: true,
        realtime: true,
        cpuset: true,
        pids: true,
        weight: true,
        throttle: true,
    };

    #[test]
    fn what_the_kernel_keeps_is_left_alone() {
        let asked = HostConfig { memory: 64 << 20, memory_swappiness: Some(10), blkio_weight: 300, ..HostConfig::default() };
        let mut host = asked.clone();
        assert_eq!(fit(&mut host, ALL).expect("all is kept"), Vec::<String>::new());
        assert_eq!(host, asked);
    }

    #[test]
    fn what_it_does_not_keep_is_left_out_with_a_warning() {
        let mut host = HostConfig {
            memory_swappiness: Some(10),
            oom_kill_disable: Some(true),
            blkio_weight: 300,
            kernel_memory: 1 << 30,
            ..HostConfig::default()
        };
        let version_2 = Abilities { swappiness: false, oom_kill_disable: false, weight: false, ..ALL };
        let warnings = fit(&mut host, version_2).expect("nothing is refused");
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(host, HostConfig { oom_kill_disable: Some(false), ..HostConfig::default() });
        let warnings = fit(&mut HostConfig { oom_kill_disable: Some(true), ..HostConfig::default() }, ALL).expect("a warning");
        assert!(warnings[0].contains("no limit of memory"), "{warnings:?}");
    }

    #[test]
    fn real_time_is_refused_where_it_is_not() {
        let mut host = HostConfig { cpu_realtime_runtime: 1000, ..HostConfig::default() };
        let error = fit(&mut host, Abilities { realtime: false, ..ALL }).expect_err("not there").to_string();
        assert!(error.contains("no real-time groups"), "{error}");
    }
}
