//! `start`: one container attached, or several in the background.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use super::{act, container_path, session};
use crate::attach::{self, Session, Target};
use crate::command::Command;
use crate::context::{Context, Exit, describe, print};
use crate::flags::{Arity, Flag, Matches, switch, text};

const FLAGS: &[Flag] = &[
    switch("attach", Some('a'), "Show the output and hand signals on"),
    text("detach-keys", None, "Keys that leave the container running (ctrl-p,ctrl-q)"),
    switch("interactive", Some('i'), "Connect STDIN too"),
];

pub const COMMAND: Command = Command {
    paths: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start containers that are stopped",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    if m.on("attach") || m.on("interactive") {
        let [name] = m.positionals.as_slice() else { bail!("only one container at a time can be attached to") };
        return attached(context, m, name);
    }
    let client = context.client()?;
    context.each(&m.positionals, |name| {
        act(client, Request::post(container_path(name, "/start")?)).map_err(|error| error.context(format!("cannot start {name}")))?;
        print(&format!("{name}\n"))
    })
}

fn attached(context: &Context, m: &Matches, name: &str) -> Result<i32> {
    let client = context.client()?;
    let container: Value = client.send(Request::get(container_path(name, "/json")?))?.json()?;
    let id = container["Id"].as_str().unwrap_or(name);
    let tty = container["Config"]["Tty"] == true;
    let session = Session {
        target: Target::Container(id.to_owned()),
        tty,
        stdin: m.on("interactive") && container["Config"]["OpenStdin"] == true,
        stdout: true,
        stderr: true,
        detach_keys: attach::parse_detach_keys(m.text("detach-keys"))?,
        forward_signals: true,
    };
    let queue = attach::block_signals(true, tty)?;
    let connection = session::attach(client, id, &session, false, m.text("detach-keys"))?;
    let running = attach::start(&session, connection)?;
    let condition = if container["HostConfig"]["AutoRemove"] == true { "removed" } else { "next-exit" };
    session::wait(client, id, condition, running.sender.clone())?;
    if let Err(error) = act(client, Request::post(container_path(id, "/start")?)) {
        drop(running);
        return Err(Exit::with(1, format!("cannot start {name}: {}", describe(&error))));
    }
    attach::follow_signals(client, &session, queue, running.sender.clone());
    session::follow(&running, true)
}
