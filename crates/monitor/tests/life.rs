//! The life of containers: starts, exits, signals, limits, and what survives the engine or the monitor.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use std::time::{Duration, Instant};

use monitor::{ErrorCode, Event, Handle, LogFile, Reply, Request, exit_record};
use rig::{Rig, alive, exec_request, possible, until};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

#[test]
fn a_container_runs_logs_and_tells_its_exit_code() {
    if !possible() {
        return;
    }
    let rig = Rig::new("run");
    let mut container = rig.launch(&rig.request("echo out; echo err >&2; exit 7"));
    assert!(container.started.pid > 0 && container.started.start_ticks > 0);
    let exit = container.exit();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert_eq!(exit_record::read(&rig.dir.join("exit")).unwrap(), Some(exit));
    let mut log = rig.log();
    log.sort();
    assert_eq!(log, [("stderr".to_owned(), "err\n".to_owned()), ("stdout".to_owned(), "out\n".to_owned())]);
    assert!(rig.groups().is_empty(), "the control group is gone before the exit is told");
    container.acknowledge();
}

#[test]
fn a_signal_gives_128_and_its_number() {
    if !possible() {
        return;
    }
    let rig = Rig::new("signal");
    let mut container = rig.launch(&rig.request("sleep 300"));
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    let exit = container.exit();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    container.acknowledge();
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let rig = Rig::new("fail");
    for (command, code) in [("/no/such", 127), ("no-such", 127), ("/etc", 126), ("/etc/passwd", 126)] {
        let Err(failure) = rig.launch_with(&rig.request_args(&[command]), &[]) else { panic!("{command} started") };
        assert_eq!(failure.exit_code, code, "{command}: {failure:?}");
        assert!(failure.text.contains(command), "{failure:?}");
        assert!(rig.groups().is_empty());
    }
    let mut request = rig.request("true");
    request.user = "nobody-here".to_owned();
    let failure = rig.launch_with(&request, &[]).err().unwrap();
    assert_eq!(failure.exit_code, 125, "{failure:?}");
    request.user = String::new();
    request.log = Some(LogFile { path: "/proc/no/such/log".into(), ..LogFile::default() });
    let failure = rig.launch_with(&request, &[]).err().unwrap();
    assert!(failure.text.contains("log"), "{failure:?}");
    assert!(rig.groups().is_empty());
}

#[test]
fn a_user_is_found_in_the_containers_own_files() {
    if !possible() {
        return;
    }
    let rig = Rig::new("user");
    let mut request = rig.request("id -u; id -g");
    request.user = "web".to_owned();
    let mut container = rig.launch(&request);
    assert_eq!(container.exit().code, 0);
    assert_eq!(rig.log().concat_text(), "7\n8\n");
    container.acknowledge();
}

#[test]
fn stop_kills_after_its_deadline_even_without_the_engine() {
    if !possible() {
        return;
    }
    let rig = Rig::new("stop");
    // Without a handler the first process ignores SIGTERM.
    let mut container = rig.launch(&rig.request("sleep 300"));
    let begin = Instant::now();
    assert!(matches!(container.ask(Request::Stop { signal: SIGTERM, timeout_ms: Some(300) }), Reply::Done));
    let pid = container.started.pid;
    drop(container);
    until("the container ends without an engine", || !alive(pid));
    assert!(begin.elapsed() >= Duration::from_millis(290));
    let (mut container, state) = rig.connect();
    let exit = state.exit.unwrap_or_else(|| container.exit());
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    container.acknowledge();
}

#[test]
fn stop_is_over_as_soon_as_the_process_obeys() {
    if !possible() {
        return;
    }
    let rig = Rig::new("obey");
    let mut container = rig.launch(&rig.request("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"));
    until("the trap is set", || rig.log().concat_text().contains("ready"));
    let begin = Instant::now();
    assert!(matches!(container.ask(Request::Stop { signal: SIGTERM, timeout_ms: Some(20_000) }), Reply::Done));
    assert_eq!(container.exit().code, 3);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(matches!(container.ask(Request::Signal { signal: SIGTERM, exec: None }), Reply::Failed { code: ErrorCode::NotRunning, .. }));
    container.acknowledge();
}

#[test]
fn pause_holds_and_a_kill_reaches_the_frozen() {
    if !possible() {
        return;
    }
    let rig = Rig::new("pause");
    let mut container = rig.launch(&rig.request("while :; do echo x; sleep 0.02; done"));
    until("output comes", || !rig.log().is_empty());
    assert!(matches!(container.ask(Request::Pause), Reply::Done));
    assert!(matches!(container.ask(Request::Pause), Reply::Failed { code: ErrorCode::Conflict, .. }));
    std::thread::sleep(Duration::from_millis(50));
    let before = rig.log().len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.log().len(), before);
    assert!(matches!(container.ask(Request::Unpause), Reply::Done));
    until("output comes again", || rig.log().len() > before);
    assert!(matches!(container.ask(Request::Pause), Reply::Done));
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    assert_eq!(container.exit().code, 137);
    container.acknowledge();
}

#[test]
fn a_container_that_stops_its_execs_holds_nobody_up() {
    if !possible() {
        return;
    }
    let rig = Rig::new("stopper");
    // It stops whatever appears besides its first process: an exec before its program runs.
    let mut container = rig.launch(&rig.request("while :; do kill -STOP -1; done"));
    for number in 1..=3 {
        let request = Request::Exec(Box::new(exec_request(&format!("e{number}"), &["true"], None)));
        container.handle.send(900 + number, request, &[]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    assert!(matches!(container.ask(Request::Ping), Reply::Done));
    assert!(matches!(container.ask(Request::Pause), Reply::Done));
    assert!(matches!(container.ask(Request::Unpause), Reply::Done));
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    assert_eq!(container.exit().code, 137);
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert!(rig.groups().is_empty());
    container.acknowledge();
}

#[test]
fn a_memory_hog_is_reported() {
    if !possible() {
        return;
    }
    let rig = Rig::new("oom");
    let mut request = rig.request("tail /dev/zero");
    set_memory(&mut request, 16 << 20);
    let mut container = rig.launch(&request);
    let exit = container.exit();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    container.acknowledge();
}

#[test]
fn a_child_that_runs_out_of_memory_is_an_event_and_limits_can_change() {
    if !possible() {
        return;
    }
    let rig = Rig::new("oomchild");
    let mut request = rig.request("tail /dev/zero; echo went on; sleep 300");
    set_memory(&mut request, 16 << 20);
    let mut container = rig.launch(&request);
    let event = container.event(|event| matches!(event, Event::Oom { .. }));
    assert!(matches!(event, Event::Oom { count: 1.. }));
    let resources = serde_json::from_value(serde_json::json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } })).unwrap();
    let reply = container.ask(Request::Update { resources: Box::new(resources) });
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    let limit = rig.groups().iter().find_map(|group| std::fs::read_to_string(group.join("memory.limit_in_bytes")).ok());
    assert!(limit.is_none_or(|limit| limit.trim() == (32 << 20).to_string()));
    until("the shell goes on", || rig.log().concat_text().contains("went on"));
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    let exit = container.exit();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    container.acknowledge();
}

#[test]
fn a_restarted_engine_finds_everything_again() {
    if !possible() {
        return;
    }
    let rig = Rig::new("again");
    let mut container = rig.launch(&rig.request("i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; sleep 300"));
    let reply = container.ask(Request::Exec(Box::new(exec_request("e1", &["sleep", "300"], None))));
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    let (pid, started) = (container.started.pid, container.started.clone());
    drop(container);
    until("it logs without an engine", || rig.log().len() == 40);
    let (mut container, state) = rig.connect();
    assert_eq!(state.started, Some(started));
    assert_eq!(state.execs.len(), 1);
    assert_eq!(state.execs[0].0, "e1");
    assert!(state.exit.is_none() && !state.paused);
    assert!(alive(pid));
    assert!(matches!(container.ask(Request::Ping), Reply::Done));
    assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
    assert_eq!(container.exec_exit("e1"), 137);
    assert_eq!(container.exit().code, 137);
    drop(container);
    let (mut container, state) = rig.connect();
    assert_eq!(state.exit.map(|exit| exit.code), Some(137));
    assert_eq!(state.exec_exits.len(), 1);
    container.acknowledge();
    assert!(Handle::connect(&rig.socket()).is_err());
}

#[test]
fn a_killed_monitor_takes_its_container_along() {
    if !possible() {
        return;
    }
    let rig = Rig::new("lost");
    let mut container = rig.launch(&rig.request("sleep 301 & sleep 302"));
    let pid = container.started.pid;
    let monitor = rustix::process::Pid::from_raw(container.handle.pid().unwrap()).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    container.gone();
    until("the container's first process dies with its monitor", || !alive(pid));
    assert!(Handle::connect(&rig.socket()).is_err());
    assert_eq!(exit_record::read(&rig.dir.join("exit")).unwrap(), None);
}

#[test]
fn leftovers_die_where_the_pid_namespace_is_the_hosts() {
    if !possible() {
        return;
    }
    let rig = Rig::new("hostpid");
    let mut request = rig.request("sleep 303 & echo $!; exit 4");
    request.spec.linux.namespaces.retain(|namespace| namespace.kind != "pid");
    let mut container = rig.launch(&request);
    let exit = container.exit();
    assert_eq!(exit.code, 4);
    let left: i32 = rig.log().concat_text().trim().parse().unwrap();
    until("the orphan is gone", || !alive(left));
    assert!(rig.groups().is_empty());
    container.acknowledge();
}

#[test]
fn init_reaps_forwards_and_hands_the_code_on() {
    if !possible() {
        return;
    }
    let rig = Rig::new("init");
    let mut request = rig.request("trap 'exit 5' TERM; cat /proc/1/comm; echo ready; while :; do sleep 0.05; done");
    request.init = true;
    let mut container = rig.launch(&request);
    until("the trap is set", || rig.log().concat_text().contains("ready"));
    assert!(!rig.log().concat_text().starts_with("sh\n"), "{:?}", rig.log());
    assert!(matches!(container.ask(Request::Signal { signal: SIGTERM, exec: None }), Reply::Done));
    assert_eq!(container.exit().code, 5);
    container.acknowledge();
}

#[test]
fn a_torn_log_is_ended_and_rotation_keeps_what_was_asked() {
    if !possible() {
        return;
    }
    let rig = Rig::new("log");
    std::fs::write(rig.log_path(), "{\"log\":\"torn").unwrap();
    let mut request = rig.request("printf 'bad \\377 byte\\n'; printf 'no newline'");
    assert_eq!(exit_of(&rig, &request), 0);
    let text = std::fs::read_to_string(rig.log_path()).unwrap();
    assert!(text.starts_with("{\"log\":\"torn\n{"), "{text}");
    assert_eq!(rig.log().concat_text(), "bad \u{fffd} byte\nno newline");

    request = rig.request("seq 1 3000");
    request.log = Some(LogFile { path: rig.log_path(), max_bytes: Some(100_000), max_files: Some(2), ..LogFile::default() });
    assert_eq!(exit_of(&rig, &request), 0);
    assert!(std::fs::metadata(rig.log_path()).unwrap().len() <= 200_000);
    assert!(rig.dir.join("x-json.log.1").exists() && !rig.dir.join("x-json.log.2").exists());
    assert_eq!(rig.log().last().map(|(_, text)| text.clone()), Some("3000\n".to_owned()));

    request = rig.request("true");
    request.log = None;
    assert_eq!(exit_of(&rig, &request), 0);
}

#[test]
fn unknown_requests_are_refused_and_bad_engines_dropped() {
    if !possible() {
        return;
    }
    let rig = Rig::new("bad");
    let mut container = rig.launch(&rig.request("sleep 300"));
    use std::os::fd::AsFd;
    monitor::wire::send(container.handle.as_fd(), br#"{"v":9,"id":77,"request":{"fly":{"to":"the moon"}}}"#, &[]).unwrap();
    assert!(matches!(container.ask(Request::Ping), Reply::Done));
    monitor::wire::send(container.handle.as_fd(), b"garbage", &[]).unwrap();
    assert!(matches!(container.ask(Request::Ack), Reply::Failed { code: ErrorCode::Conflict, .. }));
    assert!(matches!(container.ask(Request::Resize { exec: None, rows: 1, columns: 1 }), Reply::Failed { code: ErrorCode::Conflict, .. }));
    let missing = Request::Signal { signal: SIGKILL, exec: Some("none".to_owned()) };
    assert!(matches!(container.ask(missing), Reply::Failed { code: ErrorCode::NoSuchExec, .. }));
    assert!(matches!(container.ask(Request::Signal { signal: 999, exec: None }), Reply::Failed { code: ErrorCode::Invalid, .. }));
    assert!(matches!(container.ask(Request::Stop { signal: SIGTERM, timeout_ms: Some(0) }), Reply::Done));
    assert_eq!(container.exit().code, 137);
    container.acknowledge();
}

/// The budget is for the release build (CAIS_TEST_MONITOR names one); a debug build is several times as large and is only told.
#[test]
fn idle_monitors_are_small() {
    const COPIES: usize = 20;
    const PSS_KIB_MAX: u64 = 400;
    if !possible() {
        return;
    }
    let rigs: Vec<Rig> = (0..COPIES).map(|number| Rig::new(&format!("idle{number}"))).collect();
    // All from one program in memory, as an engine starts them.
    let mut containers: Vec<_> = rigs.iter().map(|rig| rigs[0].launch(&rig.request("sleep 300"))).collect();
    std::thread::sleep(Duration::from_millis(1500));
    let mut total = 0;
    for container in &containers {
        let pid = container.handle.pid().unwrap();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        total += field("Pss:");
        eprintln!("monitor {pid}: PSS {} KiB, RSS {} KiB, private {} KiB", field("Pss:"), field("Rss:"), field("Private_Dirty:"));
    }
    let mean = total / COPIES as u64;
    eprintln!("{COPIES} idle monitors: PSS {mean} KiB each");
    assert!(mean <= PSS_KIB_MAX || std::env::var_os("CAIS_TEST_MONITOR").is_none(), "{mean} KiB each");
    for container in &mut containers {
        assert!(matches!(container.ask(Request::Signal { signal: SIGKILL, exec: None }), Reply::Done));
        container.exit();
        container.acknowledge();
    }
}

fn exit_of(rig: &Rig, request: &monitor::LaunchRequest) -> i32 {
    let mut container = rig.launch(request);
    let exit = container.exit();
    container.acknowledge();
    exit.code
}

fn set_memory(request: &mut monitor::LaunchRequest, bytes: i64) {
    let resources = serde_json::json!({ "memory": { "limit": bytes, "swap": bytes } });
    request.spec.linux.resources = Some(serde_json::from_value(resources).unwrap());
}

trait Concat {
    fn concat_text(&self) -> String;
}

impl Concat for Vec<(String, String)> {
    fn concat_text(&self) -> String {
        self.iter().map(|(_, text)| text.as_str()).collect()
    }
}
