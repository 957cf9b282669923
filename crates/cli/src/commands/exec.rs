//! `exec`: one more process in a running container.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use client::{Client, Request};
use serde_json::{Value, json};

use super::{act, container_path, session};
use crate::attach::{self, Event, Session, Target};
use crate::command::Command;
use crate::context::{Context, Exit};
use crate::create::{Surroundings, environment};
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::terminal;

/// An engine may close the streams a moment before it knows the exit code.
const EXIT_CODE_TIMEOUT: Duration = Duration::from_secs(10);
const EXIT_CODE_POLL: Duration = Duration::from_millis(5);

const FLAGS: &[Flag] = &[
    switch("detach", Some('d'), "Run in the background"),
    text("detach-keys", None, "Keys that leave the command running (ctrl-p,ctrl-q)"),
    list("env", Some('e'), "Set an environment variable (NAME=VALUE, or NAME to hand on one's own)"),
    list("env-file", None, "Read environment variables from a file"),
    switch("interactive", Some('i'), "Connect STDIN"),
    switch("privileged", None, "Give all that the engine itself may do"),
    switch("tty", Some('t'), "Give the command a terminal"),
    text("user", Some('u'), "User, and group after a colon, by name or number"),
    text("workdir", Some('w'), "Working directory inside the container"),
];

pub const COMMAND: Command = Command {
    paths: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Run a command in a running container",
    flags: &[FLAGS],
    arity: Arity::AtLeast(2),
    interspersed: false,
    failure: 1,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let (detach, tty, stdin) = (m.on("detach"), m.on("tty"), m.on("interactive") && !m.on("detach"));
    if tty && stdin && !terminal::stdin_is_terminal() {
        bail!("the input device is not a TTY: leave -t out when stdin is not a terminal");
    }
    let size = if tty && !detach { terminal::size() } else { None };
    let detach_keys = attach::parse_detach_keys(m.text("detach-keys"))?;
    let client = context.client()?;
    let answer: Value = client.send(Request::post(container_path(&m.positionals[0], "/exec")?).json(&exec_body(m, size)?))?.json()?;
    let id = answer["Id"].as_str().context("the engine's answer has no id")?.to_owned();
    let mut start = json!({"Detach": detach, "Tty": tty});
    if let Some((rows, columns)) = size {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let request = Request::post(format!("/exec/{id}/start")).json(&start);
    if detach {
        act(client, request)?;
        return Ok(0);
    }
    let session = Session { target: Target::Exec(id.clone()), tty, stdin, stdout: true, stderr: true, detach_keys, forward_signals: false };
    let queue = attach::block_signals(false, tty)?;
    let connection = client.hijack(request).map_err(|error| {
        let message = error.to_string();
        Exit::with(session::start_failure_code(&message).max(1), message)
    })?;
    let running = attach::start(&session, connection)?;
    attach::follow_signals(client, &session, queue, running.sender.clone());
    match running.events.recv().context("follow the command")? {
        Event::Detached => Ok(0),
        Event::Signalled(signal) => Ok(session::SIGNAL_EXIT_BASE + signal),
        Event::OutputEnded(Err(cause)) if cause.kind() == std::io::ErrorKind::BrokenPipe => Err(cause.into()),
        Event::OutputEnded(_) | Event::Exited(_) => exit_code(client, &id),
    }
}

fn exec_body(m: &Matches, size: Option<(u16, u16)>) -> Result<Value> {
    let directory = std::env::current_dir().context("find the working directory")?;
    let around = |name: &str| std::env::var(name).ok();
    let attached = !m.on("detach");
    let mut body = json!({
        "AttachStdin": attached && m.on("interactive"), "AttachStdout": attached, "AttachStderr": attached,
        "Tty": m.on("tty"), "Privileged": m.on("privileged"), "Cmd": m.positionals[1..],
    });
    let variables = environment(m, &Surroundings { environment: &around, directory: &directory })?;
    if !variables.is_empty() {
        body["Env"] = variables.into();
    }
    for (key, flag) in [("User", "user"), ("WorkingDir", "workdir"), ("DetachKeys", "detach-keys")] {
        if let Some(text) = m.text(flag) {
            body[key] = text.into();
        }
    }
    if let Some((rows, columns)) = size {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    Ok(body)
}

fn exit_code(client: &Client, id: &str) -> Result<i32> {
    let end = Instant::now() + EXIT_CODE_TIMEOUT;
    loop {
        let exec: Value = client.send(Request::get(format!("/exec/{id}/json")))?.json()?;
        if exec["Running"] != true || Instant::now() > end {
            return Ok(exec["ExitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(1));
        }
        std::thread::sleep(EXIT_CODE_POLL);
    }
}
