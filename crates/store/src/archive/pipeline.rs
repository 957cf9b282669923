//! From a stream to a layer's directory: one thread decompresses and hashes, another unpacks.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use sha2::{Digest as _, Sha256};
use types::Digest;

use super::compression::decompress;
use super::extract::{Extracted, extract};
use super::limits::Limits;
use crate::{Error, Result};

/// How much moves between the threads at once, and how many such pieces may wait.
const CHUNK_LEN: usize = 256 << 10;
const CHUNKS_WAITING_MAX: usize = 8;

/// What came of a stream.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub diff_id: Digest,
    /// Bytes of the plain archive.
    pub archive_size: u64,
    pub extracted: Extracted,
}

/// Decompresses, hashes and unpacks `input` into `directory`. Reads to the end of `input` unless something fails.
pub(crate) fn unpack(input: &mut (dyn Read + Send), directory: &Path, limits: &Limits) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(CHUNKS_WAITING_MAX);
        let (give_back, used) = channel();
        let reader = ChunkReader { chunks: receive, used: give_back, current: Vec::new(), at: 0 };
        let unpacking = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, move || extract(reader, directory, limits))
            .map_err(|error| Error::io("start a thread for", directory, error))?;
        let hashed = hash_all(input, limits, &send, &used);
        if let Err(error) = &hashed {
            // The unpacking side must not take the early end for the archive's.
            let _ = send.send(Err(io::Error::other(error.to_string())));
        }
        drop(send);
        let extracted = unpacking.join().unwrap_or_else(|_| Err(Error::invalid("the archive", "the thread that unpacks it failed")));
        // What is wrong with the stream explains what is wrong with the archive.
        match (hashed, extracted) {
            (Err(Stopped::Failed(error)), _) => Err(error),
            (_, Err(error)) => Err(error),
            (Err(Stopped::NotWanted), Ok(_)) => Err(Error::invalid("the archive", "it was not read to its end")),
            (Ok((diff_id, archive_size)), Ok(extracted)) => Ok(Unpacked { diff_id, archive_size, extracted }),
        }
    })
}

/// Why hashing ended early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the input failed")]
    Failed(Error),
    #[error("the unpacking side failed")]
    NotWanted,
}

type Chunk = io::Result<Vec<u8>>;

fn hash_all(
    input: &mut (dyn Read + Send),
    limits: &Limits,
    send: &SyncSender<Chunk>,
    used: &Receiver<Vec<u8>>,
) -> std::result::Result<(Digest, u64), Stopped> {
    let read_error = |source| Stopped::Failed(Error::Read { subject: "the archive".to_owned(), source });
    let taken = Arc::new(AtomicU64::new(0));
    let mut counted = Counted { input, taken: Arc::clone(&taken) };
    let mut plain = decompress(&mut counted).map_err(read_error)?;
    let mut hash = Sha256::new();
    let mut len = 0u64;
    loop {
        let mut chunk = used.try_recv().unwrap_or_default();
        chunk.clear();
        (&mut plain).take(CHUNK_LEN as u64).read_to_end(&mut chunk).map_err(read_error)?;
        if chunk.is_empty() {
            return Ok((Digest::from_sha256(hash.finalize().into()), len));
        }
        len += chunk.len() as u64;
        check(len, taken.load(Ordering::Relaxed), limits).map_err(Stopped::Failed)?;
        hash.update(&chunk);
        send.send(Ok(chunk)).map_err(|_| Stopped::NotWanted)?;
    }
}

fn check(plain: u64, compressed: u64, limits: &Limits) -> Result<()> {
    if plain > limits.layer_bytes {
        return Err(Error::invalid("the archive", format!("it has more than {} bytes", limits.layer_bytes)));
    }
    if plain > limits.ratio_free_bytes && plain / limits.ratio > compressed {
        return Err(Error::invalid(
            "the archive",
            format!("it is more than {} times larger than its compressed form, which only a decompression bomb is", limits.ratio),
        ));
    }
    Ok(())
}

/// Counts what is read.
struct Counted<'a> {
    input: &'a mut (dyn Read + Send),
    taken: Arc<AtomicU64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(bytes)?;
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// The chunks as one stream. Buffers go back to where they came from, so that their pages need not be made again.
struct ChunkReader {
    chunks: Receiver<Chunk>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len()
            && let Ok(next) = self.chunks.recv()
        {
            let last = std::mem::replace(&mut self.current, next?);
            self.at = 0;
            // Nobody needs it once the stream has ended.
            let _ = self.used.send(last);
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(bytes)?;
        self.consume(len);
        Ok(len)
    }
}
