//! `rmi`: remove images.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::image_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch};

const FLAGS: &[Flag] = &[
    switch("force", Some('f'), "Remove images that have other names or stopped containers too"),
    switch("no-prune", None, "Keep parents without a name"),
];

pub const COMMAND: Command = Command {
    paths: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove images",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    let force = m.on("force");
    context.each(&m.positionals, |name| {
        let request = Request::delete(image_path(name, "")?).query_flag("force", force).query_flag("noprune", m.on("no-prune"));
        match client.send(request).and_then(client::Response::json::<Value>) {
            // What is gone already is what --force asks for; it is told all the same.
            Err(error) if force && error.is_not_found() => {
                context.report(&error.into());
                Ok(())
            }
            other => print(&deleted_lines(&other?)),
        }
    })
}

/// `Untagged: …` and `Deleted: …`, a line each.
pub fn deleted_lines(list: &Value) -> String {
    let mut text = String::new();
    for entry in list.as_array().into_iter().flatten() {
        for key in ["Untagged", "Deleted"] {
            if let Some(name) = entry[key].as_str().filter(|name| !name.is_empty()) {
                text.push_str(&format!("{key}: {name}\n"));
            }
        }
    }
    text
}
