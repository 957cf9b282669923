//! Further processes in a running container.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{Bed, Outcome, finish, sh, spec, usable, wait};
use runtime::{Error, ExecTarget, Joining, Running, Stdio, oci};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

struct Host {
    bed: Bed,
    spec: oci::Spec,
    running: Running,
}

impl Host {
    fn new(change: impl FnOnce(&mut oci::Spec)) -> Self {
        let bed = Bed::new();
        let mut spec = spec(&["sleep", "60"]);
        change(&mut spec);
        let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let running = bed.start(&spec, &writer, |_| {}).unwrap();
        Self { bed, spec, running }
    }

    fn target(&self) -> ExecTarget<'_> {
        ExecTarget {
            pid: self.running.pid,
            pidfd: self.running.pidfd.as_fd(),
            group: self.running.group.as_ref(),
            spec: &self.spec,
            seccomp_program: None,
        }
    }

    fn exec(&self, process: &oci::Process, joining: &Joining) -> Result<Outcome, Error> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let stdio = Stdio::Fds { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: writer.as_fd() };
        let running = runtime::exec(&self.target(), process, stdio, joining)?;
        drop(writer);
        Ok(finish(&running, reader))
    }

    fn sh(&self, script: &str) -> oci::Process {
        sh(script).process.unwrap()
    }

    fn end(self) {
        rustix::process::kill_process(self.running.pid, Signal::KILL).unwrap();
        assert_eq!(wait(&self.running), 137);
        self.running.group.unwrap().remove().unwrap();
        drop(self.bed);
    }
}

#[test]
fn it_is_in_the_container_in_every_way() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    let script = "for n in pid net ipc mnt uts cgroup; do readlink /proc/self/ns/$n; done; hostname; cat /proc/self/cgroup; \
                  grep -E 'CapEff|^Seccomp:' /proc/self/status | cut -f2; ps | grep -c '[s]leep'; cat /proc/timer_list | wc -c; exit 6";
    let outcome = host.exec(&host.sh(script), &Joining::default()).unwrap();
    assert_eq!(outcome.code, 6);
    let lines: Vec<&str> = outcome.text.lines().collect();
    let pid = host.running.pid.as_raw_nonzero();
    for (line, name) in lines.iter().zip(["pid", "net", "ipc", "mnt", "uts", "cgroup"]) {
        assert_eq!(*line, std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_str().unwrap());
    }
    assert_eq!(lines[6], "box");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(outcome.text.contains(&groups), "{groups} {}", outcome.text);
    assert!(outcome.text.ends_with("00000000a80425fb\n2\n1\n0\n"), "{}", outcome.text);
    host.end();
}

#[test]
fn user_directory_environment_and_privileges() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    let mut process = host.sh("id -u; id -G; pwd; echo $Q $HOME; grep -E '^Seccomp:' /proc/self/status | cut -f2");
    process.cwd = "/tmp".into();
    process.env.push("Q=1".into());
    let joining = Joining { user: Some("web".into()), unconfined: true, ..Joining::default() };
    assert_eq!(host.exec(&process, &joining).unwrap().text, "33\n34 90\n/tmp\n1 /var/www\n0\n");
    process.cwd = "/no/such".into();
    assert!(host.exec(&process, &joining).is_err());
    process.cwd = "/proc/self/fd/3".into();
    assert!(host.exec(&process, &joining).is_err(), "CVE-2024-21626");
    let unknown = Joining { user: Some("nobody".into()), ..Joining::default() };
    assert!(matches!(host.exec(&host.sh("true"), &unknown), Err(Error::UnknownUser { .. })));
    host.end();
}

#[test]
fn failures_are_told_apart_and_leave_nothing() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    let code = |command: &str| host.exec(&spec(&[command]).process.unwrap(), &Joining::default()).unwrap_err().exit_code();
    assert_eq!((code("/no/such"), code("nosuch"), code("/tmp"), code("/etc/passwd")), (127, 127, 126, 126));
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero())).unwrap();
    assert_eq!(children.split_whitespace().collect::<Vec<_>>(), [host.running.pid.as_raw_nonzero().to_string()]);
    host.end();
}

#[test]
fn a_terminal_comes_from_the_container() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    let process = host.sh("tty; stty size; exit 3");
    let running = runtime::exec(&host.target(), &process, Stdio::Tty { size: Some((24, 80)) }, &Joining::default()).unwrap();
    let master = running.tty_master.as_ref().unwrap();
    let mut text = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(count @ 1..) = rustix::io::read(master, &mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(String::from_utf8(text).unwrap(), "/dev/pts/0\r\n24 80\r\n");
    assert_eq!(wait(&running), 3);
    host.end();
}

#[test]
fn a_user_namespace_is_entered_too() {
    if !usable() {
        return;
    }
    let host = Host::new(|spec| {
        spec.linux.namespaces.push(oci::Namespace { kind: "user".into(), path: None });
        let map = oci::IdMapping { container_id: 0, host_id: 0, size: 1000 };
        (spec.linux.uid_mappings, spec.linux.gid_mappings) = (vec![map], vec![map]);
    });
    let outcome = host.exec(&host.sh("cat /proc/self/uid_map; id -u"), &Joining::default()).unwrap();
    assert_eq!(outcome.text.split_whitespace().collect::<Vec<_>>(), ["0", "0", "1000", "0"]);
    host.end();
}

#[test]
fn an_ended_container_cannot_be_entered() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    rustix::process::kill_process(host.running.pid, Signal::KILL).unwrap();
    common::wait_until("it is dead", || {
        std::fs::read_to_string(format!("/proc/{}/stat", host.running.pid.as_raw_nonzero())).unwrap().contains(") Z")
    });
    assert!(matches!(host.exec(&host.sh("true"), &Joining::default()), Err(Error::NotRunning)));
    wait(&host.running);
    host.running.group.as_ref().unwrap().remove().unwrap();
}

#[test]
fn it_is_quick() {
    if !usable() {
        return;
    }
    let host = Host::new(|_| {});
    let process = spec(&["true"]).process.unwrap();
    let best = (0..20)
        .map(|_| {
            let begin = Instant::now();
            host.exec(&process, &Joining::default()).unwrap();
            begin.elapsed()
        })
        .min()
        .unwrap();
    println!("exec true: best {best:?}");
    // Far above what it takes, for machines that are busy and programs that are not optimised.
    assert!(best < Duration::from_millis(250), "{best:?}");
    host.end();
}
