//! A container's first process with our streams: what `run`, `start -a` and `attach` have in common.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use client::{Client, Hijacked, Request};
use serde_json::Value;

use super::container_path;
use crate::attach::{Event, Running, Session};
use crate::list::{int, text};

/// Shells show the end by signal N as 128 + N.
pub const SIGNAL_EXIT_BASE: i32 = 128;

/// How long an engine may be away while its containers run on.
const ENGINE_ABSENCE_MAX: Duration = Duration::from_secs(60);
const ENGINE_ABSENCE_POLL: Duration = Duration::from_millis(100);

/// Attaches to a container's streams.
pub fn attach(client: &Client, id: &str, session: &Session, logs: bool, detach_keys: Option<&str>) -> Result<Hijacked> {
    let request = Request::post(container_path(id, "/attach")?)
        .query("stream", "1")
        .query_flag("stdin", session.stdin)
        .query_flag("stdout", session.stdout)
        .query_flag("stderr", session.stderr)
        .query_flag("logs", logs)
        .query_opt("detachKeys", detach_keys);
    Ok(client.hijack(request)?)
}

/// Begins to wait for the container: once this returns the engine knows, so that an end right after the start is not missed.
pub fn wait(client: &Client, id: &str, condition: &str, events: Sender<Event>) -> Result<()> {
    let path = container_path(id, "/wait")?;
    let response = client.send(Request::post(path.as_str()).query("condition", condition))?;
    // What ends while the engine is away has ended by the time it is asked again.
    let again = if condition == "removed" { condition } else { "not-running" }.to_owned();
    let client = client.clone();
    std::thread::spawn(move || {
        let answer = response.json::<Value>().or_else(|error| wait_again(&client, &path, &again, error));
        let code = answer.context("wait for the container").and_then(|answer| exit_code(&answer));
        // Nobody listens any more once the session is over.
        let _ = events.send(Event::Exited(code));
    });
    Ok(())
}

/// A container outlives its engine, so a wait outlives a restart of the engine: it is repeated until an engine answers, or none has come for a while.
fn wait_again(client: &Client, path: &str, condition: &str, mut error: client::Error) -> Result<Value, client::Error> {
    let mut last_answer = Instant::now();
    while error.status().is_none() && last_answer.elapsed() < ENGINE_ABSENCE_MAX {
        std::thread::sleep(ENGINE_ABSENCE_POLL);
        match client.send(Request::post(path).query("condition", condition)) {
            Ok(response) => {
                last_answer = Instant::now();
                match response.json() {
                    Ok(answer) => return Ok(answer),
                    Err(again) => error = again,
                }
            }
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// The exit code out of the answer to a wait.
pub fn exit_code(answer: &Value) -> Result<i32> {
    let message = text(answer, "/Error/Message");
    if !message.is_empty() {
        anyhow::bail!("{message}");
    }
    Ok(i32::try_from(int(answer, "/StatusCode")).unwrap_or(125))
}

/// Follows a session until its end; the result is the container's exit code, or 0 when the user detached.
pub fn follow(running: &Running, expects_output: bool) -> Result<i32> {
    let mut code = None;
    let mut output_ended = !expects_output;
    loop {
        if let (Some(code), true) = (code, output_ended) {
            return Ok(code);
        }
        match running.events.recv().context("follow the container")? {
            Event::Detached => return Ok(0),
            Event::OutputEnded(result) => {
                // A reader of ours that went away ends the session; a broken connection is explained by the wait.
                if let Err(cause) = result
                    && cause.kind() == std::io::ErrorKind::BrokenPipe
                {
                    return Err(cause.into());
                }
                output_ended = true;
            }
            Event::Exited(result) => code = Some(result?),
            Event::Signalled(signal) => return Ok(SIGNAL_EXIT_BASE + signal),
        }
    }
}

/// Exit code for a container that could not be started, from the engine's words: 127 for a command that is not there, 126 for one that cannot be executed.
pub fn start_failure_code(message: &str) -> i32 {
    let words = message.to_lowercase();
    // A mount whose source is not there has the same errno, but is no fault of the command.
    let of_command = words.contains("exec \"") || words.contains("exec: \"");
    if !of_command {
        125
    } else if words.contains("executable file not found")
        || words.contains("no such file or directory")
        || words.contains("command not found")
    {
        127
    } else if words.contains("permission denied") || words.contains("is a directory") || words.contains("exec format error") {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_are_told_apart() {
        assert_eq!(start_failure_code("exec: \"/no/such\": stat /no/such: no such file or directory: unknown"), 127);
        assert_eq!(start_failure_code("exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(start_failure_code("exec: \"/etc\": permission denied"), 126);
        assert_eq!(start_failure_code("exec: \"/etc\": is a directory"), 126);
        assert_eq!(start_failure_code("exec \"/x\": exec format error"), 126);
        assert_eq!(start_failure_code("port is already allocated"), 125);
        assert_eq!(start_failure_code("mount /missing on /in: no such file or directory"), 125);
    }
}
