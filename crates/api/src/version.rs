//! Versions of the Engine API: which are served, and the prefix of paths that chooses one.

use std::fmt;

/// A version, `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The version announced, and spoken where a path names none.
    pub const CURRENT: Self = Self::new(51);
    /// The oldest version served.
    pub const OLDEST: Self = Self::new(24);

    /// Version `1.minor`.
    pub const fn new(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    /// Whether it is `1.minor` or later.
    pub fn since(self, minor: u32) -> bool {
        self >= Self::new(minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// A version that is not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// Below [`Version::OLDEST`].
    #[error("client version {0} is too old. Minimum supported API version is {oldest}, please upgrade your client to a newer version", oldest = Version::OLDEST)]
    TooOld(Version),
    /// Above [`Version::CURRENT`].
    #[error("client version {0} is too new. Maximum supported API version is {current}", current = Version::CURRENT)]
    TooNew(Version),
}

/// Takes the version's prefix off a path's segments.
pub fn split<'a, 's>(segments: &'a [&'s str]) -> Result<(Version, &'a [&'s str]), Unserved> {
    let prefix = segments.split_first().and_then(|(first, rest)| Some((Version::parse(first.strip_prefix('v')?)?, rest)));
    match prefix {
        None => Ok((Version::CURRENT, segments)),
        Some((version, _)) if version < Version::OLDEST => Err(Unserved::TooOld(version)),
        Some((version, _)) if version > Version::CURRENT => Err(Unserved::TooNew(version)),
        Some(found) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_choose_a_version() {
        assert_eq!(split(&["v1.41", "info"]), Ok((Version::new(41), &["info"][..])));
        assert_eq!(split(&["info"]), Ok((Version::CURRENT, &["info"][..])));
        assert_eq!(split(&["volumes", "x"]), Ok((Version::CURRENT, &["volumes", "x"][..])));
        assert_eq!(split(&[]), Ok((Version::CURRENT, &[][..])));
    }

    #[test]
    fn others_are_refused_in_dockers_words() {
        let old = split(&["v1.1", "version"]).expect_err("old").to_string();
        assert_eq!(
            old,
            "client version 1.1 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        let new = split(&["v9.99", "version"]).expect_err("new").to_string();
        assert_eq!(new, "client version 9.99 is too new. Maximum supported API version is 1.51");
        assert!(Version::new(100) > Version::new(51) && Version::CURRENT.since(44) && !Version::new(41).since(42));
    }
}
