//! The monitor's program: one thread, one loop, one container.
//!
//! Everything that can happen is a descriptor in one epoll set; after each round the timers are looked at and the streams are settled. Nothing
//! in the loop waits for anybody: engines and clients have bounded queues and are dropped when they do not read.

mod client;
mod container;
mod end;
mod engines;
mod exec;
mod external;
mod launch;
mod log;
mod poll;
mod process;
mod requests;
mod streams;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use monitor::{CONTROL_FD, Event, LISTEN_FD};

use client::Client;
use container::Container;
use engines::Engines;
use exec::Pending;
use log::{LogWriter, Stream};
use poll::{Poll, Ready, Token};
use process::Process;

/// After this time without anything to do, buffers go back to the kernel.
const TIDY_MS: u64 = 1_000;

/// Runs the monitor on the descriptors that the engine started it with. Returns the process's exit code.
pub fn run() -> i32 {
    let _ = rustix::thread::set_name(c"cais-monitor");
    // The engine's working directory is not this process's to keep busy.
    let _ = rustix::process::chdir("/");
    match Monitor::new().and_then(|mut monitor| monitor.serve()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// A client and the process whose streams it sees.
#[derive(Debug)]
struct Seat {
    number: u32,
    process: u32,
    client: Client,
    /// Both directions of its socket are shut: what it sent is still to be read, but the set must not tell of it for ever.
    hung: bool,
}

#[derive(Debug)]
struct Monitor {
    poll: Poll,
    engines: Engines,
    container: Option<Container>,
    /// The container's first process, number zero, and its execs.
    processes: Vec<Process>,
    /// Execs on their way into the container.
    pending: Vec<Pending>,
    /// The same where another runtime starts them.
    steps: Vec<exec::PendingStep>,
    seats: Vec<Seat>,
    log: Option<LogWriter>,
    log_failed: bool,
    /// Where output is read to; empty while nothing happens.
    buffer: Vec<u8>,
    numbers: u32,
    tidy_at: Option<Instant>,
    /// The control group of a launch that is to come.
    prepared: Option<(cgroup::System, cgroup::Group)>,
    /// There was no launch, or it failed: nothing is left to do.
    over: bool,
}

impl Monitor {
    fn new() -> io::Result<Self> {
        let control = kernel::spawn::inherited(CONTROL_FD)?;
        let listener = kernel::spawn::inherited(LISTEN_FD)?;
        let poll = Poll::new()?;
        let engines = Engines::new(&poll, listener, control)?;
        Ok(Self {
            poll,
            engines,
            container: None,
            processes: Vec::new(),
            pending: Vec::new(),
            steps: Vec::new(),
            seats: Vec::new(),
            log: None,
            log_failed: false,
            buffer: Vec::new(),
            numbers: 0,
            tidy_at: None,
            prepared: None,
            over: false,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let deadline = self.deadline();
            let ready = self.poll.wait(deadline)?;
            let now = Instant::now();
            if !ready.is_empty() {
                self.tidy_at = Some(now + Duration::from_millis(TIDY_MS));
            }
            for one in ready {
                self.dispatch(one);
            }
            self.tick(now);
            self.settle_ends();
            // After the ends: the clients of what has just ended are let go now, not when something else happens.
            self.settle_streams();
            if self.is_done() {
                if let Some((_, group)) = self.prepared.take() {
                    // Nobody lives there; an engine that comes later finds what stays.
                    let _ = group.remove();
                }
                return Ok(());
            }
        }
    }

    fn dispatch(&mut self, ready: Ready) {
        match ready.token {
            Token::Listener => self.welcome(),
            Token::Engine(number) => self.engine_ready(number, ready),
            Token::Client(number) => self.client_ready(number, ready),
            Token::Exit(number) => self.process_ended(number),
            Token::Stdout(number) => self.pump(number, Stream::Stdout),
            Token::Stderr(number) => self.pump(number, Stream::Stderr),
            Token::Stdin(number) => self.input_ready(number, ready),
            Token::Oom => self.out_of_memory(),
            Token::Entering(number) => self.exec_proceeds(number),
        }
    }

    /// The next instant at which something is to be done without anybody asking.
    fn deadline(&self) -> Option<Instant> {
        let seats = self.seats.iter().filter_map(|seat| seat.client.drop_at());
        let processes = self.processes.iter().filter_map(|process| process.drain_until);
        let of_container = |container: &Container| [container.kill_at, container.oom_check_at, container.hold_until(&self.engines)];
        let container = self.container.iter().flat_map(of_container).flatten();
        let pending = self.pending.iter().filter_map(Pending::deadline);
        let steps = self.steps.iter().filter_map(exec::PendingStep::deadline);
        seats.chain(processes).chain(pending).chain(steps).chain(container).chain(self.tidy_at).min()
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.container.as_ref().and_then(|container| container.kill_at)) {
            self.kill_container();
        }
        if let Some(container) = self.container.as_mut().filter(|container| due(container.oom_check_at)) {
            container.oom_check_at = None;
            self.count_oom_kills();
        }
        let slow: Vec<u32> = self.seats.iter().filter(|seat| due(seat.client.drop_at())).map(|seat| seat.number).collect();
        for number in slow {
            self.drop_client(number);
            self.engines.broadcast(
                &self.poll,
                &Event::Warning { text: "an attached client took no output for too long and was dropped".to_owned() },
            );
        }
        self.give_up_execs(now);
        if due(self.tidy_at) {
            self.tidy_at = None;
            self.buffer = Vec::new();
            if let Some(log) = &mut self.log {
                log.shrink();
            }
            kernel::heap::trim();
            self.engines.listen_again(&self.poll);
            self.reap_strangers();
        }
    }

    fn is_done(&self) -> bool {
        let held = |container: &Container| {
            !container.acknowledged && container.hold_until(&self.engines).is_none_or(|until| Instant::now() < until)
        };
        self.over || self.container.as_ref().is_some_and(|container| container.exit.is_some() && !held(container) && self.seats.is_empty())
    }

    fn next_number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn process(&self, number: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.number == number)
    }
}

/// Now, in nanoseconds of Unix time.
fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Opens /dev/null for reading and writing.
fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}
