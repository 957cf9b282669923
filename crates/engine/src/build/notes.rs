//! What a build tells its client while it goes on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use build::{End, Progress};
use dockerfile::{Lowered, NodeId};
use jiff::Timestamp;
use tokio::sync::mpsc;
use types::build::{BuildEvent, BuildResult, BuildWarning, Vertex, VertexStatus};

use crate::container::lock;
use crate::image;

/// Output that waits for a slow client; what comes beyond is left out, and said so.
const OUTPUT_WAITING_MAX: u64 = 64 << 20;

/// Something that a build tells.
#[derive(Debug)]
pub enum Note {
    /// The instructions that are carried out, in order, before any of them begins.
    Steps(Vec<StepText>),
    /// Steps that begin, end, write.
    Event(Box<BuildEvent>),
    /// Output of a step.
    Output {
        /// The step.
        vertex: String,
        /// 1 or 2.
        stream: u8,
        /// What it wrote.
        bytes: Vec<u8>,
        /// RFC 3339.
        timestamp: String,
    },
    /// The image is made.
    Result(Box<BuildResult>),
}

/// An instruction, for clients that count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepText {
    /// The instruction on one line.
    pub text: String,
    /// The vertexes that it stands for; none for one that changes only the configuration.
    pub vertexes: Vec<String>,
    /// A short identifier of the image so far.
    pub id: String,
    /// Whether this engine has carried it out before.
    pub is_known: bool,
}

/// Where notes go.
#[derive(Clone)]
pub(super) struct Notes(Arc<Inner>);

struct Inner {
    sender: mpsc::UnboundedSender<Note>,
    waiting: Arc<AtomicU64>,
    next: AtomicU64,
    vertexes: Mutex<BTreeMap<String, Vertex>>,
}

/// The other end of [`Notes`].
#[derive(Debug)]
pub struct NoteReceiver {
    receiver: mpsc::UnboundedReceiver<Note>,
    waiting: Arc<AtomicU64>,
}

impl NoteReceiver {
    /// The next note; nothing at the end.
    pub async fn recv(&mut self) -> Option<Note> {
        let note = self.receiver.recv().await?;
        if let Note::Output { bytes, .. } = &note {
            self.waiting.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        Some(note)
    }
}

/// Both ends.
pub(super) fn notes() -> (Notes, NoteReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicU64::new(0));
    let inner = Inner { sender, waiting: Arc::clone(&waiting), next: AtomicU64::new(0), vertexes: Mutex::default() };
    (Notes(Arc::new(inner)), NoteReceiver { receiver, waiting })
}

/// How a node of a graph is called in events.
pub(super) fn vertex_of(prefix: &str, node: NodeId) -> String {
    format!("{prefix}{}", node.0)
}

impl Notes {
    pub fn send(&self, note: Note) {
        // A client that has gone needs no telling.
        let _ = self.0.sender.send(note);
    }

    fn event(&self, event: BuildEvent) {
        self.send(Note::Event(Box::new(event)));
    }

    /// Something begins that is no node of the graph; answers what it is called.
    pub fn begin(&self, name: &str) -> String {
        let digest = format!("internal-{}", self.0.next.fetch_add(1, Ordering::Relaxed));
        self.begin_vertex(Vertex { digest: digest.clone(), name: name.to_owned(), ..Vertex::default() });
        digest
    }

    fn begin_vertex(&self, vertex: Vertex) {
        let vertex = Vertex { started: Some(Timestamp::now().to_string()), ..vertex };
        lock(&self.0.vertexes).insert(vertex.digest.clone(), vertex.clone());
        self.event(BuildEvent { vertexes: vec![vertex], ..BuildEvent::default() });
    }

    /// It has ended.
    pub fn end(&self, digest: &str, cached: bool, error: Option<String>) {
        let Some(vertex) = lock(&self.0.vertexes).remove(digest) else { return };
        let vertex = Vertex { completed: Some(Timestamp::now().to_string()), cached, error: error.unwrap_or_default(), ..vertex };
        self.event(BuildEvent { vertexes: vec![vertex], ..BuildEvent::default() });
    }

    fn missed(&self, digest: &str, why: &str) {
        let changed = lock(&self.0.vertexes).get_mut(digest).map(|vertex| {
            why.clone_into(&mut vertex.miss);
            vertex.clone()
        });
        if let Some(vertex) = changed {
            self.event(BuildEvent { vertexes: vec![vertex], ..BuildEvent::default() });
        }
    }

    fn output(&self, digest: &str, stream: u8, bytes: &[u8]) {
        if self.0.waiting.load(Ordering::Relaxed) > OUTPUT_WAITING_MAX {
            return;
        }
        let before = self.0.waiting.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut bytes = bytes.to_vec();
        if before + bytes.len() as u64 > OUTPUT_WAITING_MAX {
            let len = bytes.len();
            bytes = b"\n[output is left out here: it came faster than the client took it]\n".to_vec();
            self.0.waiting.fetch_add((bytes.len() as u64).wrapping_sub(len as u64), Ordering::Relaxed);
        }
        let timestamp = Timestamp::now().to_string();
        self.send(Note::Output { vertex: digest.to_owned(), stream, bytes, timestamp });
    }

    /// A line of a pull's progress.
    pub fn status(&self, vertex: &str, line: &image::Progress) {
        if line.id.is_empty() {
            return;
        }
        let (current, total) = line.detail.map_or((0, 0), |(current, total)| (current, total.unwrap_or(0)));
        let now = Timestamp::now().to_string();
        let is_done = matches!(line.status.as_str(), "Pull complete" | "Already exists");
        let status = VertexStatus {
            id: line.id.clone(),
            vertex: vertex.to_owned(),
            name: line.status.clone(),
            current,
            total,
            timestamp: now.clone(),
            started: None,
            completed: is_done.then_some(now),
        };
        self.event(BuildEvent { statuses: vec![status], ..BuildEvent::default() });
    }

    /// What the lint found.
    pub fn warnings(&self, warnings: Vec<BuildWarning>) {
        if !warnings.is_empty() {
            self.event(BuildEvent { warnings, ..BuildEvent::default() });
        }
    }
}

/// Tells of one graph's nodes.
pub(super) struct GraphNotes<'a> {
    pub notes: &'a Notes,
    pub lowered: &'a Lowered,
    pub prefix: &'a str,
}

impl GraphNotes<'_> {
    fn vertex(&self, node: NodeId) -> String {
        vertex_of(self.prefix, node)
    }
}

impl Progress for GraphNotes<'_> {
    fn started(&self, node: NodeId) {
        let Some(found) = self.lowered.graph.node(node) else { return };
        let inputs = found.inputs.iter().map(|input| self.vertex(*input)).collect();
        self.notes.begin_vertex(Vertex { digest: self.vertex(node), name: found.name.clone(), inputs, ..Vertex::default() });
    }

    fn missed(&self, node: NodeId, why: &str) {
        self.notes.missed(&self.vertex(node), why);
    }

    fn output(&self, node: NodeId, stream: u8, bytes: &[u8]) {
        self.notes.output(&self.vertex(node), stream, bytes);
    }

    fn finished(&self, node: NodeId, end: &End) {
        let error = match end {
            End::Failed(error) => Some(error.clone()),
            End::Cached | End::Done => None,
        };
        self.notes.end(&self.vertex(node), *end == End::Cached, error);
    }
}
