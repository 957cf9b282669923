//! `network prune`: remove networks that nobody is on.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch};
use crate::list::filters;

const FLAGS: &[Flag] = &[list("filter", None, "Only those that match (until=…, label=…)"), switch("force", Some('f'), "Do not ask")];

pub const COMMAND: Command = Command {
    paths: &["network prune"],
    usage: "[OPTIONS]",
    about: "Remove networks that no running container is on",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let filters = filters(&m.list("filter"))?;
    if !m.on("force") && !context.confirm("This removes all networks that no running container is on.")? {
        return Ok(1);
    }
    let answer: Value = context.client()?.send(Request::post("/networks/prune").query_opt("filters", filters))?.json()?;
    let names: Vec<&str> = answer["NetworksDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        print(&format!("Deleted Networks:\n{}\n\n", names.join("\n")))?;
    }
    Ok(0)
}
