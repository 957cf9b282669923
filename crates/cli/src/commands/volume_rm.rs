//! `volume rm`: remove volumes.

use anyhow::Result;
use client::Request;

use super::{act, path};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch};

const FLAGS: &[Flag] = &[switch("force", Some('f'), "Accept that a volume is not there")];

pub const COMMAND: Command = Command {
    paths: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove volumes",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        act(client, Request::delete(path("volumes", name, "")?).query_flag("force", m.on("force")))?;
        print(&format!("{name}\n"))
    })
}
