//! Patterns of repositories, in rights and quotas.

use std::fmt;

use crate::name::RepositoryName;

/// A repository's name with wildcards: `*` is any part between slashes, `**` is anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Checks a pattern; `None` when it could not fit any name.
    pub fn parse(text: &str) -> Option<Self> {
        let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '*' | '.' | '_' | '-' | '/');
        (!text.is_empty() && text.chars().all(good) && !text.starts_with('/') && !text.ends_with('/')).then(|| Self(text.to_owned()))
    }

    /// Whether a repository is meant.
    pub fn fits(&self, repository: &RepositoryName) -> bool {
        fits(self.0.as_bytes(), repository.as_str().as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Goes back only to the last wildcard of either kind, so that no pattern takes long.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut single: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[at..].starts_with(b"**") {
            (double, single) = (Some((at + 2, seen)), None);
            at += 2;
        } else if pattern[at..].starts_with(b"*") {
            single = Some((at + 1, seen));
            at += 1;
        } else if seen < name.len() && pattern.get(at) == Some(&name[seen]) {
            (at, seen) = (at + 1, seen + 1);
        } else if seen == name.len() && at == pattern.len() {
            return true;
        } else if let Some((next, from)) = single.filter(|(_, from)| *from < name.len() && name[*from] != b'/') {
            single = Some((next, from + 1));
            (at, seen) = (next, from + 1);
        } else if let Some((next, from)) = double.filter(|(_, from)| *from < name.len()) {
            (double, single) = (Some((next, from + 1)), None);
            (at, seen) = (next, from + 1);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b/c", true),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/*", "teams/app", false),
            ("team/**", "team/app/x", true),
            ("*/app", "team/app", true),
            ("*/app", "a/b/app", false),
            ("**/app", "a/b/app", true),
            ("a*c", "abbc", true),
            ("a*c*e", "abcde", true),
            ("**/x*y/**", "a/b/xzy/c", true),
            ("**/x*y/**", "a/b/xz/y/c", false),
        ] {
            let repository = RepositoryName::parse(name).expect(name);
            assert_eq!(Pattern::parse(pattern).expect(pattern).fits(&repository), expected, "{pattern} {name}");
        }
        for bad in ["", "/a", "a/", "A", "a b", "a?"] {
            assert!(Pattern::parse(bad).is_none(), "{bad}");
        }
    }
}
