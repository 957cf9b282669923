//! `--change` of import (and commit): Dockerfile instructions that alter what containers of an image run.

mod words;

use serde_json::Value;
use types::image::{Healthcheck, RunConfig};

use crate::{Error, Result};
use words::{Environment, expand, split};

const ALLOWED: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR";
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
const MILLISECOND: i64 = 1_000_000;
const SIGNAL_MAX: u32 = 64;
/// Linux's signals by number, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Makes the changes in order. Each text may hold several lines; a backslash at a line's end joins it with the next.
pub fn apply(config: &mut RunConfig, changes: &[String]) -> Result<()> {
    let joined = changes.join("\n").replace("\\\n", " ");
    for line in joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = name.to_ascii_uppercase();
        if !ALLOWED.split(", ").any(|allowed| allowed == name) {
            return refuse(format!("{name} is not a valid change command: {ALLOWED} are"));
        }
        if rest.is_empty() && !matches!(name.as_str(), "CMD" | "ENTRYPOINT") {
            return refuse(format!("{name} requires at least one argument"));
        }
        change(config, &name, rest)?;
    }
    Ok(())
}

fn change(config: &mut RunConfig, name: &str, rest: &str) -> Result<()> {
    let variables = config.env.clone().unwrap_or_default();
    let variables: Environment<'_> = &|key| words::lookup(&variables, key);
    match name {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)).filter(|words| !words.is_empty()),
        "ENV" => {
            let pairs = pairs(name, rest, variables)?;
            let env = config.env.get_or_insert_default();
            for (key, value) in pairs {
                let held = env.iter_mut().find(|held| held.split_once('=').is_some_and(|(held, _)| held == key));
                let text = format!("{key}={value}");
                match held {
                    Some(held) => *held = text,
                    None => env.push(text),
                }
            }
        }
        "LABEL" => config.labels.get_or_insert_default().extend(pairs(name, rest, variables)?),
        "EXPOSE" => {
            for word in split(rest)? {
                for port in ports(&expand(&word, variables)?)? {
                    config.exposed_ports.insert(port, Value::Object(serde_json::Map::new()));
                }
            }
        }
        "VOLUME" => {
            let paths = match json_words(rest) {
                Some(words) => words,
                None => split(rest)?.iter().map(|word| expand(word, variables)).collect::<Result<_>>()?,
            };
            for path in paths {
                if path.trim().is_empty() {
                    return refuse("VOLUME specified can not be an empty string");
                }
                config.volumes.insert(path, Value::Object(serde_json::Map::new()));
            }
        }
        "USER" => config.user = expand(rest, variables)?,
        "WORKDIR" => config.working_dir = working_dir(&config.working_dir, &expand(rest, variables)?),
        "STOPSIGNAL" => config.stop_signal = Some(signal(&expand(rest, variables)?)?),
        "ONBUILD" => {
            let first = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if matches!(first.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return refuse(format!("{first} isn't allowed as an ONBUILD trigger"));
            }
            config.on_build.get_or_insert_default().push(rest.to_owned());
        }
        _ => config.healthcheck = Some(healthcheck(rest)?),
    }
    Ok(())
}

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Change(reason.into()))
}

/// A JSON list of strings, if it is one; anything else is shell form.
fn json_words(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn command(text: &str) -> Vec<String> {
    match (text, json_words(text)) {
        ("", _) => Vec::new(),
        (_, Some(words)) => words,
        (_, None) => SHELL.iter().map(|word| (*word).to_owned()).chain([text.to_owned()]).collect(),
    }
}

/// `key=value` in any number, or the old `key value`, whose value reaches to the line's end.
fn pairs(name: &str, text: &str, variables: Environment<'_>) -> Result<Vec<(String, String)>> {
    let words = split(text)?;
    if !words.first().is_some_and(|first| first.contains('=')) {
        let Some((key, value)) = text.split_once(char::is_whitespace) else {
            return refuse(format!("{name} must have two arguments"));
        };
        return Ok(vec![(expand(key, variables)?, expand(value.trim_start(), variables)?)]);
    }
    let mut pairs = Vec::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return refuse(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"));
        };
        let key = expand(key, variables)?;
        if key.is_empty() {
            return refuse(format!("{name} names can not be blank"));
        }
        pairs.push((key, expand(value, variables)?));
    }
    Ok(pairs)
}

/// `80`, `80/udp`, `8000-8002/tcp`.
fn ports(text: &str) -> Result<Vec<String>> {
    let invalid = || Error::Change(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return refuse(format!("invalid proto: {protocol}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    match first <= last {
        true => Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect()),
        false => Err(invalid()),
    }
}

fn working_dir(now: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{now}/{path}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn signal(text: &str) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = name.strip_prefix("RTMIN").or_else(|| name.strip_prefix("RTMAX"));
    let is_real_time = real_time.is_some_and(|offset| offset.is_empty() || offset[1..].parse::<u8>().is_ok_and(|offset| offset <= 30));
    let is_number = text.parse::<u32>().is_ok_and(|number| (1..=SIGNAL_MAX).contains(&number));
    match is_number || is_real_time || SIGNALS.contains(&name) {
        true => Ok(text.to_owned()),
        false => refuse(format!("invalid signal: {text}")),
    }
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let Some((key, value)) = flag.split_once('=') else {
            return refuse(format!("missing a value on flag: {flag}"));
        };
        match key {
            "interval" => check.interval = duration(key, value)?,
            "timeout" => check.timeout = duration(key, value)?,
            "start-period" => check.start_period = duration(key, value)?,
            "start-interval" => check.start_interval = duration(key, value)?,
            "retries" => match value.parse::<u32>() {
                Ok(retries) => check.retries = i64::from(retries),
                Err(_) => return refuse(format!("--retries must be a number that is not negative, not {value:?}")),
            },
            _ => return refuse(format!("unknown flag: {key}")),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = Some(match (kind.to_ascii_uppercase().as_str(), command) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("NONE", _) => return refuse("HEALTHCHECK NONE takes no arguments"),
        ("CMD", "") => return refuse("Missing command after HEALTHCHECK CMD"),
        ("CMD", command) => match json_words(command) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        (other, _) => return refuse(format!("unknown type {other:?} in HEALTHCHECK (try CMD)")),
    });
    Ok(check)
}

fn duration(key: &str, text: &str) -> Result<i64> {
    let nanos = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| i64::try_from(duration.as_nanos()).ok());
    match nanos {
        Some(0) => Ok(0),
        Some(nanos) if nanos >= MILLISECOND => Ok(nanos),
        Some(_) => refuse(format!("{key} cannot be less than 1ms")),
        None => refuse(format!("invalid duration {text:?} of --{key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<RunConfig> {
        let mut config = RunConfig::default();
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"sh\", \"-c\"]",
            "entrypoint echo hi",
            "ENV A=1 B=\"two words\" C=$A-${B:-x}",
            "ENV OLD form of it",
            "ENV A=3",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL a='b c' d=e",
            "VOLUME /data /other",
            "USER 9:9",
            "WORKDIR /w",
            "WORKDIR x/../y",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=5s --retries=2 CMD curl -f x",
        ])
        .expect("are valid");
        assert_eq!(config.cmd, Some(vec!["sh".to_owned(), "-c".to_owned()]));
        assert_eq!(config.entrypoint, Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), "echo hi".to_owned()]));
        // As in a Dockerfile, one instruction's values are those before it: C sees no A yet.
        assert_eq!(config.env, Some(["A=3", "B=two words", "C=-x", "OLD=form of it"].map(str::to_owned).to_vec()));
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(config.labels.expect("has labels")["a"], "b c");
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "/other"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("9:9", "/w/y"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        let check = config.healthcheck.expect("has a health check");
        assert_eq!((check.interval, check.retries), (5_000_000_000, 2));
        assert_eq!(check.test, Some(vec!["CMD-SHELL".to_owned(), "curl -f x".to_owned()]));
    }

    #[test]
    fn wrong_instructions_are_refused() {
        for (change, message) in [
            ("RUN true", "RUN is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV A=\"x", "unexpected end of statement"),
            ("EXPOSE 99999", "invalid containerPort: 99999"),
            ("EXPOSE 80/x", "invalid proto: x"),
            ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
            ("STOPSIGNAL RTMIN+99", "invalid signal"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("HEALTHCHECK --interval=1us CMD x", "interval cannot be less than 1ms"),
            ("HEALTHCHECK WHAT", "unknown type"),
        ] {
            let error = changed(&[change]).expect_err(change).to_string();
            assert!(error.contains(message), "{change}: {error}");
        }
    }
}
