//! Engine API versions: `1.41`, compared by number.

use std::fmt;
use std::str::FromStr;

/// A version of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

/// A text that is not a version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an API version: expected for example 1.41")]
pub struct InvalidVersion(String);

impl ApiVersion {
    /// The version that this client speaks by itself.
    pub const OWN: Self = Self::new(1, 51);

    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    pub(crate) fn to_bits(self) -> u32 {
        u32::from(self.major) << 16 | u32::from(self.minor)
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self { major: (bits >> 16) as u16, minor: (bits & 0xffff) as u16 }
    }
}

impl FromStr for ApiVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let parsed = text
            .trim_start_matches('v')
            .split_once('.')
            .and_then(|(major, minor)| Some(Self::new(major.parse().ok()?, minor.parse().ok()?)));
        parsed.ok_or_else(|| InvalidVersion(text.to_owned()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let parse = |text: &str| text.parse::<ApiVersion>().expect("parses");
        assert!(parse("1.9") < parse("1.41"));
        assert_eq!(parse("v1.51"), ApiVersion::OWN);
        assert_eq!(ApiVersion::from_bits(parse("1.24").to_bits()).to_string(), "1.24");
        assert!("1".parse::<ApiVersion>().is_err());
        assert!("1.x".parse::<ApiVersion>().is_err());
    }
}
