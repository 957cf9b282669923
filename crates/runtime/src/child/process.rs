//! The last steps before execve, the same for a container's first process and for an exec: limits, working directory, credentials, filter, program.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use kernel::caps::{self, Sets};
use kernel::fork::Strings;
use kernel::seccomp::Instruction;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, setrlimit};

use crate::error::ExecFailure;
use crate::listener::Listener;
use crate::plan::{ProcessPlan, Rlimit, Schedule, UserChoice, capability_names};
use crate::{Error, Result, path};

/// As whom the program runs.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) choice: UserChoice,
    /// For HOME, when the environment does not have it.
    pub(crate) home: String,
}

/// Everything that the last steps need.
pub(crate) struct Order<'a> {
    pub(crate) process: &'a ProcessPlan,
    pub(crate) credentials: &'a Credentials,
    pub(crate) program: Option<&'a [Instruction]>,
    pub(crate) init: Option<BorrowedFd<'a>>,
    pub(crate) preserve_fds: u32,
    pub(crate) die_with_caller: bool,
    pub(crate) in_user_namespace: bool,
    /// Whom the filter asks, and what is said to them.
    pub(crate) listener: Option<(&'a Listener, &'a [u8])>,
}

/// Where programs are looked for when the environment does not say.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The file mode creation mask that programs expect.
const UMASK_DEFAULT: u32 = 0o022;
/// The name under which an init appears in lists of processes.
const INIT_NAME: &CStr = c"/sbin/docker-init";

/// What can be done, and can fail, before the start is given.
pub(crate) fn prepare(process: &ProcessPlan) -> Result<()> {
    for limit in process.rlimits.iter().filter(|limit| !lowers_descriptors(limit)) {
        set_limit(limit)?;
    }
    if let Some(persona) = process.personality {
        kernel::fork::set_personality(persona).map_err(Error::step("set the execution domain"))?;
    }
    take_schedule(&process.schedule)?;
    change_directory(process)
}

fn take_schedule(schedule: &Schedule) -> Result<()> {
    if let Some(attributes) = &schedule.cpu {
        kernel::sched::set(attributes).map_err(Error::step("process.scheduler: set the scheduling policy"))?;
    }
    if let Some((class, level)) = schedule.io {
        kernel::sched::set_io_priority(class, level).map_err(Error::step("process.ioPriority: set the I/O priority"))?;
    }
    if let Some((mode, nodes)) = &schedule.memory {
        kernel::sched::set_memory_policy(*mode, nodes).map_err(Error::step("linux.memoryPolicy: set the memory policy"))?;
    }
    Ok(())
}

/// Chooses the CPUs that the calling process may run on; an empty list changes nothing.
pub(crate) fn choose_cpus(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for &cpu in cpus {
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(Error::field("process.execCPUAffinity", format!("{cpu} is more than {} CPUs", rustix::thread::CpuSet::MAX_CPU)));
        }
        set.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(Error::step(format!("process.execCPUAffinity: run on the CPUs {cpus:?}")))
}

/// Whether a limit could keep this process from opening what it still has to.
fn lowers_descriptors(limit: &Rlimit) -> bool {
    let now = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit.resource == Resource::Nofile && limit.soft.is_some_and(|soft| soft < now)
}

fn set_limit(limit: &Rlimit) -> Result<()> {
    let wanted = rustix::process::Rlimit { current: limit.soft, maximum: limit.hard };
    match setrlimit(limit.resource, wanted) {
        Err(Errno::PERM) => {
            let unlimited = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
            let now = unlimited(rustix::process::getrlimit(limit.resource).maximum);
            let kernel_max = if limit.resource == Resource::Nofile { " (or fs.nr_open)" } else { "" };
            let name = &limit.name;
            Err(Error::invalid(format!("{name} cannot be set to {}: this machine allows at most {now}{kernel_max}", unlimited(limit.hard))))
        }
        other => other.map_err(Error::step(format!("set {}", limit.name))),
    }
}

/// Enters the working directory. It is opened without the links of /proc, and must lie below the root: a directory of
/// the host that is still open somewhere must not become it (CVE-2024-21626).
fn change_directory(process: &ProcessPlan) -> Result<()> {
    let fail = || Error::step(format!("enter the working directory {}", process.cwd.display()));
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail())?;
    let directory = path::open_in(root.as_fd(), &process.cwd, OFlags::PATH | OFlags::DIRECTORY).map_err(fail())?;
    rustix::process::fchdir(&directory).map_err(fail())?;
    let here = rustix::process::getcwd(Vec::new()).map_err(fail())?;
    if here.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::invalid(format!("the working directory {} lies outside of the container", process.cwd.display())))
    }
}

/// Takes on the credentials and executes the program. Returns only on failure. `kept` are the descriptors over which a failure is reported.
pub(crate) fn become_program(order: &Order<'_>, kept: &[BorrowedFd<'_>]) -> Result<Infallible> {
    let process = order.process;
    let environment = Strings::new(environment(process, &order.credentials.home));
    let mut kept: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.extend(order.init.as_ref().map(AsRawFd::as_raw_fd));
    kept.extend(order.listener.map(|(listener, _)| listener.socket.as_raw_fd()));
    // A command like /proc/self/fd/7/bin/sh must not find a directory of the host behind 7.
    kernel::fork::close_all_but(3 + order.preserve_fds, &mut kept);
    if order.preserve_fds > 0 {
        kernel::fork::inherit(3, order.preserve_fds).map_err(Error::step("hand descriptors on"))?;
    }
    for limit in process.rlimits.iter().filter(|limit| lowers_descriptors(limit)) {
        set_limit(limit)?;
    }
    take_credentials(order)?;
    if order.die_with_caller {
        // After the change of user, which would take it back.
        let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        set.map_err(Error::step("tie the container to its monitor"))?;
    }
    let arguments = process.args.clone();
    match order.init {
        Some(init) => {
            let arguments = [INIT_NAME.to_owned(), c"--".to_owned()].into_iter().chain(arguments).collect();
            let failure = kernel::fork::execute_fd(init, &Strings::new(arguments), &environment);
            failure.map_err(|errno| Error::Exec { command: "init".into(), cause: ExecFailure::Errno(errno) })
        }
        None => execute(&Strings::new(arguments), &environment),
    }
}

fn environment(process: &ProcessPlan, home: &str) -> Vec<CString> {
    let mut variables = process.env.clone();
    if !variables.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
        variables.extend(CString::new(format!("HOME={home}")));
    }
    variables
}

/// Bounding set, filter, ids, capabilities. Without no_new_privs a filter needs CAP_SYS_ADMIN, so it is loaded while there is still everything.
fn take_credentials(order: &Order<'_>) -> Result<()> {
    let Order { process, credentials, .. } = order;
    let UserChoice { uid, gid, groups } = &credentials.choice;
    let wanted = process.capabilities;
    rustix::process::umask(Mode::from_raw_mode(process.umask.unwrap_or(UMASK_DEFAULT)));
    caps::limit_bounding(wanted.bounding).map_err(Error::step("limit the capabilities"))?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(Error::step("set no_new_privs"))?;
    } else {
        load_filter(order)?;
    }
    caps::keep_on_user_change(true).map_err(Error::step("keep capabilities"))?;
    caps::set_ids(*uid, *gid, Some(groups)).map_err(|errno| match errno {
        Errno::INVAL if order.in_user_namespace => {
            Error::invalid(format!("the user {uid}:{gid} has no id in the container's user namespace"))
        }
        errno => Error::step(format!("become the user {uid}:{gid}"))(errno),
    })?;
    // A user other than root has no capabilities after execve unless they are ambient, so that its effective set does not matter, as with Docker.
    let sets = Sets { effective: wanted.effective, permitted: wanted.permitted, inheritable: wanted.inheritable };
    caps::set(&sets).map_err(|errno| capability_failure(&sets, errno))?;
    // The kernel has no ambient capability that is not permitted and inheritable too; bundles in use list such ones.
    caps::set_ambient(wanted.ambient & wanted.permitted & wanted.inheritable).map_err(Error::step("set the ambient capabilities"))?;
    if process.no_new_privileges { load_filter(order) } else { Ok(()) }
}

fn load_filter(order: &Order<'_>) -> Result<()> {
    let Some(program) = order.program else { return Ok(()) };
    let (flags, fail) = (order.process.seccomp_flags.unwrap_or(0), Error::step("load the seccomp filter"));
    match order.listener {
        None => kernel::seccomp::load(program, flags).map_err(fail),
        Some((listener, message)) => {
            let descriptor = kernel::seccomp::load_with_listener(program, flags).map_err(fail)?;
            listener.send(message, descriptor.as_fd())
        }
    }
}

/// Names what this machine does not have to give.
fn capability_failure(sets: &Sets, errno: Errno) -> Error {
    let have = caps::current().map(|now| now.permitted).unwrap_or(u64::MAX);
    let missing = (sets.permitted | sets.effective | sets.inheritable) & !have;
    if errno == Errno::PERM && missing != 0 {
        return Error::invalid(format!("{} cannot be given: this machine does not have it", capability_names(missing)));
    }
    Error::step("set the capabilities")(errno)
}

/// Executes the first argument: by its path, or looked for in the folders of PATH.
fn execute(arguments: &Strings, environment: &Strings) -> Result<Infallible> {
    let Some(name) = arguments.as_slice().first().map(CString::as_c_str) else { return Err(Error::invalid("no command specified")) };
    let fail = |cause| Error::Exec { command: name.to_string_lossy().into_owned(), cause };
    if name.to_bytes().contains(&b'/') {
        return attempt(name, arguments, environment).map_err(fail);
    }
    let mut refused = None;
    for candidate in folders(environment.as_slice()).filter_map(|folder| candidate(folder, name)) {
        match attempt(&candidate, arguments, environment) {
            Ok(never) => match never {},
            Err(ExecFailure::Errno(Errno::NOENT | Errno::NOTDIR) | ExecFailure::Directory) if !exists(&candidate) => {}
            Err(ExecFailure::Directory) => {}
            Err(cause @ ExecFailure::Errno(Errno::ACCESS)) => refused = refused.or(Some(cause)),
            Err(cause) => return Err(fail(cause)),
        }
    }
    Err(fail(refused.unwrap_or(ExecFailure::NotInPath)))
}

/// Whether the command is there at all, by its path or in a folder of PATH; what it is shows when it is executed.
pub(crate) fn look_for(process: &ProcessPlan) -> Result<()> {
    let Some(name) = process.args.first().map(CString::as_c_str) else { return Ok(()) };
    let fail = |cause| Err(Error::Exec { command: name.to_string_lossy().into_owned(), cause });
    if name.to_bytes().contains(&b'/') {
        return match rustix::fs::stat(name) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => fail(ExecFailure::Errno(errno)),
            _ => Ok(()),
        };
    }
    let there = folders(&process.env).any(|folder| candidate(folder, name).is_some_and(|path| exists(&path)));
    if there { Ok(()) } else { fail(ExecFailure::NotInPath) }
}

/// The folders of PATH.
fn folders(environment: &[CString]) -> impl Iterator<Item = &[u8]> {
    let path = environment.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH=")).unwrap_or(PATH_DEFAULT.as_bytes());
    path.split(|byte| *byte == b':').map(|folder| if folder.is_empty() { b"." } else { folder })
}

fn candidate(folder: &[u8], name: &CStr) -> Option<CString> {
    CString::new([folder, b"/", name.to_bytes()].concat()).ok()
}

/// A script whose interpreter is missing gives ENOENT too, though the file is there.
fn exists(candidate: &CStr) -> bool {
    rustix::fs::stat(candidate).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory)
}

fn attempt(path: &CStr, arguments: &Strings, environment: &Strings) -> std::result::Result<Infallible, ExecFailure> {
    let failure = kernel::fork::execute(path, arguments, environment);
    failure.map_err(|errno| {
        let directory = errno == Errno::ACCESS
            && rustix::fs::stat(path)
                .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
        if directory { ExecFailure::Directory } else { ExecFailure::Errno(errno) }
    })
}
