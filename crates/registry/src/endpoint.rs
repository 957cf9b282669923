//! Where a registry is reached, and whether in the clear.

use std::collections::BTreeMap;
use std::net::IpAddr;

use types::reference::DEFAULT_DOMAIN;

/// The host that serves the default registry.
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// Chooses the URL for a registry's domain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints {
    /// Bases that are given, by domain.
    pub fixed: BTreeMap<String, String>,
    /// Domains (`host`, `host:port`) and address ranges to which plain HTTP is spoken.
    pub insecure: Vec<String>,
}

impl Endpoints {
    /// The base URL of a registry, without a slash at its end.
    pub fn base(&self, domain: &str) -> String {
        if let Some(base) = self.fixed.get(domain) {
            return base.trim_end_matches('/').to_owned();
        }
        let host = if domain == DEFAULT_DOMAIN { DEFAULT_HOST } else { domain };
        let scheme = if self.is_insecure(domain) { "http" } else { "https" };
        format!("{scheme}://{host}")
    }

    /// Whether plain HTTP is spoken to the domain: on loopback, and where the settings say so.
    pub fn is_insecure(&self, domain: &str) -> bool {
        let host = host_of(domain);
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.insecure.iter().any(|entry| match entry.split_once('/') {
            Some((network, bits)) => address.is_some_and(|address| is_in(address, network, bits)),
            None => entry == domain || entry == host,
        })
    }
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
        let mut endpoints =
            Endpoints { insecure: ["plain.example", "a.example:5000", "10.0.0.0/8"].map(str::to_owned).to_vec(), ..Endpoints::default() };
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
    }
}
