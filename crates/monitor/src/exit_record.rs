//! The record of an exit: a small file in the run directory, with its block allocated before the container starts, so that a full disk
//! cannot lose an exit code. It is empty until the container has ended, then holds [`Exit`] as one line of JSON.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::Error;
use crate::protocol::Exit;

/// More than any record is long.
const RECORD_BYTES_MAX: u64 = 4096;

/// Makes an empty record with its space allocated (where the filesystem can).
pub fn prepare(path: &Path) -> Result<File, Error> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.map_err(|source| Error::ExitRecord { path: path.to_owned(), source })?;
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RECORD_BYTES_MAX);
    Ok(file)
}

/// Writes the record in one go.
pub fn write(file: &File, exit: &Exit) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(exit)?;
    line.push(b'\n');
    file.write_all_at(&line, 0)
}

/// Reads the record: none if there is none or if it is empty or torn, which means that no exit was recorded.
pub fn read(path: &Path) -> Result<Option<Exit>, Error> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::ExitRecord { path: path.to_owned(), source }),
    }
    let whole = text.iter().position(|&byte| byte == b'\n').and_then(|end| serde_json::from_slice(&text[..end]).ok());
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_empty_until_written_and_a_torn_one_is_none() {
        let path = std::env::temp_dir().join(format!("cais-exit-record-{}", std::process::id()));
        let file = prepare(&path).expect("prepared");
        assert_eq!(read(&path).expect("readable"), None);
        let exit = Exit { code: 137, signal: Some(9), oom_killed: true, at_ns: 1 };
        write(&file, &exit).expect("written");
        assert_eq!(read(&path).expect("readable"), Some(exit));
        file.set_len(10).expect("torn");
        assert_eq!(read(&path).expect("readable"), None);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(read(&path).expect("no file is no record"), None);
    }
}
