//! What an engine may have left on the machine: mounts, processes, cgroups, links, nftables tables and files.

use crate::sh::{Cmd, which};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words by which the things of one engine are known.
#[derive(Clone, Debug)]
pub struct Mark {
    words: Vec<String>,
    own_folder: String,
}

impl Mark {
    /// Everything that names this folder.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_string_lossy().into_owned();
        Self { own_folder: format!("file {dir}"), words: vec![dir] }
    }

    /// Adds the name of the engine's cgroup root, and the digits in it that its bridge and table share.
    pub fn learn_cgroup(&mut self, engine: u32) {
        let groups = fs::read_to_string(format!("/proc/{engine}/cgroup")).unwrap_or_default();
        let roots = groups.split(['/', '\n']).filter(|part| part.starts_with("cais-"));
        for root in roots.map(str::to_owned).collect::<BTreeSet<_>>() {
            let digits = root.trim_start_matches("cais-").to_owned();
            for word in [root, digits] {
                if word.len() >= 6 && !self.words.contains(&word) {
                    self.words.push(word);
                }
            }
        }
    }

    fn names(&self, text: &str) -> bool {
        self.words.iter().any(|word| text.contains(word.as_str()))
    }
}

/// Everything on the machine that carries the mark, one line each; files below the engine's own folder aside.
#[must_use]
pub fn of(mark: &Mark) -> Vec<String> {
    Machine::look().lines().into_iter().filter(|line| mark.names(line) && *line != mark.own_folder).collect()
}

/// Ends, unmounts and deletes what [`of`] finds.
pub fn remove(mark: &Mark) {
    let machine = Machine::look();
    for (pid, what) in &machine.processes {
        if mark.names(what)
            && let Some(pid) = Pid::from_raw(*pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for mount in machine.mounts.iter().rev().filter(|mount| mark.names(mount)) {
        let _ = rustix::mount::unmount(mount.as_str(), rustix::mount::UnmountFlags::DETACH);
    }
    for link in machine.links.iter().filter(|link| mark.names(link)) {
        drop(Cmd::new("ip").args(["link", "del", link]).run());
    }
    for table in machine.tables.iter().filter(|table| mark.names(table)) {
        drop(Cmd::new("nft").args(["delete", "table"]).args(table.split(' ')).run());
    }
    for group in machine.cgroups.iter().filter(|group| mark.names(group)) {
        remove_group(Path::new(group));
    }
}

/// Ends every process whose command line names this folder.
pub fn kill_all_in(dir: &Path) {
    let dir = dir.to_string_lossy();
    for pid in processes().into_iter().filter(|(_, what)| what.contains(&*dir)).filter_map(|(pid, _)| Pid::from_raw(pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The kinds of things that an engine makes, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    mounts: Vec<String>,
    processes: Vec<(i32, String)>,
    cgroups: Vec<String>,
    links: Vec<String>,
    tables: Vec<String>,
    files: Vec<String>,
}

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn look() -> Self {
        Self { mounts: mounts(), processes: processes(), cgroups: cgroups(), links: links(), tables: tables(), files: files() }
    }

    /// What is here now and was not `before`, of the kinds that only Cais makes here: everything but foreign processes and files.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        let old: BTreeSet<_> = before.lines().into_iter().collect();
        let ours = |line: &String| !(line.starts_with("process ") || line.starts_with("cgroup ")) || line.contains("cais");
        self.lines().into_iter().filter(|line| !old.contains(line)).filter(ours).collect()
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |kind: &str, items: &[String]| lines.extend(items.iter().map(|item| format!("{kind} {item}")));
        add("mount", &self.mounts);
        add("cgroup", &self.cgroups);
        add("link", &self.links);
        add("table", &self.tables);
        add("file", &self.files);
        lines.extend(self.processes.iter().map(|(pid, what)| format!("process {pid} {what}")));
        lines
    }
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// Every process by its command line and its cgroups: a container's process names neither its engine nor its folder. This
/// process itself, its ancestors and kernel threads are left out.
fn processes() -> Vec<(i32, String)> {
    let mut found = Vec::new();
    let family = ancestors();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if family.contains(&pid) {
            continue;
        }
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.is_empty() {
            continue;
        }
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let group = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.contains("cais-")).unwrap_or_default();
        found.push((pid, format!("{}[{group}]", line.chars().take(300).collect::<String>())));
    }
    found
}

fn ancestors() -> BTreeSet<i32> {
    let mut family = BTreeSet::new();
    let mut pid = i32::try_from(std::process::id()).unwrap_or(0);
    while pid > 0 && family.insert(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    }
    family
}

/// Groups of ours in the root of each hierarchy, and their children.
fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(folders(Path::new("/sys/fs/cgroup")));
    for root in roots {
        for group in
            folders(&root).into_iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cais")))
        {
            found.extend(folders(&group).iter().map(|path| path.to_string_lossy().into_owned()));
            found.push(group.to_string_lossy().into_owned());
        }
    }
    found
}

fn remove_group(group: &Path) {
    for inner in folders(group) {
        remove_group(&inner);
    }
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for _ in 0..100 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn links() -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The tables of nftables, as `family name`.
fn tables() -> Vec<String> {
    if which("nft").is_none() {
        return Vec::new();
    }
    let listed = Cmd::new("nft").args(["list", "tables"]).run().map(|done| done.stdout).unwrap_or_default();
    listed.lines().filter_map(|line| line.strip_prefix("table ")).map(|table| table.trim().to_owned()).collect()
}

/// Entries of the temporary and run folders that carry our name.
fn files() -> Vec<String> {
    let dirs = [PathBuf::from("/run"), PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.path().to_string_lossy().into_owned());
    names.filter(|path| path.rsplit('/').next().is_some_and(|name| name.contains("cais"))).collect()
}
