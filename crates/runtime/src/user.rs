//! Names of users and groups, looked up in a container's own files.

use std::os::fd::BorrowedFd;

use crate::Result;

/// A user as the kernel knows it, with what a login would set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Additional group ids, sorted, without doubles.
    pub groups: Vec<u32>,
    /// The home directory, `/` when the user is not listed.
    pub home: String,
}

/// Looks up `user` (`name`, `uid`, `name:group`, `uid:gid`; empty means 0) and `additional_groups` below `root`, never outside of it.
///
/// # Errors
/// [`crate::Error::UnknownUser`] for a name that is not listed; a number need not be. Unreadable files count as empty.
pub fn resolve(root: BorrowedFd<'_>, user: &str, additional_groups: &[String]) -> Result<Resolved> {
    todo!()
}
