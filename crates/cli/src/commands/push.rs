//! `push`: an image to a registry.

use std::io;

use anyhow::{Context as _, Result, bail};
use client::Request;
use types::reference::ImageRef;

use super::image_path;
use crate::auth;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch};
use crate::progress::{self, Target};
use crate::terminal;

const FLAGS: &[Flag] =
    &[switch("all-tags", Some('a'), "Push all tags of the repository"), switch("quiet", Some('q'), "Print the image's name only")];

pub const COMMAND: Command = Command {
    paths: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Send an image to a registry",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let image: ImageRef = m.positionals[0].parse()?;
    let (all, quiet) = (m.on("all-tags"), m.on("quiet"));
    if all && !image.is_name_only() {
        bail!("tag can't be used with --all-tags/-a");
    }
    if image.digest().is_some() {
        bail!("cannot push a digest reference: {}", image.familiar());
    }
    if !all && !quiet && image.is_name_only() {
        print("Using default tag: latest\n")?;
    }
    let image = if all { image } else { image.with_default_tag() };
    one(context, &image, &mut Target { out: &mut io::stdout(), terminal: terminal::stdout_is_terminal(), quiet })?;
    if quiet {
        print(&format!("{image}\n"))?;
    }
    Ok(0)
}

/// Pushes an image that a build made; progress goes to standard error.
pub fn image(context: &Context, image: &ImageRef, quiet: bool) -> Result<()> {
    let mut err = io::stderr();
    let terminal = io::IsTerminal::is_terminal(&err);
    one(context, image, &mut Target { out: &mut err, terminal, quiet })
}

fn one(context: &Context, image: &ImageRef, target: &mut Target<'_>) -> Result<()> {
    let request = Request::post(image_path(&image.familiar_name(), "/push")?).query_opt("tag", image.tag());
    // The engine expects the header, even if it says nothing.
    let request = request.header("X-Registry-Auth", auth::header(context, image)?.unwrap_or_else(|| "e30=".to_owned()));
    let failed = || format!("cannot push {}", image.familiar());
    let response = context.client()?.send(request).with_context(failed)?;
    progress::show(response, target, &mut |_| {}).with_context(failed)
}
