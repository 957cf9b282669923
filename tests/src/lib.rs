//! The harness that the real-container suites, the demo and the benchmark share: engines of one's own, base images made from
//! Debian's packages, commands with deadlines, a virtual machine, and the search for what a run left behind.
//!
//! It drives the built `cais` from outside, as a user does, and knows none of the other crates.

#![forbid(unsafe_code)]

pub mod engine;
pub mod http;
pub mod image;
pub mod leaks;
pub mod pty;
pub mod sh;
pub mod vm;

pub use engine::{Client, Engine};

/// Ends a test with its reason on stderr when this process is not root: real containers need it.
///
/// `true` means: skip. The runner counts these lines and knows the ones that ARCHITECTURE.md allows.
#[must_use]
pub fn skip_unless_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    skip("not root");
    true
}

/// Prints the line by which the runner recognises a skipped test.
pub fn skip(reason: &str) {
    eprintln!("SKIP: {reason}");
}
