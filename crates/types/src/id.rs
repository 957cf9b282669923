//! Identifiers of containers, networks, execs and endpoints: 64 lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many digits people see.
const SHORT_LEN: usize = 12;
const FULL_LEN: usize = 64;

/// An identifier of 32 random bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(Box<str>);

/// A text that is not an identifier.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an id: 64 lower-case hexadecimal digits are expected")]
pub struct InvalidId(String);

impl Id {
    /// A new random identifier. A short form that consists of digits alone is never made: it would be taken for a number (a pid, an IPv4 host name).
    pub fn random() -> Self {
        loop {
            let mut bytes = [0u8; FULL_LEN / 2];
            getrandom::fill(&mut bytes).expect("the kernel's random source answers");
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if !text[..SHORT_LEN].bytes().all(|digit| digit.is_ascii_digit()) {
                return Self(text.into());
            }
        }
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, the form shown to people and used as default host name.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_LEN]
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        if text.len() == FULL_LEN && text.bytes().all(hex) { Ok(Self(text.into())) } else { Err(InvalidId(text.to_owned())) }
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0.into()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_other_text() {
        let id = Id::random();
        assert_eq!(id.as_str().parse::<Id>().expect("own output parses"), id);
        assert_eq!(id.short().len(), SHORT_LEN);
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
