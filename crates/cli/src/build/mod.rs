//! `build`: an image from a Dockerfile.

mod context;
mod display;
mod options;
mod output;

use std::fs;
use std::io::{self, Cursor, Read, Write};

use anyhow::{Context as _, Result, bail};
use client::Request;
use types::build::{BuildRequest, BuildResult, BuildWarning, REQUEST_TYPE};

use crate::auth;
use crate::command::Command;
use crate::context::{Context, Exit, print};
use crate::flags::{Arity, Matches};
use context::{Known, Payload};
use display::Mode;
use output::Outputs;

pub const COMMAND: Command = Command {
    paths: &["image build", "build", "builder build", "buildx build", "buildx b"],
    usage: "[OPTIONS] FOLDER|URL|-",
    about: "Build an image from a Dockerfile",
    flags: &[options::FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

/// What the engine accepts a request of without a body.
const ARCHIVE_BUFFER_BYTES: usize = 256 << 10;

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let mut request = options::request(m)?;
    let outputs = Outputs::parse(m, std::mem::take(&mut request.tags))?;
    request.tags.clone_from(&outputs.tags);
    let mode = Mode::parse(m.text("progress"), m.on("quiet"))?;
    let client = context.client()?;
    let (payload, known) = context::fill(&mut request, m, client.endpoint())?;
    if let Some(known) = &known {
        early(known)?;
    }
    if m.text("call") == Some("targets") {
        return targets(known.as_ref());
    }
    if let Some(path) = m.text("iidfile") {
        remove(path)?;
    }
    let outcome = send(context, &request, payload, known.as_ref(), mode, m.on("explain"))?;
    let Some(result) = end(&request, mode, known.as_ref(), outcome)? else { return Ok(0) };
    if let Some(image) = &result.image {
        outputs.deliver(context, &image.to_string(), mode == Mode::Quiet)?;
    }
    write(m, &result)?;
    report(mode, &result)?;
    Ok(0)
}

/// Refuses a Dockerfile that can't be read before anything is sent, with all that there is to say about it.
fn early(known: &Known) -> Result<()> {
    let Err(error) = dockerfile::parse(known.text.as_bytes()) else { return Ok(()) };
    let excerpt = error.excerpt(&known.name, &known.text).unwrap_or_default();
    eprint!("{excerpt}");
    bail!("{}", error.explain(&known.name))
}

/// Lists the stages.
fn targets(known: Option<&Known>) -> Result<i32> {
    let Some(known) = known else { bail!("--call targets needs a Dockerfile on this side: a folder, or -f -") };
    let file = dockerfile::parse(known.text.as_bytes())?;
    let mut text = String::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let name = stage.name.clone().unwrap_or_else(|| index.to_string());
        let default = if index + 1 == file.stages.len() { " (default)" } else { "" };
        let about = stage.comments.last().and_then(|comment| comment.strip_prefix(&format!("{name} "))).unwrap_or_default();
        text.push_str(format!("{name}{default}  {about}").trim_end());
        text.push('\n');
    }
    print(&text)?;
    Ok(0)
}

fn send(
    context: &Context,
    request: &BuildRequest,
    payload: Payload,
    known: Option<&Known>,
    mode: Mode,
    explain: bool,
) -> Result<display::Outcome> {
    let line = format!("{}\n", serde_json::to_string(request)?);
    let head = Cursor::new(line.into_bytes());
    let mut body: Box<dyn Read + Send> = match payload {
        Payload::None => Box::new(head),
        Payload::Stream(stream) => Box::new(head.chain(stream)),
        Payload::Folder(root, matcher) => {
            let (reader, writer) = io::pipe().context("make a pipe")?;
            std::thread::spawn(move || {
                let mut writer = io::BufWriter::with_capacity(ARCHIVE_BUFFER_BYTES, writer);
                // An archive without its end is refused by the engine; why it broke off is said here.
                if let Err(error) = context::pack(&root, &matcher, &mut writer).and_then(|()| Ok(writer.flush()?)) {
                    eprintln!("cannot send the context: {}", crate::context::describe(&error));
                }
            });
            Box::new(head.chain(reader))
        }
    };
    let mut post = Request::post("/build");
    if let Some(header) = auth::registries(context, &registries(request, known))? {
        post = post.header("X-Registry-Config", header);
    }
    let response = context.client()?.send(post.stream(REQUEST_TYPE, &mut body))?;
    display::show(response, mode, explain, &mut io::stderr())
}

/// The registries that a build may ask: those of its bases, names and caches.
fn registries(request: &BuildRequest, known: Option<&Known>) -> Vec<String> {
    let mut names: Vec<String> = request.tags.clone();
    names.extend(request.cache_from.iter().chain(&request.cache_to).filter_map(|cache| cache.get("ref").cloned()));
    names.extend(request.contexts.values().filter_map(|source| match source {
        types::build::ContextSource::Image { reference } => Some(reference.clone()),
        _ => None,
    }));
    if let Some(file) = known.and_then(|known| dockerfile::parse(known.text.as_bytes()).ok()) {
        names.extend(file.images(&request.args));
    }
    let mut domains: Vec<String> =
        names.iter().filter_map(|name| name.parse::<types::ImageRef>().ok()).map(|name| name.domain().to_owned()).collect();
    domains.sort_unstable();
    domains.dedup();
    domains
}

/// What was made; nothing if only the lint was asked for.
fn end(request: &BuildRequest, mode: Mode, known: Option<&Known>, outcome: display::Outcome) -> Result<Option<BuildResult>> {
    if mode != Mode::Quiet || request.check {
        warn(&outcome.warnings, known, request.check);
    }
    let result = match outcome.end {
        Ok(result) => result,
        Err(failure) => {
            let hint = if failure.hint.is_empty() { String::new() } else { format!("; {}", failure.hint) };
            bail!("{}{hint}", failure.message)
        }
    };
    if request.check {
        checked(&outcome.warnings)?;
        return Ok(None);
    }
    Ok(Some(result))
}

/// Writes the files that are asked for.
fn write(m: &Matches, result: &BuildResult) -> Result<()> {
    if let (Some(path), Some(image)) = (m.text("iidfile"), &result.image) {
        fs::write(path, image.to_string()).with_context(|| format!("write {path}"))?;
    }
    if let Some(path) = m.text("metadata-file") {
        let document = format!("{}\n", serde_json::to_string_pretty(&result.metadata)?);
        fs::write(path, document).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn report(mode: Mode, result: &BuildResult) -> Result<()> {
    match (mode, &result.image) {
        (Mode::Quiet, Some(image)) => print(&format!("{image}\n")),
        (Mode::Plain | Mode::Tree, Some(image)) => {
            let names = if result.names.is_empty() { String::new() } else { format!(" {}", result.names.join(" ")) };
            eprintln!("built {image}{names}");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Tells what the lint found: in full for `--check`, else in a line each.
fn warn(warnings: &[BuildWarning], known: Option<&Known>, full: bool) {
    if warnings.is_empty() {
        return;
    }
    if !full {
        let plural = if warnings.len() == 1 { "warning" } else { "warnings" };
        eprintln!("\n {} {plural} found (see them in full with --check):", warnings.len());
        for warning in warnings {
            eprintln!(" - {}: {} (line {})", warning.rule, warning.message, warning.line);
        }
        return;
    }
    for warning in warnings {
        let url = if warning.url.is_empty() { String::new() } else { format!(" - {}", warning.url) };
        eprintln!("WARNING: {}{url}\n{}\n{}", warning.rule, warning.description, warning.message);
        if let Some(known) = known {
            let lines = dockerfile::Lines { first: warning.line, last: warning.last_line };
            eprint!("{}", dockerfile::excerpt(&known.name, &known.text, lines));
        }
        eprintln!();
    }
}

fn checked(warnings: &[BuildWarning]) -> Result<()> {
    match warnings.len() {
        0 => print("Check complete, no warnings found.\n"),
        1 => Err(Exit::with(1, "check complete, 1 warning has been found")),
        count => Err(Exit::with(1, format!("check complete, {count} warnings have been found"))),
    }
}

fn remove(path: &str) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| format!("remove {path}")),
        _ => Ok(()),
    }
}
