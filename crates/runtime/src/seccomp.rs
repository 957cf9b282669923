//! System-call filters: from the specification's form to a program for the kernel, and Docker's default profile.

use crate::{Result, oci};

/// Compiles a filter for x86-64 (with x86 and x32 where the architectures say so) into the kernel's bytes, eight per instruction.
/// The result depends on the profile alone, so it can be kept under the profile's hash.
///
/// # Errors
/// [`crate::Error::Invalid`] for unknown actions, operators or architectures, and for error numbers above 0xFFFF, which the kernel would truncate.
pub fn compile(profile: &oci::Seccomp) -> Result<Vec<u8>> {
    todo!()
}

/// Docker's default profile for a process that has `capabilities` (names with `CAP_`).
pub fn docker_default(capabilities: &[String]) -> oci::Seccomp {
    todo!()
}
