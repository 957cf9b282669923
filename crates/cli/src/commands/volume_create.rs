//! `volume create`: make a volume.

use anyhow::Result;
use client::Request;
use serde_json::{Value, json};

use crate::command::Command;
use crate::context::{Context, print};
use crate::create::pairs;
use crate::flags::{Arity, Flag, Matches, list, text};
use crate::list::text as field;

const FLAGS: &[Flag] = &[
    text("driver", Some('d'), "Driver of the volume (local)"),
    list("label", None, "Attach a label (NAME=VALUE)"),
    list("opt", Some('o'), "Option of the driver (NAME=VALUE)"),
];

pub const COMMAND: Command = Command {
    paths: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Make a volume",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let body = json!({
        "Name": m.positional(0).unwrap_or_default(), "Driver": m.text("driver").unwrap_or("local"),
        "DriverOpts": pairs(&m.list("opt")), "Labels": pairs(&m.list("label")),
    });
    let volume: Value = context.client()?.send(Request::post("/volumes/create").json(&body))?.json()?;
    print(&format!("{}\n", field(&volume, "/Name")))?;
    Ok(0)
}
