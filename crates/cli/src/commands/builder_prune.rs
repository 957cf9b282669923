//! `builder prune`: forget what is kept of builds.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Kind, Matches, list, switch, value};
use crate::list::{filters, int};
use crate::units::size4;

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Forget all, not only what no image has"),
    list("filter", None, "Only what matches (until=24h, id=…, type=…)"),
    switch("force", Some('f'), "Do not ask"),
    value("keep-storage", None, Kind::Bytes, "Keep this much of what was used last"),
];

pub const COMMAND: Command = Command {
    paths: &["builder prune", "buildx prune"],
    usage: "[OPTIONS]",
    about: "Forget the results of build steps",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let filters = filters(&m.list("filter"))?;
    let which = if m.on("all") { "all results of build steps" } else { "results of build steps that no image has" };
    if !m.on("force") && !context.confirm(&format!("This removes {which}."))? {
        return Ok(1);
    }
    let request = Request::post("/build/prune")
        .query_flag("all", m.on("all"))
        .query_opt("filters", filters)
        .query_opt("keep-storage", m.bytes("keep-storage"));
    let answer: Value = context.client()?.send(request)?.json()?;
    let ids: Vec<&str> = answer["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let title = if ids.is_empty() { String::new() } else { format!("Deleted build cache objects:\n{}\n\n", ids.join("\n")) };
    print(&format!("{title}Total reclaimed space: {}\n", size4(int(&answer, "/SpaceReclaimed"))))?;
    Ok(0)
}
