//! `cais runtime`: the command line of an OCI runtime.

use std::ffi::OsString;

/// The version of the OCI runtime specification that is followed.
pub const OCI_VERSION: &str = "1.2.0";

/// Runs the command of `args` (without the program's name): `create run start state kill delete exec list`. Returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    todo!()
}
