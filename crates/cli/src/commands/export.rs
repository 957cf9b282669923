//! `export`: a container's files into an archive.

use anyhow::Result;
use client::Request;

use super::{container_path, save};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, text};

const FLAGS: &[Flag] = &[text("output", Some('o'), "Write this file in place of STDOUT")];

pub const COMMAND: Command = Command {
    paths: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Save a container's files to an archive",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    save::archive(context, m.text("output"), Request::get(container_path(&m.positionals[0], "/export")?))
}
