//! How it runs on its host: namespaces, limits, mounts, ports, privileges.

use serde::{Deserialize, Serialize};

use super::config::is_zero;
use super::defaults;
use super::mount::Mount;
use crate::nullable::{List, Map};

/// Container port (`80/tcp`) to where it is reached on the host. `null` in observed ports: exposed, not published.
pub type PortMap = Map<List<PortBinding>>;

/// The part of a container's definition that depends on its host, resources included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// Mounts in the short form, `source:target[:options]`.
    pub binds: List<String>,
    /// Where the client wrote the id. Remembered only.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where its output goes.
    pub log_config: LogConfig,
    /// `default` (or empty), `bridge`, `none`, `host`, `container:ID` or a network's name.
    pub network_mode: String,
    /// Ports to publish.
    pub port_bindings: PortMap,
    /// What happens when it ends.
    pub restart_policy: RestartPolicy,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Driver of volumes made by `binds`.
    pub volume_driver: String,
    /// Containers whose mounts it gets, too.
    pub volumes_from: List<String>,
    /// Height and width of the terminal at first.
    pub console_size: [u32; 2],
    /// Annotations of the OCI runtime specification.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub annotations: Map<String>,
    /// Capabilities added, with or without `CAP_`; `ALL`.
    pub cap_add: List<String>,
    /// Capabilities taken away.
    pub cap_drop: List<String>,
    /// `private`, `host` or empty for the machine's default.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: List<String>,
    /// Options of resolv.conf.
    pub dns_options: List<String>,
    /// Search domains.
    pub dns_search: List<String>,
    /// `name:address` for /etc/hosts; the address may be `host-gateway`.
    pub extra_hosts: List<String>,
    /// More groups of the first process, names or numbers.
    pub group_add: List<String>,
    /// `private`, `shareable`, `none`, `host`, `container:ID`; empty: `private`.
    pub ipc_mode: String,
    /// Cgroup of another container; not in use.
    pub cgroup: String,
    /// Links of the default bridge.
    pub links: List<String>,
    /// Preference of the kernel's OOM killer.
    pub oom_score_adj: i64,
    /// Empty, `host` or `container:ID`.
    pub pid_mode: String,
    /// All capabilities, all devices, no masks, no seccomp.
    pub privileged: bool,
    /// Whether every exposed port is published on a port of the engine's choice.
    pub publish_all_ports: bool,
    /// Whether the root is read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`, …
    pub security_opt: List<String>,
    /// Options of the storage driver.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub storage_opt: Map<String>,
    /// Path to mount options.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub tmpfs: Map<String>,
    /// Empty or `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// Empty or `host`.
    pub userns_mode: String,
    /// Size of /dev/shm in bytes; 0 in a request: the default.
    pub shm_size: i64,
    /// Kernel parameters of its namespaces.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub sysctls: Map<String>,
    /// Name of the OCI runtime.
    pub runtime: String,
    /// Of Windows.
    pub isolation: String,

    /// Relative weight of processor time; 0: the kernel's default, 1024.
    pub cpu_shares: i64,
    /// Memory limit in bytes; 0: none.
    pub memory: i64,
    /// Processor limit in billionths of one; 0: none.
    pub nano_cpus: i64,
    /// Cgroup below which the container's is made.
    pub cgroup_parent: String,
    /// 10 to 1000; 0: the kernel's default.
    pub blkio_weight: u16,
    /// Weight by device.
    pub blkio_weight_device: List<WeightDevice>,
    /// Bytes read a second by device.
    pub blkio_device_read_bps: List<ThrottleDevice>,
    /// Bytes written a second by device.
    pub blkio_device_write_bps: List<ThrottleDevice>,
    /// Reads a second by device.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: List<ThrottleDevice>,
    /// Writes a second by device.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: List<ThrottleDevice>,
    /// Period of the processor quota in microseconds.
    pub cpu_period: i64,
    /// Processor time in each period in microseconds.
    pub cpu_quota: i64,
    /// Period of the real-time scheduler in microseconds.
    pub cpu_realtime_period: i64,
    /// Real-time budget in each period in microseconds.
    pub cpu_realtime_runtime: i64,
    /// Processors it may run on (`0-2,4`).
    pub cpuset_cpus: String,
    /// Memory nodes it may use.
    pub cpuset_mems: String,
    /// Devices it gets.
    pub devices: List<DeviceMapping>,
    /// Rules of the device cgroup (`c 10:* rwm`).
    pub device_cgroup_rules: List<String>,
    /// Devices asked for by capability (GPUs).
    pub device_requests: List<DeviceRequest>,
    /// Kernel memory limit in bytes: no kernel keeps it any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel_memory: i64,
    /// TCP buffer memory limit in bytes.
    #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
    pub kernel_memory_tcp: i64,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Limit of memory and swap together in bytes; -1: no limit of swap; 0: twice `memory`.
    pub memory_swap: i64,
    /// 0 to 100; none or -1: the kernel's default.
    pub memory_swappiness: Option<i64>,
    /// Whether the OOM killer leaves it alone.
    pub oom_kill_disable: Option<bool>,
    /// Limit of tasks; none, 0 or -1: no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits of its processes.
    pub ulimits: List<Ulimit>,
    /// Of Windows.
    pub cpu_count: i64,
    /// Of Windows.
    pub cpu_percent: i64,
    /// Of Windows.
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: i64,
    /// Of Windows.
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: i64,

    /// Mounts in the long form.
    #[serde(skip_serializing_if = "List::is_null")]
    pub mounts: List<Mount>,
    /// Paths made unreadable; none: the default list, `[]`: nothing masked.
    pub masked_paths: List<String>,
    /// Paths made read-only; none: the default list, `[]`: none.
    pub readonly_paths: List<String>,
    /// Whether a small init is the first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    /// Driver; empty: `json-file`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Options for the driver.
    pub config: Map<String>,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no` (or empty), `always`, `on-failure`, `unless-stopped`.
    pub name: String,
    /// For `on-failure`; 0: without end.
    pub maximum_retry_count: i64,
}

/// A place on the host where a port is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    /// Address; empty: all.
    pub host_ip: String,
    /// Port or range (`8000-8010`); empty or `0`: the engine's choice.
    pub host_port: String,
}

/// A device of the host in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// Device node, or a directory of them, on the host.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// Some of `r`, `w`, `m`; empty: all.
    pub cgroup_permissions: String,
}

/// Devices asked for by capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceRequest {
    /// Driver; empty: whichever fits.
    pub driver: String,
    /// How many; -1: all.
    pub count: i64,
    /// Or which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: List<String>,
    /// Alternatives (outer) of capabilities that must all be there (inner).
    pub capabilities: List<Vec<String>>,
    /// Options for the driver.
    pub options: Map<String>,
}

/// A resource limit (setrlimit).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Hard limit; -1: none.
    pub hard: i64,
    /// Soft limit; -1: none.
    pub soft: i64,
}

/// A device's weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WeightDevice {
    /// Device node.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// A device's throttle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// Device node.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

impl HostConfig {
    /// Puts Docker's defaults where the request left a blank, as `inspect` shows them. `cgroup_v2`: whether the machine has the unified hierarchy only.
    pub fn fill_defaults(&mut self, cgroup_v2: bool) {
        let blank = |text: &mut String, default: &str| {
            if text.is_empty() {
                default.clone_into(text);
            }
        };
        if self.network_mode == "default" {
            self.network_mode.clear();
        }
        blank(&mut self.network_mode, "bridge");
        blank(&mut self.log_config.kind, defaults::LOG_DRIVER);
        blank(&mut self.restart_policy.name, "no");
        blank(&mut self.runtime, defaults::RUNTIME);
        blank(&mut self.ipc_mode, "private");
        blank(&mut self.cgroupns_mode, if cgroup_v2 { "private" } else { "host" });
        self.log_config.config.give();
        self.port_bindings.give();
        if self.shm_size == 0 {
            self.shm_size = defaults::SHM_SIZE;
        }
        if self.memory > 0 && self.memory_swap == 0 {
            self.memory_swap = self.memory.saturating_mul(2);
        }
        if self.memory_swappiness == Some(-1) {
            self.memory_swappiness = None;
        }
        if self.pids_limit == Some(0) {
            self.pids_limit = None;
        }
        self.oom_kill_disable.get_or_insert(false);
        let paths = |list: &mut List<String>, default: &[&str], privileged: bool| {
            if list.is_null() && !privileged {
                *list = default.iter().map(|path| (*path).to_owned()).collect();
            }
        };
        paths(&mut self.masked_paths, &defaults::MASKED_PATHS, self.privileged);
        paths(&mut self.readonly_paths, &defaults::READONLY_PATHS, self.privileged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_docker_is_written_with_its_default() {
        let mut host = HostConfig::default();
        host.fill_defaults(false);
        let expected = r#"{
            "AutoRemove": false, "Binds": null, "BlkioDeviceReadBps": null, "BlkioDeviceReadIOps": null, "BlkioDeviceWriteBps": null,
            "BlkioDeviceWriteIOps": null, "BlkioWeight": 0, "BlkioWeightDevice": null, "CapAdd": null, "CapDrop": null, "Cgroup": "", "CgroupParent": "",
            "CgroupnsMode": "host", "ConsoleSize": [0, 0], "ContainerIDFile": "", "CpuCount": 0, "CpuPercent": 0, "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpuShares": 0, "CpusetCpus": "", "CpusetMems": "", "DeviceCgroupRules": null,
            "DeviceRequests": null, "Devices": null, "Dns": null, "DnsOptions": null, "DnsSearch": null, "ExtraHosts": null, "GroupAdd": null,
            "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "IpcMode": "private", "Isolation": "", "Links": null,
            "LogConfig": {"Config": {}, "Type": "json-file"}, "Memory": 0, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null,
            "NanoCpus": 0, "NetworkMode": "bridge", "OomKillDisable": false, "OomScoreAdj": 0, "PidMode": "", "PidsLimit": null, "PortBindings": {},
            "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "RestartPolicy": {"MaximumRetryCount": 0, "Name": "no"},
            "Runtime": "cais", "SecurityOpt": null, "ShmSize": 67108864, "UTSMode": "", "Ulimits": null, "UsernsMode": "", "VolumeDriver": "",
            "VolumesFrom": null
        }"#;
        let mut expected: serde_json::Value = serde_json::from_str(expected).expect("JSON");
        expected["MaskedPaths"] = defaults::MASKED_PATHS.as_slice().into();
        expected["ReadonlyPaths"] = defaults::READONLY_PATHS.as_slice().into();
        assert_eq!(serde_json::to_value(&host).expect("encodes"), expected);
    }

    #[test]
    fn privileged_containers_have_nothing_masked() {
        let mut host = HostConfig { privileged: true, ..HostConfig::default() };
        host.fill_defaults(true);
        assert!(host.masked_paths.is_null() && host.readonly_paths.is_null());
        assert_eq!(host.cgroupns_mode, "private");
    }
}
