//! Device filters of cgroup v2: an eBPF program of type CGROUP_DEVICE, loaded and attached (bpf(2)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::checked;

/// One eBPF instruction, as `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Offset of a jump or of memory.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Loads a device filter. The verifier refuses what is not provably safe.
///
/// # Errors
/// The errno of bpf(2): EPERM without CAP_BPF, CAP_PERFMON or CAP_SYS_ADMIN.
pub fn load_device_filter(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut name = [0u8; 16];
    name[..12].copy_from_slice(b"cais_devices");
    let attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: name,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` has the kernel's layout for BPF_PROG_LOAD, and points to `insn_cnt` instructions and a C string that outlive the call.
    let fd = checked(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) })?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches `program` to the group of the directory `group`, in the place of `replaced` if that is given. Every attached filter must allow an access.
///
/// # Errors
/// The errno of bpf(2).
pub fn attach_device_filter(group: BorrowedFd<'_>, program: BorrowedFd<'_>, replaced: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let attr = AttachAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: `attr` has the kernel's layout for BPF_PROG_ATTACH; the kernel only reads it.
    checked(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attr, size_of::<AttachAttr>()) }).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetFdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The device filters that are attached to the group itself (at most 16 are looked at).
///
/// # Errors
/// The errno of bpf(2).
pub fn device_filters(group: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    const PROG_QUERY: libc::c_int = 16;
    const PROG_GET_FD_BY_ID: libc::c_int = 13;
    let mut ids = [0u32; 16];
    let mut query = QueryAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    // SAFETY: `query` has the kernel's layout for BPF_PROG_QUERY, and `ids` has the room that `prog_cnt` says.
    checked(unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<QueryAttr>()) })?;
    ids.iter()
        .take(query.prog_cnt as usize)
        .map(|&id| {
            let attr = GetFdAttr { id, ..GetFdAttr::default() };
            // SAFETY: `attr` has the kernel's layout for BPF_PROG_GET_FD_BY_ID.
            let fd = checked(unsafe { libc::syscall(libc::SYS_bpf, PROG_GET_FD_BY_ID, &raw const attr, size_of::<GetFdAttr>()) })?;
            // SAFETY: the descriptor is new, so nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        })
        .collect()
}
