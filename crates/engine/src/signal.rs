//! Signals by name and number.

use crate::Error;

const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// The first and last real-time signals as glibc numbers them.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

pub(crate) const SIGKILL: i32 = 9;

/// `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`, `RTMAX-1`.
pub(crate) fn parse(text: &str) -> Result<i32, Error> {
    let bad = || Error::BadSignal { signal: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok().filter(|offset| (0..=RTMAX - RTMIN).contains(offset)),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX"), name) {
        (Some(rest), ..) => offset(rest, '+').map(|offset| RTMIN + offset),
        (_, Some(rest), _) => offset(rest, '-').map(|offset| RTMAX - offset),
        (.., "IOT") => Some(6),
        (.., "POLL") => Some(29),
        (.., "CLD") => Some(17),
        _ => None,
    };
    number.ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_many_spellings() {
        for (text, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("RTMAX-1", 63), ("IOT", 6)] {
            assert_eq!(parse(text).expect(text), number);
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-1", "RTMIN3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
