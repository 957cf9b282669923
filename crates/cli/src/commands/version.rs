//! `version`: of the client and of the engine.

use anyhow::Result;
use client::{ApiVersion, Request};
use serde_json::{Value, json};

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, text};
use crate::list::text as field;
use crate::template::Template;

const FLAGS: &[Flag] = &[text("format", Some('f'), "Show by a Go template, or json")];

pub const COMMAND: Command = Command {
    paths: &["version"],
    usage: "[OPTIONS]",
    about: "Show the versions of client and engine",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let engine = context.client().and_then(|client| {
        client.negotiate()?;
        let version: Value = client.send(Request::get("/version"))?.json()?;
        Ok((version, client.version()))
    });
    let (server, spoken, failure) = match engine {
        Ok((server, spoken)) => (server, spoken, None),
        Err(error) => (Value::Null, ApiVersion::OWN, Some(error)),
    };
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": spoken.to_string(), "DefaultAPIVersion": ApiVersion::OWN.to_string(),
        "Os": std::env::consts::OS, "Arch": arch(),
    });
    let shown = match m.text("format").filter(|format| !format.is_empty()) {
        None => Ok(page(&client, &server)),
        Some(format) => {
            let template = Template::parse(if format == "json" { "{{json .}}" } else { format })?;
            template.run(&json!({"Client": client, "Server": server})).map(|text| format!("{text}\n"))
        }
    };
    // Without an engine the client's half is shown all the same, and the engine's absence explains what is missing.
    match (shown, failure) {
        (Ok(text), None) => print(&text)?,
        (Ok(text), Some(error)) => {
            print(&text)?;
            return Err(error);
        }
        (Err(error), failure) => return Err(failure.unwrap_or(error)),
    }
    Ok(0)
}

/// Docker's names of machine architectures are Go's.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn page(client: &Value, server: &Value) -> String {
    let mut text = String::from("Client:\n");
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!(" {:18}{value}\n", format!("{name}:")));
        }
    };
    line("Version", field(client, "/Version"));
    line("API version", field(client, "/ApiVersion"));
    line("OS/Arch", &format!("{}/{}", field(client, "/Os"), field(client, "/Arch")));
    if server.is_null() {
        return text;
    }
    let platform = field(server, "/Platform/Name");
    text.push_str(&format!("\nServer:{}{platform}\n", if platform.is_empty() { "" } else { " " }));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {:17}{value}\n", format!("{name}:")));
        }
    };
    line("Version", field(server, "/Version"));
    let minimum = field(server, "/MinAPIVersion");
    line("API version", &format!("{} (minimum version {minimum})", field(server, "/ApiVersion")));
    line("Git commit", field(server, "/GitCommit"));
    line("Built", field(server, "/BuildTime"));
    line("OS/Arch", &format!("{}/{}", field(server, "/Os"), field(server, "/Arch")));
    line("Kernel", field(server, "/KernelVersion"));
    text
}
