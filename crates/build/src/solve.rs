//! The solver: carries out the steps of a graph, each once and independent ones at the same time, and those whose result is known not at all.
//!
//! A step's key is a digest of what it does and of what its inputs are: the chain of layers that it lies on, the content of files that it reads. Times of files
//! are not part of it, and neither is how an input came about, so a step that makes the same files again leaves all after it known.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dockerfile::graph::{FileAction, FileOp, Graph, Input, Node, Op, Source};
use dockerfile::{MAIN_CONTEXT, NodeId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use store::{CacheRecord, LayerHold, RootAttributes, Store};

use crate::digest::{Digests, Listing, Selection, hex};
use crate::explain;
use crate::files::{Copying, Filling};
use crate::mounts::CacheMounts;
use crate::tree::{Filter, Tree};
use crate::worker::{End, Progress, Worker};
use crate::{Cancel, Error, Result};

/// Of the keys: another number makes everything that was known unknown.
const KEY_VERSION: u32 = 1;
/// Results are written down while a build goes on, not more often than this.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Makes filters from patterns as `.dockerignore` has them.
pub type MakeFilter<'a> = &'a (dyn Fn(&[String]) -> Result<Arc<dyn Filter>> + Sync);

/// What a build is given besides its graph.
pub struct Inputs {
    /// Trees by the names that [`Source::Local`] has.
    pub contexts: BTreeMap<String, Arc<Tree>>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of ssh agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// What the build was allowed: `security.insecure`, `network.host`.
    pub allowed: Vec<String>,
    /// What else commands depend on, by name: host entries, the network.
    pub surroundings: BTreeMap<String, String>,
    /// Stands for this build among others of the same files, to tell what changed since the last time.
    pub slot: String,
    /// Where secrets lie while a command needs them.
    pub private: PathBuf,
    /// How many steps may go on at the same time.
    pub parallel: usize,
}

/// Who works on a build.
pub struct Solver<'a> {
    /// Where layers are.
    pub store: &'a Store,
    /// Who runs commands.
    pub worker: &'a dyn Worker,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// What is known of files.
    pub digests: &'a Digests,
    /// Folders that are kept between builds.
    pub caches: &'a CacheMounts,
    /// What the build is given.
    pub inputs: &'a Inputs,
    /// Makes filters for `--exclude`.
    pub filters: MakeFilter<'a>,
}

/// Layers as a result, lowest first.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The layers, held.
    pub holds: Vec<Arc<LayerHold>>,
    /// Stands for all of them.
    pub id: String,
    /// Mode and owner of the root directory, where one tells them.
    pub root: Option<RootAttributes>,
}

/// What a node is.
#[derive(Clone)]
pub(crate) enum Value {
    Layers(Layers),
    Files(Arc<Tree>),
}

/// What one step came to.
#[derive(Debug, Clone)]
pub struct Made {
    /// The layer; none if nothing changed.
    pub layer: Option<Arc<LayerHold>>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Whether it was known.
    pub cached: bool,
}

/// What a graph came to.
#[derive(Default)]
pub struct Solved {
    values: BTreeMap<NodeId, Value>,
    made: BTreeMap<NodeId, Made>,
}

/// A failure and the step that failed.
#[derive(Debug)]
pub struct Failed {
    /// The step.
    pub node: Option<NodeId>,
    /// Why.
    pub error: Error,
}

impl Solved {
    /// The layers of a node that has some.
    pub fn layers(&self, node: NodeId) -> Option<&Layers> {
        match self.values.get(&node)? {
            Value::Layers(layers) => Some(layers),
            Value::Files(_) => None,
        }
    }

    /// What a step came to.
    pub fn made(&self, node: NodeId) -> Option<&Made> {
        self.made.get(&node)
    }
}

impl Layers {
    pub(crate) fn with(&self, layer: Option<&Arc<LayerHold>>) -> Self {
        let mut with = self.clone();
        if let Some(layer) = layer {
            with.id = digest_of(&[&self.id, &layer.layer().diff_id.to_string()]);
            with.holds.push(Arc::clone(layer));
        }
        with
    }
}

/// What threads that work on one graph share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    solved: Solved,
    ready: VecDeque<NodeId>,
    /// Inputs that each node still waits for.
    waiting: Vec<usize>,
    left: usize,
    failed: Option<Failed>,
    kept: Instant,
}

impl Solver<'_> {
    /// Carries out what `graph` says. What was done is known the next time, even where something fails.
    pub fn solve(&self, graph: &Graph, cancel: &Cancel) -> std::result::Result<Solved, Failed> {
        let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); graph.nodes.len()];
        for (id, node) in graph.iter() {
            node.inputs.iter().for_each(|input| users[input.0 as usize].push(id));
        }
        let state = State {
            solved: Solved::default(),
            ready: graph.iter().filter(|(_, node)| node.inputs.is_empty()).map(|(id, _)| id).collect(),
            waiting: graph.nodes.iter().map(|node| node.inputs.len()).collect(),
            left: graph.nodes.len(),
            failed: None,
            kept: Instant::now(),
        };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
        // One step's failure stops the others, but not whatever else the caller's token is for.
        let inner = Cancel::default();
        let stop = inner.clone();
        cancel.listen(move || stop.cancel());
        std::thread::scope(|scope| {
            for _ in 1..self.inputs.parallel.clamp(1, graph.nodes.len().max(1)) {
                scope.spawn(|| self.work(graph, &users, &shared, &inner));
            }
            self.work(graph, &users, &shared, &inner);
        });
        let kept = self.store.keep_steps();
        let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (state.failed, kept) {
            (Some(failed), _) if cancel.is_cancelled() => Err(Failed { error: Error::Cancelled, ..failed }),
            (Some(failed), _) => Err(failed),
            (None, Err(source)) => Err(Failed { node: None, error: Error::Store { operation: "keep the build's results", source } }),
            (None, Ok(())) => Ok(state.solved),
        }
    }

    fn work(&self, graph: &Graph, users: &[Vec<NodeId>], shared: &Shared, cancel: &Cancel) {
        loop {
            let mut state = shared.lock();
            let id = loop {
                if state.left == 0 || state.failed.is_some() {
                    return;
                }
                match state.ready.pop_front() {
                    Some(id) => break id,
                    None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let Some(node) = graph.node(id) else { return };
            let inputs: Vec<Value> = node.inputs.iter().filter_map(|input| state.solved.values.get(input).cloned()).collect();
            drop(state);
            let outcome = cancel.check().and_then(|()| self.one(id, node, &inputs, cancel));
            self.settle(id, outcome, users, shared, cancel);
        }
    }

    fn settle(&self, id: NodeId, outcome: Result<(Value, Option<Made>)>, users: &[Vec<NodeId>], shared: &Shared, cancel: &Cancel) {
        let mut state = shared.lock();
        match outcome {
            Ok((value, made)) => {
                state.solved.values.insert(id, value);
                state.solved.made.extend(made.map(|made| (id, made)));
                state.left -= 1;
                for user in &users[id.0 as usize] {
                    let waiting = &mut state.waiting[user.0 as usize];
                    *waiting -= 1;
                    if *waiting == 0 {
                        state.ready.push_back(*user);
                    }
                }
            }
            Err(error) => {
                // What fails because another step has failed explains nothing.
                if state.failed.is_none() {
                    state.failed = Some(Failed { node: Some(id), error });
                }
                cancel.cancel();
            }
        }
        let is_due = state.failed.is_none() && state.left > 0 && state.kept.elapsed() >= KEEP_INTERVAL;
        if is_due {
            state.kept = Instant::now();
        }
        drop(state);
        shared.changed.notify_all();
        if is_due && let Err(error) = self.store.keep_steps() {
            tracing::warn!(error = types::error::chain(&error), "results of a build could not be written down yet");
        }
    }

    /// Carries out one step, and tells.
    fn one(&self, id: NodeId, node: &Node, inputs: &[Value], cancel: &Cancel) -> Result<(Value, Option<Made>)> {
        self.progress.started(id);
        let outcome = match &node.op {
            Op::Source(source) => self.source(source, node, cancel).map(|value| (value, None)),
            Op::Exec(exec) => self.exec(id, node, exec, inputs, cancel).map(|(value, made)| (value, Some(made))),
            Op::File(file) => self.file(id, node, file, inputs, cancel).map(|(value, made)| (value, Some(made))),
            Op::Merge { base, layer } => merge(inputs, *base, *layer).map(|value| (value, None)),
        };
        let end = match &outcome {
            Ok((_, Some(made))) if made.cached => End::Cached,
            Ok(_) => End::Done,
            Err(error) => End::Failed(types::error::chain(error)),
        };
        self.progress.finished(id, &end);
        outcome
    }

    fn source(&self, source: &Source, node: &Node, cancel: &Cancel) -> Result<Value> {
        match source {
            Source::Image { reference, digest } => {
                let image = self.worker.image(reference, digest.as_ref(), &node.platform, cancel)?;
                let mut layers = Layers { root: image.root, ..Layers::default() };
                for layer in &image.layers {
                    let hold = self.store.find_layer(&layer.diff_id, &layer.chain_id).ok_or_else(|| Error::Store {
                        operation: "use the base image",
                        source: store::Error::MissingLayer(layer.diff_id.clone()),
                    })?;
                    layers = layers.with(Some(&Arc::new(hold)));
                }
                Ok(Value::Layers(layers))
            }
            Source::Local { name } => match self.inputs.contexts.get(name) {
                Some(tree) => Ok(Value::Files(Arc::clone(tree))),
                None if name == MAIN_CONTEXT => {
                    Err(Error::NotSupported { what: "copying from a build context where none was given".to_owned() })
                }
                None => Err(Error::NotSupported { what: format!("the named context {name}, which was not given,") }),
            },
            Source::Http { url, checksum, filename } => {
                let scratch = self.worker.fetch(url, checksum.as_deref(), filename, cancel)?;
                let path = scratch.path().to_owned();
                Ok(Value::Files(Arc::new(Tree::scratch(scratch, &path, None)?)))
            }
            Source::Git(git) => {
                let (scratch, path) = self.worker.git(git, cancel)?;
                Ok(Value::Files(Arc::new(Tree::scratch(scratch, &path, None)?)))
            }
            Source::OciLayout { .. } => Err(Error::NotSupported { what: "a named context that is an OCI layout".to_owned() }),
        }
    }

    fn file(&self, id: NodeId, node: &Node, op: &FileOp, inputs: &[Value], cancel: &Cancel) -> Result<(Value, Made)> {
        let base = layers_of(inputs, op.base)?;
        let mut trees = Vec::new();
        for action in &op.actions {
            trees.push(match action {
                FileAction::Copy(copy) => Some((copy, self.tree(inputs, copy.from)?)),
                FileAction::Mkdir { .. } | FileAction::Mkfile { .. } => None,
            });
        }
        let mut copies = Vec::new();
        let mut listings = Vec::new();
        let excludes: Vec<Option<Arc<dyn Filter>>> = trees
            .iter()
            .map(|tree| match tree {
                Some((copy, _)) if !copy.exclude.is_empty() => (self.filters)(&copy.exclude).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        for (tree, exclude) in trees.iter().zip(&excludes) {
            let Some((action, tree)) = tree else {
                copies.push(None);
                continue;
            };
            let selected = tree.select(&action.source, action.wildcard)?;
            let name = json(&op.actions)?;
            let selection = Selection { tree, selected: &selected, exclude: exclude.as_deref(), name: format!("{} {name}", action.source) };
            listings.push(self.digests.of(&selection, cancel)?);
            copies.push(Some(Copying { action, tree, selected, exclude: exclude.as_deref() }));
        }
        let known = self.known(id, node, &base, &json(&op.actions)?, &listings)?;
        let key = match known {
            Known::Yes(made) => return Ok((Value::Layers(base.with(made.layer.as_ref())), made)),
            Known::No(key) => key,
        };
        let draft = self.store.draft().map_err(|source| Error::Store { operation: "make room for a layer", source })?;
        let below = if base.holds.is_empty() { Vec::new() } else { self.store.directories_of(&base.holds) };
        let mut filling = Filling::new(&draft.fs_dir(), &below, cancel)?;
        for (action, copying) in op.actions.iter().zip(&copies) {
            match copying {
                Some(copying) => filling.copy(copying)?,
                None => filling.simple(action)?,
            }
        }
        drop(filling);
        let made = self.adopt(node, key, draft)?;
        Ok((Value::Layers(base.with(made.layer.as_ref())), made))
    }

    /// An input as files.
    pub(crate) fn tree(&self, inputs: &[Value], input: Input) -> Result<Arc<Tree>> {
        match inputs.get(input.0 as usize) {
            Some(Value::Files(tree)) => Ok(Arc::clone(tree)),
            Some(Value::Layers(layers)) => Ok(Arc::new(Tree::layers(&self.store.directories_of(&layers.holds), layers.id.clone())?)),
            None => Err(Error::NotSupported { what: "a step without the input that it names".to_owned() }),
        }
    }

    /// Looks a step up by its key, and tells why it is not known.
    pub(crate) fn known(&self, id: NodeId, node: &Node, base: &Layers, what: &str, files: &[Listing]) -> Result<Known> {
        let mut parts: BTreeMap<String, String> = BTreeMap::new();
        parts.insert("base".to_owned(), base.id.clone());
        parts.insert("instruction".to_owned(), explain::instruction(&node.name).to_owned());
        parts.insert("step".to_owned(), digest_of(&[what]));
        parts.insert("platform".to_owned(), node.platform.to_string());
        for (number, listing) in files.iter().enumerate() {
            parts.insert(format!("files {number}"), listing.digest.clone());
        }
        if matches!(node.op, Op::Exec(_)) {
            parts.extend(self.inputs.surroundings.iter().map(|(name, value)| (format!("setting {name}"), value.clone())));
        }
        let counted: Vec<String> =
            parts.iter().filter(|(name, _)| *name != "instruction").map(|(name, value)| format!("{name}={value}")).collect();
        let counted: Vec<&str> = counted.iter().map(String::as_str).collect();
        let key = digest_of(&[&[KEY_VERSION.to_string().as_str()], counted.as_slice()].concat());
        for listing in files {
            parts.extend(listing.parts.iter().map(|(path, hash)| (format!("file {path}"), hash.clone())));
        }
        let slot = digest_of(&[&self.inputs.slot, explain::place(&node.name)]);
        if node.ignore_cache {
            self.progress.missed(id, "the cache is not asked for this step");
            return Ok(Known::No(Key { key, inputs: parts, slot }));
        }
        if let Some((record, layer)) = self.store.cached_step(&key) {
            return Ok(Known::Yes(Made { layer, created: record.created.clone(), cached: true }));
        }
        let before = self.store.cached_before(&slot);
        self.progress.missed(id, &explain::miss(before.as_ref().map(|record| &record.inputs), &parts));
        Ok(Known::No(Key { key, inputs: parts, slot }))
    }

    /// Makes what a step left a layer, and remembers it.
    pub(crate) fn adopt(&self, node: &Node, key: Key, draft: store::Draft) -> Result<Made> {
        let layer = self.store.adopt(draft).map_err(|source| Error::Store { operation: "make a layer of the step's changes", source })?;
        let created = Timestamp::now().to_string();
        self.store.remember_step(CacheRecord {
            key: key.key,
            layer: layer.as_ref().map(|hold| hold.layer().diff_id.clone()),
            kind: "regular".to_owned(),
            description: node.name.clone(),
            created: created.clone(),
            last_used: created.clone(),
            uses: 0,
            size: layer.as_ref().map_or(0, |hold| hold.layer().size),
            inputs: key.inputs,
            slot: key.slot,
        });
        Ok(Made { layer: layer.map(Arc::new), created, cached: false })
    }
}

/// Whether a step's result is known.
pub(crate) enum Known {
    Yes(Made),
    No(Key),
}

/// What a result is remembered under.
pub(crate) struct Key {
    pub key: String,
    pub inputs: BTreeMap<String, String>,
    pub slot: String,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers that a step lies on; none for an empty base.
pub(crate) fn layers_of(inputs: &[Value], input: Option<Input>) -> Result<Layers> {
    match input.and_then(|input| inputs.get(input.0 as usize)) {
        None => Ok(Layers::default()),
        Some(Value::Layers(layers)) => Ok(layers.clone()),
        Some(Value::Files(_)) => Err(Error::NotSupported { what: "a context of files as the base of a stage".to_owned() }),
    }
}

fn merge(inputs: &[Value], base: Input, layer: Input) -> Result<Value> {
    let mut merged = layers_of(inputs, Some(base))?;
    for hold in &layers_of(inputs, Some(layer))?.holds {
        merged = merged.with(Some(hold));
    }
    Ok(Value::Layers(merged))
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::NotSupported { what: format!("a step that cannot be written down ({error})") })
}

/// A digest of texts, each with its length.
pub(crate) fn digest_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&<[u8; 32]>::from(hash.finalize()))
}
