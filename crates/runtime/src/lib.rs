//! The OCI runtime: makes containers out of a [`oci::Spec`], in-process and without other programs.
//!
//! [`plan::plan`] turns a specification into ordered steps without touching the machine; [`create`] forks a child that carries them out and then waits;
//! [`Created::start`] lets it execute its program. [`exec()`] runs a further process in a running container. Everything is synchronous, and the calling
//! process must have one thread.
#![forbid(unsafe_code)]

mod child;
pub mod cli;
pub mod config;
mod control;
pub mod default;
pub mod error;
pub mod exec;
mod hook;
pub mod launch;
mod listener;
pub mod oci;
mod path;
pub mod plan;
pub mod resources;
mod root;
pub mod seccomp;
mod source;
mod spaces;
pub mod user;

pub use error::{Error, Result};
pub use exec::{ExecTarget, Joining, exec};
pub use launch::{Created, Gate, Group, Launch, Namespaces, Root, Running, Stdio, create};
pub use root::detached_overlay;
