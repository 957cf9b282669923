//! One monitor process per container: the protocol that it speaks, and the engine's end of it.
//!
//! The monitor is the parent of the container's first process and of its execs. It owns their streams, terminals, log and exit codes, and
//! outlives the engine. The engine keeps the program in memory ([`Program`]), starts one monitor per container start ([`Program::spawn`]),
//! and talks to it through a [`Handle`]; a restarted engine finds it again with [`Handle::connect`].
//!
//! Everything here is synchronous and never blocks: a [`Handle`] is a descriptor to wait for, with [`Handle::send`] and [`Handle::try_recv`].

#![forbid(unsafe_code)]

mod detach;
mod error;
pub mod exit_record;
mod handle;
pub mod protocol;
#[doc(hidden)]
pub mod wire;

pub use detach::{DETACH_KEYS_DEFAULT, DetachWatch, detach_keys};
pub use error::Error;
pub use handle::{Arrival, CONTROL_FD, Handle, LAUNCH_ID, LISTEN_FD, LaunchFds, Program};
pub use protocol::{
    Attach, ErrorCode, Event, ExecExit, ExecRequest, Exit, ExternalRuntime, Failure, FailureKind, LaunchRequest, LogFile, LogFormat, Reply,
    Request, Root, Started, State,
};
