//! Images: import, save, load, tag, lists, and `pull` from a registry on loopback.

use crate::both;
use crate::support::{code, has};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use tests::engine::BUSYBOX;
use tests::http::free_port;
use tests::sh::{Cmd, eventually};
use tests::{http, image};

/// Debian's registry, serving a folder on a port of loopback until it is dropped.
pub struct Registry {
    child: Child,
    pub address: String,
}

impl Registry {
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "")
    }

    /// The same with further lines of its settings.
    pub fn start_with(dir: &Path, settings: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let storage = dir.join("registry");
        let text = "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ROOT}}\nhttp: {addr: ADDR}\n";
        let text = text.replace("ROOT", &storage.to_string_lossy()).replace("ADDR", &address) + settings;
        fs::write(dir.join("registry.yml"), text)?;
        let registry = Self { child: Self::spawn(dir)?, address };
        registry.wait()?;
        Ok(registry)
    }

    /// The same, with TLS by this certificate and key.
    pub fn start_tls(dir: &Path, (cert, key): &(String, String)) -> Result<Self> {
        let registry = Self::start(dir)?;
        let file = dir.join("registry.yml");
        let plain = format!("addr: {}", registry.address);
        let text = fs::read_to_string(&file)?.replace(&plain, &format!("{plain}, tls: {{certificate: {cert}, key: {key}}}"));
        fs::write(&file, text)?;
        let mut registry = registry;
        registry.restart(dir)?;
        Ok(registry)
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self, dir: &Path) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::spawn(dir)?;
        self.wait()
    }

    fn spawn(dir: &Path) -> Result<Child> {
        let log = fs::File::create(dir.join("registry.log"))?;
        Cmd::new("docker-registry").arg("serve").arg(dir.join("registry.yml")).spawn(Stdio::from(log.try_clone()?), Stdio::from(log))
    }

    fn wait(&self) -> Result<()> {
        let socket = self.address.parse()?;
        eventually("the registry is up", 10, || http::get(socket, "/v2/").ok())?;
        Ok(())
    }

    /// Puts an image of one gzipped layer into it, as a push would, and answers the manifest's digest.
    pub fn publish(&self, repository: &str, tag: &str, layer: &Path, dir: &Path) -> Result<String> {
        let zipped = dir.join("layer.tar.gz");
        fs::write(&zipped, bytes(Cmd::new("gzip").arg("-nc").arg(layer))?)?;
        let diff = digest(layer)?;
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"],"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
        );
        let config_file = dir.join("config.json");
        fs::write(&config_file, &config)?;
        let mut descriptors = Vec::new();
        for file in [&config_file, &zipped] {
            let digest = digest(file)?;
            let size = fs::metadata(file)?.len();
            let start = self.curl(&["-X", "POST", "-D", "-", &format!("{}/blobs/uploads/", self.base(repository))])?;
            let place = start.lines().find_map(|line| line.strip_prefix("Location: ")).context("no upload was begun")?.trim().to_owned();
            let data = format!("@{}", file.display());
            self.curl(&[
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                &data,
                &format!("{place}&digest={digest}"),
            ])?;
            descriptors.push(format!(r#""digest":"{digest}","size":{size}"#));
        }
        let manifest = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
                r#""config":{{"mediaType":"application/vnd.docker.container.image.v1+json",{}}},"#,
                r#""layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip",{}}}]}}"#
            ),
            descriptors[0], descriptors[1]
        );
        let manifest_file = dir.join("manifest.json");
        fs::write(&manifest_file, manifest)?;
        let kind = "Content-Type: application/vnd.docker.distribution.manifest.v2+json";
        let data = format!("@{}", manifest_file.display());
        self.curl(&["-X", "PUT", "-H", kind, "--data-binary", &data, &format!("{}/manifests/{tag}", self.base(repository))])?;
        digest(&manifest_file)
    }

    fn base(&self, repository: &str) -> String {
        format!("http://{}/v2/{repository}", self.address)
    }

    fn curl(&self, args: &[&str]) -> Result<String> {
        Ok(Cmd::new("curl").args(["-sSf", "--noproxy", "*"]).args(args).ok()?.stdout)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn digest(file: &Path) -> Result<String> {
    let sum = Cmd::new("sha256sum").arg(file).ok()?;
    Ok(format!("sha256:{}", sum.text().split(' ').next().unwrap_or_default()))
}

fn bytes(cmd: Cmd) -> Result<Vec<u8>> {
    Ok(cmd.into_inner().stdin(Stdio::null()).output()?.stdout)
}

both! {
    /// An image does not change when its container writes.
    fn immutable(walk) {
        walk.once(&[], &["touch", "/w"])?;
        ensure!(walk.try_once(&[], &["ls", "/w"])?.code != 0);
    }

    /// `images`, `history`, `tag`, `inspect`, and `rmi` by name.
    fn tags(walk) {
        has(&walk.out(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?, BUSYBOX)?;
        let id = walk.out(&["images", "-q", BUSYBOX])?;
        walk.ok(&["tag", BUSYBOX, "quay/other:2"])?;
        ensure!(walk.out(&["image", "ls", "-q", "quay/other"])? == id);
        let history = walk.out(&["history", BUSYBOX])?;
        ensure!(history.starts_with("IMAGE") && history.contains("CREATED"), "{history}");
        has(&walk.out(&["rmi", "quay/other:2"])?, "Untagged")?;
        code(&walk.run(&["rmi", "quay/other:2"])?, 1)?;
        ensure!(walk.inspect(BUSYBOX, "{{.Id}}")?.starts_with(&format!("sha256:{id}")));
    }

    /// What happens to images is told by `events`.
    fn told(walk) {
        walk.ok(&["tag", BUSYBOX, "quay/told:1"])?;
        walk.ok(&["rmi", "quay/told:1"])?;
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let until = (begun + 1).to_string();
        let format = "{{.Action}} {{.Actor.Attributes.name}}";
        let told = walk.out(&["events", "--since", "1", "--until", &until, "--filter", "type=image", "--format", format])?;
        has(&told, "\ntag quay/told:1\nuntag quay/told:1")?;
    }

    /// An image that a container uses is not removed.
    fn in_use(walk) {
        let name = walk.name();
        walk.ok(&["create", "--name", &name, BUSYBOX, "true"])?;
        let refused = walk.run(&["rmi", BUSYBOX])?;
        code(&refused, 1)?;
        walk.remove(&[&name])?;
        walk.ok(&["rmi", BUSYBOX])?;
        ensure!(walk.out(&["images", "-q"])?.is_empty());
    }

    /// `save` and `load` bring an image back, its id unchanged.
    fn save_and_load(walk) {
        let id = walk.inspect(BUSYBOX, "{{.Id}}")?;
        let file = walk.engine.dir().join("saved.tar").to_string_lossy().into_owned();
        walk.ok(&["save", "-o", &file, BUSYBOX])?;
        walk.ok(&["rmi", BUSYBOX])?;
        has(&walk.out(&["load", "-i", &file])?, BUSYBOX)?;
        ensure!(walk.inspect(BUSYBOX, "{{.Id}}")? == id);
        ensure!(walk.once(&[], &["echo", "back"])? == "back");
    }

    /// `import` from files of each compression and from standard input, with `-c` and `-m`.
    fn import(walk) {
        let tar = image::busybox()?;
        let dir = walk.engine.dir().to_path_buf();
        for (program, ending) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
            let file = dir.join(format!("root.tar.{ending}"));
            fs::write(&file, bytes(Cmd::new(program).args(["-1", "-c"]).arg(&tar))?)?;
            let name = format!("quay/imported:{ending}");
            walk.ok(&["import", "-c", "ENV Z=1", "-c", "CMD [\"echo\",\"from\"]", "-m", "note", &file.to_string_lossy(), &name])?;
            ensure!(walk.out(&["run", "--rm", &name])? == "from");
            has(&walk.out(&["inspect", "-f", "{{json .Config.Env}}", &name])?, "Z=1")?;
        }
        walk.cmd(&["import", "-", "quay/stdin:1"])?.stdin(fs::read(&tar)?).ok()?;
        ensure!(walk.out(&["run", "--rm", "quay/stdin:1", "echo", "piped"])? == "piped");
    }

    /// An image that is nowhere: exit 125, and its name.
    fn nowhere(walk) {
        let done = walk.run(&["run", "--rm", "127.0.0.1:1/no/such:1", "true"])?;
        code(&done, 125)?;
        has(&done.stderr, "no/such")?;
        let done = walk.run(&["run", "--rm", "--pull", "never", "quay/none:1", "true"])?;
        code(&done, 125)?;
        has(&done.stderr, "quay/none:1")?;
    }

    /// `run` pulls what is missing, verified, and only once; `pull` shows the digest; what is not there is said.
    fn pull(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        let digest = registry.publish("walk/bb", "1", &image::busybox()?, walk.engine.dir())?;
        // Its layer is the one that was imported; with that image gone it has to be fetched.
        walk.ok(&["rmi", BUSYBOX])?;
        let name = format!("{}/walk/bb:1", registry.address);
        let first = walk.ok(&["run", "--rm", &name, "echo", "pulled"])?;
        ensure!(first.stdout == "pulled\n" && first.stderr.contains("ull"), "{first:?}");
        let again = walk.ok(&["run", "--rm", &name, "echo", "again"])?;
        ensure!(again.stderr.is_empty(), "{again:?}");
        has(&walk.out(&["pull", &name])?, &digest)?;
        has(&walk.out(&["inspect", "-f", "{{json .RepoDigests}}", &name])?, &digest)?;
        walk.ok(&["rmi", &name])?;
        walk.ok(&["pull", &format!("{}/walk/bb@{digest}", registry.address)])?;
        let missing = walk.run(&["pull", &format!("{}/walk/none:1", registry.address)])?;
        code(&missing, 1)?;
        let said = missing.stderr.to_lowercase();
        ensure!(said.contains("not found") || said.contains("manifest unknown"), "{}", missing.stderr);
    }

    /// A layer whose bytes are not what its digest says never becomes visible.
    fn pull_verifies(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        registry.publish("walk/bb", "1", &image::busybox()?, walk.engine.dir())?;
        walk.ok(&["rmi", BUSYBOX])?;
        let layer = digest(&walk.engine.dir().join("layer.tar.gz"))?;
        let hex = layer.trim_start_matches("sha256:");
        let blob = walk.engine.dir().join(format!("registry/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
        let mut content = fs::read(&blob)?;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&blob, content)?;
        let done = walk.run(&["pull", &format!("{}/walk/bb:1", registry.address)])?;
        code(&done, 1)?;
        ensure!(!walk.out(&["images", "--format", "{{.Repository}}"])?.contains("walk/bb"));
    }
}
