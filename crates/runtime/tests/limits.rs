//! Limits really hold.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::time::Instant;

use common::{Bed, finish, sh, spec, usable, wait_until};
use runtime::oci;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

fn limited(mut spec: oci::Spec, change: impl FnOnce(&mut oci::Resources)) -> oci::Spec {
    change(spec.linux.resources.as_mut().unwrap());
    spec
}

#[test]
fn a_memory_hog_is_killed_and_noticed() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let bytes = Some(24 << 20);
    let swap = bed.system.limits_swap(std::path::Path::new("")).then_some(24 << 20);
    let spec = limited(spec(&["tail", "/dev/zero"]), |resources| {
        resources.memory = Some(oci::Memory { limit: bytes, swap, ..oci::Memory::default() });
    });
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let created = bed.create(&spec, &writer, |_| {}).unwrap();
    let watch = cgroup::OomWatch::new(created.group.as_ref().unwrap()).unwrap().unwrap();
    let running = created.start().unwrap();
    drop(writer);
    assert_eq!(finish(&running, reader).code, 137);
    let group = running.group.unwrap();
    assert!(watch.kills().unwrap() >= 1);
    watch.acknowledge();
    let stats = group.stats().unwrap();
    assert_eq!(stats.memory.limit, 24 << 20);
    assert!(stats.memory.oom_kills >= 1, "{:?}", stats.memory);
    group.remove().unwrap();
    assert!(group.pids().unwrap().is_empty());
}

#[test]
fn processes_are_counted() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = limited(sh("i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; true"), |resources| {
        resources.pids = Some(oci::Pids { limit: Some(10) })
    });
    let outcome = bed.run(&spec).unwrap();
    assert!(outcome.text.contains("can't fork"), "{}", outcome.text);
}

#[test]
fn two_busy_loops_get_their_quota() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = limited(sh("while :; do :; done & while :; do :; done"), |resources| {
        resources.cpu = Some(oci::Cpu { quota: Some(20_000), period: Some(100_000), shares: Some(512), ..oci::Cpu::default() });
    });
    let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let running = bed.start(&spec, &writer, |_| {}).unwrap();
    let group = running.group.as_ref().unwrap();
    let begin = Instant::now();
    let before = group.stats().unwrap().cpu.total_ns;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let used = group.stats().unwrap().cpu;
    let share = (used.total_ns - before) as f64 / begin.elapsed().as_nanos() as f64;
    assert!(share < 0.3, "{share}");
    // On a busy machine it may take a while until they get as much as their quota.
    wait_until("they are stopped", || group.stats().unwrap().cpu.throttling.throttled_periods > 0);

    group.set(&cgroup::Limits { cpu_quota: Some(-1), pids: Some(50), ..cgroup::Limits::default() }).unwrap();
    assert_eq!(group.stats().unwrap().pids.limit, Some(50));
    group.kill_all().unwrap();
    common::wait(&running);
    group.remove().unwrap();
}

#[test]
fn freezing_stops_and_thawing_goes_on() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let spec = sh("i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sleep 0.01; done");
    let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let running = bed.start(&spec, &writer, |_| {}).unwrap();
    let group = running.group.as_ref().unwrap();
    let file = format!("/proc/{}/root/tmp/n", running.pid.as_raw_nonzero());
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("it counts", || !read().is_empty());
    group.freeze().unwrap();
    assert!(group.is_frozen().unwrap());
    let stands = read();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(read(), stands);
    group.thaw().unwrap();
    wait_until("it goes on", || read() != stands);
    group.freeze().unwrap();
    group.kill_all().unwrap();
    assert_eq!(common::wait(&running), 128 + Signal::KILL.as_raw());
    group.remove().unwrap();
}

#[test]
fn cpus_are_chosen_and_wrong_limits_refused() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let chosen = limited(sh("grep Cpus_allowed_list /proc/self/status | cut -f2"), |resources| {
        resources.cpu = Some(oci::Cpu { cpus: "0".into(), mems: "0".into(), ..oci::Cpu::default() });
    });
    assert_eq!(bed.run(&chosen).unwrap().text, "0\n");
    let wrong = limited(sh("true"), |resources| {
        resources.unified.insert("../cgroup.procs".into(), "1".into());
    });
    assert!(bed.run(&wrong).is_err());
}

#[test]
fn devices_are_filtered() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let script = "rm -f /tmp/fuse; mknod /tmp/fuse c 10 229 && echo made; dd if=/tmp/fuse of=/dev/null count=0 2>&1; echo ok > /dev/null && echo null";
    let denied = bed.run(&sh(script)).unwrap().text;
    assert!(denied.contains("made") && denied.contains("Operation not permitted") && denied.contains("null"), "{denied}");
    let rule = oci::DeviceRule { allow: true, kind: "c".into(), major: Some(10), minor: Some(229), access: "r".into() };
    let allowed = bed.run(&limited(sh(script), |resources| resources.devices.push(rule))).unwrap().text;
    assert!(!allowed.contains("not permitted"), "{allowed}");
}

#[test]
fn descriptors_are_counted() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    // tail opens everything that it is given before it reads.
    let mut hog = sh("cd /tmp; i=0; while [ $i -lt 40 ]; do : > f$i; i=$((i+1)); done; tail -q f* 2>&1 | grep -c 'Too many open files'");
    common::process(&mut hog).rlimits = vec![oci::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 20, hard: 20 }];
    let refused: u32 = bed.run(&hog).unwrap().text.trim().parse().unwrap();
    assert!(refused > 0);
}
