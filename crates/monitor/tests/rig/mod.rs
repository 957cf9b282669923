//! A small engine for tests: a busybox root, one container, and the other end of its monitor.

#![allow(clippy::unwrap_used, dead_code, reason = "test support, of which no test uses everything")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use monitor::{
    Arrival, Attach, Event, ExecRequest, Exit, Handle, LAUNCH_ID, LaunchFds, LaunchRequest, LogFile, Program, Reply, Request, Root,
    Started, State,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

/// Longer than anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const BUSYBOX: &str = "/usr/bin/busybox";

/// The program under test: the debug build, or what CAIS_TEST_MONITOR names, a release build say.
pub fn elf() -> PathBuf {
    std::env::var_os("CAIS_TEST_MONITOR").map_or_else(|| env!("CARGO_BIN_EXE_cais-monitor").into(), PathBuf::from)
}

/// Whether the machine allows these tests; says loudly why not.
pub fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: not root: containers cannot be made");
        return false;
    }
    if !Path::new(BUSYBOX).exists() && !Path::new("/bin/busybox").exists() {
        eprintln!("SKIP: no busybox: install busybox-static");
        return false;
    }
    true
}

/// A scratch directory with a root filesystem, cleaned up with everything that ran in it.
pub struct Rig {
    pub dir: PathBuf,
    name: String,
    program: Program,
}

/// A launched container.
pub struct Container {
    pub handle: Handle,
    pub started: Started,
    /// Events that came while something else was waited for.
    pub events: Vec<Event>,
    next: u64,
}

impl Rig {
    pub fn new(name: &str) -> Self {
        let name = format!("cais-monitor-test-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        let root = dir.join("root");
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let busybox = [BUSYBOX, "/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "sleep", "true", "false", "stty", "seq", "tail", "head", "wc", "kill", "printf", "dd", "yes", "tty", "id",
            "ps",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:7:8::/:/bin/sh\n").unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:8:\n").unwrap();
        let program = Program::seal(&std::fs::read(elf()).unwrap()).unwrap();
        Self { dir, name, program }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The request for a shell that runs `script`.
    pub fn request(&self, script: &str) -> LaunchRequest {
        self.request_args(&["sh", "-c", script])
    }

    pub fn request_args(&self, args: &[&str]) -> LaunchRequest {
        // A volatile upper directory can be mounted once only.
        for folder in ["upper", "work"] {
            let _ = std::fs::remove_dir_all(self.dir.join(folder));
            std::fs::create_dir_all(self.dir.join(folder)).unwrap();
        }
        LaunchRequest {
            id: self.name.clone(),
            spec: Box::new(serde_json::from_value(spec(args)).unwrap()),
            root: Root::Overlay {
                lower: vec![self.dir.join("root")],
                upper: self.dir.join("upper"),
                work: self.dir.join("work"),
                volatile: true,
                idmap: false,
            },
            cgroup: format!("{}/c", self.name),
            user: String::new(),
            additional_groups: Vec::new(),
            init: false,
            open_stdin: false,
            stdin_once: false,
            log: Some(LogFile { path: self.log_path(), ..LogFile::default() }),
            exit_record: self.dir.join("exit"),
            socket: self.socket(),
            runtime: None,
            attach: Vec::new(),
        }
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("x-json.log")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("monitor.sock")
    }

    /// The recorded output: stream and text of each line.
    pub fn log(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.log_path()).unwrap();
        let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
        let field = |record: &serde_json::Value, name: &str| record[name].as_str().unwrap().to_owned();
        text.lines().filter_map(record).map(|record| (field(&record, "stream"), field(&record, "log"))).collect()
    }

    /// Starts a container, with clients.
    pub fn launch_with(&self, request: &LaunchRequest, clients: &[&UnixStream]) -> Result<Container, monitor::Failure> {
        let fds = LaunchFds { clients: clients.iter().map(|client| client.as_fd()).collect(), ..LaunchFds::default() };
        let handle = self.program.spawn(request, &fds).unwrap();
        let placeholder = Started { pid: 0, start_ticks: 0, at_ns: 0, steps: Vec::new() };
        let mut container = Container { handle, started: placeholder, events: Vec::new(), next: LAUNCH_ID };
        match container.reply(LAUNCH_ID) {
            Reply::Started(started) => container.started = started,
            Reply::LaunchFailed(failure) => return Err(failure),
            other => panic!("{other:?} answers the launch"),
        }
        Ok(container)
    }

    pub fn launch(&self, request: &LaunchRequest) -> Container {
        self.launch_with(request, &[]).unwrap()
    }

    /// Runs a script to its end.
    pub fn run(&self, script: &str) -> Exit {
        let mut container = self.launch(&self.request(script));
        let exit = container.exit();
        container.acknowledge();
        exit
    }

    /// Another connection, as a restarted engine makes it, and what it is told.
    pub fn connect(&self) -> (Container, State) {
        let handle = Handle::connect(&self.socket()).unwrap();
        let started = Started { pid: 0, start_ticks: 0, at_ns: 0, steps: Vec::new() };
        let mut container = Container { handle, started, events: Vec::new(), next: LAUNCH_ID };
        let Reply::State(state) = container.reply(0) else { panic!("the first message is no state") };
        container.started = state.started.clone().unwrap();
        (container, *state)
    }

    /// The directories of this rig's control groups that exist.
    pub fn groups(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap();
        hierarchies.map(|entry| entry.unwrap().path().join(&self.name).join("c")).filter(|path| path.exists()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whatever a failed test has left.
        for group in self.groups() {
            let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if let Ok(system) = cgroup::System::detect() {
            let _ = cgroup::Group::open(&system, Path::new(&self.name)).remove();
        }
        for _ in 0..100 {
            if std::fs::remove_dir_all(&self.dir).is_ok() || !self.dir.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Container {
    /// Sends a request and answers its reply.
    pub fn ask(&mut self, request: Request) -> Reply {
        self.ask_with(request, &[])
    }

    pub fn ask_with(&mut self, request: Request, clients: &[&UnixStream]) -> Reply {
        self.next += 1;
        let fds: Vec<_> = clients.iter().map(|client| client.as_fd()).collect();
        self.handle.send(self.next, request, &fds).unwrap();
        self.reply(self.next)
    }

    /// Attaches a client and answers its other end.
    pub fn attach(&mut self, attach: Attach) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reply = self.ask_with(Request::Attach(attach), &[&theirs]);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        ours
    }

    /// Runs another process; answers its pid and the client's end of its streams.
    pub fn exec(&mut self, id: &str, args: &[&str], attach: Attach) -> (i32, UnixStream) {
        self.exec_request(exec_request(id, args, Some(attach)))
    }

    pub fn exec_request(&mut self, request: ExecRequest) -> (i32, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        match self.ask_with(Request::Exec(Box::new(request)), &[&theirs]) {
            Reply::ExecStarted { pid } => (pid, ours),
            other => panic!("{other:?} answers the exec"),
        }
    }

    /// Waits for the container's end.
    pub fn exit(&mut self) -> Exit {
        match self.event(|event| matches!(event, Event::Exited(_))) {
            Event::Exited(exit) => exit,
            _ => unreachable!(),
        }
    }

    /// Waits for an exec's end and answers its code.
    pub fn exec_exit(&mut self, id: &str) -> i32 {
        match self.event(|event| matches!(event, Event::ExecExited(exit) if exit.id == id)) {
            Event::ExecExited(exit) => exit.code,
            _ => unreachable!(),
        }
    }

    /// Waits for an event.
    pub fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        if let Some(index) = self.events.iter().position(&wanted) {
            return self.events.remove(index);
        }
        loop {
            match self.arrival() {
                Arrival::Event(event) if wanted(&event) => return event,
                Arrival::Event(event) => self.events.push(event),
                Arrival::Closed => panic!("the monitor is gone; so far: {:?}", self.events),
                _ => {}
            }
        }
    }

    /// Lets the monitor go and waits until it has.
    pub fn acknowledge(&mut self) {
        let reply = self.ask(Request::Ack);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        self.gone();
    }

    /// Waits until the monitor has ended.
    pub fn gone(&mut self) {
        while !matches!(self.arrival(), Arrival::Closed) {}
        let end = Instant::now() + PATIENCE;
        while !self.handle.reap() {
            assert!(Instant::now() < end, "the monitor does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn reply(&mut self, id: u64) -> Reply {
        loop {
            match self.arrival() {
                Arrival::Reply(number, reply) if number == id => return reply,
                Arrival::Event(event) => self.events.push(event),
                Arrival::Closed => panic!("the monitor is gone; so far: {:?}", self.events),
                _ => {}
            }
        }
    }

    fn arrival(&mut self) -> Arrival {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.handle.try_recv().unwrap() {
                Arrival::Empty => {}
                other => return other,
            }
            assert!(Instant::now() < end, "nothing came; so far: {:?}", self.events);
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&timeout));
        }
    }
}

/// An exec of these words.
pub fn exec_request(id: &str, args: &[&str], attach: Option<Attach>) -> ExecRequest {
    let process = json!({ "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } });
    ExecRequest {
        id: id.to_owned(),
        process: Box::new(serde_json::from_value(process).unwrap()),
        user: String::new(),
        additional_groups: Vec::new(),
        unconfined: false,
        attach,
    }
}

/// Reads from a client until `wanted` is seen.
pub fn read_until(client: &mut UnixStream, wanted: &str) -> String {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen);
        if text.contains(wanted) {
            return text.into_owned();
        }
        match client.read(&mut buffer) {
            Ok(0) => panic!("{wanted:?} is not in {text:?}"),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("{error}: {wanted:?} is not in {text:?}"),
        }
    }
}

/// Reads from a client until the end.
pub fn read_all(client: &mut UnixStream) -> Vec<u8> {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    seen
}

/// Writes and flushes.
pub fn type_in(client: &mut UnixStream, text: &[u8]) {
    client.write_all(text).unwrap();
}

/// Waits until something is true.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with('Z') && !after.starts_with('X'))
}

/// The mounts that mention `text`, in this process's namespace.
pub fn mounts_with(text: &str) -> usize {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().filter(|line| line.contains(text)).count()
}

/// Runs a host command and answers its output.
pub fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn spec(args: &[&str]) -> serde_json::Value {
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({ "type": kind, "source": source, "destination": destination, "options": options });
    let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "ociVersion": "1.2.0",
        "hostname": "rig",
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 },
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "mounts": [
            mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }],
            "maskedPaths": ["/proc/kcore"],
        },
    })
}
