//! `pause`: freeze containers.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container pause", "pause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Freeze all processes of containers",
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        act(client, Request::post(container_path(name, "/pause")?))?;
        print(&format!("{name}\n"))
    })
}
