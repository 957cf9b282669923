//! `config.json` of the OCI runtime specification (1.3) for Linux, as plain data.
//!
//! Unknown fields are ignored. Values of closed sets (namespace types, seccomp actions, device types …) stay strings here and are checked where they
//! are used, so that a new one fails only the container that asks for it.
#![expect(missing_docs, reason = "the fields are the specification's: https://github.com/opencontainers/runtime-spec/blob/main/config.md")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Empty objects and lists are left out when written.
fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `null` where a list or an object is expected counts as the default, since Go writes it so.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

macro_rules! records {
    ($($(#[$meta:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $(
            $(#[$attr])*
            #[serde(deserialize_with = "nullable", skip_serializing_if = "empty")]
            pub $field: $kind,
        )* }
    )*};
}

records! {
    /// The whole configuration of a container.
    Spec {
        oci_version: String,
        root: Option<Root>,
        mounts: Vec<Mount>,
        process: Option<Process>,
        hostname: String,
        domainname: String,
        hooks: Hooks,
        annotations: BTreeMap<String, String>,
        linux: Linux,
    }
    Root {
        path: PathBuf,
        readonly: bool,
    }
    Mount {
        destination: PathBuf,
        #[serde(rename = "type")]
        kind: String,
        source: String,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        command_line: String,
        env: Vec<String>,
        cwd: PathBuf,
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: String,
        oom_score_adj: Option<i32>,
        selinux_label: String,
        scheduler: Option<Scheduler>,
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<CpuAffinity>,
    }
    ConsoleSize {
        height: u16,
        width: u16,
    }
    User {
        uid: u32,
        gid: u32,
        umask: Option<u32>,
        additional_gids: Vec<u32>,
        username: String,
    }
    Capabilities {
        bounding: Vec<String>,
        effective: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }
    Rlimit {
        #[serde(rename = "type")]
        kind: String,
        soft: u64,
        hard: u64,
    }
    Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    IoPriority {
        class: String,
        priority: i32,
    }
    CpuAffinity {
        initial: String,
        #[serde(rename = "final")]
        last: String,
    }
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }
    Hook {
        path: PathBuf,
        args: Vec<String>,
        env: Vec<String>,
        timeout: Option<i64>,
    }
    Linux {
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        sysctl: BTreeMap<String, String>,
        resources: Option<Resources>,
        cgroups_path: String,
        namespaces: Vec<Namespace>,
        devices: Vec<Device>,
        seccomp: Option<Seccomp>,
        rootfs_propagation: String,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: String,
        intel_rdt: Option<serde_json::Value>,
        personality: Option<Personality>,
        time_offsets: BTreeMap<String, TimeOffset>,
        memory_policy: Option<MemoryPolicy>,
        net_devices: BTreeMap<String, NetDevice>,
    }
    MemoryPolicy {
        mode: String,
        nodes: String,
        flags: Vec<String>,
    }
    NetDevice {
        name: String,
    }
    #[derive(Copy)]
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }
    Namespace {
        #[serde(rename = "type")]
        kind: String,
        path: Option<PathBuf>,
    }
    Device {
        path: PathBuf,
        #[serde(rename = "type")]
        kind: String,
        major: i64,
        minor: i64,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }
    Personality {
        domain: String,
        flags: Vec<String>,
    }
    #[derive(Copy)]
    TimeOffset {
        secs: i64,
        nanosecs: u32,
    }
    /// Limits of the control group.
    Resources {
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<NetworkLimits>,
        rdma: BTreeMap<String, Rdma>,
        unified: BTreeMap<String, String>,
    }
    DeviceRule {
        allow: bool,
        #[serde(rename = "type")]
        kind: String,
        major: Option<i64>,
        minor: Option<i64>,
        access: String,
    }
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }
    Pids {
        limit: Option<i64>,
    }
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
    WeightDevice {
        major: i64,
        minor: i64,
        weight: Option<u16>,
        leaf_weight: Option<u16>,
    }
    ThrottleDevice {
        major: i64,
        minor: i64,
        rate: u64,
    }
    HugepageLimit {
        page_size: String,
        limit: u64,
    }
    NetworkLimits {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }
    InterfacePriority {
        name: String,
        priority: u32,
    }
    Rdma {
        hca_handles: Option<u32>,
        hca_objects: Option<u32>,
    }
    /// A system-call filter.
    Seccomp {
        default_action: String,
        default_errno_ret: Option<u32>,
        flags: Vec<String>,
        listener_path: String,
        listener_metadata: String,
        architectures: Vec<String>,
        syscalls: Vec<Syscalls>,
    }
    Syscalls {
        names: Vec<String>,
        action: String,
        errno_ret: Option<u32>,
        args: Vec<SyscallArg>,
    }
    SyscallArg {
        index: u32,
        value: u64,
        value_two: u64,
        op: String,
    }
}
