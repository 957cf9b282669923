//! The only crate with `unsafe`: Linux system calls that `rustix` lacks, behind typed descriptors.

pub mod bpf;
pub mod caps;
pub mod fork;
pub mod heap;
pub mod keyring;
pub mod mount;
pub mod net;
pub mod ns;
pub mod pidfd;
pub mod pty;
pub mod sched;
pub mod seccomp;
pub mod sigwait;
pub mod spawn;

use rustix::io::Errno;

/// The result of a raw system call: a non-negative number, or what errno says.
pub(crate) fn checked(result: libc::c_long) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)))
}
