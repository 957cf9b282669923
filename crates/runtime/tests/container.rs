//! Real containers: namespaces, mounts, credentials, exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::fd::AsFd;
use std::path::Path;

use common::{Bed, process, sh, spec, usable, wait};
use runtime::{Error, Launch, Namespaces, Root, Stdio, oci};
use rustix::pipe::{PipeFlags, pipe_with};
use types::{Classify, ErrorKind};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: destination.into(),
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: names(options),
        ..oci::Mount::default()
    }
}

#[test]
fn a_command_runs_and_its_code_comes_back() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run(&sh("echo hello; pwd; exit 7")).unwrap();
    assert_eq!((outcome.code, outcome.text.as_str()), (7, "hello\n/\n"));
}

#[test]
fn namespaces_are_its_own() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh(
        "for n in pid net ipc mnt uts cgroup time; do readlink /proc/self/ns/$n; done; hostname; echo $$; ls /sys/class/net; cat /proc/self/timens_offsets",
    );
    for kind in ["cgroup", "time"] {
        spec.linux.namespaces.push(oci::Namespace { kind: kind.into(), path: None });
    }
    spec.linux.time_offsets.insert("boottime".into(), oci::TimeOffset { secs: 86_400, nanosecs: 0 });
    let outcome = bed.run(&spec).unwrap();
    let lines: Vec<&str> = outcome.text.lines().collect();
    for (line, name) in lines.iter().zip(["pid", "net", "ipc", "mnt", "uts", "cgroup", "time"]) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(line.starts_with(name) && *line != host.to_str().unwrap(), "{name}: {line}");
    }
    assert_eq!(lines[7..10], ["box", "1", "lo"]);
    assert!(outcome.text.contains("86400"), "{}", outcome.text);
}

#[test]
fn namespaces_can_be_shared_and_joined() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let sleeper = spec(&["sleep", "60"]);
    let first = bed.start(&sleeper, &writer, |_| {}).unwrap();
    let pid = first.pid.as_raw_nonzero();
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_str().unwrap().to_owned();

    let other = Bed::new();
    let net = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let mut joining =
        sh("readlink /proc/self/ns/net; readlink /proc/self/ns/pid; ps | grep -c '[s]leep 60'; readlink /proc/self/ns/ipc; hostname");
    joining.hostname.clear();
    joining.linux.namespaces = ["pid", "mount"]
        .iter()
        .map(|kind| oci::Namespace { kind: (*kind).into(), path: (*kind == "pid").then(|| format!("/proc/{pid}/ns/pid").into()) })
        .collect();
    let outcome =
        other.run_with(&joining, |launch| launch.namespaces = Namespaces { net: Some(net.as_fd()), ..Namespaces::default() }).unwrap();
    let host_ipc = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    let host_name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(outcome.text.lines().collect::<Vec<_>>(), [&link("net"), &link("pid"), "1", host_ipc.to_str().unwrap(), &host_name]);
    rustix::process::kill_process(first.pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&first), 137);
}

#[test]
fn a_user_namespace_maps_ids() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // Its root needs to write where its ids are mapped to.
    for folder in ["", "bin", "etc", "tmp", "root"] {
        std::os::unix::fs::chown(bed.path.join("lower").join(folder), Some(200_000), Some(200_000)).unwrap();
    }
    let mut spec =
        sh("id -u; cat /proc/self/uid_map; echo ok > /tmp/x; ls -ln /dev/null | cut -c1-10; echo x > /dev/null && echo usable; hostname");
    spec.linux.namespaces.push(oci::Namespace { kind: "user".into(), path: None });
    let map = oci::IdMapping { container_id: 0, host_id: 200_000, size: 65_536 };
    (spec.linux.uid_mappings, spec.linux.gid_mappings) = (vec![map], vec![map]);
    for folder in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(bed.path.join("lower").join(folder)).unwrap();
    }
    // The copy of the layer that the container changes belongs to its own root.
    let outcome = bed.run_with(&spec, |launch| launch.root = Root::Path(bed.path.join("lower"))).unwrap();
    let text: Vec<String> = outcome.text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(text, ["0", "0 200000 65536", "crw-rw-rw-", "usable", "box"], "{}", outcome.text);
}

#[test]
fn proc_is_masked_and_protected() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed
        .run(&sh("cat /proc/keys /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware | grep -v : | wc -w; \
                  echo x > /proc/sys/kernel/domainname; mkdir /sys/x; touch /sys/fs/cgroup/x; echo end"))
        .unwrap();
    let lines: Vec<&str> = outcome.text.lines().collect();
    assert_eq!(lines[..2], ["0", "0"]);
    assert_eq!(lines.iter().filter(|line| line.contains("Read-only file system")).count(), 3, "{}", outcome.text);
}

#[test]
fn dev_is_its_own() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh(
        "ls /dev; echo x > /dev/full; stat -c %a /dev/null /dev/mine; head -c 3 /dev/zero | wc -c; mknod /dev/sneaky b 8 0 && cat /dev/sneaky; df -k /dev/shm | tail -1",
    );
    spec.linux.devices.push(oci::Device {
        path: "/dev/mine".into(),
        kind: "c".into(),
        major: 1,
        minor: 3,
        file_mode: Some(0o640),
        ..oci::Device::default()
    });
    let outcome = bed.run(&spec).unwrap();
    for expected in ["console", "sda", "vda"] {
        assert!(!outcome.text.lines().any(|line| line == expected), "{expected}: {}", outcome.text);
    }
    for expected in ["fd", "full", "mqueue", "null", "ptmx", "pts", "shm", "stdin", "tty", "666", "640", "3"] {
        assert!(outcome.text.lines().any(|line| line == expected), "{expected}: {}", outcome.text);
    }
    assert!(
        outcome.text.contains("No space left") && outcome.text.contains("Operation not permitted") && outcome.text.contains("65536"),
        "{}",
        outcome.text
    );
}

#[test]
fn read_only_root_tmpfs_and_binds() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let host = bed.path.join("host");
    std::fs::create_dir_all(host.join("below")).unwrap();
    std::fs::write(host.join("one"), "1\n").unwrap();
    let mut spec = sh(
        "touch /a; touch /tmp/b && df -k /tmp | tail -1; cat /data/one /deep/er/one; touch /data/new; touch /ro/new; stat -c %a /tmp; pwd",
    );
    spec.root = Some(oci::Root { readonly: true, ..oci::Root::default() });
    spec.mounts.push(oci::Mount {
        destination: "/tmp".into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: names(&["nosuid", "size=1024k", "mode=1777"]),
        ..oci::Mount::default()
    });
    spec.mounts.push(bind(&host, "/data", &["rbind", "rprivate"]));
    spec.mounts.push(bind(&host, "/ro", &["rbind", "ro", "rprivate"]));
    spec.mounts.push(bind(&host.join("one"), "/deep/er/one", &["rbind", "ro"]));
    process(&mut spec).cwd = "/made/on/the/way".into();
    let outcome = bed.run(&spec).unwrap();
    assert!(outcome.text.contains("touch: /a: Read-only") && outcome.text.contains("touch: /ro/new: Read-only"), "{}", outcome.text);
    assert!(
        outcome.text.contains("1\n1\n") && outcome.text.contains("1024") && outcome.text.ends_with("1777\n/made/on/the/way\n"),
        "{}",
        outcome.text
    );
    assert!(host.join("new").exists());
    spec.mounts.push(bind(&host.join("missing"), "/missing", &["rbind"]));
    let error = bed.run(&spec).unwrap_err();
    assert!(types::error::chain(&error).contains("missing: No such file"), "{}", types::error::chain(&error));
}

#[test]
fn mounts_spread_as_asked() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("grep -E ' /(private|slave|shared) ' /proc/self/mountinfo | sed 's/ - .*//'");
    for name in ["private", "slave", "shared"] {
        let host = bed.path.join(name);
        std::fs::create_dir_all(&host).unwrap();
        spec.mounts.push(bind(&host, &format!("/{name}"), &["rbind", &format!("r{name}")]));
    }
    let text = bed.run(&spec).unwrap().text;
    let line = |name: &str| text.lines().find(|line| line.contains(&format!(" /{name} "))).unwrap().to_owned();
    assert!(!line("private").contains("shared:") && !line("private").contains("master:"), "{text}");
    assert!(line("shared").contains("shared:"), "{text}");
}

#[test]
fn users_are_looked_up_inside() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = sh("id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status | cut -f2; echo x > /dev/stdout");
    let run = |user: &str, groups: &[&str]| {
        let groups = names(groups);
        bed.run_with(&spec, |launch| (launch.user, launch.additional_groups) = (Some(user.into()), groups))
            .map(|outcome| outcome.text.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(run("web", &[]).unwrap(), ["33", "34", "34 90", "/var/www", "0000000000000000", "x"]);
    assert_eq!(run("7:8", &["extra", "99"]).unwrap(), ["7", "8", "8 90 99", "/", "0000000000000000", "x"]);
    assert_eq!(run("0", &[]).unwrap(), ["0", "0", "0", "/root", "00000000a80425fb", "x"]);
    let error = run("nobody", &[]).unwrap_err();
    assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::InvalidInput, 125));
}

#[test]
fn capabilities_privileges_and_limits() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut dropped = sh("grep -E 'CapEff|CapBnd|NoNewPrivs|^Seccomp:' /proc/self/status | cut -f2; ulimit -n; ulimit -Hn; umask");
    let sets = process(&mut dropped).capabilities.as_mut().unwrap();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        *set = names(&["CAP_NET_ADMIN"]);
    }
    process(&mut dropped).no_new_privileges = true;
    process(&mut dropped).rlimits = vec![oci::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }];
    assert_eq!(bed.run(&dropped).unwrap().text, "0000000000001000\n0000000000001000\n1\n2\n100\n200\n0022\n");

    process(&mut dropped).rlimits[0].hard = 1 << 40;
    let error = bed.run(&dropped).unwrap_err();
    assert!(error.to_string().contains("RLIMIT_NOFILE cannot be set to 1099511627776"), "{error}");

    let own = runtime::default::own_capabilities();
    if let Some(missing) = (0..41).filter_map(runtime::plan::capability_name).find(|name| !own.contains(name)) {
        let mut asking = sh("true");
        process(&mut asking).capabilities.as_mut().unwrap().permitted.push(missing.clone());
        let error = bed.run(&asking).unwrap_err();
        assert_eq!(error.to_string(), format!("{missing} cannot be given: this machine does not have it"));
    }
}

#[test]
fn a_privileged_container_has_what_the_caller_has() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh(
        "grep -E 'CapEff|^Seccomp:' /proc/self/status | cut -f2; mkdir /sys/fs/cgroup/memory/x && rmdir /sys/fs/cgroup/memory/x && echo cgroups; mount -t tmpfs none /tmp && echo mounts; ls -d /dev/loop-control /dev/kmsg",
    );
    let own = runtime::default::own_capabilities();
    let sets = process(&mut spec).capabilities.as_mut().unwrap();
    (sets.bounding, sets.effective, sets.permitted) = (own.clone(), own.clone(), own);
    spec.mounts = runtime::default::mounts(64 << 20, true);
    spec.linux.seccomp = None;
    (spec.linux.masked_paths, spec.linux.readonly_paths) = (Vec::new(), Vec::new());
    spec.linux.devices = runtime::default::host_devices().unwrap();
    spec.linux.resources = Some(oci::Resources { devices: runtime::default::device_rules_privileged(), ..oci::Resources::default() });
    let text = bed.run(&spec).unwrap().text;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    assert!(text.starts_with(&format!("{bounding}\n0\n")), "{text}");
    for word in ["mounts", "/dev/kmsg"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    if cgroup::System::detect().unwrap().mode() != cgroup::Mode::V2 {
        assert!(text.contains("cgroups"), "{text}");
    }
}

#[test]
fn seccomp_denies_what_docker_denies() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("unshare -U true; unshare -m true; mount -t tmpfs none /tmp; grep '^Seccomp:' /proc/self/status | cut -f2");
    let denied = bed.run(&spec).unwrap().text;
    assert_eq!(denied.matches("Operation not permitted").count() + denied.matches("ermission denied").count(), 3, "{denied}");
    assert!(denied.ends_with("2\n"));
    spec.linux.seccomp = None;
    let open = bed.run(&spec).unwrap().text;
    assert!(open.ends_with("0\n") && open.matches("not permitted").count() < 3, "{open}");
}

#[test]
fn what_cannot_be_executed_is_told_apart() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    bed.file("not-executable", "#!/bin/sh\n");
    bed.script("no-interpreter", "#!/no/such/interpreter\n");
    bed.script("no-program", "plain text\n");
    let failure = |command: &str| {
        let error = bed.run(&spec(&[command])).unwrap_err();
        (error.exit_code(), types::error::chain(&error))
    };
    assert_eq!(failure("/no/such"), (127, "exec \"/no/such\": no such file or directory".into()));
    assert_eq!(failure("nosuch"), (127, "exec \"nosuch\": executable file not found in $PATH".into()));
    assert_eq!(failure("/not-executable"), (126, "exec \"/not-executable\": permission denied".into()));
    assert_eq!(failure("/tmp"), (126, "exec \"/tmp\": is a directory".into()));
    assert_eq!(failure("/no-interpreter").0, 127);
    assert_eq!(failure("/no-program"), (126, "exec \"/no-program\": exec format error".into()));
    assert_eq!(failure("bin/../no/such").0, 127);
    let error = bed.run(&spec(&[])).unwrap_err();
    assert_eq!(error.to_string(), "process.args: no command specified");
}

#[test]
fn a_failed_container_leaves_nothing() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let children = || std::fs::read_to_string(format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero())).unwrap();
    let mut wrong = spec(&["/no/such"]);
    assert!(bed.run(&wrong).is_err());
    wrong.linux.sysctl.insert("net.ipv4.no_such_thing".into(), "1".into());
    assert!(bed.run(&wrong).is_err());
    let mut limited = sh("true");
    limited.linux.resources.as_mut().unwrap().cpu = Some(oci::Cpu { cpus: "999".into(), ..oci::Cpu::default() });
    let error = bed.run(&limited).unwrap_err();
    assert!(matches!(error, Error::Cgroup(_)), "{error:?}");
    assert_eq!(children(), "");
    for hierarchy in bed.system.hierarchies() {
        assert!(!hierarchy.mount.join(bed.group()).exists());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bed.name));
}

#[test]
fn sysctls_of_its_own_namespaces_only() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax; cat /proc/sys/kernel/domainname");
    spec.domainname = "dom".into();
    spec.linux.sysctl.insert("net.ipv4.ip_default_ttl".into(), "77".into());
    spec.linux.sysctl.insert("kernel/msgmax".into(), "4096".into());
    assert_eq!(bed.run(&spec).unwrap().text, "77\n4096\ndom\n");
    spec.linux.sysctl.insert("vm.swappiness".into(), "1".into());
    assert!(bed.run(&spec).unwrap_err().to_string().contains("would change the host"));
}

#[test]
fn hooks_run_where_they_belong() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    bed.script("bin/inside", "#!/bin/sh\ncat > /inside-state\n");
    let log = bed.path.join("log");
    let hook = |name: &str| oci::Hook {
        path: "/bin/sh".into(),
        args: names(&["sh", "-c", &format!("(echo {name}; cat; echo) >> {}", log.display())]),
        ..oci::Hook::default()
    };
    let mut spec = sh("cat /inside-state");
    spec.hooks.prestart = vec![hook("prestart")];
    spec.hooks.create_runtime = vec![hook("createRuntime")];
    spec.hooks.create_container = vec![hook("createContainer")];
    spec.hooks.start_container = vec![oci::Hook { path: "/bin/inside".into(), env: names(&["PATH=/bin"]), ..oci::Hook::default() }];
    spec.hooks.poststart = vec![hook("poststart")];
    spec.hooks.poststop = vec![hook("poststop")];
    let outcome = bed.run(&spec).unwrap();
    assert!(outcome.text.contains("\"id\":\"test\""), "{}", outcome.text);
    assert!(runtime::launch::after_stop(&spec, "test", Path::new("/b")).is_empty());
    let text = std::fs::read_to_string(&log).unwrap();
    let stages: Vec<&str> = text.lines().filter(|line| !line.starts_with('{') && !line.is_empty()).collect();
    assert_eq!(stages, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]);

    spec.hooks.prestart =
        vec![oci::Hook { path: "/bin/sleep".into(), args: names(&["sleep", "30"]), timeout: Some(1), ..oci::Hook::default() }];
    let error = bed.run(&spec).unwrap_err();
    assert!(error.to_string().contains("did not end within 1 s"), "{error:?}");
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = sh("tty; stty size; ls -l /dev/console | cut -c1; cat /proc/sys/kernel/pty/nr >/dev/null; echo end");
    let launch = Launch::new("tty", &spec, bed.root(), Stdio::Tty { size: Some((40, 100)) });
    let mut created = runtime::create(&launch).unwrap();
    let master = created.tty_master.take().unwrap();
    let running = created.start().unwrap();
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    // The last close of the other end is an error here, not an end.
    while let Ok(count @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(String::from_utf8(text).unwrap().replace('\r', ""), "/dev/pts/0\n40 100\nc\nend\n");
    assert_eq!(wait(&running), 0);
}

#[test]
fn an_init_is_executed_from_its_descriptor() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // It is told its name by the first argument, and this one complains about a name that it does not know.
    let init = std::fs::File::open("/bin/busybox").unwrap();
    let spec = spec(&["/bin/sh", "-c", "exit 0"]);
    let outcome = bed.run_with(&spec, |launch| launch.init = Some(init.as_fd())).unwrap();
    assert_eq!((outcome.code, outcome.text.as_str()), (127, "docker-init: applet not found\n"));
}

#[test]
fn many_layers_are_stacked() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let layer = |number: usize| bed.path.join(format!("layer-{number}"));
    for number in 0..100 {
        std::fs::create_dir_all(layer(number)).unwrap();
        std::fs::write(layer(number).join("top"), number.to_string()).unwrap();
        std::fs::write(layer(number).join(format!("own-{number}")), "").unwrap();
    }
    let spec = sh("cat /top; ls -d /own-* | wc -l; mkdir /new");
    let outcome = bed
        .run_with(&spec, |launch| {
            let Root::Overlay { lower, .. } = &mut launch.root else { return };
            lower.splice(0..0, (0..100).map(layer));
        })
        .unwrap();
    assert_eq!(outcome.text, "0100\n");
    assert!(bed.path.join("upper/new").is_dir());
}
