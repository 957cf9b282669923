//! Loading a system-call filter (seccomp(2)).

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::checked;

/// One instruction of a classic BPF program, as `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

impl Instruction {
    /// The eight bytes of the kernel's layout.
    pub fn to_bytes(self) -> [u8; 8] {
        let (code, operand) = (self.code.to_ne_bytes(), self.operand.to_ne_bytes());
        [code[0], code[1], self.jump_true, self.jump_false, operand[0], operand[1], operand[2], operand[3]]
    }

    /// Reads the kernel's layout.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [c0, c1, jump_true, jump_false, o0, o1, o2, o3] = bytes;
        Self { code: u16::from_ne_bytes([c0, c1]), jump_true, jump_false, operand: u32::from_ne_bytes([o0, o1, o2, o3]) }
    }
}

/// Flags of SECCOMP_SET_MODE_FILTER.
pub mod flag {
    /// Every thread gets the filter.
    pub const TSYNC: u32 = 1;
    /// Actions other than allow are logged.
    pub const LOG: u32 = 2;
    /// Speculative store bypass mitigation stays off.
    pub const SPEC_ALLOW: u32 = 4;
    /// The caller gets a descriptor on which it is asked about calls.
    pub const NEW_LISTENER: u32 = 8;
    /// A waiting supervisor notification is interrupted by fatal signals only.
    pub const WAIT_KILLABLE_RECV: u32 = 32;
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Whether this kernel has a flag of [`flag`].
pub fn knows_flag(flag: u32) -> bool {
    // Filter flags are checked before the program, which is not there.
    // SAFETY: the null pointer is refused with EFAULT, an unknown flag with EINVAL; nothing is loaded either way.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flag, std::ptr::null::<Program>()) };
    checked(result) == Err(Errno::FAULT)
}

const SET_MODE_FILTER: u32 = 1;

/// The same as [`load`] for a program that asks somebody else: the descriptor on which it does, close-on-exec.
///
/// # Errors
/// As [`load`], and EBUSY where a filter that asks is in force already.
pub fn load_with_listener(program: &[Instruction], flags: u32) -> Result<OwnedFd, Errno> {
    let number = put_in_force(program, flags | flag::NEW_LISTENER)?;
    // SAFETY: with NEW_LISTENER the kernel answers with a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

/// Puts the calling thread, and what it executes, under `program`.
///
/// # Errors
/// EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL for a program that the kernel does not accept or that is longer than 4,096 instructions.
pub fn load(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    put_in_force(program, flags).map(drop)
}

fn put_in_force(program: &[Instruction], flags: u32) -> Result<u64, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { len, filter: program.as_ptr() };
    // SAFETY: `program` points to `len` instructions in the kernel's layout, which it copies.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) })
}
