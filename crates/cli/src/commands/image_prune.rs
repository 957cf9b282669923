//! `image prune`: remove images that are not used.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::rmi::deleted_lines;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch};
use crate::list::{filters, int};
use crate::units::size4;

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Remove all that no container uses, not only those without a name"),
    list("filter", None, "Only those that match (until=…, label=…)"),
    switch("force", Some('f'), "Do not ask"),
];

pub const COMMAND: Command = Command {
    paths: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove images that are not used",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut given = m.list("filter");
    given.push(if m.on("all") { "dangling=false" } else { "dangling=true" });
    let filters = filters(&given)?;
    let which = if m.on("all") { "images that no container uses" } else { "images without a name" };
    if !m.on("force") && !context.confirm(&format!("This removes all {which}."))? {
        return Ok(1);
    }
    let answer: Value = context.client()?.send(Request::post("/images/prune").query_opt("filters", filters))?.json()?;
    let lines = deleted_lines(&answer["ImagesDeleted"]);
    let title = if lines.is_empty() { String::new() } else { format!("Deleted Images:\n{lines}\n") };
    print(&format!("{title}Total reclaimed space: {}\n", size4(int(&answer, "/SpaceReclaimed"))))?;
    Ok(0)
}
