//! What Docker gives a container that asks for nothing.

/// Size of /dev/shm in bytes.
pub const SHM_SIZE: i64 = 64 << 20;

/// Seconds between the stop signal and SIGKILL.
pub const STOP_TIMEOUT_SECS: i64 = 10;

/// The signal that asks a container to stop.
pub const STOP_SIGNAL: &str = "SIGTERM";

/// The search path of a container whose image gives none.
pub const PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What log driver a container has.
pub const LOG_DRIVER: &str = "json-file";

/// How inspect names the built-in runtime.
pub const RUNTIME: &str = "cais";

/// Names of runtimes that mean the built-in one.
pub const RUNTIMES: [&str; 4] = ["", RUNTIME, "runc", "io.containerd.runc.v2"];

/// Paths made unreadable.
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

/// Paths made read-only.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Capabilities of a container that is not privileged.
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

/// The smallest memory limit that is accepted, in bytes.
pub const MEMORY_MIN: i64 = 6 << 20;

/// The smallest share of a processor that is accepted, in billionths.
pub const NANO_CPUS_MIN: i64 = 10_000_000;

/// The resource limits that `--ulimit` names.
pub const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
