//! Records of networks, as `network ls` and `network inspect` show them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use types::Id;

use crate::Subnet;

/// What carries a network's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A Linux bridge with address translation.
    Bridge,
    /// The host's own namespace.
    Host,
    /// Nothing but loopback. Docker's word for it is `null`.
    None,
}

impl Driver {
    /// The driver's name in the Engine API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::None => "null",
        }
    }
}

/// A network. `bridge`, `host` and `none` always exist; their ids are the same at each start of an engine with the same data root.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its identifier.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// What carries it.
    pub driver: Driver,
    /// When it was made: for the built-in ones, when this engine opened it.
    pub created: SystemTime,
    /// The addresses of a bridge network.
    pub subnet: Option<Subnet>,
    /// The bridge's own address.
    pub gateway: Option<Ipv4Addr>,
    /// The bridge interface's name.
    pub bridge: Option<String>,
    /// Without a way out.
    pub internal: bool,
    /// Driver options under their Docker names.
    pub options: BTreeMap<String, String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}
