//! `history`: the layers of an image and what made them.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::{image_path, platform_query};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Kind, Matches, switch, text, value};
use crate::list::text as field;
use crate::list::{Row, Style, int, short_id};
use crate::table::ellipsis;
use crate::units;

const CREATED_BY_WIDTH: usize = 45;

const FLAGS: &[Flag] = &[
    text("format", None, "Show by a Go template, or json"),
    value("human", Some('H'), Kind::SwitchOn, "Show sizes and times in words"),
    switch("no-trunc", None, "Cut nothing short"),
    text("platform", None, "Refuse an image that is for another platform (linux/arm64)"),
    switch("quiet", Some('q'), "Show ids only"),
];

pub const COMMAND: Command = Command {
    paths: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the layers of an image and what made them",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let human = m.switch("human").unwrap_or(true);
    let created = if human { "CreatedSince" } else { "CreatedAt" };
    let style = Style::parse(
        m.text("format"),
        &format!("table {{{{.ID}}}}\t{{{{.{created}}}}}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}"),
    )?;
    let request = Request::get(image_path(&m.positionals[0], "/history")?).query_opt("platform", platform_query(m.text("platform"))?);
    let layers: Vec<Value> = context.client()?.send(request)?.json()?;
    let full = m.on("no-trunc");
    let rows: Vec<Row> = layers
        .iter()
        .map(|layer| {
            let id = field(layer, "/Id");
            let instruction = field(layer, "/CreatedBy").replace(['\t', '\n'], " ");
            let (then, bytes) = (int(layer, "/Created"), int(layer, "/Size"));
            Row::new([
                ("ID", if full { id.to_owned() } else { short_id(id).to_owned() }),
                ("CreatedSince", if human { units::ago(then) } else { units::local_rfc3339(then) }),
                ("CreatedAt", units::local_rfc3339(then)),
                ("CreatedBy", if full { instruction } else { ellipsis(&instruction, CREATED_BY_WIDTH) }),
                ("Size", if human { units::size(bytes) } else { bytes.to_string() }),
                ("Comment", field(layer, "/Comment").to_owned()),
            ])
        })
        .collect();
    if m.on("quiet") && m.text("format").is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row.fields["ID"].as_str().unwrap_or_default())).collect();
        print(&ids)?;
        return Ok(0);
    }
    style.print(HEADERS, &rows)?;
    Ok(0)
}
