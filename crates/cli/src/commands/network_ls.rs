//! `network ls`: the networks.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch, text};
use crate::list::text as field;
use crate::list::{Row, Style, filters, join_labels, short_id};
use crate::units;

const FLAGS: &[Flag] = &[
    list("filter", Some('f'), "Only those that match (driver=…, name=…, …)"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    switch("no-trunc", None, "Show whole ids"),
    switch("quiet", Some('q'), "Show ids only"),
];

pub const COMMAND: Command =
    Command { paths: &["network ls", "network list"], usage: "[OPTIONS]", about: "List networks", flags: &[FLAGS], run, ..Command::BASE };

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let style = Style::parse(m.text("format"), "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}")?;
    let mut networks: Vec<Value> =
        context.client()?.send(Request::get("/networks").query_opt("filters", filters(&m.list("filter"))?))?.json()?;
    networks.sort_by(|a, b| field(a, "/Name").cmp(field(b, "/Name")));
    let full = m.on("no-trunc");
    let id = |network: &Value| if full { field(network, "/Id").to_owned() } else { short_id(field(network, "/Id")).to_owned() };
    if m.on("quiet") && m.text("format").is_none() {
        let ids: String = networks.iter().map(|network| format!("{}\n", id(network))).collect();
        print(&ids)?;
        return Ok(0);
    }
    let rows: Vec<Row> = networks
        .iter()
        .map(|network| {
            let mut row = Row::new([
                ("ID", id(network)),
                ("Name", field(network, "/Name").to_owned()),
                ("Driver", field(network, "/Driver").to_owned()),
                ("Scope", field(network, "/Scope").to_owned()),
                ("IPv4", (network["EnableIPv4"] == true).to_string()),
                ("IPv6", (network["EnableIPv6"] == true).to_string()),
                ("Internal", (network["Internal"] == true).to_string()),
                ("Labels", join_labels(network["Labels"].as_object())),
                ("CreatedAt", units::go_moment(field(network, "/Created"))),
            ]);
            row.labels = network["Labels"].as_object().cloned();
            row
        })
        .collect();
    style.print(HEADERS, &rows)?;
    Ok(0)
}
