//! What a build needs of whoever has images, containers and the network.

use std::path::PathBuf;
use std::sync::Arc;

use dockerfile::NodeId;
use dockerfile::graph::{Exec, GitSource};
use store::{Draft, Image, LayerHold, RootAttributes, Scratch};
use types::{Digest, Platform};

use crate::{Cancel, Result};

/// Carries out what a solver cannot do by itself. Everything blocks, and ends soon after the build is told to stop.
pub trait Worker: Send + Sync {
    /// The image that a reference means, fetched if it is not here.
    fn image(&self, reference: &str, digest: Option<&Digest>, platform: &Platform, cancel: &Cancel) -> Result<Arc<Image>>;

    /// Runs a command over layers. Answers its exit code and what it changed, nothing of it where the code is not 0.
    fn run(&self, step: &Step<'_>, output: Output<'_>, cancel: &Cancel) -> Result<Ran>;

    /// Fetches one file into a directory of its own, checked against the checksum if there is one.
    fn fetch(&self, url: &str, checksum: Option<&str>, filename: &str, cancel: &Cancel) -> Result<Scratch>;

    /// Checks a repository out into a directory of its own; answers the directory and the commit.
    fn git(&self, source: &GitSource, cancel: &Cancel) -> Result<(Scratch, PathBuf)>;
}

/// Takes what a command writes: the stream's number (1 or 2) and the bytes.
pub type Output<'a> = &'a (dyn Fn(u8, &[u8]) + Sync);

/// A command, and everything that the container needs.
pub struct Step<'a> {
    /// The command.
    pub exec: &'a Exec,
    /// Its root, lowest layer first.
    pub layers: &'a [Arc<LayerHold>],
    /// Mode and owner of the root directory.
    pub root: Option<RootAttributes>,
    /// What is mounted, in order.
    pub mounts: Vec<StepMount>,
    /// Variables that no cache key and no image knows.
    pub hidden_env: Vec<String>,
    /// The platform it runs for.
    pub platform: &'a Platform,
}

/// Something mounted into a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMount {
    /// Where, absolute.
    pub target: String,
    /// Whether writing is refused.
    pub read_only: bool,
    /// What.
    pub source: MountSource,
}

/// What is mounted into a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory that the engine owns, or a socket of the client.
    Path(PathBuf),
    /// Memory, of so many bytes at most.
    Tmpfs(Option<u64>),
}

/// How a command ended.
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it changed; nothing where it failed.
    pub changes: Option<Draft>,
}

/// Is told how a build goes, from several threads at once.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn started(&self, node: NodeId);
    /// Its result is not known, and why.
    fn missed(&self, node: NodeId, why: &str);
    /// Its command writes.
    fn output(&self, node: NodeId, stream: u8, bytes: &[u8]);
    /// It has ended.
    fn finished(&self, node: NodeId, end: &End);
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The result was known.
    Cached,
    /// It was carried out.
    Done,
    /// It failed.
    Failed(String),
}
