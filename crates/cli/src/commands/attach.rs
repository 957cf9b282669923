//! `attach`: our streams on a running container.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use super::{container_path, session};
use crate::attach::{self, Session, Target};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Kind, Matches, switch, text, value};
use crate::terminal;

const FLAGS: &[Flag] = &[
    text("detach-keys", None, "Keys that leave the container running (ctrl-p,ctrl-q)"),
    switch("no-stdin", None, "Leave STDIN unconnected"),
    value("sig-proxy", None, Kind::SwitchOn, "Hand signals on to the container"),
];

pub const COMMAND: Command = Command {
    paths: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Connect the terminal to a running container",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let client = context.client()?;
    let name = &m.positionals[0];
    let container: Value = client.send(Request::get(container_path(name, "/json")?))?.json()?;
    let state = &container["State"];
    if state["Running"] != true {
        bail!("{name} does not run: only a running container can be attached to; start it with `{} start -a {name}`", context.program);
    }
    if state["Paused"] == true {
        bail!("{name} is paused: unpause it first");
    }
    if state["Restarting"] == true {
        bail!("{name} is restarting: wait until it runs");
    }
    let tty = container["Config"]["Tty"] == true;
    let stdin = !m.on("no-stdin") && container["Config"]["OpenStdin"] == true;
    if tty && stdin && !terminal::stdin_is_terminal() {
        bail!("the input device is not a TTY, but the container has one");
    }
    let id = container["Id"].as_str().unwrap_or(name);
    let session = Session {
        target: Target::Container(id.to_owned()),
        tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: attach::parse_detach_keys(m.text("detach-keys"))?,
        forward_signals: m.switch("sig-proxy").unwrap_or(true),
    };
    let queue = attach::block_signals(session.forward_signals, tty)?;
    let connection = session::attach(client, id, &session, false, m.text("detach-keys"))?;
    let running = attach::start(&session, connection)?;
    session::wait(client, id, "not-running", running.sender.clone())?;
    attach::redraw(client, &session);
    attach::follow_signals(client, &session, queue, running.sender.clone());
    session::follow(&running, true)
}
