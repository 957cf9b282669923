//! `-v` and `--mount`.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::flags::parse_bool;
use crate::units::parse_bytes;

/// `-v` values, told apart.
#[derive(Debug, Default)]
pub struct Volumes {
    /// `SOURCE:TARGET[:OPTIONS]`
    pub binds: Vec<String>,
    /// Targets of volumes without a name.
    pub anonymous: Map<String, Value>,
}

/// Reads all `-v` values. A source that begins with a dot or a tilde is a folder of the host, relative ones to `directory`; other words are names of volumes.
pub fn volumes(given: &[&str], directory: &Path) -> Result<Volumes> {
    let mut volumes = Volumes::default();
    for spec in given {
        let invalid = |reason: &str| anyhow::anyhow!("invalid volume specification {spec:?}: {reason}");
        let parts: Vec<&str> = spec.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => (None, *target, None),
            [source, target] => (Some(*source), *target, None),
            [source, target, options] => (Some(*source), *target, Some(*options)),
            _ => return Err(invalid("expected [SOURCE:]TARGET[:OPTIONS]")),
        };
        if !target.starts_with('/') {
            return Err(invalid("the path in the container is not absolute"));
        }
        if target.trim_matches('/').is_empty() {
            return Err(invalid("the root cannot be mounted over"));
        }
        match source {
            None => {
                volumes.anonymous.insert(target.to_owned(), json!({}));
            }
            Some("") => return Err(invalid("the source is empty")),
            Some(source) => {
                let source = if source.starts_with('.') { absolute(directory, source) } else { source.to_owned() };
                volumes.binds.push(options.map_or_else(|| format!("{source}:{target}"), |options| format!("{source}:{target}:{options}")));
            }
        }
    }
    Ok(volumes)
}

/// Joins and cleans a path without looking at the file system.
fn absolute(directory: &Path, relative: &str) -> String {
    let mut clean = PathBuf::new();
    for part in directory.join(relative).components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}

/// Reads one `--mount` value.
pub fn mount(spec: &str) -> Result<Value> {
    let invalid = |reason: String| anyhow::anyhow!("invalid argument {spec:?} for \"--mount\" flag: {reason}");
    let mut mount = Map::new();
    mount.insert("Type".into(), "volume".into());
    let mut options: Map<String, Value> = Map::new();
    for field in csv(spec).ok_or_else(|| invalid("a quote is not closed".to_owned()))? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.trim().to_ascii_lowercase();
        let truth = |value: Option<&str>| match value {
            None => Ok(true),
            Some(value) => parse_bool(value).ok_or_else(|| invalid(format!("{key} is neither true nor false"))),
        };
        let text = || value.map(str::to_owned).ok_or_else(|| invalid(format!("{key} needs a value")));
        match key.as_str() {
            "type" => {
                let kind = text()?.to_ascii_lowercase();
                if !matches!(kind.as_str(), "bind" | "volume" | "tmpfs") {
                    return Err(invalid(format!("type {kind:?} is neither bind, volume nor tmpfs")));
                }
                mount.insert("Type".into(), kind.into());
            }
            "source" | "src" => {
                let source = text()?;
                let source = if source.starts_with('.') {
                    std::env::current_dir().map(|dir| absolute(&dir, &source)).unwrap_or(source)
                } else {
                    source
                };
                mount.insert("Source".into(), source.into());
            }
            "target" | "dst" | "destination" => {
                mount.insert("Target".into(), text()?.into());
            }
            "readonly" | "ro" => {
                mount.insert("ReadOnly".into(), truth(value)?.into());
            }
            "consistency" => {
                mount.insert("Consistency".into(), text()?.into());
            }
            _ => option(&key, value, &mut options).map_err(invalid)?,
        }
    }
    finish(mount, options).map_err(invalid)
}

/// Options of one type of mount, kept under the API's name for that type's options.
fn option(key: &str, value: Option<&str>, options: &mut Map<String, Value>) -> Result<(), String> {
    let text = || value.map(str::to_owned).ok_or_else(|| format!("{key} needs a value"));
    let truth = || value.map_or(Some(true), parse_bool).ok_or_else(|| format!("{key} is neither true nor false"));
    let mut put = |group: &str, path: &[&str], value: Value| {
        let mut slot = options.entry(group).or_insert_with(|| json!({}));
        for name in path {
            slot = &mut slot[*name];
        }
        *slot = value;
    };
    match key {
        "bind-propagation" => put("BindOptions", &["Propagation"], text()?.into()),
        "bind-nonrecursive" => put("BindOptions", &["NonRecursive"], truth()?.into()),
        "bind-recursive" => match text()?.as_str() {
            "enabled" => {}
            "disabled" => put("BindOptions", &["NonRecursive"], true.into()),
            "writable" => put("BindOptions", &["ReadOnlyNonRecursive"], true.into()),
            "readonly" => put("BindOptions", &["ReadOnlyForceRecursive"], true.into()),
            other => return Err(format!("bind-recursive {other:?} is neither enabled, disabled, writable nor readonly")),
        },
        "volume-nocopy" => put("VolumeOptions", &["NoCopy"], truth()?.into()),
        "volume-subpath" => put("VolumeOptions", &["Subpath"], text()?.into()),
        "volume-driver" => put("VolumeOptions", &["DriverConfig", "Name"], text()?.into()),
        "volume-label" | "volume-opt" => {
            let pair = text()?;
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let group: &[&str] = if key == "volume-label" { &["Labels", name] } else { &["DriverConfig", "Options", name] };
            put("VolumeOptions", group, value.into());
        }
        "tmpfs-size" => put("TmpfsOptions", &["SizeBytes"], parse_bytes(&text()?)?.into()),
        "tmpfs-mode" => {
            let mode = text()?;
            let bits = u32::from_str_radix(&mode, 8).map_err(|_| format!("tmpfs-mode {mode:?} is not an octal number"))?;
            put("TmpfsOptions", &["Mode"], bits.into());
        }
        _ => return Err(format!("unexpected key {key:?}")),
    }
    Ok(())
}

fn finish(mut mount: Map<String, Value>, options: Map<String, Value>) -> Result<Value, String> {
    if !mount.contains_key("Target") {
        return Err("target is required".to_owned());
    }
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    let fitting = match kind.as_str() {
        "bind" => "BindOptions",
        "volume" => "VolumeOptions",
        _ => "TmpfsOptions",
    };
    if let Some(other) = options.keys().find(|group| *group != fitting) {
        let family = other.trim_end_matches("Options").to_ascii_lowercase();
        return Err(format!("{family}-… options do not fit a mount of type {kind}"));
    }
    if kind == "bind" && !mount.contains_key("Source") {
        return Err("source is required for a mount of type bind".to_owned());
    }
    if kind == "tmpfs" && mount.contains_key("Source") {
        return Err("a mount of type tmpfs has no source".to_owned());
    }
    mount.extend(options);
    Ok(Value::Object(mount))
}

/// Fields between commas; a field in double quotes may hold commas, and quotes written twice.
pub(super) fn csv(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut letters = text.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        let field = fields.last_mut()?;
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_may_hold_commas() {
        assert_eq!(csv("a=1,\"b=2,3\",c"), Some(vec!["a=1".to_owned(), "b=2,3".to_owned(), "c".to_owned()]));
        assert_eq!(csv("\"open"), None);
    }

    #[test]
    fn mounts_name_what_is_wrong() {
        let refused = |spec: &str| mount(spec).expect_err("refused").to_string();
        assert!(refused("type=foo,dst=/x").contains("\"foo\" is neither"));
        assert!(refused("type=bind,src=/a").contains("target is required"));
        assert!(refused("type=bind,dst=/a").contains("source is required"));
        assert!(refused("type=tmpfs,dst=/a,volume-nocopy").contains("volume-… options do not fit"));
        assert!(refused("dst=/a,nope=1").contains("unexpected key \"nope\""));
        assert!(refused("type=tmpfs,dst=/a,tmpfs-mode=9").contains("octal"));
    }
}
