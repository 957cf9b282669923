//! The configuration of the image that a solved graph is.

use std::sync::Arc;

use dockerfile::graph::{Input, Op};
use dockerfile::{Lowered, NodeId};
use jiff::Timestamp;
use store::LayerHold;
use types::image::{ImageConfig, RootFs};

use crate::Solved;

/// An image that is ready to be made.
#[derive(Debug)]
pub struct Assembled {
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<Arc<LayerHold>>,
    /// Of the layers, how many are the base image's.
    pub base_len: usize,
}

/// Puts a lowered Dockerfile and what its graph came to together. Steps that changed nothing have no layer; an image is made when its last step was.
pub fn assemble(lowered: &Lowered, solved: &Solved) -> Assembled {
    let mut config = lowered.config.clone();
    let layers = lowered.root.and_then(|root| solved.layers(root)).cloned().unwrap_or_default();
    let base_len = lowered.base.and_then(|base| solved.layers(base)).map_or(0, |base| base.holds.len());
    let epoch = lowered.epoch.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(|time| time.to_string());
    let base_history = &lowered.config.history[..lowered.base_history_len.min(lowered.config.history.len())];
    let mut latest = base_history.iter().rev().find_map(|entry| entry.created.clone()).or_else(|| lowered.config.created.clone());
    let mut steps = path(lowered).into_iter();
    for entry in config.history.iter_mut().skip(lowered.base_history_len) {
        if !entry.empty_layer
            && let Some(node) = steps.next()
        {
            let (is_empty, created) = result(lowered, solved, node);
            entry.empty_layer = is_empty;
            latest = created.or(latest);
        }
        entry.created = epoch.clone().or_else(|| latest.clone());
    }
    config.created = epoch.or(latest).or_else(|| Some(Timestamp::UNIX_EPOCH.to_string()));
    // Of the base, not of this image.
    config.comment.clear();
    config.rootfs = RootFs { kind: "layers".to_owned(), diff_ids: layers.holds.iter().map(|hold| hold.layer().diff_id.clone()).collect() };
    Assembled { config, layers: layers.holds, base_len }
}

/// The steps between the base and the result, first step first.
fn path(lowered: &Lowered) -> Vec<NodeId> {
    let mut path = Vec::new();
    let mut here = lowered.root;
    while let Some(id) = here.filter(|id| Some(*id) != lowered.base) {
        let Some(node) = lowered.graph.node(id) else { break };
        let below = |input: Option<Input>| input.and_then(|input| node.inputs.get(input.0 as usize)).copied();
        let next = match &node.op {
            Op::Source(_) => break,
            Op::Exec(exec) => below(exec.root),
            Op::File(file) => below(file.base),
            Op::Merge { base, .. } => below(Some(*base)),
        };
        path.push(id);
        here = next;
    }
    path.reverse();
    path
}

/// Whether a step left no layer, and when it was made.
fn result(lowered: &Lowered, solved: &Solved, id: NodeId) -> (bool, Option<String>) {
    let of = match lowered.graph.node(id).map(|node| (&node.op, &node.inputs)) {
        Some((Op::Merge { layer, .. }, inputs)) => inputs.get(layer.0 as usize).copied().unwrap_or(id),
        _ => id,
    };
    match solved.made(of) {
        Some(made) => (made.layer.is_none(), Some(made.created.clone())),
        None => (true, None),
    }
}
