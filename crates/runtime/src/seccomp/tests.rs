//! The compiled program is run by a small interpreter and held against the profile, call by call.

use super::*;

const ALLOW: Action = 0x7fff_0000;
const EPERM: Action = ERRNO | 1;

/// Runs a program as the kernel would.
fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> Action {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => architecture,
        _ => {
            let (index, half) = ((offset - ARGUMENTS) / 8, (offset - ARGUMENTS) % 8);
            if half == 4 { (arguments[index as usize] >> 32) as u32 } else { arguments[index as usize] as u32 }
        }
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD => accumulator = word(operand),
            AND => accumulator &= operand,
            JUMP => at += operand as usize,
            JUMP_EQUAL => jump(accumulator == operand),
            JUMP_GREATER => jump(accumulator > operand),
            JUMP_GREATER_OR_EQUAL => jump(accumulator >= operand),
            RETURN => return operand,
            other => panic!("operation {other:#x}"),
        }
    }
}

fn number(name: &str, architecture: Architecture) -> u32 {
    let at = TABLE.binary_search_by(|known| known.0.cmp(name)).unwrap();
    architecture.number(&TABLE[at]).unwrap()
}

/// What the profile itself says, read the slow way.
fn expected(profile: &oci::Seccomp, name: &str, arguments: [u64; 6], newer: bool) -> Action {
    for entry in profile.syscalls.iter().filter(|entry| entry.names.iter().any(|known| known == name)) {
        let holds = entry.args.iter().all(|arg| {
            let actual = arguments[arg.index as usize];
            match arg.op.as_str() {
                "SCMP_CMP_EQ" => actual == arg.value,
                "SCMP_CMP_NE" => actual != arg.value,
                "SCMP_CMP_LT" => actual < arg.value,
                "SCMP_CMP_LE" => actual <= arg.value,
                "SCMP_CMP_GT" => actual > arg.value,
                "SCMP_CMP_GE" => actual >= arg.value,
                _ => actual & arg.value == arg.value_two,
            }
        });
        if holds {
            return action("f", &entry.action, entry.errno_ret).unwrap();
        }
    }
    if newer { ENOSYS } else { action("f", &profile.default_action, profile.default_errno_ret).unwrap() }
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn the_table_is_sorted() {
    assert!(TABLE.is_sorted_by(|one, other| one.0 < other.0));
    assert_eq!(number("read", Architecture::X86_64), 0);
    assert_eq!(number("execve", Architecture::X86), 11);
    assert_eq!(number("execve", Architecture::X32), X32_BIT | 520);
}

#[test]
fn dockers_profile_holds_for_every_call_on_every_architecture() {
    for capabilities in [names(&crate::default::CAPABILITIES), names(&["CAP_SYS_ADMIN", "CAP_SYS_TIME"]), Vec::new()] {
        let profile = docker_default(&capabilities);
        let program = program(&profile).unwrap();
        for (architecture, audit) in
            [(Architecture::X86_64, AUDIT_X86_64), (Architecture::X86, AUDIT_I386), (Architecture::X32, AUDIT_X86_64)]
        {
            let listed = |entry: &&(&str, u16, u16, u16)| profile.syscalls.iter().any(|rule| rule.names.iter().any(|name| name == entry.0));
            let newest = TABLE.iter().filter(listed).filter_map(|entry| architecture.number(entry)).max().unwrap();
            for entry in &TABLE {
                let Some(number) = architecture.number(entry) else { continue };
                for first in [0, 8, 38, 39, 40, 41, 0x1000_0000, 0x7e02_0000, 0xffff_ffff, 1 << 40] {
                    let arguments = [first, 0, 0, 0, 0, 0];
                    let wanted = expected(&profile, entry.0, arguments, number > newest);
                    assert_eq!(run(&program, audit, number, arguments), wanted, "{} {architecture:?} {first:#x}", entry.0);
                }
            }
            assert_eq!(run(&program, audit, newest + 1, [0; 6]), ENOSYS);
        }
        assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), KILL_PROCESS, "another machine's calls");
        assert!(program.len() < 1500, "{} instructions", program.len());
    }
}

#[test]
fn dockers_profile_as_people_know_it() {
    let native = |capabilities: &[&str], call: &str, first: u64| {
        let program = program(&docker_default(&names(capabilities))).unwrap();
        run(&program, AUDIT_X86_64, number(call, Architecture::X86_64), [first, 0, 0, 0, 0, 0])
    };
    assert_eq!(native(&[], "openat", 0), ALLOW);
    assert_eq!(native(&[], "keyctl", 0), EPERM);
    assert_eq!(native(&[], "mount", 0), EPERM);
    assert_eq!(native(&["CAP_SYS_ADMIN"], "mount", 0), ALLOW);
    assert_eq!(native(&[], "clone3", 0), ENOSYS);
    assert_eq!(native(&["CAP_SYS_ADMIN"], "clone3", 0), ALLOW);
    assert_eq!(native(&[], "clone", 0x1000_0000), EPERM);
    assert_eq!(native(&[], "clone", 17), ALLOW);
    assert_eq!(native(&[], "socket", 38), EPERM);
    assert_eq!(native(&[], "socket", 2), ALLOW);
}

fn profile(op: &str, value: u64, value_two: u64) -> oci::Seccomp {
    oci::Seccomp {
        default_action: "SCMP_ACT_KILL_PROCESS".into(),
        syscalls: vec![oci::Syscalls {
            names: names(&["read", "no_such_call"]),
            action: "SCMP_ACT_ALLOW".into(),
            args: vec![
                oci::SyscallArg { index: 1, value, value_two, op: op.into() },
                oci::SyscallArg { index: 2, value: 7, op: "SCMP_CMP_EQ".into(), value_two: 0 },
            ],
            ..oci::Syscalls::default()
        }],
        ..oci::Seccomp::default()
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let edges = [0, 1, 5, 6, 7, 0xffff_ffff, 1 << 32, (1 << 32) + 5, (1 << 32) + 6, (1 << 32) + 7, (2 << 32) + 6, u64::MAX];
    for op in ["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE"] {
        for value in [6, (1 << 32) + 6, 0, u64::MAX] {
            let profile = profile(op, value, 0);
            let program = program(&profile).unwrap();
            for second in edges {
                for third in [7, 8] {
                    let arguments = [0, second, third, 0, 0, 0];
                    assert_eq!(
                        run(&program, AUDIT_X86_64, 0, arguments),
                        expected(&profile, "read", arguments, false),
                        "{op} {value:#x} {second:#x} {third}"
                    );
                }
            }
        }
    }
    let masked = program(&profile("SCMP_CMP_MASKED_EQ", 0xff00_0000_ff00, 0x0100_0000_0200)).unwrap();
    assert_eq!(
        run(&masked, AUDIT_X86_64, 0, [0, 0xab01_00ff_12ff | 0x0200, 7, 0, 0, 0]) == ALLOW,
        0xab01_00ff_12ffu64 & 0xff00_0000_ff00 == 0x0100_0000_0200
    );
    assert_eq!(run(&masked, AUDIT_X86_64, 0, [0, 0x0000_01ab_cdef_02ff, 7, 0, 0, 0]), ALLOW);
}

#[test]
fn alternatives_on_one_argument_and_several_rules() {
    let arg = |index, value| oci::SyscallArg { index, value, value_two: 0, op: "SCMP_CMP_EQ".into() };
    let rule = |action: &str, args| oci::Syscalls { names: names(&["write"]), action: action.into(), args, errno_ret: None };
    let profile = oci::Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![
            rule("SCMP_ACT_ERRNO", vec![arg(0, 1), arg(0, 2)]),
            rule("SCMP_ACT_TRAP", vec![arg(0, 3)]),
            rule("SCMP_ACT_LOG", vec![]),
        ],
        ..oci::Seccomp::default()
    };
    let program = program(&profile).unwrap();
    let answers: Vec<Action> = (0..4).map(|first| run(&program, AUDIT_X86_64, 1, [first, 0, 0, 0, 0, 0])).collect();
    assert_eq!(answers, [0x7ffc_0000, EPERM, EPERM, 0x0003_0000]);
    assert_eq!(run(&program, AUDIT_X86_64, 60_000, [0; 6]), ALLOW);
    assert_eq!(run(&program, AUDIT_I386, 1, [0; 6]), KILL_PROCESS, "32-bit calls were not asked for");
}

#[test]
fn what_the_kernel_would_truncate_or_nobody_knows_is_refused() {
    let mut profile = docker_default(&[]);
    profile.default_errno_ret = Some(0x1_0000);
    assert!(compile(&profile).unwrap_err().to_string().contains("errnoRet"));
    let refused = |change: fn(&mut oci::Seccomp)| {
        let mut profile = docker_default(&[]);
        change(&mut profile);
        compile(&profile).is_err()
    };
    assert!(refused(|profile| profile.syscalls[0].errno_ret = Some(u32::MAX)));
    assert!(refused(|profile| profile.default_action = "SCMP_ACT_MAYBE".into()));
    assert!(refused(|profile| profile.syscalls[1].args[0].op = "SCMP_CMP_ODD".into()));
    assert!(refused(|profile| profile.syscalls[1].args[0].index = 6));
    assert!(refused(|profile| profile.architectures.push("VAX".into())));
    assert!(refused(|profile| profile.syscalls[0].action = "SCMP_ACT_SING".into()));
}
