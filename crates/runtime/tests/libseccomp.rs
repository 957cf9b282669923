//! The compiler of system-call filters held against libseccomp, which other runtimes use: the same profile, every call that it names, on each
//! architecture, with arguments around every value that it compares with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use runtime::{oci, seccomp};

/// Builds the profile of standard input with libseccomp; prints its program, and the numbers of all calls that it knows.
const BUILDER: &str = r#"
import json, os, seccomp, sys, tempfile
profile = json.load(sys.stdin)
actions = {"SCMP_ACT_ALLOW": lambda e: seccomp.ALLOW, "SCMP_ACT_ERRNO": lambda e: seccomp.ERRNO(e),
           "SCMP_ACT_KILL_PROCESS": lambda e: seccomp.KILL_PROCESS, "SCMP_ACT_LOG": lambda e: seccomp.LOG,
           "SCMP_ACT_TRAP": lambda e: seccomp.TRAP, "SCMP_ACT_TRACE": lambda e: seccomp.TRACE(e)}
operators = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT, "SCMP_CMP_LE": seccomp.LE,
             "SCMP_CMP_GT": seccomp.GT, "SCMP_CMP_GE": seccomp.GE, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}
def action(entry, name, errno):
    return actions[entry[name]](entry.get(errno, 1))
filter = seccomp.SyscallFilter(defaction=action(profile, "defaultAction", "defaultErrnoRet"))
arches = {"x86_64": seccomp.Arch.X86_64, "x86": seccomp.Arch.X86, "x32": seccomp.Arch.X32}
for arch in ("x86", "x32"):
    filter.add_arch(arches[arch])
for entry in profile["syscalls"]:
    if action(entry, "action", "errnoRet") == action(profile, "defaultAction", "defaultErrnoRet"):
        continue
    # Two conditions on one argument are alternatives.
    args = entry.get("args", [])
    indexes = [one.get("index", 0) for one in args]
    groups = [[one] for one in args] if len(set(indexes)) < len(indexes) else [args]
    for name in entry["names"]:
        for group in groups:
            conditions = []
            for one in group:
                values = [one.get("value", 0)] + ([one.get("valueTwo", 0)] if one["op"] == "SCMP_CMP_MASKED_EQ" else [])
                conditions.append(seccomp.Arg(one.get("index", 0), operators[one["op"]], *values))
            try:
                filter.add_rule(action(entry, "action", "errnoRet"), name, *conditions)
            except Exception:
                pass
numbers = {}
for arch, token in arches.items():
    known = {}
    for name in {name for entry in profile["syscalls"] for name in entry["names"]}:
        try:
            number = seccomp.resolve_syscall(token, name)
        except Exception:
            number = -1
        if number >= 0:
            known[name] = number
    numbers[arch] = known
with tempfile.TemporaryFile() as file:
    filter.export_bpf(file)
    file.seek(0)
    print(json.dumps({"program": file.read().hex(), "numbers": numbers}))
"#;

#[derive(serde::Deserialize)]
struct Built {
    program: String,
    numbers: BTreeMap<String, BTreeMap<String, u32>>,
}

/// Debian's own interpreter has the module, whichever other one is found first.
fn libseccomp(profile: &oci::Seccomp) -> Option<Built> {
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", BUILDER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(profile).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named 'seccomp'") {
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Runs a program as the kernel would: `data` is `struct seccomp_data` in words.
fn run(program: &[u8], data: &[u32; 16]) -> u32 {
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let one = &program[at * 8..at * 8 + 8];
        let (code, operand) = (u16::from_ne_bytes([one[0], one[1]]), u32::from_ne_bytes([one[4], one[5], one[6], one[7]]));
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { one[2] } else { one[3] });
        match code {
            0x20 => accumulator = data[operand as usize / 4],
            0x54 => accumulator &= operand,
            0x05 => at += operand as usize,
            0x15 => jump(accumulator == operand),
            0x25 => jump(accumulator > operand),
            0x35 => jump(accumulator >= operand),
            0x45 => jump(accumulator & operand != 0),
            0x06 => return operand,
            other => panic!("operation {other:#x}"),
        }
    }
}

fn data(number: u32, architecture: u32, arguments: [u64; 6]) -> [u32; 16] {
    let mut words = [0u32; 16];
    (words[0], words[1]) = (number, architecture);
    for (at, argument) in arguments.iter().enumerate() {
        (words[4 + at * 2], words[5 + at * 2]) = (*argument as u32, (*argument >> 32) as u32);
    }
    words
}

/// Arguments on all sides of what the profile compares with; one argument at a time differs from 0, and all together.
fn arguments(profile: &oci::Seccomp, name: &str) -> Vec<[u64; 6]> {
    let mut values = vec![0u64, 1, u64::MAX, 1 << 32];
    for arg in profile.syscalls.iter().filter(|entry| entry.names.iter().any(|known| known == name)).flat_map(|entry| &entry.args) {
        for value in [arg.value, arg.value_two, arg.value | arg.value_two] {
            values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 40, !value]);
        }
    }
    values.sort_unstable();
    values.dedup();
    let mut all = Vec::new();
    for value in values {
        all.push([value; 6]);
        for at in 0..6 {
            let mut arguments = [0; 6];
            arguments[at] = value;
            all.push(arguments);
        }
    }
    all
}

fn compare(profile: &oci::Seccomp) {
    let Some(built) = libseccomp(profile) else {
        eprintln!("SKIP: python3-seccomp is not installed");
        return;
    };
    let theirs: Vec<u8> =
        built.program.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let ours = seccomp::compile(profile).unwrap();
    let mut compared = 0;
    for (name, architecture) in [("x86_64", 0xc000_003e), ("x86", 0x4000_0003), ("x32", 0xc000_003e)] {
        for (call, &number) in &built.numbers[name] {
            // On its two 32-bit architectures libseccomp looks at no upper half, neither of arguments nor of what they are compared with.
            let fits = |value: &u64| name == "x86_64" || *value <= u64::from(u32::MAX);
            let entries = || profile.syscalls.iter().filter(|entry| entry.names.contains(call));
            if !entries().flat_map(|entry| &entry.args).all(|arg| fits(&arg.value) && fits(&arg.value_two)) {
                continue;
            }
            for arguments in arguments(profile, call).into_iter().filter(|arguments| arguments.iter().all(fits)) {
                let words = data(number, architecture, arguments);
                let (our, their) = (run(&ours, &words), run(&theirs, &words));
                assert_eq!(our, their, "{call} ({number:#x}) on {name} with {arguments:x?}: {our:#x}, libseccomp {their:#x}");
                compared += 1;
            }
        }
    }
    assert!(compared > 5_000, "{compared} comparisons");
}

#[test]
fn dockers_profile_is_what_libseccomp_makes_of_it() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    for capabilities in [names(&runtime::default::CAPABILITIES), names(&["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"]), Vec::new()] {
        compare(&seccomp::docker_default(&capabilities));
    }
}

#[test]
fn every_operator_and_action_is_what_libseccomp_makes_of_it() {
    let mut profile = seccomp::docker_default(&[]);
    let argument = |index, op: &str, value, value_two| oci::SyscallArg { index, op: op.into(), value, value_two };
    let entry = |name: &str, action: &str, args: Vec<oci::SyscallArg>| oci::Syscalls {
        names: vec![name.into()],
        action: action.into(),
        errno_ret: Some(7),
        args,
    };
    let added = [
        entry("mkdir", "SCMP_ACT_ERRNO", vec![argument(0, "SCMP_CMP_GT", 0x1_0000_0005, 0)]),
        entry("rmdir", "SCMP_ACT_ERRNO", vec![argument(1, "SCMP_CMP_LT", 77, 0)]),
        entry("link", "SCMP_ACT_TRAP", vec![argument(2, "SCMP_CMP_GE", 9, 0), argument(3, "SCMP_CMP_NE", 1 << 33, 0)]),
        entry("unlink", "SCMP_ACT_KILL_PROCESS", vec![argument(5, "SCMP_CMP_LE", 0xffff_ffff, 0)]),
        entry("chmod", "SCMP_ACT_TRACE", vec![argument(4, "SCMP_CMP_MASKED_EQ", 0xff00_0000_00ff, 0x1100_0000_0022)]),
        entry("chown", "SCMP_ACT_LOG", vec![argument(0, "SCMP_CMP_EQ", 1, 0), argument(0, "SCMP_CMP_EQ", 2, 0)]),
        entry("getpid", "SCMP_ACT_TRAP", Vec::new()),
    ];
    let taken: Vec<&str> = added.iter().flat_map(|entry| &entry.names).map(String::as_str).collect();
    for known in &mut profile.syscalls {
        known.names.retain(|name| !taken.contains(&name.as_str()));
    }
    profile.syscalls.extend(added.clone());
    compare(&profile);
}
