//! `network create`: make a network.

use anyhow::{Result, bail};
use client::Request;
use serde_json::{Map, Value, json};

use crate::command::Command;
use crate::context::{Context, print};
use crate::create::pairs;
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::list::text as field;

const FLAGS: &[Flag] = &[
    switch("attachable", None, "Remembered, and shown by inspect"),
    list("aux-address", None, "Address in the subnet that no container gets (NAME=ADDRESS)"),
    text("driver", Some('d'), "Driver of the network: bridge or macvlan"),
    text("gateway", None, "Address of the host in the subnet"),
    switch("internal", None, "Leave no way out of the network, nor in"),
    text("ip-range", None, "Part of the subnet that containers get addresses from"),
    list("label", None, "Attach a label (NAME=VALUE)"),
    list("opt", Some('o'), "Option of the driver (NAME=VALUE)"),
    text("subnet", None, "Addresses of the network (172.28.0.0/16, say)"),
];

pub const COMMAND: Command = Command {
    paths: &["network create"],
    usage: "[OPTIONS] NETWORK",
    about: "Make a network",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut pool = Map::new();
    for (key, flag) in [("Subnet", "subnet"), ("IPRange", "ip-range"), ("Gateway", "gateway")] {
        if let Some(text) = m.text(flag) {
            pool.insert(key.into(), text.into());
        }
    }
    let auxiliary = pairs(&m.list("aux-address"));
    if !auxiliary.is_empty() {
        pool.insert("AuxiliaryAddresses".into(), Value::Object(auxiliary));
    }
    if !pool.is_empty() && !pool.contains_key("Subnet") {
        bail!("--gateway, --ip-range and --aux-address need a --subnet that they are in");
    }
    let pools: Vec<Value> = if pool.is_empty() { Vec::new() } else { vec![Value::Object(pool)] };
    let body = json!({
        "Name": m.positional(0).unwrap_or_default(), "Driver": m.text("driver").unwrap_or("bridge"), "Internal": m.on("internal"),
        "Attachable": m.on("attachable"), "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
        "Options": pairs(&m.list("opt")), "Labels": pairs(&m.list("label")),
    });
    let network: Value = context.client()?.send(Request::post("/networks/create").json(&body))?.json()?;
    print(&format!("{}\n", field(&network, "/Id")))?;
    Ok(0)
}
