//! The standard streams as descriptors that live as long as the process.

use std::io::{Stderr, Stdin, Stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

static STDIN: OnceLock<Stdin> = OnceLock::new();
static STDOUT: OnceLock<Stdout> = OnceLock::new();
static STDERR: OnceLock<Stderr> = OnceLock::new();

pub(super) fn stdin() -> BorrowedFd<'static> {
    STDIN.get_or_init(std::io::stdin).as_fd()
}

pub(super) fn stdout() -> BorrowedFd<'static> {
    STDOUT.get_or_init(std::io::stdout).as_fd()
}

pub(super) fn stderr() -> BorrowedFd<'static> {
    STDERR.get_or_init(std::io::stderr).as_fd()
}
