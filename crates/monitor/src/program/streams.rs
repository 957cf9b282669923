//! The flow of bytes: from processes to log and clients, from clients to processes.

use std::os::fd::OwnedFd;

use monitor::{Attach, Event};
use rustix::io::Errno;

use super::client::{Client, Typed};
use super::log::Stream;
use super::poll::{Interest, Ready, Token};
use super::process::Process;
use super::{Monitor, Seat, now_ns};

/// How much output is read at once.
const READ_BYTES: usize = 64 * 1024;
/// Clients at once.
const CLIENTS_MAX: usize = 256;
/// Rounds of reading an ended process's output before the loop looks elsewhere.
const DRAIN_ROUNDS_MAX: usize = 64;

impl Monitor {
    /// Connects a client to a process's streams. False when there are too many.
    pub(super) fn seat_client(&mut self, process: u32, socket: OwnedFd, attach: &Attach) -> bool {
        if self.seats.len() >= CLIENTS_MAX {
            return false;
        }
        let tty = self.process(process).is_some_and(Process::has_terminal);
        let mut client = Client::new(socket, attach, tty);
        let number = self.next_number();
        if self.poll.add(&client, Token::Client(number), Interest::NONE).is_err() {
            return false;
        }
        *client.registered() = Some(Interest::NONE);
        let typed = client.filter(&attach.read_ahead);
        self.seats.push(Seat { number, process, client, hung: false });
        self.take_typed(number, typed);
        true
    }

    /// A client has said something, takes output again, or is gone.
    pub(super) fn client_ready(&mut self, number: u32, ready: Ready) {
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.number == number) else { return };
        seat.hung |= ready.gone;
        if ready.write && seat.client.flush().is_err() {
            return self.drop_client(number);
        }
        let stdin_full = self.processes.iter().any(|process| process.number == seat.process && process.input_full());
        if ready.read && seat.client.interest(stdin_full).read {
            match seat.client.read() {
                Ok(typed) => self.take_typed(number, typed),
                Err(_) => {
                    self.take_typed(number, Typed::End);
                    self.drop_client(number);
                }
            }
        }
    }

    /// Input of a process can be written again, or the process has closed it.
    pub(super) fn input_ready(&mut self, number: u32, ready: Ready) {
        let Some(process) = self.processes.iter_mut().find(|process| process.number == number) else { return };
        if ready.gone {
            process.discard_input(&self.poll);
        } else {
            process.flush_input(&self.poll);
        }
    }

    /// Reads a process's output once and hands it on.
    pub(super) fn pump(&mut self, number: u32, stream: Stream) {
        self.pump_once(number, stream);
    }

    /// Reads what an ended process has left in its streams, up to a bound.
    pub(super) fn drain(&mut self, number: u32) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..DRAIN_ROUNDS_MAX {
                if !self.pump_once(number, stream) {
                    break;
                }
            }
        }
    }

    /// Closes a client's connection at once.
    pub(super) fn drop_client(&mut self, number: u32) {
        if let Some(index) = self.seats.iter().position(|seat| seat.number == number) {
            let seat = self.seats.swap_remove(index);
            self.poll.remove(&seat.client);
            seat.client.shut();
        }
    }

    /// No more output comes from this process: its clients get what waits, then the end.
    pub(super) fn close_clients_of(&mut self, process: u32) {
        for seat in self.seats.iter_mut().filter(|seat| seat.process == process) {
            seat.client.close_when_flushed();
        }
    }

    /// Makes what is waited for agree with what there is to read and to write, and lets finished clients go.
    pub(super) fn settle_streams(&mut self) {
        let finished: Vec<u32> = self.seats.iter().filter(|seat| seat.client.finished()).map(|seat| seat.number).collect();
        for number in finished {
            self.drop_client(number);
        }
        let mut gone = Vec::new();
        for seat in &mut self.seats {
            let stdin_full = self.processes.iter().any(|process| process.number == seat.process && process.input_full());
            let wanted = seat.client.interest(stdin_full);
            if seat.hung && !seat.client.is_readable() {
                gone.push(seat.number);
                continue;
            }
            // A client that hung up while the process does not take its input leaves the set, or it would be reported without end.
            let wanted = if seat.hung && wanted == Interest::NONE { None } else { Some(wanted) };
            let registered = *seat.client.registered();
            let _ = match (registered, wanted) {
                (Some(_), None) => {
                    self.poll.remove(&seat.client);
                    Ok(())
                }
                (None, Some(wanted)) => self.poll.add(&seat.client, Token::Client(seat.number), wanted),
                (Some(old), Some(new)) if old != new => self.poll.change(&seat.client, Token::Client(seat.number), new),
                _ => Ok(()),
            };
            *seat.client.registered() = wanted;
        }
        for number in gone {
            self.drop_client(number);
        }
        for process in &mut self.processes {
            let full = self.seats.iter().any(|seat| seat.process == process.number && seat.client.is_full());
            // What an ended process has left is bounded, and is read whatever its clients do.
            process.set_reading(&self.poll, !full || process.status.is_some());
        }
    }

    fn take_typed(&mut self, number: u32, typed: Typed) {
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.number == number) else { return };
        let Some(process) = self.processes.iter_mut().find(|process| process.number == seat.process) else { return };
        match typed {
            Typed::Bytes(bytes) => process.feed(&self.poll, &bytes),
            Typed::Detach(bytes) => {
                process.feed(&self.poll, &bytes);
                let exec = process.exec.clone();
                self.drop_client(number);
                self.engines.broadcast(&self.poll, &Event::Detached { exec });
            }
            Typed::End if seat.client.feeds() => {
                seat.client.stop_feeding();
                if process.stdin_once && !process.has_terminal() {
                    process.close_input(&self.poll);
                } else {
                    // As Docker has it: where the end of a client's input does not end the process's, it ends the client's attachment.
                    seat.client.close_when_flushed();
                }
            }
            Typed::End => {}
        }
    }

    /// Reads once. True when bytes came.
    fn pump_once(&mut self, number: u32, stream: Stream) -> bool {
        let Some(process) = self.processes.iter_mut().find(|process| process.number == number) else { return false };
        let Some(fd) = process.output(stream) else { return false };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.reserve_exact(READ_BYTES);
        let got = rustix::io::read(fd, rustix::buffer::spare_capacity(&mut buffer));
        let more = match got {
            Ok(0) => {
                process.close_output(&self.poll, stream);
                false
            }
            Ok(_) => {
                self.hand_out(number, stream, &buffer);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // A terminal's master reads as EIO when nobody has it open any more.
            Err(_) => {
                process.close_output(&self.poll, stream);
                false
            }
        };
        self.buffer = buffer;
        more
    }

    /// Gives a piece of output to the log and to the clients.
    fn hand_out(&mut self, number: u32, stream: Stream, piece: &[u8]) {
        if number == 0
            && let Some(log) = &mut self.log
        {
            let result = log.append(stream, piece, now_ns());
            if log.take_rotated() {
                self.engines.broadcast(&self.poll, &Event::LogRotated);
            }
            self.note_log(result);
        }
        let mut gone = Vec::new();
        for seat in self.seats.iter_mut().filter(|seat| seat.process == number) {
            if seat.client.output(stream, piece).is_err() {
                gone.push(seat.number);
            }
        }
        for number in gone {
            self.drop_client(number);
        }
    }

    /// Tells once that the log cannot be written, and again after it could.
    pub(super) fn note_log(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.log_failed = false,
            Err(error) if !self.log_failed => {
                self.log_failed = true;
                self.engines.broadcast(&self.poll, &Event::Warning { text: format!("write the container's log: {error}") });
            }
            Err(_) => {}
        }
    }
}
