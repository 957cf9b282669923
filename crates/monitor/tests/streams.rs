//! Clients: attached from the start or later, terminals, execs, slow readers, detach keys.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use monitor::{Attach, ErrorCode, Event, Reply, Request};
use rig::{Rig, alive, exec_request, possible, read_all, read_until, type_in, until};

const SIGKILL: i32 = 9;

fn output() -> Attach {
    Attach { stdout: true, stderr: true, multiplexed: true, ..Attach::default() }
}

fn terminal() -> Attach {
    Attach { stdin: true, stdout: true, stderr: true, detach_keys: vec![16, 17], ..Attach::default() }
}

/// The contents of the two streams in a framed conversation.
fn unframe(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let into = if bytes[0] == 1 { &mut stdout } else { &mut stderr };
        into.extend_from_slice(&bytes[8..8 + length]);
        bytes = &bytes[8 + length..];
    }
    (stdout, stderr)
}

#[test]
fn a_client_attached_at_the_start_gets_every_byte_and_the_end() {
    if !possible() {
        return;
    }
    let rig = Rig::new("first");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut request = rig.request("printf 'a\\000\\377b'; echo e >&2; seq 1 20000");
    request.attach = vec![output()];
    let mut container = rig.launch_with(&request, &[&theirs]).unwrap();
    drop(theirs);
    let (stdout, stderr) = unframe(&read_all(&mut ours));
    let numbers: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert!(stdout.starts_with(b"a\0\xffb") && stdout.ends_with(numbers.as_bytes()));
    assert_eq!(stderr, b"e\n");
    assert_eq!(container.exit().code, 0);
    container.acknowledge();
}

#[test]
fn input_arrives_with_what_was_read_ahead_and_ends_with_the_first_client() {
    if !possible() {
        return;
    }
    let rig = Rig::new("stdin");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut request = rig.request("wc -c");
    (request.open_stdin, request.stdin_once) = (true, true);
    request.attach = vec![Attach { stdin: true, read_ahead: b"ahead".to_vec(), ..output() }];
    let mut container = rig.launch_with(&request, &[&theirs]).unwrap();
    drop(theirs);
    let writer = {
        let mut ours = ours.try_clone().unwrap();
        std::thread::spawn(move || {
            type_in(&mut ours, &vec![b'x'; 1_000_000]);
            ours.shutdown(Shutdown::Write).unwrap();
        })
    };
    let (stdout, _) = unframe(&read_all(&mut ours));
    writer.join().unwrap();
    assert_eq!(String::from_utf8(stdout).unwrap().trim(), "1000005");
    assert_eq!(container.exit().code, 0);
    container.acknowledge();
}

#[test]
fn without_stdin_the_input_is_empty() {
    if !possible() {
        return;
    }
    let rig = Rig::new("nostdin");
    assert_eq!(rig.run("wc -c").code, 0);
    assert_eq!(rig.log(), [("stdout".to_owned(), "0\n".to_owned())]);
}

#[test]
fn several_clients_see_the_same_and_leave_as_they_like() {
    if !possible() {
        return;
    }
    let rig = Rig::new("several");
    let mut request = rig.request("while read line; do echo got $line; done; echo end");
    request.open_stdin = true;
    let mut container = rig.launch(&request);
    let mut first = container.attach(Attach { stdin: true, stdout: true, ..Attach::default() });
    let mut second = container.attach(Attach { stdout: true, ..Attach::default() });
    type_in(&mut first, b"one\n");
    read_until(&mut first, "got one\n");
    read_until(&mut second, "got one\n");
    // Not the once-only kind: the end of a client's input ends its attachment, not the container's input.
    first.shutdown(Shutdown::Write).unwrap();
    read_all(&mut first);
    let mut third = container.attach(Attach { stdin: true, stdout: true, ..Attach::default() });
    type_in(&mut third, b"two\n");
    read_until(&mut third, "got two\n");
    read_until(&mut second, "got two\n");
    drop(second);
    type_in(&mut third, b"three\n");
    read_until(&mut third, "got three\n");
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    assert_eq!(container.exit().code, 137);
    container.acknowledge();
}

#[test]
fn a_terminal_has_a_size_that_changes_and_detach_keys_leave_it_running() {
    if !possible() {
        return;
    }
    let rig = Rig::new("tty");
    let mut request = rig.request_args(&["sh"]);
    request.open_stdin = true;
    let process = request.spec.process.as_mut().unwrap();
    process.terminal = true;
    process.console_size = Some(serde_json::from_value(serde_json::json!({ "height": 24, "width": 80 })).unwrap());
    let mut container = rig.launch(&request);
    let mut client = container.attach(terminal());
    type_in(&mut client, b"tty; stty size; A=77\n");
    let shown = read_until(&mut client, "24 80");
    assert!(shown.contains("/dev/pts/") || shown.contains("/dev/console"), "{shown}");
    assert!(matches!(container.ask(Request::Resize { exec: None, rows: 40, columns: 100 }), Reply::Done));
    type_in(&mut client, b"stty size\n");
    read_until(&mut client, "40 100");
    type_in(&mut client, b"\x10\x11");
    read_all(&mut client);
    let event = container.event(|event| matches!(event, Event::Detached { .. }));
    assert_eq!(event, Event::Detached { exec: None });
    assert!(alive(container.started.pid));
    let mut client = container.attach(terminal());
    type_in(&mut client, b"echo v$A; exit 5\n");
    read_until(&mut client, "v77");
    assert_eq!(container.exit().code, 5);
    container.acknowledge();
}

#[test]
fn ctrl_c_reaches_the_foreground() {
    if !possible() {
        return;
    }
    let rig = Rig::new("ctrlc");
    for init in [false, true] {
        let mut request = rig.request("trap 'echo gotint; exit 9' INT; echo ready; while :; do sleep 0.05; done");
        (request.open_stdin, request.init) = (true, init);
        request.spec.process.as_mut().unwrap().terminal = true;
        let mut container = rig.launch(&request);
        let mut client = container.attach(terminal());
        until("the trap is set", || rig.log().iter().any(|(_, text)| text.contains("ready")));
        type_in(&mut client, b"\x03");
        assert_eq!(container.exit().code, 9, "init: {init}");
        container.acknowledge();
        std::fs::remove_file(rig.log_path()).unwrap();
    }
}

#[test]
fn execs_have_streams_codes_terminals_and_signals_of_their_own() {
    if !possible() {
        return;
    }
    let rig = Rig::new("exec");
    let mut container = rig.launch(&rig.request("sleep 300"));
    let (_, mut client) = container.exec("e1", &["sh", "-c", "echo out; echo err >&2; echo $$ >/dev/null; exit 3"], output());
    assert_eq!(unframe(&read_all(&mut client)), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(container.exec_exit("e1"), 3);

    let (_, mut client) = container.exec("e2", &["cat"], Attach { stdin: true, ..output() });
    type_in(&mut client, b"through");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(unframe(&read_all(&mut client)).0, b"through");
    assert_eq!(container.exec_exit("e2"), 0);

    let mut request = exec_request("e3", &["sh"], Some(terminal()));
    request.process.terminal = true;
    let (_, mut client) = container.exec_request(request);
    assert!(matches!(container.ask(Request::Resize { exec: Some("e3".to_owned()), rows: 33, columns: 44 }), Reply::Done));
    type_in(&mut client, b"stty size; tty\n");
    let shown = read_until(&mut client, "/dev/pts/");
    assert!(shown.contains("33 44"), "{shown}");
    type_in(&mut client, b"exit 6\n");
    assert_eq!(container.exec_exit("e3"), 6);

    let reply = container.ask(Request::Exec(Box::new(exec_request("e4", &["sh", "-c", "exit 8"], None))));
    assert!(matches!(reply, Reply::ExecStarted { pid: 1.. }), "{reply:?}");
    assert_eq!(container.exec_exit("e4"), 8);

    let (_, _client) = container.exec("e5", &["sleep", "300"], output());
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: Some("e5".to_owned()) }), Reply::Done));
    assert_eq!(container.exec_exit("e5"), 137);

    let missing = container.ask(Request::Exec(Box::new(exec_request("e6", &["/no/such"], None))));
    let Reply::ExecFailed(failure) = missing else { panic!("{missing:?}") };
    assert_eq!(failure.exit_code, 127, "{failure:?}");

    let (_, mut client) = container.exec("e7", &["sleep", "300"], output());
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    assert_eq!(container.exec_exit("e7"), 137);
    assert!(read_all(&mut client).is_empty());
    assert_eq!(container.exit().code, 137);
    let reply = container.ask(Request::Exec(Box::new(exec_request("e8", &["true"], None))));
    assert!(matches!(reply, Reply::Failed { code: ErrorCode::NotRunning, .. }), "{reply:?}");
    container.acknowledge();
}

#[test]
fn an_execs_client_sees_the_end_when_the_exec_ends() {
    if !possible() {
        return;
    }
    let rig = Rig::new("exec-end");
    let mut container = rig.launch(&rig.request("sleep 300"));
    let mut quickest = Duration::MAX;
    for number in 0..5 {
        let begun = Instant::now();
        let (_, mut client) = container.exec(&format!("e{number}"), &["true"], output());
        assert!(read_all(&mut client).is_empty());
        quickest = quickest.min(begun.elapsed());
    }
    // Not when the monitor looks up for another reason, a second later.
    assert!(quickest < Duration::from_millis(700), "{quickest:?}");
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    container.exit();
    container.acknowledge();
}

#[test]
fn a_reader_that_is_a_bit_slow_misses_nothing_and_one_that_sleeps_holds_nobody() {
    if !possible() {
        return;
    }
    let rig = Rig::new("slow");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut request = rig.request("head -c 20000000 /dev/zero");
    request.attach = vec![output()];
    request.log = None;
    let mut container = rig.launch_with(&request, &[&theirs]).unwrap();
    drop(theirs);
    std::thread::sleep(Duration::from_millis(500));
    let (stdout, _) = unframe(&read_all(&mut ours));
    assert_eq!(stdout.len(), 20_000_000);
    assert_eq!(container.exit().code, 0);
    container.acknowledge();

    let begin = Instant::now();
    let mut container = rig.launch(&rig.request("head -c 20000000 /dev/zero >&2; echo done"));
    let _sleeper = container.attach(output());
    assert_eq!(container.exit().code, 0);
    assert!(begin.elapsed() < Duration::from_secs(25), "dropped after its time");
    assert!(rig.log().iter().any(|(_, text)| text == "done\n"), "everything was recorded");
    container.acknowledge();
}

#[test]
fn long_lines_are_split_and_whole_again_when_joined() {
    if !possible() {
        return;
    }
    let rig = Rig::new("long");
    assert_eq!(rig.run("head -c 100000 /dev/zero | tail -c 100000; echo; echo short").code, 0);
    let log = rig.log();
    let text: String = log.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(text, format!("{}\nshort\n", "\0".repeat(100_000)));
    assert_eq!(log.len(), 8);
}
