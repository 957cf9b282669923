//! `search`: repositories of a registry.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;
use types::reference::ImageRef;

use crate::auth;
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::list::text as field;
use crate::list::{Row, Style, filters, int};
use crate::table::ellipsis;

const DESCRIPTION_WIDTH: usize = 45;

const FLAGS: &[Flag] = &[
    list("filter", Some('f'), "Only those that match (is-official=…, stars=…)"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    text("limit", None, "Show so many at most, 100 being the most (default 25)"),
    switch("no-trunc", None, "Show whole descriptions"),
];

pub const COMMAND: Command = Command {
    paths: &["search", "image search"],
    usage: "[OPTIONS] [HOST/]TERM",
    about: "Search Docker Hub, or another registry that offers it, for images",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

const HEADERS: &[(&str, &str)] =
    &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL"), ("IsAutomated", "AUTOMATED")];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let style = Style::parse(m.text("format"), "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}")?;
    let term = &m.positionals[0];
    if term.is_empty() {
        bail!("a word to search for is needed");
    }
    let request = Request::get("/images/search")
        .query("term", term)
        .query_opt("limit", m.text("limit"))
        .query_opt("filters", filters(&m.list("filter"))?);
    // Whoever is known at the registry searches by that name.
    let header = match term.parse::<ImageRef>() {
        Ok(image) => auth::header(context, &image)?,
        Err(_) => None,
    };
    let request = match header {
        Some(header) => request.header("X-Registry-Auth", header),
        None => request,
    };
    let found: Vec<Value> = context.client()?.send(request)?.json()?;
    let tick = |set: &Value| if set == true { "[OK]".to_owned() } else { String::new() };
    let rows: Vec<Row> = found
        .iter()
        .map(|entry| {
            let description = field(entry, "/description").replace(['\n', '\r', '\t'], " ");
            Row::new([
                ("Name", field(entry, "/name").to_owned()),
                ("Description", if m.on("no-trunc") { description } else { ellipsis(&description, DESCRIPTION_WIDTH) }),
                ("StarCount", int(entry, "/star_count").to_string()),
                ("IsOfficial", tick(&entry["is_official"])),
                ("IsAutomated", tick(&entry["is_automated"])),
            ])
        })
        .collect();
    style.print(HEADERS, &rows)?;
    Ok(0)
}
