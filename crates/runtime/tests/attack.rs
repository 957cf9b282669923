//! What hostile images and commands must not get.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use common::{Bed, process, sh, spec, usable};
use runtime::oci;

/// The command line as a program of its own, built with the tests.
fn program() -> std::path::PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples/cais-runtime")
}

/// CVE-2019-5736: the runtime as entrypoint and as interpreter, opened for writing from inside.
#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    if !usable() {
        return;
    }
    if !program().exists() {
        eprintln!("SKIP: {} is not built", program().display());
        return;
    }
    let bed = Bed::new();
    // A copy, so that a hole would hurt nobody else.
    let own = bed.path.join("runtime");
    std::fs::copy(program(), &own).unwrap();
    let before = std::fs::read(&own).unwrap();
    bed.script("interpreted", "#!/proc/self/exe --version\n");
    symlink("/proc/self/exe", bed.path.join("lower/linked")).unwrap();
    for folder in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(bed.path.join("lower").join(folder)).unwrap();
    }
    for command in ["/proc/self/exe", "/linked", "/interpreted", "bash"] {
        // The last one looks for the runtime among the processes and writes to it.
        let mut spec = if command == "bash" {
            sh("for p in /proc/[0-9]* /proc/self; do echo pwned > $p/exe; cat < $p/exe > /stolen; echo pwned >> $p/exe; done; true")
        } else {
            spec(&[command, "--version"])
        };
        spec.root = Some(oci::Root { path: bed.path.join("lower"), readonly: false });
        spec.linux.cgroups_path = bed.name.clone() + "/attack";
        std::fs::write(bed.path.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        let output = Command::new(&own)
            .args(["--root", bed.path.join("state").to_str().unwrap(), "run", "-b", bed.path.to_str().unwrap(), "attack"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(std::fs::read(&own).unwrap(), before, "{command}: {output:?}");
    }
}

/// CVE-2024-21626: a descriptor of the host as working directory, or on the way to the command.
#[test]
fn no_descriptor_of_the_host_is_a_way_out() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // A directory of the host, open and not close-on-exec, as a careless caller would leave it.
    let leak = std::fs::File::open("/").unwrap();
    let leak = rustix::io::dup(&leak).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&leak);
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    symlink(format!("/proc/self/fd/{number}"), bed.path.join("lower/sneaky")).unwrap();
    let marker = bed.path.join("marker");
    std::fs::write(&marker, "the host's").unwrap();
    for number in (3..24).chain([number]) {
        let mut attack = sh(&format!("cat ./{0} ../../..{0}; true", marker.display()));
        process(&mut attack).cwd = format!("/proc/self/fd/{number}").into();
        if let Ok(outcome) = bed.run(&attack) {
            assert!(!outcome.text.contains("the host's"), "descriptor {number}: {}", outcome.text);
        }
        let through = format!("/proc/self/fd/{number}/{}", bed.path.join("lower/bin/busybox").strip_prefix("/").unwrap().display());
        assert!(bed.run(&spec(&[&through, "true"])).is_err(), "descriptor {number}");
    }
    let mut linked = sh("cat ./etc/shadow");
    process(&mut linked).cwd = "/sneaky".into();
    assert!(bed.run(&linked).is_err());
    let listed = bed.run(&sh("ls /proc/self/fd | wc -l")).unwrap();
    // 0, 1, 2 and the one of ls itself.
    assert_eq!(listed.text, "4\n");
}

/// CVE-2025-31133: /dev/null replaced, so that masking would bind something else. CVE-2019-19921 and -16884: /proc of the image a link or a mount.
#[test]
fn masks_cannot_be_redirected() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let host = bed.path.join("host");
    std::fs::create_dir_all(&host).unwrap();
    symlink("/proc/sysrq-trigger", host.join("null")).unwrap();
    let mount = |source: &std::path::Path, destination: &str| oci::Mount {
        destination: destination.into(),
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: vec!["rbind".into()],
        ..oci::Mount::default()
    };
    let mut spec = sh("echo running");
    spec.mounts = vec![mount(&host, "/dev"), spec.mounts[0].clone()];
    let error = bed.run(&spec).unwrap_err();
    assert!(error.to_string().contains("/dev/null"), "{error}");

    std::fs::write(host.join("file"), "x").unwrap();
    let mut spec = sh("echo running");
    spec.mounts.push(mount(&host.join("file"), "/dev/null"));
    let error = bed.run(&spec).unwrap_err();
    assert!(error.to_string().contains("not the null device"), "{error}");

    for destination in ["/proc/self/attr", "/proc/../proc/sys", "/proc/sysrq-trigger"] {
        let mut spec = sh("echo running");
        spec.mounts.push(mount(&host, destination));
        assert!(bed.run(&spec).unwrap_err().to_string().contains("inside /proc"), "{destination}");
    }
    let mut spec = sh("echo running");
    spec.mounts.push(mount(&host, "/proc"));
    assert!(bed.run(&spec).unwrap_err().to_string().contains("no proc filesystem"));

    let bed = Bed::new();
    std::fs::create_dir_all(bed.path.join("lower/elsewhere")).unwrap();
    symlink("elsewhere", bed.path.join("lower/proc")).unwrap();
    assert!(bed.run(&sh("echo running")).is_err());
}

/// Mount points and devices below links of the image stay inside.
#[test]
fn links_of_the_image_do_not_lead_out() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let outside = bed.path.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, bed.path.join("lower/link")).unwrap();
    symlink("../../../../../../../../../..", bed.path.join("lower/climb")).unwrap();
    let unique = &bed.name;
    let climb = format!("/climb/tmp/{unique}-climbed");
    let mut spec = sh(&format!("ls -d /link/volume /tmp/{unique}-climbed"));
    for destination in ["/link/volume", climb.as_str()] {
        spec.mounts.push(oci::Mount {
            destination: destination.into(),
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            ..oci::Mount::default()
        });
    }
    spec.linux.devices.push(oci::Device { path: "/link/device".into(), kind: "c".into(), major: 1, minor: 3, ..oci::Device::default() });
    let outcome = bed.run(&spec).unwrap();
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/tmp").join(format!("{unique}-climbed")).exists());
    // The lists of users are read inside too.
    std::fs::remove_file(bed.path.join("lower/etc/passwd")).unwrap();
    symlink("/../../../../../../etc/shadow", bed.path.join("lower/etc/passwd")).unwrap();
    assert!(bed.run_with(&sh("true"), |launch| launch.user = Some("daemon".into())).is_err());
}

/// CVE-2021-30465: another container swaps the mount point, in a folder that both have, for a link that leads out.
#[test]
fn mount_points_swapped_meanwhile_do_not_lead_out() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let (shared, outside) = (bed.path.join("shared"), bed.path.join("outside"));
    std::fs::create_dir_all(shared.join("point")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("untouched"), "").unwrap();
    symlink("/../../../../../../../../../../..", shared.join("up")).unwrap();
    symlink(&outside, shared.join("link")).unwrap();
    let (stop, swapped) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), shared.clone());
    let stopped = stop.clone();
    let swapper = std::thread::spawn(move || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for link in ["link", "up"] {
                let _ = renameat_with(CWD, swapped.join("point"), CWD, swapped.join(link), RenameFlags::EXCHANGE);
            }
        }
    });
    let mut spec = sh("touch /shared/point/inside; true");
    let mount = |source: &str, kind: &str, destination: &str| oci::Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: if kind == "bind" { vec!["rbind".into()] } else { Vec::new() },
        ..oci::Mount::default()
    };
    spec.mounts.push(mount(shared.to_str().unwrap(), "bind", "/shared"));
    spec.mounts.push(mount("tmpfs", "tmpfs", "/shared/point"));
    spec.mounts.push(mount("tmpfs", "tmpfs", "/shared/point/deeper/still"));
    for _ in 0..20 {
        // It may well fail; what counts is where it did not get to.
        let _ = bed.run(&spec);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    let names: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["untouched"]);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bed.name), "{mounts}");
}

/// CVE-2025-52881: what is written to /proc must not go to another /proc, or past one.
#[test]
fn sysctls_go_to_the_containers_own_proc_or_nowhere() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = sh("cat /proc/sys/net/ipv4/ip_default_ttl");
    spec.linux.sysctl.insert("net.ipv4.ip_default_ttl".into(), "77".into());
    assert_eq!(bed.run(&spec).unwrap().text, "77\n");
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    // The host's, bound over: a write would reach the host's mount.
    let proc = spec.mounts.iter_mut().find(|mount| mount.destination == std::path::Path::new("/proc")).unwrap();
    *proc = oci::Mount {
        destination: "/proc".into(),
        kind: "bind".into(),
        source: "/proc".into(),
        options: vec!["rbind".into()],
        ..oci::Mount::default()
    };
    assert!(bed.run(&spec).unwrap_err().to_string().contains("no proc filesystem"));
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), before);
}

/// CVE-2016-9962: a process that enters a container shows nothing of itself to those inside until it is one of them.
#[test]
fn who_enters_cannot_be_looked_into() {
    use std::os::fd::AsFd;
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // Root of the container takes hold of every descriptor, root and environment that it finds.
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; \
                  for f in $p/fd/* $p/root $p/cwd; do t=$(readlink $f) && case $t in *host-secret*) echo LEAK $t;; esac; done; done; done";
    let spec = sh(script);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let first = bed.start(&spec, &writer, |_| {}).unwrap();
    drop(writer);
    let secret = bed.path.join("host-secret");
    std::fs::create_dir_all(&secret).unwrap();
    let _held = std::fs::File::open(&secret).unwrap();
    let group = first.group.as_ref().unwrap();
    let target = runtime::ExecTarget { pid: first.pid, pidfd: first.pidfd.as_fd(), group: Some(group), spec: &spec, seccomp_program: None };
    let mut inner = spec.process.clone().unwrap();
    inner.args = vec!["true".into()];
    let null = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..20 {
        let stdio = runtime::Stdio::Fds { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
        let running = runtime::exec(&target, &inner, stdio, &runtime::Joining::default()).unwrap();
        assert_eq!(common::wait(&running), 0);
    }
    rustix::process::kill_process(first.pid, rustix::process::Signal::KILL).unwrap();
    let outcome = common::finish(&first, reader);
    assert!(!outcome.text.contains("LEAK"), "{}", outcome.text);
}
