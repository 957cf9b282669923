//! What a group may use, and how each limit is written on either version.

use crate::DeviceRule;

/// Limits of one group. `None` leaves a setting as it is; -1 means unlimited where the field says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Memory, bytes; -1 unlimited.
    pub memory: Option<i64>,
    /// Memory that is kept under pressure as far as possible, bytes; -1 none.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap, bytes, as Docker counts it; -1 unlimited.
    pub memory_swap: Option<i64>,
    /// Tendency to swap, 0 to 100 (version 1 only; not a setting of version 2).
    pub memory_swappiness: Option<u64>,
    /// Whether the kernel stops processes of a full group instead of killing one (version 1 only).
    pub oom_kill_disable: Option<bool>,
    /// CPU weight as version 1 counts it, 2 to 262,144; 1,024 is the default.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds; -1 unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of a period, microseconds.
    pub cpu_period: Option<u64>,
    /// CPU time saved up at most, microseconds.
    pub cpu_burst: Option<u64>,
    /// Whether the group runs only when nothing else wants to.
    pub cpu_idle: Option<bool>,
    /// Real-time runtime per period, microseconds (version 1 only).
    pub cpu_realtime_runtime: Option<i64>,
    /// Real-time period, microseconds (version 1 only).
    pub cpu_realtime_period: Option<u64>,
    /// CPUs, as a list: `0-2,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads; -1 unlimited.
    pub pids: Option<i64>,
    /// Block I/O weight, 10 to 1,000.
    pub blkio_weight: Option<u16>,
    /// Block I/O weight of single devices.
    pub blkio_weight_devices: Vec<BlockRate>,
    /// Bytes read per second from single devices.
    pub blkio_read_bps: Vec<BlockRate>,
    /// Bytes written per second to single devices.
    pub blkio_write_bps: Vec<BlockRate>,
    /// Reads per second from single devices.
    pub blkio_read_iops: Vec<BlockRate>,
    /// Writes per second to single devices.
    pub blkio_write_iops: Vec<BlockRate>,
    /// Huge pages: size as the kernel names it (`2MB`) and bytes.
    pub hugetlb: Vec<(String, u64)>,
    /// Which devices may be used. The last rule that matches decides; empty means that devices are not filtered.
    pub devices: Vec<DeviceRule>,
    /// Files of version 2 to write verbatim, after everything else.
    pub unified: Vec<(String, String)>,
}

/// A number for one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRate {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// The rate or the weight.
    pub value: u64,
}
