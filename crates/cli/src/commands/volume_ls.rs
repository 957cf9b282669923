//! `volume ls`: the volumes.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch, text};
use crate::list::text as field;
use crate::list::{Row, Style, filters, join_labels};
use crate::units;

const FLAGS: &[Flag] = &[
    list("filter", Some('f'), "Only those that match (dangling=…, label=…, name=…, driver=…)"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    switch("quiet", Some('q'), "Show names only"),
];

pub const COMMAND: Command =
    Command { paths: &["volume ls", "volume list"], usage: "[OPTIONS]", about: "List volumes", flags: &[FLAGS], run, ..Command::BASE };

/// Columns and their titles.
pub const HEADERS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let style = Style::parse(m.text("format"), "table {{.Driver}}\t{{.Name}}")?;
    let answer: Value = context.client()?.send(Request::get("/volumes").query_opt("filters", filters(&m.list("filter"))?))?.json()?;
    let mut volumes: Vec<&Value> = answer["Volumes"].as_array().into_iter().flatten().collect();
    volumes.sort_by_key(|volume| field(volume, "/Name"));
    if m.on("quiet") && m.text("format").is_none() {
        let names: String = volumes.iter().map(|volume| format!("{}\n", field(volume, "/Name"))).collect();
        print(&names)?;
        return Ok(0);
    }
    let rows: Vec<Row> = volumes.into_iter().map(row).collect();
    style.print(HEADERS, &rows)?;
    Ok(0)
}

/// The columns of a volume.
pub fn row(volume: &Value) -> Row {
    let usage = |key: &str| volume["UsageData"][key].as_i64().filter(|number| *number >= 0);
    let labels = volume["Labels"].as_object();
    let mut row = Row::new([
        ("Name", field(volume, "/Name").to_owned()),
        ("Driver", field(volume, "/Driver").to_owned()),
        ("Scope", field(volume, "/Scope").to_owned()),
        ("Mountpoint", field(volume, "/Mountpoint").to_owned()),
        ("Labels", join_labels(labels)),
        ("Links", usage("RefCount").map_or("N/A".to_owned(), |count| count.to_string())),
        ("Size", usage("Size").map_or("N/A".to_owned(), units::size)),
    ]);
    for (key, value) in [("Availability", "N/A"), ("Group", "N/A"), ("Status", "N/A")] {
        row.fields.insert(key.to_owned(), value.into());
    }
    row.labels = labels.cloned();
    row
}
