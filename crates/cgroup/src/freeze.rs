//! Stopping a group's processes and letting them go on.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::group::Member;
use crate::{Error, Group, Result, file};

const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn freeze(group: &Group) -> Result<()> {
    let member = freezer(group)?;
    let end = Instant::now() + FREEZE_TIMEOUT;
    let mut pause = Duration::from_micros(100);
    write(member, true)?;
    while !stands(member)? {
        if Instant::now() > end {
            write(member, false)?;
            return Err(Error::Timeout { path: member.directory.clone(), what: "stop" });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
        if !member.unified {
            // Version 1 can miss processes that fork while it freezes; writing again makes it look again.
            write(member, true)?;
        }
    }
    Ok(())
}

pub(crate) fn thaw(group: &Group) -> Result<()> {
    write(freezer(group)?, false)
}

pub(crate) fn is_frozen(group: &Group) -> Result<bool> {
    stands(freezer(group)?)
}

fn freezer(group: &Group) -> Result<&Member> {
    let unified = group.member("").filter(|member| exists(&member.directory.join("cgroup.freeze")));
    group.member("freezer").or(unified).ok_or(Error::NoController { what: "pausing", controller: "freezer" })
}

fn exists(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}

fn write(member: &Member, frozen: bool) -> Result<()> {
    match (member.unified, frozen) {
        (true, _) => file::write(&member.directory.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        (false, true) => file::write(&member.directory.join("freezer.state"), "FROZEN"),
        (false, false) => file::write(&member.directory.join("freezer.state"), "THAWED"),
    }
}

fn stands(member: &Member) -> Result<bool> {
    if member.unified {
        Ok(file::field(&file::read(&member.directory.join("cgroup.events"))?, "frozen") == Some(1))
    } else {
        Ok(file::read(&member.directory.join("freezer.state"))?.trim() == "FROZEN")
    }
}
