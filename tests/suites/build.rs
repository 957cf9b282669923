//! Builds through the engine's API: Docker's own request with an unmodified client and by hand, and the request of Cais's client; the cache, what must be
//! refused, what must not be reached, and what a killed engine leaves.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::engine::BUSYBOX;
use tests::http::{self, Answer};
use tests::sh::{Cmd, Done, eventually};
use tests::{Client, Engine, skip_unless_root};

/// An engine with busybox and a folder for contexts.
struct Bench {
    engine: Engine,
    contexts: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        let engine = Engine::with_busybox(name)?;
        let contexts = engine.dir().join("contexts");
        fs::create_dir_all(&contexts)?;
        Ok(Self { engine, contexts })
    }

    /// A context of these files.
    fn context(&self, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let folder = self.contexts.join(name);
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().context("a parent")?)?;
            fs::write(path, text)?;
        }
        Ok(folder)
    }

    /// `docker build` without buildx.
    fn docker(&self, args: &[&str], context: &Path) -> Result<Done> {
        self.engine.client(Client::Docker)?.env("DOCKER_BUILDKIT", "0").arg("build").args(args).arg(context).run()
    }

    /// The request of Cais's client over a local folder; answers the stream's lines.
    fn own(&self, context: &Path, more: Value) -> Result<Vec<Value>> {
        let mut request = json!({ "context": { "kind": "directory", "path": context }, "dockerfile": { "kind": "context", "path": "" } });
        for (key, value) in more.as_object().context("an object")? {
            request[key] = value.clone();
        }
        let answer = self.post("/build", "application/vnd.cais.build.v1", format!("{request}\n").as_bytes())?;
        ensure!(answer.status == 200, "{answer:?}");
        answer.body.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
    }

    /// The same, which must succeed.
    fn built(&self, context: &Path, more: Value) -> Result<Vec<Value>> {
        let lines = self.own(context, more)?;
        ensure!(lines.iter().any(|line| line.get("result").is_some()), "no result: {lines:#?}");
        Ok(lines)
    }

    /// The same, which must fail; answers why.
    fn failed(&self, context: &Path, more: Value) -> Result<Value> {
        let lines = self.own(context, more)?;
        lines.iter().find_map(|line| line.get("error")).cloned().with_context(|| format!("no error: {lines:#?}"))
    }

    fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
        http::unix_with(&self.engine.socket(), "POST", path, content_type, body, Duration::from_secs(120))
    }

    /// What a container of an image prints.
    fn output(&self, image: &str, args: &[&str]) -> Result<String> {
        let all: Vec<&str> = ["run", "--rm", image].iter().chain(args).copied().collect();
        Ok(self.engine.ok(&all)?.text().to_owned())
    }

    /// What must be gone after every build, whatever became of it.
    fn ensure_clean(&self) -> Result<()> {
        for folder in ["staging", "containers"] {
            let folder = self.engine.data_root().join(folder);
            eventually(&format!("{} is empty", folder.display()), 60, || fs::read_dir(&folder).ok()?.next().is_none().then_some(()))?;
        }
        Ok(())
    }
}

/// The lines about steps by name, the last one of each.
fn vertexes(lines: &[Value]) -> Vec<Value> {
    let all = lines.iter().filter_map(|line| line["vertexes"].as_array()).flatten();
    all.filter(|vertex| vertex.get("completed").is_some()).cloned().collect()
}

fn cached<'v>(vertexes: &'v [Value], name: &str) -> Result<&'v Value> {
    vertexes
        .iter()
        .find(|vertex| vertex["name"].as_str().is_some_and(|own| own.contains(name)))
        .with_context(|| format!("no step {name}: {vertexes:#?}"))
}

/// A tar archive made by tar.
fn tar(folder: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let file = folder.with_extension("tar");
    Cmd::new("tar").arg("-cf").arg(&file).args(args).dir(folder).ok()?;
    Ok(fs::read(file)?)
}

/// Declares tests that need root.
macro_rules! builds {
    ($($(#[$doc:meta])* fn $name:ident($bench:ident) $body:block)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() -> Result<()> {
            if skip_unless_root() {
                return Ok(());
            }
            #[allow(unused_mut)]
            let mut $bench = Bench::new(concat!("build-", stringify!($name)))?;
            $body
            $bench.ensure_clean()
        }
    )*};
}

builds! {
    /// The unmodified client builds; what is known is not done again, until a file's content changes.
    fn docker_builds_and_caches(bench) {
        let dockerfile = format!("FROM {BUSYBOX}\nENV A=1\nRUN cat /proc/sys/kernel/random/uuid > /one\nCOPY f /f\nRUN cat /proc/sys/kernel/random/uuid > /two; echo told\nCMD cat /one /f /two\n");
        let context = bench.context("c", &[("Dockerfile", &dockerfile), ("f", "first\n")])?;
        let build = |args: &[&str]| -> Result<(Vec<String>, String)> {
            let done = bench.docker(&[&["-t", "me/app:1"], args].concat(), &context)?.ok()?;
            let lines = bench.output("me/app:1", &[])?.lines().map(str::to_owned).collect();
            Ok((lines, done.stdout))
        };
        let (first, told) = build(&[])?;
        ensure!(told.contains("told") && told.contains("Successfully tagged me/app:1"), "{told}");
        let id = bench.engine.inspect("me/app:1", "{{.Id}}")?;
        Cmd::new("touch").arg(context.join("f")).ok()?;
        let (again, told) = build(&[])?;
        ensure!(again == first && told.matches("Using cache").count() == 5, "{told}");
        ensure!(bench.engine.inspect("me/app:1", "{{.Id}}")? == id, "the same build has another id");
        fs::write(context.join("f"), "other\n")?;
        let (changed, _) = build(&[])?;
        ensure!(changed[0] == first[0] && changed[1] == "other" && changed[2] != first[2], "{first:?} {changed:?}");
        let (fresh, _) = build(&["--no-cache"])?;
        ensure!(fresh[0] != first[0], "--no-cache took a step from the cache");
    }

    /// Docker's stream, letter by letter, and its answers to what is wrong.
    fn the_stream_is_dockers(bench) {
        let texts = |dockerfile: &str| -> Result<Answer> {
            let context = bench.context("s", &[("Dockerfile", dockerfile)])?;
            bench.post("/v1.51/build?t=me/built:1", "application/x-tar", &tar(&context, &["."])?)
        };
        let answer = texts(&format!("FROM {BUSYBOX}\nENV A=1\nRUN echo hi > /x\nCMD [\"cat\",\"/x\"]\n"))?;
        let lines: Vec<Value> = answer.body.split("\r\n").filter(|line| !line.is_empty()).map(serde_json::from_str).collect::<Result<_, _>>()?;
        let told: String = lines.iter().filter_map(|line| line["stream"].as_str()).collect();
        for text in ["Step 1/4 : FROM ", "Step 2/4 : ENV A=1\n ---> Running in ", "Step 3/4 : RUN echo hi > /x\n ---> Running in ", " ---> Removed intermediate container ", "Step 4/4 : CMD [\"cat\",\"/x\"]\n", "Successfully built ", "Successfully tagged me/built:1\n"] {
            ensure!(told.contains(text), "{text:?} is missing in {told}");
        }
        let id = bench.engine.inspect("me/built:1", "{{.Id}}")?;
        ensure!(lines.iter().any(|line| line["aux"]["ID"] == id.as_str()), "{lines:#?}");
        let answer = texts(&format!("FROM {BUSYBOX}\nRUN exit 7\n"))?;
        let message = "The command '/bin/sh -c exit 7' returned a non-zero code: 7";
        let last: Value = serde_json::from_str(answer.body.trim_end().rsplit("\r\n").next().unwrap_or_default())?;
        ensure!(last == json!({ "errorDetail": { "code": 7, "message": message }, "error": message }), "{last}");
        let answer = texts(&format!("FROM {BUSYBOX}\nCOPY nope /\n"))?;
        ensure!(answer.body.contains("COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist"), "{answer:?}");
        let answer = texts("FORM x\n")?;
        ensure!(answer.status == 400 && answer.body.contains("unknown instruction: FORM"), "{answer:?}");
        let context = bench.context("empty", &[("other", "")])?;
        let answer = bench.post("/v1.51/build", "application/x-tar", &tar(&context, &["."])?)?;
        ensure!(answer.status == 500 && answer.body.contains("Cannot locate specified Dockerfile: Dockerfile"), "{answer:?}");
        ensure!(bench.engine.run(&["inspect", "me/built:2"])?.code != 0);
    }

    /// A folder of the machine is used where it is; a second build knows everything, a third says what changed.
    fn misses_are_explained(bench) {
        let context = bench.context("e", &[("Dockerfile", &format!("FROM {BUSYBOX}\nCOPY src /src\nRUN cat /src/a > /b\n")), ("src/a", "1"), ("src/b", "1")])?;
        bench.built(&context, json!({ "tags": ["me/e"] }))?;
        let known = vertexes(&bench.built(&context, json!({ "tags": ["me/e"] }))?);
        ensure!(cached(&known, "COPY src")?["cached"] == true && cached(&known, "RUN cat")?["cached"] == true, "{known:#?}");
        fs::write(context.join("src/a"), "2")?;
        let changed = vertexes(&bench.built(&context, json!({ "tags": ["me/e"] }))?);
        ensure!(cached(&changed, "COPY src")?["miss"] == "src/a changed", "{changed:#?}");
        ensure!(cached(&changed, "RUN cat")?["miss"] == "what it builds on changed", "{changed:#?}");
        ensure!(bench.output("me/e", &["cat", "/b"])? == "2");
    }

    /// What was built is known after a restart; pruning takes it, and its disk space, away.
    fn the_cache_is_kept_and_pruned(bench) {
        let context = bench.context("p", &[("Dockerfile", &format!("FROM {BUSYBOX}\nRUN head -c 100000 /dev/zero > /zeros\nRUN --mount=type=cache,target=/c echo kept >> /c/f; cp /c/f /f\n"))])?;
        bench.built(&context, json!({ "tags": ["me/p"] }))?;
        bench.engine.kill()?;
        bench.engine.restart()?;
        let known = vertexes(&bench.built(&context, json!({ "tags": ["me/p"] }))?);
        ensure!(cached(&known, "RUN head")?["cached"] == true, "{known:#?}");
        let usage = bench.engine.api("GET", "/system/df?type=build-cache", "")?;
        ensure!(usage.body.contains("exec.cachemount") && usage.body.contains("100000"), "{usage:?}");
        bench.engine.ok(&["rmi", "me/p"])?;
        let pruned: Value = serde_json::from_str(&bench.post("/build/prune?all=1", "application/json", b"")?.body)?;
        ensure!(pruned["SpaceReclaimed"].as_u64() >= Some(100_000), "{pruned}");
        let layers = bench.engine.data_root().join("layers");
        eventually("the layers are gone", 60, || (fs::read_dir(&layers).ok()?.count() == 1).then_some(()))?;
        let fresh = vertexes(&bench.built(&context, json!({}))?);
        ensure!(cached(&fresh, "RUN head")?["cached"] != true, "{fresh:#?}");
        let refused = bench.post("/build/prune?filters=%7B%22what%22%3A%5B%22x%22%5D%7D", "application/json", b"")?;
        ensure!(refused.status == 400, "{refused:?}");
    }

    /// Stages that are not needed are not carried out; those that do not need each other go on at the same time.
    fn stages_run_side_by_side(bench) {
        // Each waits for the other, through a cache mount that both may use.
        let wait = |own: &str, other: &str| format!("RUN --mount=type=cache,target=/c touch /c/{own}; for i in $(seq 600); do test -e /c/{other} && exit 0; sleep 0.1; done; exit 1\n");
        let dockerfile = format!(
            "FROM {BUSYBOX} AS one\n{}FROM {BUSYBOX} AS two\n{}FROM {BUSYBOX} AS unneeded\nRUN exit 1\nFROM {BUSYBOX}\nCOPY --from=one /etc/passwd /one\nCOPY --from=two /etc/passwd /two\n",
            wait("a", "b"),
            wait("b", "a")
        );
        let context = bench.context("m", &[("Dockerfile", &dockerfile)])?;
        bench.built(&context, json!({ "tags": ["me/m"] }))?;
        ensure!(bench.output("me/m", &["ls", "/one", "/two"])?.lines().count() == 2);
    }

    /// Files: owners by name, modes, patterns, exclusions, parents, links, archives of every compression.
    fn files_are_copied_as_asked(bench) {
        let dockerfile = format!(
            "FROM {BUSYBOX}\nRUN echo 'me:x:7:8::/:/bin/sh' >> /etc/passwd; mkdir /real; ln -s /real /way\nCOPY --chown=me --chmod=u=rwX,go=rX a.txt /owned/\nCOPY *.txt /all/\nCOPY --exclude=*.log d /d/\nCOPY --parents d/sub/deep /p/\nCOPY --link a.txt /linked\nCOPY a.txt /way/\nADD a.tgz /tgz/\nADD a.txz /txz/\nADD a.tbz /tbz/\nADD a.txt /added\nCOPY <<EOF /here\nin $PWD\nEOF\n"
        );
        let context = bench.context("f", &[("Dockerfile", &dockerfile), ("a.txt", "A\n"), ("b.txt", "B\n"), ("d/keep", "k"), ("d/drop.log", "x"), ("d/sub/deep", "deep")])?;
        for (flag, name) in [("z", "a.tgz"), ("J", "a.txz"), ("j", "a.tbz")] {
            Cmd::new("tar").arg(format!("-c{flag}f")).arg(name).arg("a.txt").dir(&context).ok()?;
        }
        bench.built(&context, json!({ "tags": ["me/f"] }))?;
        let script = "stat -c '%u:%g %a' /owned/a.txt; ls /all; ls /d; cat /p/d/sub/deep; echo; cat /linked /real/a.txt /tgz/a.txt /txz/a.txt /tbz/a.txt /added; readlink /way; cat /here";
        let told = bench.output("me/f", &["sh", "-c", script])?;
        let told: Vec<&str> = told.lines().collect();
        ensure!(told == ["7:8 644", "a.txt", "b.txt", "keep", "sub", "deep", "A", "A", "A", "A", "A", "A", "/real", "in"], "{told:?}");
    }

    /// Secrets are seen by their step alone: no layer, no cache, no configuration has them.
    fn secrets_stay_secret(bench) {
        let secret = "c2VjcmV0LW9mLW1pbmU="; // secret-of-mine
        let dockerfile = format!("FROM {BUSYBOX}\nRUN --mount=type=secret,id=s,required=true grep -q ^secret.of.mine$ /run/secrets/s && stat -c %a /run/secrets/s > /mode\nRUN --mount=type=secret,id=s,env=S test \"$(echo $S | tr - .)\" = secret.of.mine\n");
        let context = bench.context("x", &[("Dockerfile", &dockerfile)])?;
        let failure = bench.failed(&context, json!({}))?;
        ensure!(failure["message"].as_str().is_some_and(|text| text.contains("secret s is required")), "{failure}");
        bench.built(&context, json!({ "tags": ["me/x"], "secrets": { "s": secret } }))?;
        ensure!(bench.output("me/x", &["sh", "-c", "cat /mode; ls /run/secrets 2>/dev/null; true"])?.lines().next() == Some("400"));
        let found = Cmd::new("grep").args(["-rl", "secret-of-mine"]).arg(bench.engine.data_root()).run()?;
        ensure!(found.text().is_empty(), "the secret is in {found}");
        ensure!(!bench.engine.exec_root().join("build").read_dir()?.any(|_| true), "private files are left");
    }

    /// Nothing of the host is reached: links and paths of a context, archives, mounts, ids, clean-up.
    fn nothing_of_the_host_is_reached(bench) {
        let victim = bench.engine.dir().join("victim");
        fs::create_dir_all(victim.join("folder"))?;
        fs::write(victim.join("secret"), "host")?;
        let context = bench.context("h", &[("Dockerfile", &format!("FROM {BUSYBOX}\nCOPY link /got\n"))])?;
        symlink(victim.join("secret"), context.join("link"))?;
        let failure = bench.failed(&context, json!({}))?;
        ensure!(failure["message"].as_str().is_some_and(|text| text.contains("not found")), "{failure}");
        fs::write(context.join("Dockerfile"), format!("FROM {BUSYBOX}\nCOPY ../../victim/secret /got\n"))?;
        bench.failed(&context, json!({}))?;
        // An archive that climbs, as a context and in ADD.
        let bad = bench.context("climbs", &[("x", "x")])?;
        let archive = tar(&bad, &["--transform", "s,^x,../../../escaped,", "x", "-P"])?;
        let answer = bench.post("/build", "application/x-tar", &archive)?;
        ensure!(answer.status >= 400 && answer.body.contains("leads out"), "{answer:?}");
        fs::write(context.join("bad.tar"), archive)?;
        fs::write(context.join("Dockerfile"), format!("FROM {BUSYBOX}\nADD bad.tar /\n"))?;
        bench.failed(&context, json!({}))?;
        // Links that the step itself makes in the way of what follows, and of the clean-up of its mounts.
        let dockerfile = format!(
            "FROM {BUSYBOX} AS bad\nRUN ln -s {victim} /away\nFROM bad\nCOPY link2 /away/new\nRUN --mount=type=cache,id=../../../../../../../../tmp/cais-escaped,target=/m/n true\nRUN --mount=type=bind,from=bad,source=/away,target=/seen ls /seen > /list; true\nRUN --mount=type=tmpfs,target=/t/u rm -rf /t 2>/dev/null; ln -s {victim} /t/../w; true\n",
            victim = victim.display()
        );
        fs::write(context.join("Dockerfile"), dockerfile)?;
        fs::write(context.join("link2"), "written")?;
        let lines = bench.own(&context, json!({ "tags": ["me/h"] }))?;
        ensure!(lines.iter().any(|line| line.get("result").is_some() || line.get("error").is_some()), "{lines:#?}");
        let left: Vec<_> = fs::read_dir(&victim)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        ensure!(left.len() == 2 && victim.join("folder").is_dir(), "{left:?}");
        ensure!(!Path::new("/tmp/cais-escaped").exists(), "an id became a path");
    }

    /// What is wrong is told with its place, before anything is built.
    fn mistakes_are_told(bench) {
        for (dockerfile, expected) in [
            (format!("FROM {BUSYBOX} AS a\nCOPY --from=b / /\nFROM a AS b\n"), "circular"),
            (format!("FROM {BUSYBOX}\nRUN exit 3\n"), "non-zero code: 3"),
            (format!("FROM {BUSYBOX}\nRUN [\"/no/such\"]\n"), "/no/such"),
            (format!("FROM {BUSYBOX}\nCOPY --chown=nobody-of-that-name Dockerfile /\n"), "nobody-of-that-name"),
            (format!("FROM {BUSYBOX}\nRUN --network=host true\n"), "network.host"),
            ("# syntax=evil/frontend\nFROM scratch\n".to_owned(), "evil/frontend"),
        ] {
            let context = bench.context("w", &[("Dockerfile", &dockerfile)])?;
            let failure = bench.failed(&context, json!({}))?;
            ensure!(failure["message"].as_str().is_some_and(|text| text.contains(expected)), "{expected}: {failure}");
        }
        let context = bench.context("w", &[("Dockerfile", &format!("FROM {BUSYBOX}\n"))])?;
        ensure!(bench.failed(&context, json!({ "target": "nope" }))?["message"].as_str().is_some_and(|text| text.contains("nope")));
        ensure!(bench.failed(&context, json!({ "tags": ["UPPER"] }))?["message"].as_str().is_some_and(|text| text.contains("UPPER")));
        ensure!(bench.failed(&bench.contexts.join("missing"), json!({}))?["message"].as_str().is_some_and(|text| text.contains("missing")));
        ensure!(bench.engine.ok(&["images", "-q"])?.text().lines().count() == 1, "half an image");
    }

    /// A client that goes takes its build along: no process, no file, no mount stays.
    fn a_client_that_goes_cancels(bench) {
        let seconds = format!("7{}", std::process::id());
        let context = bench.context("k", &[("Dockerfile", &format!("FROM {BUSYBOX}\nRUN sleep {seconds}\n"))])?;
        let mut client = bench.engine.client(Client::Docker)?.env("DOCKER_BUILDKIT", "0").arg("build").arg(&context).spawn(Stdio::null(), Stdio::null())?;
        let runs = || Cmd::new("pgrep").args(["-f", &format!("^sleep {seconds}$")]).run().is_ok_and(|done| done.code == 0);
        eventually("the step runs", 60, || runs().then_some(()))?;
        client.kill()?;
        client.wait()?;
        eventually("the step has ended", 60, || (!runs()).then_some(()))?;
    }

    /// An engine that is killed in the middle of a build leaves nothing, and what was built before is sound.
    fn a_killed_engine_leaves_nothing(bench) {
        let seconds = format!("8{}", std::process::id());
        let context = bench.context("k", &[("Dockerfile", &format!("FROM {BUSYBOX}\nRUN echo one > /one\nRUN sleep {seconds}\n"))])?;
        let mut client = bench.engine.client(Client::Docker)?.env("DOCKER_BUILDKIT", "0").arg("build").arg(&context).spawn(Stdio::null(), Stdio::null())?;
        let runs = || Cmd::new("pgrep").args(["-f", &format!("^sleep {seconds}$")]).run().is_ok_and(|done| done.code == 0);
        eventually("the step runs", 60, || runs().then_some(()))?;
        bench.engine.kill()?;
        client.wait()?;
        bench.engine.restart()?;
        eventually("the step has ended", 60, || (!runs()).then_some(()))?;
        bench.ensure_clean()?;
        let layers = bench.engine.data_root().join("layers");
        eventually("only the base image is there", 60, || (fs::read_dir(&layers).ok()?.count() == 1).then_some(()))?;
        fs::write(context.join("Dockerfile"), format!("FROM {BUSYBOX}\nRUN echo one > /one\n"))?;
        bench.built(&context, json!({ "tags": ["me/k"] }))?;
        ensure!(bench.output("me/k", &["cat", "/one"])? == "one");
    }

    /// Results go to folders and archives, too, and then no image stays.
    fn outputs_go_where_they_are_asked(bench) {
        let context = bench.context("o", &[("Dockerfile", "FROM scratch\nCOPY f /d/f\nCOPY f /g\n"), ("f", "text\n")])?;
        let out = bench.contexts.join("out");
        let output = |kind: &str, dest: &Path| json!([{ "type": kind, "options": { "dest": dest } }]);
        bench.built(&context, json!({ "outputs": output("local", &out) }))?;
        ensure!(fs::read_to_string(out.join("d/f"))? == "text\n" && out.join("g").is_file());
        let archive = bench.contexts.join("out.tar");
        bench.built(&context, json!({ "outputs": output("tar", &archive) }))?;
        ensure!(Cmd::new("tar").arg("-tf").arg(&archive).ok()?.text().contains("d/f"));
        let saved = bench.contexts.join("image.tar");
        bench.built(&context, json!({ "tags": ["me/saved:1"], "outputs": output("docker", &saved) }))?;
        ensure!(bench.engine.run(&["inspect", "me/saved:1"])?.code != 0, "the image stayed");
        ensure!(bench.engine.ok(&["images", "-q"])?.text().lines().count() == 1, "a nameless image stayed");
        ensure!(bench.engine.ok(&["load", "-i", &saved.to_string_lossy()])?.stdout.contains("me/saved:1"));
        let failure = bench.failed(&context, json!({ "outputs": output("local", Path::new("relative")) }))?;
        ensure!(failure["message"].as_str().is_some_and(|text| text.contains("absolute")), "{failure}");
    }

    /// `ADD` of an address with its checksum, and a context that is one.
    fn files_come_from_the_web(bench) {
        let served = bench.context("web", &[("Dockerfile", &format!("FROM {BUSYBOX}\nCOPY f /f\n")), ("f", "from the web\n")])?;
        let archive = tar(&served, &["."])?;
        let address = serve(vec![("/f", b"from the web\n".to_vec()), ("/context.tar", archive)])?;
        let digest = Cmd::new("sha256sum").arg(served.join("f")).ok()?.text()[..64].to_owned();
        let dockerfile = |checksum: &str| format!("FROM {BUSYBOX}\nADD --checksum=sha256:{checksum} http://{address}/f /got/\n");
        let context = bench.context("a", &[("Dockerfile", &dockerfile(&digest))])?;
        bench.built(&context, json!({ "tags": ["me/web"] }))?;
        ensure!(bench.output("me/web", &["sh", "-c", "cat /got/f; stat -c %a /got/f"])? == "from the web\n600");
        fs::write(context.join("Dockerfile"), dockerfile(&"0".repeat(64)))?;
        let failure = bench.failed(&context, json!({}))?;
        ensure!(failure["message"].as_str().is_some_and(|text| text.contains("digest mismatch")), "{failure}");
        let done = bench.engine.client(Client::Docker)?.env("DOCKER_BUILDKIT", "0").args(["build", "-t", "me/remote"]).arg(format!("http://{address}/context.tar")).run()?.ok()?;
        ensure!(done.stdout.contains("Successfully tagged me/remote"), "{done}");
        ensure!(bench.output("me/remote", &["cat", "/f"])? == "from the web");
    }
}

/// Serves files over HTTP on loopback until the process ends; answers the address.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> Result<String> {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = BufReader::new(&stream);
            let mut first = String::new();
            let mut line = String::new();
            // Whoever hangs up early gets no answer.
            let _ = head.read_line(&mut first);
            while head.read_line(&mut line).is_ok_and(|len| len > 2) {
                line.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let found = files.iter().find(|(name, _)| *name == path);
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |(_, body)| ("200 OK", body.as_slice()));
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    Ok(address)
}
