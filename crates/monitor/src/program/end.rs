//! The end of processes, and of the container.

use std::time::{Duration, Instant};

use monitor::{Event, ExecExit, Exit, exit_record};

use super::log::Stream;
use super::{Monitor, now_ns};

/// How long output is still read after a process's end while others hold its streams open.
const DRAIN_MS_MAX: u64 = 2_000;
/// The notice of a lack of memory comes before the kill that it leads to: look again after this time.
const OOM_CHECK_MS: u64 = 20;

impl Monitor {
    /// A process has ended: its exit code is taken at once, its streams are read to their end first.
    pub(super) fn process_ended(&mut self, number: u32) {
        let Some(process) = self.processes.iter_mut().find(|process| process.number == number) else { return };
        let Some(status) = process.reap(&self.poll) else { return };
        process.discard_input(&self.poll);
        process.drain_until = Some(Instant::now() + Duration::from_millis(DRAIN_MS_MAX));
        if number == 0 {
            self.kill_pending();
        }
        if let Some(container) = self.container.as_mut().filter(|_| number == 0) {
            container.ended = Some((status, now_ns()));
            container.kill_at = None;
            // With a pid namespace of its own nobody is left; otherwise whoever is left in the control group goes now.
            if let Err(error) = container.group.kill_all() {
                let text = format!("kill what is left of the container: {}", types::error::chain(&error));
                self.engines.broadcast(&self.poll, &Event::Warning { text });
            }
        }
        self.drain(number);
    }

    /// Finishes what has ended and is drained: execs first, then the container.
    pub(super) fn settle_ends(&mut self) {
        let now = Instant::now();
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let drained: Vec<u32> = self
            .processes
            .iter()
            .filter(|process| process.status.is_some() && (process.outputs_ended() || over(process.drain_until)))
            .map(|process| process.number)
            .collect();
        for &number in drained.iter().filter(|&&number| number != 0) {
            self.finish_exec(number);
        }
        let given_up = self.process(0).is_some_and(|process| over(process.drain_until));
        if drained.contains(&0) && (self.processes.len() == 1 || given_up) {
            self.finish_container();
        }
    }

    /// The container is out of memory: the kernel is about to kill, or just has.
    pub(super) fn out_of_memory(&mut self) {
        if let Some(container) = &mut self.container {
            if let Some(oom) = &container.oom {
                oom.acknowledge();
            }
            container.oom_check_at = Some(Instant::now() + Duration::from_millis(OOM_CHECK_MS));
        }
        self.count_oom_kills();
    }

    /// Tells of processes that were killed since the last look.
    pub(super) fn count_oom_kills(&mut self) {
        let Some(container) = &mut self.container else { return };
        let kills = container.oom.as_ref().and_then(|oom| oom.kills().ok()).unwrap_or(container.oom_kills);
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.engines.broadcast(&self.poll, &Event::Oom { count: kills });
        }
    }

    fn finish_exec(&mut self, number: u32) {
        let Some(index) = self.processes.iter().position(|process| process.number == number) else { return };
        let mut process = self.processes.swap_remove(index);
        process.close_output(&self.poll, Stream::Stdout);
        process.close_output(&self.poll, Stream::Stderr);
        self.close_clients_of(number);
        let (Some(id), Some(status)) = (process.exec, process.status) else { return };
        let exit = ExecExit { id, code: status.code, at_ns: now_ns() };
        if let Some(container) = &mut self.container {
            container.remember(exit.clone());
        }
        self.engines.broadcast(&self.poll, &Event::ExecExited(exit));
    }

    /// Everything that the container will ever write has been read: record its exit and tell it.
    fn finish_container(&mut self) {
        if let Some(log) = &mut self.log {
            let result = log.end(Stream::Stdout, now_ns()).and(log.end(Stream::Stderr, now_ns()));
            self.note_log(result);
        }
        self.count_oom_kills();
        for number in self.processes.iter().map(|process| process.number).collect::<Vec<_>>() {
            self.close_clients_of(number);
        }
        for process in &mut self.processes {
            process.close_output(&self.poll, Stream::Stdout);
            process.close_output(&self.poll, Stream::Stderr);
        }
        self.processes.clear();
        let Some(container) = &mut self.container else { return };
        let Some((status, at_ns)) = container.ended else { return };
        let exit = Exit { code: status.code, signal: status.signal, oom_killed: container.oom_kills > 0, at_ns };
        let mut warnings = Vec::new();
        if let Err(error) = exit_record::write(&container.exit_record, &exit) {
            warnings.push(format!("record the container's exit: {error}"));
        }
        if let Some(oom) = container.oom.take() {
            self.poll.remove(&oom);
        }
        // Another runtime has hooks of its own to run.
        let external = container.external.take().map(|mut external| external.delete()).is_some();
        if let Err(error) = container.group.remove() {
            warnings.push(types::error::chain(&error));
        }
        if !external {
            for error in runtime::launch::after_stop(&container.spec, &container.id, std::path::Path::new("/")) {
                warnings.push(types::error::chain(&error));
            }
        }
        container.exit = Some(exit.clone());
        container.exit_at = Some(Instant::now());
        for text in warnings {
            self.engines.broadcast(&self.poll, &Event::Warning { text });
        }
        self.engines.broadcast(&self.poll, &Event::Exited(exit));
    }
}
