//! Names of repositories and tags, by the grammar of the distribution specification ("Pulling manifests").

use std::fmt;
use std::sync::Arc;

/// The longest name, as clients have it for host and name together.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A repository's name whose text has been checked: no path can be smuggled in through it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// Checks a name; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= NAME_BYTES_MAX && text.split('/').all(is_component)).then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|letter| word(letter) || matches!(letter, b'.' | b'-'))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(part: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    part.starts_with(is_plain)
        && part.ends_with(is_plain)
        && part.split(is_plain).all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|letter| letter == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "a/b", "a.b", "a__b", "a---b", "library/busybox", "0/1/2/3", &"a/b".repeat(85)] {
            assert!(RepositoryName::parse(good).is_some(), "{good}");
        }
        for bad in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".a", "a.", "A", "a b", "a..b", "a___b", "a_-b", "ä", "a\0", &"a".repeat(256)]
        {
            assert!(RepositoryName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "1.0", "_x", "A-b.c", &"a".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "é", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
