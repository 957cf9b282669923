//! Dockerfiles as people write them: what each is read as, and what graph, configuration and warnings it comes to, against snapshots.
//!
//! After a wanted change run the test again with `UPDATE_SNAPSHOTS=1`, and read what changed.
#![forbid(unsafe_code)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use common::Fake;
use dockerfile::ast::{Dockerfile, Instruction};
use dockerfile::{Lowered, Options, lower, parse};

/// As many as there are at least: a corpus that is not found would pass.
const FILES_MIN: usize = 65;

fn corpus() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).expect("is there").map(|entry| entry.expect("reads").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
    files.sort();
    files
}

fn instruction(out: &mut String, instruction: &Instruction) {
    let _ = writeln!(out, "  {} {} {:?}", instruction.lines, instruction.keyword, instruction.kind);
}

fn told(file: &Dockerfile, lowered: &Result<Lowered, dockerfile::Error>) -> String {
    let mut out = format!("escape {:?} syntax {:?} check {:?}\n", file.directives.escape, file.directives.syntax, file.directives.check);
    file.args.iter().for_each(|item| instruction(&mut out, item));
    for stage in &file.stages {
        let _ = writeln!(out, "{} FROM {:?} as {:?} on {:?}", stage.lines, stage.base, stage.name, stage.platform);
        stage.instructions.iter().for_each(|item| instruction(&mut out, item));
    }
    match lowered {
        Err(error) => {
            let _ = writeln!(out, "error: {}", error.explain("Dockerfile"));
        }
        Ok(lowered) => {
            for (id, node) in lowered.graph.iter() {
                let op = serde_json::to_string(&node.op).expect("serialises");
                let inputs: Vec<u32> = node.inputs.iter().map(|input| input.0).collect();
                let _ = writeln!(out, "node {} {:?} {} {}\n  {op}", id.0, inputs, node.platform, node.name);
            }
            let config = serde_json::to_string(&lowered.config.config).expect("serialises");
            let _ = writeln!(out, "root {:?} base {:?}\nconfig {config}", lowered.root, lowered.base);
            for entry in &lowered.config.history[lowered.base_history_len..] {
                let _ = writeln!(out, "history {:?}{}", entry.created_by, if entry.empty_layer { " (empty)" } else { "" });
            }
            for warning in &lowered.warnings {
                let _ = writeln!(out, "warning {} {}: {}", warning.lines, warning.rule, warning.message);
            }
        }
    }
    out
}

#[test]
fn dockerfiles_are_read_as_before() {
    let files = corpus();
    assert!(files.len() >= FILES_MIN, "only {} Dockerfiles", files.len());
    let mut changed = Vec::new();
    let options = Options {
        platform: "linux/amd64".parse().expect("is one"),
        build_platform: "linux/amd64".parse().expect("is one"),
        ..Options::default()
    };
    for path in files {
        let text = fs::read(&path).expect("reads");
        let file = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let told = told(&file, &lower(&file, &options, &mut Fake::default()));
        let snapshot = path.with_extension("expected");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&snapshot, &told).expect("written");
        }
        let expected = fs::read_to_string(&snapshot).unwrap_or_default();
        if told != expected {
            let first = told.lines().zip(expected.lines()).find(|(told, expected)| told != expected);
            changed.push(format!("{}: {first:#?}", path.display()));
        }
    }
    assert!(changed.is_empty(), "after a wanted change run the test again with UPDATE_SNAPSHOTS=1\n{}", changed.join("\n"));
}

#[test]
fn layers_and_history_agree() {
    for path in corpus() {
        let file = parse(&fs::read(&path).expect("reads")).expect("parses");
        let Ok(lowered) = lower(&file, &Options::default(), &mut Fake::default()) else { continue };
        let mut layers = 0;
        let mut at = lowered.root;
        while let Some(id) = at.filter(|id| Some(*id) != lowered.base) {
            let node = lowered.graph.node(id).expect("is there");
            let below = match &node.op {
                dockerfile::Op::Exec(exec) => exec.root,
                dockerfile::Op::File(file) => file.base,
                dockerfile::Op::Merge { base, .. } => Some(*base),
                dockerfile::Op::Source(_) => panic!("{}: a source above the base", path.display()),
            };
            layers += 1;
            at = below.map(|input| node.inputs[input.0 as usize]);
        }
        let told = lowered.config.history[lowered.base_history_len..].iter().filter(|entry| !entry.empty_layer).count();
        assert_eq!(layers, told, "{}", path.display());
    }
}
