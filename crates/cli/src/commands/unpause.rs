//! `unpause`: let paused containers go on.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container unpause", "unpause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Let paused containers go on",
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        act(client, Request::post(container_path(name, "/unpause")?))?;
        print(&format!("{name}\n"))
    })
}
