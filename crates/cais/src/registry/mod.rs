//! `cais registry`: serve a registry, and look after its folder.

mod keep;
mod serve;
mod users;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use cli::flags::{self, Flag, Matches, switch, text};

const ROOT: &str = "/var/lib/cais-registry";

/// One command below `cais registry`.
struct Command {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    run: fn(&Matches) -> Result<ExitCode>,
}

const HELP_FLAG: Flag = switch("help", Some('h'), "Show help");
const ROOT_FLAG: Flag = text("root", None, "Folder of the registry (default /var/lib/cais-registry)");
const USERS_FLAG: Flag = text("users", None, "File of users, as htpasswd has it, with bcrypt (default ROOT/users)");

const COMMANDS: &[Command] = &[
    Command {
        name: "serve",
        usage: "[OPTIONS]",
        about: "Serve a registry in the foreground",
        flags: &[
            text("access-log", None, "Log each request to this file, or to - (standard output)"),
            text("addr", None, "Listen here (default 127.0.0.1:5000); others than loopback want TLS and users"),
            switch("allow-everybody", None, "Let everybody who gets here do everything, on other addresses than loopback, too"),
            switch("allow-plain-http", None, "Speak plain HTTP on other addresses than loopback, too"),
            switch("anonymous-pull", None, "Let who has not logged in pull"),
            text("auth", None, "How clients log in: token or basic (default token)"),
            text("config-file", None, "TOML file with these options as keys, and more (default /etc/cais/registry.toml)"),
            text("log-level", Some('l'), "How much to log: trace, debug, info, warn or error (default info)"),
            text("public-url", None, "Where clients find this registry (default as they say themselves)"),
            text("rate-limit", None, "Requests per second from one address"),
            switch("read-only", None, "Change nothing"),
            ROOT_FLAG,
            text("tls-cert", None, "Certificate chain, in PEM; read again when it changes"),
            text("tls-key", None, "Its key, in PEM"),
            USERS_FLAG,
            HELP_FLAG,
        ],
        run: serve::serve,
    },
    Command {
        name: "user",
        usage: "add NAME | rm NAME | ls",
        about: "Add, change, remove and list users",
        flags: &[switch("password-stdin", None, "Read the password from standard input"), ROOT_FLAG, USERS_FLAG, HELP_FLAG],
        run: users::user,
    },
    Command {
        name: "ls",
        usage: "[REPOSITORY]",
        about: "List repositories, or the tags of one",
        flags: &[switch("quiet", Some('q'), "Only names"), ROOT_FLAG, HELP_FLAG],
        run: keep::ls,
    },
    Command {
        name: "rm",
        usage: "NAME[:TAG|@DIGEST] [NAME[:TAG|@DIGEST]...]",
        about: "Remove tags, manifests, or with --all whole repositories",
        flags: &[switch("all", Some('a'), "Remove repositories with all they have"), ROOT_FLAG, HELP_FLAG],
        run: keep::rm,
    },
    Command { name: "df", usage: "", about: "Show what the registry holds", flags: &[ROOT_FLAG, HELP_FLAG], run: keep::df },
    Command {
        name: "gc",
        usage: "[OPTIONS]",
        about: "Remove what nothing names any more, also while the registry serves",
        flags: &[
            text("lease", None, "Keep blobs that no manifest names for so long after they were pushed (default 1h)"),
            text("untagged", None, "Remove manifests without a tag that were pushed so long ago, too: 30d"),
            text("uploads", None, "Give up uploads that nobody has gone on with for so long (default 24h)"),
            ROOT_FLAG,
            HELP_FLAG,
        ],
        run: keep::gc,
    },
    Command {
        name: "fsck",
        usage: "[OPTIONS]",
        about: "Check that all content is there and whole",
        flags: &[
            switch("quick", None, "Look at names and lengths only, not at every byte"),
            switch("repair", None, "Forget what is damaged, so that it can be pushed again"),
            ROOT_FLAG,
            HELP_FLAG,
        ],
        run: keep::fsck,
    },
];

/// Runs the command that the words name.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cais registry: {error:#}");
            ExitCode::from(crate::FAILED)
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<ExitCode> {
    let words: Vec<String> = args
        .iter()
        .map(|word| word.to_str().map(str::to_owned).with_context(|| format!("the argument {} is not UTF-8", word.display())))
        .collect::<Result<_>>()?;
    let name = match words.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print!("{}", overview());
            return Ok(ExitCode::SUCCESS);
        }
        Some(name) => name,
    };
    let command = COMMANDS.iter().find(|command| command.name == name);
    let command = command.with_context(|| format!("unknown command {name:?}\n\nRun 'cais registry --help' for more information"))?;
    let again = format!("Run 'cais registry {name} --help' for more information");
    let matches = flags::parse(&[command.flags], true, &words[1..]).map_err(|misuse| anyhow::anyhow!("{}\n\n{again}", misuse.0))?;
    if matches.on("help") {
        let flags = cli::flag_lines(&command.flags.iter().collect::<Vec<_>>());
        println!("Usage:  cais registry {name} {}\n\n{}\n\nOptions:\n{flags}", command.usage, command.about);
        return Ok(ExitCode::SUCCESS);
    }
    (command.run)(&matches)
}

fn overview() -> String {
    let lines: String = COMMANDS.iter().map(|command| format!("  {:<8}{}\n", command.name, command.about)).collect();
    format!(
        "Usage:  cais registry COMMAND\n\nServes an OCI registry, and looks after its folder\n\nCommands:\n{lines}\n\
         Run 'cais registry COMMAND --help' for more information on a command.\n"
    )
}

/// The registry's folder, absolute.
fn root(given: Option<&Path>) -> Result<PathBuf> {
    let path = given.unwrap_or(Path::new(ROOT));
    std::path::absolute(path).with_context(|| format!("make {} absolute", path.display()))
}

/// Where users are unless told otherwise.
fn users_in(root: &Path) -> PathBuf {
    root.join("users")
}
