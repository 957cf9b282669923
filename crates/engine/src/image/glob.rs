//! Patterns for names, as Go's `path.Match` reads them: `*` and `?` stop at slashes, `[a-z]` and `[^a-z]` are sets, a backslash takes the next letter as it is.

/// Whether the whole text fits the pattern. A malformed pattern fits nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where to go back to: after the last star, with one more letter for it.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if at < pattern.len() && pattern[at] == '*' {
            at += 1;
            star = Some((at, read));
            continue;
        }
        let step = match (pattern.get(at), text.get(read)) {
            (None, None) => return true,
            (Some(_), Some(&letter)) => one(&pattern[at..], letter),
            _ => None,
        };
        match (step, &mut star) {
            (Some(used), _) => (at, read) = (at + used, read + 1),
            (None, Some((after, from))) if text.get(*from).is_some_and(|&letter| letter != '/') => {
                *from += 1;
                (at, read) = (*after, *from);
            }
            (None, _) => return false,
        }
    }
}

/// How many letters of the pattern the first element takes, if it fits the letter.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['?', ..] => (letter != '/').then_some(1),
        ['\\', literal, ..] => (*literal == letter).then_some(2),
        ['[', rest @ ..] => {
            let end = rest.iter().skip(1).position(|&mark| mark == ']')? + 1;
            let (negated, set) = match rest[..end] {
                ['^', ref set @ ..] => (true, set),
                ref set => (false, set),
            };
            let mut inside = false;
            let mut at = 0;
            while at < set.len() {
                let is_range = set.get(at + 1) == Some(&'-') && at + 2 < set.len();
                let last = if is_range { set[at + 2] } else { set[at] };
                inside |= (set[at]..=last).contains(&letter);
                at += if is_range { 3 } else { 1 };
            }
            (inside != negated && letter != '/').then_some(end + 2)
        }
        [literal, ..] => (*literal == letter).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, text, fits) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("*box", "busybox", true),
            ("*", "user/app", false),
            ("*/*", "user/app", true),
            ("user/*:v1", "user/app:v1", true),
            ("user/*:v1", "user/app:v2", false),
            ("b?s", "bus", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("[", "[", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
