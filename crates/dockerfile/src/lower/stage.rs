//! One stage: its instructions one after the other, on its tree and its image configuration.

use std::collections::BTreeMap;

use serde_json::Value;
use types::Platform;
use types::image::{Healthcheck as ImageHealthcheck, History, ImageConfig, RunConfig};

use crate::ast::{CommandLine, Healthcheck, Instruction, Kind, Pair};
use crate::error::Error;
use crate::expand::Lexer;
use crate::graph::{FileAction, FileOp, Input, Node, NodeId, Op, Owner};
use crate::lint::{self, Rule};
use crate::options::NamedContext;
use crate::{go, paths, suggest};

use super::env::{DEFAULT_PATH, Env, is_predefined};
use super::{Base, Lowering, image};

const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Ports one `EXPOSE` may name.
const PORTS_MAX: usize = 65_536;
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT",
    "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];
const SIGNAL_MAX: u32 = 64;

/// What a stage has come to.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub root: Option<NodeId>,
    pub base: Option<NodeId>,
    pub config: ImageConfig,
    pub base_history_len: usize,
    /// Variables of commands: the image's and the arguments.
    pub env: Env,
    pub platform: Platform,
    /// Arguments declared so far, with their values.
    pub args: Vec<(String, Option<String>)>,
    /// The stage's place in the file.
    pub index: usize,
    /// How it is called in progress; empty for the only one.
    pub name: String,
    pub ignore_cache: bool,
    step: usize,
    steps: usize,
    is_trigger: bool,
    workdir_set: bool,
    cmd: Option<crate::ast::Lines>,
    entrypoint: Option<crate::ast::Lines>,
    healthcheck: Option<crate::ast::Lines>,
}

impl StageState {
    pub(super) fn run(&mut self) -> &mut RunConfig {
        self.config.config.get_or_insert_with(RunConfig::default)
    }

    pub(super) fn cwd(&self) -> String {
        let dir = self.config.config.as_ref().map(|run| run.working_dir.as_str()).unwrap_or_default();
        paths::clean(dir)
    }

    pub(super) fn user(&self) -> String {
        self.config.config.as_ref().map(|run| run.user.clone()).unwrap_or_default()
    }

    /// The words that run a command in shell form.
    pub(super) fn with_shell(&self, words: &[String]) -> Vec<String> {
        let shell = self.config.config.as_ref().and_then(|run| run.shell.clone()).filter(|shell| !shell.is_empty());
        let mut shell = shell.unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec());
        shell.push(words.join(" "));
        shell
    }

    pub(super) fn history(&mut self, created_by: String, layer: bool) {
        self.config.history.push(History { created_by, comment: HISTORY_COMMENT.to_owned(), empty_layer: !layer, ..History::default() });
    }
}

impl Lowering<'_> {
    /// Carries out a stage, unless that is done.
    pub(super) fn stage(&mut self, index: usize) -> Result<(), Error> {
        if self.done[index].is_some() {
            return Ok(());
        }
        let mut state = self.begin(index)?;
        if !self.replaced(index) {
            state.is_trigger = true;
            for instruction in std::mem::take(&mut self.heads[index].triggers) {
                self.instruction(&mut state, &instruction)?;
            }
            state.is_trigger = false;
            let file = self.file;
            for instruction in &file.stages[index].instructions {
                self.instruction(&mut state, instruction)?;
            }
        }
        self.done[index] = Some(state);
        Ok(())
    }

    /// The state that the base gives.
    fn begin(&mut self, index: usize) -> Result<StageState, Error> {
        let file = self.file;
        let stage = &file.stages[index];
        let named = stage.name.as_ref().and_then(|name| self.named_context(name));
        let wanted = self.heads[index].platform.clone();
        let mut state = self.blank(index, wanted.clone().unwrap_or_else(|| self.options.platform.clone()));
        match (named, self.heads[index].base.clone()) {
            (Some((name, context)), _) => {
                let title = format!("[context {name}] {}", context_word(&context));
                let (root, image) = self.outside(&name, wanted.as_ref(), index, |_| title)?;
                self.adopt(&mut state, root, image);
            }
            (None, Base::Scratch) => {}
            (None, Base::Stage(base)) => {
                self.stage(base)?;
                if let Some(base) = &self.done[base] {
                    let blank = state;
                    state = StageState { index, name: blank.name, steps: blank.steps, ignore_cache: blank.ignore_cache, ..base.clone() };
                    state.step = 0;
                    state.run().on_build = None;
                    (state.cmd, state.entrypoint, state.healthcheck) = (None, None, None);
                }
            }
            (None, Base::Outside(name)) => {
                let number = step_number(&mut state);
                let multi = self.platform_prefix(&state);
                let label = state.name.clone();
                let (root, image) =
                    self.outside(&name, wanted.as_ref(), index, |shown| format!("{} FROM {shown}", bracket(&multi, &label, &number)))?;
                self.adopt(&mut state, root, image);
            }
        }
        let run = state.run();
        let env = run.env.get_or_insert_with(Vec::new);
        if !env.iter().any(|entry| entry.split('=').next() == Some("PATH")) {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in env.clone() {
            let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
            state.env.set(name, value);
        }
        Ok(state)
    }

    fn blank(&self, index: usize, platform: Platform) -> StageState {
        let stage = &self.file.stages[index];
        let head = &self.heads[index];
        let outside = matches!(head.base, Base::Outside(_));
        let counts = |item: &&Instruction| matches!(item.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_));
        let steps = stage.instructions.iter().chain(&head.triggers).filter(counts).count() + usize::from(outside);
        let name = if self.file.stages.len() == 1 { String::new() } else { self.stage_name(index) };
        StageState {
            root: None,
            base: None,
            config: image::scratch(&platform),
            base_history_len: 0,
            env: Env::default(),
            platform,
            args: Vec::new(),
            index,
            name,
            ignore_cache: self.ignores_cache(index),
            step: 0,
            steps,
            is_trigger: false,
            workdir_set: false,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        }
    }

    fn adopt(&self, state: &mut StageState, root: Option<NodeId>, image: image::Image) {
        state.root = root;
        state.base = root;
        state.platform = image.platform;
        if let Some(config) = image.config {
            state.config = config;
            state.base_history_len = state.config.history.len();
            state.config.rootfs.diff_ids.clear();
            state.run().on_build = None;
        }
    }

    fn instruction(&mut self, state: &mut StageState, instruction: &Instruction) -> Result<(), Error> {
        match &instruction.kind {
            Kind::Add(add) => self.transfer(state, instruction, add, true)?,
            Kind::Copy(copy) => self.transfer(state, instruction, copy, false)?,
            Kind::Run(run) => self.run(state, instruction, run)?,
            Kind::Workdir(path) => self.workdir(state, instruction, path)?,
            Kind::Arg(_) => self.arg(state, instruction)?,
            Kind::Env(pairs) => {
                let pairs = self.pairs(state, instruction, pairs, "ENV")?;
                let run = state.run();
                for (name, value) in &pairs {
                    let entry = format!("{name}={value}");
                    let env = run.env.get_or_insert_with(Vec::new);
                    match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
                        Some(known) => *known = entry,
                        None => env.push(entry),
                    }
                }
                pairs.iter().for_each(|(name, value)| state.env.set(name, value));
                state.history(assignments("ENV", &pairs), false);
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(state, instruction, pairs, "LABEL")?;
                state.run().labels.get_or_insert_with(BTreeMap::new).extend(pairs.iter().cloned());
                state.history(assignments("LABEL", &pairs), false);
            }
            Kind::Maintainer(author) => {
                state.config.author.clone_from(author);
                state.history(format!("MAINTAINER {author}"), false);
            }
            Kind::OnBuild(text) => state.run().on_build.get_or_insert_with(Vec::new).push(text.clone()),
            Kind::Cmd(command) => self.cmd(state, instruction, command),
            Kind::Entrypoint(command) => self.entrypoint(state, instruction, command),
            Kind::Healthcheck(check) => self.healthcheck(state, instruction, check),
            Kind::Expose(ports) => self.expose(state, instruction, ports)?,
            Kind::User(user) => {
                let user = self.word(state, instruction, user)?;
                state.run().user.clone_from(&user);
                state.history(format!("USER {user}"), false);
            }
            Kind::Volume(volumes) => {
                let volumes = volumes.iter().map(|volume| self.word(state, instruction, volume)).collect::<Result<Vec<_>, _>>()?;
                if volumes.iter().any(String::is_empty) {
                    return Err(self.meaning(instruction.lines, "VOLUME specified can not be an empty string", None));
                }
                let empty = || Value::Object(serde_json::Map::new());
                state.run().volumes.extend(volumes.iter().map(|volume| (volume.clone(), empty())));
                state.history(format!("VOLUME [{}]", volumes.join(" ")), false);
            }
            Kind::StopSignal(signal) => {
                let signal = self.word(state, instruction, signal)?;
                if !is_signal(&signal) {
                    let hint = "write a name such as SIGTERM or a number from 1 to 64";
                    return Err(self.hinted(instruction.lines, format!("invalid signal: {signal}"), None, hint));
                }
                state.run().stop_signal = Some(signal.clone());
                state.history(format!("STOPSIGNAL {signal}"), false);
            }
            Kind::Shell(words) => {
                state.run().shell = Some(words.clone());
                state.history(format!("SHELL [{}]", words.join(" ")), false);
            }
        }
        Ok(())
    }

    /// Expands a word in the scope of the stage, and notes variables that are not set.
    pub(super) fn word(&mut self, state: &StageState, instruction: &Instruction, text: &str) -> Result<String, Error> {
        self.word_by(self.lexer, state, instruction, text)
    }

    pub(super) fn word_by(&mut self, lexer: Lexer, state: &StageState, instruction: &Instruction, text: &str) -> Result<String, Error> {
        let expanded = lexer.expand(text, &|name| state.env.get(name));
        let expanded = expanded.map_err(|reason| self.meaning(instruction.lines, reason, Some(text)))?;
        for name in expanded.unmatched {
            if !state.args.iter().any(|(known, _)| *known == name) {
                let near = suggest::nearest(&name, &state.env.names()).map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
                self.note(lint::UNDEFINED_VAR, instruction, format!("${name} is not defined{near}"));
            }
        }
        Ok(expanded.text)
    }

    pub(super) fn note(&mut self, rule: Rule, instruction: &Instruction, message: String) {
        self.linter.note(rule, instruction.lines, &instruction.comments, message);
    }

    fn pairs(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        pairs: &[Pair],
        keyword: &str,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut expanded = Vec::new();
        for pair in pairs {
            let name = self.word(state, instruction, &pair.name)?;
            let value = self.word(state, instruction, &pair.value)?;
            if pair.legacy {
                let message = format!("write {keyword} {name}=value rather than {keyword} {name} value");
                self.note(lint::LEGACY_KEY_VALUE_FORMAT, instruction, message);
            }
            if keyword == "ENV" && lint::is_secret_name(&name) {
                self.note(lint::SECRETS_USED_IN_ARG_OR_ENV, instruction, format!("ENV {name} looks like a secret, and stays in the image"));
            }
            expanded.push((name, value));
        }
        Ok(expanded)
    }

    fn arg(&mut self, state: &mut StageState, instruction: &Instruction) -> Result<(), Error> {
        let Kind::Arg(pairs) = &instruction.kind else { return Ok(()) };
        let mut texts = Vec::new();
        for pair in pairs {
            let name = &pair.name;
            if lint::is_secret_name(name) {
                self.note(
                    lint::SECRETS_USED_IN_ARG_OR_ENV,
                    instruction,
                    format!("ARG {name} looks like a secret, and stays in the history"),
                );
            }
            let value = match (self.options.build_args.get(name), &pair.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.word(state, instruction, default)?),
                (None, None) => self.global.get(name),
            };
            if let Some(value) = &value {
                state.env.set(name, value);
            }
            state.args.push((name.clone(), value.clone()));
            texts.push(value.map_or(name.clone(), |value| format!("{name}={value}")));
        }
        state.history(format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }

    fn workdir(&mut self, state: &mut StageState, instruction: &Instruction, path: &str) -> Result<(), Error> {
        let path = self.word(state, instruction, path)?;
        if !state.workdir_set && !path.starts_with('/') {
            let message = format!("WORKDIR {path} is relative to what the base image has");
            self.note(lint::WORKDIR_RELATIVE_PATH, instruction, message);
        }
        state.workdir_set = true;
        let dir = paths::join(&state.cwd(), &path);
        state.run().working_dir.clone_from(&dir);
        let layer = dir != "/";
        if layer {
            let user = state.user();
            let owner = if user.is_empty() { None } else { Some(Owner::parse(&user)) };
            let action = FileAction::Mkdir { path: dir.clone(), mode: 0o755, owner };
            let inputs: Vec<NodeId> = state.root.into_iter().collect();
            let op = Op::File(FileOp { base: (!inputs.is_empty()).then_some(Input(0)), actions: vec![action] });
            let name = self.title(state, &format!("WORKDIR {path}"));
            self.step(state, instruction, op, inputs, name);
        }
        state.history(format!("WORKDIR {dir}"), layer);
        Ok(())
    }

    /// Adds a node whose tree is the stage's from now on.
    pub(super) fn step(&mut self, state: &mut StageState, instruction: &Instruction, op: Op, inputs: Vec<NodeId>, name: String) -> NodeId {
        let node = self.push(Node {
            op,
            inputs,
            platform: state.platform.clone(),
            name,
            lines: Some(instruction.lines),
            ignore_cache: state.ignore_cache,
        });
        state.root = Some(node);
        node
    }

    /// `[stage 2/5] RUN make`.
    pub(super) fn title(&self, state: &mut StageState, text: &str) -> String {
        let number = step_number(state);
        let trigger = if state.is_trigger { "ONBUILD " } else { "" };
        let (keyword, rest) = text.split_once(' ').unwrap_or((text, ""));
        format!("{} {trigger}{} {rest}", bracket(&self.platform_prefix(state), &state.name, &number), keyword.to_uppercase())
    }

    fn platform_prefix(&self, state: &StageState) -> String {
        if !self.options.multi_platform {
            return String::new();
        }
        let target = &self.options.platform;
        let crossing = state.platform.os == target.os && state.platform.architecture != target.architecture;
        if crossing { format!("{}->{} ", state.platform, target.architecture) } else { format!("{} ", state.platform) }
    }

    fn cmd(&mut self, state: &mut StageState, instruction: &Instruction, command: &CommandLine) {
        self.once(state.cmd.replace(instruction.lines), instruction, "CMD");
        let words = self.words_of(state, instruction, command, "CMD");
        let run = state.run();
        run.rest.insert("ArgsEscaped".to_owned(), Value::Bool(true));
        run.cmd = Some(words.clone());
        state.history(format!("CMD {}", go::quote_list(&words)), false);
    }

    fn entrypoint(&mut self, state: &mut StageState, instruction: &Instruction, command: &CommandLine) {
        self.once(state.entrypoint.replace(instruction.lines), instruction, "ENTRYPOINT");
        let words = self.words_of(state, instruction, command, "ENTRYPOINT");
        let keep_cmd = state.cmd.is_some();
        let run = state.run();
        run.entrypoint = Some(words.clone()).filter(|words| !words.is_empty());
        if !keep_cmd {
            run.cmd = None;
        }
        state.history(format!("ENTRYPOINT {}", go::quote_list(&words)), false);
    }

    fn words_of(&mut self, state: &StageState, instruction: &Instruction, command: &CommandLine, keyword: &str) -> Vec<String> {
        if !command.shell {
            return command.words.clone();
        }
        if state.config.config.as_ref().is_none_or(|run| run.shell.is_none()) {
            let message =
                format!("{keyword} in shell form: signals reach the shell, not the program; write {keyword} [\"program\", \"argument\"]");
            self.note(lint::JSON_ARGS_RECOMMENDED, instruction, message);
        }
        state.with_shell(&command.words)
    }

    fn once(&mut self, before: Option<crate::ast::Lines>, instruction: &Instruction, keyword: &str) {
        if let Some(before) = before {
            let message = format!("this {keyword} does nothing: a later one in the same stage replaces it");
            self.linter.note(lint::MULTIPLE_INSTRUCTIONS_DISALLOWED, before, &instruction.comments, message);
        }
    }

    fn healthcheck(&mut self, state: &mut StageState, instruction: &Instruction, check: &Healthcheck) {
        self.once(state.healthcheck.replace(instruction.lines), instruction, "HEALTHCHECK");
        let config = match check {
            Healthcheck::None => ImageHealthcheck { test: Some(vec!["NONE".to_owned()]), ..ImageHealthcheck::default() },
            Healthcheck::Test { command, interval, timeout, start_period, start_interval, retries } => {
                let mut test = vec![if command.shell { "CMD-SHELL" } else { "CMD" }.to_owned()];
                test.extend(command.words.iter().cloned());
                ImageHealthcheck {
                    test: Some(test),
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        };
        let duration = |nanoseconds| go::quote(&go::duration(nanoseconds));
        let text = format!(
            "HEALTHCHECK &{{{} {} {} {} {} {}}}",
            go::quote_list(config.test.as_deref().unwrap_or_default()),
            duration(config.interval),
            duration(config.timeout),
            duration(config.start_period),
            duration(config.start_interval),
            go::quote_rune(config.retries),
        );
        state.run().healthcheck = Some(config);
        state.history(text, false);
    }

    fn expose(&mut self, state: &mut StageState, instruction: &Instruction, ports: &[String]) -> Result<(), Error> {
        let mut found = Vec::new();
        for port in ports {
            let text = self.word(state, instruction, port)?;
            for word in text.split_whitespace() {
                if word.contains(':') {
                    let message = format!("EXPOSE {word}: only the port of the container counts");
                    self.note(lint::EXPOSE_INVALID_FORMAT, instruction, message);
                }
                if word.rsplit_once('/').is_some_and(|(_, proto)| proto != proto.to_lowercase()) {
                    self.note(lint::EXPOSE_PROTO_CASING, instruction, format!("EXPOSE {word}: write the protocol in lower case"));
                }
                let ports = exposed(word).map_err(|reason| {
                    self.hinted(instruction.lines, reason, Some(port), "write EXPOSE 80, EXPOSE 53/udp or EXPOSE 8000-8010")
                })?;
                found.extend(ports);
                if found.len() > PORTS_MAX {
                    return Err(self.meaning(instruction.lines, format!("EXPOSE names more than {PORTS_MAX} ports"), None));
                }
            }
        }
        let empty = || Value::Object(serde_json::Map::new());
        state.run().exposed_ports.extend(found.iter().map(|port| (port.clone(), empty())));
        state.history(format!("EXPOSE [{}]", found.join(" ")), false);
        Ok(())
    }

    /// Build arguments that no instruction asks for.
    pub(super) fn unused_args(&self) -> Vec<String> {
        let declared = |name: &String| {
            let instructions = self.file.stages.iter().flat_map(|stage| &stage.instructions).chain(&self.file.args);
            let mut pairs = instructions.filter_map(|item| if let Kind::Arg(pairs) = &item.kind { Some(pairs) } else { None }).flatten();
            pairs.any(|pair| pair.name == *name)
        };
        let given = self.options.build_args.keys();
        given.filter(|name| !declared(name) && !is_predefined(name) && self.global.get(name).is_none()).cloned().collect()
    }
}

fn context_word(context: &NamedContext) -> &'static str {
    match context {
        NamedContext::Image(_) | NamedContext::OciLayout(_) => "load image",
        NamedContext::Local => "load from client",
        NamedContext::Git(_) => "load from git",
        NamedContext::Http(_) => "load from the web",
    }
}

fn assignments(keyword: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{keyword} {}", pairs.join(" "))
}

/// `2/5`, the number as wide as the count.
fn step_number(state: &mut StageState) -> String {
    state.step += 1;
    let width = state.steps.to_string().len();
    format!("{:>width$}/{}", state.step, state.steps)
}

fn bracket(platform: &str, name: &str, number: &str) -> String {
    let space = if name.is_empty() { "" } else { " " };
    format!("[{platform}{name}{space}{number}]")
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=SIGNAL_MAX).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix(['+', '-']).and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|n| n <= 15)
        })
    };
    SIGNALS.contains(&name) || realtime("RTMIN") || realtime("RTMAX")
}

/// `[[ip:]host:]port[-port][/proto]` as `port/proto` of the container.
fn exposed(text: &str) -> Result<Vec<String>, String> {
    let port = text.rsplit(':').next().unwrap_or_default();
    let (range, proto) = port.split_once('/').unwrap_or((port, "tcp"));
    if range.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let proto = if proto.is_empty() { "tcp".to_owned() } else { proto.to_lowercase() };
    if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {proto}"));
    }
    let invalid = || format!("invalid containerPort: {range}");
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if last < first {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{proto}")).collect())
}
