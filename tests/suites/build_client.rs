//! The `build` command of the client: where contexts and Dockerfiles come from, what it shows, what it writes, and how it fails.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tests::Engine;
use tests::engine::BUSYBOX;
use tests::sh::{Cmd, Done};

struct Bench {
    engine: Engine,
    folders: u32,
}

fn checked(name: &str, check: impl FnOnce(&mut Bench) -> Result<()>) -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut bench = Bench { engine: Engine::with_busybox(name)?, folders: 0 };
    let outcome = check(&mut bench);
    if outcome.is_err() {
        eprintln!("the engine said:\n{}", bench.engine.log());
        bench.engine.forgive_leaks();
    }
    outcome
}

impl Bench {
    /// A new folder with these files.
    fn folder(&mut self, files: &[(&str, &str)]) -> Result<PathBuf> {
        self.folders += 1;
        let folder = self.engine.dir().join(format!("context-{}", self.folders));
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().context("has a parent")?)?;
            fs::write(path, text)?;
        }
        Ok(folder)
    }

    fn build(&self, flags: &[&str], folder: &Path) -> Cmd {
        self.engine.cais().arg("build").args(flags).arg(folder)
    }

    fn run(&self, image: &str, command: &[&str]) -> Result<String> {
        Ok(self.engine.ok(&[&["run", "--rm", image], command].concat())?.text().to_owned())
    }
}

/// What a failed command said.
fn failed(done: &Done) -> Result<&str> {
    ensure!(done.code == 1, "exit code {}: {done:?}", done.code);
    Ok(&done.stderr)
}

fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{part:?} is not in {text}");
    Ok(())
}

#[test]
fn contexts_and_dockerfiles_come_from_everywhere() -> Result<()> {
    checked("sources", |bench| {
        let df = format!("FROM {BUSYBOX}\nCOPY f /f\nCMD cat /f\n");
        let folder = bench.folder(&[
            ("f", "folder"),
            ("Dockerfile", &df),
            ("sub/Other", &format!("{df}LABEL other=1\n")),
            ("drop.log", "x"),
            (".dockerignore", "*.log\n"),
        ])?;
        bench.build(&["-t", "t1"], &folder).ok()?;
        ensure!(bench.run("t1", &[])? == "folder");
        bench.build(&["-t", "t2", "-f", &folder.join("sub/Other").to_string_lossy()], &folder).ok()?;
        ensure!(bench.engine.inspect("t2", "{{.Config.Labels.other}}")? == "1");
        // A Dockerfile outside of the context, and one on standard input beside a context.
        let outside = bench.folder(&[("Elsewhere", &format!("{df}LABEL where=outside\n"))])?.join("Elsewhere");
        bench.build(&["-t", "t3", "-f", &outside.to_string_lossy()], &folder).ok()?;
        ensure!(bench.engine.inspect("t3", "{{.Config.Labels.where}}")? == "outside");
        bench.build(&["-t", "t4", "-f", "-"], &folder).stdin(format!("{df}LABEL where=stdin\n")).ok()?;
        ensure!(bench.engine.inspect("t4", "{{.Config.Labels.where}}")? == "stdin");
        // No context at all, and an archive.
        bench.build(&["-t", "t5"], Path::new("-")).stdin(format!("FROM {BUSYBOX}\nCMD echo alone\n")).ok()?;
        ensure!(bench.run("t5", &[])? == "alone");
        for gzip in [false, true] {
            let tar = Cmd::new("tar").arg("-C").arg(&folder).args(if gzip { ["-czf", "-", "."] } else { ["-cf", "-", "."] });
            let bytes = tar.into_inner().output()?.stdout;
            bench.build(&["-t", "t6"], Path::new("-")).stdin(bytes).ok()?;
            ensure!(bench.run("t6", &[])? == "folder");
        }
        // A named context, and the files that .dockerignore leaves out.
        let other = bench.folder(&[("g", "named")])?;
        let named = format!("FROM {BUSYBOX}\nCOPY --from=other g /g\nCOPY . /all/\n");
        bench.build(&["-t", "t7", "-f", "-", "--build-context", &format!("other={}", other.display())], &folder).stdin(named).ok()?;
        ensure!(bench.run("t7", &["cat", "/g"])? == "named");
        ensure!(bench.run("t7", &["ls", "/all"])? == "Dockerfile\nf\nsub", "the ignored file is there");
        Ok(())
    })
}

#[test]
fn a_folder_is_packed_for_an_engine_that_does_not_see_it() -> Result<()> {
    checked("packed", |bench| {
        let folder = bench.folder(&[
            ("Dockerfile", &format!("FROM {BUSYBOX}\nCOPY . /all/\nCMD find /all -type f | sort\n")),
            ("a", "a"),
            ("node_modules/x", "x"),
            ("keep/b", "b"),
            ("keep/c.log", "c"),
            (".dockerignore", "node_modules\n**/*.log\nDockerfile\n.dockerignore\n"),
        ])?;
        // Somebody between client and engine: the client can't know whether the engine sees its files.
        let between = bench.engine.dir().join("between");
        let listener = UnixListener::bind(&between)?;
        let socket = bench.engine.socket();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(engine) = UnixStream::connect(&socket) else { return };
                let pipe = |mut from: UnixStream, mut to: UnixStream| {
                    std::thread::spawn(move || {
                        let mut buffer = [0; 64 << 10];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Write);
                    })
                };
                if let (Ok(from), Ok(to)) = (stream.try_clone(), engine.try_clone()) {
                    pipe(from, engine);
                    pipe(to, stream);
                }
            }
        });
        let host = format!("unix://{}", between.display());
        let client = || Cmd::new(tests::engine::binary().unwrap_or_default()).args(["-H", &host]);
        client().args(["build", "-t", "packed"]).arg(&folder).ok()?;
        ensure!(bench.run("packed", &[])? == "/all/a\n/all/keep/b", "{}", bench.run("packed", &[])?);
        // A named context can't be sent.
        let refused = client().args(["build", "--build-context", "x=.", "."]).dir(&folder).run()?;
        has(failed(&refused)?, "needs an engine on this machine")?;
        Ok(())
    })
}

#[test]
fn what_it_shows_and_writes() -> Result<()> {
    checked("shown", |bench| {
        let folder = bench.folder(&[("Dockerfile", &format!("FROM {BUSYBOX}\nRUN echo from-the-step\nCMD true\n"))])?;
        let shown = bench.build(&["-t", "s1", "--progress", "plain"], &folder).ok()?;
        ensure!(shown.stdout.is_empty(), "{shown:?}");
        for part in ["RUN echo from-the-step", "from-the-step\n", "DONE", "JSONArgsRecommended"] {
            has(&shown.stderr, part)?;
        }
        has(&bench.build(&["--progress", "plain"], &folder).ok()?.stderr, "CACHED")?;
        let id = bench.engine.inspect("s1", "{{.Id}}")?;
        let quiet = bench.build(&["-q"], &folder).ok()?;
        ensure!(quiet.text() == id && quiet.stderr.is_empty(), "{quiet:?}");
        let files = bench.engine.dir().join("written");
        fs::create_dir(&files)?;
        let (iid, metadata) = (files.join("iid"), files.join("metadata"));
        bench.build(&["--iidfile", &iid.to_string_lossy(), "--metadata-file", &metadata.to_string_lossy()], &folder).ok()?;
        ensure!(fs::read_to_string(&iid)? == id);
        let document: serde_json::Value = serde_json::from_str(&fs::read_to_string(&metadata)?)?;
        ensure!(document["containerimage.config.digest"] == id.as_str(), "{document}");
        let raw = bench.build(&["--progress", "rawjson"], &folder).ok()?;
        let documents = raw.stderr.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str::<serde_json::Value>);
        let documents = documents.collect::<Result<Vec<_>, _>>()?;
        ensure!(documents.iter().any(|document| document["vertexes"][0]["name"].is_string()), "{raw:?}");
        Ok(())
    })
}

#[test]
fn failures_are_explained() -> Result<()> {
    checked("failures", |bench| {
        let folder = bench.folder(&[("Dockerfile", &format!("FROM {BUSYBOX}\nRUN echo before; exit 7\n"))])?;
        let done = bench.build(&["-t", "f1"], &folder).run()?;
        let said = failed(&done)?;
        for part in ["before\n------", "   2 | >>> RUN echo before; exit 7", "7"] {
            has(said, part)?;
        }
        ensure!(bench.engine.run(&["image", "inspect", "f1"])?.code != 0, "a failed build left an image");
        for (text, parts) in [
            ("FORM x\n", &["   1 | >>> FORM x", "Dockerfile:1:1: unknown instruction FORM: did you mean FROM?"][..]),
            (&format!("FROM {BUSYBOX}\nCOPY nope /\n"), &["nope", "   2 | >>> COPY nope /"]),
            (&format!("FROM {BUSYBOX}\nCOPY ../x /\n"), &["outside of the build context"]),
            (&format!("FROM {BUSYBOX} AS a\nCOPY --from=b x /\nFROM a AS b\nCOPY --from=a x /\n"), &["circular dependency"]),
            (&format!("FROM {BUSYBOX}\nRUN --mount=type=secret,id=s,required true\n"), &["s"]),
        ] {
            let folder = bench.folder(&[("Dockerfile", text)])?;
            let done = bench.build(&[], &folder).run()?;
            for part in parts {
                has(failed(&done)?, part)?;
            }
        }
        let folder = bench.folder(&[("f", "")])?;
        has(failed(&bench.build(&[], &folder).run()?)?, "failed to read dockerfile")?;
        has(failed(&bench.build(&[], Path::new("/no/such/folder")).run()?)?, "not found")?;
        let folder = bench.folder(&[("Dockerfile", &format!("FROM {BUSYBOX} AS y\n"))])?;
        has(failed(&bench.build(&["--target", "x"], &folder).run()?)?, "target stage \"x\" could not be found")?;
        Ok(())
    })
}

#[test]
fn secrets_reach_steps_and_nothing_else() -> Result<()> {
    checked("secrets", |bench| {
        let df = format!(
            "FROM {BUSYBOX}\nRUN --mount=type=secret,id=s cp /run/secrets/s /len && wc -c < /len > /n && rm /len\nRUN --mount=type=secret,id=e,env=TOKEN test ${{#TOKEN}} = 20\n"
        );
        let folder = bench.folder(&[("Dockerfile", &df)])?;
        let secret = bench.folder(&[("s", "very-secret-words")])?.join("s");
        let flags = ["-t", "sec", "--secret", &format!("id=s,src={}", secret.display()), "--secret", "id=e,env=QUAY_TOKEN"];
        bench.build(&flags, &folder).env("QUAY_TOKEN", "from-the-environment").ok()?;
        ensure!(bench.run("sec", &["cat", "/n"])? == "17");
        ensure!(bench.run("sec", &["sh", "-c", "ls /run/secrets 2>/dev/null; env | grep TOKEN; true"])?.is_empty());
        let history = bench.engine.ok(&["history", "--no-trunc", "sec"])?;
        ensure!(!history.stdout.contains("very-secret-words") && !history.stdout.contains("from-the-environment"), "{history:?}");
        for secret in ["very-secret-words", "from-the-environment"] {
            let kept = Cmd::new("grep").args(["-r", "-l", secret]).arg(bench.engine.data_root()).arg(bench.engine.exec_root()).run()?;
            ensure!(kept.text().is_empty(), "{secret} is kept: {}", kept.stdout);
        }
        Ok(())
    })
}

#[test]
fn the_lint_says_what_is_likely_wrong() -> Result<()> {
    checked("lint", |bench| {
        let folder = bench.folder(&[("Dockerfile", &format!("FROM {BUSYBOX} as a\nENV X y\nCMD echo hi\n"))])?;
        let done = bench.build(&["--check"], &folder).run()?;
        let said = failed(&done)?;
        for part in ["FromAsCasing", "LegacyKeyValueFormat", "JSONArgsRecommended", "   2 | >>> ENV X y"] {
            has(said, part)?;
        }
        let folder = bench.folder(&[("Dockerfile", &format!("# check=skip=JSONArgsRecommended\nFROM {BUSYBOX}\nCMD echo hi\n"))])?;
        has(&bench.build(&["--check"], &folder).ok()?.stdout, "no warnings")?;
        let folder = bench.folder(&[("Dockerfile", &format!("# check=error=true\nFROM {BUSYBOX}\nCMD echo hi\n"))])?;
        has(failed(&bench.build(&[], &folder).run()?)?, "JSONArgsRecommended")?;
        Ok(())
    })
}

#[test]
fn results_go_where_they_are_asked_for() -> Result<()> {
    checked("outputs", |bench| {
        let folder = bench.folder(&[("Dockerfile", "FROM scratch\nCOPY f d /out/\n"), ("f", "one"), ("d/g", "two")])?;
        let place = bench.engine.dir().join("results");
        fs::create_dir(&place)?;
        bench.build(&["-o", &place.join("tree").to_string_lossy()], &folder).ok()?;
        ensure!(fs::read_to_string(place.join("tree/out/f"))? == "one" && fs::read_to_string(place.join("tree/out/g"))? == "two");
        let tar = place.join("root.tar");
        bench.build(&["-o", &format!("type=tar,dest={}", tar.display())], &folder).ok()?;
        has(&Cmd::new("tar").arg("-tf").arg(&tar).ok()?.stdout, "out/f\n")?;
        let piped = bench.build(&["-o", "-"], &folder).into_inner().output()?;
        fs::write(place.join("piped.tar"), &piped.stdout)?;
        has(&Cmd::new("tar").arg("-tf").arg(place.join("piped.tar")).ok()?.stdout, "out/g\n")?;
        // Nothing of these builds is left in the image store.
        let left = bench.engine.ok(&["images", "-a", "--format", "{{.Repository}}"])?;
        ensure!(left.text() == "quay/busybox", "{left:?}");
        ensure!(bench.engine.ok(&["ps", "-aq"])?.text().is_empty());
        let archive = place.join("image.tar");
        bench.build(&["-t", "kept", "-o", &format!("type=oci,dest={}", archive.display())], &folder).ok()?;
        bench.engine.ok(&["rmi", "kept"])?;
        has(&bench.engine.cais().args(["load", "-i"]).arg(&archive).ok()?.stdout, "kept:latest")?;
        has(failed(&bench.build(&["--push"], &folder).run()?)?, "give the image a name")?;
        Ok(())
    })
}
