//! Mounts in the long form (`--mount`).

use serde::{Deserialize, Serialize};

use super::config::{is_false, is_zero};
use crate::nullable::{List, Map};

/// One mount of `HostConfig.Mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs` (others are known to Docker: `image`, `npipe`, `cluster`).
    #[serde(rename = "Type")]
    pub kind: String,
    /// Path on the host, or name of a volume; empty for tmpfs and anonymous volumes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Path in the container.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Whether writing is refused.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Of other systems than Linux; ignored.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consistency: String,
    /// For binds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// For volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// For images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// For tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BindOptions {
    /// `[r]private`, `[r]shared` or `[r]slave`; empty: `rprivate`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Whether mounts below the source are left out.
    #[serde(skip_serializing_if = "is_false")]
    pub non_recursive: bool,
    /// Whether a missing source directory is made.
    #[serde(skip_serializing_if = "is_false")]
    pub create_mountpoint: bool,
    /// Whether only the topmost mount is read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_non_recursive: bool,
    /// Whether it fails where mounts below cannot be made read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeOptions {
    /// Whether a new volume is left empty instead of being filled from the image.
    #[serde(skip_serializing_if = "is_false")]
    pub no_copy: bool,
    /// Labels of a volume made by this mount.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub labels: Map<String>,
    /// Directory inside of the volume to mount.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// Driver of a volume made by this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<VolumeDriverConfig>,
}

/// A volume's driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeDriverConfig {
    /// Empty: `local`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Options for the driver.
    #[serde(skip_serializing_if = "Map::is_null")]
    pub options: Map<String>,
}

/// Options of an image mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Directory inside of the image to mount.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// Size limit in bytes; 0: the kernel's default, half of the memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    /// Permission bits of its root; 0: 01777.
    #[serde(skip_serializing_if = "is_zero_mode")]
    pub mode: u32,
    /// More mount options, each `[name]` or `[name, value]`.
    #[serde(skip_serializing_if = "List::is_null")]
    pub options: List<Vec<String>>,
}

fn is_zero_mode(mode: &u32) -> bool {
    *mode == 0
}
