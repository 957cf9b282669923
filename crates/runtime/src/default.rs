//! What Docker gives every container unless it is told otherwise, in the specification's form, and what this machine has to give.

use crate::{Result, oci};

/// Docker's default capabilities (with `CAP_`).
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Paths that a container shall not see.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that a container shall not write.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The mounts of every container: /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys, /sys/fs/cgroup. `privileged` makes /sys and /sys/fs/cgroup
/// writable.
pub fn mounts(shm_bytes: u64, privileged: bool) -> Vec<oci::Mount> {
    todo!()
}

/// Device rules of a container that is not privileged: nothing but the usual nodes (and making, though not using, any node).
pub fn device_rules() -> Vec<oci::DeviceRule> {
    todo!()
}

/// The one rule of a privileged container.
pub fn device_rules_privileged() -> Vec<oci::DeviceRule> {
    vec![oci::DeviceRule { allow: true, kind: "a".into(), access: "rwm".into(), ..oci::DeviceRule::default() }]
}

/// Every capability that this process can hand on: effective and in the bounding set, by name with `CAP_`. What a privileged container gets.
pub fn own_capabilities() -> Vec<String> {
    todo!()
}

/// The host's device nodes below /dev for a privileged container, without terminals and without what every container has anyway.
///
/// # Errors
/// /dev cannot be read.
pub fn host_devices() -> Result<Vec<oci::Device>> {
    todo!()
}

/// One device of the host (`--device`), or all nodes below a directory, placed at `inside`.
///
/// # Errors
/// The path is missing, or is no device and no directory.
pub fn device(host: &std::path::Path, inside: &std::path::Path) -> Result<Vec<oci::Device>> {
    todo!()
}
