//! Session keyrings (keyctl(2)).

use std::ffi::CStr;

use rustix::io::Errno;

use crate::checked;

/// Gives the calling process a new session keyring called `name`, so that it does not share its starter's keys.
///
/// # Errors
/// The errno of keyctl(2): ENOSYS where the kernel has no keyrings, EDQUOT when the user's quota is used up.
pub fn join_new_session(name: &CStr) -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a C string that the kernel copies.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}
