//! Filters of lists: the rules that all nouns share.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::Error;
use crate::request::Filters;

/// Refuses keys that the list does not know, as a misspelt filter would silently select everything.
pub(crate) fn known(filters: &Filters, keys: &[&str]) -> Result<(), Error> {
    match filters.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(Error::UnknownFilter { key: key.clone() }),
        None => Ok(()),
    }
}

/// The values given for a key.
pub(crate) fn values<'a>(filters: &'a Filters, key: &str) -> &'a [String] {
    filters.get(key).map_or(&[], Vec::as_slice)
}

/// Whether no value is given for the key, or one satisfies the test.
pub(crate) fn any(filters: &Filters, key: &str, mut test: impl FnMut(&str) -> bool) -> bool {
    let values = values(filters, key);
    values.is_empty() || values.iter().any(|value| test(value))
}

/// Whether labels hold `key` or `key=value`.
pub(crate) fn label_matches(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|held| held == value),
        None => labels.contains_key(wanted),
    }
}

/// Whether labels hold everything that `label` asks for and nothing that `label!` asks to be absent.
pub(crate) fn labels_match(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    values(filters, "label").iter().all(|wanted| label_matches(labels, wanted))
        && values(filters, "label!").iter().all(|unwanted| !label_matches(labels, unwanted))
}

/// A filter that holds one truth value: `None` when absent.
pub(crate) fn flag(filters: &Filters, key: &str) -> Result<Option<bool>, Error> {
    match values(filters, key) {
        [] => Ok(None),
        [value] => match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => Ok(Some(true)),
            "0" | "f" | "false" => Ok(Some(false)),
            _ => Err(Error::BadFilter { key: key.to_owned(), value: value.clone(), expected: "true or false" }),
        },
        more => Err(Error::BadFilter { key: key.to_owned(), value: more.join(", "), expected: "one value" }),
    }
}

/// A moment as clients write it in `until`: seconds since the epoch, RFC 3339, or how long ago (`10m`, `1h30m`).
pub(crate) fn moment(key: &str, text: &str) -> Result<Timestamp, Error> {
    let bad = || Error::BadFilter {
        key: key.to_owned(),
        value: text.to_owned(),
        expected: "a time (RFC 3339 or seconds since 1970) or a duration (10m)",
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Timestamp::from_nanosecond((seconds * 1e9) as i128).map_err(|_| bad());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let age = text.parse::<jiff::SignedDuration>().map_err(|_| bad())?;
    Timestamp::now().checked_sub(age).map_err(|_| bad())
}
