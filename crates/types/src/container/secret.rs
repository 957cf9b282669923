//! Files that a container gets and nobody else sees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A file below `/run/secrets`, in memory. Part of a create request, and of nothing that is shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Secret {
    /// The file's name.
    pub target: String,
    /// Its owner.
    #[serde(rename = "UID")]
    pub uid: u32,
    /// Its group.
    #[serde(rename = "GID")]
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
    /// Its content in base64.
    pub data: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({})", self.target)
    }
}
