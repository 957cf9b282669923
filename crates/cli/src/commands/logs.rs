//! `logs`: what a container wrote.

use std::io::Write;

use anyhow::{Context as _, Result};
use client::{Request, frames};
use serde_json::Value;

use super::container_path;
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::terminal;
use crate::units::parse_moment;

const FLAGS: &[Flag] = &[
    switch("details", None, "Show what --log-opt labels, env and tag say with each line"),
    switch("follow", Some('f'), "Go on as more is written"),
    text("since", None, "Only what was written since then (10m, 2026-01-02T15:04:05, Unix time)"),
    text("tail", Some('n'), "Number of lines from the end, or all"),
    switch("timestamps", Some('t'), "Show when each line was written"),
    text("until", None, "Only what was written before then"),
];

pub const COMMAND: Command = Command {
    paths: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Show what a container wrote",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let moment = |flag: &str| m.text(flag).map(parse_moment).transpose().map_err(|reason| anyhow::anyhow!("--{flag}: {reason}"));
    let (since, until) = (moment("since")?, moment("until")?);
    let client = context.client()?;
    let name = &m.positionals[0];
    let request = Request::get(container_path(name, "/logs")?)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_flag("follow", m.on("follow"))
        .query_flag("timestamps", m.on("timestamps"))
        .query_flag("details", m.on("details"))
        .query("tail", m.text("tail").unwrap_or("all"))
        .query_opt("since", since)
        .query_opt("until", until);
    let mut response = client.send(request)?;
    let framed = match response.header("content-type") {
        Some("application/vnd.docker.multiplexed-stream") => true,
        Some("application/vnd.docker.raw-stream") if client.version() >= client::ApiVersion::new(1, 42) => false,
        // Older engines do not tell.
        _ => client.send(Request::get(container_path(name, "/json")?))?.json::<Value>()?["Config"]["Tty"] != true,
    };
    let (mut out, mut err) = (terminal::stdout(), terminal::stderr());
    if framed {
        frames::demultiplex(response, &mut out, &mut err).context("read the logs")?;
    } else {
        std::io::copy(&mut response, &mut out).context("read the logs")?;
    }
    out.flush()?;
    Ok(0)
}
