//! `import`: an image from the archive of a root file system.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context as _, Result, bail};
use client::Request;
use types::reference::ImageRef;

use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, list, text};
use crate::progress::{self, Target};
use crate::terminal;

const FLAGS: &[Flag] = &[
    list("change", Some('c'), "Apply an instruction of a Dockerfile to the image (CMD, ENV, EXPOSE, …)"),
    text("message", Some('m'), "Remark for the image's history"),
    text("platform", None, "Platform of the image (linux/arm64)"),
];

pub const COMMAND: Command = Command {
    paths: &["image import", "import"],
    usage: "[OPTIONS] FILE|- [REPOSITORY[:TAG]]",
    about: "Make an image from the archive of a root file system",
    flags: &[FLAGS],
    arity: Arity::Between(1, 2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let source = &m.positionals[0];
    if source.contains("://") {
        bail!("{source}: fetching is not served; fetch it with another program and give the file, or - for stdin");
    }
    let name = m.positional(1).map(str::parse::<ImageRef>).transpose()?.map(ImageRef::with_default_tag);
    let mut file;
    let mut stdin;
    let reader: &mut dyn Read = if source == "-" {
        stdin = io::stdin().lock();
        &mut stdin
    } else {
        file = File::open(source).with_context(|| format!("open {source}"))?;
        &mut file
    };
    let mut request = Request::post("/images/create")
        .query("fromSrc", "-")
        .query_opt("message", m.text("message"))
        .query_opt("platform", m.text("platform"))
        .query_opt("repo", name.as_ref().map(ImageRef::familiar_name))
        .query_opt("tag", name.as_ref().and_then(ImageRef::tag));
    for change in m.list("change") {
        request = request.query("changes", change);
    }
    let response = context.client()?.send(request.stream("application/x-tar", reader))?;
    progress::show(response, &mut Target { out: &mut io::stdout(), terminal: terminal::stdout_is_terminal(), quiet: false }, &mut |_| {})?;
    Ok(0)
}
