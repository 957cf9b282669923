//! `diff`: what a container changed of its image.

use std::fmt::Write as _;

use anyhow::Result;
use client::Request;
use serde::Deserialize;

use super::container_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container diff", "diff"],
    usage: "CONTAINER",
    about: "Show what a container changed of its image's files",
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let request = Request::get(container_path(&m.positionals[0], "/changes")?);
    let changes: Option<Vec<Change>> = context.client()?.send(request)?.json()?;
    let mut text = String::new();
    for change in changes.unwrap_or_default() {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        let _ = writeln!(text, "{letter} {}", change.path);
    }
    print(&text)?;
    Ok(0)
}
