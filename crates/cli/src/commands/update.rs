//! `update`: change limits and restart policy of containers, running ones too.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use super::container_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::create::{RESOURCE_FLAGS, resources};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Change limits and restart policy of containers",
    flags: &[RESOURCE_FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let changes = resources(m)?;
    if changes.is_empty() {
        bail!("nothing to change: give at least one option");
    }
    let client = context.client()?;
    let body = Value::Object(changes);
    context.each(&m.positionals, |name| {
        let answer: Value = client.send(Request::post(container_path(name, "/update")?).json(&body))?.json()?;
        print(&format!("{name}\n"))?;
        for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            context.warn(&format!("warning: {warning}"));
        }
        Ok(())
    })
}
