//! gzip in blocks that are compressed side by side. Each block ends on a byte's boundary, so that the blocks one after the other are one stream that every
//! program reads; how they are cut does not depend on the machine, so the same input always gives the same bytes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Near the best ratio per time; part of what makes the compressed bytes, and so their digest, the same each time.
const LEVEL: u32 = 4;
/// What is compressed at once; likewise.
const BLOCK_LEN: usize = 1 << 20;
const THREADS_MAX: usize = 8;
/// The magic number, deflate, no flags, no time, no extra flags, and an operating system that is not told.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
const ROOM: usize = 64 << 10;

struct Job {
    block: Vec<u8>,
    is_last: bool,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

/// Compresses what is written; [`ParallelGzip::finish`] ends the stream.
pub(crate) struct ParallelGzip<W: Write> {
    /// Gone once the stream has ended.
    output: Option<W>,
    block: Vec<u8>,
    crc: Crc,
    /// Blocks that are being compressed, first the one that is next in the stream.
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> ParallelGzip<W> {
    /// Starts the threads, one per processor.
    pub fn new(mut output: W) -> io::Result<Self> {
        output.write_all(&HEADER)?;
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, waiting) = sync_channel::<Job>(count);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut threads = Vec::new();
        for _ in 0..count {
            let waiting = Arc::clone(&waiting);
            threads.push(std::thread::Builder::new().name("compress".to_owned()).spawn(move || work(&waiting))?);
        }
        Ok(Self {
            output: Some(output),
            block: Vec::with_capacity(BLOCK_LEN),
            crc: Crc::new(),
            pending: VecDeque::new(),
            jobs: Some(jobs),
            threads,
        })
    }

    /// Compresses what is left, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.hand_out(true)?;
        while !self.pending.is_empty() {
            self.take_in()?;
        }
        let mut end = self.crc.sum().to_le_bytes().to_vec();
        end.extend_from_slice(&self.crc.amount().to_le_bytes());
        let mut output = self.output.take().ok_or_else(gone)?;
        output.write_all(&end)?;
        Ok(output)
    }

    fn hand_out(&mut self, is_last: bool) -> io::Result<()> {
        // Those that are done go first, and so many that memory stays bounded.
        while self.pending.len() >= 2 * self.threads.len() {
            self.take_in()?;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(if is_last { 0 } else { BLOCK_LEN }));
        let (reply, done) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { block, is_last, reply }).map_err(|_| gone())?;
        self.pending.push_back(done);
        Ok(())
    }

    fn take_in(&mut self) -> io::Result<()> {
        match self.pending.pop_front() {
            Some(done) => {
                let block = done.recv().map_err(|_| gone())??;
                self.output.as_mut().ok_or_else(gone)?.write_all(&block)
            }
            None => Ok(()),
        }
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK_LEN {
            self.hand_out(false)?;
        }
        let len = bytes.len().min(BLOCK_LEN - self.block.len());
        self.block.extend_from_slice(&bytes[..len]);
        self.crc.update(&bytes[..len]);
        Ok(len)
    }

    /// Ends no block: where they end is part of the result.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for ParallelGzip<W> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("a thread that compresses has failed")
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Nobody waits any more where the output has failed.
        let _ = job.reply.send(deflate(&job.block, job.is_last));
    }
}

/// One block as a part of a deflate stream; the last one ends it.
fn deflate(block: &[u8], is_last: bool) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(Compression::new(LEVEL), false);
    let mut output = Vec::with_capacity(block.len() / 2 + ROOM);
    let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        output.reserve(ROOM);
        let taken = usize::try_from(state.total_in()).map_err(io::Error::other)?;
        let status = state.compress_vec(&block[taken..], &mut output, flush).map_err(io::Error::other)?;
        let is_through = state.total_in() == block.len() as u64 && output.len() < output.capacity();
        if status == Status::StreamEnd || (!is_last && is_through) {
            return Ok(output);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn compressed(plain: &[u8], piece: usize) -> Vec<u8> {
        let mut gzip = ParallelGzip::new(Vec::new()).expect("starts");
        plain.chunks(piece.max(1)).for_each(|piece| gzip.write_all(piece).expect("takes"));
        gzip.finish().expect("ends")
    }

    #[test]
    fn what_is_compressed_comes_back_and_is_always_the_same() {
        let mut noise = 1u32;
        let mut plain: Vec<u8> = Vec::new();
        while plain.len() < 3 * BLOCK_LEN + 5 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Half of it can't be compressed.
            plain.extend_from_slice(&noise.to_le_bytes());
            plain.extend_from_slice(b"text");
        }
        for len in [0, 1, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, plain.len()] {
            let once = compressed(&plain[..len], 1000);
            assert_eq!(once, compressed(&plain[..len], 1 << 20), "{len}");
            let mut back = Vec::new();
            // Of one member: several would not be what all programs read.
            flate2::read::GzDecoder::new(once.as_slice()).read_to_end(&mut back).expect("decompresses");
            assert!(back == plain[..len], "{len}");
        }
    }

    #[test]
    fn an_output_that_fails_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() > HEADER.len() { Err(io::Error::other("full")) } else { Ok(bytes.len()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut gzip = ParallelGzip::new(Full).expect("starts");
        let failed = (0..100).try_for_each(|_| gzip.write_all(&[0; BLOCK_LEN]));
        assert_eq!(failed.expect_err("fails").to_string(), "full");
    }
}
