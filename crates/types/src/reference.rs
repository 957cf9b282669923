//! Image references as people type them, read by Docker's rules (the grammar of the `distribution/reference` specification).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, InvalidDigest};
use crate::error::{Classify, ErrorKind};

/// The registry meant when a reference names none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// Another name of it, still seen in old references.
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// Where the default registry keeps repositories without a user.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag meant when a reference names neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const NAME_LEN_MAX: usize = 255;
const TAG_LEN_MAX: usize = 128;

/// A normalised reference: registry domain, repository path, and a tag, a digest, both or neither.
///
/// `busybox` is `docker.io/library/busybox`; no tag is implied until [`ImageRef::with_default_tag`].
/// `Display` and serde use the canonical form; [`ImageRef::familiar`] is what people are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not a reference, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The text does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has capital letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hexadecimal digits could be meant as an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The repository's name is too long.
    #[error("repository name must not be more than {NAME_LEN_MAX} characters")]
    TooLong,
    /// What follows the `@` is no digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl Classify for InvalidReference {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

impl ImageRef {
    /// The registry's host, with its port if there is one: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether neither tag nor digest is given.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The full name of the repository: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name of the repository as people write it: `busybox`, `user/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // Without its prefix, `library/a/b` would be read as the repository `a/b`.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it: `busybox:latest`, `app@sha256:…`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same reference with the tag `latest` if it has neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest. The tag is checked.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Format);
        }
        Ok(Self { domain: self.domain.clone(), path: self.path.clone(), tag: Some(tag.to_owned()), digest: None })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    /// The same repository without tag and digest.
    pub fn without_suffix(&self) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: None }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl FromStr for ImageRef {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::Identifier(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if path.bytes().any(|letter| letter.is_ascii_uppercase()) {
            return Err(InvalidReference::Uppercase(path.to_owned()));
        }
        if !is_domain(domain) || !is_path(path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Format);
        }
        let digest = digest.map(parse_digest).transpose()?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
        if path.len() > NAME_LEN_MAX {
            return Err(InvalidReference::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

/// The first component is a registry if it looks like a host: a dot, a port, a capital letter, or `localhost`.
fn split_domain(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN, text);
    };
    let is_host = first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|letter| letter.is_ascii_uppercase());
    match (is_host, first) {
        (true, LEGACY_DEFAULT_DOMAIN) => (DEFAULT_DOMAIN, rest),
        (true, _) => (first, rest),
        (false, _) => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|letter| letter.is_ascii_hexdigit() || letter == b':') {
                return false;
            }
            (None, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("")) })
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let good_port = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()));
    good_port && host.is_none_or(|host| host.split('.').all(is_domain_component))
}

fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Letters and digits, separated by one dot, one or two underscores, or any number of dashes.
fn is_path_component(part: &str) -> bool {
    let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().copied().is_some_and(is_plain) || !bytes.last().copied().is_some_and(is_plain) {
        return false;
    }
    let mut separators = part.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    separators.all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|letter| letter == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= TAG_LEN_MAX
        && bytes.first().copied().is_some_and(word)
        && bytes.iter().all(|&letter| word(letter) || letter == b'.' || letter == b'-')
}

/// The grammar first, as Docker does, so that rubbish after the `@` is "invalid reference format".
fn parse_digest(text: &str) -> Result<Digest, InvalidReference> {
    let (algorithm, hex) = text.split_once(':').ok_or(InvalidReference::Format)?;
    let good_name = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|letter| letter.is_ascii_alphabetic()) && part.bytes().all(|letter| letter.is_ascii_alphanumeric())
    });
    if !good_name || hex.len() < 32 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(InvalidReference::Format);
    }
    Ok(text.parse()?)
}

impl TryFrom<String> for ImageRef {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.with_suffix(self.repository()))
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn canonical(text: &str) -> Result<String, String> {
        text.parse::<ImageRef>().map(|reference| reference.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn references_are_normalised_as_docker_does() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("user/app:v1", "docker.io/user/app:v1", "user/app:v1"),
            ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("host:5000/a/b__c-d.e", "host:5000/a/b__c-d.e", "host:5000/a/b__c-d.e"),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("[2001:db8::1]/app", "[2001:db8::1]/app", "[2001:db8::1]/app"),
            ("Registry/app", "Registry/app", "Registry/app"),
            ("example.com:443/x:T_1.-a", "example.com:443/x:T_1.-a", "example.com:443/x:T_1.-a"),
        ] {
            let reference: ImageRef = text.parse().expect(text);
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar));
        }
        let both = format!("busybox:1@sha256:{HEX}");
        assert_eq!(both.parse::<ImageRef>().expect("tag and digest").familiar(), both);
    }

    #[test]
    fn bad_references_are_refused_in_dockers_words() {
        for (text, message) in [
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a/../b", "invalid reference format"),
            ("host:port/a", "invalid reference format"),
            ("https://example.com/a", "invalid reference format"),
            ("a@sha256:123", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("Me/BB:v1", "invalid reference format: repository name (BB) must be lowercase"),
            ("Busybox", "invalid reference format: repository name (Busybox) must be lowercase"),
            (HEX, &format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")),
            (&format!("a@md5:{}", &HEX[..32]), "unsupported digest algorithm"),
            (&format!("a@sha256:{}", &HEX[..32]), "invalid checksum digest length"),
            (&"a".repeat(256), "repository name must not be more than 255 characters"),
            (&format!("a:{}", "t".repeat(129)), "invalid reference format"),
        ] {
            assert_eq!(canonical(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn default_tag_is_given_only_where_nothing_is_named() {
        let tagged = |text: &str| text.parse::<ImageRef>().expect(text).with_default_tag().familiar();
        assert_eq!(tagged("a"), "a:latest");
        assert_eq!(tagged("a:b"), "a:b");
        assert_eq!(tagged(&format!("a@sha256:{HEX}")), format!("a@sha256:{HEX}"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_never_panics_and_canonical_forms_are_fixed_points(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                prop_assert_eq!(reference.to_string().parse::<ImageRef>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<ImageRef>(), Ok(reference.clone()));
            }
        }

        #[test]
        fn well_formed_references_are_accepted(
            host in "[a-z][a-z0-9]{0,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/",
            path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,8}){0,2}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
        ) {
            let text = format!("{host}{path}{tag}");
            let reference = text.parse::<ImageRef>();
            prop_assert!(reference.is_ok(), "{} {:?}", text, reference);
        }
    }
}
