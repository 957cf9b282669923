//! `RUN`: the command, its mounts and its surroundings.

use crate::ast::{Instruction, Run, RunMount};
use crate::error::Error;
use crate::expand::Lexer;
use crate::graph::{CacheSharing, Exec, Input, Mount, MountKind, NetworkMode, NodeId, Op, SecretEnv, SecurityMode};
use crate::{lex, paths};

use super::stage::StageState;
use super::{From, Inputs, Lowering, env};

/// Where here-documents that name their interpreter are found.
const INLINE_DIR: &str = "/dev/pipes";
const SSH_SOCKET: &str = "/run/buildkit/ssh_agent";
const SECRETS_DIR: &str = "/run/secrets";
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;

/// What the mounts of a command come to.
#[derive(Default)]
struct Mounts {
    mounts: Vec<Mount>,
    secret_env: Vec<SecretEnv>,
    /// The first socket of an ssh agent.
    ssh: Option<String>,
    ssh_count: usize,
}

impl Lowering<'_> {
    pub(super) fn run(&mut self, state: &mut StageState, instruction: &Instruction, run: &Run) -> Result<(), Error> {
        let mut inputs = Inputs::default();
        let root: Option<Input> = state.root.map(|root| inputs.add(root));
        let (words, inline, summary) = command(run);
        let args = if run.command.shell && inline.is_none() { state.with_shell(&words) } else { words };
        if args.is_empty() {
            return Err(self.meaning(instruction.lines, "RUN has no command", None));
        }
        let mut mounts = Mounts::default();
        mounts.mounts.extend(inline);
        for mount in &run.mounts {
            self.mount(state, instruction, mount, &mut inputs, &mut mounts)?;
        }
        let mut env = state.env.clone();
        if let Some(socket) = &mounts.ssh
            && env.get("SSH_AUTH_SOCK").is_none()
        {
            env.set("SSH_AUTH_SOCK", socket);
        }
        let proxy_env = env::proxies(self.options).into_iter().filter(|entry| {
            let name = entry.split('=').next().unwrap_or_default();
            env.get(name).is_none()
        });
        let exec = Exec {
            root,
            args: args.clone(),
            env: env.assignments(),
            proxy_env: proxy_env.collect(),
            cwd: state.cwd(),
            user: state.user(),
            mounts: mounts.mounts,
            secret_env: mounts.secret_env,
            network: match run.network.as_deref() {
                Some("host") => NetworkMode::Host,
                Some("none") => NetworkMode::None,
                Some(_) => NetworkMode::Default,
                None => self.options.network,
            },
            security: if run.security.as_deref() == Some("insecure") { SecurityMode::Insecure } else { SecurityMode::Sandbox },
        };
        let text = format!("{}{summary}", instruction.text);
        let title = self.run_title(state, &text, &exec.secret_env);
        self.step(state, instruction, Op::Exec(exec), inputs.0, title);
        let args = run_history(state, &args);
        state.history(format!("RUN {args} # buildkit"), true);
        Ok(())
    }

    /// The instruction with its variables expanded; those that hold secrets are masked.
    fn run_title(&self, state: &mut StageState, text: &str, secrets: &[SecretEnv]) -> String {
        let lexer = Lexer { raw_quotes: true, skip_unset: true, ..self.lexer };
        let get = |name: &str| {
            let secret = secrets.iter().any(|secret| secret.name == name);
            if secret { Some("****".to_owned()) } else { state.env.get(name) }
        };
        let shown = lexer.word(text, &get).unwrap_or_else(|_| text.to_owned());
        self.title(state, &shown)
    }

    fn mount(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        mount: &RunMount,
        inputs: &mut Inputs,
        out: &mut Mounts,
    ) -> Result<(), Error> {
        let mut fields = Fields::default();
        for (key, value) in &mount.fields {
            let value = match value {
                Some(value) => Some(self.word(state, instruction, value)?),
                None => None,
            };
            fields.set(key, value.as_deref()).map_err(|reason| self.meaning(instruction.lines, reason, value.as_deref()))?;
        }
        let fault = |lowering: &Self, reason: String| lowering.meaning(instruction.lines, reason, Some("--mount"));
        fields.check().map_err(|reason| fault(self, reason))?;
        let target = |path: &str| paths::join(&state.cwd(), path);
        match fields.kind.as_str() {
            "secret" => return fields.secret(out, target).map_err(|reason| fault(self, reason)),
            "ssh" => {
                fields.ssh(out, target);
                return Ok(());
            }
            _ => {}
        }
        let at = target(fields.target.as_deref().unwrap_or_default());
        if at == "/" {
            return Err(fault(self, format!("invalid mount target {at:?}")));
        }
        let source = paths::clean(fields.source.as_deref().unwrap_or_default());
        let kind = match fields.kind.as_str() {
            "tmpfs" => MountKind::Tmpfs { size: fields.size },
            "cache" => MountKind::Cache {
                id: fields.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| at.clone()),
                sharing: fields.sharing.unwrap_or_default(),
                from: match &fields.from {
                    Some(from) => self.tree(state, from)?.map(|node| inputs.add(node)),
                    None => None,
                },
                source,
                uid: fields.uid.unwrap_or(0),
                gid: fields.gid.unwrap_or(0),
                mode: fields.mode.unwrap_or(CACHE_MODE),
            },
            _ => MountKind::Bind {
                from: match &fields.from {
                    Some(from) => self.tree(state, from)?.map(|node| inputs.add(node)),
                    None => Some(inputs.add(self.context())),
                },
                source,
            },
        };
        let read_only = fields.read_only.unwrap_or(matches!(kind, MountKind::Bind { .. }));
        out.mounts.push(Mount { target: at, read_only, kind });
        Ok(())
    }

    /// The tree that `from` names.
    pub(super) fn tree(&mut self, state: &StageState, from: &str) -> Result<Option<NodeId>, Error> {
        match self.find(from) {
            From::Stage(stage) => {
                self.stage(stage)?;
                Ok(self.done[stage].as_ref().and_then(|stage| stage.root))
            }
            From::Outside(name) if name == "scratch" => Ok(None),
            From::Outside(name) => {
                let title = |shown: &str| format!("FROM {shown}");
                Ok(self.outside(&name, None, state.index, title)?.0)
            }
        }
    }
}

/// The words of a command, a file that it runs, and what progress shows of a here-document.
fn command(run: &Run) -> (Vec<String>, Option<Mount>, String) {
    let command = &run.command;
    let ([text], Some(first)) = (command.words.as_slice(), command.heredocs.first().filter(|_| command.shell)) else {
        return (command.words.clone(), None, String::new());
    };
    if lex::parse_heredoc(text).is_none() {
        // The shell sees the whole, here-documents included.
        let mut whole = text.clone();
        for heredoc in &command.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.content);
            whole.push_str(&heredoc.name);
        }
        return (vec![whole], None, String::new());
    }
    let content = first.text();
    let trimmed = content.trim();
    let more = if trimmed.lines().nth(1).is_some() { "..." } else { "" };
    let summary = format!(" ({}{more})", trimmed.lines().next().unwrap_or_default());
    if !content.starts_with("#!") {
        return (vec![content], None, summary);
    }
    let path = format!("{INLINE_DIR}/{}", paths::base(&first.name));
    let mount = Mount { target: path.clone(), read_only: true, kind: MountKind::Inline { content, mode: 0o755 } };
    (vec![path], Some(mount), summary)
}

/// The command with the arguments that it could see, as histories tell it: `|1 V=5 /bin/sh -c make`.
fn run_history(state: &StageState, args: &[String]) -> String {
    let mut known: Vec<(String, String)> = Vec::new();
    for (name, value) in &state.args {
        let value = state.env.get(name).or_else(|| value.clone()).unwrap_or_default();
        match known.iter_mut().find(|(other, _)| other == name) {
            Some(entry) => entry.1 = value,
            None => known.push((name.clone(), value)),
        }
    }
    let mut words = Vec::new();
    if !known.is_empty() {
        words.push(format!("|{}", known.len()));
        words.extend(known.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// The fields of one `--mount`.
#[derive(Default)]
struct Fields {
    kind: String,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<CacheSharing>,
    size: Option<u64>,
    required: Option<bool>,
    read_only: Option<bool>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let text = value.unwrap_or_default();
        let invalid = || format!("invalid value for {key}: {text}");
        let switch = || match value {
            None => Ok(true),
            Some(text) => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(invalid()),
            },
        };
        match key {
            "type" => {
                self.kind = text.to_lowercase();
                if !["bind", "cache", "tmpfs", "secret", "ssh"].contains(&self.kind.as_str()) {
                    return Err(format!("unsupported mount type {text:?}"));
                }
            }
            "from" => self.from = Some(text.to_owned()).filter(|from| !from.is_empty()),
            "source" | "src" => self.source = Some(text.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(text.to_owned()),
            "id" => self.id = Some(text.to_owned()),
            "env" => self.env = Some(text.to_owned()).filter(|name| !name.is_empty()),
            "readonly" | "ro" => self.read_only = Some(switch()?),
            "readwrite" | "rw" => self.read_only = Some(!switch()?),
            "required" => self.required = Some(switch()?),
            "size" => self.size = Some(parse_size(text).ok_or_else(invalid)?),
            "sharing" => {
                self.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => CacheSharing::Shared,
                    "private" => CacheSharing::Private,
                    "locked" => CacheSharing::Locked,
                    _ => return Err(format!("unsupported sharing value {text:?}: expected shared, private or locked")),
                });
            }
            "mode" => self.mode = Some(u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(invalid)?),
            "uid" => self.uid = Some(text.parse().map_err(|_| invalid())?),
            _ => self.gid = Some(text.parse().map_err(|_| invalid())?),
        }
        Ok(())
    }

    /// Refuses fields that the type doesn't have.
    fn check(&mut self) -> Result<(), String> {
        if self.kind.is_empty() {
            "bind".clone_into(&mut self.kind);
        }
        let kind = self.kind.as_str();
        let fault = |field: &str| Err(format!("unexpected key '{field}' for mount type '{kind}'"));
        match kind {
            "bind" | "tmpfs" if self.uid.is_some() => fault("uid"),
            "bind" | "tmpfs" if self.gid.is_some() => fault("gid"),
            "bind" | "tmpfs" if self.mode.is_some() => fault("mode"),
            "tmpfs" | "secret" | "ssh" if self.from.is_some() => fault("from"),
            _ if kind != "cache" && self.sharing.is_some() => fault("sharing"),
            _ if kind != "tmpfs" && self.size.is_some() => fault("size"),
            _ if kind != "secret" && self.env.is_some() => fault("env"),
            _ if kind != "secret" && kind != "ssh" && self.required.is_some() => fault("required"),
            "secret" if self.source.is_some() && self.id.is_some() => Err("both source and id can't be set".to_owned()),
            "cache" | "tmpfs" if self.target.as_deref().is_none_or(str::is_empty) => Err(format!("a {kind} mount needs a target")),
            _ => Ok(()),
        }
    }

    fn secret(self, out: &mut Mounts, target: impl Fn(&str) -> String) -> Result<(), String> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (at, name) = (given(self.target), given(self.source).or(given(self.id)));
        let id = name.or_else(|| at.as_deref().map(|at| paths::base(at).to_owned()));
        let id = id.ok_or("invalid secret mount. one of source, target required")?;
        let required = self.required.unwrap_or(false);
        let file = at.map(|at| target(&at)).or_else(|| self.env.is_none().then(|| format!("{SECRETS_DIR}/{}", paths::base(&id))));
        if let Some(name) = self.env {
            out.secret_env.push(SecretEnv { name, id: id.clone(), required });
        }
        if let Some(at) = file {
            let (uid, gid, mode) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0), self.mode.unwrap_or(SECRET_MODE));
            out.mounts.push(Mount { target: at, read_only: true, kind: MountKind::Secret { id, required, uid, gid, mode } });
        }
        Ok(())
    }

    fn ssh(self, out: &mut Mounts, target: impl Fn(&str) -> String) {
        let given = self.target.filter(|text| !text.is_empty()).map(|at| target(&at));
        let at = given.unwrap_or_else(|| format!("{SSH_SOCKET}.{}", out.ssh_count));
        out.ssh_count += 1;
        out.ssh.get_or_insert_with(|| at.clone());
        let id = self.id.or(self.source).filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned());
        let (uid, gid, mode) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0), self.mode.unwrap_or(SSH_MODE));
        let kind = MountKind::Ssh { id, required: self.required.unwrap_or(false), uid, gid, mode };
        out.mounts.push(Mount { target: at, read_only: true, kind });
    }
}

/// A number of bytes with a unit of powers of 1024: `64m`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let bytes = number * (1u64 << shift) as f64;
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}
