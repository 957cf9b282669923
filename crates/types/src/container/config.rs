//! What runs: the part of a container that does not depend on its host.

use serde::{Deserialize, Serialize};

use crate::nullable::{List, Map, Set, text_or_list};

/// The part of a container's definition that an image may give, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// Host name; empty: the short form of the id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Whether the client that runs it attaches to stdin. Remembered, without effect on the engine.
    pub attach_stdin: bool,
    /// Whether the client that runs it attaches to stdout.
    pub attach_stdout: bool,
    /// Whether the client that runs it attaches to stderr.
    pub attach_stderr: bool,
    /// `port/protocol` to nothing.
    #[serde(skip_serializing_if = "Set::is_null")]
    pub exposed_ports: Set,
    /// Whether stdio is a terminal.
    pub tty: bool,
    /// Whether stdin is kept open though nobody is attached.
    pub open_stdin: bool,
    /// Whether stdin is closed when the first attached client goes.
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: List<String>,
    /// Arguments of the entry point, or the command itself where there is none.
    #[serde(deserialize_with = "text_or_list")]
    pub cmd: List<String>,
    /// How to probe; given by a client or by the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Of Windows: the command is escaped already.
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// Reference or id of the image, as the client wrote it.
    pub image: String,
    /// Paths that get an anonymous volume unless something is mounted there.
    pub volumes: Set,
    /// Working directory; empty: `/`.
    pub working_dir: String,
    /// The command to run; `[""]` in a request means "not the image's either".
    #[serde(deserialize_with = "text_or_list")]
    pub entrypoint: List<String>,
    /// Whether the container has no network at all.
    #[serde(skip_serializing_if = "is_false")]
    pub network_disabled: bool,
    /// Hardware address asked for by clients below API 1.44.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// Instructions for images built on this one.
    #[serde(skip_serializing_if = "List::is_null")]
    pub on_build: List<String>,
    /// Labels.
    pub labels: Map<String>,
    /// Signal that asks it to stop; empty: SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between the stop signal and SIGKILL; -1: without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell for the shell form of the image's instructions.
    #[serde(skip_serializing_if = "List::is_null")]
    pub shell: List<String>,
}

/// How to probe a container. Times are in nanoseconds, zero means "inherit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthConfig {
    /// Empty: inherit. `["NONE"]`: no probe. `["CMD", args…]` or `["CMD-SHELL", line]`.
    #[serde(skip_serializing_if = "List::is_null")]
    pub test: List<String>,
    /// Time between probes.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a probe has failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time at the start in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between probes in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn is_zero(value: &i64) -> bool {
    *value == 0
}
