//! Detach keys: the sequence as people write it, and the search for it in what is typed.

use crate::Error;

/// What Docker uses where nobody says otherwise: ctrl-p, ctrl-q.
pub const DETACH_KEYS_DEFAULT: [u8; 2] = [16, 17];

/// No sequence may be longer.
const KEYS_LEN_MAX: usize = 16;

/// Reads `ctrl-p,ctrl-q`: single characters or `ctrl-` and one of `a`–`z`, `@ [ \ ] ^ _`, separated by commas. Empty text is the default sequence.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, Error> {
    if text.is_empty() {
        return Ok(DETACH_KEYS_DEFAULT.to_vec());
    }
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.filter(|keys| keys.len() <= KEYS_LEN_MAX).ok_or_else(|| Error::DetachKeys(text.to_owned()))
}

fn key(text: &str) -> Option<u8> {
    if let [single] = text.as_bytes() {
        return single.is_ascii().then_some(*single);
    }
    if text == "DEL" {
        return Some(127);
    }
    match text.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        [b'@'] => Some(0),
        [mark @ b'['..=b'_'] => Some(mark - b'[' + 27),
        _ => None,
    }
}

/// Looks for the sequence in a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct DetachWatch {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachWatch {
    /// Watches for `keys`; for nothing if they are empty.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `passed` what goes on to the process: all but the sequence, whose beginning is held back until it breaks off.
    /// True when the sequence is complete; the rest of `typed` is dropped then.
    pub fn filter(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            passed.extend_from_slice(typed);
            return false;
        }
        for &byte in typed {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                passed.push(byte);
            }
            // A sequence of one key is complete at once.
            if self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_keys() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").expect("the default"), [16, 17]);
        assert_eq!(detach_keys("").expect("the default"), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-_").expect("valid"), [b'a', 0, 27, 28, 31]);
        for bad in ["ctrl-", "ctrl-P", "ab", "a,,b", "ctrl-1", "é"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
    }

    fn typed(keys: &[u8], pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut watch = DetachWatch::new(keys.to_vec());
        let mut passed = Vec::new();
        let found = pieces.iter().any(|piece| watch.filter(piece, &mut passed));
        (passed, found)
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_lost() {
        assert_eq!(typed(&[16, 17], &[b"ab\x10", b"\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[16, 17], &[b"a\x10", b"b\x11"]), (b"a\x10b\x11".to_vec(), false));
        assert_eq!(typed(&[16, 17], &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(b"x", &[b"abxcd"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[], &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
