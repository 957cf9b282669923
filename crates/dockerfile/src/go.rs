//! What Go writes and reads: durations, and values in its `%v` and `%q` formats, which history entries are made of.

const NANOSECOND_UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Reads a duration such as `1h30m` or `1.5s` as nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let (_, unit) = NANOSECOND_UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        total += number * unit;
        rest = &rest[letters..];
    }
    // The largest number of nanoseconds that both types hold.
    (total < 9.2e18).then(|| (if negative { -total } else { total }).round() as i64)
}

/// A duration as Go prints it: `1h30m0s`, `5s`, `1.5s`, `100ms`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64, width: usize| {
        let rest = format!("{:0width$}", value % unit);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() { (value / unit).to_string() } else { format!("{}.{rest}", value / unit) }
    };
    let text = match total {
        0..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(total, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(total, 1_000_000, 6)),
        _ => {
            let seconds = total / 1_000_000_000;
            let within = fraction(total % 60_000_000_000, 1_000_000_000, 9);
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{within}s"),
                (0, minutes) => format!("{minutes}m{within}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{within}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// A text in double quotes, escaped as Go does.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            letter => escape(letter, &mut out),
        }
    }
    out.push('"');
    out
}

/// A number as a quoted letter, which is what `%q` makes of it.
pub(crate) fn quote_rune(number: i64) -> String {
    let letter = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let mut out = String::from("'");
    match letter {
        '\'' => out.push_str("\\'"),
        letter => escape(letter, &mut out),
    }
    out.push('\'');
    out
}

/// A list of quoted texts: `["a" "b"]`.
pub(crate) fn quote_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(" "))
}

fn escape(letter: char, out: &mut String) {
    match letter {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        letter if letter.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
        letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
        letter => out.push(letter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanoseconds, back) in [
            ("5s", 5_000_000_000, "5s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("100ms", 100_000_000, "100ms"),
            ("2m", 120_000_000_000, "2m0s"),
            ("0", 0, "0s"),
            ("15us", 15_000, "15µs"),
        ] {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
            assert_eq!(duration(nanoseconds), back);
        }
        for text in ["", "5", "s", "5x", "1..2s", "99999999999999h", "-"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn quotes_are_go_s() {
        assert_eq!(quote_list(&["a b".to_owned(), "\"\t\u{1}".to_owned()]), r#"["a b" "\"\t\x01"]"#);
        assert_eq!(quote_rune(3), "'\\x03'");
    }
}
