//! The lowering: what graph and configuration come out of which Dockerfile, and what is refused.
#![forbid(unsafe_code)]

mod common;

use common::Fake;
use dockerfile::graph::{FileAction, MountKind, Source};
use dockerfile::{Error, Lowered, NamedContext, NoCache, Op, Options, Problem, lower, parse};
use types::Classify;
use types::image::RunConfig;

fn build_with(text: &str, options: &Options, bases: &mut Fake) -> Result<Lowered, Error> {
    let options = Options {
        platform: "linux/amd64".parse().expect("is one"),
        build_platform: "linux/amd64".parse().expect("is one"),
        ..options.clone()
    };
    lower(&parse(text.as_bytes())?, &options, bases)
}

fn build(text: &str) -> Lowered {
    build_with(text, &Options::default(), &mut Fake::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    let error = build_with(text, &Options::default(), &mut Fake::default()).expect_err(text);
    format!("{error}{}", error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default())
}

fn history(lowered: &Lowered) -> Vec<String> {
    lowered.config.history[lowered.base_history_len..].iter().map(|entry| entry.created_by.clone()).collect()
}

fn names(lowered: &Lowered) -> Vec<&str> {
    lowered.graph.nodes.iter().map(|node| node.name.as_str()).collect()
}

#[test]
fn the_history_is_buildkit_s() {
    let lowered = build(concat!(
        "FROM base\nARG V=5\nENV A=1 B=\"two words\" C=$V\nWORKDIR /w\nWORKDIR x\nCOPY --chown=7:8 --chmod=755 f dir ./\nADD a.tar.gz /arch/\n",
        "EXPOSE 80 53/UDP 8000-8002\nVOLUME /vol [x\nSTOPSIGNAL SIGQUIT\nLABEL a=\"b c\" d=e\nHEALTHCHECK --interval=5s --retries=3 CMD true\n",
        "RUN echo hi > /x\nSHELL [\"/bin/sh\",\"-ec\"]\nUSER 9\nRUN [\"a\", \"b c\"]\nENTRYPOINT e\nCMD [\"cat\",\"a b\"]\nONBUILD RUN x\nMAINTAINER me\n",
        "COPY <<EOF /doc\nhello\nEOF\n",
    ));
    assert_eq!(
        history(&lowered),
        [
            "ARG V=5",
            "ENV A=1 B=two words C=5",
            "WORKDIR /w",
            "WORKDIR /w/x",
            "COPY --chown=7:8 --chmod=755 f dir ./ # buildkit",
            "ADD a.tar.gz /arch/ # buildkit",
            "EXPOSE [80/tcp 53/udp 8000/tcp 8001/tcp 8002/tcp]",
            "VOLUME [/vol [x]",
            "STOPSIGNAL SIGQUIT",
            "LABEL a=b c d=e",
            "HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"5s\" \"0s\" \"0s\" \"0s\" '\\x03'}",
            "RUN |1 V=5 /bin/sh -c echo hi > /x # buildkit",
            "SHELL [/bin/sh -ec]",
            "USER 9",
            "RUN |1 V=5 a b c # buildkit",
            "ENTRYPOINT [\"/bin/sh\" \"-ec\" \"e\"]",
            "CMD [\"cat\" \"a b\"]",
            "MAINTAINER me",
            "COPY <<EOF /doc # buildkit",
        ]
    );
    assert!(lowered.config.history.iter().skip(1).all(|entry| entry.comment == "buildkit.dockerfile.v0"));
    let layers = lowered.config.history.iter().skip(1).filter(|entry| !entry.empty_layer).count();
    assert_eq!(layers, 7);
    let run = lowered.config.config.expect("has one");
    assert_eq!(run.env.expect("has some"), ["PATH=/bin", "A=1", "B=two words", "C=5"]);
    assert_eq!((run.working_dir.as_str(), run.user.as_str()), ("/w/x", "9"));
    assert_eq!(run.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
    assert_eq!(run.on_build.as_deref(), Some(["RUN x".to_owned()].as_slice()));
    assert_eq!(run.healthcheck.expect("has one").interval, 5_000_000_000);
    assert_eq!(run.rest["ArgsEscaped"], true);
    assert_eq!(lowered.config.author, "me");
}

#[test]
fn only_what_the_target_needs_is_in_the_graph() {
    let text = "FROM base AS a\nRUN one\nFROM base AS b\nRUN two\nFROM scratch AS c\nCOPY --from=a /x /\nFROM base AS d\nRUN three\n";
    let mut bases = Fake::default();
    let options = Options { target: Some("C".to_owned()), ..Options::default() };
    let lowered = build_with(text, &options, &mut bases).expect("lowers");
    assert_eq!(
        names(&lowered),
        [
            format!("[a 1/2] FROM docker.io/library/base:latest@{}", common::digest('b')).as_str(),
            "[a 2/2] RUN one",
            "[c 1/1] COPY --from=a /x /"
        ]
    );
    assert_eq!(lowered.base, None);
    assert_eq!(bases.asked, ["docker.io/library/base:latest linux/amd64"]);
}

#[test]
fn arguments_have_scopes() {
    let text = "ARG TAG=1\nARG NAME=base\nFROM $NAME:$TAG AS one\nARG TAG\nARG TARGETARCH\nARG LOCAL=l\nRUN a\nFROM one\nRUN b\nFROM base\nRUN $TAG\n";
    let lowered = build(text);
    let Op::Exec(exec) = &lowered.graph.nodes.last().expect("has one").op else { panic!("no command") };
    assert_eq!(exec.env, ["PATH=/bin"]);
    let mut options = Options { target: Some("1".to_owned()), ..Options::default() };
    options.build_args.insert("TAG".to_owned(), "9".to_owned());
    options.build_args.insert("HTTP_PROXY".to_owned(), "http://p".to_owned());
    options.build_args.insert("NOBODY".to_owned(), "x".to_owned());
    let lowered = build_with(text, &options, &mut Fake::default()).expect("lowers");
    let Op::Exec(exec) = &lowered.graph.nodes.last().expect("has one").op else { panic!("no command") };
    assert_eq!(exec.env, ["PATH=/bin", "TAG=9", "TARGETARCH=amd64", "LOCAL=l"]);
    assert_eq!(exec.proxy_env, ["HTTP_PROXY=http://p", "http_proxy=http://p"]);
    assert_eq!(history(&lowered).last().expect("has one"), "RUN |3 TAG=9 TARGETARCH=amd64 LOCAL=l /bin/sh -c b # buildkit");
    assert!(names(&lowered)[0].contains("base:9"));
    assert_eq!(lowered.unused_args, ["NOBODY"]);
}

#[test]
fn triggers_run_first_and_bring_their_stages() {
    let mut bases = Fake::default();
    let run = RunConfig { on_build: Some(vec!["COPY --from=tools /t /t".to_owned(), "RUN trigger".to_owned()]), ..RunConfig::default() };
    bases.own.insert("docker.io/library/onb:latest".to_owned(), run);
    let lowered = build_with("FROM base AS tools\nRUN t\nFROM onb\nRUN own\n", &Options::default(), &mut bases).expect("lowers");
    let names = names(&lowered);
    assert!(names.iter().any(|name| name.ends_with("ONBUILD COPY --from=tools /t /t")), "{names:?}");
    assert_eq!(names.last(), Some(&"[stage-1 4/4] RUN own"));
    assert_eq!(lowered.config.config.expect("has one").on_build, None);
    let lowered = build("FROM base AS a\nONBUILD RUN later\nFROM a\n");
    assert_eq!(history(&lowered), ["RUN /bin/sh -c later # buildkit"]);
}

#[test]
fn mounts_are_told_apart() {
    let text = concat!(
        "# syntax=docker/dockerfile:1\nFROM base AS t\nFROM base\nWORKDIR /w\nARG ID=k\n",
        "RUN --mount=type=cache,target=/c,sharing=locked,id=$ID,uid=5 --mount=target=. --mount=type=bind,from=t,source=a,target=b,rw \\\n",
        "  --mount=type=tmpfs,target=/t,size=64m --mount=type=secret,id=s --mount=type=secret,id=e,env=TOKEN,required --mount=type=ssh --network=none x\n",
    );
    let lowered = build(text);
    let Op::Exec(exec) = &lowered.graph.nodes.last().expect("has one").op else { panic!("no command") };
    let targets: Vec<(&str, bool)> = exec.mounts.iter().map(|mount| (mount.target.as_str(), mount.read_only)).collect();
    assert_eq!(
        targets,
        [("/c", false), ("/w", true), ("/w/b", false), ("/t", false), ("/run/secrets/s", true), ("/run/buildkit/ssh_agent.0", true)]
    );
    assert!(matches!(&exec.mounts[0].kind, MountKind::Cache { id, uid: 5, .. } if id == "k"));
    assert!(matches!(&exec.mounts[2].kind, MountKind::Bind { source, .. } if source == "/a"));
    assert!(matches!(&exec.mounts[3].kind, MountKind::Tmpfs { size: Some(67_108_864) }));
    assert_eq!((exec.secret_env[0].name.as_str(), exec.secret_env[0].required), ("TOKEN", true));
    assert!(exec.env.contains(&"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0".to_owned()));
}

#[test]
fn heredocs_are_commands_files_and_scripts() {
    let lowered = build(
        "FROM base\nENV A=1\nRUN <<EOF\necho 1\necho 2\nEOF\nRUN <<'X'\n#!/usr/bin/python\nprint(1)\nX\nRUN cat <<A && cat <<-B\n1\nA\n\t2\nB\nCOPY <<a <<'b' /d/\n$A\na\n$A\nb\n",
    );
    let exec = |index: usize| match &lowered.graph.nodes[index].op {
        Op::Exec(exec) => exec,
        other => panic!("no command: {other:?}"),
    };
    assert_eq!(exec(1).args, ["/bin/sh", "-c", "echo 1\necho 2\n"]);
    assert_eq!(exec(2).args, ["/dev/pipes/X"]);
    assert!(matches!(&exec(2).mounts[0].kind, MountKind::Inline { content, .. } if content == "#!/usr/bin/python\nprint(1)\n"));
    assert_eq!(exec(3).args[2], "cat <<A && cat <<-B\n1\nA\n\t2\nB");
    let Op::File(file) = &lowered.graph.nodes[4].op else { panic!("no files") };
    let contents: Vec<&str> =
        file.actions.iter().map(|action| if let FileAction::Mkfile { content, .. } = action { content.as_str() } else { "" }).collect();
    assert_eq!(contents, ["1\n", "$A\n"]);
    assert_eq!(names(&lowered)[1], "[2/5] RUN <<EOF (echo 1...)");
}

#[test]
fn linked_copies_stand_alone() {
    let lowered = build("FROM base\nRUN x\nCOPY --link f /f\nCOPY --link --chown=me f /g\n");
    let ops: Vec<&str> = lowered
        .graph
        .nodes
        .iter()
        .map(|node| match &node.op {
            Op::Source(Source::Image { .. }) => "image",
            Op::Source(_) => "source",
            Op::Exec(_) => "exec",
            Op::File(file) if file.base.is_none() => "layer",
            Op::File(_) => "file",
            Op::Merge { .. } => "merge",
        })
        .collect();
    assert_eq!(ops, ["image", "exec", "source", "layer", "merge", "file"]);
}

#[test]
fn add_tells_sources_apart() {
    let lowered = build(
        "FROM scratch\nADD --checksum=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa https://h/x/f.tar.gz?q /a/\nADD https://h/r.git#v1:d /b/\nADD f.tar /c/\nCOPY --parents a/./b/c* /d/\n",
    );
    let sources: Vec<&Source> =
        lowered.graph.nodes.iter().filter_map(|node| if let Op::Source(source) = &node.op { Some(source) } else { None }).collect();
    assert!(matches!(sources[0], Source::Http { filename, checksum: Some(_), .. } if filename == "f.tar.gz"));
    assert!(matches!(sources[1], Source::Git(git) if git.subdir.as_deref() == Some("d")));
    let copies: Vec<(String, bool)> = lowered
        .graph
        .nodes
        .iter()
        .filter_map(|node| if let Op::File(file) = &node.op { Some(&file.actions) } else { None })
        .flatten()
        .filter_map(|action| if let FileAction::Copy(copy) = action { Some((copy.source.clone(), copy.unpack)) } else { None })
        .collect();
    let expected = [("/f.tar.gz", false), ("/", false), ("/f.tar", true), ("/a/./b/c*", false)];
    assert_eq!(copies, expected.map(|(source, unpack)| (source.to_owned(), unpack)));
}

#[test]
fn named_contexts_replace_images_and_stages() {
    let mut options = Options::default();
    options.contexts.insert("base".to_owned(), NamedContext::Image("other:2".to_owned()));
    options.contexts.insert("tools".to_owned(), NamedContext::Local);
    let mut bases = Fake::default();
    let lowered =
        build_with("FROM base:latest\nCOPY --from=tools a /\nRUN --mount=from=tools,target=/t x\n", &options, &mut bases).expect("lowers");
    assert_eq!(bases.asked, ["docker.io/library/other:2 linux/amd64"]);
    assert!(lowered.graph.nodes.iter().any(|node| matches!(&node.op, Op::Source(Source::Local { name }) if name == "tools")));
    let lowered = build_with("FROM missing AS tools\nRUN never\nFROM base\nCOPY --from=tools a /\n", &options, &mut bases).expect("lowers");
    assert!(!names(&lowered).iter().any(|name| name.contains("never")));
}

#[test]
fn no_cache_is_per_stage() {
    let options = Options { no_cache: NoCache::Stages(vec!["a".to_owned()]), ..Options::default() };
    let lowered = build_with("FROM base AS a\nRUN x\nFROM a AS b\nRUN y\n", &options, &mut Fake::default()).expect("lowers");
    let ignored: Vec<bool> = lowered.graph.nodes.iter().map(|node| node.ignore_cache).collect();
    assert_eq!(ignored, [false, true, false]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, said) in [
        ("FROM a AS c\nCOPY --from=b x /\nFROM a AS b\nFROM c\n", "needs to be defined before"),
        ("FROM a AS a\nCOPY --from=b x /\nFROM a AS b\nCOPY --from=a x /\n", "circular dependency"),
        ("FROM a\nCOPY --from=0 x /\n", "circular dependency"),
        ("FROM a\nCOPY --from=7 x /\n", "invalid stage index 7"),
        ("FROM $X\n", "should not be blank"),
        ("FROM missing\n", "load metadata for docker.io/library/missing:latest"),
        ("FROM a\nCOPY ../x /\n", "outside of the build context"),
        ("FROM a\nCOPY http://h/x /\n", "use ADD"),
        ("FROM a\nRUN --mount=type=bind,target=/ x\n", "invalid mount target"),
        ("FROM a\nRUN --mount=type=cache x\n", "needs a target"),
        ("FROM a\nRUN --mount=type=secret x\n", "one of source, target required"),
        ("FROM a\nCOPY --chmod=9x f /\n", "invalid chmod parameter"),
        ("FROM a\nEXPOSE 80/foo\n", "invalid proto: foo"),
        ("FROM a\nEXPOSE 70000\n", "invalid containerPort: 70000"),
        ("FROM a\nSTOPSIGNAL NOPE\n", "invalid signal: NOPE"),
        ("FROM a\nENV A=\"${B:?need B}\"\n", "need B"),
        ("FROM a\nADD --checksum=x https://h/f /\n", "invalid checksum"),
        ("# syntax=foo/bar:1\nFROM a\n", "the frontend foo/bar:1 is not served"),
        ("# check=error=true\nFROM a\nCMD x\n", "JSONArgsRecommended"),
        ("FROM --platform=x/y/z/q a\n", "failed to parse platform"),
        ("FROM A\n", "must be lowercase"),
    ] {
        let message = refused(text);
        assert!(message.contains(said), "{text}: {message}");
    }
    let options = Options { target: Some("bild".to_owned()), ..Options::default() };
    let error = build_with("FROM a AS build\n", &options, &mut Fake::default()).expect_err("refused");
    assert_eq!(error.to_string(), "target stage \"bild\" could not be found (did you mean build?)");
    let error = build_with("FROM a\nRUN x\nCOPY f ${Y:?} \n", &Options::default(), &mut Fake::default()).expect_err("refused");
    let place = error.place.expect("has one");
    assert_eq!((place.line, place.column, place.text.as_str()), (3, 8, "COPY f ${Y:?} "));
    assert!(matches!(error.problem, Problem::Meaning { .. }));
}

#[test]
fn errors_name_the_place_and_the_fix() {
    for (text, told, said) in [
        (
            "FORM x\n",
            "dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)",
            "Dockerfile:1:1: unknown instruction FORM: did you mean FROM?",
        ),
        (
            "\n  FROM: x\n",
            "dockerfile parse error on line 2: unknown instruction: FROM:",
            "Dockerfile:2:3: unknown instruction FROM:: write FROM without a colon: FROM x",
        ),
        (
            "FROM x\nRUN: make\n",
            "dockerfile parse error on line 2: unknown instruction: RUN:",
            "Dockerfile:2:1: unknown instruction RUN:: write RUN without a colon: RUN make",
        ),
        (
            "FROM x\n// a comment\n",
            "dockerfile parse error on line 2: unknown instruction: //",
            "Dockerfile:2:1: unknown instruction //: comments begin with #",
        ),
        (
            "FROM x\nRUN a \\\n  && b\n&& c\n",
            "dockerfile parse error on line 4: unknown instruction: &&",
            "Dockerfile:4:1: unknown instruction &&: the line before must end with \\ to be continued",
        ),
        (
            "FROM x\nCOPY --chwn=1 a b\n",
            "dockerfile parse error on line 2: unknown flag: --chwn (did you mean --chown?)",
            "Dockerfile:2:6: unknown flag: --chwn: did you mean --chown?",
        ),
    ] {
        let error = parse(text.as_bytes()).expect_err(text);
        assert_eq!(error.to_string(), told);
        assert_eq!(error.explain("Dockerfile"), said);
    }
    let text = "FROM x\nRUN a\nFORM y\nRUN b\n";
    let error = parse(text.as_bytes()).expect_err("refused");
    let excerpt = error.excerpt("Dockerfile", text).expect("has one");
    let expected = "Dockerfile:3\n--------------------\n   1 |     FROM x\n   2 |     RUN a\n   3 | >>> FORM y\n   4 |     RUN b\n--------------------\n";
    assert_eq!(excerpt, expected);
}
