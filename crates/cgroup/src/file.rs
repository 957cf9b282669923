//! Reading and writing the small files of control groups.

use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::{Error, Result};

/// No file of a control group, and no sane list of processes or mounts, is longer.
const READ_BYTES_MAX: usize = 16 << 20;

/// The whole text of a file; bytes that are not UTF-8 are replaced.
pub(crate) fn read(path: &Path) -> Result<String> {
    try_read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The same with the bare errno, for files that may be absent.
pub(crate) fn try_read(path: &Path) -> std::result::Result<String, Errno> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if bytes.len() > READ_BYTES_MAX {
            return Err(Errno::FBIG);
        }
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Writes a value at once, as these files demand.
pub(crate) fn write(path: &Path, value: &str) -> Result<()> {
    try_write(path, value).map_err(|source| Error::Write { path: path.to_owned(), value: value.to_owned(), source })
}

/// Writes several values one by one through one descriptor, as the device lists of version 1 take them.
pub(crate) fn write_each(path: &Path, values: &[String]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let fail = |value: &str| {
        let value = value.to_owned();
        |source| Error::Write { path: path.to_owned(), value, source }
    };
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail(""))?;
    values
        .iter()
        .try_for_each(|value| rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes())).map(drop).map_err(fail(value)))
}

/// The same with the bare errno.
pub(crate) fn try_write(path: &Path, value: &str) -> std::result::Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::io::write(&file, value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One number, or `max`.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        // Version 1 writes "unlimited" as the largest multiple of a page; a negative number stands for it too.
        negative if negative.starts_with('-') => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// The number of `key` in a file of "key value" lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number))
}

/// `path` as a relative path without `.` and `..`, so that joining it to a mount point cannot leave the hierarchy.
pub(crate) fn below(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fields_and_paths() {
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number("12\n"), Some(12));
        assert_eq!(number("-1"), Some(u64::MAX));
        assert_eq!(number("x"), None);
        assert_eq!(field("oom 3\noom_kill 5\n", "oom_kill"), Some(5));
        assert_eq!(field("oom_kill_disable 0\noom_kill 5\n", "oom_kill"), Some(5));
        assert_eq!(below(Path::new("/a/../b/./c")), Path::new("a/b/c"));
    }
}
