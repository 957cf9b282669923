//! `network rm`: remove networks.

use anyhow::Result;
use client::Request;

use super::{act, path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch};

const FLAGS: &[Flag] = &[switch("force", Some('f'), "Accept that a network is not there")];

pub const COMMAND: Command = Command {
    paths: &["network rm", "network remove"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Remove networks",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    const NOT_FOUND: u16 = 404;
    let client = context.client()?;
    context.each(&m.positionals, |name| match act(client, Request::delete(path("networks", name, "")?)) {
        Err(error) => {
            let status = error.chain().find_map(|level| level.downcast_ref::<client::Error>()?.status());
            if m.on("force") && status == Some(NOT_FOUND) { Ok(()) } else { Err(error) }
        }
        Ok(()) => print(&format!("{name}\n")),
    })
}
