//! `network connect`: put a container on one more network.

use anyhow::Result;
use client::Request;
use serde_json::{Value, json};

use super::{act, path};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Kind, Matches, list, text, value};

const FLAGS: &[Flag] = &[
    list("alias", None, "One more name of the container on this network"),
    value("gw-priority", None, Kind::Int, "The network with the highest number gives the default route"),
    text("ip", None, "Address of the container on this network"),
    list("link", None, "Name for another container, for this one alone (CONTAINER[:NAME])"),
];

pub const COMMAND: Command = Command {
    paths: &["network connect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Put a container on one more network",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut endpoint = json!({ "Aliases": m.list("alias"), "Links": m.list("link"), "GwPriority": m.int("gw-priority").unwrap_or(0) });
    if let Some(address) = m.text("ip") {
        endpoint["IPAMConfig"] = json!({ "IPv4Address": address });
    }
    let body: Value = json!({ "Container": m.positional(1).unwrap_or_default(), "EndpointConfig": endpoint });
    let network = path("networks", m.positional(0).unwrap_or_default(), "/connect")?;
    act(context.client()?, Request::post(network).json(&body))?;
    Ok(0)
}
