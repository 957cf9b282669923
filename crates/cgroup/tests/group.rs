//! Groups on this machine, whichever version it has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

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
