//! Trees that files are taken from: a context's directory, or the layers of a step's result, seen as one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use store::Scratch;
use store::merged::{Found, Merged, list};

use crate::{Error, Result, glob};

/// How many directories deep a tree is followed.
pub(crate) const DEPTH_MAX: usize = 512;

/// Says what of a tree is left out, by paths from its root without a slash in front.
pub trait Filter: Send + Sync {
    /// Whether a path is left out.
    fn excludes(&self, path: &str) -> bool;
    /// Whether something below a directory that is left out may be wanted all the same.
    fn wants_below(&self, path: &str) -> bool;
}

/// A tree that files are taken from.
pub struct Tree {
    merged: Merged,
    filter: Option<Arc<dyn Filter>>,
    /// Stands for the tree's whole content, where that never changes.
    pub id: Option<String>,
    /// Whether its files are the engine's own and never change, so that they may get further names.
    pub is_owned: bool,
    /// Whether owners count; those of a client's files do not.
    pub has_owners: bool,
    /// What goes with the tree.
    _scratch: Option<Scratch>,
}

/// Something that a source names.
pub(crate) struct Selected {
    /// Its path from the tree's root, as it was found.
    pub path: Vec<u8>,
    /// What is there, links followed.
    pub found: Found,
}

/// Something in a directory.
pub(crate) struct Child {
    pub name: Vec<u8>,
    pub path: Vec<u8>,
    pub found: Found,
    /// A directory that is left out, but of which something below is wanted: it is made when that is found.
    pub is_excluded: bool,
}

impl Tree {
    /// A directory of somebody else's.
    pub fn directory(directory: OwnedFd, filter: Option<Arc<dyn Filter>>) -> Self {
        Self { merged: Merged::of(directory), filter, id: None, is_owned: false, has_owners: false, _scratch: None }
    }

    /// Layers, top first, whose chain is `id`.
    pub fn layers(directories: &[PathBuf], id: String) -> Result<Self> {
        let merged = Merged::open(directories).map_err(|source| Error::Store { operation: "open the layers", source })?;
        Ok(Self { merged, filter: None, id: Some(id), is_owned: true, has_owners: true, _scratch: None })
    }

    /// A directory of the engine's own, somewhere in what goes with the tree: what was unpacked, fetched or checked out. Its files belong to root.
    pub fn scratch(scratch: Scratch, path: &Path, filter: Option<Arc<dyn Filter>>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty());
        let directory = directory.map_err(|error| Error::io("open", path.as_os_str().as_encoded_bytes(), error))?;
        Ok(Self { is_owned: true, _scratch: Some(scratch), ..Self::directory(directory, filter) })
    }

    /// What a source names: one path, or with `wildcard` all that match, in order. None is an error.
    pub(crate) fn select(&self, source: &str, wildcard: bool) -> Result<Vec<Selected>> {
        let selected = match wildcard && glob::is_pattern(source.as_bytes()) {
            true => self.matching(source)?,
            false => self.at(clean(source.as_bytes()))?.into_iter().collect(),
        };
        match selected.is_empty() {
            true => Err(Error::NotFound { path: source.trim_start_matches('/').to_owned() }),
            false => Ok(selected),
        }
    }

    fn at(&self, path: Vec<u8>) -> Result<Option<Selected>> {
        if self.excludes(&path) && !self.wants_below(&path) {
            return Ok(None);
        }
        let found = self.merged.resolve(&path).map_err(|error| Error::io("look at", &path, error))?;
        Ok(found.map(|found| Selected { path, found }))
    }

    fn matching(&self, pattern: &str) -> Result<Vec<Selected>> {
        let pattern = clean(pattern.as_bytes());
        let mut reached: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.split(|&byte| byte == b'/') {
            let mut next = Vec::new();
            for above in reached {
                if !glob::is_pattern(part) {
                    next.push(join(&above, part));
                    continue;
                }
                let Some(Found::Directory(parts)) = self.merged.resolve(&above).map_err(|error| Error::io("look at", &above, error))?
                else {
                    continue;
                };
                for (name, _) in list(&parts).map_err(|error| Error::io("list", &above, error))? {
                    let matched = glob::matches(part, &name).ok_or_else(|| Error::path(&pattern, "the pattern is malformed"))?;
                    if matched {
                        next.push(join(&above, &name));
                    }
                }
            }
            reached = next;
        }
        let mut selected = Vec::new();
        for path in reached {
            selected.extend(self.at(path)?);
        }
        Ok(selected)
    }

    /// What is in a directory, without what is left out. `exclude` has paths from `base_len` on.
    pub(crate) fn children(&self, parts: &[OwnedFd], path: &[u8], base_len: usize, exclude: Option<&dyn Filter>) -> Result<Vec<Child>> {
        let mut children = Vec::new();
        for (name, found) in list(parts).map_err(|error| Error::io("list", path, error))? {
            let path = join(path, &name);
            let relative = path.get(base_len..).unwrap_or_default();
            let relative = relative.strip_prefix(b"/").unwrap_or(relative);
            let own = self.excludes(&path);
            let asked = exclude.is_some_and(|exclude| exclude.excludes(&String::from_utf8_lossy(relative)));
            let is_directory = matches!(found, Found::Directory(_));
            let below = || {
                (!own || self.wants_below(&path))
                    && (!asked || exclude.is_some_and(|exclude| exclude.wants_below(&String::from_utf8_lossy(relative))))
            };
            if (own || asked) && !(is_directory && below()) {
                continue;
            }
            children.push(Child { name, path, found, is_excluded: own || asked });
        }
        Ok(children)
    }

    fn excludes(&self, path: &[u8]) -> bool {
        !path.is_empty() && self.filter.as_ref().is_some_and(|filter| filter.excludes(&String::from_utf8_lossy(path)))
    }

    fn wants_below(&self, path: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.wants_below(&String::from_utf8_lossy(path)))
    }
}

/// What is known of a found thing.
pub(crate) fn stat(found: &Found, path: &[u8]) -> Result<Stat> {
    match found {
        Found::Directory(parts) => fs::fstat(&parts[0]),
        Found::Other(above, name) => fs::statat(above, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW),
    }
    .map_err(|error| Error::io("look at", path, error))
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A path without slashes at its ends, `.` and `..` resolved as text; what climbs above the root stays there.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

pub(crate) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match (above, name) {
        (b"", name) => name.to_vec(),
        (above, b"") => above.to_vec(),
        (above, name) => [above, b"/", name].concat(),
    }
}
