//! One group in every hierarchy: make, join, limit, signal, remove.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::{Error, Limits, Result, Stats, System, file, freeze, limits, stats};

/// How long [`Group::remove`] and [`Group::kill_all`] wait for processes that are about to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);
/// How deep groups that a container made itself are looked into.
const DEPTH_MAX: usize = 64;

/// The group at one path below every usable hierarchy.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
    members: Vec<Member>,
}

/// The group in one hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) directory: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) unified: bool,
    named: bool,
}

impl Group {
    /// Makes the group at `path` (`ROOT/ID`, as many levels as wanted) in every hierarchy. What is missing above it is made too and stays. An existing
    /// group is taken as it is. Hierarchies without controllers are used where that is possible.
    ///
    /// # Errors
    /// [`Error::Create`] with the directory; groups made by this call are removed then.
    pub fn create(system: &System, path: &Path) -> Result<Self> {
        let mut group = Self::open(system, path);
        let hybrid = group.members.iter().any(|member| !member.unified);
        let mut made = Vec::with_capacity(group.members.len());
        for member in &group.members {
            match make(member, &group.path, hybrid) {
                Ok(()) => made.push(member.clone()),
                Err(_) if member.named || (member.unified && hybrid) => {}
                Err(error) => {
                    group.members = made;
                    // The first failure is what the caller needs to hear.
                    let _ = group.remove();
                    return Err(error);
                }
            }
        }
        group.members = made;
        Ok(group)
    }

    /// A group that exists already, or did. Nothing is checked.
    pub fn open(system: &System, path: &Path) -> Self {
        let path = file::below(path);
        let member = |hierarchy: &crate::Hierarchy| Member {
            directory: hierarchy.mount.join(&path),
            controllers: hierarchy.controllers.clone(),
            unified: hierarchy.unified,
            named: hierarchy.is_named(),
        };
        Self { members: system.hierarchies().iter().map(member).collect(), path }
    }

    /// The path below each hierarchy's mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group's directory in the hierarchy of `controller`; `""` means the version 2 hierarchy.
    pub fn directory_of(&self, controller: &str) -> Option<&Path> {
        self.member(controller).map(|member| member.directory.as_path())
    }

    /// The group's directory in the version 2 hierarchy (hybrid machines have one too), for CLONE_INTO_CGROUP.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn directory(&self) -> Result<Option<OwnedFd>> {
        let Some(member) = self.member("") else { return Ok(None) };
        rustix::fs::open(&member.directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(Some)
            .map_err(|source| Error::Join { path: member.directory.clone(), source })
    }

    /// Moves the calling process, which must have one thread, into the group in every version 1 hierarchy, and with `unified` in the version 2 one too.
    ///
    /// # Errors
    /// [`Error::Join`] with the directory.
    pub fn join_self(&self, unified: bool) -> Result<()> {
        // Writing to `tasks` moves one thread without the global lock and the grace period that `cgroup.procs` costs.
        self.enter("0", "tasks", unified)
    }

    /// Moves another process with all its threads.
    ///
    /// # Errors
    /// [`Error::Join`] with the directory.
    pub fn join(&self, pid: Pid) -> Result<()> {
        self.enter(&pid.as_raw_nonzero().to_string(), "cgroup.procs", true)
    }

    /// Sets limits, on a new group or while processes run in it.
    ///
    /// # Errors
    /// The limit that could not be set; those before it are in force.
    pub fn set(&self, limits: &Limits) -> Result<()> {
        limits::apply(self, limits)
    }

    /// Stops every process of the group until [`Self::thaw`]. Returns when all of them stand.
    ///
    /// # Errors
    /// [`Error::Timeout`] when a process does not stop (it waits for a device, say); the group is thawed again then.
    pub fn freeze(&self) -> Result<()> {
        freeze::freeze(self)
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// The file that could not be written.
    pub fn thaw(&self) -> Result<()> {
        freeze::thaw(self)
    }

    /// Whether the group is frozen.
    ///
    /// # Errors
    /// The file that could not be read.
    pub fn is_frozen(&self) -> Result<bool> {
        freeze::is_frozen(self)
    }

    /// The processes of the group and of the groups below it, in this process's pid namespace. Empty when the group is gone.
    ///
    /// # Errors
    /// A list that could not be read.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let Some(member) = self.principal() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        for directory in descendants(&member.directory) {
            let path = directory.join("cgroup.procs");
            match file::try_read(&path) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?))),
                Err(Errno::NOENT | Errno::NODEV) => {}
                // A threaded group of version 2: its processes are listed at the root of its threaded domain.
                Err(Errno::OPNOTSUPP) => {}
                Err(source) => return Err(Error::Read { path, source }),
            }
        }
        pids.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        pids.dedup();
        Ok(pids)
    }

    /// Sends `signal` to every process of the group.
    ///
    /// # Errors
    /// The list of processes cannot be read.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            // A process that has ended meanwhile needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
        Ok(())
    }

    /// Kills every process of the group and of the groups below it, frozen ones too, and waits until they are gone or wait to be reaped.
    ///
    /// # Errors
    /// [`Error::Timeout`] when some do not end (they wait for a device, say).
    pub fn kill_all(&self) -> Result<()> {
        if let Some(member) = self.member("") {
            // Linux 5.14 and later kills a whole tree at once; older ones have no such file.
            let _ = file::try_write(&member.directory.join("cgroup.kill"), "1");
        }
        let end = Instant::now() + GONE_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        loop {
            let alive: Vec<Pid> = self.pids()?.into_iter().filter(|&pid| !is_zombie(pid)).collect();
            if alive.is_empty() {
                return Ok(());
            }
            for &pid in &alive {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            // On version 1 a frozen process dies only when it is thawed.
            let _ = self.thaw();
            if Instant::now() > end {
                return Err(Error::Timeout { path: self.principal_directory(), what: "end" });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the group and the groups below it, and waits a little for processes that are about to be gone. What is not there is no error.
    ///
    /// # Errors
    /// [`Error::Remove`] for the first directory that stays (EBUSY: processes live in it); all others are removed.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + GONE_TIMEOUT;
        let mut first = Ok(());
        for member in &self.members {
            let result = remove_tree(&member.directory, end);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }

    /// What the group uses.
    ///
    /// # Errors
    /// A file that exists and cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(self)
    }

    /// The member in the hierarchy of `controller`; `""` means the version 2 hierarchy.
    pub(crate) fn member(&self, controller: &str) -> Option<&Member> {
        self.members.iter().find(|member| match controller {
            "" => member.unified,
            _ => member.controllers.iter().any(|name| name == controller),
        })
    }

    /// Hybrid machines: makes a version 2 controller reach this group. The levels above are not expected to hand it on before something asks for it.
    pub(crate) fn hand_down(&self, member: &Member, controller: &str) -> Result<()> {
        let levels = self.path.components().count();
        let above: Vec<&Path> = member.directory.ancestors().skip(1).take(levels).collect();
        above.iter().rev().try_for_each(|directory| file::write(&directory.join("cgroup.subtree_control"), &format!("+{controller}")))
    }

    pub(crate) fn principal_directory(&self) -> PathBuf {
        self.principal().map(|member| member.directory.clone()).unwrap_or_default()
    }

    /// The member whose list of processes counts: the container's own groups are most probably below this one.
    fn principal(&self) -> Option<&Member> {
        ["pids", "memory", "freezer", "cpu", ""].iter().find_map(|name| self.member(name)).or(self.members.first())
    }

    fn enter(&self, pid: &str, file_v1: &str, unified: bool) -> Result<()> {
        for member in self.members.iter().filter(|member| unified || !member.unified) {
            let name = if member.unified { "cgroup.procs" } else { file_v1 };
            file::try_write(&member.directory.join(name), pid).map_err(|source| Error::Join { path: member.directory.clone(), source })?;
        }
        Ok(())
    }
}

/// Makes the directories of one hierarchy, from the top down, each ready for children with the same controllers.
fn make(member: &Member, path: &Path, hybrid: bool) -> Result<()> {
    let cpuset = !member.unified && member.controllers.iter().any(|name| name == "cpuset");
    let missing = match mkdir(&member.directory) {
        Ok(true) if cpuset => return inherit_cpuset(&member.directory),
        Ok(_) if !member.unified || hybrid => return Ok(()),
        Ok(_) => false,
        Err(Errno::NOENT) => true,
        Err(source) => return Err(Error::Create { path: member.directory.clone(), source }),
    };
    let levels: Vec<&Path> = path.ancestors().filter(|level| !level.as_os_str().is_empty()).collect();
    let mount = member.directory.ancestors().nth(levels.len()).unwrap_or(&member.directory);
    for level in levels.iter().rev() {
        let directory = mount.join(level);
        if member.unified && !hybrid {
            hand_on_controllers(&directory)?;
        }
        if missing {
            let new = mkdir(&directory).map_err(|source| Error::Create { path: directory.clone(), source })?;
            if new && cpuset {
                inherit_cpuset(&directory)?;
            }
        }
    }
    Ok(())
}

/// Whether the directory is new.
fn mkdir(directory: &Path) -> std::result::Result<bool, Errno> {
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A new cpuset of version 1 is empty, and no process can join it, unless its parent hands its own on: as this one does then.
fn inherit_cpuset(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let empty = |name: &str| Ok(file::read(&directory.join(name))?.trim().is_empty());
    if !empty("cpuset.cpus")? && !empty("cpuset.mems")? {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        file::write(&directory.join(name), file::read(&parent.join(name))?.trim())?;
    }
    file::write(&directory.join("cgroup.clone_children"), "1")
}

/// Version 2: a group has the controllers that its parent hands on.
fn hand_on_controllers(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let offered = file::read(&parent.join("cgroup.controllers"))?;
    let control = parent.join("cgroup.subtree_control");
    let given = file::read(&control)?;
    let missing: Vec<String> = offered
        .split_whitespace()
        .filter(|name| !given.split_whitespace().any(|have| have == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || file::try_write(&control, &missing.join(" ")).is_ok() {
        return Ok(());
    }
    // One that cannot be handed on now (cpu with real-time processes, say) must not keep the others back; a limit that needs it says so.
    let results: Vec<Result<()>> = missing.iter().map(|name| file::write(&control, name)).collect();
    if results.iter().any(Result::is_ok) { Ok(()) } else { results.into_iter().next().unwrap_or(Ok(())) }
}

/// `directory` and every group below it, parents first.
pub(crate) fn descendants(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    let depth = directory.components().count();
    while let Some(current) = found.get(next).cloned() {
        next += 1;
        if current.components().count() < depth + DEPTH_MAX {
            found.extend(children(&current));
        }
    }
    found
}

fn children(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // A directory without subdirectories has two links on version 1 and version 2 alike; most groups are such.
    match rustix::fs::stat(directory) {
        Ok(stat) if stat.st_nlink <= 2 => return Vec::new(),
        Ok(_) => {}
        Err(_) => return Vec::new(),
    }
    let Ok(open) = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return Vec::new();
    };
    let Ok(entries) = Dir::new(open) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type() == FileType::Directory && !matches!(entry.file_name().to_bytes(), b"." | b".."))
        .map(|entry| directory.join(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())))
        .collect()
}

fn remove_tree(directory: &Path, end: Instant) -> Result<()> {
    match rustix::fs::unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        Err(_) => {}
    }
    let mut first = Ok(());
    for child in descendants(directory).iter().rev() {
        let mut pause = Duration::from_micros(500);
        let result = loop {
            match rustix::fs::unlinkat(CWD, child, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => break Ok(()),
                Err(Errno::BUSY) if Instant::now() < end => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(source) => break Err(Error::Remove { path: child.clone(), source }),
            }
        };
        if first.is_ok() {
            first = result;
        }
    }
    first
}

/// A process that has ended and waits for its parent keeps its place in the list.
fn is_zombie(pid: Pid) -> bool {
    match file::try_read(Path::new(&format!("/proc/{}/stat", pid.as_raw_nonzero()))) {
        // The name in parentheses may contain anything, so the state is looked for after the last one.
        Ok(text) => text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(errno) => errno == Errno::NOENT || errno == Errno::SRCH,
    }
}
