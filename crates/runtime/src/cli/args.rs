//! A small parser of flags: `--name VALUE`, `--name=VALUE`, one dash as good as two, up to the first argument that is none.

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
        let mut given = Vec::new();
        let mut args = args.iter();
        while let Some(text) = args.as_slice().first().and_then(|arg| arg.to_str()) {
            if text == "-" || !text.starts_with('-') {
                break;
            }
            args.next();
            if text == "--" {
                break;
            }
            let bare = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or(text);
            let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value)));
            if flags.switches.contains(&name) {
                match value {
                    None | Some("true") => given.push((name.to_owned(), None)),
                    Some("false") => {}
                    Some(other) => return Err(format!("the flag --{name} takes no value, but {other:?} is given")),
                }
            } else if flags.values.contains(&name) {
                let value = match value {
                    Some(value) => value.into(),
                    None => args.next().ok_or_else(|| format!("the flag --{name} needs a value"))?.clone(),
                };
                given.push((name.to_owned(), Some(value)));
            } else {
                return Err(format!("unknown flag {text}"));
            }
        }
        Ok(Self { given, rest: args.cloned().collect() })
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

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, String> {
        self.text(&[name]).map(|text| text.parse().map_err(|_| format!("the flag --{name} needs a number, not {text:?}"))).transpose()
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
    fn mistakes_are_told() {
        assert_eq!(parse(&["--wrong"]).unwrap_err(), "unknown flag --wrong");
        assert_eq!(parse(&["--root"]).unwrap_err(), "the flag --root needs a value");
        assert!(parse(&["-d=x"]).is_err());
        assert!(parse(&["-d=false"]).unwrap().given.is_empty());
        assert_eq!(parse(&["a", "b"]).unwrap().only_id().unwrap_err(), "\"b\" is one argument too many");
    }
}
