//! `commit`: an image of a container.

use anyhow::Result;
use client::Request;
use serde::Deserialize;
use serde_json::Value;
use types::reference::ImageRef;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Kind, Matches, list, text, value};

const FLAGS: &[Flag] = &[
    text("author", Some('a'), "Who made the image"),
    list("change", Some('c'), "Apply an instruction of a Dockerfile to the image (CMD, ENV, EXPOSE, …)"),
    text("message", Some('m'), "Remark for the image's history"),
    value("pause", Some('p'), Kind::SwitchOn, "Hold the container's processes meanwhile"),
];

pub const COMMAND: Command = Command {
    paths: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Make an image of a container and what it changed",
    flags: &[FLAGS],
    arity: Arity::Between(1, 2),
    run,
    ..Command::BASE
};

#[derive(Deserialize)]
struct Made {
    #[serde(rename = "Id")]
    id: String,
}

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let name = m.positional(1).map(str::parse::<ImageRef>).transpose()?.map(ImageRef::with_default_tag);
    let mut request = Request::post("/commit")
        .query("container", &m.positionals[0])
        .query_opt("author", m.text("author"))
        .query_opt("comment", m.text("message"))
        .query_opt("repo", name.as_ref().map(ImageRef::familiar_name))
        .query_opt("tag", name.as_ref().and_then(ImageRef::tag))
        .query("pause", u8::from(m.switch("pause").unwrap_or(true)));
    for change in m.list("change") {
        request = request.query("changes", change);
    }
    let made: Made = context.client()?.send(request.json(&Value::Null))?.json()?;
    print(&format!("{}\n", made.id))?;
    Ok(0)
}
