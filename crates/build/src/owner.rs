//! Owners by name, as the passwd and group files of a step's base have them.

use std::fs::File;
use std::io::Read;

use dockerfile::graph::{Owner, Who};
use rustix::fs::{self, Mode, OFlags};
use store::merged::{Found, Merged};

use crate::{Error, Result};

const FILE_BYTES_MAX: u64 = 4 << 20;

/// The numbers of an owner; root's if none is given.
pub(crate) fn resolve(owner: Option<&Owner>, base: &Merged) -> Result<(u32, u32)> {
    let Some(owner) = owner else { return Ok((0, 0)) };
    let (uid, own_group) = match &owner.user {
        Who::Id(uid) => (*uid, None),
        Who::Name(name) => {
            let text = read(base, b"etc/passwd")?;
            let found = lookup(&text, name).ok_or_else(|| missing("user", name, "/etc/passwd"))?;
            (number(found.get(2)).ok_or_else(|| missing("user", name, "/etc/passwd"))?, number(found.get(3)))
        }
    };
    let gid = match &owner.group {
        Some(Who::Id(gid)) => *gid,
        Some(Who::Name(name)) => {
            let text = read(base, b"etc/group")?;
            lookup(&text, name).and_then(|found| number(found.get(2))).ok_or_else(|| missing("group", name, "/etc/group"))?
        }
        None => own_group.unwrap_or(uid),
    };
    Ok((uid, gid))
}

fn missing(what: &'static str, name: &str, file: &'static str) -> Error {
    Error::NoSuchName { what, name: name.to_owned(), file }
}

fn lookup<'t>(text: &'t str, name: &str) -> Option<Vec<&'t str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))
}

fn number(field: Option<&&str>) -> Option<u32> {
    field?.trim().parse().ok()
}

/// A file's text; nothing if there is none.
fn read(base: &Merged, path: &[u8]) -> Result<String> {
    let fail = |error: std::io::Error| Error::io("read", path, error);
    let Some(Found::Other(above, name)) = base.resolve(path).map_err(|error| fail(error.into()))? else { return Ok(String::new()) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(&above, name.as_slice(), flags, Mode::empty()).map_err(|error| fail(error.into()))?;
    let mut bytes = Vec::new();
    File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
