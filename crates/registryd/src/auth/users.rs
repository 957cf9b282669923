//! Users: a file in htpasswd's format, with bcrypt, read again when it changes.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use durable::write_atomic;
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// What a password costs to try: about a tenth of a second.
const COST: u32 = 10;
/// A password that was right is known for so long, so that not every request costs that much.
const KNOWN_FOR: Duration = Duration::from_secs(300);
const KNOWN_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 16 << 20;
/// bcrypt looks at so many bytes and no more.
const PASSWORD_BYTES_MAX: usize = 72;
/// Tried for users that do not exist, so that they take as long as those that do: bcrypt of a random word.
const NOBODYS: &str = "$2b$10$abcdefghijklmnopqrstuuOTTXcl.K4O3oJr1A2lnJT8cBaWz6.Cm";

/// The users of a registry.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hashes: BTreeMap<String, String>,
    read: Option<(SystemTime, u64, u64)>,
    salt: [u8; 16],
    known: HashMap<[u8; 32], Instant>,
}

impl Users {
    /// Reads a file of users.
    pub fn open(path: &Path) -> Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| Error::io("draw a salt for", path, std::io::Error::other(error)))?;
        let users = Self { path: path.to_owned(), state: Mutex::new(State { salt, ..State::default() }) };
        users.refresh()?;
        Ok(users)
    }

    /// Whether the password is that user's.
    pub fn verify(&self, name: &str, password: &str) -> Result<bool> {
        self.refresh()?;
        let (hash, mark) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mark: [u8; 32] = Sha256::new()
                .chain_update(state.salt)
                .chain_update((name.len() as u64).to_le_bytes())
                .chain_update(name)
                .chain_update(password)
                .finalize()
                .into();
            if state.known.get(&mark).is_some_and(|since| since.elapsed() < KNOWN_FOR) {
                return Ok(true);
            }
            state.known.remove(&mark);
            (state.hashes.get(name).cloned(), mark)
        };
        let right = password.len() <= PASSWORD_BYTES_MAX
            && bcrypt::verify(password, hash.as_deref().unwrap_or(NOBODYS)).unwrap_or(false)
            && hash.is_some();
        if right {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.known.len() >= KNOWN_MAX {
                state.known.clear();
            }
            // Only if the user was not changed while the password was tried.
            if state.hashes.get(name) == hash.as_ref() {
                state.known.insert(mark, Instant::now());
            }
        }
        Ok(right)
    }

    /// Reads the file again if it has changed.
    fn refresh(&self) -> Result<()> {
        let metadata = std::fs::metadata(&self.path).map_err(|error| Error::io("read the users in", &self.path, error))?;
        let stamp = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), metadata.ino());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read == Some(stamp) {
            return Ok(());
        }
        state.hashes = read(&self.path)?;
        state.read = Some(stamp);
        state.known.clear();
        Ok(())
    }

    /// The names in a file of users, which need not exist.
    pub fn names(path: &Path) -> Result<Vec<String>> {
        Ok(read_or_none(path)?.into_keys().collect())
    }

    /// Adds a user or changes the password. Answers whether it is a new one.
    pub fn add(path: &Path, name: &str, password: &str) -> Result<bool> {
        let bad = |why: &str| Err(Error::Configuration(why.to_owned()));
        if name.is_empty()
            || name.len() > 255
            || name.contains(|letter: char| letter == ':' || letter.is_control() || letter.is_whitespace())
        {
            return bad("a user's name has 1 to 255 characters, without colon and white space");
        }
        if matches!(name, "*" | "anonymous") {
            return bad("this name has a meaning of its own in rules");
        }
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return bad("a password has 1 to 72 bytes");
        }
        let mut users = read_or_none(path)?;
        let hash = bcrypt::hash(password, COST).map_err(|error| Error::Configuration(format!("hash the password: {error}")))?;
        let is_new = users.insert(name.to_owned(), hash).is_none();
        write(path, &users)?;
        Ok(is_new)
    }

    /// Removes a user. Answers whether there was one.
    pub fn remove(path: &Path, name: &str) -> Result<bool> {
        let mut users = read_or_none(path)?;
        let was = users.remove(name).is_some();
        if was {
            write(path, &users)?;
        }
        Ok(was)
    }
}

fn write(path: &Path, users: &BTreeMap<String, String>) -> Result<()> {
    let text: String = users.iter().map(|(name, hash)| format!("{name}:{hash}\n")).collect();
    Ok(write_atomic(path, text.as_bytes(), 0o600)?)
}

fn read_or_none(path: &Path) -> Result<BTreeMap<String, String>> {
    if path.exists() { read(path) } else { Ok(BTreeMap::new()) }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let size = std::fs::metadata(path).map_err(|error| Error::io("read the users in", path, error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(Error::Configuration(format!("{} is larger than a file of users may be", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the users in", path, error))?;
    let mut users = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| Error::Configuration(format!("{}, line {}: {why}", path.display(), number + 1));
        let (name, hash) = line.split_once(':').ok_or_else(|| wrong("NAME:HASH is expected"))?;
        if !["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) {
            return Err(wrong("only bcrypt is read: make the line with `cais registry user add` or `htpasswd -B`"));
        }
        users.insert(name.to_owned(), hash.to_owned());
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_go_and_change_while_the_file_is_in_use() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("users");
        assert!(Users::open(&path).is_err(), "a file that was asked for must be there");
        assert!(Users::add(&path, "ann", "secret").expect("adds"));
        let users = Users::open(&path).expect("opens");
        assert!(users.verify("ann", "secret").expect("tries") && users.verify("ann", "secret").expect("knows"));
        assert!(!users.verify("ann", "wrong").expect("tries") && !users.verify("bob", "secret").expect("tries"));
        assert!(!Users::add(&path, "ann", "changed, and longer").expect("changes"));
        assert!(Users::add(&path, "bob", "other").expect("adds"));
        assert!(!users.verify("ann", "secret").expect("tries") && users.verify("ann", "changed, and longer").expect("tries"));
        assert_eq!(Users::names(&path).expect("lists"), ["ann", "bob"]);
        assert!(Users::remove(&path, "ann").expect("removes") && !Users::remove(&path, "ann").expect("is gone"));
        assert!(!users.verify("ann", "changed, and longer").expect("tries"));
    }

    #[test]
    fn bad_names_passwords_and_files_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("users");
        for (name, password) in [("", "x"), ("a:b", "x"), ("a\nb", "x"), ("*", "x"), ("anonymous", "x"), ("a", ""), ("a", &"x".repeat(73))]
        {
            assert!(Users::add(&path, name, password).is_err(), "{name:?}");
        }
        for line in ["ann", "ann:secret", "ann:{SHA}xyz", "ann:$apr1$x$y"] {
            std::fs::write(&path, line).expect("writes");
            assert!(Users::open(&path).is_err(), "{line}");
        }
        std::fs::write(&path, "# nobody yet\n\n").expect("writes");
        assert!(Users::open(&path).is_ok());
    }
}
