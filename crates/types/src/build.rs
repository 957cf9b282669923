//! What Cais's own client asks of a build, and what it is told meanwhile. Other clients use the Engine API's parameters and its stream of lines.
//!
//! The request goes to `POST /build` with the content type [`REQUEST_TYPE`]: one line of JSON, [`BuildRequest`], and after it the archive of the context if
//! there is one. The answer is a stream of lines, each a [`BuildEvent`]; its shape is that of BuildKit's status, which `--progress=rawjson` prints as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The content type of a request as Cais's own client makes it.
pub const REQUEST_TYPE: &str = "application/vnd.cais.build.v1";
/// The request's line has at most so many bytes, secrets included.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// What is to be built, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BuildRequest {
    /// The main context.
    pub context: ContextSource,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// `--build-context`: further contexts by name.
    pub contexts: BTreeMap<String, ContextSource>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--tag`.
    pub tags: Vec<String>,
    /// `--target`; empty for the last stage.
    pub target: String,
    /// `--platform`; the machine's if empty.
    pub platforms: Vec<String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stages that are carried out anew.
    pub no_cache_filter: Vec<String>,
    /// `--pull`: ask registries for base images that are here, too.
    pub pull: bool,
    /// `--network`: `default`, `none`, `host` or a network's name.
    pub network: String,
    /// `--add-host`, each `name:address`.
    pub extra_hosts: Vec<String>,
    /// `--shm-size` in bytes; 0 for the default.
    pub shm_size: i64,
    /// `--ulimit`, each `name=soft:hard`.
    pub ulimits: Vec<String>,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// `--secret`: the content by id, in base64.
    pub secrets: BTreeMap<String, String>,
    /// `--ssh`: the path of the agent's socket by id. Honoured for a client on the same machine only.
    pub ssh: BTreeMap<String, String>,
    /// `--output`; the image store if empty.
    pub outputs: Vec<Output>,
    /// `--cache-from`, each `type=…,key=value`.
    pub cache_from: Vec<BTreeMap<String, String>>,
    /// `--cache-to`, each `type=…,key=value`.
    pub cache_to: Vec<BTreeMap<String, String>>,
    /// `--allow`: `security.insecure`, `network.host`.
    pub allow: Vec<String>,
    /// `--provenance`: `min`, `max`, or empty for none.
    pub provenance: String,
    /// `--annotation`, each `key=value`.
    pub annotations: BTreeMap<String, String>,
    /// `--check`: look for mistakes, build nothing.
    pub check: bool,
    /// The build's identifier, by which it can be cancelled.
    pub id: String,
}

/// Where a context comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ContextSource {
    /// Nothing.
    #[default]
    Empty,
    /// A directory on the engine's machine: only over its unix socket, for root and the engine's own user.
    Directory {
        /// Its absolute path.
        path: String,
    },
    /// The archive after the request's line, for the main context only.
    Archive,
    /// A git repository or an archive in the web.
    Url {
        /// The address, `#ref:folder` included.
        url: String,
    },
    /// An image: `docker-image://`, for named contexts only.
    Image {
        /// The reference.
        reference: String,
    },
}

/// Where the Dockerfile comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum DockerfileSource {
    /// A file of the context.
    Context {
        /// Its path there.
        path: String,
    },
    /// Its text: from standard input, or a file outside of the context.
    Text {
        /// The text.
        text: String,
        /// The name that messages show.
        name: String,
        /// What its own `.dockerignore` says, if it has one.
        ignore: Option<String>,
    },
}

impl Default for DockerfileSource {
    fn default() -> Self {
        Self::Context { path: String::new() }
    }
}

/// One `--output`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Output {
    /// `image`, `registry`, `local`, `tar`, `oci` or `docker`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Everything else that was said: `dest`, `name`, `push`, `compression` …
    pub options: BTreeMap<String, String>,
}

/// One line of the answer. Absent parts say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildEvent {
    /// Steps whose state changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<Vertex>,
    /// Progress within steps: transfers and downloads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<VertexStatus>,
    /// Output of steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<VertexLog>,
    /// What the lint found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<BuildWarning>,
    /// The end, if all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<BuildResult>,
    /// The end, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<BuildFailure>,
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Vertex {
    /// Identifies the step within this build.
    pub digest: String,
    /// The steps it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// `[build 2/5] RUN make`.
    pub name: String,
    /// When it began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
    /// Whether the result was known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Why the result was not known: which input changed. Not in BuildKit's status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub miss: String,
}

/// Progress within a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexStatus {
    /// What is done, unique within the step.
    pub id: String,
    /// The step.
    pub vertex: String,
    /// A word for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Bytes done.
    pub current: u64,
    /// Bytes to do; 0 if not known.
    pub total: u64,
    /// RFC 3339.
    pub timestamp: String,
    /// When it began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
}

/// Output of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexLog {
    /// The step.
    pub vertex: String,
    /// 1 for standard output, 2 for standard error.
    pub stream: u8,
    /// The bytes, in base64.
    pub data: String,
    /// RFC 3339.
    pub timestamp: String,
}

/// What the lint found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildWarning {
    /// The rule's name.
    pub rule: String,
    /// What the rule is about.
    pub description: String,
    /// Where the rule is explained.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What is wrong here.
    pub message: String,
    /// The first line.
    pub line: u32,
    /// The last line.
    pub last_line: u32,
}

/// What a build made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildResult {
    /// The image's identifier, where an image was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// The digest of its manifest or index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The names it got, in the familiar form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// What `--metadata-file` gets.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// Why a build failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildFailure {
    /// What failed and why, in one line.
    pub message: String,
    /// The step that failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vertex: String,
    /// The exit code of a command that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The lines of the Dockerfile that failed, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<(u32, u32)>,
    /// An excerpt of the Dockerfile with those lines, ready to be printed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
    /// The next thing to type.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}
