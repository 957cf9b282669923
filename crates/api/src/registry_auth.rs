//! Credentials for registries, as clients give them with each request.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use engine::image::Credentials;
use hyper::HeaderMap;
use serde::Deserialize;

use crate::error::Failure;

const HEADER: &str = "x-registry-auth";
const ALL_HEADER: &str = "x-registry-config";
/// Clients differ in whether they pad.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
/// The domain of the registry that is meant where none is named.
const DEFAULT_DOMAIN: &str = "docker.io";

/// What a client knows of a user at a registry.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct AuthConfig {
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
    serveraddress: String,
}

impl AuthConfig {
    /// Who it is; nothing where nobody is named.
    pub fn credentials(self) -> Option<Credentials> {
        let found = Credentials {
            username: self.username,
            password: self.password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        };
        (found != Credentials::default()).then_some(found)
    }

    /// The domain of the registry: `https://host:port/v1/` and `host:port` mean the same.
    pub fn domain(&self) -> String {
        let address = self.serveraddress.trim();
        let address = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
        match address.split('/').next().unwrap_or_default() {
            "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN.to_owned(),
            domain => domain.to_owned(),
        }
    }
}

/// The credentials in a request's headers.
pub fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>, Failure> {
    let Some(value) = headers.get(HEADER).filter(|value| !value.is_empty()) else { return Ok(None) };
    let bad = || Failure::bad("invalid X-Registry-Auth header: base64url-encoded JSON is expected");
    let text = BASE64.decode(value.as_bytes()).map_err(|_| bad())?;
    let config: Option<AuthConfig> = serde_json::from_slice(&text).map_err(|_| bad())?;
    Ok(config.unwrap_or_default().credentials())
}

/// The credentials of several registries, by domain, as builds are given them.
pub fn all_credentials(headers: &HeaderMap) -> Result<BTreeMap<String, Credentials>, Failure> {
    let Some(value) = headers.get(ALL_HEADER).filter(|value| !value.is_empty()) else { return Ok(BTreeMap::new()) };
    let bad = || Failure::bad("invalid X-Registry-Config header: base64url-encoded JSON is expected");
    let text = BASE64.decode(value.as_bytes()).map_err(|_| bad())?;
    let configs: Option<BTreeMap<String, AuthConfig>> = serde_json::from_slice(&text).map_err(|_| bad())?;
    let mut all = BTreeMap::new();
    for (address, mut config) in configs.unwrap_or_default() {
        if config.serveraddress.is_empty() {
            config.serveraddress = address;
        }
        let domain = config.domain();
        all.extend(config.credentials().map(|credentials| (domain, credentials)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_padded_or_not() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text.parse().expect("a header"));
            credentials(&headers)
        };
        let expected = Some(Credentials::password("a", "b?"));
        assert_eq!(with("eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImI_In0=").expect("padded"), expected);
        assert_eq!(with("eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImI_In0").expect("unpadded"), expected);
        assert_eq!(with("e30=").expect("empty"), None);
        assert_eq!(with("bnVsbA==").expect("null"), None);
        assert_eq!(credentials(&HeaderMap::new()).expect("absent"), None);
        let token = with("eyJpZGVudGl0eXRva2VuIjoidCJ9").expect("a token").expect("somebody");
        assert_eq!((token.identity_token.as_str(), token.password.as_str()), ("t", ""));
        for bad in ["{}", "e30*", "WzFd"] {
            assert_eq!(with(bad).expect_err(bad).status.as_u16(), 400);
        }
    }

    #[test]
    fn addresses_name_a_domain() {
        for (address, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://127.0.0.1:5000/", "127.0.0.1:5000"),
        ] {
            assert_eq!(AuthConfig { serveraddress: address.to_owned(), ..AuthConfig::default() }.domain(), domain);
        }
    }
}
