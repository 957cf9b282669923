//! `kill`: send a signal.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, text};

const FLAGS: &[Flag] = &[text("signal", Some('s'), "Signal to send, by name or number (KILL)")];

pub const COMMAND: Command = Command {
    paths: &["container kill", "kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Send a signal to running containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        act(client, Request::post(container_path(name, "/kill")?).query_opt("signal", m.text("signal")))?;
        print(&format!("{name}\n"))
    })
}
