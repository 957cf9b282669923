//! Where etcd is, who may use it, and what this host calls itself there.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use types::Id;

use crate::{Error, Result};

/// How long a host's endpoints outlive its last sign of life by default, in seconds.
pub const TTL_SECS_DEFAULT: u32 = 30;
/// Below this a busy moment would cost a host its endpoints.
pub const TTL_SECS_MIN: u32 = 5;
const TTL_SECS_MAX: u32 = 3600;
const PORT_DEFAULT: u16 = 2379;
const FILE_LEN_MAX: u64 = 1 << 20;
const MEMBERS_MAX: usize = 16;
const PREFIX_DEFAULT: &str = "/cais";

/// What one engine has to know to take part.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store.
    pub store: Store,
    /// Certificates, where the store is `etcds://`.
    pub tls: Tls,
    /// A user of etcd and its password, where etcd asks for one.
    pub user: Option<(String, String)>,
    /// Who this engine is: the same at each start.
    pub host: Id,
    /// What people call this host.
    pub name: String,
    /// The address under which the other hosts reach this one.
    pub advertise: IpAddr,
    /// How long this host's endpoints outlive its last sign of life, in seconds.
    pub ttl_secs: u32,
}

impl Config {
    /// Checks what can be checked without etcd.
    pub fn check(&self) -> Result<()> {
        let bad = |reason: &str| Error::BadConfig { reason: reason.to_owned() };
        if !(TTL_SECS_MIN..=TTL_SECS_MAX).contains(&self.ttl_secs) {
            return Err(bad(&format!("a time to live of {TTL_SECS_MIN} to {TTL_SECS_MAX} seconds is expected")));
        }
        if self.advertise.is_unspecified() || self.advertise.is_multicast() {
            return Err(bad(&format!("{} is no address that other hosts can reach", self.advertise)));
        }
        if !self.store.tls && (self.tls.ca.is_some() || self.tls.cert.is_some() || self.tls.key.is_some()) {
            return Err(bad("certificates are given, but the store is etcd://; write etcds:// for TLS"));
        }
        if self.store.tls && self.tls.ca.is_none() {
            return Err(bad("etcds:// needs the file with the authority that signed etcd's certificates"));
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(bad("a client's certificate and its key go together"));
        }
        Ok(())
    }
}

/// Texts in PEM format.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Tls {
    /// Who signed etcd's certificates. Needed for `etcds://`.
    pub ca: Option<String>,
    /// This client's certificate.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

impl Tls {
    /// Reads the files.
    pub fn read(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<Self> {
        let read = |path: Option<&Path>| path.map(read_pem).transpose();
        Ok(Self { ca: read(ca)?, cert: read(cert)?, key: read(key)? })
    }
}

/// The key is nobody's to read.
impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tls(ca: {}, cert: {}, key: {})", self.ca.is_some(), self.cert.is_some(), self.key.is_some())
    }
}

fn read_pem(path: &Path) -> Result<String> {
    let failed = |source| Error::Certificate { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The members of an etcd cluster: `etcd://host:2379,host2:2379/prefix`, with `etcds://` for TLS. Port and prefix may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Name or address, and port, of each member; at least one.
    pub members: Vec<(String, u16)>,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// What the keys of one fleet of hosts begin with, without a slash at the end.
    pub prefix: String,
}

impl FromStr for Store {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::BadStore { text: text.to_owned(), reason: reason.to_owned() };
        let (tls, rest) = match text.split_once("://") {
            Some(("etcd", rest)) => (false, rest),
            Some(("etcds", rest)) => (true, rest),
            _ => return Err(bad("etcd://HOST[:PORT][,HOST[:PORT]…][/PREFIX] is expected, or etcds:// for TLS")),
        };
        let (members, prefix) =
            rest.split_once('/').map_or((rest, PREFIX_DEFAULT.to_owned()), |(members, prefix)| (members, format!("/{prefix}")));
        let prefix = prefix.trim_end_matches('/').to_owned();
        if !prefix.starts_with('/') || prefix.len() > 200 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("the prefix of the keys is one or more words after slashes"));
        }
        let members = members.split(',').map(|member| split_port(member).ok_or_else(|| bad(&format!("{member:?} is no host with a port"))));
        let members = members.collect::<Result<Vec<_>>>()?;
        if members.len() > MEMBERS_MAX {
            return Err(bad(&format!("more than {MEMBERS_MAX} members")));
        }
        Ok(Self { members, tls, prefix })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.tls { "etcds://" } else { "etcd://" })?;
        for (index, (host, port)) in self.members.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(out, "{comma}{open}{host}{close}:{port}")?;
        }
        if self.prefix == PREFIX_DEFAULT { Ok(()) } else { out.write_str(&self.prefix) }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")).filter(|port| !port.is_empty()))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letters) {
        return None;
    }
    let port = port.map_or(Some(PORT_DEFAULT), |port| port.parse().ok().filter(|port| *port != 0))?;
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_written() {
        for (text, written) in [
            ("etcd://10.0.0.1", "etcd://10.0.0.1:2379"),
            ("etcd://a:1,b:2", "etcd://a:1,b:2"),
            ("etcds://etcd.example.org/fleet/two/", "etcds://etcd.example.org:2379/fleet/two"),
            ("etcd://[fd00::1]:4001,[fd00::2]", "etcd://[fd00::1]:4001,[fd00::2]:2379"),
        ] {
            let store: Store = text.parse().expect(text);
            assert_eq!(store.to_string(), written);
            assert_eq!(written.parse::<Store>().expect(written), store);
        }
    }

    #[test]
    fn wrong_stores_say_what_is_expected() {
        for text in [
            "",
            "10.0.0.1:2379",
            "consul://a",
            "etcd://",
            "etcd://a:0",
            "etcd://a:70000",
            "etcd://a,,b",
            "etcd://[::1",
            "etcd://a b",
            "etcd:///x",
        ] {
            let error = text.parse::<Store>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
