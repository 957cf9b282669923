//! Content digests: `algorithm:hex`, as the OCI image specification writes them ("Descriptors", section "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The hash functions that digests may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 digits: what images use.
    Sha256,
    /// SHA-512, 128 digits: allowed by the specification, rarely seen.
    Sha512,
}

impl Algorithm {
    /// The name as written before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest whose text has been checked: a known algorithm and exactly as many lower-case hexadecimal digits as it gives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no `algorithm:` before the digits, or other characters are where digits belong.
    #[error("invalid checksum digest format")]
    Format,
    /// The algorithm is none of those supported.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The number of digits does not fit the algorithm.
    #[error("invalid checksum digest length")]
    Length,
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

impl Digest {
    /// The digest of a finished SHA-256.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: to_hex(&hash) }
    }

    /// The digest of a finished SHA-512.
    pub fn from_sha512(hash: [u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hex: to_hex(&hash) }
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 digits, the form in which people see image ids.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn to_hex(bytes: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(HEX_DIGITS[usize::from(byte >> 4)] as char);
        text.push(HEX_DIGITS[usize::from(byte & 15)] as char);
    }
    text.into()
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (name, hex) = text.split_once(':').ok_or(InvalidDigest::Format)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "" => return Err(InvalidDigest::Format),
            _ => return Err(InvalidDigest::Algorithm),
        };
        if !hex.bytes().all(|digit| HEX_DIGITS.contains(&digit)) {
            return Err(InvalidDigest::Format);
        }
        if hex.len() != algorithm.hex_len() {
            return Err(InvalidDigest::Length);
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_parsed_strictly() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().map(|digest| digest.to_string()), Ok(good.clone()));
        assert_eq!(Digest::from_sha256([10; 32]).to_string(), good);
        assert_eq!(Digest::from_sha256([10; 32]).short(), "0a0a0a0a0a0a");
        for (bad, error) in [
            ("", InvalidDigest::Format),
            ("sha256", InvalidDigest::Format),
            (":00", InvalidDigest::Format),
            ("md5:00", InvalidDigest::Algorithm),
            ("sha256:00", InvalidDigest::Length),
            (&format!("sha256:{}", "A".repeat(64)), InvalidDigest::Format),
            (&format!("sha256:{}g", "a".repeat(63)), InvalidDigest::Format),
            (&format!("sha512:{}", "a".repeat(64)), InvalidDigest::Length),
            (&format!("sha256:{}/..", "a".repeat(61)), InvalidDigest::Format),
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(error), "{bad}");
        }
    }
}
