//! Docker's local format: each record a protobuf message between its length and its length again (big-endian), so that it is read from both ends.
//!
//! The fields of the message: 1 the stream's name, 2 nanoseconds of Unix time, 3 the line without its newline, 4 set where there is none.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::Stream;

const LENGTH_BYTES: u64 = 4;
/// No record is longer: lines are split long before.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Appends a record.
pub(super) fn record(batch: &mut Vec<u8>, stream: Stream, content: &[u8], now_ns: i64) {
    let start = batch.len();
    batch.extend_from_slice(&[0; LENGTH_BYTES as usize]);
    batch.extend_from_slice(match stream {
        Stream::Stdout => b"\x0a\x06stdout",
        Stream::Stderr => b"\x0a\x06stderr",
    });
    batch.push(0x10);
    varint(batch, now_ns as u64);
    let (line, partial) = content.strip_suffix(b"\n").map_or((content, true), |line| (line, false));
    batch.push(0x1a);
    varint(batch, line.len() as u64);
    batch.extend_from_slice(line);
    if partial {
        batch.extend_from_slice(&[0x20, 1]);
    }
    let length = ((batch.len() - start) as u32 - LENGTH_BYTES as u32).to_be_bytes();
    batch[start..start + LENGTH_BYTES as usize].copy_from_slice(&length);
    batch.extend_from_slice(&length);
}

fn varint(batch: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        batch.push(value as u8 | 0x80);
        value >>= 7;
    }
    batch.push(value as u8);
}

/// How much of a file of `size` bytes is whole records. A torn end is found from the beginning, a whole one by a look at the last record.
pub(super) fn whole(file: &File, size: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    if let Some(last) = size.checked_sub(LENGTH_BYTES) {
        reader.seek(SeekFrom::Start(last))?;
        let length = u64::from(read_length(&mut reader)?);
        if let Some(start) = last.checked_sub(length + LENGTH_BYTES) {
            reader.seek(SeekFrom::Start(start))?;
            if u64::from(read_length(&mut reader)?) == length {
                return Ok(size);
            }
        }
    }
    let mut end = 0;
    while end + LENGTH_BYTES <= size {
        reader.seek(SeekFrom::Start(end))?;
        let length = u64::from(read_length(&mut reader)?);
        let next = end + length + 2 * LENGTH_BYTES;
        if length > RECORD_BYTES_MAX || next > size {
            break;
        }
        end = next;
    }
    Ok(end)
}

fn read_length(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn records_are_dockers_byte_for_byte() {
        let mut batch = Vec::new();
        record(&mut batch, Stream::Stdout, b"hi\n", 300);
        assert_eq!(batch, b"\0\0\0\x0f\x0a\x06stdout\x10\xac\x02\x1a\x02hi\0\0\0\x0f");
        batch.clear();
        record(&mut batch, Stream::Stderr, b"", 0);
        assert_eq!(batch, b"\0\0\0\x0e\x0a\x06stderr\x10\0\x1a\0\x20\x01\0\0\0\x0e");
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let path = std::env::temp_dir().join(format!("cais-log-local-{}", std::process::id()));
        let mut batch = Vec::new();
        record(&mut batch, Stream::Stdout, b"one\n", 1);
        record(&mut batch, Stream::Stdout, b"two\n", 2);
        let second = batch.len() / 2;
        let mut found = Vec::new();
        for length in [batch.len(), batch.len() - 3, second + 2, second, 2, 0] {
            File::create(&path).and_then(|mut file| file.write_all(&batch[..length])).expect("written");
            let file = File::open(&path).expect("opened");
            found.push(whole(&file, length as u64).expect("read") as usize);
        }
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(found, [batch.len(), second, second, second, 0, 0]);
    }
}
