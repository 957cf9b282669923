//! The messages between engine and monitor: versioned, and only ever added to.
//!
//! The engine sends [`Request`]s, each with a number of its choice; the monitor answers each once with a [`Reply`] of the same number, and
//! tells what happens by itself as [`Event`]s. A field or a variant, once released, keeps its name and meaning; new fields have defaults,
//! and an older monitor answers a request that it does not know with [`ErrorCode::Unsupported`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The protocol's version, in every message. It changes only if a reader of the previous one would misunderstand, which is to be avoided.
pub const VERSION: u32 = 1;

/// One message of the engine.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestMessage {
    /// [`VERSION`] of the sender.
    pub v: u32,
    /// The request's number; the reply carries it. Zero is kept for messages that nobody asked for.
    pub id: u64,
    /// What is asked.
    pub request: Request,
    /// What the descriptors beside the message are, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<FdRole>,
}

/// One message of the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub struct MonitorMessage {
    /// [`VERSION`] of the sender.
    pub v: u32,
    /// The number of the request that is answered, zero for an event and for the state told to a new connection.
    #[serde(default)]
    pub id: u64,
    /// The answer to request [`Self::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Something that happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
}

/// The part of every message that every version can read.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`] of the sender.
    pub v: u32,
    /// The request's number, or zero.
    #[serde(default)]
    pub id: u64,
}

/// What a descriptor beside a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FdRole {
    /// The network namespace to join.
    NetNamespace,
    /// The IPC namespace to join.
    IpcNamespace,
    /// The UTS namespace to join.
    UtsNamespace,
    /// The pid namespace to join.
    PidNamespace,
    /// A compiled seccomp program (an array of `struct sock_filter`).
    Seccomp,
    /// A mount, attached nowhere yet, for the directory of secrets.
    Secrets,
    /// The socket of the next attached client, in the order of the request's list.
    Client,
}

/// What the engine asks of a monitor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Create and start the container: the first request, and only once. Answered with [`Reply::Started`] or [`Reply::LaunchFailed`].
    Launch(Box<LaunchRequest>),
    /// Make ready for a launch that is to come: the control group's directories. Only before the launch. Answered with [`Reply::Done`].
    Prepare {
        /// As [`LaunchRequest::cgroup`].
        cgroup: String,
    },
    /// Connect a client to the container's streams. One descriptor: [`FdRole::Client`]. Answered with [`Reply::Done`].
    Attach(Attach),
    /// Start another process in the container. Answered with [`Reply::ExecStarted`] or [`Reply::ExecFailed`].
    Exec(Box<ExecRequest>),
    /// Set a terminal's size. Answered with [`Reply::Done`].
    Resize {
        /// The exec's id, none for the container's own terminal.
        #[serde(default)]
        exec: Option<String>,
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// Send a signal to the container's first process, or to an exec's. SIGKILL also thaws a paused container. Answered with [`Reply::Done`].
    Signal {
        /// The signal's number.
        signal: i32,
        /// The exec's id, none for the container's first process.
        #[serde(default)]
        exec: Option<String>,
    },
    /// Send a signal, and SIGKILL when the container still runs after the timeout: needs no engine for its end. Answered with
    /// [`Reply::Done`] when the signal is sent; [`Event::Exited`] tells the end.
    Stop {
        /// The signal's number.
        signal: i32,
        /// How long to wait before SIGKILL; none is for ever, zero at once.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Freeze every process of the container. Answered with [`Reply::Done`].
    Pause,
    /// Thaw them. Answered with [`Reply::Done`].
    Unpause,
    /// Change resource limits of the running container. Answered with [`Reply::Done`].
    Update {
        /// The limits to change; what is absent stays.
        resources: Box<runtime::oci::Resources>,
    },
    /// Tell everything: answered with [`Reply::State`].
    State,
    /// The exit is recorded: the monitor may go and let the container's mounts go. Answered with [`Reply::Done`], then the socket closes.
    Ack,
    /// Are you there? Answered with [`Reply::Done`].
    Ping,
}

/// Everything that a monitor needs to create, start and keep a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// The container's id.
    pub id: String,
    /// The OCI configuration: process, mounts, namespaces, limits. `process.terminal` gives it a terminal, of `process.consoleSize`.
    /// With a compiled seccomp program beside the message, `linux.seccomp` is needed only as a sign that there is one, without its rules.
    pub spec: Box<runtime::oci::Spec>,
    /// How the root filesystem is made.
    pub root: Root,
    /// The container's control group, relative to each hierarchy's root (`cais-0123abcd/<id>`).
    pub cgroup: String,
    /// `user`, `uid`, `user:group`… as Docker writes it; resolved in the container's /etc/passwd and /etc/group. Empty: what the spec says.
    #[serde(default)]
    pub user: String,
    /// Additional groups by name or number (`--group-add`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_groups: Vec<String>,
    /// Wrap the process in the tiny init, which reaps orphans and forwards signals.
    #[serde(default)]
    pub init: bool,
    /// Keep standard input open for attached clients; otherwise it is empty from the beginning.
    #[serde(default)]
    pub open_stdin: bool,
    /// Close standard input when the first client that feeds it ends.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where the output is recorded; none: nowhere.
    #[serde(default)]
    pub log: Option<LogFile>,
    /// The preallocated record of the exit, see [`crate::exit_record`].
    pub exit_record: PathBuf,
    /// The monitor's listening socket, for an engine that comes later. The engine's end makes it before the monitor is started.
    pub socket: PathBuf,
    /// The OCI runtime that makes the container, in place of the monitor itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ExternalRuntime>,
    /// Clients that wait for the start: attached before the first byte of output. One [`FdRole::Client`] each.
    #[serde(default)]
    pub attach: Vec<Attach>,
}

/// An OCI runtime that is a program of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRuntime {
    /// Its path.
    pub program: PathBuf,
    /// Arguments that go before its own commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// A folder of this run's own for the bundle, and for what the runtime remembers.
    pub folder: PathBuf,
}

/// How the root filesystem is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// A directory as it is.
    Path(PathBuf),
    /// An overlay, mounted for this container alone.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The read/write layer.
        upper: PathBuf,
        /// Scratch space on the filesystem of `upper`.
        work: PathBuf,
        /// Nothing is synced: a crash of the machine loses `upper`, which must then not be mounted again.
        #[serde(default)]
        volatile: bool,
        /// The ids on disk are those that the container sees, whatever its user namespace makes of them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        idmap: bool,
    },
}

/// How the records of a log are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line of JSON each, as Docker's json-file driver has them.
    #[default]
    Json,
    /// A protobuf message between two lengths each, as Docker's local driver has them.
    Local,
}

/// The file that a container's output is kept in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogFile {
    /// The file's path; rotated ones get `.1`, `.2` … appended.
    pub path: PathBuf,
    /// Rotate when the file would grow beyond this; none: never.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// How many files to keep, the current one included; at least one.
    #[serde(default)]
    pub max_files: Option<u32>,
    /// How records are written.
    #[serde(default)]
    pub format: LogFormat,
    /// A JSON object that each record of [`LogFormat::Json`] carries as its attributes; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attrs: String,
}

/// A client's socket and what flows through it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Bytes of the client go to standard input.
    #[serde(default)]
    pub stdin: bool,
    /// The client gets standard output (or the terminal's).
    #[serde(default)]
    pub stdout: bool,
    /// The client gets standard error (never apart from the output where there is a terminal).
    #[serde(default)]
    pub stderr: bool,
    /// Each piece of output has an 8-byte header that names its stream: where there is no terminal.
    #[serde(default)]
    pub multiplexed: bool,
    /// Typing this sequence closes the client's connection and leaves the process running. Watched for on terminals only. Empty: never.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detach_keys: Vec<u8>,
    /// What the engine has read from the socket beyond the request's head: the first bytes of standard input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_ahead: Vec<u8>,
}

/// Another process in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The exec's id.
    pub id: String,
    /// The process, as the OCI specification describes one.
    pub process: Box<runtime::oci::Process>,
    /// As [`LaunchRequest::user`].
    #[serde(default)]
    pub user: String,
    /// Additional groups by name or number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_groups: Vec<String>,
    /// No seccomp filter, whatever the container has (`exec --privileged`).
    #[serde(default)]
    pub unconfined: bool,
    /// The client and its streams; none runs the process with empty input and discarded output. One [`FdRole::Client`] if present.
    #[serde(default)]
    pub attach: Option<Attach>,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done, or under way.
    Done,
    /// The container runs.
    Started(Started),
    /// The container could not be started; the monitor has removed what it made and ends.
    LaunchFailed(Failure),
    /// The exec's process runs.
    ExecStarted {
        /// Its process id on the host.
        pid: i32,
    },
    /// The exec's process could not be started.
    ExecFailed(Failure),
    /// Everything there is to know.
    State(Box<State>),
    /// The request failed.
    Failed {
        /// Which kind of failure.
        code: ErrorCode,
        /// What failed and why, in one line.
        text: String,
    },
}

/// Kinds of failed requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// This monitor does not know the request (or one of its values).
    Unsupported,
    /// The container does not run (any more), or has not been launched.
    NotRunning,
    /// There is no such exec, or it has ended.
    NoSuchExec,
    /// The container or exec is in another state: paused, not paused, has no terminal.
    Conflict,
    /// The request is malformed.
    Invalid,
    /// The system refused.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

/// A started container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The first process's id on the host.
    pub pid: i32,
    /// Its start time in clock ticks after boot (field 22 of /proc/PID/stat): with the boot id it names the process for good.
    pub start_ticks: u64,
    /// When it was started, in nanoseconds of Unix time.
    pub at_ns: i64,
    /// The steps of the start, and when each was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<(String, i64)>,
}

/// Why a process was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that failed, a short word for logs and tests.
    pub step: String,
    /// What failed and why, in one line.
    pub text: String,
    /// 127: the command is not there; 126: it cannot be executed; 125: all else.
    pub exit_code: i32,
    /// What kind of failure: an [`types::ErrorKind`] in words.
    #[serde(default)]
    pub kind: FailureKind,
    /// The next thing to type or to check.
    #[serde(default)]
    pub hint: Option<String>,
}

/// [`types::ErrorKind`] on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is malformed or asks for something impossible.
    InvalidInput,
    /// The machine does not allow it.
    Forbidden,
    /// Something named in the request does not exist.
    NotFound,
    /// Something is in the way.
    Conflict,
    /// This monitor does not serve it.
    NotServed,
    /// Something needed is out of reach for now.
    Unavailable,
    /// Everything else.
    #[default]
    #[serde(other)]
    Internal,
}

impl From<types::ErrorKind> for FailureKind {
    fn from(kind: types::ErrorKind) -> Self {
        match kind {
            types::ErrorKind::InvalidInput => Self::InvalidInput,
            types::ErrorKind::Unauthorized | types::ErrorKind::Forbidden => Self::Forbidden,
            types::ErrorKind::NotFound => Self::NotFound,
            types::ErrorKind::Conflict => Self::Conflict,
            types::ErrorKind::NotServed => Self::NotServed,
            types::ErrorKind::Unavailable => Self::Unavailable,
            types::ErrorKind::Internal => Self::Internal,
        }
    }
}

impl From<FailureKind> for types::ErrorKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::InvalidInput => Self::InvalidInput,
            FailureKind::Forbidden => Self::Forbidden,
            FailureKind::NotFound => Self::NotFound,
            FailureKind::Conflict => Self::Conflict,
            FailureKind::NotServed => Self::NotServed,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::Internal => Self::Internal,
        }
    }
}

/// The end of the container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because the memory limit was reached.
    #[serde(default)]
    pub oom_killed: bool,
    /// When, in nanoseconds of Unix time.
    pub at_ns: i64,
}

/// The end of an exec's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// The exec's id.
    pub id: String,
    /// The exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// When, in nanoseconds of Unix time.
    pub at_ns: i64,
}

/// What happens by itself. Each connected engine is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container has ended, its log is complete and its control group is gone. The monitor now waits for [`Request::Ack`].
    Exited(Exit),
    /// An exec has ended.
    ExecExited(ExecExit),
    /// The kernel killed a process of the container because the memory limit was reached.
    Oom {
        /// How many so far.
        count: u64,
    },
    /// A client typed its detach keys.
    Detached {
        /// The exec it was attached to, none for the container.
        exec: Option<String>,
    },
    /// The log was rotated: the file that ends in `.1` is complete now.
    LogRotated,
    /// Something went wrong that did not end the container: its log cannot be written, a client was too slow.
    Warning {
        /// What, in one line.
        text: String,
    },
}

/// Everything that a monitor knows: told to each new connection, and on request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// The monitor's own process id on the host.
    pub monitor_pid: i32,
    /// Whether and how it was started; none while the launch goes on.
    #[serde(default)]
    pub started: Option<Started>,
    /// Frozen by a request.
    #[serde(default)]
    pub paused: bool,
    /// Processes killed by the kernel because the memory limit was reached.
    #[serde(default)]
    pub oom_kills: u64,
    /// The exit, if it has ended; its log is complete then.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Execs that run: id and process id on the host.
    #[serde(default)]
    pub execs: Vec<(String, i32)>,
    /// The latest execs that have ended.
    #[serde(default)]
    pub exec_exits: Vec<ExecExit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What released engines and monitors say, letter by letter. A message may be added here; one that is here stays as it is.
    #[test]
    fn messages_of_version_1_are_understood_for_good() {
        let requests = [
            r#"{"v":1,"id":2,"request":"ping"}"#,
            r#"{"v":1,"id":0,"request":{"prepare":{"cgroup":"g/c"}}}"#,
            r#"{"v":1,"id":2,"request":"ack"}"#,
            r#"{"v":1,"id":2,"request":"state"}"#,
            r#"{"v":1,"id":2,"request":"pause"}"#,
            r#"{"v":1,"id":2,"request":"unpause"}"#,
            r#"{"v":1,"id":2,"request":{"stop":{"signal":15,"timeout_ms":10000}}}"#,
            r#"{"v":1,"id":2,"request":{"signal":{"signal":9}}}"#,
            r#"{"v":1,"id":2,"request":{"signal":{"signal":9,"exec":"e"}}}"#,
            r#"{"v":1,"id":2,"request":{"resize":{"rows":40,"columns":100}}}"#,
            r#"{"v":1,"id":2,"request":{"update":{"resources":{"memory":{"limit":1048576}}}}}"#,
            r#"{"v":1,"id":2,"request":{"attach":{"stdout":true,"multiplexed":true}},"fds":["client"]}"#,
            r#"{"v":1,"id":2,"request":{"exec":{"id":"e","process":{"args":["true"],"cwd":"/"},"attach":{"stdin":true}}},"fds":["client"]}"#,
            r#"{"v":1,"id":1,"request":{"launch":{"id":"c","spec":{},"root":{"path":"/r"},"cgroup":"g/c","exit_record":"/x","socket":"/s"}},"fds":["net_namespace","seccomp"]}"#,
            r#"{"v":1,"id":1,"request":{"launch":{"id":"c","spec":{},"root":{"overlay":{"lower":["/l"],"upper":"/u","work":"/w"}},"cgroup":"g","exit_record":"/x","socket":"/s","log":{"path":"/log"},"later":1}}}"#,
        ];
        for text in requests {
            serde_json::from_str::<RequestMessage>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        let answers = [
            r#"{"v":1,"id":2,"reply":"done"}"#,
            r#"{"v":1,"id":1,"reply":{"started":{"pid":7,"start_ticks":8,"at_ns":9}}}"#,
            r#"{"v":1,"id":1,"reply":{"launch_failed":{"step":"exec","text":"t","exit_code":127,"kind":"invalid_input"}}}"#,
            r#"{"v":1,"id":1,"reply":{"exec_failed":{"step":"exec","text":"t","exit_code":127,"kind":"of later"}}}"#,
            r#"{"v":1,"id":2,"reply":{"exec_started":{"pid":7}}}"#,
            r#"{"v":1,"id":2,"reply":{"failed":{"code":"not_running","text":"t"}}}"#,
            r#"{"v":1,"id":2,"reply":{"failed":{"code":"of later","text":"t"}}}"#,
            r#"{"v":1,"id":0,"reply":{"state":{"id":"c","monitor_pid":7,"execs":[["e",8]],"exit":{"code":0,"at_ns":1}}}}"#,
            r#"{"v":1,"event":{"exited":{"code":137,"signal":9,"oom_killed":true,"at_ns":1}}}"#,
            r#"{"v":1,"event":{"exec_exited":{"id":"e","code":0,"at_ns":1}}}"#,
            r#"{"v":1,"event":{"oom":{"count":1}}}"#,
            r#"{"v":1,"event":{"detached":{"exec":null}}}"#,
            r#"{"v":1,"event":{"warning":{"text":"t"}}}"#,
        ];
        for text in answers {
            serde_json::from_str::<MonitorMessage>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
    }

    #[test]
    fn what_is_sent_now_is_what_was_sent_then() {
        let request = RequestMessage {
            v: VERSION,
            id: 3,
            request: Request::Attach(Attach { stdout: true, ..Attach::default() }),
            fds: vec![FdRole::Client],
        };
        let text = serde_json::to_string(&request).expect("serialisable");
        assert_eq!(
            text,
            r#"{"v":1,"id":3,"request":{"attach":{"stdin":false,"stdout":true,"stderr":false,"multiplexed":false}},"fds":["client"]}"#
        );
        let exit = Exit { code: 0, signal: None, oom_killed: false, at_ns: 5 };
        let message = MonitorMessage { v: VERSION, id: 0, reply: None, event: Some(Event::Exited(exit)) };
        let text = serde_json::to_string(&message).expect("serialisable");
        assert_eq!(text, r#"{"v":1,"id":0,"event":{"exited":{"code":0,"signal":null,"oom_killed":false,"at_ns":5}}}"#);
    }
}
