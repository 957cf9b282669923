//! Parameters of requests: Docker's notions of truth, time and filters.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Failure;

const NANOS_PER_SEC: i128 = 1_000_000_000;

/// The parameters after the question mark. Of several with one name the first counts, unless all are asked for.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a target after the question mark.
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// A parameter, if it is given and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a parameter is given as anything but a word of denial.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// [`Self::flag`] with the value that counts where the parameter is absent.
    pub fn flag_or(&self, name: &str, absent: bool) -> bool {
        match self.0.iter().find(|(key, _)| key == name) {
            None => absent,
            Some((_, value)) => !["", "0", "no", "false", "none"].contains(&value.trim().to_ascii_lowercase().as_str()),
        }
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Failure::bad(format!("invalid value {text:?} of parameter {name:?}: a whole number is expected")))
    }

    /// A moment: seconds since 1970 with up to nine decimals, or RFC 3339. Zero is "none".
    pub fn moment(&self, name: &str) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad =
            || Failure::bad(format!("invalid value {text:?} of parameter {name:?}: seconds since 1970 or a time (RFC 3339) is expected"));
        if text == "0" {
            return Ok(None);
        }
        match unix_nanos(text) {
            Some(nanos) => Timestamp::from_nanosecond(nanos).map(Some).map_err(|_| bad()),
            None => text.parse().map(Some).map_err(|_| bad()),
        }
    }

    /// Filters: a JSON object of lists, or of objects whose keys count.
    pub fn filters(&self) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let Some(text) = self.get("filters") else { return Ok(BTreeMap::new()) };
        let bad = |why: &str| Failure::bad(format!("invalid filter: {why}"));
        let value: Value = serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?;
        let Value::Object(object) = value else {
            return if value.is_null() { Ok(BTreeMap::new()) } else { Err(bad("an object is expected")) };
        };
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            _ => Err(bad("values must be texts")),
        };
        let mut filters = BTreeMap::new();
        for (key, values) in object {
            let values = match values {
                Value::Array(items) => items.into_iter().map(text).collect::<Result<Vec<_>, _>>()?,
                Value::Object(set) => set.into_iter().filter(|(_, wanted)| *wanted != Value::Bool(false)).map(|(value, _)| value).collect(),
                Value::Null => Vec::new(),
                _ => return Err(bad(&format!("the values of {key:?} must be a list or an object"))),
            };
            filters.insert(key, values);
        }
        Ok(filters)
    }
}

/// Nanoseconds of `[-]SECONDS[.FRACTION]`; what it cannot be is `None`.
fn unix_nanos(text: &str) -> Option<i128> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let fraction: i128 = format!("{fraction:0<9.9}").parse().ok()?;
    Some(i128::from(seconds) * NANOS_PER_SEC + fraction)
}

/// A path's segments without the empty ones, `%xx` decoded.
pub fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect()
}

fn decode(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten().filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_true_unless_denied() {
        let query = Query::parse("a=1&b=true&c=0&d=False&e=&f=no&g=none&h=x");
        let truths: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g", "h", "absent"].iter().map(|name| query.flag(name)).collect();
        assert_eq!(truths, [true, true, false, false, false, false, false, true, false]);
        assert!(query.flag_or("absent", true) && !query.flag_or("c", true));
    }

    #[test]
    fn moments_are_seconds_or_rfc_3339() {
        let moment = |text: &str| Query::parse(&format!("t={text}")).moment("t");
        assert_eq!(moment("1700000000.5").expect("parses").map(|time| time.as_nanosecond()), Some(1_700_000_000_500_000_000));
        assert_eq!(moment("1700000000.123456789").expect("parses").map(|time| time.subsec_nanosecond()), Some(123_456_789));
        assert_eq!(moment("2026-11-22T10:51:27Z").expect("parses").map(|time| time.as_second()), Some(1_795_344_687));
        assert_eq!(moment("0").expect("parses"), None);
        assert_eq!(moment("").expect("parses"), None);
        assert!(moment("soon").is_err() && moment("1.x").is_err() && moment("99999999999999999").is_err());
    }

    #[test]
    fn filters_come_as_lists_and_as_maps() {
        let filters = |text: &str| Query(vec![("filters".into(), text.into())]).filters();
        let expected = BTreeMap::from([("name".to_owned(), vec!["g1".to_owned()])]);
        assert_eq!(filters(r#"{"name":["g1"]}"#).expect("list"), expected);
        assert_eq!(filters(r#"{"name":{"g1":true,"g2":false}}"#).expect("map"), expected);
        assert!(filters("").expect("empty").is_empty() && filters("null").expect("null").is_empty());
        for bad in ["{", "[]", r#"{"a":1}"#, r#"{"a":[1]}"#] {
            assert_eq!(filters(bad).expect_err(bad).status.as_u16(), 400);
        }
    }

    #[test]
    fn paths_are_decoded_by_segment() {
        assert_eq!(segments("//v1.51/images/a%2Fb:1/%zz%4"), ["v1.51", "images", "a/b:1", "%zz%4"]);
    }
}
