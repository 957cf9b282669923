//! A command of a build: a container without a record, whose changes become a layer.

use std::os::fd::{AsFd, OwnedFd};

use build::{MountSource, Output, Ran, Step};
use jiff::Timestamp;
use monitor::{Arrival, Handle, LAUNCH_ID, LaunchFds, LaunchRequest, Reply, Request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use types::Id;
use types::container::{Config, HostConfig, NetworkingConfig, State};

use crate::container::{AttachStreams, Record};
use crate::mounts::{Planned, Source};
use crate::spec::Security;
use crate::{Engine, Error};

const SIGKILL: i32 = 9;
/// The name by which a step's container knows itself: the same each time, so that what it prints is.
const HOSTNAME: &str = "build";
const READ_LEN: usize = 64 << 10;
/// Each piece of output has a header: the stream's number and, in its last four bytes, the length.
const FRAME_HEADER_LEN: usize = 8;

/// The settings that all commands of a build share.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// Limits, network, hosts, shared memory.
    pub host: HostConfig,
}

impl Engine {
    /// Runs one command. Blocks.
    pub(super) fn run_step(&self, settings: &Settings, step: &Step<'_>, output: Output<'_>, cancel: &build::Cancel) -> Result<Ran, Error> {
        let record = step_record(settings, step, self.cgroups.mode() == cgroup::Mode::V2);
        let failed = |operation| move |source| Error::Store { operation, source };
        let id = record.id.to_string();
        self.store.create_snapshot_over(&id, step.layers, step.root).map_err(failed("prepare the step's files"))?;
        let mounted: Vec<String> = step.mounts.iter().map(|mount| mount.target.clone()).collect();
        let ended = self.run_recorded(&record, step, output, cancel);
        let ran = ended.and_then(|code| {
            let changes = match code {
                0 => Some(self.store.take_upper(&id, &mounted).map_err(failed("take the step's changes"))?),
                _ => None,
            };
            Ok(Ran { code, changes })
        });
        if let Err(error) = self.store.remove_snapshot(&id) {
            tracing::warn!(error = types::error::chain(&error), "the files of a build's step were not removed; the next start does");
        }
        ran
    }

    /// Runs it over a snapshot that is there. Answers the exit code once nothing of the container is left.
    fn run_recorded(&self, record: &Record, step: &Step<'_>, output: Output<'_>, cancel: &build::Cancel) -> Result<i32, Error> {
        let run = self.layout.run(&record.id);
        std::fs::create_dir_all(&run).map_err(|source| Error::File { operation: "make the run directory", path: run.clone(), source })?;
        let ended = self.launch_step(record, step).and_then(|launched| launched.watch(output, cancel));
        self.drop_cgroup_parent(record);
        let _ = std::fs::remove_dir_all(&run);
        ended
    }

    fn launch_step(&self, record: &Record, step: &Step<'_>) -> Result<Launched, Error> {
        self.provide_cgroup_parent(record)?;
        let cgroup = self.cgroup_path(record);
        let note = self.layout.cgroup_note(&record.id);
        std::fs::write(&note, cgroup.as_os_str().as_encoded_bytes()).map_err(|source| Error::File {
            operation: "write",
            path: note,
            source,
        })?;
        let network = self.prepare_network(record, None)?;
        let security = Security::parse(&record.host)?;
        let filter = security.filter(&self.seccomp)?;
        let mut spec = self.spec(record, &security, filter.as_ref())?;
        if let Some(process) = &mut spec.process {
            // What no image and no cache key knows.
            process.env.extend(step.hidden_env.iter().cloned());
        }
        let snapshot =
            self.store.snapshot(record.id.as_str()).map_err(|source| Error::Store { operation: "find the step's files", source })?;
        let exit_record = self.layout.exit_record(&record.id);
        let link = |source| Error::Link { name: record.name.clone(), source };
        monitor::exit_record::prepare(&exit_record).map_err(link)?;
        let socket = |errno: Errno| Error::Monitor { name: record.name.clone(), what: format!("cannot be listened to: {errno}") };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(socket)?;
        let request = LaunchRequest {
            id: record.id.to_string(),
            spec: Box::new(spec),
            root: monitor::Root::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                volatile: true,
                idmap: false,
            },
            cgroup: cgroup.to_string_lossy().into_owned(),
            user: record.config.user.clone(),
            additional_groups: Vec::new(),
            init: false,
            open_stdin: false,
            stdin_once: false,
            log: None,
            exit_record,
            runtime: None,
            socket: self.layout.monitor_socket(&record.id),
            attach: vec![AttachStreams { stdout: true, stderr: true, multiplexed: true, ..AttachStreams::default() }],
        };
        let fds = LaunchFds {
            net_namespace: network.netns.as_ref().map(AsFd::as_fd),
            seccomp: filter.as_ref().map(|filter| filter.program.as_fd()),
            clients: vec![theirs.as_fd()],
            ..LaunchFds::default()
        };
        let handle = self.monitors.spawn(&request, &fds).map_err(link)?;
        Ok(Launched { name: record.name.clone(), handle, output: Some(ours), frames: Frames::default(), _network: network })
    }
}

/// A command that runs.
struct Launched {
    name: String,
    handle: Handle,
    /// What it writes; nothing once that has ended.
    output: Option<OwnedFd>,
    frames: Frames,
    /// Given back when the command has ended.
    _network: crate::sandbox::Prepared,
}

impl Launched {
    /// Hands on what the command writes until it has ended and its monitor is gone.
    fn watch(mut self, output: Output<'_>, cancel: &build::Cancel) -> Result<i32, Error> {
        let broken = |error: Errno| Error::Monitor { name: "a step".to_owned(), what: format!("cannot be waited for: {error}") };
        let (woken, waker) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(broken)?;
        // Closing the other end wakes this thread.
        cancel.listen(move || drop(waker));
        let mut ended: Option<Result<i32, Error>> = None;
        let mut is_killed = false;
        while ended.is_none() || self.output.is_some() {
            let [is_told, is_written, is_woken] = self.wait(&woken, is_killed).map_err(broken)?;
            if is_woken && !is_killed {
                is_killed = true;
                self.kill();
            }
            if is_written {
                self.read(output);
            }
            if is_told && let Some(end) = self.receive()? {
                if end.is_err() {
                    self.output = None;
                }
                ended = Some(end);
            }
        }
        // The mounts go with the monitor, and the layer is free only then.
        let _ = self.handle.send(LAUNCH_ID + 2, Request::Ack, &[]);
        self.gone().map_err(broken)?;
        ended.unwrap_or_else(|| Err(self.lost()))
    }

    /// Waits until the monitor says something, the command writes, or the build is to stop.
    fn wait(&self, woken: &OwnedFd, is_killed: bool) -> Result<[bool; 3], Errno> {
        let mut polled = vec![PollFd::new(&self.handle, PollFlags::IN)];
        if let Some(output) = &self.output {
            polled.push(PollFd::new(output, PollFlags::IN));
        }
        if !is_killed {
            polled.push(PollFd::new(woken, PollFlags::IN));
        }
        loop {
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                waited => break waited.map(|_| ())?,
            }
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |is_there: bool| is_there && ready.next().unwrap_or(false);
        Ok([next(true), next(self.output.is_some()), next(!is_killed)])
    }

    fn kill(&self) {
        // The first process takes all others along. A monitor that does not take the request goes itself.
        if self.handle.send(LAUNCH_ID + 1, Request::Signal { signal: SIGKILL, exec: None }, &[]).is_err()
            && let Some(pidfd) = self.handle.pidfd()
        {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
    }

    fn read(&mut self, output: Output<'_>) {
        let Some(socket) = &self.output else { return };
        let mut bytes = vec![0; READ_LEN];
        match rustix::io::read(socket, bytes.as_mut_slice()) {
            Ok(0) => self.output = None,
            Ok(len) => self.frames.take(&bytes[..len], output),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.output = None,
        }
    }

    /// What the monitor says: the end, if it is that.
    fn receive(&mut self) -> Result<Option<Result<i32, Error>>, Error> {
        loop {
            let arrival = self.handle.try_recv().map_err(|source| Error::Link { name: self.name.clone(), source })?;
            match arrival {
                Arrival::Empty => return Ok(None),
                Arrival::Closed => return Ok(Some(Err(self.lost()))),
                Arrival::Event(monitor::Event::Exited(exit)) => return Ok(Some(Ok(exit.code))),
                Arrival::Reply(LAUNCH_ID, Reply::LaunchFailed(failure)) => {
                    return Ok(Some(Err(Error::Start { text: failure.text, exit_code: failure.exit_code })));
                }
                Arrival::Reply(LAUNCH_ID, Reply::Failed { text, .. }) => {
                    return Ok(Some(Err(Error::Monitor { name: self.name.clone(), what: text })));
                }
                Arrival::Reply(..) | Arrival::Event(_) | Arrival::Unknown(_) => {}
            }
        }
    }

    /// Waits for the monitor's process to end.
    fn gone(&self) -> Result<(), Errno> {
        let Some(pidfd) = self.handle.pidfd() else { return Ok(()) };
        while !self.handle.reap() {
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lost(&self) -> Error {
        Error::Monitor { name: self.name.clone(), what: "is gone".to_owned() }
    }
}

/// Output cut into its pieces again.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn take(&mut self, bytes: &[u8], output: Output<'_>) {
        self.0.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(header) = self.0.get(at..at + FRAME_HEADER_LEN) {
            let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let stream = header[0];
            let start = at + FRAME_HEADER_LEN;
            let Some(piece) = self.0.get(start..start + len) else { break };
            output(stream, piece);
            at = start + len;
        }
        self.0.drain(..at);
    }
}

/// What a step is, in the words of a container.
fn step_record(settings: &Settings, step: &Step<'_>, cgroup_v2: bool) -> Record {
    let exec = step.exec;
    let mut host = settings.host.clone();
    match exec.network {
        dockerfile::graph::NetworkMode::Default => {}
        dockerfile::graph::NetworkMode::Host => host.network_mode = "host".to_owned(),
        dockerfile::graph::NetworkMode::None => host.network_mode = "none".to_owned(),
    }
    host.privileged = exec.security == dockerfile::graph::SecurityMode::Insecure;
    host.auto_remove = true;
    host.fill_defaults(cgroup_v2);
    let id = Id::random();
    let planned_mounts = step.mounts.iter().map(planned).collect();
    let config = Config {
        hostname: HOSTNAME.to_owned(),
        env: exec.env.clone().into(),
        user: exec.user.clone(),
        working_dir: exec.cwd.clone(),
        ..Config::default()
    };
    let (path, args) = exec.args.split_first().map(|(path, args)| (path.clone(), args.to_vec())).unwrap_or_default();
    Record {
        name: format!("build-{}", id.short()),
        id,
        created: Timestamp::now(),
        image: String::new(),
        image_id: String::new(),
        platform: step.platform.os.clone(),
        path,
        args,
        config,
        host,
        networking: NetworkingConfig::default(),
        mounts: Vec::new(),
        planned_mounts,
        state: State::default(),
        exits: 0,
        networks: Default::default(),
        ports: Default::default(),
        endpoints: Vec::new(),
        sandbox_id: None,
        restart_count: 0,
        stopped_by_hand: false,
        removes_volumes: false,
        secrets: Default::default(),
        id_range: None,
    }
}

fn planned(mount: &build::StepMount) -> Planned {
    let source = match &mount.source {
        MountSource::Path(path) => Source::Bind { path: path.to_string_lossy().into_owned(), create: false, non_recursive: false },
        MountSource::Tmpfs(size) => {
            let size = size.map(|size| format!("size={size}"));
            Source::Tmpfs { options: ["nosuid".to_owned(), "nodev".to_owned()].into_iter().chain(size).collect() }
        }
    };
    Planned {
        destination: crate::mounts::clean(&mount.target),
        read_only: mount.read_only,
        source,
        propagation: String::new(),
        mode: String::new(),
        hidden: true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn output_is_cut_into_pieces_wherever_it_was_split() {
        let mut stream = Vec::new();
        for (number, text) in [(1u8, "one"), (2, "two"), (1, "")] {
            stream.extend_from_slice(&[number, 0, 0, 0]);
            stream.extend_from_slice(&(text.len() as u32).to_be_bytes());
            stream.extend_from_slice(text.as_bytes());
        }
        for cut in 0..stream.len() {
            let got = Mutex::new(Vec::new());
            let mut frames = Frames::default();
            let output = |stream: u8, bytes: &[u8]| got.lock().expect("locks").push((stream, bytes.to_vec()));
            frames.take(&stream[..cut], &output);
            frames.take(&stream[cut..], &output);
            assert_eq!(*got.lock().expect("locks"), [(1, b"one".to_vec()), (2, b"two".to_vec()), (1, Vec::new())]);
        }
    }
}
