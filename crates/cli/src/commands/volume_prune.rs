//! `volume prune`: remove volumes that no container uses.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::container_prune::report;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch};
use crate::list::{filters, int};

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Remove named volumes too, not only anonymous ones"),
    list("filter", None, "Only those that match (label=…)"),
    switch("force", Some('f'), "Do not ask"),
];

pub const COMMAND: Command = Command {
    paths: &["volume prune"],
    usage: "[OPTIONS]",
    about: "Remove volumes that no container uses",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut given = m.list("filter");
    if m.on("all") {
        given.push("all=1");
    }
    let filters = filters(&given)?;
    let which = if m.on("all") { "all volumes" } else { "all anonymous volumes" };
    if !m.on("force") && !context.confirm(&format!("This removes {which} that no container uses."))? {
        return Ok(1);
    }
    let answer: Value = context.client()?.send(Request::post("/volumes/prune").query_opt("filters", filters))?.json()?;
    print(&report("Deleted Volumes", answer["VolumesDeleted"].as_array(), int(&answer, "/SpaceReclaimed")))?;
    Ok(0)
}
