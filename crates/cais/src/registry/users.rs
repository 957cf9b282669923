//! `cais registry user`.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cli::flags::Matches;
use registryd::Users;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{root, users_in};
use crate::serve::described;

/// What is read of a password; a longer one is refused.
const PASSWORD_BYTES_MAX: u64 = 4096;

pub(super) fn user(matches: &Matches) -> Result<ExitCode> {
    let root = root(matches.text("root").map(Path::new))?;
    let path = matches.text("users").map_or_else(|| users_in(&root), Into::into);
    let words: Vec<&str> = matches.positionals.iter().map(String::as_str).collect();
    match words[..] {
        ["add", name] => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
            }
            let password = if matches.on("password-stdin") { piped()? } else { typed(name)? };
            let is_new = Users::add(&path, name, &password).map_err(described)?;
            println!("{} {name}", if is_new { "added" } else { "changed the password of" });
        }
        ["rm", name] => match Users::remove(&path, name).map_err(described)? {
            true => println!("removed {name}"),
            false => bail!("there is no user {name:?} in {}", path.display()),
        },
        ["ls"] => Users::names(&path).map_err(described)?.iter().for_each(|name| println!("{name}")),
        _ => bail!("use `user add NAME`, `user rm NAME` or `user ls`"),
    }
    Ok(ExitCode::SUCCESS)
}

fn piped() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().take(PASSWORD_BYTES_MAX).read_to_string(&mut text).context("read the password")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks at the terminal, without showing what is typed.
fn typed(name: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("there is no terminal to ask for the password at: use --password-stdin");
    }
    eprint!("Password of {name}: ");
    std::io::stderr().flush().context("ask for the password")?;
    let shown = tcgetattr(&stdin).context("read the terminal's settings")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).context("hide what is typed")?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &shown);
    eprintln!();
    read.context("read the password")?;
    restored.context("show again what is typed")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
