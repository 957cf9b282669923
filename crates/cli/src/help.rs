//! The list of commands, the page of one, and what to say about a word that is none.

use std::fmt::Write as _;

use anyhow::Result;

use crate::command::flag_lines;
use crate::commands::{ALL, GROUPS};
use crate::context::{Context, print};
use crate::flags::nearest;

/// Commands that people meet first.
const COMMON: &[&str] = &["run", "exec", "ps", "pull", "images", "version", "info"];

/// The page that is shown without a command.
pub fn overview(context: &Context) -> String {
    let program = &context.program;
    let mut text = format!("Usage:  {program} [OPTIONS] COMMAND\n\nRuns containers on Linux\n");
    let mut common = Vec::new();
    let mut others = Vec::new();
    for command in ALL {
        let Some(name) = command.paths.iter().find(|path| !path.contains(' ')) else { continue };
        let entry = (*name, command.about);
        if COMMON.contains(name) { common.push(entry) } else { others.push(entry) }
    }
    others.sort_unstable();
    section(&mut text, "Common Commands", &common);
    section(&mut text, "Management Commands", GROUPS);
    section(&mut text, "Commands", &others);
    section(&mut text, "Host Commands", context.hooks.commands);
    text.push_str("\nGlobal Options:\n");
    text.push_str(&flag_lines(&crate::GLOBAL_FLAGS.iter().collect::<Vec<_>>()));
    let _ = write!(text, "\nRun '{program} COMMAND --help' for more information on a command.\n");
    text
}

/// The page of the command or group that `words` name.
pub fn topic(context: &Context, words: &[String]) -> Result<i32> {
    if words.is_empty() {
        print(&overview(context))?;
        return Ok(0);
    }
    match crate::commands::find(words) {
        Some((command, rest)) => print(&command.help(&context.program, &words[..words.len() - rest.len()].join(" ")))?,
        None => match GROUPS.iter().find(|(name, _)| *name == words[0]) {
            Some((name, about)) if words.len() == 1 => print(&group_page(context, name, about))?,
            _ => return unknown(context, words),
        },
    }
    Ok(0)
}

/// A group alone gets its page; anything else is an unknown command, with the nearest known one.
pub fn unknown(context: &Context, words: &[String]) -> Result<i32> {
    let program = &context.program;
    let group = GROUPS.iter().find(|(name, _)| *name == words[0]);
    if let Some((name, about)) = group
        && words.get(1).is_none_or(|word| word == "--help" || word == "-h")
    {
        print(&group_page(context, name, about))?;
        return Ok(0);
    }
    let (typed, help) = match group {
        Some((name, _)) => (words[..2].join(" "), format!("{program} {name} --help")),
        None => (words[0].clone(), format!("{program} --help")),
    };
    let known = ALL.iter().flat_map(|command| command.paths.iter().copied()).chain(context.hooks.commands.iter().map(|(name, _)| *name));
    let mut text = format!("{program}: unknown command: {program} {typed}");
    if let Some(near) = nearest(&typed, known.chain(GROUPS.iter().map(|(name, _)| *name))) {
        let _ = write!(text, "\n\nDid you mean '{program} {near}'?");
    }
    eprintln!("{text}\n\nRun '{help}' for more information");
    Ok(1)
}

fn group_page(context: &Context, name: &str, about: &str) -> String {
    let program = &context.program;
    let mut text = format!("Usage:  {program} {name} COMMAND\n\n{about}\n");
    let mut entries: Vec<(&str, &str)> = Vec::new();
    for command in ALL {
        let own = command.paths.iter().find_map(|path| path.strip_prefix(name)?.strip_prefix(' '));
        entries.extend(own.map(|own| (own, command.about)));
    }
    entries.sort_unstable();
    section(&mut text, "Commands", &entries);
    let _ = write!(text, "\nRun '{program} {name} COMMAND --help' for more information on a command.\n");
    text
}

fn section(text: &mut String, title: &str, entries: &[(&str, &str)]) {
    if entries.is_empty() {
        return;
    }
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let _ = write!(text, "\n{title}:\n");
    for (name, about) in entries {
        let _ = writeln!(text, "  {name:width$}{about}");
    }
}
