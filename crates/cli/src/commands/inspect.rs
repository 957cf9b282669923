//! `inspect`: everything about an object, as JSON or by a template.

use anyhow::{Result, bail};
use client::{Client, Request};
use serde_json::Value;

use super::{container_path, image_path, path, platform_query};
use crate::command::Command;
use crate::context::{Context, Exit, print};
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::template::Template;

/// Docker's exit code of `inspect` for a template that cannot be read.
const TEMPLATE_MISUSED: i32 = 64;

const FORMAT: Flag = text("format", Some('f'), "Show by a Go template, or json");
const SIZE: Flag = switch("size", Some('s'), "Show sizes, if it is a container");

pub const COMMAND: Command = Command {
    paths: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Show everything about containers, images, volumes or networks",
    flags: &[&[FORMAT, SIZE, text("type", None, "Only objects of this type: container, image, volume or network")]],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

pub const CONTAINER: Command = Command {
    paths: &["container inspect"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Show everything about containers",
    flags: &[&[FORMAT, SIZE]],
    arity: Arity::AtLeast(1),
    run: |context, m| show(context, m, &["container"], m.on("size")),
    ..Command::BASE
};

pub const IMAGE: Command = Command {
    paths: &["image inspect"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Show everything about images",
    flags: &[&[FORMAT, text("platform", None, "Refuse images that are for another platform (linux/arm64)")]],
    arity: Arity::AtLeast(1),
    run: |context, m| {
        let platform = platform_query(m.text("platform"))?;
        show_with(context, m, &|client, name| {
            let request = Request::get(image_path(name, "/json")?).query_opt("platform", platform.clone());
            client.send(request).and_then(client::Response::json).map_err(Into::into)
        })
    },
    ..Command::BASE
};

pub const VOLUME: Command = Command {
    paths: &["volume inspect"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Show everything about volumes",
    flags: &[&[FORMAT]],
    arity: Arity::AtLeast(1),
    run: |context, m| show(context, m, &["volume"], false),
    ..Command::BASE
};

pub const NETWORK: Command = Command {
    paths: &["network inspect"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Show everything about networks",
    flags: &[&[FORMAT]],
    arity: Arity::AtLeast(1),
    run: |context, m| show(context, m, &["network"], false),
    ..Command::BASE
};

/// The types in the order in which a name is looked for.
const TYPES: &[&str] = &["container", "image", "volume", "network"];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let types = match m.text("type").filter(|name| !name.is_empty()) {
        None => TYPES,
        Some(name) => match TYPES.iter().position(|known| *known == name) {
            Some(at) => &TYPES[at..=at],
            None => bail!("{name:?} is not a type of object: expected container, image, volume or network"),
        },
    };
    show(context, m, types, m.on("size"))
}

fn show(context: &Context, m: &Matches, types: &[&str], size: bool) -> Result<i32> {
    show_with(context, m, &|client, name| lookup(client, name, types, size))
}

type Lookup<'a> = &'a dyn Fn(&Client, &str) -> Result<Value>;

fn show_with(context: &Context, m: &Matches, lookup: Lookup<'_>) -> Result<i32> {
    let format = m.text("format").filter(|format| !format.is_empty());
    let template = match format {
        None => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text).map_err(|error| Exit::with(TEMPLATE_MISUSED, error.to_string()))?),
    };
    let client = context.client()?;
    let mut found = Vec::new();
    let mut shown = String::new();
    let code = context.each(&m.positionals, |name| {
        let object = lookup(client, name)?;
        match &template {
            Some(template) => shown.push_str(&format!("{}\n", template.run(&object)?)),
            None => found.push(object),
        }
        Ok(())
    });
    if template.is_none() {
        shown = format!("{}\n", indented(&Value::Array(found)));
    }
    print(&shown)?;
    code
}

fn lookup(client: &Client, name: &str, types: &[&str], size: bool) -> Result<Value> {
    for kind in types {
        let path = match *kind {
            "container" => container_path(name, "/json"),
            "image" => image_path(name, "/json"),
            "volume" => path("volumes", name, ""),
            _ => path("networks", name, ""),
        };
        // A text that cannot be a name of this type may be one of the next.
        let Ok(path) = path else { continue };
        match client.send(Request::get(path).query_flag("size", size && *kind == "container")) {
            Ok(response) => return Ok(response.json()?),
            Err(error) if error.is_not_found() || (types.len() > 1 && error.status() == Some(400)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match types {
        [kind] => bail!("no such {kind}: {name}"),
        _ => bail!("no such object: {name}"),
    }
}

/// JSON indented by four, as Docker prints it.
pub fn indented(value: &Value) -> String {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, serde_json::ser::PrettyFormatter::with_indent(b"    "));
    // Writing a document to memory cannot fail.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok());
    String::from_utf8_lossy(&bytes).into_owned()
}
