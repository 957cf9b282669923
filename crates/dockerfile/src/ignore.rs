//! `.dockerignore`: which files of a context are left out.
//!
//! The rules are those of Go's `patternmatcher`: a pattern is anchored at the context's root and covers what lies below what it names, `*` and `?` stop at
//! slashes, `**` does not, and the last pattern that fits decides: one with `!` brings back what an earlier one left out.

/// Patterns that one file may have.
const PATTERNS_MAX: usize = 10_000;
/// Bytes that a `.dockerignore` may have.
pub const IGNORE_BYTES_MAX: usize = 1 << 20;

/// The patterns of a `.dockerignore`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// The pattern's parts between slashes.
    parts: Vec<Vec<Token>>,
    exception: bool,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `**`, alone in its part.
    Deep,
    /// `*`.
    Any,
    /// `?`.
    One,
    Letter(char),
    /// `[a-z]`, `[^a]`.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

/// A pattern that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// `[` without `]`, or an escape at the end.
    #[error("syntax error in pattern {0:?}")]
    Syntax(String),
    /// A `!` that nothing follows.
    #[error("illegal exclusion pattern: \"!\"")]
    BareException,
    /// Too many.
    #[error("more than {PATTERNS_MAX} patterns")]
    TooMany,
}

impl Matcher {
    /// Reads a `.dockerignore`: lines that begin with `#` are comments.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
        Self::new(lines)
    }

    /// Reads patterns, one by one.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let mut matcher = Self::default();
        for text in patterns {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let (exception, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim()));
            if exception && rest.is_empty() {
                return Err(InvalidPattern::BareException);
            }
            let cleaned = crate::paths::clean(rest);
            let parts = cleaned.split('/').filter(|part| !part.is_empty());
            let parts =
                parts.map(|part| tokens(part).ok_or_else(|| InvalidPattern::Syntax(text.to_owned()))).collect::<Result<Vec<_>, _>>()?;
            // The root itself is never left out.
            if parts.is_empty() {
                continue;
            }
            if matcher.patterns.len() == PATTERNS_MAX {
                return Err(InvalidPattern::TooMany);
            }
            matcher.patterns.push(Pattern { parts, exception, text: text.to_owned() });
        }
        Ok(matcher)
    }

    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        self.patterns.iter().all(|pattern| pattern.exception)
    }

    /// Whether some pattern brings files back.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether the file or folder is left out, itself or with a folder above it. The path is relative, without a leading slash.
    pub fn excludes(&self, path: &str) -> bool {
        let parts: Vec<Vec<char>> =
            path.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.chars().collect()).collect();
        self.patterns.iter().fold(false, |excluded, pattern| {
            if pattern.exception != excluded {
                return excluded;
            }
            let fits = (1..=parts.len()).any(|len| pattern.fits(&parts[..len]));
            if fits { !pattern.exception } else { excluded }
        })
    }

    /// Whether nothing below a folder that is left out can be brought back, so that nobody has to look into it.
    pub fn excludes_all_below(&self, folder: &str) -> bool {
        if !self.excludes(folder) {
            return false;
        }
        let parts: Vec<Vec<char>> =
            folder.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.chars().collect()).collect();
        !self.patterns.iter().any(|pattern| pattern.exception && pattern.may_fit_below(&parts))
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.text.as_str())
    }
}

impl Pattern {
    fn fits(&self, path: &[Vec<char>]) -> bool {
        // Which prefixes of the path the parts so far can have consumed.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for (index, part) in self.parts.iter().enumerate() {
            let last = index + 1 == self.parts.len();
            if part.as_slice() == [Token::Deep] {
                // At the end `a/**` means what is below, not the folder itself.
                let mut any = false;
                let mut next = vec![false; path.len() + 1];
                for at in 0..=path.len() {
                    next[at] = any || (reached[at] && (!last || index == 0));
                    any |= reached[at];
                }
                reached = next;
                continue;
            }
            for at in (1..=path.len()).rev() {
                reached[at] = reached[at - 1] && part_fits(part, &path[at - 1]);
            }
            reached[0] = false;
        }
        reached[path.len()]
    }

    /// Whether a path below the folder may fit.
    fn may_fit_below(&self, folder: &[Vec<char>]) -> bool {
        let mut reached = vec![false; folder.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            if part.contains(&Token::Deep) {
                return reached.iter().any(|at| *at);
            }
            if reached[folder.len()] {
                return true;
            }
            for at in (1..=folder.len()).rev() {
                reached[at] = reached[at - 1] && part_fits(part, &folder[at - 1]);
            }
            reached[0] = false;
        }
        // What the pattern names is the folder or lies above: everything below is brought back with it.
        reached.iter().any(|at| *at)
    }
}

fn part_fits(part: &[Token], text: &[char]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for token in part {
        match token {
            Token::Any | Token::Deep => {
                for at in 1..=text.len() {
                    reached[at] |= reached[at - 1];
                }
            }
            _ => {
                for at in (1..=text.len()).rev() {
                    reached[at] = reached[at - 1] && letter_fits(token, text[at - 1]);
                }
                reached[0] = false;
            }
        }
    }
    reached[text.len()]
}

fn letter_fits(token: &Token, letter: char) -> bool {
    match token {
        Token::Letter(wanted) => *wanted == letter,
        Token::Class { ranges, negated } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter)) != *negated,
        _ => true,
    }
}

fn tokens(part: &str) -> Option<Vec<Token>> {
    if part == "**" {
        return Some(vec![Token::Deep]);
    }
    let mut found = Vec::new();
    let mut letters = part.chars().peekable();
    while let Some(letter) = letters.next() {
        let token = match letter {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Letter(letters.next()?),
            '[' => {
                let negated = letters.next_if(|letter| matches!(letter, '^' | '!')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut one = || match letters.next()? {
                        '\\' => letters.next(),
                        letter => Some(letter),
                    };
                    let low = one()?;
                    if low == ']' && !ranges.is_empty() {
                        break;
                    }
                    let high = if letters.next_if_eq(&'-').is_some() {
                        match letters.next()? {
                            '\\' => letters.next()?,
                            letter => letter,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Token::Class { ranges, negated }
            }
            letter => Token::Letter(letter),
        };
        found.push(token);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(text: &str) -> Matcher {
        Matcher::parse(text).expect(text)
    }

    #[test]
    fn patterns_fit_as_docker_s_do() {
        for (patterns, path, excluded) in [
            ("*", "f", true),
            ("*", "d/f", true),
            ("*.log", "a.log", true),
            ("*.log", "d/a.log", false),
            ("**/*.log", "a.log", true),
            ("**/*.log", "d/e/a.log", true),
            ("/a", "a", true),
            ("a/", "a/b", true),
            ("./a", "a", true),
            ("a/../b", "b", true),
            ("a", "ab", false),
            ("a", "a/b/c", true),
            ("a/*", "a", false),
            ("a/*", "a/b/c", true),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("**", "x/y", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a[b-d]", "ac", true),
            ("a[^b-d]", "ac", false),
            ("a[^b-d]", "ae", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("#c\na", "a", true),
            (" a ", "a", true),
            ("*\n!b", "b", false),
            ("*\n!b", "b/c", false),
            ("*\n!b/c", "b/c", false),
            ("*\n!b/c", "b/d", true),
            ("!b\n*", "b", true),
            ("**/*.log\n!sub/keep.log", "sub/keep.log", false),
            ("**/*.log\n!sub/keep.log", "sub/drop.log", true),
            ("a**b", "axxb", true),
            ("**/foo/bar", "x/foo/bar", true),
            ("**/foo/bar", "foo/bar", true),
            ("node_modules\n!node_modules/keep\nnode_modules/keep/x", "node_modules/keep/x", true),
        ] {
            assert_eq!(matcher(patterns).excludes(path), excluded, "{patterns:?} {path}");
        }
    }

    #[test]
    fn folders_are_skipped_only_when_nothing_comes_back() {
        assert!(matcher("node_modules").excludes_all_below("node_modules"));
        assert!(!matcher("*\n!src").excludes_all_below("src"));
        assert!(matcher("*\n!src").excludes_all_below("target"));
        assert!(!matcher("*\n!a/b/c").excludes_all_below("a"));
        assert!(!matcher("*\n!a/b/c").excludes_all_below("a/b"));
        assert!(matcher("*\n!a/b/c").excludes_all_below("a/x"));
        assert!(!matcher("*\n!**/keep").excludes_all_below("x"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Matcher::parse("!"), Err(InvalidPattern::BareException));
        assert_eq!(Matcher::parse("a["), Err(InvalidPattern::Syntax("a[".to_owned())));
        assert_eq!(Matcher::parse("a\\"), Err(InvalidPattern::Syntax("a\\".to_owned())));
        assert!(Matcher::parse("").expect("parses").is_empty());
        assert!(!matcher("/").excludes("a"));
        assert!(!matcher(".").excludes("a"));
    }
}
