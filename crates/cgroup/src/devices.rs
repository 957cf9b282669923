//! Which device nodes a group may use: the rules, what they amount to, and the eBPF program that version 2 needs for it.

use std::os::fd::AsFd;
use std::path::Path;

use kernel::bpf::{self, Instruction};
use rustix::fs::{Mode, OFlags, open};

use crate::group::Member;
use crate::{Error, Group, Result, file};

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// Block.
    Block,
    /// Character.
    Char,
}

/// One rule of a device list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// Which kind it is about.
    pub kind: DeviceKind,
    /// Major number; `None` any.
    pub major: Option<u32>,
    /// Minor number; `None` any.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making a node.
    pub mknod: bool,
}

// Bits of an access, as the kernel numbers them for device filters.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY: u8 = MKNOD | READ | WRITE;

/// What a list of rules amounts to: a default, and the cases in which the opposite holds. This is the model of version 1, kept on both versions.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    allow: bool,
    exceptions: Vec<(DeviceKind, Option<u32>, Option<u32>, u8)>,
}

impl Policy {
    fn of(rules: &[DeviceRule]) -> Self {
        let mut policy = Self { allow: true, exceptions: Vec::new() };
        for rule in rules {
            let access = if rule.read { READ } else { 0 } | if rule.write { WRITE } else { 0 } | if rule.mknod { MKNOD } else { 0 };
            if rule.kind == DeviceKind::All {
                policy = Self { allow: rule.allow, exceptions: Vec::new() };
                continue;
            }
            let same = |&(kind, major, minor, _): &(DeviceKind, Option<u32>, Option<u32>, u8)| {
                (kind, major, minor) == (rule.kind, rule.major, rule.minor)
            };
            let position = policy.exceptions.iter().position(same);
            match (rule.allow == policy.allow, position) {
                (false, None) => policy.exceptions.push((rule.kind, rule.major, rule.minor, access)),
                (false, Some(at)) => policy.exceptions[at].3 |= access,
                (true, Some(at)) => policy.exceptions[at].3 &= !access,
                (true, None) => {}
            }
        }
        policy.exceptions.retain(|exception| exception.3 != 0);
        policy
    }
}

/// Puts `rules` in force on `group`, in the place of those before.
pub(crate) fn apply(group: &Group, rules: &[DeviceRule]) -> Result<()> {
    let policy = Policy::of(rules);
    if let Some(member) = group.member("devices") {
        return write_v1(member, &policy);
    }
    match group.member("").filter(|member| file::try_read(&member.directory.join("cgroup.type")).is_ok()) {
        Some(member) => attach_v2(&member.directory, &policy),
        None => Err(Error::NoController { what: "the use of devices", controller: "devices" }),
    }
}

fn write_v1(member: &Member, policy: &Policy) -> Result<()> {
    let (allow, deny) = (member.directory.join("devices.allow"), member.directory.join("devices.deny"));
    let (default, opposite) = if policy.allow { (allow, deny) } else { (deny, allow) };
    file::write(&default, "a")?;
    let mut lines = Vec::with_capacity(policy.exceptions.len());
    for &(kind, major, minor, access) in &policy.exceptions {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if kind == DeviceKind::Block { 'b' } else { 'c' };
        let letters: String =
            [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|(_, letter)| letter).collect();
        lines.push(format!("{kind} {}:{} {letters}", number(major), number(minor)));
    }
    file::write_each(&opposite, &lines)
}

fn attach_v2(directory: &Path, policy: &Policy) -> Result<()> {
    let fail = |operation| move |source| Error::DeviceFilter { operation, path: directory.to_owned(), source };
    let group = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail("attach"))?;
    let before = bpf::device_filters(group.as_fd()).map_err(fail("look up"))?;
    if policy.allow && policy.exceptions.is_empty() && before.is_empty() {
        return Ok(());
    }
    let program = bpf::load_device_filter(&compile(policy)).map_err(fail("load"))?;
    let replaced = if let [one] = before.as_slice() { Some(one.as_fd()) } else { None };
    bpf::attach_device_filter(group.as_fd(), program.as_fd(), replaced).map_err(fail("attach"))
}

// The few operations of eBPF that the filter needs, and its registers: 1 holds the context, 2 the kind, 3 the access, 4 and 5 the numbers.
const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x74;
const MOVE_IMMEDIATE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// The program: each exception is tested in turn and ends the program when it holds, then comes the default.
fn compile(policy: &Policy) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset, immediate| Instruction { code, registers: to | from << 4, offset, immediate };
    let answer = |allow: bool| [op(MOVE_IMMEDIATE, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)];
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT_IMMEDIATE, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for &(kind, major, minor, access) in &policy.exceptions {
        let mut tests = vec![op(JUMP_NOT_EQUAL, 2, 0, 0, if kind == DeviceKind::Block { 1 } else { 2 })];
        if access != EVERY {
            // An allowed case must contain all that is asked; a denied one need only touch it.
            let mask = if policy.allow { access } else { EVERY & !access };
            tests.push(op(MOVE_REGISTER, 1, 3, 0, 0));
            tests.push(op(AND_IMMEDIATE, 1, 0, 0, i32::from(mask)));
            tests.push(op(if policy.allow { JUMP_EQUAL } else { JUMP_NOT_EQUAL }, 1, 0, 0, 0));
        }
        // Larger numbers than the kernel's 20 bits never come, so the cast keeps every meaningful one.
        tests.extend(major.map(|number| op(JUMP_NOT_EQUAL, 4, 0, 0, number as i32)));
        tests.extend(minor.map(|number| op(JUMP_NOT_EQUAL, 5, 0, 0, number as i32)));
        let length = tests.len();
        for (at, test) in tests.iter_mut().enumerate().filter(|(_, test)| matches!(test.code, JUMP_EQUAL | JUMP_NOT_EQUAL)) {
            test.offset = (length - at - 1 + 2) as i16;
        }
        program.extend(tests);
        program.extend(answer(!policy.allow));
    }
    program.extend(answer(policy.allow));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, read: access.contains('r'), write: access.contains('w'), mknod: access.contains('m') }
    }

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u32; 16];
        let mut at = 0usize;
        loop {
            let i = program[at];
            at += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            match i.code {
                LOAD_WORD => registers[to] = context[i.offset as usize / 4],
                AND_IMMEDIATE => registers[to] &= i.immediate as u32,
                SHIFT_RIGHT_IMMEDIATE => registers[to] >>= i.immediate,
                MOVE_IMMEDIATE => registers[to] = i.immediate as u32,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_NOT_EQUAL if registers[to] != i.immediate as u32 => at += i.offset as usize,
                JUMP_EQUAL if registers[to] == i.immediate as u32 => at += i.offset as usize,
                JUMP_NOT_EQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn an_allow_list_lets_through_what_it_names_and_no_more() {
        let policy = Policy::of(&[
            rule(true, DeviceKind::Char, Some(9), Some(9), "rwm"),
            rule(false, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::Char, None, None, "m"),
            rule(true, DeviceKind::Char, Some(1), Some(3), "rwm"),
            rule(true, DeviceKind::Block, Some(8), None, "r"),
        ]);
        let program = compile(&policy);
        let (block, char, mknod, read, write) = (1, 2, 1, 2, 4);
        assert!(run(&program, char, read | write, 1, 3));
        assert!(!run(&program, char, read, 1, 4));
        assert!(run(&program, char, mknod, 1, 4));
        assert!(!run(&program, block, mknod, 1, 3));
        assert!(run(&program, block, read, 8, 77));
        assert!(!run(&program, block, read | write, 8, 77));
        assert!(!run(&program, char, read, 9, 9), "rules before a rule for all devices are forgotten");
    }

    #[test]
    fn a_deny_list_stops_what_touches_it() {
        let policy = Policy::of(&[rule(true, DeviceKind::All, None, None, "rwm"), rule(false, DeviceKind::Block, Some(8), Some(0), "w")]);
        let program = compile(&policy);
        assert!(run(&program, 1, 2, 8, 0));
        assert!(!run(&program, 1, 2 | 4, 8, 0));
        assert!(run(&program, 1, 4, 8, 1));
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: loading a device filter needs root");
            return;
        }
        let rules: Vec<_> = (0..40).map(|minor| rule(true, DeviceKind::Char, Some(1), Some(minor), "rw")).collect();
        let all = [vec![rule(false, DeviceKind::All, None, None, "rwm")], rules].concat();
        bpf::load_device_filter(&compile(&Policy::of(&all))).unwrap();
    }
}
