//! From instructions to the graph: stages that the target needs, in order, each with its tree and its image configuration.

mod copy;
mod env;
mod image;
mod run;
mod stage;

use std::collections::BTreeMap;

use types::Platform;

use crate::ast::{Directive, Dockerfile, Instruction, Kind, Lines};
use crate::error::{Error, Problem};
use crate::expand::Lexer;
use crate::graph::{Graph, Input, Lowered, Node, NodeId, Op, Source};
use crate::lint::{self, Config, Linter};
use crate::options::{Bases, NoCache, Options};
use crate::parse::Fault;
use crate::{lex, suggest};

use env::Env;
use stage::StageState;

/// Stages and steps that one Dockerfile may have.
const STEPS_MAX: usize = 10_000;
/// The frontend that is built in, however it is named.
const BUILT_IN: [&str; 4] =
    ["docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream", "docker.io/docker/dockerfile-upstream"];

/// Lowers a Dockerfile for one platform: the graph of what its target needs, and the configuration of the resulting image.
pub fn lower(file: &Dockerfile, options: &Options, bases: &mut dyn Bases) -> Result<Lowered, Error> {
    check_syntax(file)?;
    let mut lowering = Lowering::new(file, options, bases)?;
    let target = lowering.target()?;
    lowering.dependencies(target)?;
    let last = lowering.heads.len();
    for index in (0..last).filter(|index| *index != target) {
        if lowering.heads[index].needed {
            lowering.stage(index)?;
        }
    }
    lowering.stage(target)?;
    lowering.finish(target)
}

impl Dockerfile {
    /// The images that the file names with these build arguments, as far as they can be told without knowing more: for asking who may fetch them.
    pub fn images(&self, args: &BTreeMap<String, String>) -> Vec<String> {
        let lexer = Lexer::new(self.directives.escape);
        let mut env = env::global(&Options { build_args: args.clone(), ..Options::default() }, "");
        for pair in self.args.iter().filter_map(|item| if let Kind::Arg(pairs) = &item.kind { Some(pairs) } else { None }).flatten() {
            let default = pair.default.as_ref().and_then(|text| lexer.word(text, &|name| env.get(name)).ok());
            if let Some(value) = args.get(&pair.name).cloned().or(default) {
                env.set(&pair.name, &value);
            }
        }
        let is_stage = |name: &str| self.stages.iter().any(|stage| stage.name.as_deref() == Some(&name.to_lowercase()));
        let bases = self.stages.iter().filter_map(|stage| lexer.word(&stage.base, &|name| env.get(name)).ok());
        let instructions = self.stages.iter().flat_map(|stage| &stage.instructions);
        let sources = instructions.flat_map(|item| match &item.kind {
            Kind::Copy(copy) => copy.from.iter().cloned().collect(),
            Kind::Run(run) => run.mounts.iter().filter_map(|mount| mount.field("from")).map(str::to_owned).collect(),
            _ => Vec::new(),
        });
        bases.chain(sources).filter(|name| !is_stage(name) && name != "scratch" && name.parse::<usize>().is_err()).collect()
    }
}

fn check_syntax(file: &Dockerfile) -> Result<(), Error> {
    let Some(Directive { value, line }) = &file.directives.syntax else { return Ok(()) };
    let name = value.split('@').next().unwrap_or_default();
    let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
    if BUILT_IN.contains(&name) {
        return Ok(());
    }
    let fault = Fault {
        message: format!("the frontend {value} is not served"),
        hint: Some("the Dockerfile language is built in: leave the syntax directive out, or write # syntax=docker/dockerfile:1".to_owned()),
        needle: Some(value.clone()),
    };
    Err(fault.place(&file.source, Lines { first: *line, last: *line }))
}

/// What is known of a stage before it is carried out.
struct Head {
    /// The base with its variables expanded.
    base: Base,
    /// `--platform`.
    platform: Option<Platform>,
    /// Whether the target needs it.
    needed: bool,
    /// Instructions that the base's `ONBUILD` adds in front.
    triggers: Vec<Instruction>,
    /// The base image's configuration, once it is asked for.
    image: Option<image::Image>,
}

#[derive(Debug, Clone)]
enum Base {
    Scratch,
    Stage(usize),
    /// An image or a named context.
    Outside(String),
}

/// What `COPY --from` and `RUN --mount=from` name.
#[derive(Debug, Clone)]
enum From {
    Stage(usize),
    Outside(String),
}

pub(super) struct Lowering<'a> {
    file: &'a Dockerfile,
    options: &'a Options,
    bases: &'a mut dyn Bases,
    lexer: Lexer,
    global: Env,
    heads: Vec<Head>,
    done: Vec<Option<StageState>>,
    graph: Graph,
    context: Option<NodeId>,
    images: Vec<(Source, Platform, image::Image)>,
    linter: Linter,
    epoch: Option<i64>,
}

impl<'a> Lowering<'a> {
    fn new(file: &'a Dockerfile, options: &'a Options, bases: &'a mut dyn Bases) -> Result<Self, Error> {
        let steps: usize = file.stages.iter().map(|stage| stage.instructions.len() + 1).sum();
        if steps > STEPS_MAX {
            return Err(Error::meaning(format!("the Dockerfile has more than {STEPS_MAX} instructions"), None));
        }
        let check = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK").or(file.directives.check.as_ref().map(|check| &check.value));
        let config = check.map_or(Ok(Config::default()), |text| Config::parse(text));
        let config = config.map_err(|reason| Error::meaning(reason, Some("write # check=skip=RULE,RULE;error=true".to_owned())))?;
        let mut linter = Linter::new(config);
        linter.text(file);
        let target = options.target.clone().or_else(|| file.stages.last()?.name.clone()).unwrap_or_default();
        let mut lowering = Self {
            file,
            options,
            bases,
            lexer: Lexer::new(file.directives.escape),
            global: env::global(options, &target),
            heads: Vec::new(),
            done: Vec::new(),
            graph: Graph::default(),
            context: None,
            images: Vec::new(),
            linter,
            epoch: None,
        };
        lowering.default_bases();
        lowering.global_args()?;
        lowering.epoch = lowering.find_epoch()?;
        for index in 0..file.stages.len() {
            let head = lowering.head(index)?;
            lowering.heads.push(head);
            lowering.done.push(None);
        }
        Ok(lowering)
    }

    /// Looks whether the bases are names when no build argument is given.
    fn default_bases(&mut self) {
        let mut env = self.global.clone();
        for instruction in &self.file.args {
            let Kind::Arg(pairs) = &instruction.kind else { continue };
            for pair in pairs {
                let value = pair.default.as_ref().map(|text| self.lexer.word(text, &|name| env.get(name)));
                match value {
                    Some(Ok(value)) => env.set(&pair.name, &value),
                    Some(Err(_)) => return,
                    None => {}
                }
            }
        }
        for stage in &self.file.stages {
            let Ok(base) = self.lexer.word(&stage.base, &|name| env.get(name)) else { return };
            if base.parse::<types::ImageRef>().is_err() && stage.base.contains('$') {
                let message = format!("without build arguments, {:?} is not an image name: {base:?}", stage.base);
                self.linter.note(lint::INVALID_DEFAULT_ARG_IN_FROM, stage.lines, &stage.comments, message);
            }
        }
    }

    /// Carries out the `ARG`s before the first `FROM`.
    fn global_args(&mut self) -> Result<(), Error> {
        for instruction in &self.file.args {
            let Kind::Arg(pairs) = &instruction.kind else { continue };
            for pair in pairs {
                let given = self.options.build_args.get(&pair.name).cloned();
                let value = match (given, &pair.default) {
                    (Some(value), _) => Some(value),
                    (None, Some(default)) => {
                        let word = self.lexer.word(default, &|name| self.global.get(name));
                        Some(word.map_err(|reason| self.meaning(instruction.lines, reason, Some(default)))?)
                    }
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.global.set(&pair.name, &value);
                }
            }
        }
        Ok(())
    }

    fn find_epoch(&self) -> Result<Option<i64>, Error> {
        let name = "SOURCE_DATE_EPOCH";
        let value = self.options.build_args.get(name).cloned().or_else(|| self.global.get(name));
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
        let seconds = value.parse().map_err(|_| {
            let hint = "give seconds since 1970, such as $(git log -1 --format=%ct)".to_owned();
            Error::meaning(format!("invalid {name}: {value:?}"), Some(hint))
        })?;
        Ok(Some(seconds))
    }

    /// Expands what a `FROM` says.
    fn head(&mut self, index: usize) -> Result<Head, Error> {
        let stage = &self.file.stages[index];
        let expand = |lowering: &Self, text: &str| {
            let expanded = lowering.lexer.expand(text, &|name| lowering.global.get(name));
            expanded.map_err(|reason| lowering.meaning(stage.lines, reason, Some(text)))
        };
        let base = expand(self, &stage.base)?;
        self.undeclared(index, &base.unmatched);
        if base.text.is_empty() {
            let reason = format!("base name ({}) should not be blank", stage.base);
            return Err(self.hinted(
                stage.lines,
                reason,
                Some(&stage.base),
                "give the variable a default with ARG before the first FROM, or a value with --build-arg",
            ));
        }
        let mut platform = None;
        if let Some(text) = &stage.platform {
            let expanded = expand(self, text)?;
            self.undeclared(index, &expanded.unmatched);
            if expanded.text.is_empty() {
                return Err(self.meaning(stage.lines, format!("empty platform value from expression {text}"), Some(text)));
            }
            let parsed = expanded.text.parse::<Platform>();
            let parsed =
                parsed.map_err(|error| self.meaning(stage.lines, format!("failed to parse platform {text}: {error}"), Some(text)))?;
            self.platform_lint(index, text, &expanded, &parsed);
            platform = Some(parsed);
        }
        let earlier = |name: &str| self.file.stages[..index].iter().rposition(|stage| stage.name.as_deref() == Some(name));
        let base = match earlier(&base.text) {
            Some(earlier) => Base::Stage(earlier),
            None if base.text == "scratch" => Base::Scratch,
            None => Base::Outside(base.text),
        };
        Ok(Head { base, platform, needed: false, triggers: Vec::new(), image: None })
    }

    fn undeclared(&mut self, index: usize, names: &[String]) {
        let stage = &self.file.stages[index];
        for name in names {
            let declared =
                self.file.args.iter().any(|item| matches!(&item.kind, Kind::Arg(pairs) if pairs.iter().any(|pair| pair.name == *name)));
            if !declared {
                let near = suggest::nearest(name, &self.global.names()).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
                let message = format!("{name} is not declared by an ARG before the first FROM{near}");
                self.linter.note(lint::UNDEFINED_ARG_IN_FROM, stage.lines, &stage.comments, message);
            }
        }
    }

    fn platform_lint(&mut self, index: usize, text: &str, expanded: &crate::expand::Expanded, platform: &Platform) {
        let stage = &self.file.stages[index];
        if expanded.matched == ["TARGETPLATFORM"]
            && expanded.unmatched.is_empty()
            && Some(&expanded.text) == self.global.get("TARGETPLATFORM").as_ref()
        {
            let message = format!("--platform={text} is what FROM does by itself");
            self.linter.note(lint::REDUNDANT_TARGET_PLATFORM, stage.lines, &stage.comments, message);
        }
        let named = stage.name.as_deref().is_some_and(|name| name.contains(&platform.os) || name.contains(&platform.architecture));
        if expanded.matched.is_empty() && expanded.unmatched.is_empty() && !named {
            let message = format!("--platform={text} fixes the platform");
            self.linter.note(lint::FROM_PLATFORM_FLAG_CONST_DISALLOWED, stage.lines, &stage.comments, message);
        }
    }

    /// The stage that is asked for.
    fn target(&self) -> Result<usize, Error> {
        let stages = &self.file.stages;
        let Some(name) = &self.options.target else { return Ok(stages.len() - 1) };
        let lower = name.to_lowercase();
        let found = stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower));
        let found = found.or_else(|| name.parse().ok().filter(|index| *index < stages.len()));
        found.ok_or_else(|| {
            let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let hint = match suggest::nearest(name, &names) {
                Some(near) => Some(format!("did you mean {near}?")),
                None if names.is_empty() => Some("no stage has a name: write FROM IMAGE AS NAME".to_owned()),
                None => Some(format!("the stages are {}", names.join(", "))),
            };
            Error::meaning(format!("target stage {name:?} could not be found"), hint)
        })
    }

    /// Finds what the target needs: the configurations of base images are asked for here, as their triggers may need more stages.
    fn dependencies(&mut self, target: usize) -> Result<(), Error> {
        self.cycles()?;
        let mut open = vec![target];
        if self.options.all_stages {
            open.extend(0..self.heads.len());
        }
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut self.heads[index].needed, true) || self.replaced(index) {
                continue;
            }
            self.triggers(index)?;
            if let Base::Stage(base) = self.heads[index].base {
                open.push(base);
            }
            for instruction in self.heads[index].triggers.iter().chain(&self.file.stages[index].instructions) {
                for (from, name) in self.sources(instruction) {
                    if matches!(from, From::Outside(_)) && name.parse::<usize>().is_ok() {
                        let hint = format!("stages are counted from 0: this one is {index}");
                        return Err(self.hinted(instruction.lines, format!("invalid stage index {name}"), Some(&name), hint));
                    }
                    if let From::Stage(needed) = from {
                        if needed >= index {
                            let stage = self.stage_name(index);
                            let reason = format!("cannot copy from stage {name:?}, it needs to be defined before current stage {stage:?}");
                            return Err(self.hinted(instruction.lines, reason, Some(&name), "move that stage up"));
                        }
                        open.push(needed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a named context stands in for the stage.
    fn replaced(&self, index: usize) -> bool {
        self.file.stages[index].name.as_ref().is_some_and(|name| self.named_context(name).is_some())
    }

    /// Refuses stages that need each other.
    fn cycles(&self) -> Result<(), Error> {
        let count = self.file.stages.len();
        let needs: Vec<Vec<usize>> = (0..count)
            .map(|index| {
                let base = if let Base::Stage(base) = self.heads[index].base { Some(base) } else { None };
                let instructions = self.file.stages[index].instructions.iter().flat_map(|item| self.sources(item));
                let stages = instructions.filter_map(|(from, _)| if let From::Stage(stage) = from { Some(stage) } else { None });
                base.into_iter().chain(stages).collect()
            })
            .collect();
        // 0: not seen, 1: on the way, 2: done.
        let mut state = vec![0u8; count];
        for start in 0..count {
            let mut way = vec![(start, 0)];
            while let Some((stage, next)) = way.pop() {
                if next == 0 && std::mem::replace(&mut state[stage], 1) == 2 {
                    state[stage] = 2;
                    continue;
                }
                match needs[stage].get(next) {
                    None => state[stage] = 2,
                    Some(need) => {
                        way.push((stage, next + 1));
                        match state[*need] {
                            0 => way.push((*need, 0)),
                            1 => {
                                let reason = format!("circular dependency detected on stage: {}", self.stage_name(*need));
                                let hint = "a stage can only use those above it";
                                return Err(self.hinted(self.file.stages[*need].lines, reason, None, hint));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What an instruction takes files from besides the context, with the name as written.
    fn sources(&self, instruction: &Instruction) -> Vec<(From, String)> {
        let names: Vec<&str> = match &instruction.kind {
            Kind::Copy(copy) => copy.from.as_deref().into_iter().collect(),
            Kind::Run(run) => {
                run.mounts.iter().filter(|mount| mount.field("type") != Some("tmpfs")).filter_map(|mount| mount.field("from")).collect()
            }
            _ => Vec::new(),
        };
        names.into_iter().map(|name| (self.find(name), name.to_owned())).collect()
    }

    /// What a name stands for: the last stage that has it, a stage by number, or something outside.
    fn find(&self, name: &str) -> From {
        let lower = name.to_lowercase();
        let stages = &self.file.stages;
        let number = || name.parse().ok().filter(|index: &usize| *index < stages.len());
        let found = stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower)).or_else(number);
        found.map_or(From::Outside(name.to_owned()), From::Stage)
    }

    /// The stage's name for people: its own, or its number.
    fn stage_name(&self, index: usize) -> String {
        self.file.stages[index].name.clone().unwrap_or_else(|| format!("stage-{index}"))
    }

    fn ignores_cache(&self, index: usize) -> bool {
        match &self.options.no_cache {
            NoCache::Nothing => false,
            NoCache::Everything => true,
            NoCache::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(&self.stage_name(index))),
        }
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.graph.nodes.push(node);
        NodeId(u32::try_from(self.graph.nodes.len() - 1).unwrap_or(u32::MAX))
    }

    /// The main context.
    fn context(&mut self) -> NodeId {
        if let Some(node) = self.context {
            return node;
        }
        let node = self.push(Node {
            op: Op::Source(self.options.context.clone()),
            inputs: Vec::new(),
            platform: self.options.build_platform.clone(),
            name: "[internal] load build context".to_owned(),
            lines: None,
            ignore_cache: false,
        });
        self.context = Some(node);
        node
    }

    /// An empty tree as a node, where an operation needs one.
    fn empty(&mut self, platform: &Platform) -> NodeId {
        let op = Op::File(crate::graph::FileOp { base: None, actions: Vec::new() });
        self.push(Node {
            op,
            inputs: Vec::new(),
            platform: platform.clone(),
            name: "[internal] empty tree".to_owned(),
            lines: None,
            ignore_cache: false,
        })
    }

    fn meaning(&self, lines: Lines, message: impl Into<String>, needle: Option<&str>) -> Error {
        let place = lex::place(&self.file.source, lines, needle);
        Error { place: Some(place), problem: Problem::Meaning { message: message.into(), hint: None } }
    }

    fn hinted(&self, lines: Lines, message: impl Into<String>, needle: Option<&str>, hint: impl Into<String>) -> Error {
        let place = lex::place(&self.file.source, lines, needle);
        Error { place: Some(place), problem: Problem::Meaning { message: message.into(), hint: Some(hint.into()) } }
    }

    fn finish(self, target: usize) -> Result<Lowered, Error> {
        let unused_args = self.unused_args();
        let (warnings, fails) = self.linter.finish();
        if fails {
            let mut rules: Vec<&str> = warnings.iter().map(|warning| warning.rule).collect();
            rules.dedup();
            let problem = Problem::Lint { rules: rules.join(", "), warnings };
            return Err(Error { place: None, problem });
        }
        let mut done = self.done;
        let Some(mut state) = done.get_mut(target).and_then(Option::take) else {
            return Err(Error::meaning("the target was not lowered".to_owned(), None));
        };
        if !self.options.labels.is_empty() {
            let labels = state.run().labels.get_or_insert_with(BTreeMap::new);
            labels.extend(self.options.labels.clone());
        }
        let platform = if self.options.platform_given { self.options.platform.clone() } else { state.platform.clone() };
        state.config.os.clone_from(&platform.os);
        state.config.architecture.clone_from(&platform.architecture);
        state.config.variant = platform.variant.clone().unwrap_or_default();
        let (graph, map) = needed(self.graph, state.root);
        let place = |node: Option<NodeId>| node.and_then(|node| map.get(&node).copied());
        Ok(Lowered {
            root: place(state.root),
            base: place(state.base),
            graph,
            config: state.config,
            base_history_len: state.base_history_len,
            platform,
            epoch: self.epoch,
            unused_args,
            warnings,
        })
    }
}

/// The part of a graph that one node needs, and where its nodes are now.
fn needed(graph: Graph, root: Option<NodeId>) -> (Graph, BTreeMap<NodeId, NodeId>) {
    let mut keep = vec![false; graph.nodes.len()];
    if let Some(root) = root.and_then(|root| keep.get_mut(root.0 as usize)) {
        *root = true;
    }
    for index in (0..graph.nodes.len()).rev() {
        if keep[index] {
            graph.nodes[index].inputs.iter().for_each(|input| keep[input.0 as usize] = true);
        }
    }
    let mut map = BTreeMap::new();
    let mut nodes = Vec::new();
    for ((id, mut node), keep) in (0..).map(NodeId).zip(graph.nodes).zip(keep) {
        if keep {
            node.inputs.iter_mut().for_each(|input| *input = map.get(input).copied().unwrap_or(*input));
            map.insert(id, NodeId(u32::try_from(nodes.len()).unwrap_or(u32::MAX)));
            nodes.push(node);
        }
    }
    (Graph { nodes }, map)
}

/// Collects the inputs of one node: each node once.
#[derive(Default)]
pub(super) struct Inputs(Vec<NodeId>);

impl Inputs {
    pub(super) fn add(&mut self, node: NodeId) -> Input {
        let index = self.0.iter().position(|known| *known == node).unwrap_or_else(|| {
            self.0.push(node);
            self.0.len() - 1
        });
        Input(u32::try_from(index).unwrap_or(u32::MAX))
    }
}
