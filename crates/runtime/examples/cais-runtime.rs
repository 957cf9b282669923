//! The runtime's command line as a program of its own, for tests and measurements; `cais runtime` is the same thing.
#![forbid(unsafe_code)]

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    std::process::exit(runtime::cli::main(&args));
}
