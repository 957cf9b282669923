//! The flags of instructions: `--name=value` right after the keyword.

use crate::suggest;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A value, once.
    Text,
    /// A value, any number of times.
    Texts,
    /// `true` or `false`, true if nothing is given.
    Switch,
}

/// The flags that were given, checked against those that the instruction has.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

/// A flag that is not right: the flag as written, what is wrong, and what to write instead.
pub(crate) struct BadFlag {
    pub flag: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Flags {
    /// Checks the flags of an instruction.
    pub(crate) fn parse(given: &[String], declared: &[(&'static str, Takes)]) -> Result<Self, BadFlag> {
        let mut flags = Self::default();
        for flag in given {
            let bad = |message: String, hint: Option<String>| BadFlag { flag: flag.clone(), message, hint };
            let (name, value) = match flag.trim_start_matches("--").split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.trim_start_matches("--"), None),
            };
            let Some((name, takes)) = declared.iter().find(|(declared, _)| *declared == name) else {
                let names: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
                let near = suggest::nearest(name, &names).map(|near| format!("did you mean --{near}?"));
                let hint = near.or_else(|| {
                    let all: Vec<String> = names.iter().map(|name| format!("--{name}")).collect();
                    Some(if all.is_empty() { "the instruction has no flags".to_owned() } else { format!("it has {}", all.join(", ")) })
                });
                return Err(bad(format!("unknown flag: --{name}"), hint));
            };
            if *takes != Takes::Texts && flags.given.iter().any(|(given, _)| given == name) {
                return Err(bad(format!("duplicate flag specified: --{name}"), Some("keep one of them".to_owned())));
            }
            let value = match (takes, value) {
                (Takes::Switch, None) => "true".to_owned(),
                (Takes::Switch, Some(value)) => match value.to_lowercase().as_str() {
                    "true" => "true".to_owned(),
                    "false" => "false".to_owned(),
                    _ => {
                        let message = format!("expecting boolean value for flag --{name}, not: {value}");
                        return Err(bad(message, Some(format!("write --{name} or --{name}=false"))));
                    }
                },
                (_, None) => return Err(bad(format!("missing a value on flag: --{name}"), Some(format!("write --{name}=VALUE")))),
                (_, Some(value)) => value.to_owned(),
            };
            flags.given.push((name, value));
        }
        Ok(flags)
    }

    /// The value of a flag.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.texts(name).pop()
    }

    /// All values of a flag.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.given.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a switch is on, if it was given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }
}
