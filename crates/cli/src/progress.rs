//! Progress of pulls and loads: a stream of JSON documents, shown as one line per layer on a terminal and as plain lines elsewhere.

use std::io::{self, BufReader, Read, Write};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::list::{int, text};
use crate::units::size4;

const BAR_WIDTH: usize = 50;

/// Where progress goes.
pub struct Target<'a> {
    /// The writer.
    pub out: &'a mut dyn Write,
    /// Whether it is a terminal.
    pub terminal: bool,
    /// Whether only errors matter.
    pub quiet: bool,
}

/// Shows the documents of `source` until its end; `aux` sees each auxiliary document. An error document becomes the error.
pub fn show(source: impl Read, target: &mut Target<'_>, aux: &mut dyn FnMut(&Value)) -> Result<()> {
    let documents = serde_json::Deserializer::from_reader(BufReader::new(source)).into_iter::<Value>();
    let mut lines: Vec<String> = Vec::new();
    for document in documents {
        let document = match document {
            Ok(document) => document,
            Err(cause) if cause.is_eof() => bail!("the engine ended the answer in the middle"),
            Err(cause) => return Err(cause.into()),
        };
        if let Some(message) = error_of(&document) {
            bail!("{message}");
        }
        if let Some(value) = document.get("aux") {
            aux(value);
            continue;
        }
        if !target.quiet {
            one(&document, target, &mut lines)?;
        }
    }
    target.out.flush()?;
    Ok(())
}

fn error_of(document: &Value) -> Option<String> {
    let detail = text(document, "/errorDetail/message");
    let plain = text(document, "/error");
    let message = if detail.is_empty() { plain } else { detail };
    (!message.is_empty()).then(|| message.to_owned())
}

fn one(document: &Value, target: &mut Target<'_>, lines: &mut Vec<String>) -> io::Result<()> {
    let stream = text(document, "/stream");
    if !stream.is_empty() {
        return write!(target.out, "{}{}", stream.trim_end_matches('\n'), if stream.ends_with('\n') { "\n" } else { "" });
    }
    let (id, status) = (text(document, "/id"), text(document, "/status"));
    let (current, total) = (int(document, "/progressDetail/current"), int(document, "/progressDetail/total"));
    if !target.terminal {
        // Without a terminal only changes of state are worth a line.
        if current > 0 || status.is_empty() {
            return Ok(());
        }
        return if id.is_empty() { writeln!(target.out, "{status}") } else { writeln!(target.out, "{id}: {status}") };
    }
    if id.is_empty() {
        return if status.is_empty() { Ok(()) } else { writeln!(target.out, "{status}") };
    }
    let line = format!("{id}: {status} {}", bar(current, total));
    match lines.iter().rposition(|known| known == id) {
        Some(at) => {
            let up = lines.len() - at;
            write!(target.out, "\x1b[{up}A\r\x1b[2K{}\r\x1b[{up}B", line.trim_end())?;
        }
        None => {
            lines.push(id.to_owned());
            writeln!(target.out, "{}", line.trim_end())?;
        }
    }
    target.out.flush()
}

fn bar(current: i64, total: i64) -> String {
    if current <= 0 {
        return String::new();
    }
    if total <= 0 {
        return size4(current);
    }
    let share = (current.min(total) as f64 / total as f64 * BAR_WIDTH as f64) as usize;
    let head = if share < BAR_WIDTH { ">" } else { "" };
    format!("[{}{head}{}]  {}/{}", "=".repeat(share), " ".repeat(BAR_WIDTH - share - head.len()), size4(current), size4(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str, terminal: bool) -> (String, Option<String>) {
        let mut out = Vec::new();
        let result = show(source.as_bytes(), &mut Target { out: &mut out, terminal, quiet: false }, &mut |_| {});
        (String::from_utf8(out).expect("text"), result.err().map(|error| error.to_string()))
    }

    #[test]
    fn plain_lines_tell_changes_of_state() {
        let source = r#"{"status":"Pulling from x","id":"latest"}{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"abc"}
            {"status":"Pull complete","progressDetail":{},"id":"abc"}{"stream":"Loaded\n"}{"aux":{"ID":"x"}}"#;
        assert_eq!(shown(source, false), ("latest: Pulling from x\nabc: Pull complete\nLoaded\n".to_owned(), None));
    }

    #[test]
    fn errors_end_it() {
        let (out, error) =
            shown(r#"{"status":"one"}{"errorDetail":{"message":"no such layer"},"error":"no such layer"}{"status":"two"}"#, false);
        assert_eq!((out.as_str(), error.as_deref()), ("one\n", Some("no such layer")));
        assert!(shown("{\"status\":", false).1.is_some());
    }

    #[test]
    fn a_terminal_has_one_line_per_layer() {
        let (out, _) =
            shown(r#"{"status":"Downloading","progressDetail":{"current":500,"total":1000},"id":"abc"}{"status":"Done","id":"abc"}"#, true);
        assert!(out.starts_with("abc: Downloading [=========================>                        ]  500B/1kB\n"), "{out:?}");
        assert!(out.ends_with("abc: Done\r\x1b[1B"), "{out:?}");
    }
}
