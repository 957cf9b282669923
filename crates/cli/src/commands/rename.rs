//! `rename`: give a container another name.

use anyhow::Result;
use client::Request;

use super::{act, container_path};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Give a container another name",
    arity: Arity::Exactly(2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    act(context.client()?, Request::post(container_path(&m.positionals[0], "/rename")?).query("name", &m.positionals[1]))?;
    Ok(0)
}
