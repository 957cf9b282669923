//! `network connect`: put a container on one more network.

use anyhow::Result;
use client::Request;
use serde_json::{Value, json};

use super::{act, path};
use crate::command::Command;
use crate::context::Context;
use crate::create::pairs;
use crate::flags::{Arity, Flag, Kind, Matches, list, text, value};

const FLAGS: &[Flag] = &[
    list("alias", None, "One more name of the container on this network"),
    list("driver-opt", None, "Option for the network's driver (NAME=VALUE)"),
    value("gw-priority", None, Kind::Int, "The network with the highest number gives the default route"),
    text("ip", None, "Address of the container on this network"),
    text("ip6", None, "IPv6 address of the container on this network"),
    list("link", None, "Name for another container, for this one alone (CONTAINER[:NAME])"),
    list("link-local-ip", None, "Further address of the container, of the link alone (169.254.0.0/16 or fe80::/10)"),
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
    for (key, flag) in [("IPv4Address", "ip"), ("IPv6Address", "ip6")] {
        if let Some(address) = m.text(flag) {
            endpoint["IPAMConfig"][key] = address.into();
        }
    }
    let link_local = m.list("link-local-ip");
    if !link_local.is_empty() {
        endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(link_local);
    }
    let options = pairs(&m.list("driver-opt"));
    if !options.is_empty() {
        endpoint["DriverOpts"] = Value::Object(options);
    }
    let body: Value = json!({ "Container": m.positional(1).unwrap_or_default(), "EndpointConfig": endpoint });
    let network = path("networks", m.positional(0).unwrap_or_default(), "/connect")?;
    act(context.client()?, Request::post(network).json(&body))?;
    Ok(0)
}
