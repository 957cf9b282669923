//! `wait`: until containers end, print their exit codes.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::{container_path, session};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container wait", "wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Wait until containers end and print their exit codes",
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        let answer: Value = client.send(Request::post(container_path(name, "/wait")?))?.json()?;
        print(&format!("{}\n", session::exit_code(&answer)?))
    })
}
