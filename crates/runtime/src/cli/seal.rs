//! Keeps the host's files out of containers' reach: this program runs from a sealed copy in memory.
//!
//! For a moment a container's first process is this program, and what it executes may be `/proc/self/exe`. If that were a file of the host, a container
//! could open it for writing and take the host over at the next call (CVE-2019-5736).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use kernel::fork::Strings;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Returns when this process runs from sealed memory; otherwise executes a sealed copy of itself with the same arguments. `cais runtime` starts it in that
/// way already.
pub(super) fn ensure() -> Result<(), String> {
    let fail = |error: std::io::Error| format!("copy this program into memory: {error}");
    let mut own = std::fs::File::open("/proc/self/exe").map_err(fail)?;
    if fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(());
    }
    let never: Infallible = execute_copy(&mut own).map_err(fail)?;
    match never {}
}

fn execute_copy(own: &mut std::fs::File) -> std::io::Result<Infallible> {
    let copy = memfd_create(c"cais-runtime", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(copy);
    std::io::copy(own, &mut file)?;
    file.flush()?;
    file.rewind()?;
    fcntl_add_seals(&file, SEALS)?;
    let strings =
        |strings: Vec<OsString>| Strings::new(strings.into_iter().filter_map(|text| CString::new(text.into_vec()).ok()).collect());
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    Ok(kernel::fork::execute_fd(file.as_fd(), &strings(std::env::args_os().collect()), &strings(environment.collect()))?)
}
