//! `events`: what happens in the engine, as it happens.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context as _, Result};
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::Context;
use crate::flags::{Flag, Matches, list, text};
use crate::list::{filters, int, text as field};
use crate::template::Template;
use crate::terminal;
use crate::units::{local_rfc3339_nanos, parse_moment};

const FLAGS: &[Flag] = &[
    list("filter", Some('f'), "Only those that match (type=…, event=…, container=…, label=…)"),
    text("format", None, "Show by a Go template, or json"),
    text("since", None, "Begin with those since this moment (10m, 2026-01-02T15:04:05)"),
    text("until", None, "End at this moment"),
];

pub const COMMAND: Command = Command {
    paths: &["system events", "events"],
    usage: "[OPTIONS]",
    about: "Show what happens in the engine, as it happens",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let moment = |flag: &str| m.text(flag).map(parse_moment).transpose().map_err(|reason| anyhow::anyhow!("--{flag}: {reason}"));
    let request = Request::get("/events")
        .query_opt("since", moment("since")?)
        .query_opt("until", moment("until")?)
        .query_opt("filters", filters(&m.list("filter"))?);
    let template = m.text("format").filter(|format| !matches!(*format, "" | "json")).map(Template::parse).transpose()?;
    let as_json = m.text("format") == Some("json");
    let response = context.client()?.send(request)?;
    let mut out = terminal::stdout();
    for line in BufReader::new(response).lines() {
        let line = line.context("read the events")?;
        if line.is_empty() {
            continue;
        }
        let text = match &template {
            _ if as_json => line,
            None => shown(&serde_json::from_str(&line).context("read an event")?),
            Some(template) => template.run(&serde_json::from_str(&line).context("read an event")?)?,
        };
        writeln!(out, "{text}")?;
        // Each is shown when it comes.
        out.flush()?;
    }
    Ok(0)
}

/// `TIME TYPE ACTION ID (NAME=VALUE, …)`.
fn shown(event: &Value) -> String {
    let mut attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    attributes.sort_unstable();
    let list = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!(
        "{} {} {} {}{list}",
        local_rfc3339_nanos(int(event, "/timeNano")),
        field(event, "/Type"),
        field(event, "/Action"),
        field(event, "/Actor/ID")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = serde_json::json!({
            "Type": "container", "Action": "die", "Actor": {"ID": "abc", "Attributes": {"name": "web", "exitCode": "0"}},
            "timeNano": 1_700_000_000_123_456_789_i64,
        });
        let line = shown(&event);
        assert!(line.ends_with(" container die abc (exitCode=0, name=web)") && line.contains(".123456789"), "{line}");
    }
}
