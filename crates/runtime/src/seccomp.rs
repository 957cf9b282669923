//! System-call filters: from the specification's form to a program for the kernel, and Docker's default profile.
//!
//! A program first looks at the architecture, then finds the call's number by binary search over ranges of numbers that are treated alike, then looks at
//! arguments where the profile asks for it. So a call costs about eight comparisons, however many the profile names, and the kernel recognises calls that
//! are always allowed and stops running the program for them.

mod docker;
mod table;

use std::collections::BTreeMap;

use kernel::seccomp::{Instruction, flag};

use self::table::{NONE, TABLE};
use crate::{Error, Result, oci};

/// The kernel accepts no longer programs.
const INSTRUCTIONS_MAX: usize = 4096;

/// Compiles a filter for x86-64 (with x86 and x32 where the architectures say so) into the kernel's bytes, eight per instruction.
/// The result depends on the profile alone, so it can be kept under the profile's hash.
///
/// Names that this table of calls does not know are passed over, as every runtime does. Where the default is an error, calls newer than the newest that
/// the profile names answer ENOSYS instead, so that programs fall back to older ones.
///
/// # Errors
/// [`crate::Error::Invalid`] for unknown actions, operators or architectures, and for error numbers above 0xFFFF, which the kernel would truncate.
pub fn compile(profile: &oci::Seccomp) -> Result<Vec<u8>> {
    let program = program(profile)?;
    if program.len() > INSTRUCTIONS_MAX {
        return Err(Error::invalid(format!(
            "the seccomp profile needs {} instructions: the kernel takes {INSTRUCTIONS_MAX}",
            program.len()
        )));
    }
    Ok(program.iter().flat_map(|instruction| instruction.to_bytes()).collect())
}

/// Docker's default profile for a process that has `capabilities` (names with `CAP_`).
pub fn docker_default(capabilities: &[String]) -> oci::Seccomp {
    docker::profile(capabilities)
}

/// Flags of a profile and what they are towards the kernel.
const FLAGS: [(&str, u32); 4] = [
    // A process with one thread is in sync anyway.
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
];

/// Every flag that is understood.
pub(crate) fn flag_names() -> impl Iterator<Item = (&'static str, u32)> {
    FLAGS.into_iter()
}

/// The flags with which a profile's filter is loaded. Checks what the profile says about being asked, too.
pub(crate) fn load_flags(profile: &oci::Seccomp) -> Result<u32> {
    check_listener(profile)?;
    profile.flags.iter().enumerate().try_fold(0, |flags, (at, name)| {
        let known = FLAGS.iter().find(|(known, _)| known == name).map(|(_, bit)| flags | bit);
        known.ok_or_else(|| {
            let names = FLAGS.map(|(name, _)| name).join(", ");
            Error::field(format!("linux.seccomp.flags[{at}]"), format!("the seccomp flag {name:?} is not known: {names} are"))
        })
    })
}

/// Who is asked needs a way to be asked, and the runtime a way to hand it over.
fn check_listener(profile: &oci::Seccomp) -> Result<()> {
    const NOTIFY: &str = "SCMP_ACT_NOTIFY";
    if profile.default_action == NOTIFY {
        return Err(Error::field("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be the default: name the calls to ask about"));
    }
    let asks = profile.syscalls.iter().any(|entry| entry.action == NOTIFY);
    let unable = |entry: &oci::Syscalls| entry.action == NOTIFY && entry.names.iter().any(|name| name == "sendmsg");
    if let Some(at) = profile.syscalls.iter().position(unable) {
        let what = "SCMP_ACT_NOTIFY cannot be the action for sendmsg: the descriptor is handed over with it";
        return Err(Error::field(format!("linux.seccomp.syscalls[{at}]"), what));
    }
    match (asks, profile.listener_path.is_empty()) {
        (true, true) => Err(Error::field("linux.seccomp.listenerPath", "it is missing, but there are calls with SCMP_ACT_NOTIFY")),
        (false, false) => Err(Error::field("linux.seccomp.listenerPath", "it is given, but no call has SCMP_ACT_NOTIFY")),
        (_, false) if !std::path::Path::new(&profile.listener_path).is_absolute() => {
            Err(Error::field("linux.seccomp.listenerPath", format!("{:?} is not an absolute path", profile.listener_path)))
        }
        _ => Ok(()),
    }
}

/// What becomes of a call, as the kernel encodes it.
type Action = u32;

const KILL_PROCESS: Action = 0x8000_0000;
const ERRNO: Action = 0x0005_0000;
const TRACE: Action = 0x7ff0_0000;
/// Linux has no error numbers above this, and takes larger ones from a filter for this one.
const ERRNO_MAX: u32 = 4095;
const ENOSYS: Action = ERRNO | 38;

/// What becomes of a call: the first rule whose conditions hold, or else the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    rules: Vec<(Vec<Condition>, Action)>,
    otherwise: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    argument: u32,
    operator: Operator,
    value: u64,
    mask: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// The names of actions, and their numbers without data.
pub(crate) const ACTIONS: [(&str, Action); 9] = [
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_THREAD", 0),
    ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_TRACE", TRACE),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
];

fn action(field: &str, name: &str, number: Option<u32>) -> Result<Action> {
    const EPERM: u32 = 1;
    // Debuggers get any data, programs the numbers that the C library takes for errors. What does not fit would become another action.
    let most = if name == "SCMP_ACT_TRACE" { 0xffff } else { ERRNO_MAX };
    if let Some(number) = number.filter(|number| *number > most) {
        return Err(Error::field(field, format!("the seccomp errnoRet {number} is out of range: 0 to {most} are allowed")));
    }
    let known = ACTIONS.iter().find(|(known, _)| *known == name).map(|(_, action)| *action);
    let action = known.ok_or_else(|| {
        Error::field(field, format!("{name:?} is not a seccomp action: {} are", ACTIONS.map(|(name, _)| name).join(", ")))
    })?;
    Ok(if action == ERRNO || action == TRACE { action | number.unwrap_or(EPERM) } else { action })
}

/// The operators of conditions.
pub(crate) const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_NE", Operator::NotEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_MASKED_EQ", Operator::Equal),
];

fn condition(field: &str, argument: &oci::SyscallArg) -> Result<Condition> {
    if argument.index > 5 {
        return Err(Error::field(field, format!("a system call has arguments 0 to 5, not {}", argument.index)));
    }
    let known = OPERATORS.iter().find(|(known, _)| *known == argument.op).map(|(_, operator)| *operator);
    let operator = known.ok_or_else(|| {
        let names = OPERATORS.map(|(name, _)| name).join(", ");
        Error::field(field, format!("{:?} is not a seccomp operator: {names} are", argument.op))
    })?;
    let plain = Condition { argument: argument.index, operator, value: argument.value, mask: u64::MAX };
    Ok(match argument.op.as_str() {
        "SCMP_CMP_MASKED_EQ" => Condition { value: argument.value_two & argument.value, mask: argument.value, ..plain },
        _ => plain,
    })
}

/// The ways to call the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    X86_64,
    X86,
    X32,
}

impl Architecture {
    fn number(self, entry: &(&str, u16, u16, u16)) -> Option<u32> {
        let number = match self {
            Self::X86_64 => entry.1,
            Self::X86 => entry.2,
            Self::X32 => entry.3,
        };
        (number != NONE).then(|| u32::from(number) | if self == Self::X32 { X32_BIT } else { 0 })
    }
}

const X32_BIT: u32 = 0x4000_0000;
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// The architectures of the profile besides x86-64 itself. Those of other machines have no meaning here.
fn architectures(profile: &oci::Seccomp) -> Result<(bool, bool)> {
    let (mut x86, mut x32) = (false, false);
    for name in &profile.architectures {
        match name.as_str() {
            "SCMP_ARCH_X86" => x86 = true,
            "SCMP_ARCH_X32" => x32 = true,
            known if known.starts_with("SCMP_ARCH_") => {}
            other => {
                return Err(Error::field(
                    "linux.seccomp.architectures",
                    format!("{other:?} is not an architecture: names like SCMP_ARCH_X86_64 are"),
                ));
            }
        }
    }
    Ok((x86, x32))
}

/// One entry of a profile, its names looked up in the table.
struct Entry {
    calls: Vec<usize>,
    /// Alternatives; one without conditions always holds.
    rules: Vec<Vec<Condition>>,
    action: Action,
}

fn entry((at, entry): (usize, &oci::Syscalls)) -> Result<Entry> {
    let field = format!("linux.seccomp.syscalls[{at}]");
    let one = |(at, argument): (usize, &oci::SyscallArg)| condition(&format!("{field}.args[{at}]"), argument);
    let conditions = entry.args.iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
    // Two conditions on one argument are alternatives; on different arguments all must hold.
    let repeated = conditions.iter().enumerate().any(|(at, one)| conditions[..at].iter().any(|other| other.argument == one.argument));
    Ok(Entry {
        calls: entry.names.iter().filter_map(|name| TABLE.binary_search_by(|known| known.0.cmp(name.as_str())).ok()).collect(),
        rules: if repeated { conditions.iter().map(|one| vec![*one]).collect() } else { vec![conditions] },
        action: action(&format!("{field}.action"), &entry.action, entry.errno_ret)?,
    })
}

/// What the profile says about each call that it names, by number.
fn verdicts(entries: &[Entry], architecture: Architecture, default: Action) -> BTreeMap<u32, Verdict> {
    let mut verdicts: BTreeMap<u32, (Verdict, bool)> = BTreeMap::new();
    for Entry { calls, rules, action } in entries {
        for number in calls.iter().filter_map(|&at| architecture.number(&TABLE[at])) {
            let (verdict, settled) = verdicts.entry(number).or_insert_with(|| (Verdict { rules: Vec::new(), otherwise: default }, false));
            if *settled {
                continue;
            }
            if rules.iter().all(Vec::is_empty) {
                verdict.otherwise = *action;
                verdict.rules.retain(|(_, other)| other != action);
                *settled = true;
            } else {
                verdict.rules.extend(rules.iter().map(|conditions| (conditions.clone(), *action)));
            }
        }
    }
    verdicts.into_iter().map(|(number, (verdict, _))| (number, verdict)).collect()
}

/// Ranges of numbers that are treated alike: where each begins, in order. The first begins at `first`.
fn ranges(verdicts: &BTreeMap<u32, Verdict>, first: u32, default: Action) -> Vec<(u32, Verdict)> {
    let plain = |action| Verdict { rules: Vec::new(), otherwise: action };
    let mut ranges = vec![(first, plain(default))];
    let mut push = |start: u32, verdict: Verdict| match ranges.last_mut() {
        Some((last, before)) if *last == start => *before = verdict,
        Some((_, before)) if *before == verdict => {}
        _ => ranges.push((start, verdict)),
    };
    let mut next = first;
    for (&number, verdict) in verdicts {
        if number > next {
            push(next, plain(default));
        }
        push(number, verdict.clone());
        next = number + 1;
    }
    // What the profile's author could not know of yet. Actions that let the call happen stay.
    let newer = if default & 0x7fff_0000 < 0x7ff0_0000 { ENOSYS } else { default };
    push(next, plain(if verdicts.is_empty() { default } else { newer }));
    merge(ranges)
}

/// Joins neighbours that a replaced start made equal.
fn merge(ranges: Vec<(u32, Verdict)>) -> Vec<(u32, Verdict)> {
    let mut merged: Vec<(u32, Verdict)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if merged.last().is_none_or(|last| last.1 != range.1) {
            merged.push(range);
        }
    }
    merged
}

// Operations of classic BPF, and offsets in `struct seccomp_data`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

fn op(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// `test`, then `no` when it fails, `yes` when it holds.
fn branch(code: u16, operand: u32, no: Vec<Instruction>, yes: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = match u8::try_from(no.len()) {
        Ok(distance) => vec![Instruction { code, jump_true: distance, jump_false: 0, operand }],
        Err(_) => vec![Instruction { code, jump_true: 0, jump_false: 1, operand }, op(JUMP, no.len() as u32)],
    };
    program.extend(no);
    program.extend(yes);
    program
}

fn program(profile: &oci::Seccomp) -> Result<Vec<Instruction>> {
    let default = action("linux.seccomp.defaultAction", &profile.default_action, profile.default_errno_ret)?;
    let (x86, x32) = architectures(profile)?;
    let entries = profile.syscalls.iter().enumerate().map(entry).collect::<Result<Vec<_>>>()?;
    let section = |architecture, first| search(&ranges(&verdicts(&entries, architecture, default), first, default));
    let kill = vec![op(RETURN, KILL_PROCESS)];
    let with_number = |section: Vec<Instruction>| [vec![op(LOAD, NUMBER)], section].concat();
    let foreign = if x86 { branch(JUMP_EQUAL, AUDIT_I386, kill.clone(), with_number(section(Architecture::X86, 0))) } else { kill.clone() };
    let wide = if x32 { section(Architecture::X32, X32_BIT) } else { kill };
    let native = branch(JUMP_GREATER_OR_EQUAL, X32_BIT, section(Architecture::X86_64, 0), wide);
    Ok([vec![op(LOAD, ARCHITECTURE)], branch(JUMP_EQUAL, AUDIT_X86_64, foreign, with_number(native))].concat())
}

/// A binary search for the range of the number in the accumulator.
fn search(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    match ranges {
        [] => vec![op(RETURN, KILL_PROCESS)],
        [(_, verdict)] => decide(verdict),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(JUMP_GREATER_OR_EQUAL, high[0].0, search(low), search(high))
        }
    }
}

fn decide(verdict: &Verdict) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (conditions, action) in &verdict.rules {
        // Built from the end: what happens when all conditions hold, and before it each test that skips it all.
        let mut rule = vec![op(RETURN, *action)];
        for condition in conditions.iter().rev() {
            rule = [test(condition, rule.len()), rule].concat();
        }
        program.extend(rule);
    }
    program.push(op(RETURN, verdict.otherwise));
    program
}

/// Instructions that fall through when the condition holds, and skip the `behind` instructions behind them when it does not. A rule has at most six
/// conditions of six instructions, so every distance fits.
fn test(condition: &Condition, behind: usize) -> Vec<Instruction> {
    let Condition { argument, operator, value, mask } = *condition;
    let (high, low) = ((value >> 32) as u32, value as u32);
    let load = |half: u32| {
        let mask = if half == 1 { (mask >> 32) as u32 } else { mask as u32 };
        let load = op(LOAD, ARGUMENTS + argument * 8 + half * 4);
        if mask == u32::MAX { vec![load] } else { vec![load, op(AND, mask)] }
    };
    let jump = |code, jump_true: usize, jump_false: usize, operand| Instruction {
        code,
        jump_true: jump_true as u8,
        jump_false: jump_false as u8,
        operand,
    };
    let (load_high, load_low) = (load(1), load(0));
    let tail = load_low.len() + 1;
    let comparison = |code: u16, holds: bool| {
        // Greater (or equal), or its negation: decided by the high half unless that is equal.
        let (yes, no) = if holds { (0, behind) } else { (behind, 0) };
        let mut program = load_high.clone();
        program.push(jump(JUMP_GREATER, yes + 1 + tail, 0, high));
        program.push(jump(JUMP_EQUAL, 0, no + tail, high));
        program.extend(load_low.clone());
        program.push(jump(code, yes, no, low));
        program
    };
    match operator {
        Operator::Equal | Operator::NotEqual => {
            let (equal, different) = if operator == Operator::Equal { (0, behind) } else { (behind, 0) };
            let mut program = load_high;
            program.push(jump(JUMP_EQUAL, 0, different + tail, high));
            program.extend(load_low);
            program.push(jump(JUMP_EQUAL, equal, different, low));
            program
        }
        Operator::Greater => comparison(JUMP_GREATER, true),
        Operator::GreaterOrEqual => comparison(JUMP_GREATER_OR_EQUAL, true),
        Operator::LessOrEqual => comparison(JUMP_GREATER, false),
        Operator::Less => comparison(JUMP_GREATER_OR_EQUAL, false),
    }
}

#[cfg(test)]
mod tests;
