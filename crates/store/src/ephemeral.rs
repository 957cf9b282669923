//! Documents as files of the run directory, for what need not survive a reboot: a record costs one small file and no sync.

use std::path::{Path, PathBuf};

use durable::{create_dir_all, is_staged, write_volatile};

use crate::records::{Records, Transaction};
use crate::{Error, Result};

const SUFFIX: &str = ".json";

/// `<directory>/<kind>/<id>.json`. Each file is whole for every reader; several changes are made one after the other, in order.
#[derive(Debug)]
pub struct Ephemeral {
    directory: PathBuf,
}

impl Ephemeral {
    /// Uses (and makes, if missing) a directory, usually below the run root.
    pub fn open(directory: &Path) -> Result<Self> {
        create_dir_all(directory, 0o700)?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn file(&self, kind: &str, id: &str) -> Result<PathBuf> {
        let plain = |key: &str| !key.contains('/') && !key.starts_with('.');
        match plain(kind) && plain(id) {
            true => Ok(self.directory.join(kind).join(format!("{id}{SUFFIX}"))),
            false => Err(Error::Key { key: format!("{kind}/{id}") }),
        }
    }
}

impl Records for Ephemeral {
    fn apply(&self, transaction: Transaction) -> Result<()> {
        for change in transaction.changes {
            let path = self.file(&change.kind, &change.id)?;
            match change.body {
                Some(body) => match write_volatile(&path, &body, 0o600) {
                    Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                        create_dir_all(&self.directory.join(&change.kind), 0o700)?;
                        write_volatile(&path, &body, 0o600)?;
                    }
                    written => written?,
                },
                None => match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, error)),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn get_raw(&self, kind: &str, id: &str) -> Result<Option<Vec<u8>>> {
        let path = self.file(kind, id)?;
        match std::fs::read(&path) {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    fn scan_raw(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let directory = self.directory.join(kind);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list", &directory, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("list", &directory, error))?;
            let name = entry.file_name();
            if is_staged(&name) {
                // Left by a writer that was killed, or of one at work: it renames or removes its file itself.
                continue;
            }
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else {
                continue;
            };
            if let Some(body) = self.get_raw(kind, id)? {
                found.push((id.to_owned(), body));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Ephemeral::open(&directory.path().join("records")).expect("opens");
        crate::records_contract::check(&records);
        assert!(records.put("kind", "../id", &1).is_err());
        assert!(records.put("..", "id", &1).is_err());
    }
}
