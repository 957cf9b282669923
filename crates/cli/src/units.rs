//! Sizes, durations and moments as people write and read them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Bytes with an optional binary unit: `64m`, `1.5G`, `512`, `10kb`, `2GiB`.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: {text:?}");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let exponent = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let bytes = number * 1024f64.powi(exponent);
    if bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(invalid()) }
}

/// A decimal number in billionths: `1.5` is 1,500,000,000. More than nine decimals are refused.
pub fn parse_nano(text: &str) -> Result<i64, String> {
    let invalid = || format!("{text:?} is not a decimal number");
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(invalid());
    }
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    let nano = whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(fraction)).ok_or_else(invalid)?;
    Ok(if negative { -nano } else { nano })
}

/// A size in decimal units with three significant digits, as tables of images and containers show it: `102kB`, `1.23MB`.
pub fn size(bytes: i64) -> String {
    size_in(bytes as f64, 3)
}

/// The same with four significant digits, as disk usage and progress show it.
pub fn size4(bytes: i64) -> String {
    size_in(bytes as f64, 4)
}

fn size_in(mut bytes: f64, digits: usize) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    while bytes >= 1000.0 && unit + 1 < units.len() {
        bytes /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(bytes, digits), units[unit])
}

/// A size in binary units with four significant digits, as memory is shown: `64MiB`, `1.945GiB`.
pub fn binary_size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut bytes, mut unit) = (bytes, 0);
    while bytes >= 1024.0 && unit + 1 < units.len() {
        bytes /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(bytes, 4), units[unit])
}

/// C's `%.Ng`: at most `digits` significant digits, no trailing zeros.
fn significant(value: f64, digits: usize) -> String {
    let whole = if value < 1.0 { 1 } else { value.log10().floor() as usize + 1 };
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    // A value such as 9.9996 gains a digit by rounding.
    let text = if text.trim_start_matches('-').split('.').next().map_or(0, str::len) > whole && text.contains('.') {
        format!("{value:.*}", digits.saturating_sub(whole + 1))
    } else {
        text
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// "2 minutes ago", from a moment in seconds of the epoch.
pub fn ago(then: i64) -> String {
    format!("{} ago", types::words::duration(Timestamp::now().as_second() - then))
}

/// A moment in seconds of the epoch, in the local zone: `2026-01-02 15:04:05 +0000 UTC`.
pub fn local_moment(seconds: i64) -> String {
    let Ok(moment) = Timestamp::from_second(seconds) else { return String::new() };
    moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// The same in RFC 3339: `2026-01-02T15:04:05Z`.
pub fn local_rfc3339(seconds: i64) -> String {
    let Ok(moment) = Timestamp::from_second(seconds) else { return String::new() };
    let text = moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    text.strip_suffix("+00:00").map(|plain| format!("{plain}Z")).unwrap_or(text)
}

/// A moment in nanoseconds since 1970 as RFC 3339 with all nine decimals.
pub fn local_rfc3339_nanos(nanos: i64) -> String {
    let Ok(moment) = Timestamp::from_nanosecond(nanos.into()) else { return String::new() };
    let text = moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%.9f%:z").to_string();
    text.strip_suffix("+00:00").map(|plain| format!("{plain}Z")).unwrap_or(text)
}

/// A moment in RFC 3339 as Go shows one: `2026-01-02 15:04:05.678 +0000 UTC`; other texts as they are.
pub fn go_moment(rfc3339: &str) -> String {
    let Ok(moment) = rfc3339.parse::<Timestamp>() else { return rfc3339.to_owned() };
    moment.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string()
}

/// What `--since` and `--until` take, as `seconds.nanoseconds`: a Unix time as it is, a Go duration (`10m`) back from now, or a date with an optional time and zone.
pub fn parse_moment(text: &str) -> Result<String, String> {
    let stamp = |moment: Timestamp| format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond());
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(text.to_owned());
    }
    if let Some(back) = parse_go_duration(text) {
        return Timestamp::now().checked_sub(back).map(stamp).map_err(|cause| cause.to_string());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(stamp(moment));
    }
    let civil = text.parse::<jiff::civil::DateTime>().or_else(|_| format!("{text}:00").parse());
    let zoned = civil.ok().and_then(|civil| civil.to_zoned(TimeZone::system()).ok());
    zoned
        .map(|zoned| stamp(zoned.timestamp()))
        .ok_or_else(|| format!("invalid moment {text:?}: expected for example 10m, 2026-01-02T15:04:05 or a Unix time"))
}

/// Go's durations: `1h30m`, `1.5s`, `300ms`.
pub fn parse_go_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        total += number
            * match &after[..letters] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &after[letters..];
    }
    SignedDuration::try_from_secs_f64(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        for (text, bytes) in
            [("64m", 67_108_864), ("512", 512), ("1.5g", 1_610_612_736), ("10KB", 10_240), ("2GiB", 2_147_483_648), ("0", 0)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["banana", "", "m", "5x", "1.2.3m", "-5m", "99999999999999p"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_as_docker_shows_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (102_400, "102kB"),
            (1_234_567, "1.23MB"),
            (9_999_999, "10MB"),
            (12_345_678, "12.3MB"),
            (1_000_000_000, "1GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size4(1_234_567), "1.235MB");
        assert_eq!(binary_size(67_108_864.0), "64MiB");
        assert_eq!(binary_size(2_089_000_000.0), "1.946GiB");
        assert_eq!(binary_size(471_040.0), "460KiB");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(parse_nano("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_nano(".5"), Ok(500_000_000));
        assert_eq!(parse_nano("0.000000001"), Ok(1));
        for text in ["x", "", ".", "1.0000000001", "1e3", "--1"] {
            assert!(parse_nano(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_read_in_every_form() {
        assert_eq!(parse_moment("1700000000.5"), Ok("1700000000.5".to_owned()));
        assert_eq!(parse_moment("2026-01-02T03:04:05Z"), Ok("1767323045.000000000".to_owned()));
        assert!(parse_moment("10m").is_ok());
        assert!(parse_moment("2099-01-01T00:00:00").is_ok());
        assert!(parse_moment("2026-01-02").is_ok());
        assert!(parse_moment("2026-01-02T15:04").is_ok());
        assert!(parse_moment("yesterday").is_err());
        assert_eq!(parse_go_duration("1h30m"), Some(SignedDuration::from_secs(5400)));
        assert_eq!(parse_go_duration("5"), None);
    }
}
