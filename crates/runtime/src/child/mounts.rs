//! The root filesystem and the mounts in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::mount::{Change, Propagation, attribute};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::{Context, attach};
use crate::launch::Root;
use crate::path::{make_directory, make_file, open_in, open_plain};
use crate::plan::{Filesystem, MountStep};
use crate::root::{Layers, RootMount, mount_late};
use crate::source::{Bind, clear_of, new_filesystem};
use crate::{Error, Result};

/// Mounts that later steps work in through their descriptors, whatever lies over them by then.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) sys: Option<OwnedFd>,
    pub(crate) dev: Option<OwnedFd>,
    pub(crate) pts: Option<OwnedFd>,
    /// Mounts that become read-only when everything in them is made.
    pub(super) readonly: Vec<(String, OwnedFd)>,
}

/// Cuts the ties between the host's mounts and this namespace's, and attaches the root filesystem over `/`; the descriptor is its root.
pub(super) fn take_root(context: &Context<'_>) -> Result<OwnedFd> {
    let private = Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    kernel::mount::change_path(c"/", &private).map_err(Error::step("make the host's mounts private"))?;
    match (&context.sources.root, &context.launch.root) {
        (RootMount::Detached(root), _) => {
            move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(Error::step("attach the root filesystem"))?;
            rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(Error::step("open the root filesystem"))
        }
        (RootMount::Late, Root::Overlay { lower, upper, work, volatile, .. }) => {
            mount_late(&Layers { lower, upper, work, volatile: *volatile })?;
            openat(CWD, upper, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(Error::step("open the root filesystem"))
        }
        (RootMount::Late, Root::Path(_)) => Err(Error::invalid("a directory needs no late mount")),
    }
}

/// Makes every mount of the plan.
pub(super) fn mount_all(context: &Context<'_>, root: BorrowedFd<'_>) -> Result<Made> {
    let mut made = Made::default();
    for (step, bind) in context.plan.mounts.iter().zip(&context.sources.binds) {
        match (&step.filesystem, bind) {
            (Filesystem::Bind { .. }, Some(bind)) => mount_bind(step, bind, root)?,
            (Filesystem::Bind { .. }, None) => return Err(Error::invalid(format!("{}: the source is not open", step.name()))),
            (Filesystem::Cgroup, _) if context.binds.is_empty() => {
                mount_new(step, "cgroup2", "cgroup", &[], root, &mut made)?;
            }
            (Filesystem::Cgroup, _) => mount_groups(step, context, root, &mut made)?,
            (Filesystem::New { kind, .. }, Some(made_by_caller)) => {
                let mount = rustix::io::fcntl_dupfd_cloexec(&made_by_caller.mount, 3).map_err(Error::step(step.name()))?;
                place_new(step, kind, mount, root, &mut made)?;
            }
            (Filesystem::New { kind, source, parameters }, None) => mount_new(step, kind, source, parameters, root, &mut made)?,
        }
    }
    Ok(made)
}

fn mount_bind(step: &MountStep, bind: &Bind, root: BorrowedFd<'_>) -> Result<()> {
    let fail = || Error::step(step.name());
    let target = if bind.directory { make_directory(root, &step.target) } else { make_file(root, &step.target) }.map_err(fail())?;
    attach(bind.mount.as_fd(), target.as_fd()).map_err(fail())
}

/// A new instance of a filesystem: configured and made while detached, then attached.
fn mount_new(
    step: &MountStep,
    kind: &str,
    source: &str,
    parameters: &[(String, Option<String>)],
    root: BorrowedFd<'_>,
    made: &mut Made,
) -> Result<()> {
    // A tmpfs may get mount points and nodes before it becomes read-only.
    let later = if kind == "tmpfs" { step.set & attribute::RDONLY } else { 0 };
    let mount = new_filesystem(step, kind, source, parameters, step.set & !later)?;
    if later != 0 {
        let copy = rustix::io::fcntl_dupfd_cloexec(&mount, 3).map_err(Error::step(step.name()))?;
        made.readonly.push((step.name(), copy));
    }
    if step.copy_up {
        copy_up(step, &mount, parameters, root)?;
    }
    place_new(step, kind, mount, root, made)
}

fn copy_up(step: &MountStep, mount: &OwnedFd, parameters: &[(String, Option<String>)], root: BorrowedFd<'_>) -> Result<()> {
    let fail = || Error::step(format!("{}: copy what it covers", step.name()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match open_in(root, &step.target, flags) {
        // There is nothing to cover.
        Err(Errno::NOENT) => Ok(()),
        covered => {
            let target = openat(mount, c".", flags | OFlags::CLOEXEC, Mode::empty()).map_err(fail())?;
            let keep_mode = parameters.iter().any(|(name, _)| name == "mode");
            super::copy_up::copy(&covered.map_err(fail())?, &target, keep_mode).map_err(fail())
        }
    }
}

/// Attaches a new filesystem, and remembers those that later steps work in.
fn place_new(step: &MountStep, kind: &str, mount: OwnedFd, root: BorrowedFd<'_>, made: &mut Made) -> Result<()> {
    let fail = || Error::step(step.name());
    attach(mount.as_fd(), mount_point(step, kind, root)?.as_fd()).map_err(fail())?;
    spread(step, mount.as_fd())?;
    match (kind, step.target.to_str()) {
        ("proc", Some("/proc")) => made.proc = Some(mount),
        ("sysfs", Some("/sys")) => made.sys = Some(mount),
        ("tmpfs", Some("/dev")) => made.dev = Some(mount),
        ("devpts", Some("/dev/pts")) => made.pts = Some(mount),
        _ => {}
    }
    Ok(())
}

/// Where a filesystem goes. What is masked later by way of /proc and /sys must not be somewhere else in truth, so no link is followed to them.
fn mount_point(step: &MountStep, kind: &str, root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fail = || Error::step(step.name());
    if !matches!(kind, "proc" | "sysfs") {
        return make_directory(root, &step.target).map_err(fail());
    }
    let relative = step.target.strip_prefix("/").unwrap_or(&step.target);
    match open_plain(root, relative, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {
            make_directory(root, &step.target).map_err(fail())?;
            open_plain(root, relative, OFlags::PATH | OFlags::DIRECTORY).map_err(fail())
        }
        other => other.map_err(fail()),
    }
}

/// Sets what fsmount does not take: attributes of the tree and propagation.
fn spread(step: &MountStep, mount: BorrowedFd<'_>) -> Result<()> {
    let propagation = step.propagation.map(|(propagation, _)| propagation).filter(|kind| *kind != Propagation::Private);
    if propagation.is_none() && step.set_recursive == 0 {
        return Ok(());
    }
    let change = Change { set: step.set_recursive, clear: clear_of(step.set_recursive, 0), propagation, ..Change::default() };
    kernel::mount::change(mount, c"", &change).map_err(Error::step(step.name()))
}

/// Version 1: a tmpfs with a directory for each hierarchy, and links for controllers that share one.
fn mount_groups(step: &MountStep, context: &Context<'_>, root: BorrowedFd<'_>, made: &mut Made) -> Result<()> {
    let fail = || Error::step(step.name());
    if let [(name, mount)] = context.binds.as_slice()
        && name.is_empty()
    {
        let target = make_directory(root, &step.target).map_err(fail())?;
        return attach(mount.as_fd(), target.as_fd()).map_err(fail());
    }
    let parameters = [("mode".to_owned(), Some("755".to_owned()))];
    mount_new(step, "tmpfs", "tmpfs", &parameters, root, made)?;
    let directory = open_in(root, &step.target, OFlags::PATH | OFlags::DIRECTORY).map_err(fail())?;
    for (name, mount) in context.binds {
        mkdirat(&directory, name.as_str(), Mode::from_raw_mode(0o755)).map_err(fail())?;
        let place = open_plain(directory.as_fd(), Path::new(name), OFlags::PATH | OFlags::DIRECTORY).map_err(fail())?;
        attach(mount.as_fd(), place.as_fd()).map_err(fail())?;
        if name.contains(',') {
            for controller in name.split(',') {
                symlinkat(name.as_str(), &directory, controller).map_err(fail())?;
            }
        }
    }
    Ok(())
}
