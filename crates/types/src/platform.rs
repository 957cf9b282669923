//! The platform an image is for: operating system, architecture and variant, with Docker's spellings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Classify, ErrorKind};

/// `os/architecture[/variant]`, normalised: `x86_64` is `amd64`, `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The processor architecture in Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The architecture's variant, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system's version; only Windows images have one.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// A text that is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is an invalid component of {1:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\"")]
pub struct InvalidPlatform(String, String);

impl Classify for InvalidPlatform {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn hint(&self) -> Option<String> {
        Some("write a platform as os/architecture or os/architecture/variant, such as linux/amd64".to_owned())
    }
}

impl Platform {
    /// A Linux platform of this architecture.
    pub fn linux(architecture: &str) -> Self {
        let (architecture, variant) = normalise(architecture, None);
        Self { architecture, os: "linux".to_owned(), variant, os_version: None, os_features: Vec::new() }
    }

    /// The platform that this program was built for and runs on.
    pub fn host() -> Self {
        Self::linux(std::env::consts::ARCH)
    }

    /// The same platform in the normal spelling, as descriptors in the wild may use others.
    pub fn normalised(&self) -> Self {
        let (architecture, variant) = normalise(&self.architecture, self.variant.as_deref());
        Self { architecture, variant, os: self.os.to_lowercase(), ..self.clone() }
    }

    /// How well an image for `self` serves someone who wants `wanted`: `None` if not at all, else the greater the better.
    ///
    /// An older ARM variant runs on a newer one; an image without a variant serves every variant, but less well than the very one.
    pub fn suits(&self, wanted: &Self) -> Option<u32> {
        let (have, want) = (self.normalised(), wanted.normalised());
        if have.os != want.os || have.architecture != want.architecture {
            return None;
        }
        match (level(have.variant.as_deref()), level(want.variant.as_deref())) {
            (have, want) if have == want => Some(100),
            (None, _) => Some(1),
            (Some(have), Some(want)) if have < want => Some(1 + have),
            (Some(1), None) => Some(50),
            _ => None,
        }
    }
}

fn level(variant: Option<&str>) -> Option<u32> {
    variant.and_then(|variant| variant.strip_prefix('v')).and_then(|digits| digits.parse().ok())
}

fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_lowercase);
    match (architecture.to_lowercase().as_str(), variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64".to_owned(), None),
        ("x86_64" | "x86-64" | "amd64", _) => ("amd64".to_owned(), variant),
        ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64".to_owned(), None),
        ("aarch64" | "arm64", _) => ("arm64".to_owned(), variant),
        ("armhf", _) => ("arm".to_owned(), Some("v7".to_owned())),
        ("armel", _) => ("arm".to_owned(), Some("v6".to_owned())),
        ("arm", None | Some("7")) => ("arm".to_owned(), Some("v7".to_owned())),
        ("arm", Some(digit @ ("5" | "6" | "8"))) => ("arm".to_owned(), Some(format!("v{digit}"))),
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386".to_owned(), None),
        (other, _) => (other.to_owned(), variant),
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    /// `os/arch/variant`, `os/arch`, or a single word that is either an operating system or an architecture.
    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &str| !part.is_empty() && part.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter));
        if let Some(bad) = parts.iter().find(|part| !word(part)) {
            return Err(InvalidPlatform((*bad).to_owned(), text.to_owned()));
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (*os, std::env::consts::ARCH, None),
            [architecture] => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(InvalidPlatform(text.to_owned(), text.to_owned())),
        };
        let (architecture, variant) = normalise(architecture, variant);
        Ok(Self { os: os.to_lowercase(), architecture, variant, os_version: None, os_features: Vec::new() })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(out, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect(text)
    }

    #[test]
    fn spellings_are_normalised() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(platform(text).to_string(), normal);
        }
        assert!("linux/".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
        assert!("linux/am d".parse::<Platform>().is_err());
    }

    #[test]
    fn the_best_variant_is_preferred() {
        let want = platform("linux/arm/v7");
        let v6 = platform("linux/arm/v6").suits(&want);
        let v7 = want.suits(&want);
        assert!(v7 > v6 && v6.is_some());
        assert_eq!(platform("linux/arm/v8").suits(&want), None);
        assert_eq!(platform("linux/amd64").suits(&want), None);
        assert_eq!(platform("windows/amd64").suits(&platform("linux/amd64")), None);
        assert!(platform("linux/arm64/v8").suits(&platform("linux/arm64")).is_some());
    }
}
