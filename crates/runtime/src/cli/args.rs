//! A small parser of flags: `--name VALUE`, `--name=VALUE`, one dash as good as two, letters together behind one dash; up to the first argument that is
//! none, as runc has it, or anywhere, as crun has it.

use std::ffi::OsString;

/// The flags of a command, without dashes.
#[derive(Debug)]
pub(super) struct Flags {
    pub(super) values: &'static [&'static str],
    pub(super) switches: &'static [&'static str],
}

/// A parsed command line.
#[derive(Debug)]
pub(super) struct Args {
    given: Vec<(String, Option<OsString>)>,
    rest: Vec<OsString>,
}

impl Args {
    /// Takes the flags off the front of `args`.
    pub(super) fn parse(args: &[OsString], flags: &Flags) -> Result<Self, String> {
        let mut parsed = Self { given: Vec::new(), rest: Vec::new() };
        let mut args = args.iter();
        parsed.flags(&mut args, flags)?;
        parsed.rest = args.cloned().collect();
        Ok(parsed)
    }

    /// Takes flags from anywhere among `args`, up to `--`.
    pub(super) fn parse_anywhere(args: &[OsString], flags: &Flags) -> Result<Self, String> {
        let mut parsed = Self { given: Vec::new(), rest: Vec::new() };
        let mut args = args.iter();
        while !parsed.flags(&mut args, flags)? {
            match args.next() {
                Some(argument) => parsed.rest.push(argument.clone()),
                None => break,
            }
        }
        parsed.rest.extend(args.cloned());
        Ok(parsed)
    }

    /// Takes flags up to an argument that is none; whether `--` ended them for good.
    fn flags(&mut self, args: &mut std::slice::Iter<'_, OsString>, flags: &Flags) -> Result<bool, String> {
        while let Some(text) = args.as_slice().first().and_then(|arg| arg.to_str()) {
            if text == "-" || !text.starts_with('-') {
                break;
            }
            args.next();
            if text == "--" {
                return Ok(true);
            }
            let bare = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or(text);
            let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value)));
            let known = flags.switches.contains(&name) || flags.values.contains(&name);
            match letters(text, flags).filter(|_| !known) {
                Some((switches, last)) => {
                    self.given.extend(switches.iter().map(|name| ((*name).to_owned(), None)));
                    self.flag(text, last, None, args, flags)?;
                }
                None => self.flag(text, name, value, args, flags)?,
            }
        }
        Ok(false)
    }

    fn flag(
        &mut self,
        text: &str,
        name: &str,
        value: Option<&str>,
        args: &mut std::slice::Iter<'_, OsString>,
        flags: &Flags,
    ) -> Result<(), String> {
        if flags.switches.contains(&name) {
            match value {
                None | Some("true") => self.given.push((name.to_owned(), None)),
                Some("false") => self.given.retain(|(given, _)| given != name),
                Some(other) => return Err(format!("the flag --{name} takes no value, but {other:?} is given")),
            }
        } else if flags.values.contains(&name) {
            let value = match value {
                Some(value) => value.into(),
                None => args.next().ok_or_else(|| format!("the flag --{name} needs a value"))?.clone(),
            };
            self.given.push((name.to_owned(), Some(value)));
        } else {
            return Err(format!("unknown flag {text}"));
        }
        Ok(())
    }

    /// Whether one of the switches is given.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.given.iter().any(|(name, _)| names.contains(&name.as_str()))
    }

    /// The last value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<OsString> {
        self.any(&[name])
    }

    /// The last value of a flag with several names.
    pub(super) fn any(&self, names: &[&str]) -> Option<OsString> {
        self.given.iter().rev().find(|(given, _)| names.contains(&given.as_str())).and_then(|(_, value)| value.clone())
    }

    /// The same as text.
    pub(super) fn text(&self, names: &[&str]) -> Option<String> {
        self.any(names).map(|value| value.to_string_lossy().into_owned())
    }

    /// Every value of a flag that may be repeated.
    pub(super) fn all(&self, names: &[&str]) -> Vec<String> {
        self.given
            .iter()
            .filter(|(given, _)| names.contains(&given.as_str()))
            .filter_map(|(_, value)| Some(value.as_ref()?.to_string_lossy().into_owned()))
            .collect()
    }

    /// A value of any type that text can be read as.
    pub(super) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.text(&[name]).map(|text| text.parse().map_err(|_| format!("the flag --{name} needs a number, not {text:?}"))).transpose()
    }

    /// That no argument is left.
    pub(super) fn nothing_more(&self) -> Result<(), String> {
        self.rest.first().map_or(Ok(()), |extra| Err(format!("{extra:?} is one argument too many")))
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, String> {
        self.parsed(name)
    }

    /// The next argument, as text.
    pub(super) fn next(&mut self) -> Option<String> {
        if self.rest.is_empty() { None } else { Some(self.rest.remove(0).to_string_lossy().into_owned()) }
    }

    /// The arguments that are left.
    pub(super) fn rest(self) -> Vec<OsString> {
        self.rest
    }

    /// The arguments that are left, as a command.
    pub(super) fn command(&self) -> Vec<String> {
        self.rest.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    /// The one argument that is a container's name.
    pub(super) fn only_id(mut self) -> Result<String, String> {
        match (self.next(), self.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err("a container's name is missing".into()),
            (_, Some(extra)) => Err(format!("{extra:?} is one argument too many")),
        }
    }
}

/// `-td` as `-t -d`: letters that are all flags, of which only the last may take a value.
fn letters<'t>(text: &'t str, flags: &Flags) -> Option<(Vec<&'t str>, &'t str)> {
    let together = text.strip_prefix('-').filter(|rest| rest.len() > 1 && rest.bytes().all(|byte| byte.is_ascii_alphabetic()))?;
    let (switches, last) = together.split_at(together.len() - 1);
    let switches: Vec<&str> = switches.split("").filter(|letter| !letter.is_empty()).collect();
    let known =
        switches.iter().all(|name| flags.switches.contains(name)) && (flags.switches.contains(&last) || flags.values.contains(&last));
    known.then_some((switches, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: Flags = Flags { values: &["root", "e"], switches: &["d"] };

    fn parse(args: &[&str]) -> Result<Args, String> {
        Args::parse(&args.iter().map(OsString::from).collect::<Vec<_>>(), &FLAGS)
    }

    #[test]
    fn flags_end_at_the_first_argument() {
        let mut args = parse(&["--root", "/a", "-d", "-e=A=1", "--e", "B=2", "name", "-d"]).unwrap();
        assert_eq!(args.text(&["root"]).as_deref(), Some("/a"));
        assert!(args.has(&["d"]));
        assert_eq!(args.all(&["e"]), ["A=1", "B=2"]);
        assert_eq!(args.next().as_deref(), Some("name"));
        assert_eq!(args.rest(), ["-d"]);
    }

    #[test]
    fn flags_may_stand_anywhere_and_together() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        const MORE: Flags = Flags { values: &["u", "root"], switches: &["t", "d"] };
        let parsed = Args::parse_anywhere(&args(&["box", "-td", "KILL", "--root", "/a", "--", "-x"]), &MORE).unwrap();
        assert!(parsed.has(&["t"]) && parsed.has(&["d"]));
        assert_eq!((parsed.text(&["root"]).as_deref(), parsed.rest()), (Some("/a"), args(&["box", "KILL", "-x"])));
        let parsed = Args::parse(&args(&["-tu", "5", "box", "-t"]), &MORE).unwrap();
        assert_eq!((parsed.text(&["u"]).as_deref(), parsed.rest()), (Some("5"), args(&["box", "-t"])));
        assert_eq!(Args::parse(&args(&["-tx"]), &MORE).unwrap_err(), "unknown flag -tx");
        assert!(!Args::parse(&args(&["-d", "-d=false"]), &MORE).unwrap().has(&["d"]));
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse(&["--wrong"]).unwrap_err(), "unknown flag --wrong");
        assert_eq!(parse(&["--root"]).unwrap_err(), "the flag --root needs a value");
        assert!(parse(&["-d=x"]).is_err());
        assert!(parse(&["-d=false"]).unwrap().given.is_empty());
        assert_eq!(parse(&["a", "b"]).unwrap().only_id().unwrap_err(), "\"b\" is one argument too many");
    }
}
