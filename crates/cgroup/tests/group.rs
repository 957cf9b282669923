//! Groups on this machine, whichever version it has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cgroup::{Group, Limits, System};
use rustix::process::Pid;

/// A root of the test's own, removed in the end.
struct Root {
    system: System,
    name: PathBuf,
}

impl Root {
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: making control groups needs root");
            return None;
        }
        Some(Self { system: System::detect().unwrap(), name: format!("cais-cgroup-test-{}-{name}", std::process::id()).into() })
    }

    fn directories(&self, path: &Path) -> usize {
        self.system.hierarchies().iter().filter(|hierarchy| hierarchy.mount.join(path).exists()).count()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let group = Group::open(&self.system, &self.name);
        let _ = group.kill_all();
        let _ = group.remove();
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).unwrap()
}

#[test]
fn processes_join_a_group_of_any_depth_and_are_killed_with_it() {
    let Some(root) = Root::new("join") else { return };
    for depth in ["", "one", "two/three"] {
        let path = root.name.join(depth);
        let group = Group::create(&root.system, &path).unwrap();
        assert_eq!(root.directories(&path), root.system.hierarchies().len());
        let mut child = sleeper();
        group.join(pid(&child)).unwrap();
        assert!(group.pids().unwrap().contains(&pid(&child)));
        let above = Group::open(&root.system, &root.name);
        assert!(above.pids().unwrap().contains(&pid(&child)), "groups below count");
        group.kill_all().unwrap();
        child.wait().unwrap();
        assert!(group.pids().unwrap().is_empty());
        if !depth.is_empty() {
            group.remove().unwrap();
            assert_eq!(root.directories(&path), 0);
            group.remove().unwrap();
        }
    }
    Group::open(&root.system, &root.name).remove().unwrap();
    assert_eq!(root.directories(&root.name), 0);
}

#[test]
fn memory_limits_go_up_and_down() {
    let Some(root) = Root::new("memory") else { return };
    let group = Group::create(&root.system, &root.name.join("one")).unwrap();
    let swap = root.system.limits_swap(group.path());
    for mib in [64i64, 32, 128] {
        let limits = Limits { memory: Some(mib << 20), memory_swap: swap.then_some(mib << 20), ..Limits::default() };
        group.set(&limits).unwrap();
        assert_eq!(group.stats().unwrap().memory.limit, (mib as u64) << 20);
    }
    group.set(&Limits { memory: Some(-1), ..Limits::default() }).unwrap();
    assert_eq!(group.stats().unwrap().memory.limit, u64::MAX);
    let reserved = Limits {
        memory_reservation: Some(16 << 20),
        cpu_shares: Some(512),
        cpu_period: Some(50_000),
        cpu_quota: Some(25_000),
        ..Limits::default()
    };
    group.set(&reserved).unwrap();
    assert!(group.set(&Limits { cpuset_cpus: Some("0;rm".into()), ..Limits::default() }).is_err());
}

#[test]
fn a_path_cannot_leave_the_hierarchy() {
    let Some(root) = Root::new("path") else { return };
    let group = Group::open(&root.system, &Path::new("/../..").join(&root.name).join("../one"));
    assert_eq!(group.path(), root.name.join("one"));
}

#[test]
fn settings_that_few_machines_have_are_written_or_refused_by_name() {
    let Some(root) = Root::new("rare") else { return };
    let group = Group::create(&root.system, &root.name.join("one")).unwrap();
    let shown = |controller: &str, name: &str| {
        group.directory_of(controller).and_then(|folder| std::fs::read_to_string(folder.join(name)).ok()).map(|text| text.trim().to_owned())
    };
    // Either the kernel has it and shows what was written, or the error names what is missing.
    let check = |limits: Limits, controller: &str, name: &str, wanted: &str| match group.set(&limits) {
        Ok(()) => assert_eq!(shown(controller, name).as_deref(), Some(wanted), "{name}"),
        Err(error) => {
            assert!(matches!(error, cgroup::Error::NoSetting { .. } | cgroup::Error::NoController { .. }), "{name}: {error:?}");
            assert_ne!(shown(controller, name).as_deref(), Some(wanted), "{name}");
        }
    };
    check(Limits { memory_swappiness: Some(13), ..Limits::default() }, "memory", "memory.swappiness", "13");
    check(Limits { cpu_realtime_period: Some(500_000), ..Limits::default() }, "cpu", "cpu.rt_period_us", "500000");
    check(Limits { cpu_idle: Some(true), ..Limits::default() }, "cpu", "cpu.idle", "1");
    check(Limits { cpu_burst: Some(0), ..Limits::default() }, "cpu", "cpu.cfs_burst_us", "0");
    if !root.system.controller("memory").unwrap().unified {
        group.set(&Limits { oom_kill_disable: Some(true), ..Limits::default() }).unwrap();
        assert!(shown("memory", "memory.oom_control").unwrap().starts_with("oom_kill_disable 1"));
    }
    // What a process uses is counted from when it is in the group.
    let procs = group.directory_of("memory").unwrap().join("cgroup.procs");
    let script = format!("echo $$ > {} && x=$(head -c 300000 /dev/zero | tr '\\0' a) && echo ready && read forever", procs.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0u8; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let tight = Limits { memory: Some(4096), memory_check: true, ..Limits::default() };
    assert!(group.set(&tight).unwrap_err().to_string().contains("more is in use already"));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The device is the one that the root filesystem is on; where that is none with a queue of its own, there is nothing to throttle.
#[test]
fn reading_and_writing_are_throttled() {
    use std::os::unix::fs::MetadataExt;
    let Some(root) = Root::new("throttle") else { return };
    let device = std::fs::metadata("/").unwrap().dev();
    let (major, minor) = (u64::from(rustix::fs::major(device)), u64::from(rustix::fs::minor(device)));
    if !Path::new(&format!("/sys/dev/block/{major}:{minor}/queue")).exists() {
        println!("the root filesystem is on no device that could be throttled");
        return;
    }
    let group = Group::create(&root.system, &root.name.join("one")).unwrap();
    let rate = |value| vec![cgroup::BlockRate { major, minor, value }];
    let limits = Limits {
        blkio_read_bps: rate(1 << 20),
        blkio_write_bps: rate(2 << 20),
        blkio_read_iops: rate(300),
        blkio_write_iops: rate(400),
        ..Limits::default()
    };
    group.set(&limits).unwrap();
    match group.directory_of("blkio") {
        Some(folder) => {
            let shown =
                |name: &str| std::fs::read_to_string(folder.join(format!("blkio.throttle.{name}_device"))).unwrap().trim().to_owned();
            assert_eq!(shown("read_bps"), format!("{major}:{minor} 1048576"));
            assert_eq!(shown("write_iops"), format!("{major}:{minor} 400"));
        }
        None => {
            let shown = std::fs::read_to_string(group.directory_of("io").unwrap().join("io.max")).unwrap();
            assert_eq!(shown.trim(), format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=300 wiops=400"));
        }
    }
}

#[test]
fn huge_pages_are_limited_on_a_hybrid_machine_too() {
    let Some(root) = Root::new("huge") else { return };
    let group = Group::create(&root.system, &root.name.join("one")).unwrap();
    let limits = Limits { hugetlb: vec![("2MB".into(), 4 << 20)], ..Limits::default() };
    let Some(hierarchy) = root.system.controller("hugetlb").cloned() else {
        assert!(group.set(&limits).unwrap_err().to_string().contains("hugetlb controller is not available"));
        return;
    };
    let control = hierarchy.mount.join("cgroup.subtree_control");
    let before = std::fs::read_to_string(&control).unwrap_or_default();
    let outcome = group.set(&limits);
    let name = if hierarchy.unified { "hugetlb.2MB.max" } else { "hugetlb.2MB.limit_in_bytes" };
    let shown = std::fs::read_to_string(group.directory_of("hugetlb").unwrap().join(name));
    assert!(group.set(&Limits { hugetlb: vec![("3MB".into(), 0)], ..Limits::default() }).is_err());
    drop(root);
    if hierarchy.unified && !before.contains("hugetlb") {
        // As it was found; others may need it by now.
        let _ = std::fs::write(&control, "-hugetlb");
    }
    outcome.unwrap();
    assert_eq!(shown.unwrap().trim(), "4194304");
}
