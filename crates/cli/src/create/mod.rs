//! From the flags of `run` and `create` to the body of the API's create request. Pure but for the files that flags name.

mod limits;
mod mounts;
mod networks;
mod ports;
mod secrets;
mod settings;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

pub use limits::{LIMIT_FLAGS, RESOURCE_FLAGS, resources};
pub use settings::SETTINGS_FLAGS;

use crate::flags::{Flag, Kind, Matches, list, switch, text, value};

/// Files that flags name (`--env-file`, seccomp profiles) are short.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a container is made of: the flags that `run` and `create` share.
pub const CONTAINER_FLAGS: &[Flag] = &[
    list("add-host", None, "Add a line to the container's hosts file (NAME:ADDRESS)"),
    list("attach", Some('a'), "Attach to STDIN, STDOUT or STDERR"),
    list("cap-add", None, "Give a capability"),
    list("cap-drop", None, "Take a capability away"),
    text("cidfile", None, "Write the container's id to this file, which must not exist"),
    list("device", None, "Give a device: of the host (HOST[:CONTAINER[:PERMISSIONS]]), or of a CDI specification (VENDOR/CLASS=NAME)"),
    list("dns", None, "Use this DNS server"),
    text("entrypoint", None, "Run this program in place of the image's entrypoint"),
    list("env", Some('e'), "Set an environment variable (NAME=VALUE, or NAME to hand on one's own)"),
    list("env-file", None, "Read environment variables from a file"),
    list("expose", None, "Declare a port, or a range of ports, as served"),
    text("hostname", Some('h'), "Host name inside the container"),
    switch("init", None, "Run a small init as the first process: it hands signals on and reaps orphans"),
    switch("interactive", Some('i'), "Keep the container's STDIN open"),
    text("ip", None, "Address of the container on its network"),
    text("ip6", None, "IPv6 address of the container on its network"),
    text("ipc", None, "IPC namespace: none, private, shareable, host or container:NAME"),
    list("label", Some('l'), "Attach a label (NAME=VALUE)"),
    list("link", None, "Name for another container on the same network (CONTAINER[:NAME])"),
    list("link-local-ip", None, "Further address of the container, of the link alone (169.254.0.0/16 or fe80::/10)"),
    text("mac-address", None, "Hardware address of the container on its network"),
    value("mount", None, Kind::List, "Mount something (type=bind|volume|tmpfs,source=…,target=…,…)"),
    text("name", None, "Name of the container"),
    list("network", None, "Network: a name, bridge, none, host, container:NAME or name=…,alias=…,ip=…"),
    list("network-alias", None, "One more name of the container on its network"),
    text("pid", None, "PID namespace: host or container:NAME"),
    switch("privileged", None, "Give all that the engine itself may do"),
    list("publish", Some('p'), "Publish a port ([[ADDRESS:]HOST_PORT:]CONTAINER_PORT[/PROTOCOL])"),
    switch("publish-all", Some('P'), "Publish every declared port to a free port of the host"),
    text("pull", None, "When to pull the image: always, missing or never"),
    switch("quiet", Some('q'), "Show no progress of a pull"),
    switch("read-only", None, "Mount the container's root read-only"),
    switch("rm", None, "Remove the container, and its anonymous volumes, when it ends"),
    list(
        "security-opt",
        None,
        "Security option: seccomp=FILE|unconfined|builtin, no-new-privileges, apparmor=PROFILE, systempaths=unconfined, writable-cgroups",
    ),
    value("shm-size", None, Kind::Bytes, "Size of /dev/shm"),
    text("stop-signal", None, "Signal that asks the container to stop"),
    value("stop-timeout", None, Kind::Int, "Seconds between that signal and the end by force"),
    list("tmpfs", None, "Mount a tmpfs (PATH[:OPTIONS])"),
    switch("tty", Some('t'), "Give the container a terminal"),
    list("ulimit", None, "Limit of the kernel (NAME=SOFT[:HARD])"),
    text("user", Some('u'), "User, and group after a colon, by name or number"),
    text("uts", None, "UTS namespace: host"),
    list("volume", Some('v'), "Mount a volume or a folder of the host ([SOURCE:]TARGET[:OPTIONS])"),
    text("workdir", Some('w'), "Working directory inside the container"),
];

/// A parsed request to make a container.
#[derive(Debug)]
pub struct Plan {
    /// The image, as typed.
    pub image: String,
    /// The name, if one was given.
    pub name: Option<String>,
    /// The platform wished, if one was given.
    pub platform: Option<String>,
    /// Body of the create request.
    pub body: Value,
    /// Whether the streams are attached.
    pub attach: Streams,
    /// `-t`.
    pub tty: bool,
    /// `--rm`.
    pub auto_remove: bool,
}

/// Which of the three streams are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// The container's input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
}

/// What parsing takes from outside the arguments.
pub struct Surroundings<'a> {
    /// Environment variables, for `-e NAME`.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// For relative paths in `-v`.
    pub directory: &'a Path,
}

/// Reads the flags. `detached` is `-d`.
pub fn plan(m: &Matches, detached: bool, around: &Surroundings<'_>) -> Result<Plan> {
    let image = m.positionals.first().cloned().unwrap_or_default();
    let streams = streams(m, detached)?;
    let tty = m.on("tty");
    let mut body = Map::new();
    put_text(&mut body, "Hostname", m.text("hostname"));
    put_text(&mut body, "User", m.text("user"));
    body.insert("AttachStdin".into(), streams.stdin.into());
    body.insert("AttachStdout".into(), streams.stdout.into());
    body.insert("AttachStderr".into(), streams.stderr.into());
    body.insert("Tty".into(), tty.into());
    let interactive = m.on("interactive");
    body.insert("OpenStdin".into(), interactive.into());
    body.insert("StdinOnce".into(), (interactive && streams.stdin).into());
    put_list(&mut body, "Env", environment(m, around)?);
    put_list(&mut body, "Cmd", m.positionals[1..].to_vec());
    body.insert("Image".into(), image.as_str().into());
    put_text(&mut body, "WorkingDir", m.text("workdir"));
    if let Some(entrypoint) = m.text("entrypoint") {
        body.insert("Entrypoint".into(), json!([entrypoint]));
    }
    settings::config(m, &mut body)?;
    let labels = settings::labels(m)?;
    if !labels.is_empty() {
        body.insert("Labels".into(), Value::Object(labels));
    }
    put_text(&mut body, "StopSignal", m.text("stop-signal"));
    if let Some(seconds) = m.int("stop-timeout") {
        body.insert("StopTimeout".into(), seconds.into());
    }
    let ports = ports::parse(&m.list("publish"), &m.list("expose"))?;
    if !ports.exposed.is_empty() {
        body.insert("ExposedPorts".into(), Value::Object(ports.exposed));
    }
    let volumes = mounts::volumes(&m.list("volume"), around.directory)?;
    if !volumes.anonymous.is_empty() {
        body.insert("Volumes".into(), Value::Object(volumes.anonymous));
    }
    let mut host = host_config(m)?;
    settings::host(m, &mut host)?;
    put_list(&mut host, "Binds", volumes.binds);
    if !ports.bindings.is_empty() {
        host.insert("PortBindings".into(), Value::Object(ports.bindings));
    }
    let networks = networks::parse(m)?;
    host.insert("NetworkMode".into(), networks.mode.into());
    if !networks.endpoints.is_empty() {
        body.insert("NetworkingConfig".into(), json!({ "EndpointsConfig": networks.endpoints }));
    }
    put_values(&mut body, "Secrets", m.list("secret").into_iter().map(secrets::secret).collect::<Result<_>>()?);
    let auto_remove = m.on("rm");
    body.insert("HostConfig".into(), Value::Object(host));
    Ok(Plan {
        image,
        name: m.text("name").map(str::to_owned),
        platform: m.text("platform").map(str::to_owned),
        body: Value::Object(body),
        attach: streams,
        tty,
        auto_remove,
    })
}

/// `NAME=VALUE` flags as a map; a name alone has the empty value.
pub fn pairs(given: &[&str]) -> Map<String, Value> {
    given.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// The environment from `--env-file` and `-e`, in this order; names alone are taken from the surroundings, or unset what the image sets.
pub fn environment(m: &Matches, around: &Surroundings<'_>) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for path in m.list("env-file") {
        let content = read_file(path).with_context(|| format!("read --env-file {path}"))?;
        let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
        for line in content.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, assigned) = line.split_once('=').map_or((line, false), |(name, _)| (name, true));
            if name.trim().is_empty() || name.trim_end().contains(char::is_whitespace) {
                bail!("--env-file {path}: {line:?} has no usable variable name");
            }
            match (assigned, (around.environment)(name.trim())) {
                (true, _) => variables.push(line.to_owned()),
                (false, Some(value)) => variables.push(format!("{}={value}", name.trim())),
                (false, None) => {}
            }
        }
    }
    for variable in m.list("env") {
        let (name, assigned) = variable.split_once('=').map_or((variable, false), |(name, _)| (name, true));
        if name.is_empty() {
            bail!("invalid environment variable {variable:?}: the name is missing");
        }
        match (assigned, (around.environment)(name)) {
            (false, Some(value)) => variables.push(format!("{name}={value}")),
            _ => variables.push(variable.to_owned()),
        }
    }
    Ok(variables)
}

fn streams(m: &Matches, detached: bool) -> Result<Streams> {
    let given = m.list("attach");
    if detached {
        if !given.is_empty() {
            bail!("conflicting options: -a and -d: a detached container has no streams attached");
        }
        return Ok(Streams::default());
    }
    if given.is_empty() {
        return Ok(Streams { stdin: m.on("interactive"), stdout: true, stderr: true });
    }
    let mut streams = Streams::default();
    for stream in given {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => streams.stdin = true,
            "stdout" => streams.stdout = true,
            "stderr" => streams.stderr = true,
            _ => bail!("invalid argument {stream:?} for \"-a, --attach\" flag: expected STDIN, STDOUT or STDERR"),
        }
    }
    Ok(streams)
}

fn host_config(m: &Matches) -> Result<Map<String, Value>> {
    let mut host = resources(m)?;
    limits::host(m, &mut host)?;
    if m.on("rm") && host.get("RestartPolicy").is_some_and(|policy| policy["Name"] != "no") {
        bail!("conflicting options: --restart and --rm: a container that is removed cannot be restarted");
    }
    host.entry("RestartPolicy").or_insert_with(|| json!({"Name": "no", "MaximumRetryCount": 0}));
    for (key, flag) in
        [("AutoRemove", "rm"), ("Privileged", "privileged"), ("PublishAllPorts", "publish-all"), ("ReadonlyRootfs", "read-only")]
    {
        if m.on(flag) {
            host.insert(key.into(), true.into());
        }
    }
    if let Some(init) = m.switch("init") {
        host.insert("Init".into(), init.into());
    }
    for (key, flag) in [("IpcMode", "ipc"), ("PidMode", "pid"), ("UTSMode", "uts")] {
        put_text(&mut host, key, m.text(flag));
    }
    if let Some(bytes) = m.bytes("shm-size") {
        host.insert("ShmSize".into(), bytes.into());
    }
    put_list(&mut host, "CapAdd", m.list("cap-add").into_iter().map(capability).collect());
    put_list(&mut host, "CapDrop", m.list("cap-drop").into_iter().map(capability).collect());
    put_list(&mut host, "Dns", addresses(&m.list("dns"))?);
    put_list(&mut host, "ExtraHosts", extra_hosts(&m.list("add-host"))?);
    let mut security = security_options(&m.list("security-opt"))?;
    let given = security.len();
    security.retain(|option| !matches!(option.as_str(), "systempaths=unconfined" | "systempaths:unconfined"));
    if security.len() < given {
        // Not the engine's to know: nothing is masked, and nothing made read-only.
        host.insert("MaskedPaths".into(), json!([]));
        host.insert("ReadonlyPaths".into(), json!([]));
    }
    put_list(&mut host, "SecurityOpt", security);
    put_values(&mut host, "Devices", limits::devices(m).1.into_iter().map(device).collect::<Result<_>>()?);
    put_values(&mut host, "Ulimits", m.list("ulimit").into_iter().map(ulimit).collect::<Result<_>>()?);
    put_values(&mut host, "Mounts", m.list("mount").into_iter().map(mounts::mount).collect::<Result<_>>()?);
    let tmpfs: Map<String, Value> = m
        .list("tmpfs")
        .into_iter()
        .map(|spec| spec.split_once(':').unwrap_or((spec, "")))
        .map(|(path, options)| (path.to_owned(), options.into()))
        .collect();
    if !tmpfs.is_empty() {
        host.insert("Tmpfs".into(), Value::Object(tmpfs));
    }
    Ok(host)
}

fn restart_policy(text: &str) -> Result<Value> {
    let (name, retries) = text.split_once(':').map_or((text, None), |(name, retries)| (name, Some(retries)));
    let invalid = |reason: &str| anyhow::anyhow!("invalid restart policy {text:?}: {reason}");
    let count: i64 = match retries {
        Some(retries) => {
            retries.parse().ok().filter(|count| *count >= 0).ok_or_else(|| invalid("the number of retries is not a whole number"))?
        }
        None => 0,
    };
    match name {
        "on-failure" => {}
        "no" | "always" | "unless-stopped" if retries.is_none() => {}
        "no" | "always" | "unless-stopped" => return Err(invalid("only on-failure takes a number of retries")),
        _ => return Err(invalid("expected no, always, unless-stopped or on-failure[:RETRIES]")),
    }
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// Capabilities are named with and without their prefix, in any case.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

fn addresses(given: &[&str]) -> Result<Vec<String>> {
    let parse = |text: &&str| match text.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => bail!("invalid argument {text:?} for \"--dns\" flag: not an IP address"),
    };
    given.iter().map(parse).collect()
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`, the address possibly IPv6 in brackets; sent with a colon.
fn extra_hosts(given: &[&str]) -> Result<Vec<String>> {
    let parse = |text: &&str| {
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((name, address)) = split.filter(|(name, address)| !name.is_empty() && !address.is_empty()) else {
            bail!("invalid argument {text:?} for \"--add-host\" flag: expected NAME:ADDRESS");
        };
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
            bail!("invalid argument {text:?} for \"--add-host\" flag: {address:?} is not an IP address");
        }
        Ok(format!("{name}:{address}"))
    };
    given.iter().map(parse).collect()
}

fn security_options(given: &[&str]) -> Result<Vec<String>> {
    let parse = |option: &&str| {
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            if *option == "no-new-privileges" {
                return Ok((*option).to_owned());
            }
            bail!("invalid argument {option:?} for \"--security-opt\" flag: expected NAME=VALUE");
        };
        if key != "seccomp" || matches!(value, "unconfined" | "builtin") {
            return Ok((*option).to_owned());
        }
        // The profile travels in the request: the engine may run elsewhere.
        let content = read_file(value).with_context(|| format!("read the seccomp profile {value}"))?;
        let profile: Value = serde_json::from_str(&content).with_context(|| format!("read the seccomp profile {value} as JSON"))?;
        Ok(format!("seccomp={profile}"))
    };
    given.iter().map(parse).collect()
}

fn device(spec: &str) -> Result<Value> {
    let parts: Vec<&str> = spec.split(':').collect();
    let permitted = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
    let (host, inside, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, second] if permitted(second) => (*host, *host, *second),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, permissions] if permitted(permissions) => (*host, *inside, *permissions),
        _ => bail!("invalid argument {spec:?} for \"--device\" flag: expected HOST[:CONTAINER[:PERMISSIONS]]"),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        bail!("invalid argument {spec:?} for \"--device\" flag: paths begin with a slash");
    }
    Ok(json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions}))
}

fn ulimit(spec: &str) -> Result<Value> {
    let invalid = |reason: &str| anyhow::anyhow!("invalid argument {spec:?} for \"--ulimit\" flag: {reason}");
    let (name, limits) = spec.split_once('=').ok_or_else(|| invalid("expected NAME=SOFT[:HARD]"))?;
    let known = types::container::defaults::ULIMITS;
    if !known.contains(&name) {
        return Err(invalid(&format!("{name:?} is not a limit of the kernel")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number =
        |text: &str| text.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(|| invalid("limits are whole numbers, or -1 for none"));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(invalid(&format!("the soft limit {soft} is above the hard limit {hard}")));
    }
    Ok(json!({"Name": name, "Hard": hard, "Soft": soft}))
}

fn read_file(path: &str) -> Result<String> {
    use std::io::Read;
    let mut content = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut content)?;
    Ok(content)
}

fn put_text(map: &mut Map<String, Value>, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        map.insert(key.into(), text.into());
    }
}

fn put_list(map: &mut Map<String, Value>, key: &str, list: Vec<String>) {
    if !list.is_empty() {
        map.insert(key.into(), list.into());
    }
}

fn put_values(map: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        map.insert(key.into(), list.into());
    }
}

#[cfg(test)]
mod tests;
