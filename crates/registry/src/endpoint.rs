//! Where a registry is reached, and whether in the clear.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use types::reference::DEFAULT_DOMAIN;

/// The host that serves the default registry.
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// How long it is believed what an insecure registry speaks.
const SCHEME_LIFETIME: Duration = Duration::from_secs(600);
/// How long a mirror that failed is left alone.
const MIRROR_REST: Duration = Duration::from_secs(60);

/// Chooses the URL for a registry's domain.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// Bases that are given, by domain.
    pub fixed: BTreeMap<String, String>,
    /// Domains (`host`, `host:port`) and address ranges whose certificates do not matter, or that speak plain HTTP.
    pub insecure: Vec<String>,
    /// Bases that are asked before the registry itself, by domain.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// What insecure registries were found to speak.
    schemes: Mutex<HashMap<String, (&'static str, Instant)>>,
    resting: Mutex<HashMap<String, Instant>>,
}

impl Endpoints {
    pub fn new(fixed: BTreeMap<String, String>, insecure: Vec<String>, mirrors: BTreeMap<String, Vec<String>>) -> Self {
        Self { fixed, insecure, mirrors, ..Self::default() }
    }

    /// The base URL of a registry, without a slash at its end.
    pub fn base(&self, domain: &str) -> String {
        if let Some(base) = self.fixed.get(domain) {
            return base.trim_end_matches('/').to_owned();
        }
        let scheme = match self.is_insecure(domain) {
            true => self.scheme(domain).unwrap_or("http"),
            false => "https",
        };
        format!("{scheme}://{}", host_name(domain))
    }

    /// Where a registry of unknown speech is to be tried, in this order; nothing where it is known.
    pub fn untried(&self, domain: &str) -> Vec<(&'static str, String)> {
        if self.fixed.contains_key(domain) || !self.is_insecure(domain) || self.scheme(domain).is_some() {
            return Vec::new();
        }
        // Without a port the two are different services, and the protected one is the one that is meant.
        let order = if has_port(domain) { ["http", "https"] } else { ["https", "http"] };
        order.into_iter().map(|scheme| (scheme, format!("{scheme}://{}", host_name(domain)))).collect()
    }

    /// Remembers what a registry speaks.
    pub fn learn(&self, domain: &str, scheme: &'static str) {
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.retain(|_, (_, since)| since.elapsed() < SCHEME_LIFETIME);
        schemes.insert(domain.to_owned(), (scheme, Instant::now()));
    }

    /// A registry that failed may speak something else by now.
    pub fn forget(&self, domain: &str) {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).remove(domain);
    }

    fn scheme(&self, domain: &str) -> Option<&'static str> {
        let schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.get(domain).filter(|(_, since)| since.elapsed() < SCHEME_LIFETIME).map(|(scheme, _)| *scheme)
    }

    /// The mirrors of a domain that have not failed a moment ago.
    pub fn mirrors(&self, domain: &str) -> Vec<String> {
        let Some(mirrors) = self.mirrors.get(domain) else { return Vec::new() };
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let awake = |mirror: &&String| resting.get(*mirror).is_none_or(|since| since.elapsed() >= MIRROR_REST);
        mirrors.iter().filter(awake).map(|mirror| mirror.trim_end_matches('/').to_owned()).collect()
    }

    /// Leaves a mirror alone for a while, or all of a domain.
    pub fn rest(&self, domain: &str, mirror: Option<&str>) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        for base in self.mirrors.get(domain).into_iter().flatten() {
            if mirror.is_none_or(|mirror| base.trim_end_matches('/') == mirror) {
                resting.insert(base.clone(), Instant::now());
            }
        }
    }

    /// Whether plain HTTP, and any certificate, will do: on loopback, and where the settings say so.
    pub fn is_insecure(&self, domain: &str) -> bool {
        let host = host_of(domain);
        let on_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        on_loopback || self.is_listed(domain)
    }

    /// Whether the settings call a registry insecure.
    pub fn is_listed(&self, domain: &str) -> bool {
        let host = host_of(domain);
        let address = host.parse::<IpAddr>().ok();
        self.insecure.iter().any(|entry| match entry.split_once('/') {
            Some((network, bits)) => address.is_some_and(|address| is_in(address, network, bits)),
            None => entry == domain || entry == host,
        })
    }
}

/// The host that serves a domain.
fn host_name(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN { DEFAULT_HOST } else { domain }
}

fn has_port(domain: &str) -> bool {
    domain.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()) && !port.is_empty())
}

/// `host:port` of a URL; the usual port of its scheme where it names none.
pub(crate) fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// The host of `host`, `host:port`, `[address]` or `[address]:port`.
fn host_of(domain: &str) -> &str {
    match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => domain.split_once(':').map_or(domain, |(host, _)| host),
    }
}

fn is_in(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_follow_the_domain() {
        let insecure = ["plain.example", "a.example:5000", "10.0.0.0/8"].map(str::to_owned).to_vec();
        let mut endpoints = Endpoints { insecure, ..Endpoints::default() };
        for (domain, base) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("ghcr.example", "https://ghcr.example"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.9", "http://127.0.0.9"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("plain.example:81", "http://plain.example:81"),
            ("a.example:5000", "http://a.example:5000"),
            ("a.example", "https://a.example"),
            ("10.1.2.3:5000", "http://10.1.2.3:5000"),
            ("11.1.2.3", "https://11.1.2.3"),
        ] {
            assert_eq!(endpoints.base(domain), base);
        }
        endpoints.fixed.insert("docker.io".to_owned(), "http://127.0.0.1:1/".to_owned());
        assert_eq!(endpoints.base("docker.io"), "http://127.0.0.1:1");
        assert!(endpoints.untried("docker.io").is_empty() && endpoints.untried("ghcr.example").is_empty());
        assert_eq!(endpoints.untried("127.0.0.1:5000").iter().map(|(scheme, _)| *scheme).collect::<Vec<_>>(), ["http", "https"]);
        assert_eq!(endpoints.untried("plain.example")[0], ("https", "https://plain.example".to_owned()));
        endpoints.learn("127.0.0.1:5000", "https");
        assert_eq!(endpoints.base("127.0.0.1:5000"), "https://127.0.0.1:5000");
        assert!(endpoints.untried("127.0.0.1:5000").is_empty());
    }

    #[test]
    fn a_mirror_that_failed_rests() {
        let mirrors = BTreeMap::from([("docker.io".to_owned(), vec!["https://a.example/".to_owned(), "https://b.example".to_owned()])]);
        let endpoints = Endpoints::new(BTreeMap::new(), Vec::new(), mirrors);
        assert_eq!(endpoints.mirrors("docker.io"), ["https://a.example", "https://b.example"]);
        endpoints.rest("docker.io", Some("https://a.example"));
        assert_eq!(endpoints.mirrors("docker.io"), ["https://b.example"]);
        endpoints.rest("docker.io", None);
        assert!(endpoints.mirrors("docker.io").is_empty() && endpoints.mirrors("other.example").is_empty());
    }
}
