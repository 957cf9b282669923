//! netd as a program of its own, for the tests of this crate; users have it as `cais netd`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    net::netd::main(std::env::args_os().skip(1), |_, _| ())
}
