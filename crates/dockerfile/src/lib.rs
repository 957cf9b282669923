//! The Dockerfile language: from text to instructions, and from instructions to a graph of steps that a solver carries out.
//!
//! Nothing here does I/O: files of the context are only named, and configurations of base images come from a [`Bases`].
#![forbid(unsafe_code)]

pub mod ast;
mod error;
mod expand;
mod flags;
mod git;
mod go;
pub mod graph;
pub mod ignore;
mod lex;
pub mod lint;
mod lower;
mod mode;
mod options;
mod parse;
mod paths;
mod suggest;
mod words;

pub use ast::{Dockerfile, Lines};
pub use error::{Error, Place, Problem, excerpt};
pub use git::{parse_git, parse_git_context};
pub use graph::{Graph, Lowered, Node, NodeId, Op};
pub use lower::lower;
pub use options::{BaseImage, Bases, NamedContext, NoCache, Options};
pub use parse::parse;

/// The name that the lowering gives the main context in [`graph::Source::Local`].
pub const MAIN_CONTEXT: &str = "context";
/// A Dockerfile may be as long as this.
pub const DOCKERFILE_BYTES_MAX: usize = 16 << 20;
