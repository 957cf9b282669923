//! Words that were probably meant.

/// The candidate nearest to `word`, without regard to case, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const WORD_LEN_MAX: usize = 64;
    let word = word.to_lowercase();
    let len = word.chars().count();
    if len == 0 || len > WORD_LEN_MAX {
        return None;
    }
    let limit = (len / 3).max(1);
    let near = candidates.iter().filter(|candidate| candidate.len() <= WORD_LEN_MAX);
    let near = near.map(|candidate| (distance(&word, &candidate.to_lowercase()), *candidate)).min();
    near.filter(|(edits, _)| *edits <= limit).map(|(_, candidate)| candidate)
}

/// The number of changes between two words: a letter more, less, other, or two swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_letters_are_one_change() {
        assert_eq!(nearest("FORM", &["FROM", "RUN"]), Some("FROM"));
        assert_eq!(nearest("entripoint", &["ENTRYPOINT", "ENV"]), Some("ENTRYPOINT"));
        assert_eq!(nearest("xyzzy", &["FROM", "RUN"]), None);
        assert_eq!(nearest("", &["FROM"]), None);
    }
}
