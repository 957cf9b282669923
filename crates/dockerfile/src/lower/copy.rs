//! `COPY` and `ADD`.

use types::Digest;

use crate::ast::{Instruction, Transfer};
use crate::error::Error;
use crate::expand::Lexer;
use crate::git;
use crate::graph::{CopyAction, FileAction, FileOp, Input, Mode, Node, NodeId, Op, Owner, Source, Who};
use crate::paths;

use super::stage::StageState;
use super::{Inputs, Lowering};

/// The mode of a file that the Dockerfile holds.
const INLINE_MODE: u32 = 0o644;
/// A file from an address without a name.
const UNNAMED: &str = "__unnamed__";

/// What holds for all that one instruction copies.
struct Shared {
    destination: String,
    owner: Option<Owner>,
    mode: Option<Mode>,
    exclude: Vec<String>,
    checksum: Option<String>,
}

impl Lowering<'_> {
    pub(super) fn transfer(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        transfer: &Transfer,
        add: bool,
    ) -> Result<(), Error> {
        let keyword = if add { "ADD" } else { "COPY" };
        let (shared, chown, chmod, shown) = self.shared(state, instruction, transfer)?;
        let sources = transfer.sources.iter().map(|source| self.word(state, instruction, source)).collect::<Result<Vec<_>, _>>()?;
        self.check_sum(instruction, &shared, &sources)?;

        let mut history = keyword.to_owned();
        if transfer.parents {
            history.push_str(" --parents");
        }
        chown.iter().for_each(|chown| history.push_str(&format!(" --chown={chown}")));
        chmod.iter().for_each(|chmod| history.push_str(&format!(" --chmod={chmod}")));
        sources.iter().for_each(|source| history.push_str(&format!(" {source}")));
        transfer.heredocs.iter().for_each(|heredoc| history.push_str(&format!(" <<{}", heredoc.name)));
        history.push_str(&format!(" {shown} # buildkit"));

        let by_name = |owner: &Owner| matches!(owner.user, Who::Name(_)) || matches!(owner.group, Some(Who::Name(_)));
        // Names mean something in the base only, symbols change modes that the source has: neither stands alone unless it is known here.
        let link = transfer.link && !shared.owner.as_ref().is_some_and(by_name);
        let title_text = self.lexer.word(&instruction.text, &|name| state.env.get(name)).unwrap_or_else(|_| instruction.text.clone());
        let title = self.title(state, &title_text);

        let mut inputs = Inputs::default();
        let base: Option<Input> = if link { None } else { state.root.map(|root| inputs.add(root)) };
        let mut actions = Vec::new();
        for source in &sources {
            let action = self.action(state, instruction, transfer, source, &shared, &mut inputs, add, &title)?;
            actions.push(FileAction::Copy(action));
        }
        for heredoc in &transfer.heredocs {
            let text = heredoc.text();
            let lexer = Lexer { skip_quotes: true, ..Lexer::default() };
            let content = if heredoc.expand { self.word_by(lexer, state, instruction, &text)? } else { text };
            actions.push(FileAction::Mkfile {
                path: shared.destination.clone(),
                name: heredoc.name.clone(),
                content,
                mode: shared.mode.clone().unwrap_or(Mode::Octal(INLINE_MODE)),
                owner: shared.owner.clone(),
            });
        }
        let op = Op::File(FileOp { base, actions });
        match (link, state.root) {
            (true, Some(below)) => {
                let layer = self.push(Node {
                    op,
                    inputs: inputs.0,
                    platform: state.platform.clone(),
                    name: title.clone(),
                    lines: Some(instruction.lines),
                    ignore_cache: state.ignore_cache,
                });
                let name = title.replacen("] ", "] LINK ", 1);
                self.step(state, instruction, Op::Merge { base: Input(0), layer: Input(1) }, vec![below, layer], name);
            }
            _ => {
                self.step(state, instruction, op, inputs.0, title);
            }
        }
        state.history(history, true);
        Ok(())
    }

    /// What the flags and the destination say; the flags and the destination again as the history shows them.
    #[allow(clippy::type_complexity, reason = "three texts beside the whole, used once")]
    fn shared(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        transfer: &Transfer,
    ) -> Result<(Shared, Option<String>, Option<String>, String), Error> {
        let optional = |lowering: &mut Self, text: &Option<String>| match text {
            Some(text) => lowering.word(state, instruction, text).map(|text| Some(text).filter(|text| !text.is_empty())),
            None => Ok(None),
        };
        let shown = self.word(state, instruction, &transfer.destination)?;
        let chown = optional(self, &transfer.chown)?;
        let chmod = optional(self, &transfer.chmod)?;
        let checksum = optional(self, &transfer.checksum)?;
        let exclude = transfer.exclude.iter().map(|pattern| self.word(state, instruction, pattern)).collect::<Result<_, _>>()?;
        let mode = match &chmod {
            None => None,
            Some(text) => Some(Mode::parse(text).ok_or_else(|| {
                let reason = format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
                self.hinted(instruction.lines, reason, Some(text), "write --chmod=755 or --chmod=u=rwX,go=rX")
            })?),
        };
        let owner = chown.as_deref().map(Owner::parse);
        let destination = paths::join_destination(&state.cwd(), &shown);
        Ok((Shared { destination, owner, mode, exclude, checksum }, chown, chmod, shown))
    }

    fn check_sum(&self, instruction: &Instruction, shared: &Shared, sources: &[String]) -> Result<(), Error> {
        let Some(checksum) = &shared.checksum else { return Ok(()) };
        let fault = |reason: &str| Err(self.meaning(instruction.lines, reason, Some("--checksum")));
        let [source] = sources else { return fault("checksum can't be specified for multiple sources") };
        let is_git = git::parse_git(source).is_some();
        if !is_git && !is_web(source) {
            return fault("checksum requires HTTP(S) or Git sources");
        }
        if !is_git && checksum.parse::<Digest>().is_err() {
            let hint = "write --checksum=sha256: and 64 hexadecimal digits";
            return Err(self.hinted(instruction.lines, format!("invalid checksum digest format: {checksum}"), Some(checksum), hint));
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one instruction, used once")]
    fn action(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        transfer: &Transfer,
        source: &str,
        shared: &Shared,
        inputs: &mut Inputs,
        add: bool,
        title: &str,
    ) -> Result<CopyAction, Error> {
        let mut action = CopyAction {
            from: Input(0),
            source: "/".to_owned(),
            destination: shared.destination.clone(),
            wildcard: false,
            parents: false,
            exclude: shared.exclude.clone(),
            unpack: transfer.unpack.unwrap_or(false),
            owner: shared.owner.clone(),
            keep_owner: false,
            mode: shared.mode.clone(),
            make_parents: true,
        };
        if let Some(parsed) = git::parse_git(source) {
            let git = parsed.map_err(|reason| self.meaning(instruction.lines, reason, Some(source)))?;
            let git = self.git(instruction, transfer, source, git, shared, add)?;
            action.unpack = false;
            action.from = inputs.add(self.outer(state, instruction, Source::Git(git), title));
            return Ok(action);
        }
        if is_web(source) {
            if !add {
                return Err(self.hinted(instruction.lines, "source can't be a URL for COPY", Some(source), "use ADD"));
            }
            let name = match paths::base(
                source
                    .split(['?', '#'])
                    .next()
                    .unwrap_or_default()
                    .split_once("://")
                    .map_or("", |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path)),
            ) {
                "" | "." | ".." => UNNAMED,
                base => base,
            };
            let http = Source::Http { url: source.to_owned(), checksum: shared.checksum.clone(), filename: name.to_owned() };
            action.source = format!("/{name}");
            action.from = inputs.add(self.outer(state, instruction, http, title));
            return Ok(action);
        }
        let from_context = transfer.from.is_none();
        if from_context && paths::climbs_out(source) {
            let reason = format!("{source:?} is outside of the build context");
            let hint = "files come from the context only: build from a folder above, or name the other folder with --build-context";
            return Err(self.hinted(instruction.lines, reason, Some(source), hint));
        }
        self.ignored(instruction, transfer, source, add);
        let tree = match &transfer.from {
            Some(from) => self.tree(state, from)?,
            None => Some(self.context()),
        };
        let tree = tree.unwrap_or_else(|| self.empty(&state.platform));
        action.from = inputs.add(tree);
        action.keep_owner = !from_context;
        action.unpack = transfer.unpack.unwrap_or(add);
        action.wildcard = paths::is_pattern(source);
        action.parents = transfer.parents;
        action.source = match (transfer.parents, source.split_once("/./")) {
            (false, _) => paths::clean(source),
            (true, Some((parent, rest))) => format!("{}/.{}", paths::clean(parent).trim_end_matches('/'), paths::clean(rest)),
            (true, None) => format!("/.{}", paths::clean(source)),
        };
        Ok(action)
    }

    /// A repository with what the flags say about it.
    fn git(
        &self,
        instruction: &Instruction,
        transfer: &Transfer,
        source: &str,
        mut git: crate::graph::GitSource,
        shared: &Shared,
        add: bool,
    ) -> Result<crate::graph::GitSource, Error> {
        if !add {
            return Err(self.hinted(instruction.lines, "source can't be a git ref for COPY", Some(source), "use ADD"));
        }
        if let Some(keep) = transfer.keep_git_dir {
            git.keep_git_dir = keep;
        }
        if let Some(checksum) = &shared.checksum {
            if git.checksum.as_ref().is_some_and(|other| other != checksum) {
                return Err(self.meaning(
                    instruction.lines,
                    format!("checksum mismatch {checksum:?} != {:?}", git.checksum),
                    Some("--checksum"),
                ));
            }
            git.checksum = Some(checksum.clone());
        }
        Ok(git)
    }

    fn outer(&mut self, state: &StageState, instruction: &Instruction, source: Source, title: &str) -> NodeId {
        self.push(Node {
            op: Op::Source(source),
            inputs: Vec::new(),
            platform: state.platform.clone(),
            name: title.to_owned(),
            lines: Some(instruction.lines),
            ignore_cache: false,
        })
    }

    fn ignored(&mut self, instruction: &Instruction, transfer: &Transfer, source: &str, add: bool) {
        let Some(matcher) = self.options.ignore.as_ref().filter(|matcher| transfer.from.is_none() && !matcher.has_exceptions()) else {
            return;
        };
        let path = paths::clean(source);
        if path != "/" && matcher.excludes(path.trim_start_matches('/')) {
            let keyword = if add { "ADD" } else { "COPY" };
            self.note(crate::lint::COPY_IGNORED_FILE, instruction, format!("{keyword} {source}: .dockerignore leaves it out"));
        }
    }
}

impl Owner {
    /// Reads `user[:group]`.
    pub(crate) fn parse(text: &str) -> Self {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let who = |text: &str| text.parse().map_or_else(|_| Who::Name(text.to_owned()), Who::Id);
        let user = if user.is_empty() { Who::Id(0) } else { who(user) };
        Self { user, group: group.filter(|group| !group.is_empty()).map(who) }
    }
}

fn is_web(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && git::parse_git(source).is_none()
}
