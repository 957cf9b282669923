//! What a real Docker engine answered to the same requests, field by field: present or not, `null`, `[]`, `{}`, kind of value, status, content
//! type and the text of errors, at an older and at the current version of the API.
//!
//! `1.41.json` and `1.51.json` hold the requests in their order, and of each answer its facts: values vary, their shapes do not.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::{Engine, http, image, skip_unless_root};

/// How long an answer may take to become what it has to be: the end of a killed container shows a moment later.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Where answers may differ: request (or all), the beginning of a field's path, why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("003-version", ".Components[].Details.Module", "names a module of Docker's source"),
    ("005-version-unprefixed", ".Components[].Details.Module", "names a module of Docker's source"),
    ("004-info", ".Runtimes", "the names of the runtimes are the engine's own"),
    ("004-info", ".Containerd", "there is no containerd"),
    ("004-info", ".FirewallBackend", "says how Docker drives the firewall"),
    ("004-info", ".Warnings", "depends on the machine"),
    ("004-info", ".CDISpecDirs", "depends on the configuration"),
    ("004-info", ".DefaultAddressPools", "depends on the configuration"),
    ("039-stats", ".memory_stats.stats", "the kernel's own names"),
    ("040-stats-one-shot", ".memory_stats.stats", "the kernel's own names"),
    ("039-stats", ".blkio_stats", "depends on what was read from a disk"),
    ("040-stats-one-shot", ".blkio_stats", "depends on what was read from a disk"),
    ("074-inspect-exited", ".NetworkSettings.Networks.bridge.DNSNames", "names that a rename left where they have no meaning"),
    ("", ".GraphDriver", "where layers are is the engine's own affair"),
];

/// Requests whose error text names what only Docker has; the status still counts.
const OWN_WORDS: &[&str] = &["007-client-too-new", "138-start-127", "142-start-126"];

#[derive(Debug)]
struct Exchange<'a> {
    name: &'a str,
    method: &'a str,
    path: String,
    body: String,
    want: &'a Value,
}

#[test]
fn answers_are_dockers_at_the_oldest_common_version() -> Result<()> {
    replay("old", include_str!("1.41.json"))
}

#[test]
fn answers_are_dockers_at_the_current_version() -> Result<()> {
    replay("new", include_str!("1.51.json"))
}

fn replay(name: &str, text: &str) -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start(&format!("golden-{name}"))?;
    engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(image::busybox()?).arg("busybox:latest").ok()?;
    let exchanges: Vec<Value> = serde_json::from_str(text)?;
    let mut exec = String::new();
    let mut wrong = Vec::new();
    for want in &exchanges {
        let field = |key: &str| want[key].as_str().unwrap_or_default();
        let body = if field("body") == "TAR" { archive() } else { field("body").to_owned() };
        let exchange = Exchange { name: field("name"), method: field("method"), path: field("path").replace("EXEC", &exec), body, want };
        let answer = settled(&engine, &exchange)?;
        if exchange.name.ends_with("exec-create") {
            let made: Value = serde_json::from_str(&answer.body)?;
            exec = made["Id"].as_str().context("an exec has an id")?.to_owned();
        }
        let differences = compare(&exchange, &answer);
        if !differences.is_empty() {
            wrong.push(format!("{} {} {}:\n    {}", exchange.name, exchange.method, exchange.path, differences.join("\n    ")));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} answers differ from Docker's:\n{}", wrong.len(), exchanges.len(), wrong.join("\n"));
    Ok(())
}

/// Asks, and where asking changes nothing asks again until the answer is the wanted one or time is up.
fn settled(engine: &Engine, exchange: &Exchange<'_>) -> Result<http::Answer> {
    let until = Instant::now() + SETTLE_MAX;
    loop {
        let answer = engine.api(exchange.method, &exchange.path, &exchange.body).with_context(|| exchange.name.to_owned())?;
        if exchange.method != "GET" || compare(exchange, &answer).is_empty() || Instant::now() > until {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn compare(exchange: &Exchange<'_>, answer: &http::Answer) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, ours: String, dockers: String| {
        if ours != dockers {
            differences.push(format!("{what}: {ours} here, {dockers} with Docker"));
        }
    };
    let want = exchange.want;
    differ("status", answer.status.to_string(), want["status"].to_string());
    if let Some(kind) = want["type"].as_str() {
        let header =
            answer.head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-type")));
        differ("content type", header.map_or("none", |(_, kind)| kind).to_owned(), kind.to_owned());
    }
    if let Some(text) = want["text"].as_str() {
        differ("body", answer.body.clone(), text.to_owned());
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body.clone()));
    if let Some(message) = want["message"].as_str().filter(|_| !OWN_WORDS.contains(&exchange.name)) {
        differ("error", anonymous(body["message"].as_str().unwrap_or(&answer.body)), message.to_owned());
    }
    if let Some(wanted) = want["shape"].as_object() {
        let mut kinds: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        shape(&body, String::new(), &mut kinds);
        let ours: BTreeMap<&str, String> =
            kinds.iter().map(|(path, kinds)| (path.as_str(), kinds.iter().copied().collect::<Vec<_>>().join("|"))).collect();
        let paths: BTreeSet<&str> = ours.keys().copied().chain(wanted.keys().map(String::as_str)).collect();
        for path in paths.into_iter().filter(|path| !may_differ(exchange.name, path)) {
            let dockers = wanted.get(path).and_then(Value::as_str).unwrap_or("absent");
            differ(path, ours.get(path).cloned().unwrap_or_else(|| "absent".to_owned()), dockers.to_owned());
        }
    }
    differences
}

fn may_differ(name: &str, path: &str) -> bool {
    DIFFERENT.iter().any(|(request, prefix, _)| (request.is_empty() || *request == name) && path.starts_with(prefix))
}

fn shape(value: &Value, path: String, kinds: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    let kind = match value {
        Value::Object(fields) if !fields.is_empty() => {
            return fields.iter().for_each(|(name, value)| shape(value, format!("{path}.{}", anonymous(name)), kinds));
        }
        Value::Array(items) if !items.is_empty() => return items.iter().for_each(|item| shape(item, format!("{path}[]"), kinds)),
        Value::Object(_) => "{}",
        Value::Array(_) => "[]",
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    kinds.entry(path).or_default().insert(kind);
}

/// A text with identifiers taken out.
fn anonymous(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let close = |word: &mut String, out: &mut String| {
        out.push_str(match word.len() {
            64 => "ID",
            12 => "SHORT",
            _ => word,
        });
        word.clear();
    };
    for letter in text.chars() {
        if letter.is_ascii_digit() || ('a'..='f').contains(&letter) {
            word.push(letter);
        } else {
            close(&mut word, &mut out);
            out.push(letter);
        }
    }
    close(&mut word, &mut out);
    out
}

/// An archive with one file, `a.txt`.
fn archive() -> String {
    let content = "hello\n";
    let mut head = vec![0u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "a.txt");
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "14524551000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\u{0}").as_bytes());
    let mut text = String::from_utf8(head).unwrap_or_default();
    text.push_str(content);
    let padding = 1024 - 512 - content.len() + 1024;
    text.extend(std::iter::repeat_n('\0', padding));
    text
}
