//! How a process is scheduled, reads and writes, and gets its memory: sched_setattr(2), ioprio_set(2), set_mempolicy(2).

use rustix::io::Errno;

use crate::checked;

/// A scheduling policy and its parameters, as `struct sched_attr` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// SCHED_OTHER (0), SCHED_FIFO (1) and so on.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling of the calling thread, which its later children inherit.
///
/// # Errors
/// The errno of sched_setattr(2): EPERM without CAP_SYS_NICE, or where the control group has no real-time time; EINVAL for parameters that do not go
/// with the policy; EBUSY when a deadline cannot be kept.
pub fn set(attributes: &Attributes) -> Result<(), Errno> {
    let Attributes { policy, flags, nice, priority, runtime, deadline, period } = *attributes;
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `attr` says its own size, and the kernel only reads it.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets the I/O priority of the calling thread: class 1 real-time, 2 best effort, 3 idle; level 0 (highest) to 7.
///
/// # Errors
/// The errno of ioprio_set(2): EPERM for the real-time class without privilege.
pub fn set_io_priority(class: u16, level: u16) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u16 = 13;
    // SAFETY: takes numbers; 0 means the calling thread.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, libc::c_int::from(class << CLASS_SHIFT | level)) }).map(drop)
}

/// Sets the memory policy of the calling thread. Bit N of `nodes`, counted over all words, stands for memory node N.
///
/// # Errors
/// The errno of set_mempolicy(2): EINVAL for nodes that the machine does not have, ENOSYS without support for several nodes.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    let bits = nodes.len() * 64;
    let (pointer, max) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), bits + 1) };
    // SAFETY: the kernel reads `max - 1` bits, which is what `nodes` has, or nothing.
    checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, max) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_make_itself_humble() {
        std::thread::spawn(|| {
            const IDLE: u32 = 5;
            set(&Attributes { policy: IDLE, ..Attributes::default() }).unwrap();
            set_io_priority(3, 0).unwrap();
            assert_eq!(set(&Attributes { policy: 77, ..Attributes::default() }), Err(Errno::INVAL));
            assert!(set_io_priority(7, 0).is_err());
        })
        .join()
        .unwrap();
    }
}
