//! Capability sets as 64-bit masks (capget(2), capset(2), prctl(2)), and the ids of a process.

use rustix::io::Errno;

use crate::checked;

/// The three sets that capset(2) writes. Bit N stands for capability number N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The sets of the calling thread.
///
/// # Errors
/// The errno of capget(2).
pub fn current() -> Result<Sets, Errno> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 means two `Half`s, which is what is passed.
    checked(unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) })?;
    let join = |field: fn(&Half) -> u32| u64::from(field(&halves[0])) | u64::from(field(&halves[1])) << 32;
    Ok(Sets { effective: join(|half| half.effective), permitted: join(|half| half.permitted), inheritable: join(|half| half.inheritable) })
}

/// Sets the sets of the calling thread.
///
/// # Errors
/// The errno of capset(2): EPERM for a capability that is not permitted now.
pub fn set(sets: &Sets) -> Result<(), Errno> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Half {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 means two `Half`s, which is what is passed; the kernel only reads them.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) }).map(drop)
}

/// The bounding set of the calling thread.
pub fn bounding() -> u64 {
    // SAFETY: reads a bit; numbers beyond the kernel's last capability answer EINVAL.
    (0..64).take_while(|&number| unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } >= 0).fold(0, |mask, number| {
        // SAFETY: as above.
        if unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } == 1 { mask | 1 << number } else { mask }
    })
}

/// Drops from the bounding set everything that is not in `keep`.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> Result<(), Errno> {
    for number in (0..64).filter(|number| keep & (1 << number) == 0) {
        // SAFETY: takes a number; memory is not involved.
        match checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) }.into()) {
            Ok(_) => {}
            // The first number that the kernel does not know: all others are beyond it too.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes `mask` the ambient set.
///
/// # Errors
/// EPERM for a capability that is not both permitted and inheritable.
pub fn set_ambient(mask: u64) -> Result<(), Errno> {
    // SAFETY: takes numbers; memory is not involved.
    checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into())?;
    for number in (0..64u64).filter(|number| mask & (1 << number) != 0) {
        // SAFETY: as above.
        checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) }.into())?;
    }
    Ok(())
}

/// Whether permitted capabilities survive the change from user 0 to another (PR_SET_KEEPCAPS). Cleared by execve(2).
///
/// # Errors
/// The errno of prctl(2).
pub fn keep_on_user_change(keep: bool) -> Result<(), Errno> {
    // SAFETY: takes a number; memory is not involved.
    checked(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) }.into()).map(drop)
}

/// Sets real, effective and saved ids and the additional groups of the calling thread, groups first. `groups` is `None` where a user namespace
/// forbids setgroups(2) and the groups stay what they are.
///
/// # Errors
/// The errno of setgroups(2), setresgid(2) or setresuid(2).
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), Errno> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length are of one slice that the kernel only reads.
        checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: takes numbers; the raw calls change the calling thread only, which is a process with one thread where this is used.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Runs `body` with other ids towards filesystems (setfsuid(2), setfsgid(2)) and every permitted capability in force, then takes both back. For a caller
/// that is user 0; affects the calling thread.
///
/// # Errors
/// The errno of capset(2), and EPERM when the ids cannot be taken on.
pub fn with_filesystem_ids<T>(uid: u32, gid: u32, body: impl FnOnce() -> T) -> Result<T, Errno> {
    // Both calls answer with the id before, and never fail otherwise; asking for one that is not possible shows what is in force.
    // SAFETY: takes a number; memory is not involved.
    let change = |call: libc::c_long, id: u32| unsafe { libc::syscall(call, libc::c_ulong::from(id)) as u32 };
    let in_force = |call| change(call, u32::MAX);
    let before = current()?;
    let (old_gid, old_uid) = (change(libc::SYS_setfsgid, gid), change(libc::SYS_setfsuid, uid));
    // Leaving user 0 took the capabilities over files out of force.
    let raised = set(&before);
    let taken = (in_force(libc::SYS_setfsuid), in_force(libc::SYS_setfsgid)) == (uid, gid);
    let result = raised.and_then(|()| if taken { Ok(body()) } else { Err(Errno::PERM) });
    change(libc::SYS_setfsuid, old_uid);
    change(libc::SYS_setfsgid, old_gid);
    set(&before)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_bounded_and_setting_what_is_there_works() {
        let sets = current().unwrap();
        assert_eq!(sets.effective & !sets.permitted, 0);
        set(&sets).unwrap();
        assert_eq!(bounding() >> 63, 0);
    }
}
