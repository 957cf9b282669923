//! `container prune`: remove all stopped containers.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch};
use crate::list::{filters, int};
use crate::units::size4;

const FLAGS: &[Flag] = &[list("filter", None, "Only those that match (until=…, label=…)"), switch("force", Some('f'), "Do not ask")];

pub const COMMAND: Command = Command {
    paths: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let filters = filters(&m.list("filter"))?;
    if !m.on("force") && !context.confirm("This removes all stopped containers.")? {
        return Ok(1);
    }
    let answer: Value = context.client()?.send(Request::post("/containers/prune").query_opt("filters", filters))?.json()?;
    print(&report("Deleted Containers", answer["ContainersDeleted"].as_array(), int(&answer, "/SpaceReclaimed")))?;
    Ok(0)
}

/// What was removed, and how much that freed.
pub fn report(title: &str, removed: Option<&Vec<Value>>, freed: i64) -> String {
    let mut text = String::new();
    let names: Vec<&str> = removed.into_iter().flatten().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        text = format!("{title}:\n{}\n\n", names.join("\n"));
    }
    text + &format!("Total reclaimed space: {}\n", size4(freed))
}
