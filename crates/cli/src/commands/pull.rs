//! `pull`: an image from a registry.

use std::io;

use anyhow::{Context as _, Result, bail};
use client::Request;
use types::reference::ImageRef;

use crate::auth;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::progress::{self, Target};
use crate::terminal;

const FLAGS: &[Flag] = &[
    switch("all-tags", Some('a'), "Fetch all tags of the repository"),
    text("platform", None, "Platform, if the image has several (linux/arm64)"),
    switch("quiet", Some('q'), "Print the image's name only"),
];

pub const COMMAND: Command = Command {
    paths: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Fetch an image from a registry",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let image: ImageRef = m.positionals[0].parse()?;
    let (quiet, all) = (m.on("quiet"), m.on("all-tags"));
    if all && !image.is_name_only() {
        bail!("tag can't be used with --all-tags/-a");
    }
    if !all && image.is_name_only() && !quiet {
        print("Using default tag: latest\n")?;
    }
    let image = if all { image } else { image.with_default_tag() };
    pull(context, &image, m.text("platform"), &mut Target { out: &mut io::stdout(), terminal: terminal::stdout_is_terminal(), quiet })?;
    print(&format!("{image}\n"))?;
    Ok(0)
}

/// Fetches the image that a container is to be made of; progress goes to stderr.
pub fn for_run(context: &Context, image: &str, platform: Option<&str>, quiet: bool) -> Result<()> {
    let image: ImageRef = image.parse()?;
    let mut err = io::stderr();
    let terminal = io::IsTerminal::is_terminal(&err);
    pull(context, &image.with_default_tag(), platform, &mut Target { out: &mut err, terminal, quiet })
}

fn pull(context: &Context, image: &ImageRef, platform: Option<&str>, target: &mut Target<'_>) -> Result<()> {
    let tag = image.digest().map(ToString::to_string).or_else(|| image.tag().map(str::to_owned));
    // Without a tag all of them are meant.
    let request =
        Request::post("/images/create").query("fromImage", image.familiar_name()).query_opt("tag", tag).query_opt("platform", platform);
    let request = match auth::header(context, image)? {
        Some(header) => request.header("X-Registry-Auth", header),
        None => request,
    };
    let response = context.client()?.send(request).with_context(|| format!("cannot pull {}", image.familiar()))?;
    progress::show(response, target, &mut |_| {}).with_context(|| format!("cannot pull {}", image.familiar()))
}
