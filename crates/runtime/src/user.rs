//! Names of users and groups, looked up in a container's own files.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::path::open_in;
use crate::{Error, Result};

/// Longer files are read up to here: an image must not make the engine read without end.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The kernel takes no more (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// A user as the kernel knows it, with what a login would set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Additional group ids, sorted, without doubles.
    pub groups: Vec<u32>,
    /// The home directory, `/` when the user is not listed.
    pub home: String,
}

/// Looks up `user` (`name`, `uid`, `name:group`, `uid:gid`; empty means 0) and `additional_groups` below `root`, never outside of it.
///
/// # Errors
/// [`crate::Error::UnknownUser`] for a name that is not listed; a number need not be. Unreadable files count as empty.
pub fn resolve(root: BorrowedFd<'_>, user: &str, additional_groups: &[String]) -> Result<Resolved> {
    let passwd = read(root, "/etc/passwd");
    let plain_number = !user.contains(':')
        && additional_groups.is_empty()
        && user.parse::<u32>().is_ok_and(|uid| entry_of(&passwd, user, Some(uid)).is_none());
    // A number that is not listed belongs to no group by name.
    let group = if plain_number { String::new() } else { read(root, "/etc/group") };
    resolve_in(&passwd, &group, user, additional_groups)
}

/// The home directory of `uid`, if the container lists one.
pub(crate) fn home_of(root: BorrowedFd<'_>, uid: u32) -> String {
    entry_of(&read(root, "/etc/passwd"), &uid.to_string(), Some(uid)).map_or("/".to_owned(), |entry| entry.home.to_owned())
}

/// The text of a file that any image can bring: a regular file of bounded size, or else nothing.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
    let Ok(fd) = open_in(root, Path::new(path), flags) else { return String::new() };
    if !rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile) {
        return String::new();
    }
    let mut bytes = Vec::new();
    // What was read before an error still counts.
    let _ = std::fs::File::from(fd).take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Passwd<'t> {
    name: &'t str,
    uid: u32,
    gid: u32,
    home: &'t str,
}

struct Group<'t> {
    name: &'t str,
    gid: u32,
    members: &'t str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or("");
        Some(Passwd { name, uid, gid, home: if home.is_empty() { "/" } else { home } })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// A name goes before a number: a user may be called `1000`.
fn entry_of<'t>(passwd: &'t str, name: &str, uid: Option<u32>) -> Option<Passwd<'t>> {
    passwd_entries(passwd).find(|entry| entry.name == name).or_else(|| passwd_entries(passwd).find(|entry| Some(entry.uid) == uid))
}

fn resolve_in(passwd: &str, group: &str, user: &str, additional_groups: &[String]) -> Result<Resolved> {
    let (user, wanted_group) = user.split_once(':').map_or((user, ""), |(user, group)| (user, group));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user)?;
    let entry = entry_of(passwd, user, number);
    let unknown = |kind: &str, name: &str, file: &str| Error::UnknownUser { kind: kind.into(), name: name.into(), file: file.into() };
    let uid = entry.as_ref().map(|entry| entry.uid).or(number).ok_or_else(|| unknown("user", user, "passwd"))?;
    let find_group = |name: &str| -> Result<u32> {
        let number = id(name)?;
        let listed = group_entries(group).find(|entry| entry.name == name).map(|entry| entry.gid);
        listed.or(number).ok_or_else(|| unknown("group", name, "group"))
    };
    let mut groups = Vec::new();
    let gid = match (wanted_group, &entry) {
        ("", Some(entry)) => {
            // A login is in every group that lists it; a group chosen by hand stands alone.
            let is_member = |group: &Group<'_>| group.members.split(',').any(|member| member.trim() == entry.name);
            groups.extend(group_entries(group).filter(is_member).map(|group| group.gid));
            entry.gid
        }
        ("", None) => 0,
        (name, _) => find_group(name)?,
    };
    for name in additional_groups {
        groups.push(find_group(name)?);
    }
    // Without the primary group among them, a file's permissions for a group could be dodged by a program that changes its group (CVE-2022-36109).
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(GROUPS_MAX);
    Ok(Resolved { uid, gid, groups, home: entry.map_or("/".to_owned(), |entry| entry.home.to_owned()) })
}

/// A number, `None` for a name.
fn id(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= i32::MAX as u32 => Ok(Some(number)),
        _ => Err(Error::invalid(format!("{text} is not an id: uids and gids must be in range 0-2147483647"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:Web:/var/www:/bin/sh\n1000:x:7:8::/odd:/bin/sh\nbad line\nnohome:x:40:41:::\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nweb:x:33:\nextra:x:90:nobody, web\n";

    fn get(user: &str, additional: &[&str]) -> Result<(u32, u32, Vec<u32>, String)> {
        let additional: Vec<String> = additional.iter().map(|&name| name.to_owned()).collect();
        resolve_in(PASSWD, GROUP, user, &additional).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(get("", &[]).unwrap(), (0, 0, vec![0, 10], "/root".into()));
        assert_eq!(get("web", &[]).unwrap(), (33, 33, vec![10, 33, 90], "/var/www".into()));
        assert_eq!(get("33", &[]).unwrap(), (33, 33, vec![10, 33, 90], "/var/www".into()));
        assert_eq!(get("web:wheel", &[]).unwrap(), (33, 10, vec![10], "/var/www".into()));
        assert_eq!(get("5:6", &["extra", "77", "77"]).unwrap(), (5, 6, vec![6, 77, 90], "/".into()));
        assert_eq!(get("5", &[]).unwrap(), (5, 0, vec![0], "/".into()));
        assert_eq!(get("1000", &[]).unwrap().0, 7, "a name goes before a number");
        assert_eq!(get("nohome", &[]).unwrap().3, "/");
        assert_eq!(get(":wheel", &[]).unwrap().1, 10);
    }

    #[test]
    fn what_is_not_listed_is_told() {
        assert_eq!(get("nobody", &[]).unwrap_err().to_string(), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(get("web:none", &[]).unwrap_err().to_string(), "unable to find group none: no matching entries in group file");
        assert!(get("4294967295", &[]).is_err());
        assert!(get("0", &["99999999999"]).is_err());
    }
}
