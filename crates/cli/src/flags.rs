//! Flags as data, and their parsing by Go's rules, which Docker's users and scripts lean on.
//!
//! `--name value` and `--name=value`; `-abc value` where the last one takes a value; `-p8080:80`; a switch takes `=value` only; `--` ends the flags;
//! for commands that run something the first positional ends them too. (A general argument parser differs in each of these points, and builds
//! its tables at run time.)

use std::fmt;

use crate::units;

/// A flag of a command.
#[derive(Debug)]
pub struct Flag {
    /// Long name, without dashes.
    pub long: &'static str,
    /// One-letter name.
    pub short: Option<char>,
    /// What it takes.
    pub kind: Kind,
    /// What it does: a phrase without a full stop.
    pub help: &'static str,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A switch that is off by itself.
    Switch,
    /// A switch that is on by itself.
    SwitchOn,
    /// One text.
    Text,
    /// Any number of texts.
    List,
    /// A whole number.
    Int,
    /// A number of bytes with an optional unit: `64m`.
    Bytes,
    /// The same, or -1 for "no limit".
    BytesOrUnlimited,
    /// A decimal number: `1.5`.
    Decimal,
}

/// How many positional arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly this many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// Up to this many.
    AtMost(usize),
    /// From the first number to the second.
    Between(usize, usize),
}

/// Old names that scripts still use.
const ALIASES: &[(&str, &str)] = &[("net", "network")];

/// A switch.
pub const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::Switch, help }
}

/// A flag with one text.
pub const fn text(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::Text, help }
}

/// A flag that may be repeated.
pub const fn list(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::List, help }
}

/// A flag with a value of the given kind.
pub const fn value(long: &'static str, short: Option<char>, kind: Kind, help: &'static str) -> Flag {
    Flag { long, short, kind, help }
}

impl Flag {
    /// Whether it takes a value of its own argument.
    pub fn takes_value(&self) -> bool {
        !matches!(self.kind, Kind::Switch | Kind::SwitchOn)
    }

    /// The placeholder shown in help.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Switch | Kind::SwitchOn => "",
            Kind::Text => "string",
            Kind::List => "list",
            Kind::Int => "int",
            Kind::Bytes | Kind::BytesOrUnlimited => "bytes",
            Kind::Decimal => "decimal",
        }
    }

    fn check(&self, value: &str) -> Result<(), String> {
        match self.kind {
            Kind::Text | Kind::List => Ok(()),
            Kind::Switch | Kind::SwitchOn => parse_bool(value).map(drop).ok_or_else(|| "expected true or false".to_owned()),
            Kind::Int => value.parse::<i64>().map(drop).map_err(|_| "not a whole number".to_owned()),
            Kind::Bytes => units::parse_bytes(value).map(drop),
            Kind::BytesOrUnlimited if value == "-1" => Ok(()),
            Kind::BytesOrUnlimited => units::parse_bytes(value).map(drop),
            Kind::Decimal => units::parse_nano(value).map(drop),
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.short {
            Some(short) => write!(out, "-{short}, --{}", self.long),
            None => write!(out, "--{}", self.long),
        }
    }
}

/// The arguments of one command, parsed.
#[derive(Debug, Default)]
pub struct Matches {
    set: Vec<(&'static str, String)>,
    /// What is not a flag.
    pub positionals: Vec<String>,
    declared: Vec<&'static str>,
}

/// Arguments that do not fit the declarations; the text is what people see.
#[derive(Debug, PartialEq, Eq)]
pub struct Misuse(pub String);

/// Parses `args`. With `interspersed` off, everything from the first positional on is positional.
pub fn parse(groups: &[&'static [Flag]], interspersed: bool, args: &[String]) -> Result<Matches, Misuse> {
    let mut matches =
        Matches { declared: groups.iter().flat_map(|group| group.iter().map(|flag| flag.long)).collect(), ..Matches::default() };
    let flags = || groups.iter().flat_map(|group| group.iter());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            matches.positionals.extend(rest.cloned());
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            let (name, inline) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let renamed = ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| *new);
            let Some(flag) = flags().find(|flag| flag.long == renamed) else {
                return Err(Misuse(unknown_long(name, flags())));
            };
            matches.take(flag, inline, &mut rest, &format!("--{name}"))?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            parse_shorthands(arg, &flags, &mut matches, &mut rest)?;
        } else if interspersed {
            matches.positionals.push(arg.clone());
        } else {
            matches.positionals.push(arg.clone());
            matches.positionals.extend(rest.cloned());
            break;
        }
    }
    Ok(matches)
}

fn parse_shorthands<'f, I>(
    arg: &str,
    flags: &dyn Fn() -> I,
    matches: &mut Matches,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<(), Misuse>
where
    I: Iterator<Item = &'f Flag>,
    'f: 'static,
{
    // `-publish 80:80` would be read as `-p ublish`: the long name was meant.
    let word = arg[1..].split('=').next().unwrap_or_default();
    if word.len() > 2 && flags().any(|flag| flag.long == word) {
        return Err(Misuse(format!("unknown flag: -{word}; did you mean --{word}?")));
    }
    let letters = &arg[1..];
    for (index, letter) in letters.char_indices() {
        let Some(flag) = flags().find(|flag| flag.short == Some(letter)) else {
            return Err(Misuse(format!("unknown shorthand flag: {letter:?} in {arg}")));
        };
        let after = &letters[index + letter.len_utf8()..];
        let given = format!("{letter:?} in {arg}");
        if let Some(inline) = after.strip_prefix('=') {
            return matches.take(flag, Some(inline), rest, &given);
        }
        if flag.takes_value() {
            let inline = (!after.is_empty()).then_some(after);
            return matches.take(flag, inline, rest, &given);
        }
        matches.take(flag, None, rest, &given)?;
    }
    Ok(())
}

impl Matches {
    fn take(
        &mut self,
        flag: &'static Flag,
        inline: Option<&str>,
        rest: &mut std::slice::Iter<'_, String>,
        given: &str,
    ) -> Result<(), Misuse> {
        let value = match inline {
            Some(value) => value.to_owned(),
            None if !flag.takes_value() => "true".to_owned(),
            None => rest.next().cloned().ok_or_else(|| Misuse(format!("flag needs an argument: {given}")))?,
        };
        flag.check(&value).map_err(|reason| Misuse(format!("invalid argument {value:?} for \"{flag}\" flag: {reason}")))?;
        self.set.push((flag.long, value));
        Ok(())
    }

    /// The state of a switch that is off by itself.
    pub fn on(&self, long: &str) -> bool {
        self.last(long).and_then(parse_bool).unwrap_or(false)
    }

    /// The state of a switch, if it was given.
    pub fn switch(&self, long: &str) -> Option<bool> {
        self.last(long).and_then(parse_bool)
    }

    /// The last value of a flag.
    pub fn text(&self, long: &str) -> Option<&str> {
        self.last(long)
    }

    /// All values of a flag, in order.
    pub fn list(&self, long: &str) -> Vec<&str> {
        debug_assert!(self.declared.contains(&long), "--{long} is not declared");
        self.set.iter().filter(|(name, _)| *name == long).map(|(_, value)| value.as_str()).collect()
    }

    /// A whole number.
    pub fn int(&self, long: &str) -> Option<i64> {
        self.last(long).and_then(|value| value.parse().ok())
    }

    /// A number of bytes; -1 where the flag allows it.
    pub fn bytes(&self, long: &str) -> Option<i64> {
        self.last(long).and_then(|value| if value == "-1" { Some(-1) } else { units::parse_bytes(value).ok() })
    }

    /// A decimal number in billionths.
    pub fn nano(&self, long: &str) -> Option<i64> {
        self.last(long).and_then(|value| units::parse_nano(value).ok())
    }

    /// The positional argument at `index`, or nothing.
    pub fn positional(&self, index: usize) -> Option<&str> {
        self.positionals.get(index).map(String::as_str)
    }

    fn last(&self, long: &str) -> Option<&str> {
        debug_assert!(self.declared.contains(&long), "--{long} is not declared");
        self.set.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }
}

impl Arity {
    /// Says what is wrong with a number of arguments.
    pub fn check(self, count: usize) -> Result<(), String> {
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match self {
            Self::Exactly(0) if count > 0 => Err("accepts no arguments".to_owned()),
            Self::Exactly(n) if count != n => Err(format!("requires {n} {}", plural(n))),
            Self::AtLeast(n) if count < n => Err(format!("requires at least {n} {}", plural(n))),
            Self::AtMost(n) if count > n => Err(format!("requires at most {n} {}", plural(n))),
            Self::Between(low, high) if count < low || count > high => Err(format!("requires at least {low} and at most {high} arguments")),
            _ => Ok(()),
        }
    }
}

/// Go's words for a truth value.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let near = candidates.map(|candidate| (distance(word, candidate), candidate)).min();
    near.filter(|(edits, _)| *edits <= limit).map(|(_, candidate)| candidate)
}

fn unknown_long<'a>(name: &str, flags: impl Iterator<Item = &'a Flag>) -> String {
    match nearest(name, flags.map(|flag| flag.long)) {
        Some(near) if name.len() > 2 => format!("unknown flag: --{name}; did you mean --{near}?"),
        _ => format!("unknown flag: --{name}"),
    }
}

/// The number of single-letter changes between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        switch("interactive", Some('i'), "x"),
        switch("tty", Some('t'), "x"),
        switch("detach", Some('d'), "x"),
        switch("rm", None, "x"),
        list("publish", Some('p'), "x"),
        text("name", None, "x"),
        value("memory", Some('m'), Kind::Bytes, "x"),
        value("last", Some('n'), Kind::Int, "x"),
    ];

    fn parsed(interspersed: bool, line: &str) -> Result<Matches, Misuse> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&[FLAGS], interspersed, &args)
    }

    #[test]
    fn shorthands_group_and_take_values_as_go_does() {
        let m = parsed(false, "-it -dp 80:80 -p8080:80 -p=1:2 --rm=false --name x img -p 9 --rm").expect("parses");
        assert!(m.on("interactive") && m.on("tty") && m.on("detach"));
        assert!(!m.on("rm"));
        assert_eq!(m.switch("rm"), Some(false));
        assert_eq!(m.list("publish"), ["80:80", "8080:80", "1:2"]);
        assert_eq!(m.positionals, ["img", "-p", "9", "--rm"]);
    }

    #[test]
    fn interspersed_flags_are_found_after_positionals_until_two_dashes() {
        let m = parsed(true, "a --name n b -- --rm -x").expect("parses");
        assert_eq!(m.text("name"), Some("n"));
        assert_eq!(m.positionals, ["a", "b", "--rm", "-x"]);
        assert_eq!(parsed(true, "- -i").expect("parses").positionals, ["-"]);
    }

    #[test]
    fn misuse_is_named() {
        let refused = |line: &str| parsed(false, line).expect_err("refused").0;
        assert_eq!(refused("--zzzz"), "unknown flag: --zzzz");
        assert_eq!(refused("--publsh x"), "unknown flag: --publsh; did you mean --publish?");
        assert_eq!(refused("-publish 80:80"), "unknown flag: -publish; did you mean --publish?");
        assert_eq!(refused("-ix"), "unknown shorthand flag: 'x' in -ix");
        assert_eq!(refused("--name"), "flag needs an argument: --name");
        assert_eq!(refused("-it -p"), "flag needs an argument: 'p' in -p");
        assert_eq!(refused("-m banana"), "invalid argument \"banana\" for \"-m, --memory\" flag: invalid size: \"banana\"");
        assert_eq!(refused("-n x"), "invalid argument \"x\" for \"-n, --last\" flag: not a whole number");
        assert_eq!(refused("--rm=maybe"), "invalid argument \"maybe\" for \"--rm\" flag: expected true or false");
    }

    #[test]
    fn a_switch_never_takes_the_next_argument() {
        let m = parsed(false, "--rm false").expect("parses");
        assert!(m.on("rm"));
        assert_eq!(m.positionals, ["false"]);
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(nearest("stopp", ["start", "stop"].into_iter()), Some("stop"));
        assert_eq!(nearest("xyzzy", ["start", "stop"].into_iter()), None);
    }
}
