//! Containers whose runtime is a program of the host (runc, crun), driven as a command.
//!
//! The monitor mounts the root in a mount namespace of its own, writes the bundle, and becomes the parent of what the program leaves behind. Everything
//! else (limits, freezing, statistics, the end) goes by the control group, as for every container.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Redirect};
use std::time::{Duration, Instant};

use kernel::fork::namespace;
use monitor::{ExternalRuntime, Failure, LaunchRequest, Root};
use runtime::oci;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::launch::{Ends, Given, failure, runtime_failure};

/// How long the program may take for one step: less than an engine waits for an answer.
const STEP_SECS_MAX: u64 = 20;
/// What is read of the program's own log.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// What runc 1.1 and crun 1.8 understand.
const OCI_VERSION: &str = "1.0.2";
const INIT_PATH: &str = "/dev/cais-init";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The runtime of a container.
#[derive(Debug)]
pub struct External {
    runtime: ExternalRuntime,
    id: String,
    steps: u32,
}

/// A program at work.
#[derive(Debug)]
pub struct Step {
    child: Child,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    files: Files,
    console: Option<UnixListener>,
}

/// A process that the program has started.
#[derive(Debug)]
pub struct Made {
    /// Its number.
    pub pid: Pid,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

#[derive(Debug)]
struct Files {
    log: PathBuf,
    pid: PathBuf,
    console: PathBuf,
    process: PathBuf,
}

impl External {
    /// Mounts the root and writes the bundle.
    pub fn prepare(request: &LaunchRequest, given: &Given, runtime: ExternalRuntime) -> Result<Self, Failure> {
        let io = |step: &'static str| move |error: std::io::Error| failure(step, &error);
        // What the program leaves behind when it ends becomes a child of this process.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|errno| io("adopt processes")(errno.into()))?;
        let rootfs = runtime.folder.join("rootfs");
        std::fs::create_dir_all(&rootfs).map_err(io("make the bundle"))?;
        let path = match &request.root {
            Root::Path(path) => path.clone(),
            Root::Overlay { lower, upper, work, .. } => {
                mount_root(lower, upper, work, &rootfs)?;
                rootfs
            }
        };
        let mut spec = (*request.spec).clone();
        adapt(&mut spec, request, given, &path)?;
        if request.init {
            add_init(&mut spec, &runtime.folder).map_err(io("copy init"))?;
        }
        let text = serde_json::to_vec(&spec).map_err(|error| failure("write the bundle", &error))?;
        std::fs::write(runtime.folder.join("config.json"), text).map_err(io("write the bundle"))?;
        Ok(Self { runtime, id: request.id.clone(), steps: 0 })
    }

    /// Makes the container, up to the point where its program would be executed.
    pub fn create(&mut self, ends: Option<&Ends>) -> Result<Made, Failure> {
        let files = self.files();
        let mut command = self.command(&files, "create");
        command.arg("--bundle").arg(&self.runtime.folder).arg("--pid-file").arg(&files.pid);
        let step = begin(command, files, &self.id, ends)?;
        let made = step.wait().and_then(Step::made);
        if made.is_err() {
            self.delete();
        }
        made
    }

    /// Lets its program run.
    pub fn start(&mut self) -> Result<(), Failure> {
        let files = self.files();
        let command = self.command(&files, "start");
        let started = begin(command, files, &self.id, Some(&nowhere()?)).and_then(|step| step.wait()?.succeeded());
        if started.is_err() {
            self.delete();
        }
        started
    }

    /// Begins to start another process.
    pub fn exec(&mut self, process: &oci::Process, ends: Option<&Ends>) -> Result<Step, Failure> {
        let files = self.files();
        let text = serde_json::to_vec(process).map_err(|error| failure("write the process", &error))?;
        std::fs::write(&files.process, text).map_err(|error| failure("write the process", &error))?;
        let mut command = self.command(&files, "exec");
        command.arg("--detach").arg("--process").arg(&files.process).arg("--pid-file").arg(&files.pid);
        begin(command, files, &self.id, ends)
    }

    /// Forgets the container, and what is left of it.
    pub fn delete(&mut self) {
        let files = self.files();
        let mut command = self.command(&files, "delete");
        command.arg("--force");
        // What it could not remove, the caller's own removal of the control group tells.
        let _ = nowhere().and_then(|ends| begin(command, files, &self.id, Some(&ends))).and_then(|step| step.wait()?.succeeded());
    }

    fn files(&mut self) -> Files {
        self.steps += 1;
        let name = |what: &str| self.runtime.folder.join(format!("{}.{what}", self.steps));
        Files { log: name("log"), pid: name("pid"), console: name("console"), process: name("process") }
    }

    fn command(&self, files: &Files, verb: &str) -> Command {
        let mut command = Command::new(&self.runtime.program);
        command.env_clear().env("PATH", PATH).current_dir(&self.runtime.folder);
        command.args(&self.runtime.arguments).arg("--root").arg(self.runtime.folder.join("state"));
        command.arg("--log").arg(&files.log).args(["--log-format", "json"]).arg(verb);
        command
    }
}

fn begin(mut command: Command, files: Files, id: &str, ends: Option<&Ends>) -> Result<Step, Failure> {
    let io = |error: std::io::Error| failure("run the runtime", &error);
    let console = match ends {
        Some(ends) => {
            let copy = |fd: &OwnedFd| fd.try_clone().map(Redirect::from).map_err(io);
            command.stdin(copy(&ends.stdin)?).stdout(copy(&ends.stdout)?).stderr(copy(&ends.stderr)?);
            None
        }
        None => {
            command.stdin(Redirect::null()).stdout(Redirect::null()).stderr(Redirect::null());
            // By its name alone, since a path may be too long: the bundle is the runtime's working directory.
            let listener = listen(&files.console).map_err(io)?;
            command.arg("--console-socket").args(files.console.file_name());
            Some(listener)
        }
    };
    let child = command.arg(id).spawn().map_err(|error| {
        let text = std::io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()));
        failure("run the runtime", &text)
    })?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()).ok_or_else(|| io(std::io::ErrorKind::InvalidData.into()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| io(errno.into()))?;
    Ok(Step { child, pidfd, files, console })
}

impl Step {
    /// Waits for its end.
    fn wait(self) -> Result<Self, Failure> {
        let end = Instant::now() + Duration::from_secs(STEP_SECS_MAX);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(1..) => return Ok(self),
                Ok(0) => {
                    self.kill();
                    let text = format!("it did not end within {STEP_SECS_MAX} s");
                    return Err(failure("run the runtime", &std::io::Error::new(std::io::ErrorKind::TimedOut, text)));
                }
                Err(_) => {}
            }
        }
    }

    /// Whether this is its process.
    pub fn is(&self, pid: i32) -> bool {
        self.child.id().try_into() == Ok(pid)
    }

    /// Ends it by force.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    /// The process that it has started, once it has ended.
    pub fn made(mut self) -> Result<Made, Failure> {
        self.finish()?;
        let io = |error: std::io::Error| failure("find what the runtime started", &error);
        let text = std::fs::read_to_string(&self.files.pid).map_err(io)?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| io(std::io::ErrorKind::InvalidData.into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| io(errno.into()))?;
        let terminal = self.console.as_ref().map(receive_terminal).transpose().map_err(io)?;
        Ok(Made { pid, pidfd, terminal })
    }

    fn succeeded(mut self) -> Result<(), Failure> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let status = self.child.wait().map_err(|error| failure("run the runtime", &error))?;
        if status.success() {
            return Ok(());
        }
        let reason = last_error(&self.files.log).unwrap_or_else(|| format!("the runtime ended with {status}"));
        Err(Failure { exit_code: exit_code(&reason), text: reason, ..failure("runtime", &std::io::Error::other("")) })
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let _ = self.child.try_wait();
        for path in [&self.files.pid, &self.files.console, &self.files.process, &self.files.log] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The overlay is seen by this process and the runtime alone, and goes with them.
fn mount_root(lower: &[PathBuf], upper: &Path, work: &Path, rootfs: &Path) -> Result<(), Failure> {
    let errno = |step: &'static str| move |errno: rustix::io::Errno| failure(step, &std::io::Error::from(errno));
    kernel::ns::unshare(namespace::MOUNT).map_err(errno("make a mount namespace"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(errno("keep mounts apart"))?;
    let overlay = runtime::detached_overlay(lower, upper, work).map_err(|error| runtime_failure(&error))?;
    move_mount(&overlay, "", CWD, rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(errno("mount the root"))
}

/// What another runtime has to be told: where the root is, the control group, the namespaces by path, the user by number.
fn adapt(spec: &mut oci::Spec, request: &LaunchRequest, given: &Given, rootfs: &Path) -> Result<(), Failure> {
    OCI_VERSION.clone_into(&mut spec.oci_version);
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    spec.root = Some(oci::Root { path: rootfs.to_owned(), readonly });
    spec.linux.cgroups_path = format!("/{}", request.cgroup);
    let own = std::process::id();
    for (kind, fd) in [("network", &given.net), ("ipc", &given.ipc), ("uts", &given.uts), ("pid", &given.pid)] {
        let Some(fd) = fd else { continue };
        let path = PathBuf::from(format!("/proc/{own}/fd/{}", fd.as_raw_fd()));
        spec.linux.namespaces.retain(|one| one.kind != kind);
        spec.linux.namespaces.push(oci::Namespace { kind: kind.to_owned(), path: Some(path) });
    }
    let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failure("open the root", &std::io::Error::from(errno)))?;
    if let Some(process) = &mut spec.process {
        resolve_user(process, &root, &request.user, &request.additional_groups)?;
    }
    Ok(())
}

/// Looks the user up in the container's own files.
pub fn resolve_user(process: &mut oci::Process, root: &OwnedFd, user: &str, groups: &[String]) -> Result<(), Failure> {
    let resolved = runtime::user::resolve(root.as_fd(), user, groups).map_err(|error| runtime_failure(&error))?;
    process.user.uid = resolved.uid;
    process.user.gid = resolved.gid;
    process.user.additional_gids = resolved.groups;
    if !process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        process.env.push(format!("HOME={}", resolved.home));
    }
    Ok(())
}

/// A copy of this program, which is the init too: never a file that the host executes.
fn add_init(spec: &mut oci::Spec, folder: &Path) -> std::io::Result<()> {
    let copy = folder.join("init");
    std::fs::copy("/proc/self/exe", &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o555))?;
    spec.mounts.push(oci::Mount {
        destination: INIT_PATH.into(),
        kind: "bind".to_owned(),
        source: copy.to_string_lossy().into_owned(),
        options: ["bind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec(),
        ..oci::Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    Ok(())
}

/// A path may be longer than a socket's address can hold: it is bound through a descriptor of its folder.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(std::io::ErrorKind::InvalidInput.into()) };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let listener = UnixListener::bind(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The terminal's master, which the runtime has sent before its end.
fn receive_terminal(listener: &UnixListener) -> std::io::Result<OwnedFd> {
    let stream: UnixStream = listener.accept()?.0;
    stream.set_nonblocking(true)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    rights.next().and_then(|mut fds| fds.next()).ok_or_else(|| std::io::Error::other("the runtime sent no terminal"))
}

/// The last error of the runtime's log, which is one JSON object a line.
fn last_error(log: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(log).ok()?.take(LOG_BYTES_MAX).read_to_string(&mut text).ok()?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line).ok());
    let mut errors = lines.filter(|line| line.get("level").is_some_and(|level| level == "error" || level == "fatal"));
    errors.next_back().and_then(|line| line.get("msg")?.as_str().map(str::to_owned))
}

/// Docker's exit code for what kept a program from being started.
fn exit_code(reason: &str) -> i32 {
    let any = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if !any(&["exec", "executable"]) {
        return runtime::error::EXIT_ENGINE;
    }
    if any(&["executable file not found", "no such file or directory", "not found in $PATH"]) {
        127
    } else if any(&["permission denied", "exec format error", "is a directory"]) {
        126
    } else {
        runtime::error::EXIT_ENGINE
    }
}

fn nowhere() -> Result<Ends, Failure> {
    let null = || super::null().map_err(|error| failure("open /dev/null", &error));
    Ok(Ends { stdin: null()?, stdout: null()?, stderr: null()? })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_the_runtime_says_becomes_an_exit_code() {
        assert_eq!(exit_code("unable to start container process: exec: \"x\": executable file not found in $PATH"), 127);
        assert_eq!(exit_code("exec: \"/etc\": permission denied"), 126);
        assert_eq!(exit_code("open executable: Permission denied: permission denied"), 126);
        assert_eq!(exit_code("cannot mount: no such file or directory"), runtime::error::EXIT_ENGINE);
    }

    #[test]
    fn the_last_error_counts() {
        let path = std::env::temp_dir().join(format!("monitor-log-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).expect("made");
        file.write_all(
            b"{\"level\":\"error\",\"msg\":\"one\"}\nnoise\n{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"two\"}\n",
        )
        .expect("written");
        let error = last_error(&path);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(error.as_deref(), Some("two"));
        assert_eq!(last_error(Path::new("/no/such")), None);
    }
}
