//! `rm`: remove containers.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch};

const FLAGS: &[Flag] = &[
    switch("force", Some('f'), "Remove running containers too, killing them"),
    switch("volumes", Some('v'), "Remove their anonymous volumes with them"),
];

pub const COMMAND: Command = Command {
    paths: &["container rm", "container remove", "rm"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove containers",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    let force = m.on("force");
    context.each(&m.positionals, |name| {
        let request = Request::delete(container_path(name, "")?).query_flag("force", force).query_flag("v", m.on("volumes"));
        match act(client, request) {
            // What is gone already is what --force asks for; it is told all the same.
            Err(error) if force && error.downcast_ref::<client::Error>().is_some_and(client::Error::is_not_found) => {
                context.report(&error);
                Ok(())
            }
            other => {
                other?;
                print(&format!("{name}\n"))
            }
        }
    })
}
