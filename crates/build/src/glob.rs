//! Patterns of file names, by the rules of Go's `filepath.Match`.

/// Whether a name matches a pattern; nothing if the pattern is malformed. `*` and `?` do not match a slash.
pub fn matches(pattern: &[u8], name: &[u8]) -> Option<bool> {
    let (mut pattern, mut name) = (pattern, name);
    'chunks: while !pattern.is_empty() {
        let (star, chunk, rest) = next_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            return Some(!name.contains(&b'/'));
        }
        let fits = |left: &[u8]| left.is_empty() || !pattern.is_empty();
        if let Some(left) = one_chunk(chunk, name)?.filter(|left| fits(left)) {
            name = left;
            continue;
        }
        if star {
            // The earliest place will do: a later star can make up for what is left.
            for skipped in 0..name.iter().position(|&byte| byte == b'/').unwrap_or(name.len()) {
                if let Some(left) = one_chunk(chunk, &name[skipped + 1..])?.filter(|left| fits(left)) {
                    name = left;
                    continue 'chunks;
                }
            }
        }
        // The rest must be well-formed, too.
        while !pattern.is_empty() {
            let (_, chunk, rest) = next_chunk(pattern);
            one_chunk(chunk, b"")?;
            pattern = rest;
        }
        return Some(false);
    }
    Some(name.is_empty())
}

/// What comes before the next star: whether there were stars in front, the chunk, and the rest.
fn next_chunk(pattern: &[u8]) -> (bool, &[u8], &[u8]) {
    let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
    let pattern = &pattern[stars..];
    let (mut at, mut in_class) = (0, false);
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => break,
            _ => {}
        }
        at += 1;
    }
    let at = at.min(pattern.len());
    (stars > 0, &pattern[..at], &pattern[at..])
}

/// What is left of a name after a chunk without stars: nothing outside if the chunk is malformed, nothing inside if it does not match.
fn one_chunk<'n>(chunk: &[u8], name: &'n [u8]) -> Option<Option<&'n [u8]>> {
    let (mut chunk, mut left) = (chunk, Some(name));
    while let Some((&first, rest)) = chunk.split_first() {
        let name = left.unwrap_or_default();
        let (matched, len) = match first {
            b'[' => {
                let (found, len) = class(rest, name)?;
                chunk = &rest[len..];
                (found, letter_len(name))
            }
            b'?' => {
                chunk = rest;
                (name.first().is_some_and(|&byte| byte != b'/'), letter_len(name))
            }
            byte => {
                let (byte, rest) = if byte == b'\\' { rest.split_first().map(|(&byte, rest)| (byte, rest))? } else { (byte, rest) };
                chunk = rest;
                (name.first() == Some(&byte), 1)
            }
        };
        left = left.filter(|_| matched).map(|name| &name[len..]);
    }
    Some(left)
}

/// Whether a text is a pattern rather than a plain name.
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[\\".contains(byte))
}

/// What follows a `[`: whether the first letter of the name is meant, and the bytes up to the end of the class.
fn class(pattern: &[u8], name: &[u8]) -> Option<(bool, usize)> {
    let text = std::str::from_utf8(pattern).ok()?;
    let mut letters = text.char_indices().peekable();
    let negated = letters.next_if(|(_, letter)| *letter == '^').is_some();
    let wanted = std::str::from_utf8(&name[..letter_len(name)]).ok().and_then(|letter| letter.chars().next());
    let mut found = false;
    let mut is_first = true;
    loop {
        let (at, letter) = letters.next()?;
        if letter == ']' && !is_first {
            return Some((wanted.is_some_and(|letter| letter != '/') && found != negated, at + 1));
        }
        is_first = false;
        let low = bound(letter, &mut letters)?;
        let high = match letters.next_if(|(_, letter)| *letter == '-') {
            Some(_) => {
                let (_, letter) = letters.next()?;
                bound(letter, &mut letters)?
            }
            None => low,
        };
        found |= wanted.is_some_and(|letter| (low..=high).contains(&letter));
    }
}

fn bound(letter: char, letters: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Option<char> {
    match letter {
        '\\' => letters.next().map(|(_, escaped)| escaped),
        '-' | ']' => None,
        letter => Some(letter),
    }
}

/// The bytes of the first letter of a text.
fn letter_len(text: &[u8]) -> usize {
    let len = match text.first() {
        None => 0,
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        Some(_) => 1,
    };
    match text.get(..len).map(std::str::from_utf8) {
        Some(Ok(_)) => len,
        _ => text.len().min(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        // From the table of Go's own tests.
        for (pattern, name, expected) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("[a-ζ]*", "α", Some(true)),
            ("a?b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-x]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[", "a", None),
            ("[^bc", "a", None),
            ("a[", "a", None),
            ("a[", "ab", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("", "a", Some(false)),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn hostile_patterns_end() {
        let pattern = "a*".repeat(12) + "b";
        assert_eq!(matches(pattern.as_bytes(), "a".repeat(4000).as_bytes()), Some(false));
    }
}
