//! The rarer settings of a container: its health check, log, kernel parameters, users' groups.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::{pairs, put_list, put_text, read_file};
use crate::flags::{Flag, Kind, Matches, list, switch, text, value};
use crate::units::parse_go_duration;

/// Flags of `run` and `create` besides the everyday ones.
pub const SETTINGS_FLAGS: &[Flag] = &[
    list("annotation", None, "Attach an annotation for the OCI runtime (NAME=VALUE)"),
    text("cgroupns", None, "Cgroup namespace: host or private"),
    list("dns-option", None, "Set an option of the resolver"),
    list("dns-search", None, "Search this domain for short host names"),
    text("domainname", None, "NIS domain name inside the container"),
    list("group-add", None, "Add the user to this group, too"),
    text("health-cmd", None, "Command that tells whether the container is healthy"),
    text("health-http", None, "Page that tells whether the container is healthy (http://localhost:8080/healthy); needs no program in it"),
    text("health-interval", None, "Time between two health checks (10s, 1m30s)"),
    value("health-retries", None, Kind::Int, "Failures in a row that mean unhealthy"),
    text("health-start-interval", None, "Time between two health checks in the start period"),
    text("health-start-period", None, "Time after the start in which failures do not count"),
    text("health-tcp", None, "Port that accepts connections as long as the container is healthy; needs no program in it"),
    text("health-timeout", None, "Time after which a health check has failed"),
    list("label-file", None, "Read labels from a file"),
    text("log-driver", None, "Where the output goes: json-file, local, journald, syslog, gelf, fluentd or none"),
    list("log-opt", None, "Option of the log (max-size=10m, compress=true, tag={{.Name}})"),
    switch("no-healthcheck", None, "Run no health check, not the image's either"),
    value("oom-score-adj", None, Kind::Int, "How early it is chosen when memory runs out (-1000 to 1000)"),
    text("platform", None, "Platform of the image (linux/amd64)"),
    text("runtime", None, "OCI runtime that makes the container: a name that the engine knows, or a path"),
    list("secret", None, "Give a file of yours as /run/secrets/TARGET, in memory only (source=FILE,target=NAME,uid=…,gid=…,mode=…)"),
    list("sysctl", None, "Set a kernel parameter (NAME=VALUE)"),
    text("userns", None, "User namespace: host, or auto for ids of the container's own"),
    list("volumes-from", None, "Take over the volumes and binds of another container (NAME[:ro])"),
];

/// What the flags say about the process.
pub fn config(m: &Matches, body: &mut Map<String, Value>) -> Result<()> {
    put_text(body, "Domainname", m.text("domainname"));
    if let Some(check) = health(m)? {
        body.insert("Healthcheck".into(), check);
    }
    Ok(())
}

/// What the flags say about the host.
pub fn host(m: &Matches, host: &mut Map<String, Value>) -> Result<()> {
    if let Some(score) = m.int("oom-score-adj") {
        host.insert("OomScoreAdj".into(), score.into());
    }
    put_text(host, "CgroupnsMode", m.text("cgroupns"));
    put_text(host, "Runtime", m.text("runtime"));
    put_text(host, "UsernsMode", m.text("userns"));
    for (key, flag) in
        [("DnsOptions", "dns-option"), ("DnsSearch", "dns-search"), ("GroupAdd", "group-add"), ("VolumesFrom", "volumes-from")]
    {
        put_list(host, key, m.list(flag).into_iter().map(str::to_owned).collect());
    }
    for (key, flag) in [("Sysctls", "sysctl"), ("Annotations", "annotation")] {
        let given = m.list(flag);
        if let Some(bad) = given.iter().find(|pair| pair.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
            bail!("invalid argument {bad:?} for \"--{flag}\" flag: expected NAME=VALUE");
        }
        if !given.is_empty() {
            host.insert(key.into(), Value::Object(pairs(&given)));
        }
    }
    let options = m.list("log-opt");
    if m.text("log-driver").is_some() || !options.is_empty() {
        if m.text("log-driver") == Some("none") && !options.is_empty() {
            bail!("conflicting options: --log-opt and --log-driver none: nothing is kept");
        }
        host.insert("LogConfig".into(), json!({"Type": m.text("log-driver").unwrap_or_default(), "Config": pairs(&options)}));
    }
    Ok(())
}

/// Labels from `--label-file`, then from `--label`.
pub fn labels(m: &Matches) -> Result<Map<String, Value>> {
    let mut labels = Map::new();
    for path in m.list("label-file") {
        let content = read_file(path).with_context(|| format!("read --label-file {path}"))?;
        let lines: Vec<&str> = content.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        labels.extend(pairs(&lines));
    }
    labels.extend(pairs(&m.list("label")));
    Ok(labels)
}

fn health(m: &Matches) -> Result<Option<Value>> {
    let mut check = Map::new();
    for (key, flag) in [
        ("Interval", "health-interval"),
        ("Timeout", "health-timeout"),
        ("StartPeriod", "health-start-period"),
        ("StartInterval", "health-start-interval"),
    ] {
        if let Some(text) = m.text(flag) {
            let nanos = parse_go_duration(text).filter(|time| !time.is_negative()).and_then(|time| i64::try_from(time.as_nanos()).ok());
            let nanos = nanos
                .with_context(|| format!("invalid argument {text:?} for \"--{flag}\" flag: expected a duration such as 10s or 1m30s"))?;
            check.insert(key.into(), nanos.into());
        }
    }
    if let Some(retries) = m.int("health-retries") {
        if retries < 0 {
            bail!("invalid argument \"{retries}\" for \"--health-retries\" flag: it cannot be negative");
        }
        check.insert("Retries".into(), retries.into());
    }
    let tests = [("health-cmd", "CMD-SHELL"), ("health-http", "HTTP"), ("health-tcp", "TCP")];
    let given: Vec<_> = tests.iter().filter_map(|(flag, kind)| Some((flag, kind, m.text(flag).filter(|text| !text.is_empty())?))).collect();
    match given.as_slice() {
        [] => {}
        [(_, kind, argument)] => drop(check.insert("Test".into(), json!([kind, argument]))),
        [(first, ..), (second, ..), ..] => bail!("conflicting options: --{first} and --{second}: use one or the other"),
    }
    if m.on("no-healthcheck") {
        if !check.is_empty() {
            bail!("conflicting options: --no-healthcheck and --health-…: use one or the other");
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    Ok(Some(Value::Object(check)).filter(|check| check.as_object().is_some_and(|fields| !fields.is_empty())))
}
