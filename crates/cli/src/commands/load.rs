//! `load`: images from an archive.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context as _, Result, bail};
use client::Request;

use crate::command::Command;
use crate::context::Context;
use crate::flags::{Flag, Matches, switch, text};
use crate::progress::{self, Target};
use crate::terminal;

const FLAGS: &[Flag] = &[
    text("input", Some('i'), "Read this file in place of STDIN"),
    text("platform", None, "Only what is for this platform (linux/arm64)"),
    switch("quiet", Some('q'), "Show no progress"),
];

pub const COMMAND: Command = Command {
    paths: &["image load", "load"],
    usage: "[OPTIONS]",
    about: "Load images from an archive",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut file;
    let mut stdin;
    let source: &mut dyn Read = match m.text("input") {
        Some(path) => {
            file = File::open(path).with_context(|| format!("open {path}"))?;
            &mut file
        }
        None if terminal::stdin_is_terminal() => bail!("no archive: give -i FILE, or connect one to stdin"),
        None => {
            stdin = io::stdin().lock();
            &mut stdin
        }
    };
    let show_progress = terminal::stdout_is_terminal() && !m.on("quiet");
    let platform = super::platform_query(m.text("platform"))?;
    let quiet = if show_progress { "0" } else { "1" };
    let request = Request::post("/images/load").query("quiet", quiet).query_opt("platform", platform).stream("application/x-tar", source);
    let response = context.client()?.send(request)?;
    progress::show(response, &mut Target { out: &mut io::stdout(), terminal: terminal::stdout_is_terminal(), quiet: false }, &mut |_| {})?;
    Ok(0)
}
