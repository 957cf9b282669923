//! `login` and `logout`: users at registries.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, bail};
use client::Request;
use serde_json::{Value, json};

use crate::auth::{Config, Login, server_key};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::list;
use crate::terminal::{self, Silence};

const PASSWORD_BYTES_MAX: u64 = 64 << 10;

const FLAGS: &[Flag] = &[
    text("password", Some('p'), "Password or access token; everybody on the machine can see it while the command runs"),
    switch("password-stdin", None, "Take the password from stdin"),
    text("username", Some('u'), "User name"),
];

pub const COMMAND: Command = Command {
    paths: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Log in to a registry, Docker Hub if none is named",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    run,
    ..Command::BASE
};

pub const LOGOUT: Command = Command {
    paths: &["logout"],
    usage: "[SERVER]",
    about: "Log out of a registry, Docker Hub if none is named",
    arity: Arity::AtMost(1),
    run: logout,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let server = server_key(m.positionals.first().map_or("", String::as_str));
    let mut config = Config::load(context)?;
    let mut login = ask(context, m)?;
    let document = json!({ "username": login.username, "password": login.password, "serveraddress": server });
    let answer: Value = context.client()?.send(Request::post("/auth").json(&document))?.json()?;
    login.token = list::text(&answer, "/IdentityToken").to_owned();
    if config.keep(&server, &login)? {
        let what = if login.token.is_empty() { "password" } else { "token that stands for the password" };
        context.warn(&format!(
            "the {what} is kept unencrypted in {}; a credential helper (credsStore in that file) would keep it safe",
            config.path().display()
        ));
    }
    print(&format!("{}\n", list::text(&answer, "/Status")))?;
    Ok(0)
}

/// User and password from flags, stdin or the terminal.
fn ask(context: &Context, m: &Matches) -> Result<Login> {
    let (username, password) = (m.text("username"), m.text("password"));
    if m.on("password-stdin") {
        if password.is_some() {
            bail!("--password and --password-stdin are mutually exclusive");
        }
        let Some(username) = username else { bail!("--password-stdin needs --username") };
        let mut text = String::new();
        io::stdin().take(PASSWORD_BYTES_MAX).read_to_string(&mut text).context("read the password from stdin")?;
        return checked(username, text.trim_end_matches(['\r', '\n']));
    }
    if password.is_some() {
        context.warn("--password is visible to everybody on this machine; use --password-stdin");
    }
    let has_terminal = terminal::stdin_is_terminal();
    let username = match username {
        Some(username) => username.to_owned(),
        None if has_terminal => prompt("Username: ", true)?,
        None => bail!("cannot ask for the user name without a terminal: give --username and --password-stdin"),
    };
    let password = match password {
        Some(password) => password.to_owned(),
        None if has_terminal => prompt("Password: ", false)?,
        None => bail!("cannot ask for the password without a terminal: give --password-stdin"),
    };
    checked(&username, &password)
}

fn checked(username: &str, password: &str) -> Result<Login> {
    if username.is_empty() || password.is_empty() {
        bail!("a user name and a password are needed");
    }
    if username.contains(':') {
        bail!("a user name has no colon");
    }
    Ok(Login { username: username.to_owned(), password: password.to_owned(), token: String::new() })
}

fn prompt(question: &str, echo: bool) -> Result<String> {
    eprint!("{question}");
    io::stderr().flush()?;
    let mut line = String::new();
    let silence = if echo { None } else { Some(Silence::enter()?) };
    io::stdin().read_line(&mut line).context("read from the terminal")?;
    if silence.is_some() {
        eprintln!();
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn logout(context: &Context, m: &Matches) -> Result<i32> {
    let server = server_key(m.positionals.first().map_or("", String::as_str));
    let mut config = Config::load(context)?;
    print(&match config.forget(&server)? {
        true => format!("Removing login credentials for {server}\n"),
        false => format!("Not logged in to {server}\n"),
    })?;
    Ok(0)
}
