//! Commands: their cache keys, what is mounted into them, and what becomes of their changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::NodeId;
use dockerfile::graph::{CopyAction, Exec, Input, Mount, MountKind, NetworkMode, Node, SecurityMode};
use jiff::Timestamp;
use rustix::fs::{Gid, Mode, Uid};
use store::{CacheRecord, Scratch};

use crate::digest::{Listing, Selection};
use crate::files::{Copying, Filling};
use crate::mounts::{CacheUse, Private};
use crate::solve::{Known, Made, Solver, Value, json, layers_of};
use crate::tree::Tree;
use crate::worker::{MountSource, Step, StepMount};
use crate::{Cancel, Error, Result};

/// Where an agent's socket is when the Dockerfile does not say.
const SSH_VARIABLE: &str = "SSH_AUTH_SOCK";
/// The one name in a folder made for a mount.
const MOUNTED: &str = "m";

/// What must stay while a command runs.
#[derive(Default)]
struct Held<'a> {
    mounts: Vec<StepMount>,
    env: Vec<String>,
    scratches: Vec<Scratch>,
    caches: Vec<CacheUse<'a>>,
    private: Option<Private>,
}

impl Solver<'_> {
    pub(crate) fn exec(&self, id: NodeId, node: &Node, exec: &Exec, inputs: &[Value], cancel: &Cancel) -> Result<(Value, Made)> {
        self.check_allowed(exec)?;
        let base = layers_of(inputs, exec.root)?;
        let mut trees: BTreeMap<usize, Arc<Tree>> = BTreeMap::new();
        let mut listings: Vec<Listing> = Vec::new();
        for (at, mount) in exec.mounts.iter().enumerate() {
            let (MountKind::Bind { from: Some(from), source } | MountKind::Cache { from: Some(from), source, .. }) = &mount.kind else {
                continue;
            };
            let tree = self.tree(inputs, *from)?;
            let selected = tree.select(source, false)?;
            // A cache's first content does not decide about the result.
            if matches!(mount.kind, MountKind::Bind { .. }) {
                let selection = Selection { tree: &tree, selected: &selected, exclude: None, name: format!("mount {source}") };
                listings.push(self.digests.of(&selection, cancel)?);
            }
            trees.insert(at, tree);
        }
        let key = match self.known(id, node, &base, &json(exec)?, &listings)? {
            Known::Yes(made) => return Ok((Value::Layers(base.with(made.layer.as_ref())), made)),
            Known::No(key) => key,
        };
        let held = self.hold(exec, &trees, cancel)?;
        let step = Step {
            exec,
            layers: &base.holds,
            root: base.root,
            mounts: held.mounts.clone(),
            hidden_env: held.env.clone(),
            platform: &node.platform,
        };
        let ran = self.worker.run(&step, &|stream, bytes| self.progress.output(id, stream, bytes), cancel)?;
        drop(held);
        let made = match ran.changes {
            _ if ran.code != 0 => return Err(Error::Command { command: exec.args.join(" "), code: ran.code }),
            Some(changes) => self.adopt(node, key, changes)?,
            None => return Err(Error::NotSupported { what: "a command without a result".to_owned() }),
        };
        Ok((Value::Layers(base.with(made.layer.as_ref())), made))
    }

    fn check_allowed(&self, exec: &Exec) -> Result<()> {
        let needs = [(exec.network == NetworkMode::Host, "network.host"), (exec.security == SecurityMode::Insecure, "security.insecure")];
        match needs.into_iter().find(|(needs, what)| *needs && !self.inputs.allowed.iter().any(|allowed| allowed == what)) {
            Some((_, what)) => Err(Error::NotAllowed { what }),
            None => Ok(()),
        }
    }

    /// Makes everything that is mounted.
    fn hold(&self, exec: &Exec, trees: &BTreeMap<usize, Arc<Tree>>, cancel: &Cancel) -> Result<Held<'_>> {
        let mut held = Held { env: exec.proxy_env.clone(), ..Held::default() };
        for (at, mount) in exec.mounts.iter().enumerate() {
            let source = match &mount.kind {
                MountKind::Bind { source, .. } => {
                    let scratch = self.scratch()?;
                    let path = self.materialize(trees.get(&at), source, scratch.path(), mount.read_only, cancel)?;
                    held.scratches.push(scratch);
                    Some(MountSource::Path(path))
                }
                MountKind::Cache { .. } => Some(MountSource::Path(self.cache(mount, trees.get(&at), &mut held, cancel)?)),
                MountKind::Tmpfs { size } => Some(MountSource::Tmpfs(*size)),
                MountKind::Secret { id, required, uid, gid, mode } => match self.secret(id, *required)? {
                    Some(secret) => Some(MountSource::Path(self.private_file(&mut held, secret, (*uid, *gid), *mode)?)),
                    None => None,
                },
                MountKind::Ssh { id, required, .. } => match self.inputs.ssh.get(id) {
                    Some(socket) => {
                        if !exec.env.iter().chain(&held.env).any(|entry| entry.starts_with(&format!("{SSH_VARIABLE}="))) {
                            held.env.push(format!("{SSH_VARIABLE}={}", mount.target));
                        }
                        Some(MountSource::Path(socket.clone()))
                    }
                    None if *required => return Err(Error::NotGiven { what: "ssh agent", id: id.clone() }),
                    None => None,
                },
                MountKind::Inline { content, mode } => {
                    Some(MountSource::Path(self.private_file(&mut held, content.as_bytes(), (0, 0), *mode)?))
                }
            };
            if let Some(source) = source {
                held.mounts.push(StepMount { target: mount.target.clone(), read_only: mount.read_only, source });
            }
        }
        for variable in &exec.secret_env {
            if let Some(secret) = self.secret(&variable.id, variable.required)? {
                held.env.push(format!("{}={}", variable.name, String::from_utf8_lossy(secret)));
            }
        }
        Ok(held)
    }

    fn scratch(&self) -> Result<Scratch> {
        self.store.scratch().map_err(|source| Error::Store { operation: "make room for a mount", source })
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<&[u8]>> {
        match self.inputs.secrets.get(id) {
            Some(secret) => Ok(Some(secret)),
            None if required => Err(Error::NotGiven { what: "secret", id: id.to_owned() }),
            None => Ok(None),
        }
    }

    /// A file that only this step sees.
    fn private_file(&self, held: &mut Held<'_>, content: &[u8], owner: (u32, u32), mode: u32) -> Result<PathBuf> {
        let number = held.mounts.len();
        let private = match held.private.take() {
            Some(private) => private,
            None => Private::create(&self.inputs.private)?,
        };
        let path = private.path().join(number.to_string());
        held.private = Some(private);
        let fail = |source| Error::io("write", path.as_os_str().as_encoded_bytes(), source);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        file.write_all(content).map_err(fail)?;
        let set = rustix::fs::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
            .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)));
        set.map_err(|error| fail(error.into()))?;
        Ok(path)
    }

    /// Puts what a source names into a folder of its own: what a step does to it reaches nobody else, whatever it does meanwhile with links.
    fn materialize(&self, tree: Option<&Arc<Tree>>, source: &str, to: &Path, read_only: bool, cancel: &Cancel) -> Result<PathBuf> {
        let path = to.join(MOUNTED);
        let Some(tree) = tree else {
            durable::create_dir(&path, 0o755).map_err(|source| Error::Store { operation: "make a mount", source: source.into() })?;
            return Ok(path);
        };
        let selected = tree.select(source, false)?;
        let action = CopyAction {
            from: Input(0),
            source: source.to_owned(),
            destination: format!("/{MOUNTED}"),
            wildcard: false,
            parents: false,
            exclude: Vec::new(),
            unpack: false,
            owner: None,
            keep_owner: tree.has_owners,
            mode: None,
            make_parents: true,
        };
        let mut filling = Filling::new(to, &[], cancel)?;
        filling.may_link = read_only;
        filling.copy(&Copying { action: &action, tree, selected, exclude: None })?;
        Ok(path)
    }

    /// The folder of a cache, in use from now on.
    fn cache<'s>(&'s self, mount: &Mount, tree: Option<&Arc<Tree>>, held: &mut Held<'s>, cancel: &Cancel) -> Result<PathBuf> {
        let MountKind::Cache { id, sharing, source, uid, gid, mode, .. } = &mount.kind else { return Ok(PathBuf::new()) };
        let used = self.caches.take(id, *sharing, cancel)?;
        let fail = |source| Error::Store { operation: "prepare a cache mount", source };
        let path = self.store.cache_mount(&used.key).map_err(fail)?;
        let now = Timestamp::now().to_string();
        if !path.exists() {
            let scratch = self.scratch()?;
            let made = self.materialize(tree, source, scratch.path(), false, cancel)?;
            let own = rustix::fs::open(&made, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY, Mode::empty());
            let own = own.map_err(|_| Error::path(source.as_bytes(), "a cache mount can begin with a folder only"))?;
            let set = rustix::fs::fchown(own.as_fd(), Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))
                .and_then(|()| rustix::fs::fchmod(own.as_fd(), Mode::from_raw_mode(*mode)));
            set.map_err(|error| Error::io("set the owner of", path.as_os_str().as_encoded_bytes(), error))?;
            match rustix::fs::rename(&made, &path) {
                Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {}
                Err(error) => return Err(Error::io("make", path.as_os_str().as_encoded_bytes(), error)),
            }
            self.store.remember_step(CacheRecord {
                key: used.key.clone(),
                layer: None,
                kind: store::CACHE_MOUNT.to_owned(),
                description: format!("cached mount {} with id {id:?}", mount.target),
                created: now.clone(),
                last_used: now,
                uses: 0,
                size: 0,
                inputs: BTreeMap::new(),
                slot: String::new(),
            });
        } else {
            // Counts as used.
            self.store.cached_step(&used.key);
        }
        held.caches.push(used);
        Ok(path)
    }
}
