//! Files and directories that are whole or absent after a crash.
//!
//! The order is always: stage under another name, sync the data, rename, sync the directory. What is to be removed is first renamed to a tombstone, so that it is
//! gone at once for everybody else and its removal can be taken up again at any time. Named [`fail_point`]s let tests stop the program between any two of these steps.
#![forbid(unsafe_code)]

mod error;
mod fail;
mod file;
mod remove;

pub use error::Error;
pub use fail::fail_point;
pub use file::{
    Lock, StagedFile, create_dir, create_dir_all, is_staged, preallocate, publish_dir, publish_dirs, sync_dir, sync_filesystem,
    write_atomic, write_volatile,
};
pub use remove::{entomb, remove_tree, sweep};

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;
