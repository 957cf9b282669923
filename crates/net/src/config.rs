//! Names and ranges that one engine uses, derived from its data root so that several engines on a machine never meet.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::endpoint::Protocol;
use crate::{Result, Subnet};

/// The data root whose engine gets the plain names.
const DEFAULT_DATA_ROOT: &str = "/var/lib/cais";

/// A range that networks are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The whole range.
    pub base: Subnet,
    /// The prefix length of one network.
    pub size: u8,
}

/// How published ports meet a host firewall that drops by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PublishedPolicy {
    /// While a foreign `input` chain has the policy drop, other hosts reach only the ports in `published_allow`.
    #[default]
    RespectHost,
    /// Docker's behaviour: a published port is open to everybody, whatever the host's `input` chains say.
    Open,
}

/// What to do about a foreign `forward` chain with the policy drop (dockerd makes one): it cuts containers off, and an
/// accept in our own table cannot overrule it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForeignForward {
    /// Report it: [`crate::Net::warnings`].
    #[default]
    Report,
    /// Insert marked accept rules for our bridges at its top, and remove them at the end.
    Insert,
}

/// Settings of the packet filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// How published ports meet the host's own policy.
    pub published: PublishedPolicy,
    /// Published host ports that are open to other hosts under [`PublishedPolicy::RespectHost`].
    pub published_allow: Vec<(Protocol, u16)>,
    /// What to do about a foreign forward policy.
    pub forward: ForeignForward,
}

/// What [`crate::Net::open`] works with.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The default network's bridge interface, up to 15 characters (`--bridge`).
    pub bridge: String,
    /// The bridge's address and prefix (`--bip`); without it the first range of `pools` that is free on this host.
    pub bip: Option<Subnet>,
    /// Where networks are cut from (`--default-address-pool`).
    pub pools: Vec<Pool>,
    /// The nftables table's name.
    pub table: String,
    /// The engine's run directory, for `netd.sock`.
    pub run_dir: PathBuf,
    /// The command that runs [`crate::netd::main`]; ` --socket PATH` is appended.
    pub netd_command: Vec<OsString>,
    /// The packet size of bridges and interfaces; without it that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Packet filter settings.
    pub firewall: Firewall,
    /// Distinguishes this engine in names and marks: empty for the default data root, else 8 hexadecimal digits.
    pub suffix: String,
}

impl NetConfig {
    /// The configuration that belongs to a data root: bridge `cais0` and table `cais` for the default one, for any other
    /// `cais-<8 hex>` and `cais_<8 hex>`. The digits are those of [`suffix_for`]; free to be changed before `open`.
    pub fn derive(data_root: &Path, run_dir: &Path) -> Self {
        let _ = (data_root, run_dir, DEFAULT_DATA_ROOT);
        todo!()
    }
}

impl std::str::FromStr for Pool {
    type Err = crate::Error;

    /// Docker's form `base=10.10.0.0/16,size=24`.
    fn from_str(_text: &str) -> Result<Self> {
        todo!()
    }
}
