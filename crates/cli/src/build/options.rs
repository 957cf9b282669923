//! The flags of `build`, and what they say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use types::build::BuildRequest;
use types::{ImageRef, Platform};

use crate::flags::{Flag, Kind, Matches, list, parse_bool, switch, text, value};

/// What a secret may be long.
const SECRET_BYTES_MAX: u64 = 500 << 10;

/// The flags.
pub const FLAGS: &[Flag] = &[
    list("add-host", None, "Add a line to the hosts file of each step (NAME:ADDRESS)"),
    list("allow", None, "Allow what steps may ask for: network.host or security.insecure"),
    list("annotation", None, "Annotate the image's manifest (NAME=VALUE)"),
    list("attest", None, "Attach an attestation (type=provenance,mode=min|max)"),
    list("build-arg", None, "Set a build argument (NAME=VALUE, or NAME to hand on one's own)"),
    list("build-context", None, "Another context by name (NAME=FOLDER, URL or docker-image://IMAGE)"),
    text("builder", None, "Builder to use: default"),
    list("cache-from", None, "Take known steps from there (IMAGE, or type=registry|local,…)"),
    list("cache-to", None, "Keep known steps there (type=registry|local|inline,…)"),
    text("call", None, "What to do: build, check or targets"),
    text("cgroup-parent", None, "Cgroup that steps run in"),
    switch("check", None, "Look for likely mistakes, build nothing"),
    switch("explain", None, "Say of each step that is carried out why its result was not known"),
    text("file", Some('f'), "Dockerfile; - for stdin (FOLDER/Dockerfile)"),
    switch("force-rm", None, "Accepted for scripts: steps never leave containers behind"),
    text("iidfile", None, "Write the image's id to this file"),
    list("label", None, "Attach a label to the image (NAME=VALUE)"),
    switch("load", None, "Keep the image in the image store, which happens without --output anyway"),
    text("metadata-file", None, "Write what was made to this file, as JSON"),
    text("network", None, "Network of steps: default, none, host or a network's name"),
    switch("no-cache", None, "Carry out every step, known or not"),
    list("no-cache-filter", None, "Carry out the steps of this stage, known or not"),
    list("output", Some('o'), "Where the result goes (FOLDER, -, or type=local|tar|oci|docker|image|registry,dest=…)"),
    list("platform", None, "Platforms to build for (linux/amd64,linux/arm64)"),
    text("progress", None, "How progress is shown: auto, tty, plain, rawjson or quiet"),
    text("provenance", None, "Attach how the image was made: mode=min, mode=max, true or false"),
    switch("pull", None, "Ask registries for the bases, even if they are here"),
    switch("push", None, "Push the image when it is made"),
    switch("quiet", Some('q'), "Print the image's id only"),
    value("rm", None, Kind::SwitchOn, "Accepted for scripts: steps never leave containers behind"),
    list("secret", None, "Hand a secret to steps (id=NAME,src=FILE or id=NAME,env=VARIABLE)"),
    value("shm-size", None, Kind::Bytes, "Size of /dev/shm in steps"),
    list("ssh", None, "Hand an ssh agent to steps (default, or NAME=SOCKET)"),
    list("tag", Some('t'), "Name of the image (NAME[:TAG])"),
    text("target", None, "Stage to build"),
    list("ulimit", None, "Limit of the kernel in steps (NAME=SOFT[:HARD])"),
];

/// Reads the flags into a request, which lacks contexts and Dockerfile still.
pub fn request(m: &Matches) -> Result<BuildRequest> {
    refuse(m)?;
    let mut request = BuildRequest {
        args: assignments(&m.list("build-arg"), true)?,
        labels: assignments(&m.list("label"), false)?,
        tags: tags(m)?,
        target: m.text("target").unwrap_or_default().to_owned(),
        platforms: platforms(m)?,
        no_cache: m.on("no-cache"),
        no_cache_filter: split(&m.list("no-cache-filter")),
        pull: m.on("pull"),
        network: m.text("network").unwrap_or_default().to_owned(),
        extra_hosts: hosts(m)?,
        shm_size: m.bytes("shm-size").unwrap_or(0),
        ulimits: m.list("ulimit").into_iter().map(ulimit).collect::<Result<_>>()?,
        cgroup_parent: m.text("cgroup-parent").unwrap_or_default().to_owned(),
        secrets: secrets(m)?,
        ssh: agents(m)?,
        cache_from: caches(&m.list("cache-from"))?,
        cache_to: caches(&m.list("cache-to"))?,
        allow: split(&m.list("allow")),
        provenance: provenance(m)?,
        annotations: assignments(&m.list("annotation"), false)?,
        ..BuildRequest::default()
    };
    request.check = m.on("check") || m.text("call") == Some("check");
    Ok(request)
}

/// Flags that ask for what is not there.
fn refuse(m: &Matches) -> Result<()> {
    if let Some(name) = m.text("builder").filter(|name| !matches!(*name, "" | "default")) {
        bail!("there is no builder {name}: the engine builds itself, under the name default");
    }
    if m.switch("rm") == Some(false) || m.switch("force-rm") == Some(false) {
        bail!("steps leave no containers that could be kept: leave --rm and --force-rm out");
    }
    if let Some(call) = m.text("call").filter(|call| !matches!(*call, "" | "build" | "check" | "targets")) {
        bail!("--call {call} is not served: use build, check or targets");
    }
    for entry in m.list("attest") {
        let fields = fields(entry)?;
        let disabled = fields.get("disabled").is_some_and(|value| parse_bool(value) == Some(true));
        match fields.get("type").map(String::as_str) {
            Some("provenance") => {}
            Some("sbom") if disabled => {}
            Some("sbom") => bail!("--attest type=sbom is not served: no scanner is built in"),
            _ => bail!("--attest {entry}: expected type=provenance"),
        }
    }
    Ok(())
}

fn assignments(given: &[&str], from_environment: bool) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in given {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None if from_environment => (*entry, std::env::var(entry).ok()),
            None => (*entry, Some(String::new())),
        };
        if name.is_empty() {
            bail!("{entry:?} has no name before the equals sign");
        }
        if let Some(value) = value {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

fn tags(m: &Matches) -> Result<Vec<String>> {
    let read = |name: &str| {
        let reference: ImageRef = name.parse().map_err(|cause| anyhow!("invalid tag {name:?}: {cause}"))?;
        if reference.digest().is_some() {
            bail!("invalid tag {name:?}: a digest can't be chosen");
        }
        Ok(reference.with_default_tag().to_string())
    };
    m.list("tag").into_iter().map(read).collect()
}

fn platforms(m: &Matches) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for text in split(&m.list("platform")) {
        let platform = text.parse::<Platform>()?.to_string();
        if !found.contains(&platform) {
            found.push(platform);
        }
    }
    Ok(found)
}

fn hosts(m: &Matches) -> Result<Vec<String>> {
    let read = |entry: &str| {
        let (name, address) = entry.split_once(['=', ':']).ok_or_else(|| anyhow!("bad format for add-host: {entry:?}"))?;
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() || (address != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err()) {
            bail!("invalid IP address in add-host: {address:?}");
        }
        Ok(format!("{name}:{bare}"))
    };
    m.list("add-host").into_iter().map(read).collect()
}

fn ulimit(entry: &str) -> Result<String> {
    let bad = || anyhow!("invalid ulimit {entry:?}: expected NAME=SOFT[:HARD]");
    let (name, limits) = entry.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| if text == "unlimited" { Ok(-1) } else { text.parse::<i64>().map_err(|_| bad()) };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if name.is_empty() || soft < -1 || hard < -1 || (hard != -1 && (soft == -1 || soft > hard)) {
        return Err(bad());
    }
    Ok(format!("{name}={soft}:{hard}"))
}

fn secrets(m: &Matches) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in m.list("secret") {
        let fields = fields(entry)?;
        if let Some(key) = fields.keys().find(|key| !matches!(key.as_str(), "id" | "type" | "src" | "source" | "env")) {
            bail!("unexpected key {key:?} in --secret {entry}");
        }
        let id = fields.get("id").filter(|id| !id.is_empty());
        let path = fields.get("src").or(fields.get("source"));
        let kind = fields.get("type").map(String::as_str);
        let id = id.ok_or_else(|| anyhow!("--secret {entry} has no id: write id=NAME,src=FILE"))?;
        let variable = fields.get("env").or(path.filter(|_| kind == Some("env")));
        let bytes = match (kind, path, variable) {
            (Some(kind), _, _) if !matches!(kind, "file" | "env") => bail!("unsupported secret type {kind:?}: use file or env"),
            (_, _, Some(name)) => std::env::var(name).with_context(|| format!("--secret {entry}: read the variable {name}"))?.into_bytes(),
            // Without a source the id is the name of a variable, or else of a file.
            (_, None, None) if kind != Some("file") && std::env::var_os(id).is_some() => std::env::var(id)?.into_bytes(),
            (_, path, None) => read_secret(path.unwrap_or(id)).with_context(|| format!("--secret {entry}"))?,
        };
        found.insert(id.clone(), BASE64_STANDARD.encode(bytes));
    }
    Ok(found)
}

fn read_secret(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("read {path}"))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        bail!("{path} is longer than {SECRET_BYTES_MAX} bytes");
    }
    Ok(bytes)
}

fn agents(m: &Matches) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in m.list("ssh") {
        let (id, path) = entry.split_once('=').map_or((entry, None), |(id, path)| (id, Some(path)));
        let path = match path {
            Some(path) => path.to_owned(),
            None => std::env::var("SSH_AUTH_SOCK").ok().filter(|path| !path.is_empty()).ok_or_else(|| {
                anyhow!("--ssh {entry}: no agent is running (SSH_AUTH_SOCK is not set); start one with `eval $(ssh-agent)` and `ssh-add`")
            })?,
        };
        let path = std::fs::canonicalize(&path).with_context(|| format!("--ssh {entry}: find {path}"))?;
        let kind = std::fs::metadata(&path).with_context(|| format!("--ssh {entry}"))?.file_type();
        if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            bail!("--ssh {entry}: {} is not the socket of an agent; keys are handed over by an agent only: `ssh-add {0}`", path.display());
        }
        found.insert(id.to_owned(), path.to_string_lossy().into_owned());
    }
    Ok(found)
}

fn caches(given: &[&str]) -> Result<Vec<BTreeMap<String, String>>> {
    let read = |entry: &&str| {
        if !entry.contains('=') {
            let reference: ImageRef = entry.parse().map_err(|cause| anyhow!("cache {entry:?}: {cause}"))?;
            return Ok(BTreeMap::from([
                ("type".to_owned(), "registry".to_owned()),
                ("ref".to_owned(), reference.with_default_tag().to_string()),
            ]));
        }
        let fields = fields(entry)?;
        if !fields.contains_key("type") {
            bail!("cache {entry:?} has no type");
        }
        Ok(fields)
    };
    given.iter().map(read).collect()
}

fn provenance(m: &Matches) -> Result<String> {
    let attested = m.list("attest").into_iter().filter_map(|entry| entry.strip_prefix("type=provenance")).next_back();
    let Some(text) = m.text("provenance").or(attested.map(|rest| rest.trim_start_matches(','))) else { return Ok(String::new()) };
    match parse_bool(text) {
        Some(false) => return Ok(String::new()),
        Some(true) => return Ok("min".to_owned()),
        None if text.is_empty() => return Ok("min".to_owned()),
        None if matches!(text, "min" | "max") => return Ok(text.to_owned()),
        None => {}
    }
    let fields = fields(text)?;
    if fields.get("disabled").is_some_and(|value| parse_bool(value) == Some(true)) {
        return Ok(String::new());
    }
    match fields.get("mode").map(String::as_str).unwrap_or("min") {
        mode @ ("min" | "max") => Ok(mode.to_owned()),
        mode => bail!("unknown provenance mode {mode:?}: expected min or max"),
    }
}

/// `key=value,key=value`, with Go's quotes; a key alone means true.
pub fn fields(text: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').ok_or_else(|| anyhow!("{text:?} has a quote that is not closed"))?;
                (&quoted[..end], quoted[end + 1..].strip_prefix(',').unwrap_or(&quoted[end + 1..]))
            }
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        found.insert(key.trim().to_lowercase(), value.to_owned());
        rest = after;
    }
    Ok(found)
}

fn split(given: &[&str]) -> Vec<String> {
    given.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn read(line: &str) -> Result<BuildRequest> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        request(&parse(&[FLAGS], true, &args).map_err(|misuse| anyhow!(misuse.0))?)
    }

    #[test]
    fn flags_become_a_request() {
        let request = read(
            "-t a/b --build-arg X=1 --build-arg CAIS_NOT_SET_ANYWHERE --platform linux/arm64,amd64 --platform x86_64 --label l=m --no-cache-filter a,b \
             --ulimit nofile=10:20 --add-host h=::1 --cache-from me/cache --provenance=max --secret id=p,src=/dev/null --rm --force-rm .",
        )
        .expect("reads");
        assert_eq!(request.tags, ["docker.io/a/b:latest"]);
        assert_eq!(request.args, BTreeMap::from([("X".to_owned(), "1".to_owned())]));
        assert_eq!(request.platforms, ["linux/arm64", "linux/amd64"]);
        assert_eq!(request.no_cache_filter, ["a", "b"]);
        assert_eq!((request.ulimits, request.extra_hosts), (vec!["nofile=10:20".to_owned()], vec!["h:::1".to_owned()]));
        assert_eq!(request.cache_from[0]["ref"], "docker.io/me/cache:latest");
        assert_eq!((request.provenance.as_str(), request.secrets["p"].as_str()), ("max", ""));
        assert!(!request.check && read("--call=check .").expect("reads").check);
        assert_eq!(read("--attest type=provenance,mode=max .").expect("reads").provenance, "max");
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (line, said) in [
            ("--rm=false .", "no containers"),
            ("--builder x .", "no builder x"),
            ("--attest type=sbom .", "no scanner"),
            ("--secret src=/dev/null .", "no id"),
            ("--secret id=x,src=/no/such/file .", "no/such/file"),
            ("-t A .", "lowercase"),
            ("--ulimit nofile=20:10 .", "invalid ulimit"),
            ("--add-host h:x .", "invalid IP"),
            ("--platform a/b/c/d .", "invalid component"),
            ("--call outline .", "not served"),
            ("--ssh default=/dev/null .", "not the socket"),
        ] {
            let error = read(line).expect_err(line);
            assert!(format!("{error:#}").contains(said), "{line}: {error:#}");
        }
    }
}
