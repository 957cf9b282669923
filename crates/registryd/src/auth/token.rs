//! Tokens: short-lived, signed by the registry for itself (a JSON web token with HMAC-SHA256, RFC 7515 and 7519).

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durable::write_atomic;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Access, Action};
use crate::name::RepositoryName;
use crate::{Error, Result};

/// How long a token holds.
pub const TOKEN_TIME: Duration = Duration::from_secs(300);
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const KEY_BYTES: usize = 32;
const BLOCK_BYTES: usize = 64;
/// A longer one is none of ours.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose it is.
    #[serde(rename = "sub")]
    pub user: Option<String>,
    /// What it is for.
    pub access: Vec<Access>,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// When it ends.
    #[serde(rename = "exp")]
    pub expires: i64,
}

impl Grant {
    /// A grant from now on.
    pub fn new(user: Option<String>, access: Vec<Access>) -> Self {
        let issued = Timestamp::now().as_second();
        Self { user, access, issued, expires: issued + TOKEN_TIME.as_secs() as i64 }
    }

    /// Whether it is for this.
    pub fn covers(&self, repository: &RepositoryName, action: Action) -> bool {
        let fits = |access: &Access| {
            let named = access.kind == "repository" && access.name == repository.as_str();
            named && access.actions.iter().any(|word| word == action.word() || word == "*")
        };
        self.access.iter().any(fits)
    }
}

/// The key that signs.
pub struct Keys([u8; KEY_BYTES]);

impl Keys {
    /// Reads the key, or makes one: tokens hold across restarts.
    pub fn open(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let key = bytes
                    .try_into()
                    .map_err(|_| Error::Configuration(format!("{} is no key: remove it, and a new one is made", path.display())))?;
                return Ok(Self(key));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", path, error)),
        }
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|error| Error::io("draw a key for", path, std::io::Error::other(error)))?;
        write_atomic(path, &key, 0o600)?;
        Ok(Self(key))
    }

    /// A token.
    pub fn sign(&self, grant: &Grant) -> String {
        let body = serde_json::to_string(grant).unwrap_or_default();
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(body));
        let mark = URL_SAFE_NO_PAD.encode(hmac_sha256(&self.0, text.as_bytes()));
        format!("{text}.{mark}")
    }

    /// What a token says, if it is one of this registry's that still holds.
    pub fn read(&self, token: &str) -> Option<Grant> {
        let (text, mark) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_BYTES_MAX)?;
        let mark = URL_SAFE_NO_PAD.decode(mark).ok()?;
        if !equal(&mark, &hmac_sha256(&self.0, text.as_bytes())) {
            return None;
        }
        let (header, body) = text.split_once('.')?;
        if URL_SAFE_NO_PAD.decode(header).ok()? != HEADER.as_bytes() {
            return None;
        }
        let grant: Grant = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        (Timestamp::now().as_second() < grant.expires).then_some(grant)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Keys(…)")
    }
}

/// RFC 2104.
fn hmac_sha256(key: &[u8; KEY_BYTES], text: &[u8]) -> [u8; 32] {
    let padded = |with: u8| {
        let mut block = [with; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// Compares in a time that does not depend on where the difference is.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_the_standard() {
        // RFC 4231, test case 3, whose key of 20 bytes is padded with zeros.
        let mut key = [0; KEY_BYTES];
        key[..20].fill(0xaa);
        let mark: String = hmac_sha256(&key, &[0xdd; 50]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mark, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }

    #[test]
    fn tokens_are_read_until_they_end_and_only_unchanged() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let keys = Keys::open(&directory.path().join("key")).expect("makes");
        let access = Access::parse("repository:a/b:pull").into_iter().collect();
        let grant = Grant::new(Some("ann".to_owned()), access);
        let token = keys.sign(&grant);
        assert_eq!(Keys::open(&directory.path().join("key")).expect("reads").read(&token), Some(grant.clone()));
        assert_eq!(Keys::open(&directory.path().join("other")).expect("makes").read(&token), None);
        assert_eq!(keys.read(&token.replacen('.', "x.", 1)), None);
        assert_eq!(keys.read("a.b.c"), None);
        assert_eq!(keys.read(""), None);
        assert_eq!(keys.read(&keys.sign(&Grant { expires: grant.issued - 1, ..grant.clone() })), None);
        let repository = |name: &str| RepositoryName::parse(name).expect("name");
        assert!(grant.covers(&repository("a/b"), Action::Pull));
        assert!(!grant.covers(&repository("a/b"), Action::Push) && !grant.covers(&repository("a/c"), Action::Pull));
    }
}
