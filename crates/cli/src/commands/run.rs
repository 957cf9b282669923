//! `run`: create, attach, start, and hand the exit code on.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use client::{Client, Request};
use serde_json::Value;

use super::{act, container_path, create, session};
use crate::attach::{self, Session, Target};
use crate::command::Command;
use crate::context::{Context, Exit, describe, print};
use crate::create::{CONTAINER_FLAGS, LIMIT_FLAGS, Plan, RESOURCE_FLAGS, SETTINGS_FLAGS};
use crate::flags::{Arity, Flag, Kind, Matches, switch, text, value};
use crate::terminal;

const FLAGS: &[Flag] = &[
    switch("detach", Some('d'), "Run in the background and print the container's id"),
    text("detach-keys", None, "Keys that leave the container running (ctrl-p,ctrl-q)"),
    switch("trace-start", None, "Show when each step of the start was done, in microseconds"),
    value("sig-proxy", None, Kind::SwitchOn, "Hand signals on to the container"),
];

pub const COMMAND: Command = Command {
    paths: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a container from an image and run a command in it",
    flags: &[CONTAINER_FLAGS, RESOURCE_FLAGS, LIMIT_FLAGS, SETTINGS_FLAGS, FLAGS],
    arity: Arity::AtLeast(1),
    interspersed: false,
    failure: 125,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let begun = m.on("trace-start").then(SystemTime::now);
    let plan = create::read(m, m.on("detach"))?;
    let keys = attach::parse_detach_keys(m.text("detach-keys"))?;
    if plan.tty && plan.attach.stdin && !terminal::stdin_is_terminal() {
        return Err(Exit::with(1, "the input device is not a TTY: leave -t out when stdin is not a terminal"));
    }
    if m.on("detach") {
        let id = create::create(context, m, &plan)?;
        start(context, &id, &plan, begun)?;
        print(&format!("{id}\n"))?;
        return Ok(0);
    }
    let streams = plan.attach;
    let mut session = Session {
        target: Target::Container(String::new()),
        tty: plan.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        detach_keys: keys,
        forward_signals: m.switch("sig-proxy").unwrap_or(true),
    };
    let id = create::create(context, m, &plan)?;
    session.target = Target::Container(id.clone());
    let client = context.client()?;
    let queue = attach::block_signals(session.forward_signals, session.tty)?;
    let connection = session::attach(client, &id, &session, false, m.text("detach-keys"))?;
    let running = attach::start(&session, connection)?;
    session::wait(client, &id, if plan.auto_remove { "removed" } else { "next-exit" }, running.sender.clone())?;
    if let Err(error) = start(context, &id, &plan, begun) {
        drop(running);
        return Err(error);
    }
    attach::follow_signals(client, &session, queue, running.sender.clone());
    session::follow(&running, true)
}

/// Starts what was created; a `--rm` container that does not start leaves nothing behind.
fn start(context: &Context, id: &str, plan: &Plan, traced_since: Option<SystemTime>) -> Result<()> {
    let client = context.client()?;
    let request = Request::post(container_path(id, "/start")?);
    let started = match traced_since {
        Some(begun) => client
            .send(request.query("trace", "1"))
            .and_then(|answer| answer.json::<Value>())
            .map(|steps| show_steps(begun, &steps))
            .map_err(anyhow::Error::from),
        None => act(client, request),
    };
    started.map_err(|error| {
        let message = describe(&error);
        let code = session::start_failure_code(&message);
        if plan.auto_remove {
            remove(client, id);
        }
        let name = plan.name.as_deref().unwrap_or(id.get(..12).unwrap_or(id));
        Exit::with(code, format!("cannot start {name}: {message}"))
    })
}

/// The steps of a start, each with the time since the client began and since the step before.
fn show_steps(begun: SystemTime, answer: &Value) {
    let since = |at: SystemTime| at.duration_since(begun).map_or(0, |time| time.as_micros());
    let begun_ns = begun.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mut before = 0;
    let mut line = |at: u128, name: &str| {
        eprintln!("{at:>8} µs {:>+7}  {name}", i128::try_from(at).unwrap_or(i128::MAX) - before);
        before = i128::try_from(at).unwrap_or(i128::MAX);
    };
    line(0, "client: command line read");
    for step in answer["Steps"].as_array().into_iter().flatten() {
        let at = u128::try_from(step["At"].as_i64().unwrap_or_default()).unwrap_or_default();
        line(at.saturating_sub(begun_ns) / 1000, step["Name"].as_str().unwrap_or_default());
    }
    line(since(SystemTime::now()), "client: told that it runs");
}

/// The engine may have removed it already.
fn remove(client: &Client, id: &str) {
    if let Ok(path) = container_path(id, "") {
        let _ = act(client, Request::delete(path).query("force", "1").query("v", "1"));
    }
}
