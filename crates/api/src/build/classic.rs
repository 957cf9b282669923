//! Docker's own stream of a build: instructions counted and told one after the other.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use engine::Engine;
use engine::build::{Note, RunningBuild, StepText};
use futures_util::stream;
use hyper::header;
use serde_json::{Value, json};
use types::Id;
use types::build::{BuildResult, ContextSource, Vertex};

use super::params;
use crate::error::Failure;
use crate::http::{JSON, Outcome, Request, TAR, streamed};
use crate::registry_auth;
use crate::streams::progress_line;

const STDERR: u8 = 2;

/// A request of any client of Docker.
pub async fn build(engine: Arc<Engine>, request: Request) -> Outcome {
    let mut build = params::decode(&request.query)?;
    build.credentials = registry_auth::all_credentials(&request.headers)?;
    let is_quiet = request.query.flag("q");
    if matches!(build.request.context, ContextSource::Archive) {
        check_type(&request)?;
        build.archive = Some(request.upload());
    }
    let prepared = engine.prepare_build(build).await.map_err(|error| Failure::of(&error))?;
    let telling = Telling { running: Some(prepared.start()), teller: Teller::new(is_quiet), lines: VecDeque::new() };
    Ok(streamed(JSON, stream::unfold(telling, |mut telling| async move { telling.next().await.map(|line| (line, telling)) })))
}

/// An archive is expected; clients differ in how they call it.
fn check_type(request: &Request) -> Result<(), Failure> {
    let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(TAR);
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence {
        TAR
        | "application/tar"
        | "application/octet-stream"
        | "application/gzip"
        | "application/x-gzip"
        | "application/x-xz"
        | "application/x-bzip2" => Ok(()),
        other => Err(Failure::bad(format!("Content-Type {other:?} is not supported. Should be \"{TAR}\""))),
    }
}

struct Telling {
    running: Option<RunningBuild>,
    teller: Teller,
    lines: VecDeque<Value>,
}

impl Telling {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(progress_line(&line));
            }
            let running = self.running.as_mut()?;
            match running.notes.recv().await {
                Some(note) => self.teller.take(note),
                None => {
                    let failed = super::end(running).await;
                    self.running = None;
                    self.teller.end(failed.as_ref());
                }
            }
            self.lines.extend(self.teller.lines.drain(..));
        }
    }
}

/// What is known of a vertex.
#[derive(Default)]
struct Known {
    vertex: Vertex,
    output: Vec<(u8, Vec<u8>)>,
}

/// Puts what happens in any order into the order of the instructions.
struct Teller {
    is_quiet: bool,
    steps: Vec<StepText>,
    /// The instruction that is told now.
    at: usize,
    /// Whether its beginning was told, and the container it is said to run in.
    begun: Option<Option<String>>,
    known: HashMap<String, Known>,
    result: Option<BuildResult>,
    lines: Vec<Value>,
}

impl Teller {
    fn new(is_quiet: bool) -> Self {
        Self { is_quiet, steps: Vec::new(), at: 0, begun: None, known: HashMap::new(), result: None, lines: Vec::new() }
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Steps(steps) => self.steps = steps,
            Note::Event(event) => {
                for vertex in event.vertexes {
                    let known = self.known.entry(vertex.digest.clone()).or_default();
                    known.vertex = vertex;
                }
            }
            Note::Output { vertex, stream, bytes, .. } => self.known.entry(vertex).or_default().output.push((stream, bytes)),
            Note::Result(result) => self.result = Some(*result),
        }
        self.go_on();
    }

    /// Tells as much as can be told now.
    fn go_on(&mut self) {
        while let Some(step) = self.steps.get(self.at).cloned() {
            let is_from = step.text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"));
            if self.begun.is_none() {
                self.stream(format!("Step {}/{} : {}", self.at + 1, self.steps.len(), step.text));
                self.stream("\n".to_owned());
                self.begun = Some(None);
            }
            let is_last = self.at + 1 == self.steps.len();
            let all: Vec<&Vertex> = step.vertexes.iter().filter_map(|vertex| Some(&self.known.get(vertex)?.vertex)).collect();
            let is_done = all.len() == step.vertexes.len() && all.iter().all(|vertex| vertex.completed.is_some());
            if all.iter().any(|vertex| !vertex.error.is_empty()) {
                self.output(&step);
                return;
            }
            let is_cached = if step.vertexes.is_empty() {
                step.is_known
            } else {
                is_done && all.iter().all(|vertex| vertex.cached || vertex.name.contains("FROM"))
            };
            let is_run = step.text.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("run"));
            let runs = !is_from && !is_cached && (is_run && all.iter().any(|vertex| !vertex.miss.is_empty()) || step.vertexes.is_empty());
            if runs && self.begun == Some(None) {
                let container = Id::random().short().to_owned();
                self.stream(format!(" ---> Running in {container}\n"));
                self.begun = Some(Some(container));
            }
            self.output(&step);
            if !is_done || is_last && self.result.is_none() {
                return;
            }
            if !is_from && is_cached {
                self.stream(" ---> Using cache\n".to_owned());
            }
            if let Some(Some(container)) = self.begun.take() {
                self.stream(format!(" ---> Removed intermediate container {container}\n"));
            }
            let id = match &self.result {
                Some(BuildResult { image: Some(image), .. }) if is_last => image.short().to_owned(),
                _ => step.id.clone(),
            };
            self.stream(format!(" ---> {id}\n"));
            self.at += 1;
        }
    }

    /// What the instruction's commands wrote.
    fn output(&mut self, step: &StepText) {
        for vertex in &step.vertexes {
            let Some(known) = self.known.get_mut(vertex) else { continue };
            for (stream, bytes) in std::mem::take(&mut known.output) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                // Docker shows the error stream in red.
                self.stream(if stream == STDERR { format!("\u{1b}[91m{text}\u{1b}[0m") } else { text });
            }
        }
    }

    fn end(&mut self, failed: Option<&engine::build::Error>) {
        self.go_on();
        if let Some(error) = failed {
            let failure = error.failure();
            let mut detail = json!({ "message": failure.message });
            if let Some(code) = failure.exit_code {
                detail["code"] = json!(code);
            }
            self.lines.push(json!({ "errorDetail": detail, "error": failure.message }));
            return;
        }
        let Some(result) = self.result.take() else { return };
        let Some(image) = result.image else { return };
        if self.is_quiet {
            self.lines.push(json!({ "stream": format!("{image}\n") }));
            return;
        }
        self.lines.push(json!({ "aux": { "ID": image } }));
        self.stream(format!("Successfully built {}\n", image.short()));
        for name in result.names {
            self.stream(format!("Successfully tagged {name}\n"));
        }
    }

    fn stream(&mut self, text: String) {
        if !self.is_quiet {
            self.lines.push(json!({ "stream": text }));
        }
    }
}

#[cfg(test)]
mod tests {
    use types::build::BuildEvent;

    use super::*;

    fn step(text: &str, vertexes: &[&str]) -> StepText {
        StepText {
            text: text.to_owned(),
            vertexes: vertexes.iter().map(|&vertex| vertex.to_owned()).collect(),
            id: "0123456789ab".to_owned(),
            is_known: true,
        }
    }

    fn event(digest: &str, is_done: bool, cached: bool) -> Note {
        let vertex = Vertex {
            digest: digest.to_owned(),
            started: Some("t".to_owned()),
            completed: is_done.then(|| "t".to_owned()),
            cached,
            miss: if cached { String::new() } else { "why".to_owned() },
            ..Vertex::default()
        };
        Note::Event(Box::new(BuildEvent { vertexes: vec![vertex], ..BuildEvent::default() }))
    }

    fn told(teller: &Teller) -> String {
        let texts = teller.lines.iter().map(|line| line["stream"].as_str().unwrap_or("…"));
        let text: String = texts.collect();
        text.lines()
            .map(|line| {
                if line.contains("ontainer") || line.contains("Running in") {
                    line.rsplit_once(' ').map_or(line, |(text, _)| text)
                } else {
                    line
                }
            })
            .collect::<Vec<_>>()
            .join("|")
    }

    #[test]
    fn instructions_are_told_in_order_whatever_happens_first() {
        let mut teller = Teller::new(false);
        teller.take(Note::Steps(vec![step("FROM busybox", &["0"]), step("RUN echo hi", &["1"]), step("CMD x", &[])]));
        teller.take(event("1", false, false));
        teller.take(Note::Output { vertex: "1".to_owned(), stream: 1, bytes: b"hi\n".to_vec(), timestamp: String::new() });
        teller.take(event("0", true, false));
        teller.take(event("1", true, false));
        let image = format!("sha256:{}", "a".repeat(64)).parse().ok();
        teller.take(Note::Result(Box::new(BuildResult { image, names: vec!["me/b:1".to_owned()], ..BuildResult::default() })));
        teller.end(None);
        assert_eq!(
            told(&teller),
            "Step 1/3 : FROM busybox| ---> 0123456789ab|Step 2/3 : RUN echo hi| ---> Running in|hi| ---> Removed intermediate container| ---> 0123456789ab|Step 3/3 : CMD x| ---> Using cache| ---> aaaaaaaaaaaa|…Successfully built aaaaaaaaaaaa|Successfully tagged me/b:1"
        );
    }

    #[test]
    fn quiet_tells_the_identifier_alone() {
        let mut teller = Teller::new(true);
        teller.take(Note::Steps(vec![step("FROM scratch", &[])]));
        let image = format!("sha256:{}", "a".repeat(64)).parse().ok();
        teller.take(Note::Result(Box::new(BuildResult { image, ..BuildResult::default() })));
        teller.end(None);
        assert_eq!(teller.lines.len(), 1);
    }
}
