//! A command as data: its names, its flags, its help, and the function that does it.

use std::fmt::Write as _;

use crate::context::Context;
use crate::flags::{Arity, Flag, Kind, Matches};

/// One command of the client.
pub struct Command {
    /// Every way to type it; the first is the one shown.
    pub paths: &'static [&'static str],
    /// What follows the name in the usage line.
    pub usage: &'static str,
    /// What it does: one sentence without a full stop.
    pub about: &'static str,
    /// Its flags, in groups that commands share.
    pub flags: &'static [&'static [Flag]],
    /// How many positional arguments it takes.
    pub arity: Arity,
    /// Whether flags may follow positional arguments; off where those are another program's command line.
    pub interspersed: bool,
    /// Exit code of a failure: 125 where other codes are the container's.
    pub failure: i32,
    /// Does it; the result is the exit code.
    pub run: fn(&Context, &Matches) -> anyhow::Result<i32>,
}

impl Command {
    /// Fields with their usual values, to be overridden by each command.
    pub const BASE: Self =
        Self { paths: &[], usage: "", about: "", flags: &[], arity: Arity::Exactly(0), interspersed: true, failure: 1, run: |_, _| Ok(0) };

    /// `cais run [OPTIONS] IMAGE …`.
    pub fn usage_line(&self, program: &str, path: &str) -> String {
        format!("{program} {path} {}", self.usage).trim_end().to_owned()
    }

    /// The whole help page, under the name that was typed.
    pub fn help(&self, program: &str, path: &str) -> String {
        let mut text = format!("Usage:  {}\n\n{}\n", self.usage_line(program, path), self.about);
        if self.paths.len() > 1 {
            let names: Vec<String> = self.paths.iter().map(|path| format!("{program} {path}")).collect();
            let _ = write!(text, "\nAliases:\n  {}\n", names.join(", "));
        }
        let mut flags: Vec<&Flag> = self.flags.iter().flat_map(|group| group.iter()).collect();
        flags.sort_by_key(|flag| flag.long);
        if !flags.is_empty() {
            text.push_str("\nOptions:\n");
            text.push_str(&flag_lines(&flags));
        }
        text
    }
}

/// One line per flag, names and descriptions in two columns.
pub fn flag_lines(flags: &[&Flag]) -> String {
    let names: Vec<String> = flags
        .iter()
        .map(|flag| {
            let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
            format!("  {short}--{} {}", flag.long, flag.placeholder()).trim_end().to_owned()
        })
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, name) in flags.iter().zip(names) {
        let default = if flag.kind == Kind::SwitchOn { " (default true)" } else { "" };
        let _ = writeln!(text, "{name:width$}{}{default}", flag.help);
    }
    text
}
