//! Fields of the specification that few use, each seen from inside.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use common::{Bed, finish, process, sh, usable, wait};
use runtime::{ExecTarget, Joining, Stdio, oci};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};

#[test]
fn it_is_scheduled_as_asked() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // Field 41 of stat is the policy, 19 the nice value.
    let script = "set -- $(sed 's/.*) //' /proc/self/stat); shift 16; echo nice $1; shift 22; echo policy $1; ionice -p $$";
    let mut spec = sh(script);
    process(&mut spec).scheduler = Some(oci::Scheduler { policy: "SCHED_BATCH".into(), nice: 7, ..oci::Scheduler::default() });
    process(&mut spec).io_priority = Some(oci::IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 6 });
    spec.linux.memory_policy = Some(oci::MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "0".into(), ..oci::MemoryPolicy::default() });
    process(&mut spec).args[2].push_str("; head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2");
    assert_eq!(bed.run(&spec).unwrap().text, "nice 7\npolicy 3\nbest-effort: prio 6\nbind:0\n");

    let mut spec = sh("true");
    spec.linux.memory_policy = Some(oci::MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "1000".into(), ..oci::MemoryPolicy::default() });
    assert!(bed.run(&spec).unwrap_err().to_string().starts_with("linux.memoryPolicy: "));
}

#[test]
fn an_exec_runs_on_the_cpus_it_is_given() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = sh("sleep 60");
    let (_keep, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let first = bed.start(&spec, &writer, |_| {}).unwrap();
    let group = first.group.as_ref().unwrap();
    let target = ExecTarget { pid: first.pid, pidfd: first.pidfd.as_fd(), group: Some(group), spec: &spec, seccomp_program: None };
    let run = |affinity: oci::CpuAffinity| {
        let mut inner = spec.process.clone().unwrap();
        inner.args = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f 2"].map(str::to_owned).to_vec();
        inner.exec_cpu_affinity = Some(affinity);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let stdio = Stdio::Fds { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: writer.as_fd() };
        let running = runtime::exec(&target, &inner, stdio, &Joining::default()).map_err(|error| error.to_string())?;
        drop(writer);
        Ok::<_, String>(finish(&running, reader).text)
    };
    assert_eq!(run(oci::CpuAffinity { initial: "0-1".into(), last: "0".into() }).unwrap(), "0\n");
    assert_eq!(run(oci::CpuAffinity { initial: "0".into(), ..oci::CpuAffinity::default() }).unwrap(), "0\n");
    let error = run(oci::CpuAffinity { initial: "0-".into(), ..oci::CpuAffinity::default() }).unwrap_err();
    assert!(error.starts_with("process.execCPUAffinity.initial: "), "{error}");
    rustix::process::kill_process(first.pid, rustix::process::Signal::KILL).unwrap();
    wait(&first);
}

#[test]
fn clocks_are_set_off() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("cut -d. -f1 /proc/uptime");
    spec.linux.namespaces.push(oci::Namespace { kind: "time".into(), path: None });
    spec.linux.time_offsets.insert("boottime".into(), oci::TimeOffset { secs: 1_000_000, nanosecs: 0 });
    let uptime: u64 = bed.run(&spec).unwrap().text.trim().parse().unwrap();
    assert!((1_000_000..100_000_000).contains(&uptime), "{uptime}");
    spec.linux.namespaces.pop();
    assert!(bed.run(&spec).unwrap_err().to_string().starts_with("linux.timeOffsets: "));
}

#[test]
fn another_execution_domain() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("uname -m");
    spec.linux.personality = Some(oci::Personality { domain: "LINUX32".into(), flags: Vec::new() });
    assert_eq!(bed.run(&spec).unwrap().text, "i686\n");
    spec.linux.personality = Some(oci::Personality { domain: "LINUX".into(), flags: vec!["X".into()] });
    assert!(bed.run(&spec).unwrap_err().to_string().starts_with("linux.personality.flags: "));
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let data = bed.path.join("lower/data");
    std::fs::create_dir_all(data.join("in/ner")).unwrap();
    std::fs::write(data.join("in/file"), "text").unwrap();
    std::os::unix::fs::symlink("in/file", data.join("link")).unwrap();
    std::os::unix::fs::chown(data.join("in/file"), Some(33), Some(34)).unwrap();
    std::os::unix::fs::chown(&data, Some(5), Some(6)).unwrap();
    let mut spec =
        sh("stat -c '%u:%g %a' /data /data/in/file; cat /data/link; ls /data/in; echo more > /data/in/file; stat -f -c %T /data");
    spec.mounts.push(oci::Mount {
        destination: "/data".into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["tmpcopyup".into(), "nosuid".into(), "size=1m".into()],
        ..oci::Mount::default()
    });
    assert_eq!(bed.run(&spec).unwrap().text, "5:6 755\n33:34 644\ntextfile\nner\ntmpfs\n");
    assert_eq!(std::fs::read_to_string(data.join("in/file")).unwrap(), "text");
    assert!(!bed.path.join("upper/data").exists(), "nothing was written through");
    std::fs::write(data.join("large"), vec![1u8; 2 << 20]).unwrap();
    assert!(bed.run(&spec).unwrap_err().to_string().contains("copy what it covers"));
    spec.mounts.last_mut().unwrap().kind = "proc".into();
    assert!(bed.run(&spec).unwrap_err().to_string().contains("].options: "));
}

/// Calls of one kind are answered by somebody outside: here with an error of their choice.
#[test]
fn a_filter_asks_whoever_listens() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let path = bed.path.join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let mut spec = sh("mkdir /asked; echo $?; test -d /tmp && echo unasked");
    spec.annotations.insert("who".into(), "test".into());
    let seccomp = spec.linux.seccomp.as_mut().unwrap();
    seccomp.listener_path = path.to_str().unwrap().into();
    seccomp.listener_metadata = "some words".into();
    seccomp.flags = vec!["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".into()];
    let asked =
        oci::Syscalls { names: vec!["mkdir".into(), "mkdirat".into()], action: "SCMP_ACT_NOTIFY".into(), ..oci::Syscalls::default() };
    seccomp.syscalls.insert(0, asked);
    // The descriptor goes over before the program runs, and the program waits for an answer: so answers come from a thread.
    let agent = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0u8; 8192];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        let mut descriptor: Option<OwnedFd> = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptor = fds.last();
            }
        }
        (serde_json::from_slice::<serde_json::Value>(&bytes[..received]).unwrap(), descriptor.unwrap())
    });
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let running = bed.start(&spec, &writer, |_| {}).unwrap();
    drop(writer);
    let (said, descriptor) = agent.join().unwrap();
    assert_eq!(said["fds"][0], "seccompFd");
    assert_eq!((&said["metadata"], &said["state"]["annotations"]["who"]), (&"some words".into(), &"test".into()));
    assert_eq!(said["pid"], running.pid.as_raw_nonzero().get());
    assert_eq!(said["state"]["pid"], said["pid"]);
    // Nobody answers any more: the kernel refuses what was to be asked about, and lets the rest through.
    let kinds = rustix::fs::readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor)), Vec::new()).unwrap();
    assert_eq!(kinds.to_str().unwrap(), "anon_inode:seccomp notify");
    drop(descriptor);
    let outcome = finish(&running, reader);
    assert!(outcome.text.contains("Function not implemented") && outcome.text.ends_with("unasked\n"), "{}", outcome.text);
    running.group.unwrap().remove().unwrap();
}

#[test]
fn a_listener_that_makes_no_sense_is_refused() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let refused = |change: &dyn Fn(&mut oci::Seccomp)| {
        let mut spec = sh("true");
        change(spec.linux.seccomp.as_mut().unwrap());
        bed.run(&spec).unwrap_err().to_string()
    };
    let asks = |names: &[&str]| oci::Syscalls {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: "SCMP_ACT_NOTIFY".into(),
        ..oci::Syscalls::default()
    };
    assert!(refused(&|profile| profile.syscalls.push(asks(&["mkdir"]))).starts_with("linux.seccomp.listenerPath: it is missing"));
    assert!(refused(&|profile| profile.listener_path = "/x".into()).starts_with("linux.seccomp.listenerPath: it is given, but"));
    assert!(refused(&|profile| profile.default_action = "SCMP_ACT_NOTIFY".into()).starts_with("linux.seccomp.defaultAction: "));
    assert!(refused(&|profile| profile.syscalls.push(asks(&["sendmsg"]))).contains("cannot be the action for sendmsg"));
    let nobody = refused(&|profile| {
        profile.syscalls.insert(0, asks(&["mkdir"]));
        profile.listener_path = "/no/such/socket".into();
    });
    assert!(nobody.contains("connect to /no/such/socket"), "{nobody}");
    assert!(refused(&|profile| profile.flags.push("SECCOMP_FILTER_FLAG_ODD".into())).starts_with("linux.seccomp.flags[0]: "));
    assert!(refused(&|profile| profile.syscalls[0].errno_ret = Some(0x1_0001)).contains("errnoRet 65537 is out of range"));
}

/// What the kernel does with a call, by each action that can be told apart from inside.
#[test]
fn actions_do_what_they_say() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let with = |action: &str, errno: Option<u32>| {
        let mut spec = sh("mkdir /denied; echo code $?");
        let entry = oci::Syscalls {
            names: vec!["mkdir".into(), "mkdirat".into()],
            action: action.into(),
            errno_ret: errno,
            ..oci::Syscalls::default()
        };
        spec.linux.seccomp.as_mut().unwrap().syscalls.insert(0, entry);
        bed.run(&spec).unwrap().text
    };
    assert!(with("SCMP_ACT_ERRNO", None).contains("Operation not permitted"));
    assert!(with("SCMP_ACT_ERRNO", Some(28)).contains("No space left on device"));
    // 128 + SIGSYS.
    assert!(with("SCMP_ACT_KILL_PROCESS", None).contains("code 159"));
    assert!(with("SCMP_ACT_KILL", None).contains("code 159"));
    assert!(with("SCMP_ACT_TRAP", None).contains("code 159"));
    // Nobody traces.
    assert!(with("SCMP_ACT_TRACE", Some(1)).contains("Function not implemented"));
    std::fs::remove_dir_all(bed.path.join("upper/denied")).ok();
    assert_eq!(with("SCMP_ACT_LOG", None), "code 0\n");
    std::fs::remove_dir_all(bed.path.join("upper/denied")).unwrap();
    assert_eq!(with("SCMP_ACT_ALLOW", None), "code 0\n");
}

/// In order, with the state on standard input, nothing of the runtime's environment, and an end to their patience.
#[test]
fn hooks_run_in_order_and_are_told_the_state() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let log = bed.path.join("log");
    let hook = |words: &str| oci::Hook {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), format!("read -r state; echo {words} \"$state\" >> {}", log.display())],
        env: vec!["NAME=value".into()],
        timeout: None,
    };
    let mut spec = sh("true");
    spec.hooks.prestart = vec![hook("one $NAME $HOME"), hook("two")];
    spec.hooks.create_runtime = vec![hook("three")];
    spec.hooks.poststart = vec![hook("four")];
    spec.hooks.poststop = vec![hook("five")];
    bed.run(&spec).unwrap();
    assert!(runtime::launch::after_stop(&spec, "test", &bed.path).is_empty());
    let mut text = String::new();
    std::fs::File::open(&log).unwrap().read_to_string(&mut text).unwrap();
    let lines: Vec<(&str, serde_json::Value)> = text
        .lines()
        .map(|line| {
            let (words, state) = line.split_once('{').unwrap();
            (words.trim(), serde_json::from_str(&format!("{{{state}")).unwrap())
        })
        .collect();
    let words: Vec<&str> = lines.iter().map(|(words, _)| *words).collect();
    assert_eq!(words, ["one value", "two", "three", "four", "five"]);
    let status: Vec<&str> = lines.iter().map(|(_, state)| state["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["creating", "creating", "creating", "running", "stopped"]);
    assert!(lines.iter().all(|(_, state)| state["id"] == "test" && state["ociVersion"] == "1.3.0"));
    assert!(lines[0].1["pid"].as_i64().unwrap() > 1);

    let mut patient = sh("true");
    patient.hooks.create_runtime =
        vec![oci::Hook { path: "/bin/sleep".into(), args: vec!["sleep".into(), "60".into()], timeout: Some(1), ..oci::Hook::default() }];
    assert!(bed.run(&patient).unwrap_err().to_string().contains("did not end within 1 s"));
    patient.hooks.create_runtime[0].timeout = Some(0);
    assert!(bed.run(&patient).unwrap_err().to_string().starts_with("hooks.createRuntime[0].timeout: "));
    patient.hooks.create_runtime[0] = oci::Hook { path: "sleep".into(), ..oci::Hook::default() };
    assert!(bed.run(&patient).unwrap_err().to_string().starts_with("hooks.createRuntime[0].path: "));
}
