//! From raw instructions to what they say.

use crate::ast::{CommandLine, Dockerfile, Healthcheck, Heredoc, Instruction, Kind, Lines, Run, RunMount, Stage, Transfer};
use crate::error::{Error, Problem};
use crate::flags::{Flags, Takes};
use crate::lex::{self, Raw};
use crate::{DOCKERFILE_BYTES_MAX, go, suggest, words};

/// Every keyword.
pub(crate) const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Switch),
    ("keep-git-dir", Takes::Switch),
    ("checksum", Takes::Text),
    ("unpack", Takes::Switch),
    ("exclude", Takes::Texts),
];
const COPY_FLAGS: &[(&str, Takes)] = &[
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Switch),
    ("parents", Takes::Switch),
    ("exclude", Takes::Texts),
];
const HEALTHCHECK_FLAGS: &[(&str, Takes)] = &[
    ("interval", Takes::Text),
    ("timeout", Takes::Text),
    ("start-period", Takes::Text),
    ("start-interval", Takes::Text),
    ("retries", Takes::Text),
];
const RUN_FLAGS: &[(&str, Takes)] = &[("mount", Takes::Texts), ("network", Takes::Text), ("security", Takes::Text)];
const MOUNT_KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
];
/// The shortest time between health checks, in nanoseconds.
const HEALTHCHECK_NANOSECONDS_MIN: i64 = 1_000_000;

/// What is wrong with one instruction; its place is added where the instruction is known.
pub(crate) struct Fault {
    pub message: String,
    pub hint: Option<String>,
    /// A text in the instruction that is at fault.
    pub needle: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, needle: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn at(mut self, needle: impl Into<String>) -> Self {
        self.needle = Some(needle.into());
        self
    }

    /// The error, placed in a Dockerfile.
    pub(crate) fn place(self, source: &str, lines: Lines) -> Error {
        let place = lex::place(source, lines, self.needle.as_deref());
        Error { place: Some(place), problem: Problem::Syntax { message: self.message, hint: self.hint } }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// Reads a Dockerfile. Bytes that are not UTF-8 are an error, as is a file without a stage.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, Error> {
    let whole = |message: String, hint: &str| Error { place: None, problem: Problem::Syntax { message, hint: Some(hint.to_owned()) } };
    if bytes.len() > DOCKERFILE_BYTES_MAX {
        return Err(whole(format!("the Dockerfile is longer than {DOCKERFILE_BYTES_MAX} bytes"), "is this the right file?"));
    }
    let source = std::str::from_utf8(bytes)
        .map_err(|error| whole(format!("the Dockerfile is not UTF-8: byte {}", error.valid_up_to()), "save it as UTF-8"))?;
    if source.trim().is_empty() {
        return Err(whole("the Dockerfile cannot be empty".to_owned(), "begin it with FROM IMAGE"));
    }
    let cut = lex::cut(source)?;
    let mut dockerfile = Dockerfile {
        directives: cut.directives,
        args: Vec::new(),
        stages: Vec::new(),
        source: source.to_owned(),
        empty_continuations: cut.empty_continuations,
    };
    if cut.instructions.is_empty() {
        return Err(whole("file with no instructions".to_owned(), "begin it with FROM IMAGE"));
    }
    for raw in &cut.instructions {
        add(&mut dockerfile, raw).map_err(|fault| fault.place(source, raw.lines))?;
    }
    if dockerfile.stages.is_empty() {
        return Err(whole("dockerfile contains no stages to build".to_owned(), "add FROM IMAGE"));
    }
    Ok(dockerfile)
}

/// Reads the instruction of an `ONBUILD` trigger; the lines are those of the `FROM` that fired it.
pub(crate) fn trigger(text: &str, escape: char, lines: Lines) -> Result<Instruction, Fault> {
    let raw = lex::cut_trigger(text, escape).map_err(|error| Fault::new(error.problem.to_string()))?;
    let mut instruction = instruction(&raw, escape)?;
    instruction.lines = lines;
    Ok(instruction)
}

fn add(dockerfile: &mut Dockerfile, raw: &Raw) -> Result<(), Fault> {
    if raw.keyword.eq_ignore_ascii_case("FROM") {
        dockerfile.stages.push(stage(raw)?);
        return Ok(());
    }
    let instruction = instruction(raw, dockerfile.directives.escape)?;
    match (dockerfile.stages.last_mut(), &instruction.kind) {
        (Some(stage), _) => stage.instructions.push(instruction),
        (None, Kind::Arg(_)) => dockerfile.args.push(instruction),
        (None, _) => {
            let fault = Fault::new("no build stage in current context");
            return Err(fault.hint(format!("put FROM IMAGE before {}", raw.keyword.to_uppercase())));
        }
    }
    Ok(())
}

fn stage(raw: &Raw) -> Result<Stage, Fault> {
    let flags = parse_flags(raw, &[("platform", Takes::Text)])?;
    let words = words::plain(&raw.args);
    let (base, name, written_as) = match words.as_slice() {
        [base] => (base, None, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, Some(name), Some(word.clone())),
        _ => {
            let fault = Fault::new("FROM requires either one or three arguments");
            return Err(fault.hint(if words.is_empty() { "write FROM IMAGE" } else { "write FROM IMAGE or FROM IMAGE AS NAME" }));
        }
    };
    if let Some(name) = name {
        let lower = name.to_lowercase();
        let valid = lower.starts_with(|letter: char| letter.is_ascii_lowercase())
            && lower.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"-_.".contains(&letter));
        if !valid {
            let message = format!("invalid name for build stage: {name:?}, name can't start with a number or contain symbols");
            return Err(Fault::new(message).at(name).hint("use letters, digits, '-', '_' and '.'"));
        }
    }
    Ok(Stage {
        base: base.clone(),
        name: name.map(|name| name.to_lowercase()),
        platform: flags.text("platform"),
        lines: raw.lines,
        text: raw.text.trim().to_owned(),
        comments: raw.comments.clone(),
        keywords: (raw.keyword.clone(), written_as),
        written_name: name.cloned(),
        instructions: Vec::new(),
    })
}

fn instruction(raw: &Raw, escape: char) -> Result<Instruction, Fault> {
    let keyword = raw.keyword.to_uppercase();
    let kind = match keyword.as_str() {
        "ADD" => Kind::Add(transfer(raw, "ADD", ADD_FLAGS)?),
        "ARG" => Kind::Arg(some(words::args(no_flags(raw)?, escape)?, "ARG")?),
        "CMD" => Kind::Cmd(command(raw, no_flags(raw)?)?),
        "COPY" => Kind::Copy(transfer(raw, "COPY", COPY_FLAGS)?),
        "ENTRYPOINT" => Kind::Entrypoint(command(raw, no_flags(raw)?)?),
        "ENV" => Kind::Env(pairs(raw, escape, "ENV")?),
        "EXPOSE" => Kind::Expose(some(words::plain(no_flags(raw)?), "EXPOSE")?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(raw)?),
        "LABEL" => Kind::Label(pairs(raw, escape, "LABEL")?),
        "MAINTAINER" => Kind::Maintainer(one(raw, "MAINTAINER")?),
        "ONBUILD" => Kind::OnBuild(on_build(raw, escape)?),
        "RUN" => Kind::Run(run(raw)?),
        "SHELL" => Kind::Shell(shell(raw)?),
        "STOPSIGNAL" => Kind::StopSignal(one(raw, "STOPSIGNAL")?),
        "USER" => Kind::User(one(raw, "USER")?),
        "VOLUME" => Kind::Volume(volume(raw)?),
        "WORKDIR" => Kind::Workdir(one(raw, "WORKDIR")?),
        "FROM" => return Err(Fault::new("FROM isn't allowed here")),
        _ => return Err(unknown(raw)),
    };
    Ok(Instruction {
        kind,
        lines: raw.lines,
        text: raw.text.trim().to_owned(),
        keyword: raw.keyword.clone(),
        comments: raw.comments.clone(),
    })
}

/// Says what was probably meant by a line that begins with no keyword.
fn unknown(raw: &Raw) -> Fault {
    let word = raw.keyword.as_str();
    let fault = Fault::new(format!("unknown instruction: {word}")).at(word);
    let bare = word.trim_end_matches(':').to_uppercase();
    if word.ends_with(':') && KEYWORDS.contains(&bare.as_str()) {
        let rest: String = raw.args.chars().take(40).collect();
        return fault.hint(format!("write {bare} without a colon: {bare} {rest}").trim_end().to_owned());
    }
    if let Some((before, _)) = word.split_once('=').filter(|(before, _)| !before.is_empty()) {
        return fault.hint(format!("write ENV {before}=... or ARG {before}=... to set a variable"));
    }
    if word.starts_with("//") || word.starts_with("/*") || word.starts_with("--") || word.starts_with(';') {
        return fault.hint("comments begin with #");
    }
    if matches!(word, "&&" | "||" | "|" | ";" | "\\") || word.starts_with('-') {
        return fault.hint("the line before must end with \\ to be continued");
    }
    match suggest::nearest(&bare, KEYWORDS) {
        Some(near) => fault.hint(format!("did you mean {near}?")),
        None if matches!(
            bare.as_str(),
            "APT-GET" | "APT" | "APK" | "YUM" | "DNF" | "PIP" | "NPM" | "MKDIR" | "CD" | "ECHO" | "CURL" | "WGET" | "SH" | "BASH"
        ) =>
        {
            fault.hint(format!("write RUN {word} to run a command"))
        }
        None => fault.hint(format!("an instruction begins with one of {}", KEYWORDS.join(", "))),
    }
}

fn parse_flags(raw: &Raw, declared: &[(&'static str, Takes)]) -> Result<Flags, Fault> {
    Flags::parse(&raw.flags, declared).map_err(|bad| {
        let fault = Fault::new(bad.message).at(bad.flag);
        Fault { hint: bad.hint, ..fault }
    })
}

fn no_flags(raw: &Raw) -> Result<&str, Fault> {
    parse_flags(raw, &[])?;
    Ok(&raw.args)
}

fn some<T>(items: Vec<T>, keyword: &str) -> Result<Vec<T>, Fault> {
    if items.is_empty() { Err(Fault::new(format!("{keyword} requires at least one argument"))) } else { Ok(items) }
}

fn one(raw: &Raw, keyword: &str) -> Result<String, Fault> {
    let text = no_flags(raw)?.trim_end();
    if text.is_empty() { Err(Fault::new(format!("{keyword} requires exactly one argument"))) } else { Ok(text.to_owned()) }
}

fn pairs(raw: &Raw, escape: char, keyword: &str) -> Result<Vec<crate::ast::Pair>, Fault> {
    let pairs = words::pairs(no_flags(raw)?, escape, keyword)
        .map_err(|message| Fault::new(message).hint(format!("write {keyword} name=value, with quotes around a value that has spaces")))?;
    if pairs.iter().any(|pair| pair.name.is_empty()) {
        return Err(Fault::new(format!("{keyword} names can not be blank")));
    }
    some(pairs, keyword)
}

fn command(raw: &Raw, rest: &str) -> Result<CommandLine, Fault> {
    match words::json(rest) {
        Some(words) => Ok(CommandLine { words: words?, shell: false, heredocs: raw.heredocs.clone() }),
        None if rest.is_empty() => Ok(CommandLine { words: Vec::new(), shell: true, heredocs: Vec::new() }),
        None => Ok(CommandLine { words: vec![rest.to_owned()], shell: true, heredocs: raw.heredocs.clone() }),
    }
}

fn transfer(raw: &Raw, keyword: &str, declared: &[(&'static str, Takes)]) -> Result<Transfer, Fault> {
    let flags = parse_flags(raw, declared)?;
    let mut words = match words::json(&raw.args) {
        Some(words) => words?,
        None => words::plain(&raw.args),
    };
    let destination = match words.pop() {
        Some(destination) if !words.is_empty() => destination,
        _ => {
            let fault = Fault::new(format!(
                "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
            ));
            return Err(fault.hint(format!("write {keyword} SOURCE... DESTINATION")));
        }
    };
    let is_heredoc = |word: &str| lex::parse_heredoc(word).filter(|_| !raw.heredocs.is_empty());
    if is_heredoc(&destination).is_some() {
        return Err(Fault::new(format!("{keyword} cannot accept a heredoc as a destination")).at(destination));
    }
    let mut sources = Vec::new();
    let mut heredocs: Vec<Heredoc> = Vec::new();
    for word in words {
        let known = is_heredoc(&word).and_then(|found| raw.heredocs.iter().find(|heredoc| heredoc.name == found.name));
        match known {
            Some(heredoc) => heredocs.push(heredoc.clone()),
            None => sources.push(word),
        }
    }
    if let Some(from) = flags.text("from").filter(|from| from.contains('$')) {
        let fault = Fault::new(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        );
        return Err(fault.at(from));
    }
    Ok(Transfer {
        sources,
        heredocs,
        destination,
        from: flags.text("from").filter(|from| !from.is_empty()),
        chown: flags.text("chown").filter(|chown| !chown.is_empty()),
        chmod: flags.text("chmod").filter(|chmod| !chmod.is_empty()),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.texts("exclude"),
        keep_git_dir: flags.switch("keep-git-dir"),
        checksum: flags.text("checksum").filter(|checksum| !checksum.is_empty()),
        unpack: flags.switch("unpack"),
    })
}

fn healthcheck(raw: &Raw) -> Result<Healthcheck, Fault> {
    let (word, rest) = words::keyword(&raw.args);
    match word.to_uppercase().as_str() {
        "" => Err(Fault::new("HEALTHCHECK requires at least one argument").hint("write HEALTHCHECK CMD command, or HEALTHCHECK NONE")),
        "NONE" if !rest.is_empty() => Err(Fault::new("HEALTHCHECK NONE takes no arguments").at(rest)),
        "NONE" => {
            parse_flags(raw, &[])?;
            Ok(Healthcheck::None)
        }
        "CMD" => {
            let flags = parse_flags(raw, HEALTHCHECK_FLAGS)?;
            let command = command(raw, rest)?;
            if command.words.is_empty() {
                return Err(Fault::new("missing command after HEALTHCHECK CMD"));
            }
            let interval = |name| duration_flag(&flags, name);
            Ok(Healthcheck::Test {
                command,
                interval: interval("interval")?,
                timeout: interval("timeout")?,
                start_period: interval("start-period")?,
                start_interval: interval("start-interval")?,
                retries: retries(&flags)?,
            })
        }
        _ => Err(Fault::new(format!("unknown type {word:?} in HEALTHCHECK (try CMD)"))
            .at(word)
            .hint("write HEALTHCHECK CMD command, or HEALTHCHECK NONE")),
    }
}

fn duration_flag(flags: &Flags, name: &str) -> Result<i64, Fault> {
    let Some(text) = flags.text(name).filter(|text| !text.is_empty()) else { return Ok(0) };
    let fault = |message: String| Fault::new(message).at(text.clone()).hint("write a duration such as 30s or 1m30s");
    match go::parse_duration(&text) {
        None => Err(fault(format!("invalid duration {text:?} for --{name}"))),
        Some(0) => Ok(0),
        Some(nanoseconds) if nanoseconds < HEALTHCHECK_NANOSECONDS_MIN => {
            Err(fault(format!("interval \"{name}\" cannot be less than 1ms")))
        }
        Some(nanoseconds) => Ok(nanoseconds),
    }
}

fn retries(flags: &Flags) -> Result<i64, Fault> {
    let Some(text) = flags.text("retries").filter(|text| !text.is_empty()) else { return Ok(0) };
    match text.parse::<i32>() {
        Ok(number) if number < 0 => Err(Fault::new(format!("--retries cannot be negative ({number})")).at(text)),
        Ok(number) => Ok(i64::from(number)),
        Err(_) => Err(Fault::new(format!("--retries is not a number: {text:?}")).at(text)),
    }
}

fn on_build(raw: &Raw, escape: char) -> Result<String, Fault> {
    let rest = no_flags(raw)?;
    let (word, _) = words::keyword(rest);
    match word.to_uppercase().as_str() {
        "" => return Err(Fault::new("ONBUILD requires at least one argument").hint("write ONBUILD and an instruction")),
        "ONBUILD" => return Err(Fault::new("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed").at(word)),
        upper @ ("MAINTAINER" | "FROM") => return Err(Fault::new(format!("{upper} isn't allowed as an ONBUILD trigger")).at(word)),
        _ => {}
    }
    let mut text = rest.to_owned();
    for heredoc in &raw.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    let inner = lex::cut_trigger(&text, escape).map_err(|error| Fault::new(error.problem.to_string()))?;
    instruction(&inner, escape)?;
    Ok(text)
}

fn run(raw: &Raw) -> Result<Run, Fault> {
    let flags = parse_flags(raw, RUN_FLAGS)?;
    let choice = |name: &'static str, values: &[&'static str]| match flags.text(name) {
        Some(value) if !values.contains(&value.as_str()) => {
            let fault = Fault::new(format!("{name} {value:?} is not a valid value")).at(value);
            Err(fault.hint(format!("--{name} is one of {}", values.join(", "))))
        }
        value => Ok(value),
    };
    let mounts = flags.texts("mount").iter().map(|text| mount(text)).collect::<Result<_, _>>()?;
    let run = Run {
        command: command(raw, &raw.args)?,
        mounts,
        network: choice("network", &["default", "none", "host"])?,
        security: choice("security", &["sandbox", "insecure"])?,
    };
    if run.command.words.is_empty() {
        return Err(Fault::new("RUN requires at least one argument").hint("write RUN and a command"));
    }
    Ok(run)
}

fn mount(text: &str) -> Result<RunMount, Fault> {
    let fields = words::csv(text).map_err(|reason| Fault::new(format!("failed to parse csv mounts: {reason}")).at(text))?;
    let mut mount = RunMount::default();
    for field in fields {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        if !MOUNT_KEYS.contains(&key.as_str()) {
            let fault = Fault::new(format!("unexpected key '{key}' in '{field}'")).at(field.clone());
            return Err(match suggest::nearest(&key, MOUNT_KEYS) {
                Some(near) => fault.hint(format!("did you mean {near}?")),
                None => fault.hint("write --mount=type=bind|cache|tmpfs|secret|ssh,KEY=VALUE,..."),
            });
        }
        let alone = matches!(key.as_str(), "readonly" | "ro" | "readwrite" | "rw" | "required");
        if value.is_none() && !alone {
            return Err(Fault::new(format!("invalid field '{field}' must be a key=value pair")).at(field.clone()));
        }
        if key == "from" && value.is_some_and(|value| value.contains('$')) {
            return Err(Fault::new("'from' doesn't support variable expansion, define alias stage instead").at(field.clone()));
        }
        mount.fields.push((key, value.map(str::to_owned)));
    }
    if let Some(kind) = mount.field("type").filter(|kind| !kind.contains('$')) {
        let kinds = ["bind", "cache", "tmpfs", "secret", "ssh"];
        if !kinds.contains(&kind.to_lowercase().as_str()) {
            let fault = Fault::new(format!("unsupported mount type {kind:?}")).at(kind);
            return Err(fault.hint(match suggest::nearest(kind, &kinds) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the types are {}", kinds.join(", ")),
            }));
        }
    }
    Ok(mount)
}

fn shell(raw: &Raw) -> Result<Vec<String>, Fault> {
    match words::json(no_flags(raw)?) {
        Some(Ok(words)) if words.is_empty() => Err(Fault::new("SHELL requires at least one argument")),
        Some(words) => Ok(words?),
        None => {
            let fault = Fault::new(format!("SHELL requires the arguments to be in JSON form, not: {}", raw.args));
            Err(fault.hint("write SHELL [\"/bin/bash\", \"-c\"]"))
        }
    }
}

fn volume(raw: &Raw) -> Result<Vec<String>, Fault> {
    let rest = no_flags(raw)?;
    let volumes = match words::json(rest) {
        Some(words) => words?,
        None => words::plain(rest),
    };
    if volumes.iter().any(|volume| volume.trim().is_empty()) {
        return Err(Fault::new("VOLUME specified can not be an empty string"));
    }
    some(volumes, "VOLUME")
}
