//! `run` against a scripted engine: the order of the requests, the streams, the exit codes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

static HOOKS: cli::Hooks = cli::Hooks { start_engine: || Err("no engine in this test".into()), commands: &[] };
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Engine {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
}

/// What the connections of one engine share.
struct Script {
    log: Arc<Mutex<Vec<String>>>,
    /// The answer to a start.
    start: &'static str,
    attached: (Mutex<Sender<UnixStream>>, Mutex<Receiver<UnixStream>>),
    /// Whether a start was answered: nothing ends before it began.
    begun: (Mutex<bool>, Condvar),
}

impl Engine {
    /// Serves one container whose start is answered with `start`, and which then prints and exits with 7.
    fn start(name: &str, start: &'static str) -> Self {
        let socket = std::env::temp_dir().join(format!("cais-cli-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&socket).expect("bind");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = channel();
        let attached = (Mutex::new(sender), Mutex::new(receiver));
        let script = Arc::new(Script { log: seen.clone(), start, attached, begun: (Mutex::new(false), Condvar::new()) });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, script) = (stream.expect("accepted"), script.clone());
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        Self { socket, seen }
    }

    fn run(&self, args: &[&str]) -> i32 {
        let host = format!("unix://{}", self.socket.display());
        let words = ["cais", "-H", &host].into_iter().chain(args.iter().copied());
        cli::main(words.map(OsString::from).collect(), &HOOKS)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        std::fs::remove_file(&self.socket).expect("socket removed");
    }
}

fn serve(stream: UnixStream, script: &Arc<Script>) {
    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a header");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let path = first.split(' ').nth(1).expect("a path").trim_start_matches("/v1.51").replace(ID, "ID");
        script.log.lock().expect("not poisoned").push(path.clone());
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        if path.starts_with("/containers/create") && String::from_utf8_lossy(&body).contains("\"Image\":\"missing\"") {
            writer.write_all(answer("404 Not Found", "{\"message\":\"No such image: missing:latest\"}").as_bytes()).expect("written");
        } else if path.starts_with("/images/create") {
            writer
                .write_all(
                    answer("200 OK", "{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{\"message\":\"not found\"},\"error\":\"not found\"}")
                        .as_bytes(),
                )
                .expect("written");
        } else if path.starts_with("/containers/create") {
            writer.write_all(answer("201 Created", &format!("{{\"Id\":\"{ID}\",\"Warnings\":[]}}")).as_bytes()).expect("written");
        } else if path.contains("/attach") {
            writer.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").expect("written");
            script.attached.0.lock().expect("not poisoned").send(writer.try_clone().expect("cloned")).expect("sent");
        } else if path.contains("/wait") {
            writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("written");
            if !script.start.starts_with("204") {
                return;
            }
            let (mut wait, script) = (writer, script.clone());
            let mut attached = script.attached.1.lock().expect("not poisoned").recv().expect("attached before the wait");
            std::thread::spawn(move || {
                let begun = script.begun.0.lock().expect("not poisoned");
                drop(script.begun.1.wait_while(begun, |begun| !*begun).expect("not poisoned"));
                attached.write_all(b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n").expect("written");
                attached.shutdown(std::net::Shutdown::Both).expect("shut down");
                wait.write_all(b"10\r\n{\"StatusCode\":7}\r\n0\r\n\r\n").expect("written");
            });
            return;
        } else if path.contains("/start") {
            let (status, message) = script.start.split_once('|').unwrap_or((script.start, ""));
            let text = if message.is_empty() {
                format!("HTTP/1.1 {status}\r\n\r\n")
            } else {
                answer(status, &format!("{{\"message\":\"{message}\"}}"))
            };
            writer.write_all(text.as_bytes()).expect("written");
            *script.begun.0.lock().expect("not poisoned") = true;
            script.begun.1.notify_all();
        } else {
            writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("written");
        }
    }
}

#[test]
fn streams_and_wait_are_there_before_the_start_and_the_exit_code_is_handed_on() {
    let engine = Engine::start("order", "204 No Content");
    assert_eq!(engine.run(&["run", "--rm", "busybox", "sh", "-c", "exit 7"]), 7);
    let expected = [
        "/containers/create",
        "/containers/ID/attach?stream=1&stdout=1&stderr=1",
        "/containers/ID/wait?condition=removed",
        "/containers/ID/start",
    ];
    assert_eq!(engine.seen(), expected);
}

#[test]
fn a_failed_start_has_dockers_exit_code_and_removes_what_was_to_be_removed() {
    let engine = Engine::start("start", "400 Bad Request|exec: \\\"/no/such\\\": no such file or directory");
    assert_eq!(engine.run(&["run", "--rm", "busybox", "/no/such"]), 127);
    assert_eq!(engine.seen().last().map(String::as_str), Some("/containers/ID?force=1&v=1"));
    let engine = Engine::start("port", "500 Internal Server Error|port 80 is taken");
    assert_eq!(engine.run(&["run", "-d", "busybox"]), 125);
    assert_eq!(engine.seen(), ["/containers/create", "/containers/ID/start"]);
}

#[test]
fn an_image_that_is_nowhere_is_looked_for_once() {
    let engine = Engine::start("pull", "204 No Content");
    assert_eq!(engine.run(&["run", "--rm", "missing", "true"]), 125);
    assert_eq!(engine.run(&["pull", "missing"]), 1);
    assert_eq!(engine.run(&["run", "--pull", "never", "missing"]), 125);
    let (create, pull) = ("/containers/create", "/images/create?fromImage=missing&tag=latest");
    assert_eq!(engine.seen(), [create, pull, pull, create]);
}

#[test]
fn what_does_not_reach_the_engine_has_exit_codes_of_its_own() {
    let run = |args: &[&str]| cli::main(std::iter::once("cais").chain(args.iter().copied()).map(OsString::from).collect(), &HOOKS);
    assert_eq!(run(&["-H", "unix:///no/such.sock", "ps"]), 1);
    assert_eq!(run(&["-H", "unix:///no/such.sock", "run", "busybox"]), 125);
    assert_eq!(run(&["run", "--nope", "busybox"]), 125);
    assert_eq!(run(&["run", "-m", "banana", "busybox"]), 125);
    assert_eq!(run(&["run", "-publish", "80:80", "busybox"]), 125);
    assert_eq!(run(&["run"]), 1);
    assert_eq!(run(&["stopp"]), 1);
    assert_eq!(run(&["build", "."]), 1);
    assert_eq!(run(&["ps", "--help"]), 0);
    assert_eq!(run(&["--version"]), 0);
}
