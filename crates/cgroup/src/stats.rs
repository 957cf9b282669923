//! What a group uses.

use std::collections::BTreeMap;

/// Figures of one group at one moment. What the machine does not count is 0, empty or `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub block_io: BlockIo,
    /// Huge pages by size name.
    pub hugetlb: BTreeMap<String, HugeTlb>,
}

/// CPU time, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// User and system.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In kernel mode.
    pub system_ns: u64,
    /// By CPU (version 1 only).
    pub per_cpu_ns: Vec<u64>,
    /// How the quota bit.
    pub throttling: Throttling,
}

/// Effects of a CPU quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that passed while the group wanted to run.
    pub periods: u64,
    /// Of these, the ones in which it was stopped.
    pub throttled_periods: u64,
    /// How long it was stopped, nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was in use (`None` where the kernel does not record it).
    pub max_usage: Option<u64>,
    /// The limit; `u64::MAX` for none.
    pub limit: u64,
    /// Swap in use.
    pub swap_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// How often the kernel killed a process of the group.
    pub oom_kills: u64,
    /// The lines of `memory.stat`, under the names of the machine's version.
    pub stat: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// There are now.
    pub current: u64,
    /// May be; `None` without limit.
    pub limit: Option<u64>,
}

/// Block device traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Bytes.
    pub service_bytes: Vec<BlockOperation>,
    /// Operations.
    pub serviced: Vec<BlockOperation>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockOperation {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read`, `write`, `sync`, `async`, `discard` or `total` on version 1; `read`, `write` or `discard` on version 2.
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Huge pages of one size, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugeTlb {
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
}
