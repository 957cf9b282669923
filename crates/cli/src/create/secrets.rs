//! `--secret`: files of the client that the container gets in memory.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::{Value, json};

use super::mounts::csv;

const SECRET_BYTES_MAX: u64 = 500 * 1024;
/// As Docker has it for secrets of services: whoever the container runs as can read it.
const MODE_DEFAULT: u32 = 0o444;

/// Reads one `--secret` value and the file it names.
pub(super) fn secret(spec: &str) -> Result<Value> {
    let invalid = |reason: String| anyhow::anyhow!("invalid argument {spec:?} for \"--secret\" flag: {reason}");
    let (mut source, mut target, mut uid, mut gid, mut mode) = (None, None, 0, 0, MODE_DEFAULT);
    for field in csv(spec).ok_or_else(|| invalid("a quote is not closed".to_owned()))? {
        let (key, value) = field.split_once('=').ok_or_else(|| invalid(format!("{field:?} is not KEY=VALUE")))?;
        let number = || value.parse::<u32>().map_err(|_| invalid(format!("{key} {value:?} is not a number")));
        match key.trim().to_ascii_lowercase().as_str() {
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "dst" => target = Some(value.to_owned()),
            "uid" => uid = number()?,
            "gid" => gid = number()?,
            "mode" => mode = u32::from_str_radix(value, 8).map_err(|_| invalid(format!("mode {value:?} is not an octal number")))?,
            other => return Err(invalid(format!("unexpected key {other:?}: source, target, uid, gid and mode are known"))),
        }
    }
    let source = source.ok_or_else(|| invalid("source is required: the file to give".to_owned()))?;
    let path = Path::new(&source);
    let target = match target {
        Some(target) => target,
        None => {
            path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| invalid("target is required".to_owned()))?
        }
    };
    let target = target.strip_prefix("/run/secrets/").unwrap_or(&target);
    if target.is_empty() || target.contains('/') {
        return Err(invalid(format!("target {target:?} is not the name of a file in /run/secrets")));
    }
    let content = read(path).with_context(|| format!("read --secret {source}"))?;
    let data = base64::engine::general_purpose::STANDARD.encode(content);
    Ok(json!({"Target": target, "UID": uid, "GID": gid, "Mode": mode, "Data": data}))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        anyhow::bail!("it is not a file");
    }
    if meta.len() > SECRET_BYTES_MAX {
        anyhow::bail!("it is larger than 500 KiB");
    }
    Ok(std::fs::read(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_name_a_file_and_a_target() {
        let file = std::env::temp_dir().join(format!("cais-secret-{}", std::process::id()));
        std::fs::write(&file, "hush").expect("written");
        let name = file.display();
        let read = secret(&format!("source={name},target=token,uid=33,mode=0400")).expect("good");
        let named = secret(&format!("src={name}")).expect("good");
        let refused = [
            format!("source={name},target=/etc/x"),
            format!("source={name},colour=red"),
            format!("source={name},uid=web"),
            "target=x".to_owned(),
        ];
        let refused = refused.map(|spec| secret(&spec).is_err());
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(read, json!({"Target": "token", "UID": 33, "GID": 0, "Mode": 0o400, "Data": "aHVzaA=="}));
        assert_eq!(named["Target"].as_str(), file.file_name().and_then(|name| name.to_str()));
        assert_eq!(refused, [true; 4]);
        assert!(secret("source=/no/such/file").is_err() && secret("source=/,target=x").is_err());
    }
}
