//! A machine with cgroup v2 and an older kernel, emulated: Debian's cloud kernel, an initial root made here, a script in it.
//!
//! Emulation needs no privilege and no support of the processor; it is about ten times slower than the real machine.

use crate::image;
use crate::sh::{Cmd, which};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The package that depends on the current kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const MEMORY_MIB: u32 = 1536;
const TIMEOUT: Duration = Duration::from_secs(300);
/// What the guest's script begins its results with.
const RESULT: &str = "VM-CHECK ";
const LAST: &str = "VM-END";

/// Modules that an engine uses, with all that they need in turn.
const MODULES: [&str; 14] = [
    "overlay",
    "veth",
    "bridge",
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_redir",
    "nft_reject_inet",
    "nft_fib_inet",
    "nft_limit",
];

/// A kernel that is not installed on this machine, only unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// Fetches the kernel into the cache, if it is not there.
pub fn kernel() -> Result<Kernel> {
    let depends = Cmd::new("apt-cache").args(["depends", KERNEL_PACKAGE]).ok()?;
    let package = depends.stdout.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image"));
    let package = package.map(|rest| format!("linux-image{rest}"));
    let package = package.with_context(|| format!("the package lists know no {KERNEL_PACKAGE}: apt-get update"))?;
    let root = image::unpacked_package(&package)?;
    let version = package.trim_start_matches("linux-image-");
    let modules = root.join("lib/modules").join(version);
    if !modules.join("modules.dep").exists() {
        Cmd::new("depmod").arg("-b").arg(&root).arg(version).ok()?;
    }
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{version}")), modules })
}

/// The outcome of a run: each check's name, and what was wrong if it failed.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name and fault of each check.
    pub checks: Vec<(String, Option<String>)>,
    /// All that the guest wrote to its console.
    pub console: String,
}

impl Report {
    /// Fails when a check failed, or when the script did not get to its end.
    pub fn judge(&self) -> Result<()> {
        let bad: Vec<_> = self.checks.iter().filter_map(|(name, fault)| fault.as_ref().map(|fault| format!("{name}: {fault}"))).collect();
        ensure!(bad.is_empty(), "in the virtual machine:\n{}\n\nits console:\n{}", bad.join("\n"), self.console);
        ensure!(!self.checks.is_empty() && self.console.contains(LAST), "the virtual machine did not get through:\n{}", self.console);
        Ok(())
    }
}

/// Boots, runs the checks of cgroup v2 with this binary, and reads the outcome from the console.
pub fn smoke(cais: &Path) -> Result<Report> {
    if which("qemu-system-x86_64").is_none() {
        bail!("qemu is not installed: apt-get install qemu-system-x86");
    }
    let kernel = kernel()?;
    let dir = std::env::temp_dir().join(format!("cais-vm-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let console = initramfs(&kernel, cais, &dir).and_then(|initramfs| boot(&kernel, &initramfs));
    fs::remove_dir_all(&dir)?;
    let console = console?;
    let results = console.lines().filter_map(|line| line.trim().strip_prefix(RESULT));
    let checks = results.map(|line| match line.split_once(" FAILED") {
        Some((name, fault)) => (name.to_owned(), Some(fault.trim().to_owned())),
        None => (line.trim_end_matches(" ok").to_owned(), None),
    });
    Ok(Report { checks: checks.collect(), console })
}

fn boot(kernel: &Kernel, initramfs: &Path) -> Result<String> {
    let done = Cmd::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 cgroup_no_v1=all quiet panic=-1"])
        .timeout(TIMEOUT)
        .run()?;
    ensure!(done.code == 0, "{done}");
    Ok(done.stdout.replace('\r', ""))
}

/// The initial root: busybox, the binary, its modules in the order in which they load, and the script.
fn initramfs(kernel: &Kernel, cais: &Path, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    image::busybox_root(&which("busybox").context("busybox is not installed: apt-get install busybox-static")?, &root)?;
    let program = root.join("bin/cais");
    fs::copy(cais, &program).with_context(|| format!("copy {}", cais.display()))?;
    if which("strip").is_some() {
        // Debug information is most of its size, and the guest has to unpack it twice.
        Cmd::new("strip").arg(&program).ok()?;
    }
    fs::copy(image::busybox()?, root.join("busybox.tar"))?;
    fs::create_dir_all(root.join("modules"))?;
    let mut load = String::new();
    for module in in_order(&kernel.modules, &MODULES)? {
        let name = module.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        fs::copy(kernel.modules.join(&module), root.join("modules").join(&name))?;
        load += &format!("insmod /modules/{name} || echo \"{RESULT}module-{name} FAILED to load\"\n");
    }
    script(&root.join("init"), &INIT.replace("LOAD-MODULES\n", &load))?;
    script(&root.join("checks"), &format!("#!/bin/sh\nRESULT='{RESULT}'\nLAST='{LAST}'\n{CHECKS}"))?;
    let archive = dir.join("initramfs");
    let pack = format!("find . | cpio --quiet -o -H newc -R 0:0 > {}", archive.display());
    Cmd::new("sh").args(["-c", &pack]).dir(&root).ok()?;
    Ok(archive)
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The files of these modules, each after what it depends on; what is built into the kernel is left out.
fn in_order(dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string(dir.join("modules.dep")).context("read modules.dep")?;
    let mut order: Vec<PathBuf> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        let file = format!("/{name}.ko");
        let Some((path, needs)) = table.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| path.ends_with(&file)) else {
            continue;
        };
        // depmod lists the nearest need first.
        for module in needs.split_whitespace().rev().chain([path]) {
            if seen.insert(module.to_owned()) {
                order.push(PathBuf::from(module));
            }
        }
    }
    Ok(order)
}

/// The first process. The initial root cannot be pivoted away from, so the system moves to a tmpfs.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
LOAD-MODULES
mkdir /new
mount -t tmpfs -o size=80% new /new
mkdir /new/dev /new/proc /new/sys /new/tmp /new/run /new/var
mv /bin /etc /root /home /mnt /usr /busybox.tar /checks /new/ 2>/dev/null || /new/bin/busybox true
export PATH=/new/bin
mount -o move /dev /new/dev
mount -o move /proc /new/proc
exec switch_root /new /checks
"#;

/// The checks, in the guest's shell.
const CHECKS: &str = include_str!("vm-checks.sh");
