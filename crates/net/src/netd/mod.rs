//! The process that holds published ports: bound sockets that reserve them, and a proxy for what the kernel cannot translate.

use std::ffi::OsString;
use std::process::ExitCode;

/// `cais netd --socket PATH`: listens there, holds what engines hand over, gives up its privileges, outlives the engine.
/// It ends when told, or when it holds nothing and no engine is connected for a while. `args` are those after `netd`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let _ = args;
    todo!()
}
