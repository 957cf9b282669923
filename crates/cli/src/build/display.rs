//! How a build is shown while it runs: as a live tree on a terminal, as plain lines, as the engine's own documents, or not at all.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use types::build::{BuildEvent, BuildFailure, BuildResult, BuildWarning, Vertex, VertexLog, VertexStatus};

use crate::terminal;
use crate::units::size4;

/// Output lines that are kept of each step, for the end of a failed build.
const TAIL_LINES: usize = 40;
/// Output lines that the tree shows below a running step.
const TREE_OUTPUT_LINES: usize = 4;
/// A line of output that goes on for longer is broken.
const LINE_BYTES_MAX: usize = 64 << 10;
const EVENT_BYTES_MAX: u64 = 64 << 20;
const EVENTS_WAITING_MAX: usize = 256;
const REDRAW_EVERY: Duration = Duration::from_millis(100);
const TREE_WIDTH_DEFAULT: u16 = 80;
const TREE_HEIGHT_DEFAULT: u16 = 24;
const RULE: &str = "------";

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A tree that is drawn again and again.
    Tree,
    /// One line after the other.
    Plain,
    /// The engine's documents as they come.
    Raw,
    /// Nothing but errors.
    Quiet,
}

/// What a build came to.
pub struct Outcome {
    /// What was made, or why nothing was.
    pub end: Result<BuildResult, Box<BuildFailure>>,
    /// What the lint found.
    pub warnings: Vec<BuildWarning>,
}

impl Mode {
    /// From `--progress`, which `BUILDKIT_PROGRESS` stands in for.
    pub fn parse(text: Option<&str>, quiet: bool) -> Result<Self> {
        let environment = std::env::var("BUILDKIT_PROGRESS").ok();
        let text = text.or(environment.as_deref()).unwrap_or("auto");
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Ok(match text {
            _ if quiet => Self::Quiet,
            "auto" | "" if terminal => Self::Tree,
            "auto" | "" | "plain" => Self::Plain,
            "tty" if terminal => Self::Tree,
            "tty" => bail!("--progress tty: standard error is no terminal"),
            "rawjson" => Self::Raw,
            "quiet" | "none" => Self::Quiet,
            _ => bail!("invalid progress mode {text:?}: expected auto, tty, plain, rawjson or quiet"),
        })
    }
}

/// Shows the events of `source` on `out` until the end of the build.
pub fn show(source: impl Read + Send + 'static, mode: Mode, explain: bool, out: &mut dyn Write) -> Result<Outcome> {
    let (sender, receiver) = sync_channel(EVENTS_WAITING_MAX);
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        loop {
            let event = next_event(&mut source);
            let last = !matches!(event, Ok(Some(_)));
            if sender.send(event).is_err() || last {
                return;
            }
        }
    });
    let mut build = Build { explain, ..Build::default() };
    let result = match mode {
        Mode::Tree => build.tree(&receiver, out),
        _ => build.lines(&receiver, mode, out),
    };
    result?;
    let end = match (build.result.take(), build.failure.take()) {
        (_, Some(failure)) => Err(Box::new(failure)),
        (Some(result), None) => Ok(result),
        (None, None) => bail!("the engine ended the answer in the middle"),
    };
    if let Err(failure) = &end {
        build.epilogue(failure, out)?;
    }
    Ok(Outcome { end, warnings: build.warnings })
}

type Event = io::Result<Option<(Vec<u8>, BuildEvent)>>;

fn next_event(source: &mut impl BufRead) -> Event {
    loop {
        let mut line = Vec::new();
        source.by_ref().take(EVENT_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event = serde_json::from_slice(&line).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        return Ok(Some((line, event)));
    }
}

/// A step as far as it is known.
#[derive(Default)]
struct Step {
    vertex: Vertex,
    /// Since when it runs, by our own clock.
    since: Option<Instant>,
    /// The last lines of its output.
    tail: VecDeque<String>,
    /// Output without a line's end so far.
    open: Vec<u8>,
    statuses: Vec<VertexStatus>,
    announced: bool,
    ended: bool,
}

#[derive(Default)]
struct Build {
    steps: Vec<Step>,
    warnings: Vec<BuildWarning>,
    result: Option<BuildResult>,
    failure: Option<BuildFailure>,
    explain: bool,
    /// The step whose line was written last.
    current: Option<usize>,
    /// Lines of the tree on the screen.
    drawn: usize,
    started: Option<Instant>,
}

impl Build {
    fn lines(&mut self, events: &Receiver<Event>, mode: Mode, out: &mut dyn Write) -> Result<()> {
        while let Ok(event) = events.recv() {
            let Some((line, event)) = event? else { break };
            if mode == Mode::Raw {
                out.write_all(&line)?;
            }
            let plain = mode == Mode::Plain;
            self.take(event, &mut |build, step, what| if plain { build.plain(step, what, out) } else { Ok(()) })?;
            out.flush()?;
        }
        Ok(())
    }

    /// Takes an event in; `tell` is told of each change.
    fn take(&mut self, event: BuildEvent, tell: &mut dyn FnMut(&mut Self, usize, What<'_>) -> io::Result<()>) -> io::Result<()> {
        self.started.get_or_insert_with(Instant::now);
        for vertex in event.vertexes {
            let index = self.step(&vertex.digest);
            let step = &mut self.steps[index];
            if vertex.started.is_some() && step.since.is_none() {
                step.since = Some(Instant::now());
            }
            let begins = !step.announced && (vertex.started.is_some() || vertex.cached || vertex.completed.is_some());
            let ends = !step.ended && (vertex.completed.is_some() || !vertex.error.is_empty());
            step.vertex = vertex;
            if begins {
                self.steps[index].announced = true;
                tell(self, index, What::Begin)?;
            }
            if ends {
                self.steps[index].ended = true;
                let open = std::mem::take(&mut self.steps[index].open);
                if !open.is_empty() {
                    self.output_line(index, &open, tell)?;
                }
                tell(self, index, What::End)?;
            }
        }
        for status in event.statuses {
            let index = self.step(&status.vertex);
            let known = self.steps[index].statuses.iter_mut().find(|known| known.id == status.id);
            let news = match known {
                Some(known) => {
                    let news = known.completed.is_none() && status.completed.is_some();
                    *known = status.clone();
                    news
                }
                None => {
                    self.steps[index].statuses.push(status.clone());
                    true
                }
            };
            if news {
                tell(self, index, What::Status(&status))?;
            }
        }
        for log in event.logs {
            self.log(&log, tell)?;
        }
        self.warnings.extend(event.warnings);
        self.result = event.result.or(self.result.take());
        self.failure = event.error.or(self.failure.take());
        Ok(())
    }

    fn step(&mut self, digest: &str) -> usize {
        if let Some(index) = self.steps.iter().position(|step| step.vertex.digest == digest) {
            return index;
        }
        self.steps.push(Step { vertex: Vertex { digest: digest.to_owned(), ..Vertex::default() }, ..Step::default() });
        self.steps.len() - 1
    }

    fn log(&mut self, log: &VertexLog, tell: &mut dyn FnMut(&mut Self, usize, What<'_>) -> io::Result<()>) -> io::Result<()> {
        let index = self.step(&log.vertex);
        let data = BASE64_STANDARD.decode(&log.data).unwrap_or_default();
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            self.steps[index].open.extend_from_slice(part);
            let open = &self.steps[index].open;
            if open.ends_with(b"\n") || open.len() > LINE_BYTES_MAX {
                let line = std::mem::take(&mut self.steps[index].open);
                self.output_line(index, &line, tell)?;
            }
        }
        Ok(())
    }

    fn output_line(
        &mut self,
        index: usize,
        line: &[u8],
        tell: &mut dyn FnMut(&mut Self, usize, What<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let text = harmless(&String::from_utf8_lossy(line));
        let tail = &mut self.steps[index].tail;
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.clone());
        tell(self, index, What::Output(&text))
    }

    /// One change as lines of text.
    fn plain(&mut self, index: usize, what: What<'_>, out: &mut dyn Write) -> io::Result<()> {
        let number = index + 1;
        let step = &self.steps[index];
        if self.current != Some(index) {
            if self.current.is_some() {
                writeln!(out)?;
            }
            writeln!(out, "#{number} {}", step.vertex.name)?;
        }
        let seconds = step.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        match what {
            What::Begin if !step.vertex.miss.is_empty() => writeln!(out, "#{number} not cached: {}", step.vertex.miss)?,
            What::Begin => {}
            What::Output(line) => writeln!(out, "#{number} {seconds:.3} {line}")?,
            What::Status(status) => {
                let done = if status.completed.is_some() { " done" } else { "" };
                writeln!(out, "#{number} {}{done}", status_text(status))?;
            }
            What::End if !step.vertex.error.is_empty() => writeln!(out, "#{number} ERROR: {}", step.vertex.error)?,
            What::End if step.vertex.cached => writeln!(out, "#{number} CACHED")?,
            What::End => writeln!(out, "#{number} DONE {:.1}s", step.seconds())?,
        }
        self.current = Some(index);
        Ok(())
    }

    fn tree(&mut self, events: &Receiver<Event>, out: &mut dyn Write) -> Result<()> {
        let mut next = Instant::now();
        loop {
            match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    let Some((_, event)) = event? else { break };
                    self.take(event, &mut |_, _, _| Ok(()))?;
                    if Instant::now() < next {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.draw(out, false)?;
            next = Instant::now() + REDRAW_EVERY;
        }
        self.draw(out, true)?;
        Ok(())
    }

    fn draw(&mut self, out: &mut dyn Write, last: bool) -> io::Result<()> {
        let (rows, columns) = terminal::size().unwrap_or((TREE_HEIGHT_DEFAULT, TREE_WIDTH_DEFAULT));
        let lines = self.picture(usize::from(columns), last);
        // What does not fit on the screen could not be drawn over again.
        let fits = if last { lines.len() } else { usize::from(rows).saturating_sub(2).max(1) };
        let skipped = lines.len().saturating_sub(fits);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J");
        self.drawn = 0;
        for (_, line) in lines.iter().enumerate().filter(|(index, _)| *index == 0 || *index > skipped) {
            text.push_str(line);
            text.push('\n');
            self.drawn += 1;
        }
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The tree as lines, the first one about the whole.
    fn picture(&self, width: usize, last: bool) -> Vec<String> {
        let shown: Vec<&Step> = self.steps.iter().filter(|step| step.announced).collect();
        let done = shown.iter().filter(|step| step.ended).count();
        let total = self.steps.iter().filter(|step| !step.vertex.name.is_empty()).count();
        let seconds = self.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let finished = if last && self.failure.is_none() { " FINISHED" } else { "" };
        let mut lines = vec![format!("[+] Building {seconds:.1}s ({done}/{total}){finished}")];
        for step in shown {
            let mark = match (&step.vertex, step.ended) {
                (vertex, _) if !vertex.error.is_empty() => "ERROR ",
                (vertex, _) if vertex.cached => "CACHED ",
                _ => "",
            };
            let time = format!("{:.1}s", step.seconds());
            lines.push(row(&format!(" => {mark}{}", step.vertex.name), &time, width));
            if self.explain && !step.vertex.miss.is_empty() {
                lines.push(row(&format!(" => => not cached: {}", step.vertex.miss), "", width));
            }
            if step.ended {
                continue;
            }
            for status in step.statuses.iter().filter(|status| status.completed.is_none()) {
                lines.push(row(&format!(" => => {}", status_text(status)), "", width));
            }
            for line in step.tail.iter().skip(step.tail.len().saturating_sub(TREE_OUTPUT_LINES)) {
                lines.push(row(&format!(" => => # {line}"), "", width));
            }
        }
        lines
    }

    /// What a failed build ends with: the step's last output, and where in the Dockerfile it stands.
    fn epilogue(&self, failure: &BuildFailure, out: &mut dyn Write) -> io::Result<()> {
        if let Some(step) = self.steps.iter().find(|step| !failure.vertex.is_empty() && step.vertex.digest == failure.vertex) {
            writeln!(out, "{RULE}\n > {}:", step.vertex.name)?;
            for line in &step.tail {
                writeln!(out, "{line}")?;
            }
            if !step.open.is_empty() {
                writeln!(out, "{}", harmless(&String::from_utf8_lossy(&step.open)))?;
            }
            writeln!(out, "{RULE}")?;
        }
        if !failure.excerpt.is_empty() {
            writeln!(out, "{}", failure.excerpt.trim_end())?;
        }
        out.flush()
    }
}

enum What<'a> {
    Begin,
    Output(&'a str),
    Status(&'a VertexStatus),
    End,
}

impl Step {
    /// How long it runs or ran.
    fn seconds(&self) -> f64 {
        let moment = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
        match (moment(&self.vertex.started), moment(&self.vertex.completed)) {
            (Some(started), Some(completed)) => completed.duration_since(started).as_secs_f64().max(0.0),
            _ if self.ended => 0.0,
            _ => self.since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
        }
    }
}

fn status_text(status: &VertexStatus) -> String {
    let name = harmless(if status.name.is_empty() { &status.id } else { &status.name });
    let bytes = |count: u64| size4(i64::try_from(count).unwrap_or(i64::MAX));
    match (status.current, status.total) {
        (0, 0) => name,
        (current, 0) => format!("{name} {}", bytes(current)),
        (current, total) => format!("{name} {} / {}", bytes(current), bytes(total)),
    }
}

/// A line of the given width, the time at its end.
fn row(text: &str, time: &str, width: usize) -> String {
    let room = width.saturating_sub(time.len());
    let cut: String = text.chars().take(room.saturating_sub(1)).collect();
    let fill = room.saturating_sub(cut.chars().count());
    format!("{cut}{}{time}", " ".repeat(fill)).trim_end().to_owned()
}

/// A line of a step's output, without what would move the cursor; of lines written over each other the last one.
fn harmless(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    let line = line.rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' if letters.next_if_eq(&'[').is_some() => {
                while letters.next_if(|letter| !letter.is_ascii_alphabetic()).is_some() {}
                letters.next();
            }
            '\t' => out.push_str("    "),
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events() -> Vec<u8> {
        let log = |text: &str| BASE64_STANDARD.encode(text);
        let events = [
            json!({"vertexes": [{"digest": "a", "name": "[1/2] FROM x", "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z", "cached": true}]}),
            json!({"vertexes": [{"digest": "b", "name": "[2/2] RUN make", "started": "2026-01-01T00:00:00Z", "miss": "the command changed"}]}),
            json!({"logs": [{"vertex": "b", "stream": 1, "data": log("one\ntw")}, {"vertex": "b", "stream": 2, "data": log("o\n\u{1b}[31mthree\r\n")}]}),
            json!({"vertexes": [{"digest": "b", "name": "[2/2] RUN make", "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:02.5Z", "error": "exit code: 7"}]}),
            json!({"error": {"message": "exit code: 7", "vertex": "b", "exitCode": 7, "excerpt": "Dockerfile:2\n"}}),
        ];
        events.iter().flat_map(|event| format!("{event}\n").into_bytes()).collect()
    }

    fn shown(bytes: Vec<u8>, mode: Mode) -> (String, Result<Outcome>) {
        let mut out = Vec::new();
        let outcome = show(io::Cursor::new(bytes), mode, false, &mut out);
        (String::from_utf8(out).expect("text"), outcome)
    }

    #[test]
    fn plain_lines_tell_steps_apart_and_end_with_the_failure() {
        let (text, outcome) = shown(events(), Mode::Plain);
        let untimed: Vec<String> =
            text.lines().map(|line| line.split(' ').filter(|word| !word.starts_with("0.")).collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "#1 [1/2] FROM x",
            "#1 CACHED",
            "",
            "#2 [2/2] RUN make",
            "#2 not cached: the command changed",
            "#2 one",
            "#2 two",
            "#2 three",
            "#2 ERROR: exit code: 7",
            "------",
            " > [2/2] RUN make:",
            "one",
            "two",
            "three",
            "------",
            "Dockerfile:2",
        ];
        assert_eq!(untimed, expected);
        let failure = outcome.expect("ends").end.expect_err("failed");
        assert_eq!(failure.exit_code, Some(7));
    }

    #[test]
    fn raw_documents_come_as_they_are() {
        let (text, _) = shown(events(), Mode::Raw);
        assert!(text.starts_with(&String::from_utf8(events()).expect("text")));
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let event = json!({"vertexes": [{"digest": "a", "name": "x"}]}).to_string();
        assert!(shown(event.into_bytes(), Mode::Quiet).1.is_err());
        assert!(shown(b"{\"vertexes\":".to_vec(), Mode::Quiet).1.is_err());
        let (text, outcome) = shown(b"{\"result\":{\"names\":[\"x\"]}}\n".to_vec(), Mode::Quiet);
        assert_eq!((text.as_str(), outcome.expect("ends").end.expect("is there").names.len()), ("", 1));
    }

    #[test]
    fn a_tree_fits_its_width_and_marks_steps() {
        let (text, _) = shown(events(), Mode::Tree);
        assert!(text.contains(" => CACHED [1/2] FROM x") && text.contains(" => ERROR [2/2] RUN make"), "{text}");
        assert_eq!((row("abc", "1.0s", 12).as_str(), row(&"x".repeat(50), "1.0s", 12).as_str()), ("abc     1.0s", "xxxxxxx 1.0s"));
        assert_eq!(harmless("a\u{1b}[2Jb\u{7}\tc\rd\n"), "d");
    }
}
