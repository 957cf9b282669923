//! `network disconnect`: take a container off a network.

use anyhow::Result;
use client::Request;
use serde_json::{Value, json};

use super::{act, path};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, switch};

const FLAGS: &[Flag] = &[switch("force", Some('f'), "Accept that the container is not on the network")];

pub const COMMAND: Command = Command {
    paths: &["network disconnect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Take a container off a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let body: Value = json!({ "Container": m.positional(1).unwrap_or_default(), "Force": m.on("force") });
    let network = path("networks", m.positional(0).unwrap_or_default(), "/disconnect")?;
    act(context.client()?, Request::post(network).json(&body))?;
    Ok(0)
}
