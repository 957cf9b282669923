//! What a Dockerfile says, instruction by instruction, before variables are expanded.
//!
//! Words are kept as they were written, quotes and variables included; [`crate::lower`] expands them in the scope of their stage.

use std::fmt;

/// A range of lines, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize)]
pub struct Lines {
    /// The first line.
    pub first: u32,
    /// The last line: that of the end of a continuation or of a here-document.
    pub last: u32,
}

impl fmt::Display for Lines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(out, "{}", self.first) } else { write!(out, "{}-{}", self.first, self.last) }
    }
}

/// A whole Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What the comments at its top ask of the parser.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`.
    pub args: Vec<Instruction>,
    /// The stages, at least one.
    pub stages: Vec<Stage>,
    /// The text, which errors quote.
    pub source: String,
    /// Places where a continued line is followed by an empty one, which a later syntax may refuse.
    pub empty_continuations: Vec<Lines>,
}

/// The parser directives at the top of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend asked for, if one is.
    pub syntax: Option<Directive>,
    /// `# escape=`: a backslash or a backtick.
    pub escape: char,
    /// `# check=`: what the lint skips, and whether its findings are errors.
    pub check: Option<Directive>,
}

/// The value of a directive and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// What follows the `=`.
    pub value: String,
    /// Its line.
    pub line: u32,
}

/// A stage: `FROM` and what follows up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The base, unexpanded: an image, another stage, a named context or `scratch`.
    pub base: String,
    /// The name given by `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<String>,
    /// Where the `FROM` stands.
    pub lines: Lines,
    /// The `FROM` as one line.
    pub text: String,
    /// The comment lines right above it, without their `#`.
    pub comments: Vec<String>,
    /// The keyword, and `AS`, as they were written.
    pub keywords: (String, Option<String>),
    /// The name as it was written.
    pub written_name: Option<String>,
    /// The instructions.
    pub instructions: Vec<Instruction>,
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// Where it stands, here-documents included.
    pub lines: Lines,
    /// The instruction as one line: continuations joined, comments left out, here-documents left out.
    pub text: String,
    /// The keyword as it was written.
    pub keyword: String,
    /// The comment lines right above it, without their `#`.
    pub comments: Vec<String>,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `ADD`.
    Add(Transfer),
    /// `ARG`: names, with a default each or none.
    Arg(Vec<ArgPair>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(Transfer),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`.
    Env(Vec<Pair>),
    /// `EXPOSE`: ports as they were written.
    Expose(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<Pair>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the instruction that is carried out in images built on this one.
    OnBuild(String),
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `USER`.
    User(String),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `WORKDIR`.
    Workdir(String),
}

/// `NAME=value`, unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub name: String,
    /// The value, quotes included.
    pub value: String,
    /// Whether it was written `NAME value`, the old way without the equals sign.
    pub legacy: bool,
}

/// `NAME` or `NAME=default`, unexpanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    /// The name.
    pub name: String,
    /// The default, quotes included.
    pub default: Option<String>,
}

/// A command of `RUN`, `CMD`, `ENTRYPOINT` or `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// One text in shell form, the words in exec form.
    pub words: Vec<String>,
    /// Whether a shell runs it.
    pub shell: bool,
    /// The here-documents it has, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without quotes: the file's name.
    pub name: String,
    /// Its lines, each with its end.
    pub content: String,
    /// Whether variables in it are expanded: false when the word was quoted.
    pub expand: bool,
    /// `<<-`: tabs at the beginning of lines are left out.
    pub chomp: bool,
}

impl Heredoc {
    /// The content, without the leading tabs where `<<-` asked for it.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// Where from: paths, patterns, for `ADD` also URLs and git references.
    pub sources: Vec<String>,
    /// Files given in the Dockerfile itself.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// `--from` (`COPY`): a stage, an image or a named context.
    pub from: Option<String>,
    /// `--chown=user[:group]`.
    pub chown: Option<String>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<String>,
    /// `--link`: the result does not depend on what lies below.
    pub link: bool,
    /// `--parents`: keep the sources' parent folders.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out.
    pub exclude: Vec<String>,
    /// `--keep-git-dir` (`ADD`).
    pub keep_git_dir: Option<bool>,
    /// `--checksum` (`ADD`).
    pub checksum: Option<String>,
    /// `--unpack` (`ADD`): whether archives are unpacked; local ones are and remote ones are not by themselves.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK CMD`. Durations are nanoseconds, 0 meaning the default.
    Test {
        /// The command.
        command: CommandLine,
        /// `--interval`.
        interval: i64,
        /// `--timeout`.
        timeout: i64,
        /// `--start-period`.
        start_period: i64,
        /// `--start-interval`.
        start_interval: i64,
        /// `--retries`.
        retries: i64,
    },
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// `--mount`, in order.
    pub mounts: Vec<RunMount>,
    /// `--network`: `default`, `none` or `host`.
    pub network: Option<String>,
    /// `--security`: `sandbox` or `insecure`.
    pub security: Option<String>,
}

/// One `RUN --mount`, unexpanded: what the fields mean is known once variables are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunMount {
    /// The fields in order: `type=cache`, or a word alone such as `required`. Keys are in lower case.
    pub fields: Vec<(String, Option<String>)>,
}

impl RunMount {
    /// The last value of a field.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(name, _)| name == key)?.1.as_deref()
    }
}
