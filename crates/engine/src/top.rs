//! The processes of a container as a table, read from /proc: the columns of `ps` that people ask for, without running `ps`.

use std::collections::HashMap;
use std::fs;

use jiff::{Timestamp, tz::TimeZone};
use types::container::Status;

use crate::request::Processes;
use crate::{Engine, Error};

const CLOCK_TICKS_PER_S: u64 = 100;
const PAGE_BYTES: u64 = 4096;
/// A name longer than this is shown as its number, as `ps` does.
const USER_NAME_LEN_MAX: usize = 8;
const CMDLINE_BYTES_MAX: usize = 32 * 1024;

impl Engine {
    /// The processes of a running container. `ps_args` is `-ef` when absent; `aux` and `-o column,…` are understood too.
    pub async fn top(&self, name: &str, ps_args: Option<&str>) -> Result<Processes, Error> {
        let container = self.find(name)?;
        let record = container.record();
        match record.state.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => return Err(Error::Restarting { name: record.name.clone() }),
            _ => return Err(Error::NotRunning { id: record.id.clone() }),
        }
        let columns = columns(ps_args.unwrap_or("-ef"))?;
        let group = self.group(&record);
        self.events.publish("container", "top", record.id.as_str(), record.attributes());
        tokio::task::spawn_blocking(move || {
            let pids = group.pids().map_err(|source| Error::Cgroup { id: record.id.clone(), source })?;
            let pids: Vec<i32> = pids.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            Ok(table(&columns, &pids))
        })
        .await?
    }
}

/// A column of the table: its title, and how it is read off a process.
#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    value: fn(&Process, &Host) -> String,
}

/// What /proc says of one process.
struct Process {
    pid: i32,
    ppid: i32,
    uid: u32,
    state: char,
    flags: String,
    tty: i64,
    utime: u64,
    stime: u64,
    nice: i64,
    threads: i64,
    start: u64,
    vsize: u64,
    rss_pages: u64,
    comm: String,
    args: String,
}

/// What is needed of the machine to make sense of a process.
struct Host {
    users: HashMap<u32, String>,
    uptime_s: f64,
    memory_bytes: u64,
    now: Timestamp,
}

fn columns(ps_args: &str) -> Result<Vec<Column>, Error> {
    let unknown = |what: &str| Error::PsArguments { arguments: ps_args.to_owned(), unknown: what.to_owned() };
    let words: Vec<&str> = ps_args.split_whitespace().collect();
    let mut names: Vec<String> = Vec::new();
    let mut set = "-ef";
    let mut index = 0;
    while index < words.len() {
        let word = words[index];
        let chosen = word.strip_prefix("-o").or_else(|| word.strip_prefix("-eo")).or_else(|| word.strip_prefix("--format="));
        if let Some(inline) = chosen.or(if word == "o" { Some("") } else { None }) {
            let list = if inline.is_empty() {
                index += 1;
                words.get(index).copied().ok_or_else(|| unknown(word))?
            } else {
                inline
            };
            names.extend(list.split(',').map(|name| name.trim().to_ascii_lowercase()));
        } else {
            set = match word {
                "-e" | "-A" | "-ef" | "-f" | "ef" => "-ef",
                "aux" | "-aux" | "u" | "a" | "x" | "au" | "ax" => "aux",
                other => return Err(unknown(other)),
            };
        }
        index += 1;
    }
    if names.is_empty() {
        let all: &[&str] = if set == "aux" {
            &["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command"]
        } else {
            &["uid_name", "pid", "ppid", "c", "stime", "tty", "time", "cmd"]
        };
        names = all.iter().map(|name| (*name).to_owned()).collect();
    }
    names.iter().map(|name| column(name).ok_or_else(|| unknown(name))).collect()
}

fn column(name: &str) -> Option<Column> {
    let (title, value): (&str, fn(&Process, &Host) -> String) = match name {
        "user" | "euser" | "uname" => ("USER", |process, host| host.user(process.uid)),
        "uid_name" => ("UID", |process, host| host.user(process.uid)),
        "uid" | "euid" => ("UID", |process, _| process.uid.to_string()),
        "pid" => ("PID", |process, _| process.pid.to_string()),
        "ppid" => ("PPID", |process, _| process.ppid.to_string()),
        "c" => ("C", |process, host| format!("{:.0}", process.cpu_percent(host))),
        "%cpu" | "pcpu" => ("%CPU", |process, host| format!("{:.1}", process.cpu_percent(host))),
        "%mem" | "pmem" => ("%MEM", |process, host| {
            format!("{:.1}", process.rss_pages as f64 * PAGE_BYTES as f64 * 100.0 / host.memory_bytes.max(1) as f64)
        }),
        "vsz" | "vsize" => ("VSZ", |process, _| (process.vsize / 1024).to_string()),
        "rss" | "rssize" => ("RSS", |process, _| (process.rss_pages * PAGE_BYTES / 1024).to_string()),
        "tty" | "tt" | "tname" => ("TTY", |process, _| process.tty_name()),
        "stat" => ("STAT", |process, _| process.flags.clone()),
        "s" | "state" => ("S", |process, _| process.state.to_string()),
        "nlwp" | "thcount" => ("NLWP", |process, _| process.threads.to_string()),
        "ni" | "nice" => ("NI", |process, _| process.nice.to_string()),
        "stime" => ("STIME", |process, host| process.start_time(host)),
        "start" => ("START", |process, host| process.start_time(host)),
        "time" | "cputime" => ("TIME", |process, _| {
            let seconds = process.cpu_seconds();
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }),
        "bsdtime" => ("TIME", |process, _| format!("{}:{:02}", process.cpu_seconds() / 60, process.cpu_seconds() % 60)),
        "etime" => ("ELAPSED", |process, host| elapsed(process.age_s(host) as u64)),
        "comm" | "ucmd" | "ucomm" => ("COMMAND", |process, _| process.comm.clone()),
        "cmd" => ("CMD", |process, _| process.args.clone()),
        "args" | "command" => ("COMMAND", |process, _| process.args.clone()),
        _ => return None,
    };
    Some(Column { title, value })
}

fn table(columns: &[Column], pids: &[i32]) -> Processes {
    let host = Host::read();
    let mut processes: Vec<Process> = pids.iter().filter_map(|pid| Process::read(*pid)).collect();
    processes.sort_by_key(|process| process.pid);
    let row = |process: &Process| columns.iter().map(|column| (column.value)(process, &host)).collect();
    Processes { titles: columns.iter().map(|column| column.title.to_owned()).collect(), rows: processes.iter().map(row).collect() }
}

impl Process {
    /// `None` when it has ended meanwhile.
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        cmdline.truncate(CMDLINE_BYTES_MAX);
        Self::parse(pid, &stat, &status, &cmdline)
    }

    fn parse(pid: i32, stat: &str, status: &str, cmdline: &[u8]) -> Option<Self> {
        // The name may hold spaces and parentheses: fields are counted from the last closing one.
        let (head, tail) = stat.rsplit_once(')')?;
        let comm = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok()).unwrap_or(0);
        let state = fields.first()?.chars().next()?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()?;
        let words: Vec<_> = cmdline.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
        let args = if words.is_empty() { format!("[{comm}]") } else { words.join(" ") };
        let (pgrp, session, foreground, nice, threads) = (number(2), number(3), number(5), number(16), number(17));
        let mut flags = String::from(state);
        for (holds, flag) in [
            (nice < 0, '<'),
            (nice > 0, 'N'),
            (session == i64::from(pid), 's'),
            (threads > 1, 'l'),
            (foreground == pgrp && foreground > 0, '+'),
        ] {
            if holds {
                flags.push(flag);
            }
        }
        Some(Self {
            pid,
            ppid: number(1) as i32,
            uid,
            state,
            flags,
            tty: number(4),
            utime: number(11) as u64,
            stime: number(12) as u64,
            nice,
            threads,
            start: number(19) as u64,
            vsize: number(20) as u64,
            rss_pages: number(21) as u64,
            comm,
            args,
        })
    }

    fn cpu_seconds(&self) -> u64 {
        (self.utime + self.stime) / CLOCK_TICKS_PER_S
    }

    fn age_s(&self, host: &Host) -> f64 {
        (host.uptime_s - self.start as f64 / CLOCK_TICKS_PER_S as f64).max(0.0)
    }

    fn cpu_percent(&self, host: &Host) -> f64 {
        let age = self.age_s(host);
        if age < 0.01 { 0.0 } else { (self.utime + self.stime) as f64 / CLOCK_TICKS_PER_S as f64 / age * 100.0 }
    }

    fn start_time(&self, host: &Host) -> String {
        let started = host.now - jiff::SignedDuration::from_secs_f64(self.age_s(host));
        let format = if self.age_s(host) < 24.0 * 3600.0 { "%H:%M" } else { "%b%d" };
        started.to_zoned(TimeZone::system()).strftime(format).to_string()
    }

    fn tty_name(&self) -> String {
        let (major, minor) = ((self.tty >> 8) & 0xfff, (self.tty & 0xff) | ((self.tty >> 12) & 0xfff00));
        match major {
            0 => "?".to_owned(),
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
            _ => format!("{major}:{minor}"),
        }
    }
}

impl Host {
    fn read() -> Self {
        let first = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let users = first("/etc/passwd")
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
            })
            .collect();
        let uptime_s = first("/proc/uptime").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        Self { users, uptime_s, memory_bytes: crate::host::memory_total(), now: Timestamp::now() }
    }

    fn user(&self, uid: u32) -> String {
        self.users.get(&uid).filter(|name| name.len() <= USER_NAME_LEN_MAX).cloned().unwrap_or_else(|| uid.to_string())
    }
}

/// `[[days-]hours:]minutes:seconds`.
fn elapsed(seconds: u64) -> String {
    let (days, hours, minutes, rest) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{rest:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{rest:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{rest:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_chosen_by_the_arguments() {
        let titles = |args: &str| columns(args).map(|list| list.iter().map(|column| column.title).collect::<Vec<_>>());
        assert_eq!(titles("-ef").expect("known"), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(titles("aux").expect("known")[4], "VSZ");
        assert_eq!(titles("-eo pid,comm").expect("known"), ["PID", "COMMAND"]);
        assert!(titles("--forest").is_err() && titles("-o nothing").is_err() && titles("-o").is_err());
    }

    #[test]
    fn a_process_with_an_odd_name_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 34816 7 4194560 90 0 0 0 250 50 0 0 20 0 1 0 1000 2318336 344 184467";
        let process = Process::parse(7, stat, "Name:\tx\nUid:\t0\t1000\t0\t0\n", b"sleep\x00300\x00").expect("parses");
        assert_eq!((process.comm.as_str(), process.ppid, process.uid, process.args.as_str()), ("a) b (c", 1, 1000, "sleep 300"));
        assert_eq!((process.flags.as_str(), process.tty_name().as_str(), process.cpu_seconds()), ("Ss+", "pts/0", 3));
    }

    #[test]
    fn elapsed_time_has_as_many_fields_as_it_needs() {
        assert_eq!([elapsed(5), elapsed(3661), elapsed(90061)], ["00:05", "01:01:01", "1-01:01:01"]);
    }
}
