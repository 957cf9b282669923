//! The command line client: every command of `cais` that speaks to an engine, under its own name or under `docker`.
//!
//! Commands are data ([`command::Command`]) with one file each in `commands`; only the command that was typed looks at its flags, so that the
//! time until the request is sent is that of the process start.
#![forbid(unsafe_code)]

mod attach;
mod auth;
mod build;
mod command;
mod commands;
mod context;
mod create;
pub mod flags;
mod help;
mod list;
mod progress;
pub mod table;
mod template;
mod terminal;
pub mod units;

use std::ffi::OsString;

use command::Command;
use context::{Context, Exit};
use flags::{Flag, switch, text};

pub use command::flag_lines;
pub use context::{DEFAULT_ENDPOINT, Hooks};

/// Exit code of a command line that does not fit the declarations.
const MISUSE: i32 = 125;
/// Exit code that a shell shows for a program that ended by SIGPIPE.
const BROKEN_PIPE: i32 = 141;

const LOG_LEVELS: &[&str] = &["debug", "info", "warn", "error", "fatal"];

/// Flags before the command.
const GLOBAL_FLAGS: &[Flag] = &[
    text("config", None, "Folder of config.json, which has the users at registries (~/.docker)"),
    switch("debug", Some('D'), "Say with each error which engine answered, and how"),
    switch("help", None, "Show help"),
    text("host", Some('H'), "Engine to talk to: unix:///PATH or tcp://HOST:PORT"),
    text("log-level", Some('l'), "What to say: debug (like -D), info, warn, error or fatal"),
    switch("version", Some('v'), "Show the version and end"),
];

/// Runs the client; `args` begins with the program's name. Returns the exit code.
pub fn main(args: Vec<OsString>, hooks: &'static Hooks) -> i32 {
    let mut words = Vec::with_capacity(args.len());
    for word in args {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                eprintln!("cais: the argument {word:?} is not UTF-8");
                return MISUSE;
            }
        }
    }
    let program = words.first().and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty()).unwrap_or("cais").to_owned();
    let mut context = Context::new(program, hooks);
    match dispatch(&mut context, words.get(1..).unwrap_or_default()) {
        Ok(code) => code,
        Err(error) if context::is_broken_pipe(&error) => BROKEN_PIPE,
        Err(error) => {
            let exit = error.downcast_ref::<Exit>();
            if exit.is_none_or(|exit| !exit.message.is_empty()) {
                context.report(&error);
            }
            exit.map_or(1, |exit| exit.code)
        }
    }
}

fn dispatch(context: &mut Context, args: &[String]) -> anyhow::Result<i32> {
    let globals = match flags::parse(&[GLOBAL_FLAGS], false, args) {
        Ok(globals) => globals,
        Err(misuse) => {
            eprintln!(
                "{}\n\nUsage:  {} [OPTIONS] COMMAND [ARG...]\n\nRun '{} --help' for more information",
                misuse.0, context.program, context.program
            );
            return Ok(MISUSE);
        }
    };
    if let Some(level) = globals.text("log-level")
        && !LOG_LEVELS.contains(&level)
    {
        eprintln!("{}: unknown log level {level:?}: expected one of {}", context.program, LOG_LEVELS.join(", "));
        return Ok(MISUSE);
    }
    context.host = globals.text("host").map(str::to_owned);
    context.config = globals.text("config").map(str::to_owned);
    context.debug = globals.on("debug") || globals.text("log-level") == Some("debug");
    if globals.on("version") {
        context::print(&format!("{} version {}\n", capitalised(&context.program), env!("CARGO_PKG_VERSION")))?;
        return Ok(0);
    }
    let words = &globals.positionals;
    let Some(first) = words.first() else {
        context::print(&help::overview(context))?;
        return Ok(0);
    };
    if globals.on("help") || first == "help" {
        return help::topic(context, if first == "help" { &words[1..] } else { words });
    }
    if let Some((command, rest)) = commands::find(words) {
        let typed = words[..words.len() - rest.len()].join(" ");
        return run(context, command, &typed, rest);
    }
    help::unknown(context, words)
}

fn run(context: &Context, command: &'static Command, typed: &str, args: &[String]) -> anyhow::Result<i32> {
    let program = &context.program;
    if wants_help(command, args) {
        context::print(&command.help(program, typed))?;
        return Ok(0);
    }
    let usage = format!("Usage:  {}\n\nRun '{program} {typed} --help' for more information", command.usage_line(program, typed));
    let matches = match flags::parse(command.flags, command.interspersed, args) {
        Ok(matches) => matches,
        Err(misuse) => {
            eprintln!("{}\n\n{usage}", misuse.0);
            return Ok(MISUSE);
        }
    };
    if let Err(reason) = command.arity.check(matches.positionals.len()) {
        eprintln!("{program}: '{program} {typed}' {reason}\n\n{usage}");
        return Ok(1);
    }
    (command.run)(context, &matches).map_err(|error| {
        if command.failure == 1 || error.is::<Exit>() || context::is_broken_pipe(&error) {
            return error;
        }
        Exit::with(command.failure, context::describe(&error))
    })
}

/// `--help` counts where a flag counts: not after the image of `run`.
fn wants_help(command: &Command, args: &[String]) -> bool {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" => return true,
            // `-h` is help only for commands that give it no other meaning.
            "-h" if !command.flags.iter().any(|group| group.iter().any(|flag| flag.short == Some('h'))) => return true,
            "--" => return false,
            _ => {}
        }
        let is_flag = arg.len() > 1 && arg.starts_with('-');
        if !is_flag && !command.interspersed {
            return false;
        }
        let name = arg.trim_start_matches('-');
        let takes_next = is_flag
            && !arg.contains('=')
            && command.flags.iter().any(|group| {
                group.iter().any(|flag| {
                    flag.takes_value() && (flag.long == name || (!arg.starts_with("--") && name.ends_with(|c| flag.short == Some(c))))
                })
            });
        if takes_next {
            args.next();
        }
    }
    false
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
