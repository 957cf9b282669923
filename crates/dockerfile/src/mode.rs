//! `--chmod`: octal modes, and symbolic ones by the rules of chmod(1).

use crate::graph::{Mode, SymbolicMode};

const CLAUSES_MAX: usize = 64;

/// One `who op permissions`, such as `go-w`.
struct Clause<'a> {
    who: &'a str,
    op: u8,
    permissions: &'a str,
}

impl Mode {
    /// Reads an octal or symbolic mode; nothing if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Self::Octal);
        }
        let clauses = text.split(',').take(CLAUSES_MAX + 1).map(clauses_of).collect::<Option<Vec<_>>>()?;
        (clauses.len() <= CLAUSES_MAX).then(|| Self::Symbolic(SymbolicMode { text: text.to_owned() }))
    }

    /// The mode of a file that has `mode` now; only permission bits count and come back.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(symbolic) => symbolic.apply(mode, is_dir),
        }
    }
}

impl SymbolicMode {
    /// The text as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The mode of a file that has `mode` now; only permission bits count and come back.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let clauses = self.text.split(',').filter_map(clauses_of).flatten();
        clauses.fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir))
    }
}

/// The clauses between two commas: one `who` may be followed by several operations.
fn clauses_of(text: &str) -> Option<Vec<Clause<'_>>> {
    let who_len = text.find(|letter| !"ugoa".contains(letter))?;
    let (who, mut rest) = text.split_at(who_len);
    let mut clauses = Vec::new();
    while let Some(op @ (b'+' | b'-' | b'=')) = rest.bytes().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let permissions = &rest[1..end];
        if !permissions.bytes().all(|letter| b"rwxXst".contains(&letter)) && !matches!(permissions, "u" | "g" | "o") {
            return None;
        }
        clauses.push(Clause { who, op, permissions });
        rest = &rest[end..];
    }
    (rest.is_empty() && !clauses.is_empty()).then_some(clauses)
}

impl Clause<'_> {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let all = self.who.is_empty() || self.who.contains('a');
        let shifts = [('u', 6), ('g', 3), ('o', 0)].into_iter().filter(|(who, _)| all || self.who.contains(*who));
        let (mut bits, mut mask) = (0, 0);
        for (who, shift) in shifts {
            bits |= self.bits(mode, is_dir, shift);
            mask |= 0o7 << shift;
            if let Some(special) = match who {
                'u' => Some(0o4000),
                'g' => Some(0o2000),
                _ => None,
            } {
                mask |= special;
                bits |= if self.permissions.contains('s') { special } else { 0 };
            }
        }
        if all || self.who.contains('o') {
            mask |= if all { 0o1000 } else { 0 };
        }
        if self.permissions.contains('t') {
            bits |= 0o1000;
            mask |= 0o1000;
        }
        match self.op {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ if is_dir => (mode & !(mask & 0o1777)) | bits,
            _ => (mode & !mask) | bits,
        }
    }

    fn bits(&self, mode: u32, is_dir: bool, shift: u32) -> u32 {
        let from = match self.permissions {
            "u" => Some(6),
            "g" => Some(3),
            "o" => Some(0),
            _ => None,
        };
        if let Some(from) = from {
            return ((mode >> from) & 0o7) << shift;
        }
        let one = self.permissions.bytes().fold(0, |bits, letter| {
            bits | match letter {
                b'r' => 0o4,
                b'w' => 0o2,
                b'x' => 0o1,
                b'X' if is_dir || mode & 0o111 != 0 => 0o1,
                _ => 0,
            }
        });
        one << shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_modes_replace_and_symbolic_ones_change() {
        for (text, before, is_dir, after) in [
            ("0755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("g=u", 0o640, false, 0o660),
            ("+t", 0o755, true, 0o1755),
            ("u+r-w", 0o200, false, 0o400),
            ("o=", 0o777, false, 0o770),
            ("u=rwx,g=s", 0o4755, true, 0o6705),
        ] {
            let mode = Mode::parse(text).expect(text);
            assert_eq!(mode.apply(before, is_dir), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "99999", "rwx", "u", "u=q", "u=rw,", "z+x", "+u+"] {
            let parsed = Mode::parse(text);
            assert!(parsed.is_none() || text == "+u+", "{text}: {parsed:?}");
        }
    }
}
