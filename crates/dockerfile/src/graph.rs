//! The build graph: one node for each step that can be cached, in the shape of BuildKit's LLB.
//!
//! A node has inputs, each the tree that another node makes, and makes one tree. Operations refer to inputs by their index, so that an operation
//! says the same whatever its place in the graph: a cache key is a digest of the serialised operation and of what its inputs are.
//! No input means an empty tree. Nodes stand in the graph after those they depend on.

use serde::{Deserialize, Serialize};
use types::image::ImageConfig;
use types::{Digest, Platform};

use crate::ast::Lines;

/// A node's place in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// The index of an input among a node's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Input(pub u32);

/// The steps of a build, inputs first. Only what the result needs is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Graph {
    /// The nodes; [`NodeId`] is an index here.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// The node of this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)
    }

    /// All nodes with their ids, inputs before those that need them.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId).zip(&self.nodes)
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// The trees it works on; [`Input`] is an index here. The same node may be there once only.
    pub inputs: Vec<NodeId>,
    /// The platform it runs for.
    pub platform: Platform,
    /// What progress shows: `[build 2/5] RUN make`.
    pub name: String,
    /// The instruction's lines in the Dockerfile.
    pub lines: Option<Lines>,
    /// `--no-cache`: carried out even if its result is known.
    pub ignore_cache: bool,
}

/// What a step does. It is serialised for cache keys: nothing in it may differ between two builds that do the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Op {
    /// Takes a tree from outside; no inputs.
    Source(Source),
    /// Runs a command; the result is its root afterwards, as one more layer on its root before.
    Exec(Exec),
    /// Changes files; the result is one more layer on `base`.
    File(FileOp),
    /// Puts what `layer` has over `base`: `COPY --link`. The layer is that of the input, whatever the base.
    Merge {
        /// What lies below.
        base: Input,
        /// A tree made from nothing by one file operation.
        layer: Input,
    },
}

/// A tree from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum Source {
    /// The root of an image.
    Image {
        /// As normalised and with a tag: `docker.io/library/debian:bookworm`.
        reference: String,
        /// What the reference was resolved to, if the resolver said so; else it is resolved when it is needed.
        digest: Option<Digest>,
    },
    /// Files of the client.
    Local {
        /// `context` for the main context, else the named context's name.
        name: String,
    },
    /// A git repository at a commit, branch or tag.
    Git(GitSource),
    /// One file from the web. The tree has the one file, with mode 0600 and the server's time, at its root.
    Http {
        /// The address.
        url: String,
        /// What the content must have.
        checksum: Option<String>,
        /// The file's name in the tree.
        filename: String,
    },
    /// An OCI layout of the client: `oci-layout://` of a named context.
    OciLayout {
        /// The named context's name.
        name: String,
        /// The reference after the `://`.
        reference: String,
    },
}

/// A git repository at a commit, branch or tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GitSource {
    /// What `git` would clone from.
    pub remote: String,
    /// The branch, tag or commit; the default branch if none.
    pub reference: Option<String>,
    /// The folder of the repository that is the tree.
    pub subdir: Option<String>,
    /// Whether `.git` is in the tree.
    pub keep_git_dir: bool,
    /// The commit that the reference must be.
    pub checksum: Option<String>,
    /// Whether submodules come along.
    pub submodules: bool,
}

/// A command that is run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exec {
    /// The root; an empty one if none.
    pub root: Option<Input>,
    /// The words of the command, never empty.
    pub args: Vec<String>,
    /// `NAME=value`, with build arguments and a default `PATH`.
    pub env: Vec<String>,
    /// Proxy settings: set for the command, but not a part of the cache key.
    #[serde(skip)]
    pub proxy_env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, empty for root.
    pub user: String,
    /// In the order of the Dockerfile.
    pub mounts: Vec<Mount>,
    /// Variables that hold secrets.
    pub secret_env: Vec<SecretEnv>,
    /// Its network.
    pub network: NetworkMode,
    /// Its privileges.
    pub security: SecurityMode,
}

/// A variable of a command that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretEnv {
    /// The variable.
    pub name: String,
    /// The secret's id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// What the build as a whole asks for.
    #[default]
    Default,
    /// The host's.
    Host,
    /// None.
    None,
}

/// The privileges of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityMode {
    /// Those of a container.
    #[default]
    Sandbox,
    /// All: needs the entitlement `security.insecure`.
    Insecure,
}

/// What is mounted while a command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where, absolute.
    pub target: String,
    /// Whether it can't be written to.
    pub read_only: bool,
    /// What.
    #[serde(flatten)]
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum MountKind {
    /// A folder or file of an input. What is written to it is dropped afterwards.
    Bind {
        /// The tree; an empty one if none.
        from: Option<Input>,
        /// The path in it, absolute.
        source: String,
    },
    /// A folder that is kept between builds and is not a part of the result.
    Cache {
        /// Caches of one id are the same; by default the target.
        id: String,
        /// Who may use it at the same time.
        sharing: CacheSharing,
        /// What it holds at first, if anything.
        from: Option<Input>,
        /// The path in `from`, absolute.
        source: String,
        /// The owner of a new cache folder.
        uid: u32,
        /// The group of a new cache folder.
        gid: u32,
        /// The mode of a new cache folder.
        mode: u32,
    },
    /// Memory.
    Tmpfs {
        /// Bytes at most.
        size: Option<u64>,
    },
    /// A file that holds a secret of the client.
    Secret {
        /// Which.
        id: String,
        /// Whether the build fails without it.
        required: bool,
        /// The file's owner.
        uid: u32,
        /// The file's group.
        gid: u32,
        /// The file's mode.
        mode: u32,
    },
    /// A socket of the client's ssh agent.
    Ssh {
        /// Which.
        id: String,
        /// Whether the build fails without it.
        required: bool,
        /// The socket's owner.
        uid: u32,
        /// The socket's group.
        gid: u32,
        /// The socket's mode.
        mode: u32,
    },
    /// A file that the Dockerfile holds: `RUN <<EOF` whose first line names an interpreter. The target is the file's path.
    Inline {
        /// Its content.
        content: String,
        /// Its mode.
        mode: u32,
    },
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheSharing {
    /// Every step.
    #[default]
    Shared,
    /// One at a time; another one that runs at the same time gets a cache of its own.
    Private,
    /// One at a time; another one waits.
    Locked,
}

/// Changes of files that make one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileOp {
    /// What is changed; an empty tree if none.
    pub base: Option<Input>,
    /// What is done, in order.
    pub actions: Vec<FileAction>,
}

/// One change of files. Paths are absolute; they are resolved inside their tree, links included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum FileAction {
    /// Makes a folder and those above it; what is there stays as it is.
    Mkdir {
        /// The path.
        path: String,
        /// The mode of new folders.
        mode: u32,
        /// The owner of new folders; root if none.
        owner: Option<Owner>,
    },
    /// Writes a file; folders above it are made.
    Mkfile {
        /// The path; into the folder with `name` if it ends with a slash or is a folder.
        path: String,
        /// The file's name, should `path` be a folder.
        name: String,
        /// The content.
        content: String,
        /// The mode.
        mode: Mode,
        /// The owner; root if none.
        owner: Option<Owner>,
    },
    /// Copies files.
    Copy(CopyAction),
}

/// A copy of files from an input.
///
/// Ownership: root's unless `owner` says otherwise, for a copy from the context; kept for one from a stage or image (`keep_owner`).
/// Times are kept, except that a file from the web has the server's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyAction {
    /// The tree the files come from.
    pub from: Input,
    /// What is copied: a path, or a pattern of Go's `filepath.Match` if `wildcard`. A folder's content is copied rather than the folder.
    pub source: String,
    /// Where to. A folder if it ends with a slash, else the new name of a file or a folder that receives a folder's content.
    pub destination: String,
    /// Whether the source is a pattern. One that matches nothing copies nothing; a plain path that is not there is an error.
    pub wildcard: bool,
    /// Keep the source's parent folders: those after the pivot `/./`, which `source` always has then.
    pub parents: bool,
    /// Patterns (as in `.dockerignore`) of what is left out, relative to the source folder.
    pub exclude: Vec<String>,
    /// Whether an archive (tar; plain or compressed by gzip, bzip2, xz or zstd) is unpacked rather than copied.
    pub unpack: bool,
    /// The owner of everything copied.
    pub owner: Option<Owner>,
    /// Whether owners stay as they are in the source where `owner` is not given.
    pub keep_owner: bool,
    /// The mode of everything copied.
    pub mode: Option<Mode>,
    /// Whether missing folders above the destination are made: always so far.
    pub make_parents: bool,
}

/// The owner of files: by number, or by name as the passwd and group files of the step's base have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The user.
    pub user: Who,
    /// The group; without it that of the user: the same number if the user is a number, else the group of the user in passwd.
    pub group: Option<Who>,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// A mode: numbers replace all permission bits, symbols change them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `0755`.
    Octal(u32),
    /// `u=rwX,go=rX`, checked: apply it with [`SymbolicMode::apply`].
    Symbolic(SymbolicMode),
}

/// A symbolic mode as `chmod` has it, in clauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SymbolicMode {
    /// The text.
    pub(crate) text: String,
}

/// A Dockerfile lowered for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// What has to be done.
    pub graph: Graph,
    /// The tree of the target stage; an empty one if none.
    pub root: Option<NodeId>,
    /// The image the target stage is based on, directly or over other stages: its layers are the lowest. `None` for `scratch`.
    pub base: Option<NodeId>,
    /// The configuration of the resulting image, history included (the base's first), `rootfs` empty and `created` not set.
    ///
    /// Each history entry without `empty_layer` that the build adds belongs to one node on the way from `base` to `root`, in that order.
    pub config: ImageConfig,
    /// How many of the history entries come from the base.
    pub base_history_len: usize,
    /// The platform of the result.
    pub platform: Platform,
    /// `SOURCE_DATE_EPOCH` of the build, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Build arguments that no instruction asks for.
    pub unused_args: Vec<String>,
    /// What the lint and the lowering found.
    pub warnings: Vec<crate::lint::Warning>,
}
