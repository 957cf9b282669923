//! `state`, `kill`, `pause`, `resume`, `ps`, `delete` and `list`.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::args::{Args, Flags};
use super::state::{Folder, Record, Status};
use super::{Global, Outcome, print, words};
use crate::launch::after_stop;

/// How long a killed process may take to be gone.
const KILL_TIMEOUT_S: i64 = 10;

fn parse(args: &[OsString], values: &'static [&'static str], switches: &'static [&'static str]) -> Result<Args, String> {
    Args::parse_anywhere(args, &Flags { values, switches })
}

fn load(global: &Global, id: &str) -> Result<(Folder, Record), String> {
    let folder = Folder::of(global, id)?;
    let record = folder.load()?;
    Ok((folder, record))
}

fn group(record: &Record) -> Result<cgroup::Group, String> {
    if !record.grouped {
        return Err(format!("the container {:?} has no control group of its own", record.id));
    }
    Ok(cgroup::Group::open(&cgroup::System::detect().map_err(words)?, &record.cgroup))
}

pub(super) fn state(global: &Global, args: &[OsString]) -> Outcome {
    let (folder, record) = load(global, &parse(args, &[], &[])?.only_id()?)?;
    let text = serde_json::to_string_pretty(&record.json(folder.status(&record))).map_err(words)?;
    print(&format!("{text}\n"));
    Ok(0)
}

pub(super) fn kill(global: &Global, args: &[OsString]) -> Outcome {
    let mut args = parse(args, &[], &["a", "all"])?;
    let all = args.has(&["a", "all"]);
    let id = args.next().ok_or("a container's name is missing")?;
    let signal = signal_number(&args.next().unwrap_or_else(|| "TERM".into()))?;
    let (_, record) = load(global, &id)?;
    if all {
        let pids = group(&record)?.pids().map_err(words)?;
        for pid in pids {
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
            // What has ended meanwhile needs no signal.
            let _ = pidfd.and_then(|pidfd| kernel::pidfd::send_signal(pidfd.as_fd(), signal));
        }
        return Ok(0);
    }
    let (_, pidfd) = record.process().ok_or_else(|| format!("the container {id:?} is not running"))?;
    kernel::pidfd::send_signal(pidfd.as_fd(), signal).map_err(|errno| format!("send signal {signal} to the container {id:?}: {errno}"))?;
    Ok(0)
}

/// A signal by number or name, with or without SIG.
fn signal_number(text: &str) -> Result<i32, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
        "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const REAL_TIME_MIN: i32 = 34;
    const REAL_TIME_MAX: i32 = 64;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| {
        let (base, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => (REAL_TIME_MIN, rest),
            (_, Some(rest)) => (REAL_TIME_MAX, rest),
            _ => return None,
        };
        let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
        Some(base + offset).filter(|number| (REAL_TIME_MIN..=REAL_TIME_MAX).contains(number))
    };
    let number = name.parse().ok().filter(|number| (1..=REAL_TIME_MAX).contains(number));
    let named = NAMES.iter().position(|known| *known == name).map(|at| at as i32 + 1);
    number.or(named).or_else(|| real_time(name)).ok_or_else(|| format!("{text:?} is not a signal"))
}

pub(super) fn pause(global: &Global, args: &[OsString]) -> Outcome {
    let id = parse(args, &[], &[])?.only_id()?;
    let (folder, record) = load(global, &id)?;
    match folder.status(&record) {
        Status::Running | Status::Created => group(&record)?.freeze().map(|()| 0).map_err(words),
        other => Err(format!("the container {id:?} cannot be paused: it is {}", other.name())),
    }
}

pub(super) fn resume(global: &Global, args: &[OsString]) -> Outcome {
    let id = parse(args, &[], &[])?.only_id()?;
    let (folder, record) = load(global, &id)?;
    match folder.status(&record) {
        Status::Paused => group(&record)?.thaw().map(|()| 0).map_err(words),
        other => Err(format!("the container {id:?} cannot be resumed: it is {}", other.name())),
    }
}

pub(super) fn ps(global: &Global, args: &[OsString]) -> Outcome {
    let args = parse(args, &["f", "format"], &[])?;
    let format = args.text(&["f", "format"]).unwrap_or_else(|| "table".into());
    let (_, record) = load(global, &args.only_id()?)?;
    let pids: Vec<i32> = group(&record)?.pids().map_err(words)?.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    match format.as_str() {
        "json" => print(&format!("{}\n", serde_json::json!(pids))),
        "table" => {
            let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let rows: String = pids.iter().map(|pid| format!("{pid:<8} {}\n", name(pid).trim_end())).collect();
            print(&format!("{:<8} CMD\n{rows}", "PID"));
        }
        other => return Err(format!("--format takes table or json, not {other:?}")),
    }
    Ok(0)
}

pub(super) fn delete(global: &Global, args: &[OsString]) -> Outcome {
    let args = parse(args, &[], &["f", "force"])?;
    let force = args.has(&["f", "force"]);
    let id = args.only_id()?;
    let folder = Folder::of(global, &id)?;
    let record = match folder.load() {
        Ok(record) => record,
        // As runc has it: what is to be gone and is gone is no failure when forced.
        Err(_) if force => return Ok(0),
        Err(error) => return Err(error),
    };
    match folder.status(&record) {
        Status::Stopped => {}
        // A process that waits for its start has nothing to lose.
        Status::Created => kill_and_wait(&record)?,
        _ if force => kill_and_wait(&record)?,
        other => return Err(format!("the container {id:?} cannot be deleted: it is {}; stop it or use --force", other.name())),
    }
    if record.grouped {
        let group = group(&record)?;
        group.kill_all().and_then(|()| group.remove()).map_err(words)?;
    }
    let failed: Vec<String> = after_stop(&record.spec, &record.id, &record.bundle).into_iter().map(words).collect();
    folder.remove()?;
    if failed.is_empty() { Ok(0) } else { Err(failed.join("; ")) }
}

fn kill_and_wait(record: &Record) -> Result<(), String> {
    let Some((_, pidfd)) = record.process() else { return Ok(()) };
    // It may have ended meanwhile. A frozen process dies when it is thawed, which kill_all sees to.
    let _ = kernel::pidfd::send_signal(pidfd.as_fd(), 9);
    let _ = group(record).map(|group| group.thaw());
    wait_for_end(record)
}

/// Waits until the container's first process has ended.
pub(super) fn wait_for_end(record: &Record) -> Result<(), String> {
    let Some((_, pidfd)) = record.process() else { return Ok(()) };
    let timeout = Timespec { tv_sec: KILL_TIMEOUT_S, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))) {
        Ok(0) => Err(format!("the container {:?} did not end within {KILL_TIMEOUT_S} s", record.id)),
        _ => Ok(()),
    }
}

pub(super) fn list(global: &Global, args: &[OsString]) -> Outcome {
    let args = parse(args, &["f", "format"], &["q", "quiet"])?;
    args.nothing_more()?;
    let format = args.text(&["f", "format"]).unwrap_or_else(|| "table".into());
    let entries = match fs::read_dir(&global.root) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("read {}: {error}", global.root.display())),
    };
    let mut found: Vec<(Record, Status)> = Vec::new();
    // A folder without a state is one that is being made or removed.
    for (folder, record) in entries.iter().filter_map(|id| load(global, id).ok()) {
        let status = folder.status(&record);
        found.push((record, status));
    }
    found.sort_by(|one, other| one.0.id.cmp(&other.0.id));
    if args.has(&["q", "quiet"]) {
        print(&found.iter().map(|(record, _)| format!("{}\n", record.id)).collect::<String>());
        return Ok(0);
    }
    match format.as_str() {
        "json" => print(&format!("{}\n", serde_json::Value::from_iter(found.iter().map(|(record, status)| record.json(*status))))),
        "table" => {
            let width = found.iter().map(|(record, _)| record.id.len()).max().unwrap_or(0).max(8) + 2;
            let row = |id: &str, pid: &str, status: &str, bundle: &str, created: &str, owner: &str| {
                format!("{id:width$}{pid:<10}{status:<10}{bundle}  {created:<30}  {owner}\n")
            };
            let rows = found.iter().map(|(record, status)| {
                let pid = if *status == Status::Stopped { 0 } else { record.pid };
                row(&record.id, &pid.to_string(), status.name(), &record.bundle.display().to_string(), &record.created, "root")
            });
            print(&[row("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")].into_iter().chain(rows).collect::<String>());
        }
        other => return Err(format!("--format takes table or json, not {other:?}")),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("TERM", 15), ("SIGKILL", 9), ("kill", 9), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)] {
            assert_eq!(signal_number(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-1"] {
            assert!(signal_number(bad).is_err(), "{bad:?}");
        }
    }
}
