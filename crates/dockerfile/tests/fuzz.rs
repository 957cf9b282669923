//! Whatever comes: the parser and the lowering answer, and never panic, hang or grow without bound.
#![forbid(unsafe_code)]

mod common;

use common::Fake;
use dockerfile::ignore::Matcher;
use dockerfile::{Options, lower, parse, parse_git};
use proptest::prelude::*;

/// Pieces that Dockerfiles are made of, and that break parsers.
const PIECES: &[&str] = &[
    "FROM ",
    "from",
    "FROM scratch\n",
    "FROM base AS a\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "CMD ",
    "ENTRYPOINT ",
    "EXPOSE ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "ONBUILD ",
    "STOPSIGNAL ",
    "HEALTHCHECK ",
    "SHELL ",
    "MAINTAINER ",
    "--mount=",
    "type=cache,",
    "target=/x",
    "--from=",
    "--from=0 ",
    "--from=a ",
    "--chown=",
    "--chmod=",
    "--link ",
    "--parents ",
    "--exclude=",
    "--checksum=",
    "--platform=",
    "$",
    "${",
    "}",
    ":-",
    "##",
    "%%",
    "//",
    "/",
    "*",
    "?",
    "[",
    "]",
    "\"",
    "'",
    "\\",
    "`",
    "\n",
    "\\\n",
    "\r\n",
    "#",
    "# escape=`\n",
    "# syntax=",
    "# check=",
    "<<",
    "<<-",
    "EOF",
    "<<EOF",
    "EOF\n",
    " ",
    "\t",
    "=",
    "a",
    "A",
    "a=b",
    "é",
    "🚀",
    "\u{0}",
    "\u{feff}",
    "[\"a\"]",
    "[1]",
    "80/tcp",
    "1-65535",
    "..",
    "../",
    "~",
    "https://h/x.git#a:b ",
    "http://h/x ",
    "git@h:x ",
    "0",
    "-1",
    "99999999999999999999",
    ";",
    "&&",
    "//",
    "FORM ",
    "RUN: ",
    "NONE",
    "CMD",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat())
}

fn whole(text: &str) {
    match parse(text.as_bytes()) {
        Ok(file) => {
            let mut bases = Fake::default();
            let run = types::image::RunConfig { on_build: Some(vec![text.to_owned()]), ..types::image::RunConfig::default() };
            bases.own.insert("docker.io/library/base:latest".to_owned(), run);
            match lower(&file, &Options { all_stages: true, ..Options::default() }, &mut bases) {
                Ok(lowered) => {
                    for (id, node) in lowered.graph.iter() {
                        assert!(node.inputs.iter().all(|input| input.0 < id.0), "inputs come first");
                    }
                }
                Err(error) => drop((error.explain("f"), error.excerpt("f", text), error.to_string())),
            }
        }
        Err(error) => drop((error.explain("f"), error.excerpt("f", text), error.to_string())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_dockerfiles(text in text()) {
        whole(&text);
        whole(&format!("FROM base\n{text}"));
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(parse(&bytes));
        whole(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn corpus_with_a_change(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), len in 0usize..20, piece in text()) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
        let mut files: Vec<_> = std::fs::read_dir(folder).expect("is there").map(|entry| entry.expect("reads").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"));
        files.sort();
        let mut letters: Vec<char> = std::fs::read_to_string(which.get(&files)).expect("reads").chars().collect();
        let start = at.index(letters.len());
        let end = (start + len).min(letters.len());
        letters.splice(start..end, piece.chars());
        whole(&letters.into_iter().collect::<String>());
    }

    #[test]
    fn ignore_patterns(text in text(), path in "[a-c./*]{0,20}") {
        if let Ok(matcher) = Matcher::parse(&text) {
            let below = matcher.excludes_all_below(&path);
            // Who is not looked into must not have anything that counts.
            if below {
                let inside = [format!("{path}/a"), format!("{path}/a/b")];
                prop_assert!(inside.iter().all(|path| matcher.excludes(path)));
            }
        }
        drop(parse_git(&text));
    }
}

#[test]
fn large_inputs_end_soon() {
    let deep = format!("FROM base\nENV A={}\n", "${A:-".repeat(100_000));
    let wide = format!("FROM base\nENV A=aaaaaaaaaa\n{}", "ENV A=$A$A$A$A\n".repeat(64));
    let stages: String = (0..3000)
        .map(|index| format!("FROM {} AS s{index}\nRUN x\n", if index == 0 { "base".to_owned() } else { format!("s{}", index - 1) }))
        .collect();
    let ports = format!("FROM base\n{}", "EXPOSE 1-65535\n".repeat(20));
    let stars = format!("FROM base\nENV A={}\nENV B=${{A//{}b/x}}\n", "a".repeat(2000), "*a".repeat(500));
    let heredocs = format!("FROM base\nRUN {}\n", "<<EOF ".repeat(5000));
    let lines = format!("FROM base\nRUN a{}\n", " \\\n b".repeat(100_000));
    for text in [deep, wide, stages, ports, stars, heredocs, lines] {
        whole(&text);
    }
}
