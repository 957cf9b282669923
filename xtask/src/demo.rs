//! `cargo xtask demo`: from packages to a web page out of a container, with every command as the reader can type it.

use crate::{built, cargo, packages};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::http::free_port;
use tests::sh::{Cmd, eventually, quote};
use tests::{Engine, image};

/// Counts its visits in the volume: what a container leaves behind outlives it.
const APP: &str = r#"import http.server, pathlib, platform, sys
VISITS = pathlib.Path("/data/visits")
class Quay(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/":
            return self.send_error(404)
        visits = int(VISITS.read_text() or 0) + 1 if VISITS.exists() else 1
        VISITS.write_text(f"{visits}\n")
        text = f"Hello from {platform.node()}, Python {platform.python_version()}; visit {visits}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, form, *args):
        print(self.client_address[0], form % args, flush=True)
print("listening on port 8000", flush=True)
http.server.ThreadingHTTPServer(("", 8000), Quay).serve_forever()
"#;

/// Runs the demo; with `keep`, leaves the engine and its container running and says how to reach them.
pub fn run(keep: bool) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the demo makes containers: run it as root");
    say("What it needs from Debian's packages, and two base images made from them");
    packages::ensure(packages::FOR_DEMO)?;
    let busybox = image::busybox()?;
    println!("busybox: {}", busybox.display());
    println!("debian:  mmdebstrap --variant=minbase --include=python3 {} (the first time it takes a minute)", image::SUITE);
    let debian = image::debian(&["python3"])?;
    println!("         {}", debian.display());

    say("One static binary");
    println!("$ cargo build --release -p cais");
    cargo().args(["build", "--release", "--quiet", "--locked", "-p", "cais"]).pass()?;
    let program = built("release")?.join("cais");
    println!("{} ({:.1} MB)", program.display(), megabytes(&program)?);

    let dir = std::env::temp_dir().join(format!("cais-demo-{}", std::process::id()));
    say("An engine of its own, below one folder");
    let engine = Engine::start_in(dir.clone(), &program, &[])?;
    println!("$ alias cais={}", program.display());
    println!("$ cais engine --host unix://{0}/s --data-root {0}/data --exec-root {0}/run &", dir.display());
    println!("$ export CAIS_HOST=unix://{}/s", dir.display());
    fs::write(dir.join("app.py"), APP)?;
    let shown = walk(&engine, &busybox, &debian);
    match shown {
        Ok(port) if keep => {
            println!("\nStill running: http://127.0.0.1:{port}/");
            println!("End it: cais rm -f -v quay; kill {}; rm -r {}", engine.pid().unwrap_or_default(), dir.display());
            std::mem::forget(engine);
            Ok(())
        }
        shown => {
            let cleaned = finish(engine, shown.is_ok());
            shown.map(drop).and(cleaned)
        }
    }
}

fn walk(engine: &Engine, busybox: &Path, debian: &Path) -> Result<u16> {
    say("Two images");
    let busybox = busybox.to_string_lossy();
    let debian = debian.to_string_lossy();
    show(engine, &["import", "-c", r#"CMD ["sh"]"#, &busybox, "busybox:demo"])?;
    show(engine, &["import", "-c", "ENV PYTHONUNBUFFERED=1", &debian, "debian:demo"])?;
    show(engine, &["images"])?;

    say("An image from a Dockerfile: a static site");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/static-site");
    let example = example.canonicalize().context("find the example")?;
    println!("$ cat examples/static-site/Dockerfile");
    print!("{}", fs::read_to_string(example.join("Dockerfile"))?);
    for _ in 0..2 {
        show(engine, &["build", "--progress", "plain", "-t", "site:demo", "--build-arg", "BASE=busybox:demo", &example.to_string_lossy()])?;
    }
    show(engine, &["history", "site:demo"])?;
    let port = free_port()?;
    show(engine, &["run", "-d", "--rm", "--name", "site", "-p", &format!("{port}:80"), "site:demo"])?;
    page(&format!("http://127.0.0.1:{port}/site/"), "A page out of a container.")?;
    show(engine, &["rm", "-f", "site"])?;

    say("A container is a process that sees its own world");
    show(engine, &["run", "--rm", "busybox:demo", "sh", "-c", "echo $(hostname): process $$; ps"])?;

    say("A web service, with a port, a limit and a volume");
    let port = free_port()?;
    let app = format!("{}:/app.py:ro", engine.dir().join("app.py").display());
    let publish = format!("{port}:8000");
    let flags = ["-d", "--name", "quay", "-p", &publish, "-m", "64m", "-v", "visits:/data", "-v", &app];
    show(engine, &[&["run"], &flags[..], &["debian:demo", "python3", "/app.py"]].concat())?;
    let url = format!("http://127.0.0.1:{port}/");
    for _ in 0..2 {
        page(&url, "Hello from ")?;
    }

    say("What runs, what it says, what it takes");
    show(engine, &["ps"])?;
    show(engine, &["logs", "quay"])?;
    show(engine, &["stats", "--no-stream", "quay"])?;
    show(engine, &["exec", "quay", "cat", "/data/visits"])?;
    Ok(port)
}

/// Shows a page once it comes; it has to have these words.
fn page(url: &str, words: &str) -> Result<()> {
    eventually("the page comes", 20, || {
        Cmd::new("curl").args(["-sf", "--noproxy", "*", "-I", url]).run().ok().filter(|done| matches!(done.code, 0 | 22))
    })?;
    println!("$ curl {url}");
    let page = Cmd::new("curl").args(["-sSf", "--noproxy", "*", url]).ok()?;
    print!("{}", page.stdout);
    ensure!(page.stdout.contains(words), "an unexpected page");
    Ok(())
}

fn finish(engine: Engine, good: bool) -> Result<()> {
    if good {
        say("The end, and nothing is left");
        show(&engine, &["stop", "-t", "2", "quay"])?;
        show(
            &engine,
            &["run", "--rm", "-v", "visits:/data:ro", "busybox:demo", "sh", "-c", "echo the volume remembers $(cat /data/visits) visits"],
        )?;
        show(&engine, &["rm", "quay"])?;
        show(&engine, &["volume", "rm", "visits"])?;
        println!("$ kill %1; rm -r {}", engine.dir().display());
    }
    let left = engine.finish()?;
    ensure!(left.is_empty(), "the engine left behind: {left:#?}");
    Ok(())
}

fn say(text: &str) {
    println!("\n# {text}");
}

/// Prints a command as it can be typed with the alias and the variable shown before, and runs it.
fn show(engine: &Engine, args: &[&str]) -> Result<()> {
    let words: Vec<_> = args.iter().map(|word| quote(word)).collect();
    println!("$ cais {}", words.join(" "));
    let started = Instant::now();
    let mut child = engine.cais().args(args).spawn(Stdio::inherit(), Stdio::inherit())?;
    let code = tests::sh::wait(&mut child, started + Duration::from_secs(120))?;
    ensure!(code == Some(0), "it ended with {code:?}; the engine said:\n{}", engine.log());
    println!("  ({} ms)", started.elapsed().as_millis());
    Ok(())
}

fn megabytes(file: &Path) -> Result<f64> {
    let bytes = fs::metadata(file).with_context(|| format!("look at {}", file.display()))?.len();
    #[allow(clippy::cast_precision_loss, reason = "a size for people")]
    let megabytes = bytes as f64 / 1e6;
    Ok(megabytes)
}
