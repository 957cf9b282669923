//! Reading `config.json`: bounded, and a mistake is told with the path of the field that has it.

use serde::de::DeserializeOwned;

use crate::{Error, Result, oci};

/// Longer configurations are refused.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// The newest version of the specification that is followed whole.
pub const OCI_VERSION: &str = "1.3.0";
/// The oldest one.
pub const OCI_VERSION_MIN: &str = "1.0.0";

/// Reads a configuration and checks that its version is one that is understood.
///
/// # Errors
/// [`Error::Invalid`] with the field's path and what is expected there.
pub fn parse(bytes: &[u8]) -> Result<oci::Spec> {
    let spec: oci::Spec = parse_part(bytes)?;
    check_version(&spec.oci_version)?;
    Ok(spec)
}

/// Reads a part of a configuration, such as the process of an exec or the resources of an update.
///
/// # Errors
/// As [`parse`].
pub fn parse_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Error::invalid(format!("it is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let path = path_at(bytes, error.line(), error.column());
        Error::invalid(if path.is_empty() { error.to_string() } else { format!("{path}: {error}") })
    })
}

/// Within one major version what is new may be passed over, so that the minor number does not matter; before 1.0.0 everything was otherwise.
fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
        (Some(1), Some(_), Some(_)) if !version.starts_with("1.0.0-") => Ok(()),
        _ => Err(Error::invalid(format!(
            "ociVersion: {version:?} is not a version that is understood: {OCI_VERSION_MIN} to {OCI_VERSION} are"
        ))),
    }
}

/// The path of the value at a line and column of a JSON text, as far as the text is one: `process.args[2]`.
fn path_at(bytes: &[u8], line: usize, column: usize) -> String {
    let line_start = match line {
        0 => return String::new(),
        1 => 0,
        _ => bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line - 2).map_or(bytes.len(), |(at, _)| at + 1),
    };
    let end = line_start.saturating_add(column).min(bytes.len());
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    while at < end {
        match bytes[at] {
            b'{' => levels.push(Level::Object { key: String::new(), in_value: false }),
            b'[' => levels.push(Level::Array(0)),
            // The error may be about the whole that ends here: its parent is what the path names then.
            b'}' | b']' => drop(levels.pop()),
            b':' => {
                if let Some(Level::Object { in_value, .. }) = levels.last_mut() {
                    *in_value = true;
                }
            }
            b',' if at + 1 < end => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object { in_value, .. }) => *in_value = false,
                None => {}
            },
            b'"' => {
                let start = at + 1;
                at = start;
                while at < end && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                if let Some(Level::Object { key, in_value: false }) = levels.last_mut() {
                    *key = String::from_utf8_lossy(&bytes[start..at.min(end)]).into_owned();
                }
            }
            _ => {}
        }
        at += 1;
    }
    written(&levels)
}

enum Level {
    Object { key: String, in_value: bool },
    Array(usize),
}

fn written(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object { key, .. } if key.is_empty() => {}
            Level::Object { key, .. } => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_is_told_with_its_path() {
        let cases = [
            (r#"{"ociVersion": "1.2.0", "process": {"args": ["a", 5]}}"#, "process.args[1]: invalid type: integer `5`, expected a string"),
            (r#"{"process": {"user": {"uid": -1}}}"#, "process.user.uid: invalid value: integer `-1`, expected u32"),
            (r#"{"process": {"user": {"uid": 4294967296}}}"#, "process.user.uid: invalid value"),
            (
                "{\n \"linux\": {\n  \"namespaces\": [\n   {\"type\": \"pid\"},\n   {\"type\": {}}\n]}}",
                "linux.namespaces[1].type: invalid type: map",
            ),
            (r#"{"mounts": {"a": 1}}"#, "mounts: invalid type: map, expected a sequence"),
            (r#"{"hostname": ["x"]}"#, "hostname: invalid type: sequence, expected a string"),
            (
                r#"{"linux": {"seccomp": {"syscalls": [{"names": ["a"]}, {"args": [{"index": "x"}]}]}}}"#,
                "linux.seccomp.syscalls[1].args[0].index",
            ),
            (r#"{"annotations": {"a\"b": true}}"#, "invalid type: boolean"),
            (r#"{"process": {"args": ["a",]}}"#, "process.args: trailing comma"),
            ("{\"process\": ", "process: EOF while parsing"),
            ("", "EOF while parsing"),
            ("5", "invalid type: integer"),
        ];
        for (text, wanted) in cases {
            let said = refusal(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn versions() {
        for good in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0", "1.4.0+dev"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "0.9.0", "1", "1.x.0", "2.0.0", "one", "1.0.0-rc5"] {
            assert!(check_version(bad).unwrap_err().to_string().starts_with("ociVersion: "), "{bad}");
        }
    }

    proptest::proptest! {
        /// Nothing that can be written makes the parser or the plan fall over, and each error is words.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Err(error) = parse(&bytes) {
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }

        /// A real configuration with pieces of it replaced, doubled and cut: what is still JSON of the right shape is planned or refused.
        #[test]
        fn broken_configurations_are_planned_or_refused(edits in proptest::collection::vec((0usize..4000, 0usize..40, 0usize..PIECES.len()), 1..6)) {
            let mut text = serde_json::to_string(&crate::cli::template()).unwrap();
            for (at, length, piece) in edits {
                let start = text.floor_char_boundary(at % text.len().max(1));
                let end = text.floor_char_boundary((start + length).min(text.len()));
                text.replace_range(start..end, PIECES[piece]);
            }
            if let Ok(spec) = parse(text.as_bytes()) {
                let given = crate::plan::Given::default();
                drop(crate::plan::plan(&spec, &given));
                drop(spec.linux.resources.as_ref().map(crate::resources::limits));
                drop(spec.linux.seccomp.as_ref().map(crate::seccomp::compile));
            }
        }

        /// The same by fields: one value anywhere in the tree becomes another.
        #[test]
        fn any_value_in_any_field_is_planned_or_refused(at in 0usize..400, value in 0usize..VALUES.len()) {
            let mut tree = serde_json::to_value(crate::cli::template()).unwrap();
            let mut left = at;
            replace(&mut tree, &mut left, &serde_json::from_str(VALUES[value]).unwrap());
            if let Ok(spec) = parse(tree.to_string().as_bytes()) {
                drop(crate::plan::plan(&spec, &crate::plan::Given::default()));
                drop(spec.linux.resources.as_ref().map(crate::resources::limits));
            }
        }
    }

    const PIECES: [&str; 12] = ["", "{", "}", "[", "]", ",", "\"", "-1", "null", "\"a\":", "99999999999999999999", "\u{e4}"];
    const VALUES: [&str; 12] =
        ["null", "0", "-1", "18446744073709551615", "1e300", "true", "\"\"", "\"/\"", "\"..\\u0000..\"", "[]", "{}", "[[[[{}]]]]"];

    /// Replaces the value that is reached after `left` steps in depth-first order.
    fn replace(tree: &mut serde_json::Value, left: &mut usize, with: &serde_json::Value) {
        if *left == 0 {
            *tree = with.clone();
        }
        *left = left.wrapping_sub(1);
        match tree {
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| replace(item, left, with)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|item| replace(item, left, with)),
            _ => {}
        }
    }
}
