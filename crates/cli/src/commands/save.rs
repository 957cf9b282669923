//! `save`: images into an archive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use client::Request;

use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, text};
use crate::terminal;

const FLAGS: &[Flag] =
    &[text("output", Some('o'), "Write this file in place of STDOUT"), text("platform", None, "Only for this platform (linux/arm64)")];

pub const COMMAND: Command = Command {
    paths: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save images to an archive",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut request = Request::get("/images/get").query_opt("platform", super::platform_query(m.text("platform"))?);
    for name in &m.positionals {
        request = request.query("names", name);
    }
    archive(context, m.text("output"), request)
}

/// Writes the archive that a request brings to a file or to stdout.
pub fn archive(context: &Context, output: Option<&str>, request: Request<'_>) -> Result<i32> {
    let output = output.filter(|path| *path != "-");
    if output.is_none() && terminal::stdout_is_terminal() {
        bail!("an archive is not for a terminal: give -o FILE, or redirect stdout");
    }
    let mut response = context.client()?.send(request)?;
    match output {
        None => {
            let mut out = terminal::stdout();
            io::copy(&mut response, &mut out).context("read the archive")?;
            out.flush()?;
        }
        Some(path) => to_file(&mut response, Path::new(path))?,
    }
    Ok(0)
}

/// Writes beside the target and renames, so that a broken transfer never leaves half an archive under its name. What is no plain file is written in place.
fn to_file(source: &mut client::Response, path: &Path) -> Result<()> {
    let shown = path.display();
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut target = File::options().write(true).open(path).with_context(|| format!("open {shown}"))?;
        io::copy(source, &mut target).with_context(|| format!("write {shown}"))?;
        return Ok(());
    }
    let name = path.file_name().with_context(|| format!("{shown} is not the name of a file"))?;
    let part = path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    let written = File::create_new(&part).and_then(|mut target| io::copy(source, &mut target)).and_then(|_| fs::rename(&part, path));
    if written.is_err() {
        // It may not have been made at all.
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("write {shown}"))
}
