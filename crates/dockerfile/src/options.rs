//! What a build is told besides its Dockerfile, and who knows the configurations of base images.

use std::collections::BTreeMap;

use types::image::ImageConfig;
use types::{Digest, Platform};

use crate::graph::{GitSource, NetworkMode, Source};
use crate::ignore::Matcher;

/// What a build is told besides its Dockerfile.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`: a stage's name or number; the last stage if none.
    pub target: Option<String>,
    /// The platform of the result.
    pub platform: Platform,
    /// The platform that builds.
    pub build_platform: Platform,
    /// Whether `platform` was asked for; if not, a base image of another platform decides.
    pub platform_given: bool,
    /// Whether several platforms are built: their names are shown then.
    pub multi_platform: bool,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// Where the files of `COPY` and `ADD` come from.
    pub context: Source,
    /// `--build-context`: by name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--network`: for commands that ask for none themselves.
    pub network: NetworkMode,
    /// The context's `.dockerignore`, for the lint.
    pub ignore: Option<Matcher>,
    /// `--check` without a target: stages that the target doesn't need are looked at too.
    pub all_stages: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            target: None,
            platform: Platform::host(),
            build_platform: Platform::host(),
            platform_given: false,
            multi_platform: false,
            no_cache: NoCache::default(),
            context: Source::Local { name: crate::MAIN_CONTEXT.to_owned() },
            contexts: BTreeMap::new(),
            network: NetworkMode::Default,
            ignore: None,
            all_stages: false,
        }
    }
}

/// Which steps are carried out even if their result is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// None.
    #[default]
    Nothing,
    /// `--no-cache`: all.
    Everything,
    /// `--no-cache-filter`: those of these stages.
    Stages(Vec<String>),
}

/// What a name of `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// `docker-image://`: an image.
    Image(String),
    /// A folder or archive of the client.
    Local,
    /// A git repository.
    Git(GitSource),
    /// A file from the web: the tree has that file.
    Http(String),
    /// `oci-layout://`: an image in a folder of the client.
    OciLayout(String),
}

/// The configuration of a base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// What the reference names right now: it becomes a part of the graph, so that the build uses that and nothing else.
    pub digest: Option<Digest>,
    /// Its configuration for the platform that was asked for.
    pub config: ImageConfig,
}

/// Whoever knows base images. Asked once per image and platform, only for stages that the target needs.
pub trait Bases {
    /// The configuration of [`Source::Image`] (without a digest) or [`Source::OciLayout`] for `platform`.
    fn config(&mut self, source: &Source, platform: &Platform) -> Result<BaseImage, Box<dyn std::error::Error + Send + Sync>>;
}
