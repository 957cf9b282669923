//! `top`: the processes of a container.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::container_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};
use crate::table::align_with;

const COLUMN_WIDTH_MIN: usize = 20;
const PADDING: usize = 3;

pub const COMMAND: Command = Command {
    paths: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Show the processes of a container",
    arity: Arity::AtLeast(1),
    interspersed: false,
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let arguments = m.positionals[1..].join(" ");
    let request =
        Request::get(container_path(&m.positionals[0], "/top")?).query_opt("ps_args", (!arguments.is_empty()).then_some(arguments));
    let answer: Value = context.client()?.send(request)?.json()?;
    let cells =
        |row: &Value| row.as_array().into_iter().flatten().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    let mut rows = vec![cells(&answer["Titles"])];
    rows.extend(answer["Processes"].as_array().into_iter().flatten().map(cells));
    print(&align_with(&rows, COLUMN_WIDTH_MIN, PADDING))?;
    Ok(0)
}
