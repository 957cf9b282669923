//! The model of a container as Docker's Engine API words it: what is asked for ([`Config`], [`HostConfig`], [`NetworkingConfig`]) and what is observed ([`State`], [`MountPoint`], [`NetworkSettings`]).
//!
//! Field names in JSON are exactly Docker's. Text from clients is decoded with [`crate::lenient`], so that `null` and odd spellings pass; what is written reads back to the same value,
//! and what `inspect` shows can be given to `create`.

mod config;
mod create;
pub mod defaults;
mod host;
mod mount;
mod network;
mod observed;
mod secret;

pub use crate::nullable::{Empty, List, Map, Set};
pub use config::{Config, HealthConfig};
pub use create::{CreateRequest, NamespaceMode, UpdateRequest};
pub use host::{
    DeviceMapping, DeviceRequest, HostConfig, LogConfig, PortBinding, PortMap, RestartPolicy, ThrottleDevice, Ulimit, WeightDevice,
};
pub use mount::{BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriverConfig, VolumeOptions};
pub use network::{EndpointIpam, EndpointSettings, NetworkSettings, NetworkingConfig};
pub use observed::{Health, HealthResult, MountPoint, State, Status};
pub use secret::Secret;
