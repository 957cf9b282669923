//! What a container may use beyond the everyday limits: devices, block I/O, real time, a control group of its choice.

use crate::both;
use crate::support::{code, has};
use anyhow::ensure;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use tests::sh::eventually;

/// Whether the machine's controllers are hierarchies of version 1.
fn version_1() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
}

/// The file of a setting inside a container.
fn setting(controller: &str, v1: &str, v2: &str) -> String {
    if version_1() { format!("/sys/fs/cgroup/{controller}/{v1}") } else { format!("/sys/fs/cgroup/{v2}") }
}

/// A whole disk of this machine, if it has one.
fn disk() -> Option<String> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten();
    let mut paths = disks.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()));
    paths.find(|path| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()))
}

both! {
    /// Rates of block I/O reach the kernel; what is not a block device is refused.
    fn block_io(walk) {
        let refused = walk.try_once(&["--device-read-bps", "/dev/null:1mb"], &["true"])?;
        ensure!(refused.code == 125, "{refused}");
        has(&refused.stderr, "/dev/null")?;
        if let Some(disk) = disk() {
            let (read, written) = (format!("{disk}:1mb"), format!("{disk}:100"));
            let flags = ["--device-read-bps", &read, "--device-write-iops", &written];
            if version_1() {
                let files = "cd /sys/fs/cgroup/blkio && cat blkio.throttle.read_bps_device blkio.throttle.write_iops_device";
                let shown = walk.once(&flags, &["sh", "-c", files])?;
                ensure!(shown.split_whitespace().skip(1).step_by(2).eq(["1048576", "100"]), "{shown}");
            } else {
                let shown = walk.once(&[&flags[..], &["--cgroupns", "private"]].concat(), &["cat", "/sys/fs/cgroup/io.max"])?;
                has(&shown, "rbps=1048576")?;
                has(&shown, "wiops=100")?;
            }
        }
    }

    /// `--device-cgroup-rule` opens a kind of device.
    fn device_rules(walk) {
        let open = ["sh", "-c", "mknod /dev/f c 10 229 && exec 3<>/dev/f && echo opened"];
        ensure!(walk.try_once(&[], &open)?.code != 0, "the device could be opened without a rule");
        ensure!(walk.once(&["--device-cgroup-rule", "c 10:229 rwm"], &open)? == "opened");
        ensure!(walk.once(&["--device-cgroup-rule", "c 10:* rw"], &open)? == "opened");
        let refused = walk.try_once(&["--device-cgroup-rule", "c 10 rw"], &["true"])?;
        code(&refused, 125)?;
    }

    /// A control group of one's choice; it goes with its last container.
    fn cgroup_parent(walk) {
        let parent = format!("/cais-quay-{}/inner", std::process::id());
        let name = walk.sleeper(&["--cgroup-parent", &parent])?;
        let pid = walk.inspect(&name, "{{.State.Pid}}")?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let expected = format!("{parent}/{}", walk.inspect(&name, "{{.Id}}")?);
        ensure!(groups.lines().any(|line| line.ends_with(&expected)), "{groups}");
        has(&walk.out(&["stats", "--no-stream", &name])?, "iB / ")?;
        has(&walk.out(&["top", &name])?, "sleep")?;
        walk.ok(&["stop", "-t", "0", &name])?;
        eventually("the parent is gone", 30, || (!tree_exists(&parent)).then_some(()))?;
        walk.ok(&["start", &name])?;
        walk.remove(&[&name])?;
        eventually("the parent is gone again", 30, || (!tree_exists(&parent)).then_some(()))?;
        let refused = walk.try_once(&["--cgroup-parent", "/../x"], &["true"])?;
        code(&refused, 125)?;
    }

    /// Swappiness, the killer, and kernel memory.
    fn memory_settings(walk) {
        if version_1() {
            let shown = walk.once(&["--memory-swappiness", "7"], &["cat", "/sys/fs/cgroup/memory/memory.swappiness"])?;
            ensure!(shown == "7", "{shown}");
            let flags = ["--oom-kill-disable", "-m", "64m"];
            has(&walk.once(&flags, &["cat", "/sys/fs/cgroup/memory/memory.oom_control"])?, "oom_kill_disable 1")?;
        } else {
            let done = walk.try_once(&["--memory-swappiness", "7"], &["true"])?;
            code(&done, 0)?;
            has(&done.stderr, "swappiness")?;
        }
        let warned = walk.try_once(&["--kernel-memory", "64m"], &["true"])?;
        code(&warned, 0)?;
        code(&walk.try_once(&["--memory-swappiness", "101"], &["true"])?, 125)?;
    }

    /// Processors by quota and period, at the start and in a running container.
    fn processors(walk) {
        let name = walk.sleeper(&["--cpu-quota", "25000", "--cpu-period", "50000", "--cpuset-mems", "0", "--cgroupns", "private"])?;
        let (quota, period) = (setting("cpu", "cpu.cfs_quota_us", "cpu.max"), setting("cpu", "cpu.cfs_period_us", "cpu.max"));
        let shown = |walk: &crate::support::Walk| walk.inside(&name, &format!("cat {quota} {period}"));
        let expected = |quota: &str, period: &str| if version_1() { format!("{quota}\n{period}") } else { format!("{quota} {period}\n{quota} {period}") };
        ensure!(shown(walk)? == expected("25000", "50000"), "{}", shown(walk)?);
        walk.ok(&["update", "--cpu-quota", "20000", "--memory-reservation", "16m", "-m", "64m", &name])?;
        ensure!(shown(walk)? == expected("20000", "50000"), "{}", shown(walk)?);
        ensure!(walk.inspect(&name, "{{.HostConfig.CpuQuota}} {{.HostConfig.MemoryReservation}}")? == "20000 16777216");
        let refused = walk.run(&["update", "--cpu-period", "5", &name])?;
        ensure!(refused.code != 0);
    }

    /// Real-time tasks where the kernel has groups of them, a clear word where not.
    fn real_time(walk) {
        let done = walk.try_once(&["--cpu-rt-runtime", "500"], &["cat", "/sys/fs/cgroup/cpu/cpu.rt_runtime_us"])?;
        if Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
            ensure!(done.code == 0 && done.text() == "500", "{done}");
        } else {
            code(&done, 125)?;
            has(&done.stderr, "real-time")?;
        }
        let refused = walk.try_once(&["--cpu-rt-runtime", "2000", "--cpu-rt-period", "1000"], &["true"])?;
        code(&refused, 125)?;
    }

    /// Paths of the system shown, groups writable, no shared memory, labels refused.
    fn rarer_privileges(walk) {
        let masked = ["sh", "-c", "grep -c ' /proc/sys ' /proc/mounts || true"];
        ensure!(walk.once(&[], &masked)? == "1");
        ensure!(walk.try_once(&["--security-opt", "systempaths=unconfined"], &masked)?.text() == "0");
        let make = format!("mkdir {}", setting("pids", "own", "own"));
        let own = ["--cgroupns", "private"];
        ensure!(walk.try_once(&own, &["sh", "-c", &make])?.code != 0, "control groups are writable without being asked");
        walk.once(&[&own[..], &["--security-opt", "writable-cgroups=true"]].concat(), &["sh", "-c", &make])?;
        let shared = walk.once(&["--ipc", "none"], &["sh", "-c", "grep -c ' /dev/shm ' /proc/mounts || true"])?;
        ensure!(shared == "0", "{shared}");
        let refused = walk.try_once(&["--security-opt", "label=type:x"], &["true"])?;
        code(&refused, 125)?;
        has(&refused.stderr, "SELinux")?;
    }
}

/// Whether the group is there in any hierarchy.
fn tree_exists(parent: &str) -> bool {
    let top = parent.trim_start_matches('/').split('/').next().unwrap_or_default();
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    roots.chain(["/sys/fs/cgroup".into()]).any(|root| root.join(top).exists())
}
