//! Names and ranges that one engine uses, derived from its data root so that several engines on a machine never meet.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::endpoint::Protocol;
use crate::{Error, Result, Subnet, Subnet6};

/// Of each IPv6 pool.
const CANDIDATES6_MAX_BITS: u32 = 16;
/// What the machine is told from others by.
const MACHINE_ID: &str = "/etc/machine-id";

const BRIDGE_PORTS_MAX: usize = 1000;

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

/// A range that the IPv6 halves of networks are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool6 {
    /// The whole range.
    pub base: Subnet6,
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
    /// Where the IPv6 halves of networks are cut from.
    pub pools6: Vec<Pool6>,
    /// Whether the default network has IPv6, and which (`--ipv6`, `--fixed-cidr-v6`).
    pub default_ipv6: Option<Option<Subnet6>>,
    /// The nftables table's name.
    pub table: String,
    /// The engine's run directory, for `netd.sock`.
    pub run_dir: PathBuf,
    /// The command that runs [`crate::netd::main`]; ` --socket PATH` is appended.
    pub netd_command: Vec<OsString>,
    /// Containers on one bridge, before a network gets another one: the kernel's limit is 1,023 ports, of which some join bridges.
    pub bridge_ports_max: usize,
    /// The packet size of bridges and interfaces; without it that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Packet filter settings.
    pub firewall: Firewall,
    /// Distinguishes this engine in names and marks: empty for the default data root, else 8 hexadecimal digits.
    pub suffix: String,
}

impl NetConfig {
    /// The configuration that belongs to a data root: bridge `cais0` and table `cais` for the default one, for any other
    /// `cais-<8 hex>` and `cais_<8 hex>`. Every field may be changed before [`crate::Net::open`].
    pub fn derive(data_root: &Path, run_dir: &Path) -> Self {
        let suffix = if data_root == Path::new(DEFAULT_DATA_ROOT) { String::new() } else { digits(data_root) };
        let (bridge, table) = match suffix.as_str() {
            "" => ("cais0".to_owned(), "cais".to_owned()),
            digits => (format!("cais-{digits}"), format!("cais_{digits}")),
        };
        Self {
            bridge,
            bip: None,
            pools: default_pools(),
            pools6: vec![default_pool6(&suffix)],
            default_ipv6: None,
            table,
            run_dir: run_dir.to_owned(),
            netd_command: vec!["/proc/self/exe".into(), "netd".into()],
            bridge_ports_max: BRIDGE_PORTS_MAX,
            mtu: None,
            firewall: Firewall::default(),
            suffix,
        }
    }

    /// Where netd listens.
    pub(crate) fn netd_socket(&self) -> PathBuf {
        self.run_dir.join("netd.sock")
    }

    /// What marks a rule that this engine puts into a chain of others.
    pub(crate) fn mark(&self) -> String {
        if self.suffix.is_empty() { "cais".to_owned() } else { format!("cais-{}", self.suffix) }
    }

    /// The networks that may be the default one, in the order to try them. Engines with data roots of their own start
    /// at places of their own, so that two which start at the same time hardly ever want the same one.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Subnet> + '_ {
        let total: u64 = self.pools.iter().map(Pool::count).sum();
        let start = u64::from_str_radix(&self.suffix, 16).unwrap_or(0).checked_rem(total).unwrap_or(0);
        (0..total).filter_map(move |step| nth(&self.pools, (start + step) % total))
    }

    /// The same of IPv6. Pools are as good as endless: so many are looked at.
    pub(crate) fn candidates6(&self) -> impl Iterator<Item = Subnet6> + '_ {
        self.pools6.iter().flat_map(|pool| {
            let count = 1u128 << u32::from(pool.size - pool.base.prefix()).min(CANDIDATES6_MAX_BITS);
            (0..count).map(|index| Subnet6::new(pool.base.nth(index << (128 - u32::from(pool.size))), pool.size))
        })
    }
}

impl Pool {
    /// How many networks it holds.
    fn count(&self) -> u64 {
        1 << self.size.saturating_sub(self.base.prefix())
    }
}

impl std::str::FromStr for Pool {
    type Err = Error;

    /// Docker's form `base=10.10.0.0/16,size=24`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadPool { text: text.to_owned() };
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.trim().split_once('=').ok_or_else(bad)? {
                ("base", value) => base = Some(value.parse::<Subnet>()?.network()),
                ("size", value) => size = Some(value.parse::<u8>().map_err(|_| bad())?),
                _ => return Err(bad()),
            }
        }
        let (base, size) = base.zip(size).ok_or_else(bad)?;
        // A network needs a gateway and a container besides its first and last address.
        if size >= base.prefix() && size <= 30 { Ok(Self { base, size }) } else { Err(bad()) }
    }
}

impl Pool6 {
    /// Whether the text is about IPv6, so that it is not read as a [`Pool`].
    pub fn is_meant_by(text: &str) -> bool {
        text.split(',').any(|part| part.trim().strip_prefix("base=").is_some_and(|base| base.contains(':')))
    }
}

impl std::str::FromStr for Pool6 {
    type Err = Error;

    /// Docker's form `base=fd00:1:2::/48,size=64`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadPool { text: text.to_owned() };
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.trim().split_once('=').ok_or_else(bad)? {
                ("base", value) => base = Some(value.parse::<Subnet6>()?.network()),
                ("size", value) => size = Some(value.parse::<u8>().map_err(|_| bad())?),
                _ => return Err(bad()),
            }
        }
        let (base, size) = base.zip(size).ok_or_else(bad)?;
        if size >= base.prefix() && size <= 120 && base.prefix() > 0 { Ok(Self { base, size }) } else { Err(bad()) }
    }
}

/// A range of unique local addresses that this machine and engine have for themselves (RFC 4193): the digits in the
/// middle follow from the machine's id.
fn default_pool6(suffix: &str) -> Pool6 {
    let machine = std::fs::read_to_string(MACHINE_ID).or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname")).unwrap_or_default();
    let hash = fnv1a(format!("{}/{suffix}", machine.trim()).as_bytes(), 6);
    let base = 0xfd_u128 << 120 | u128::from(hash & 0xff_ffff_ffff) << 80;
    Pool6 { base: Subnet6::new(base.into(), 48), size: 64 }
}

/// Ranges that others seldom use: above Docker's first ones, then private ranges, 544 networks in all.
fn default_pools() -> Vec<Pool> {
    let pool = |address: [u8; 4], prefix, size| Pool { base: Subnet::new(address.into(), prefix), size };
    vec![pool([172, 30, 0, 0], 15, 20), pool([10, 192, 0, 0], 12, 20), pool([192, 168, 0, 0], 16, 24)]
}

fn nth(pools: &[Pool], mut index: u64) -> Option<Subnet> {
    for pool in pools {
        if index < pool.count() {
            let offset = index.checked_shl(u32::from(32 - pool.size))? as u32;
            return Some(Subnet::new(pool.base.first().to_bits().wrapping_add(offset).into(), pool.size));
        }
        index -= pool.count();
    }
    None
}

/// 8 hexadecimal digits that stand for a path (FNV-1a, folded).
fn digits(path: &Path) -> String {
    let hash = fnv1a(path.as_os_str().as_encoded_bytes(), 0);
    format!("{:08x}", (hash ^ (hash >> 32)) as u32)
}

/// A stable hash without secrets: names must be the same at each start.
pub(crate) fn fnv1a(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_the_data_root_and_fit() {
        let default = NetConfig::derive(Path::new("/var/lib/cais"), Path::new("/run/cais"));
        assert_eq!((default.bridge.as_str(), default.table.as_str()), ("cais0", "cais"));
        assert_eq!(default.candidates().next().unwrap().to_string(), "172.30.0.0/20");
        assert_eq!(default.candidates().count(), 544);
        let (one, other) = (NetConfig::derive(Path::new("/a"), Path::new("/r")), NetConfig::derive(Path::new("/b"), Path::new("/r")));
        assert_ne!(one.bridge, other.bridge);
        assert!(one.bridge.len() <= 15 && one.suffix.len() == 8);
        assert_ne!(one.candidates().next(), other.candidates().next());
        assert_eq!(one.candidates().count(), 544);
    }

    #[test]
    fn pools_parse() {
        let pool: Pool = "base=10.10.3.0/16,size=24".parse().unwrap();
        assert_eq!((pool.base.to_string().as_str(), pool.size), ("10.10.0.0/16", 24));
        for bad in
            ["", "base=10.0.0.0/16", "base=10.0.0.0/16,size=8", "base=10.0.0.0/16,size=31", "base=x,size=24", "base=10.0.0.0/8,size=24,a=b"]
        {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
        let pool: Pool6 = "base=fd00:1:2:3::/48,size=64".parse().unwrap();
        assert_eq!((pool.base.to_string().as_str(), pool.size), ("fd00:1:2::/48", 64));
        assert!(Pool6::is_meant_by("size=64,base=fd00::/48") && !Pool6::is_meant_by("base=10.0.0.0/8,size=24"));
        for bad in ["base=fd00::/48", "base=fd00::/48,size=47", "base=fd00::/48,size=121", "base=::/0,size=64", "base=10.0.0.0/8,size=24"] {
            assert!(bad.parse::<Pool6>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_pools_are_the_machines_own() {
        let config = NetConfig::derive(Path::new("/a"), Path::new("/r"));
        let other = NetConfig::derive(Path::new("/b"), Path::new("/r"));
        let first = config.candidates6().next().unwrap();
        assert!(first.to_string().starts_with("fd") && first.prefix() == 64, "{first}");
        assert_ne!(Some(first), other.candidates6().next());
        assert_eq!(config.candidates6().count(), 1 << 16);
        assert_eq!(first.first().segments()[3] + 1, config.candidates6().nth(1).unwrap().first().segments()[3]);
    }
}
