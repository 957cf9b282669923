//! `stop`: ask containers to end, and end them after a while.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Kind, Matches, text, value};

const FLAGS: &[Flag] = &[
    text("signal", Some('s'), "Signal that asks the container to stop"),
    value("timeout", Some('t'), Kind::Int, "Seconds between that signal and the end by force; -1 to wait for ever"),
];

pub const COMMAND: Command = Command {
    paths: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop running containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        let request = Request::post(container_path(name, "/stop")?).query_opt("signal", m.text("signal")).query_opt("t", m.int("timeout"));
        act(client, request)?;
        print(&format!("{name}\n"))
    })
}
