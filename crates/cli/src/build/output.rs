//! Where a result goes: the image store, a registry, an archive, a folder. The engine builds an image; what else is asked for is made of that image.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use client::Request;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tarball::{Owner, Target, Unpack};
use types::ImageRef;

use super::options::fields;
use crate::commands::{act, container_path, image_path, push, save};
use crate::context::Context;
use crate::flags::{Matches, parse_bool};
use crate::terminal;

/// Where images are named that are only there until they are written elsewhere.
const SCRATCH_NAME: &str = "cais.invalid/output";
const READ_BUFFER_BYTES: usize = 256 << 10;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sink {
    /// The image store.
    Store,
    /// The image store, and from there the registries of its names.
    Push,
    /// An archive of the image.
    Image(String),
    /// An archive of the root file system.
    Tar(String),
    /// The root file system as a folder.
    Folder(String),
    /// Nowhere: what counts is that the steps are known.
    Nothing,
}

/// Where the result of one build goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Outputs {
    sinks: Vec<Sink>,
    /// The names that the image gets.
    pub tags: Vec<String>,
    /// Whether the image is there for as long as it takes only.
    is_temporary: bool,
}

impl Outputs {
    /// Reads `--output`, `--push` and `--load`; `tags` are the names of `--tag`.
    pub fn parse(m: &Matches, tags: Vec<String>) -> Result<Self> {
        let mut outputs = Self { sinks: Vec::new(), tags, is_temporary: false };
        for entry in m.list("output") {
            outputs.add(entry)?;
        }
        if m.on("load") {
            outputs.sinks.push(Sink::Store);
        }
        if m.on("push") {
            if outputs.sinks.iter().any(|sink| !matches!(sink, Sink::Store | Sink::Push)) {
                bail!("--push and --output {} exclude each other", m.list("output").join(" "));
            }
            outputs.sinks.push(Sink::Push);
        }
        if outputs.sinks.iter().filter(|sink| sink.destination() == Some("-")).count() > 1 {
            bail!("only one output can go to standard output");
        }
        if outputs.sinks.contains(&Sink::Push) && outputs.tags.is_empty() {
            bail!("nothing to push: give the image a name with --tag");
        }
        let keeps = outputs.sinks.is_empty() || outputs.sinks.iter().any(|sink| matches!(sink, Sink::Store | Sink::Push));
        let named = outputs.sinks.iter().any(|sink| matches!(sink, Sink::Image(_))) && !outputs.tags.is_empty();
        if !keeps && !named {
            let moment = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            outputs.tags = vec![format!("{SCRATCH_NAME}:{}-{moment}", std::process::id())];
            outputs.is_temporary = true;
        }
        Ok(outputs)
    }

    fn add(&mut self, entry: &str) -> Result<()> {
        if !entry.split(',').next().unwrap_or_default().contains('=') {
            let sink = if entry == "-" { Sink::Tar("-".to_owned()) } else { Sink::Folder(entry.to_owned()) };
            return self.push_sink(sink, entry);
        }
        let mut options = fields(entry)?;
        let kind = options.remove("type").ok_or_else(|| anyhow!("--output {entry} has no type"))?;
        let dest = options.remove("dest");
        if let Some(names) = options.remove("name").filter(|_| matches!(kind.as_str(), "image" | "registry" | "docker" | "oci")) {
            for name in names.split(',') {
                let reference: ImageRef = name.parse().map_err(|cause| anyhow!("--output {entry}: {name:?}: {cause}"))?;
                self.tags.push(reference.with_default_tag().to_string());
            }
        }
        let push = take_switch(&mut options, "push", entry)?;
        let to = |default: &str| dest.clone().unwrap_or_else(|| default.to_owned());
        let sink = match kind.as_str() {
            "image" if push => Sink::Push,
            "registry" => Sink::Push,
            "image" => Sink::Store,
            "docker" if dest.is_none() => Sink::Store,
            "docker" | "oci" => Sink::Image(to("-")),
            "tar" => Sink::Tar(to("-")),
            "local" => Sink::Folder(dest.clone().filter(|dest| dest != "-").ok_or_else(|| anyhow!("--output {entry}: give dest=FOLDER"))?),
            "cacheonly" => Sink::Nothing,
            _ => bail!("--output {entry}: unknown type {kind:?}: expected local, tar, oci, docker, image, registry or cacheonly"),
        };
        if let Some(key) = options.keys().next() {
            bail!("--output {entry}: {key} is not served for type {kind}");
        }
        self.push_sink(sink, entry)
    }

    fn push_sink(&mut self, sink: Sink, entry: &str) -> Result<()> {
        if sink.destination() == Some("-") && terminal::stdout_is_terminal() {
            bail!("--output {entry}: an archive does not belong on a terminal: give dest=FILE, or redirect the output");
        }
        self.sinks.push(sink);
        Ok(())
    }

    /// Takes the finished image to where it belongs. What is temporary is gone afterwards, whatever happened.
    pub fn deliver(&self, context: &Context, image: &str, quiet: bool) -> Result<()> {
        let delivered = self.sinks.iter().try_for_each(|sink| self.one(context, sink, image, quiet));
        if !self.is_temporary {
            return delivered;
        }
        let removed = self.tags.iter().try_for_each(|tag| act(context.client()?, Request::delete(image_path(tag, "")?)));
        delivered.and(removed)
    }

    fn one(&self, context: &Context, sink: &Sink, image: &str, quiet: bool) -> Result<()> {
        match sink {
            Sink::Store | Sink::Nothing => Ok(()),
            Sink::Push => self.tags.iter().try_for_each(|tag| push::image(context, &tag.parse()?, quiet)),
            Sink::Image(dest) => {
                let names: Vec<&str> = if self.is_temporary { vec![image] } else { self.tags.iter().map(String::as_str).collect() };
                let request = names.into_iter().fold(Request::get("/images/get"), |request, name| request.query("names", name));
                save::archive(context, Some(dest), request).map(drop)
            }
            Sink::Tar(dest) => files(context, image, |request| save::archive(context, Some(dest), request).map(drop)),
            Sink::Folder(dest) => files(context, image, |request| unpack(context, request, Path::new(dest))),
        }
    }
}

impl Sink {
    fn destination(&self) -> Option<&str> {
        match self {
            Self::Image(dest) | Self::Tar(dest) | Self::Folder(dest) => Some(dest),
            Self::Store | Self::Push | Self::Nothing => None,
        }
    }
}

/// Hands on the request for the root file system of an image: that of a container which is never started.
fn files(context: &Context, image: &str, take: impl FnOnce(Request<'_>) -> Result<()>) -> Result<()> {
    let client = context.client()?;
    // An image of plain files has no command, and a container needs one.
    let body = json!({ "Image": image, "Cmd": ["none"], "HostConfig": { "NetworkMode": "none" } });
    let made: Value = client.send(Request::post("/containers/create").json(&body))?.json()?;
    let id = made["Id"].as_str().context("the engine named no container")?;
    let taken = container_path(id, "/export").and_then(|path| take(Request::get(path)));
    let removed = act(client, Request::delete(container_path(id, "")?).query_flag("force", true).query_flag("v", true));
    taken.and(removed)
}

fn unpack(context: &Context, request: Request<'_>, folder: &Path) -> Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("make {shown}"))?;
    let opened = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = opened.with_context(|| format!("open {shown}"))?;
    let response = context.client()?.send(request)?;
    let how = Unpack { owner: Owner::Caller, keep_kinds: false, rename: &|path| Some(path.to_vec()) };
    let input = BufReader::with_capacity(READ_BUFFER_BYTES, response);
    tarball::unpack(input, &Target { directory, root: None }, &how).with_context(|| format!("write {shown}"))
}

fn take_switch(options: &mut BTreeMap<String, String>, key: &str, entry: &str) -> Result<bool> {
    match options.remove(key) {
        None => Ok(false),
        Some(value) => parse_bool(&value).ok_or_else(|| anyhow!("--output {entry}: {key}={value}: expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;

    fn read(line: &str, tags: &[&str]) -> Result<Outputs> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let matches = parse(&[super::super::options::FLAGS], true, &args).map_err(|misuse| anyhow!(misuse.0))?;
        Outputs::parse(&matches, tags.iter().map(|tag| (*tag).to_owned()).collect())
    }

    #[test]
    fn outputs_are_read() {
        let sinks = |line: &str| read(line, &["docker.io/a/b:1"]).expect(line).sinks;
        assert_eq!(sinks(""), []);
        assert_eq!(sinks("-o out"), [Sink::Folder("out".to_owned())]);
        assert_eq!(sinks("-o -"), [Sink::Tar("-".to_owned())]);
        assert_eq!(sinks("-o type=tar,dest=x.tar"), [Sink::Tar("x.tar".to_owned())]);
        assert_eq!(sinks("-o type=oci,dest=x.tar -o type=docker"), [Sink::Image("x.tar".to_owned()), Sink::Store]);
        assert_eq!(sinks("-o type=image,push=true"), [Sink::Push]);
        assert_eq!(sinks("--push --load"), [Sink::Store, Sink::Push]);
        let named = read("-o type=registry,name=me/x", &[]).expect("reads");
        assert_eq!(named.tags, ["docker.io/me/x:latest"]);
        let temporary = read("-o out", &["docker.io/a/b:1"]).expect("reads");
        assert!(temporary.is_temporary && temporary.tags[0].starts_with(SCRATCH_NAME));
        assert!(!read("-o out --load", &["docker.io/a/b:1"]).expect("reads").is_temporary);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (line, said) in [
            ("-o type=foo", "unknown type"),
            ("-o dest=x", "no type"),
            ("-o type=local", "give dest=FOLDER"),
            ("-o type=oci,dest=x,compression=zstd", "compression is not served"),
            ("--push", "give the image a name"),
            ("--push -o out", "exclude each other"),
            ("-o - -o type=oci", "only one output"),
        ] {
            let error = read(line, &[]).expect_err(line);
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }
}
