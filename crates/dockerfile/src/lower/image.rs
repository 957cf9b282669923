//! Base images, named contexts and the triggers that bases bring along.

use types::image::{ImageConfig, RunConfig};
use types::{ImageRef, Platform};

use crate::error::{Error, Problem};
use crate::graph::{Node, NodeId, Op, Source};
use crate::lex;
use crate::lint;
use crate::options::NamedContext;
use crate::parse;

use super::env::DEFAULT_PATH;
use super::{Base, Lowering};

/// A tree from outside: an image, or a named context, which has no configuration of its own.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub source: Source,
    pub config: Option<ImageConfig>,
    pub platform: Platform,
    pub node: Option<NodeId>,
}

impl Lowering<'_> {
    /// The named context of this name, which may be an image's name with or without a tag.
    pub(super) fn named_context(&self, name: &str) -> Option<(String, NamedContext)> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let contexts = &self.options.contexts;
        if let Some((name, context)) = contexts.get_key_value(name) {
            return Some((name.clone(), context.clone()));
        }
        let wanted = name.parse::<ImageRef>().ok()?.with_default_tag();
        contexts
            .iter()
            .find(|(name, _)| name.parse::<ImageRef>().is_ok_and(|reference| reference.with_default_tag() == wanted))
            .map(|(name, context)| (name.clone(), context.clone()))
    }

    /// Finds the triggers of a stage: its base image's, or those of the stage it is based on.
    pub(super) fn triggers(&mut self, index: usize) -> Result<(), Error> {
        let stage = &self.file.stages[index];
        let texts: Vec<String> = match self.heads[index].base.clone() {
            Base::Scratch => return Ok(()),
            Base::Stage(base) => self.file.stages[base]
                .instructions
                .iter()
                .filter_map(|item| if let crate::ast::Kind::OnBuild(text) = &item.kind { Some(text.clone()) } else { None })
                .collect(),
            Base::Outside(name) => {
                let platform = self.heads[index].platform.clone();
                let image = self.image(&name, platform.as_ref(), index)?;
                let run = image.config.as_ref().and_then(|config| config.config.as_ref());
                let texts = run.and_then(|run| run.on_build.clone()).unwrap_or_default();
                self.heads[index].image = Some(image);
                texts
            }
        };
        for text in texts {
            let trigger = parse::trigger(&text, self.file.directives.escape, stage.lines);
            let trigger = trigger.map_err(|fault| {
                let reason = format!("the ONBUILD trigger {text:?} of the base is wrong: {}", fault.message);
                self.meaning(stage.lines, reason, None)
            })?;
            self.heads[index].triggers.push(trigger);
        }
        Ok(())
    }

    /// An image or named context: asked for once per platform. The node is made when it is used.
    fn image(&mut self, name: &str, platform: Option<&Platform>, index: usize) -> Result<Image, Error> {
        let lines = self.file.stages[index].lines;
        let wanted = platform.unwrap_or(&self.options.platform).clone();
        let source = self.source(name, lines)?;
        if let Some((_, _, image)) = self.images.iter().find(|(known, on, _)| *known == source && *on == wanted) {
            return Ok(image.clone());
        }
        let image = match &source {
            Source::Image { reference, .. } | Source::OciLayout { reference, .. } => {
                let answer = self.bases.config(&source, &wanted).map_err(|source| {
                    let place = Some(lex::place(&self.file.source, lines, Some(name)));
                    Error { place, problem: Problem::Base { reference: reference.clone(), source } }
                })?;
                let mut resolved = source.clone();
                if let Source::Image { digest, .. } = &mut resolved {
                    *digest = answer.digest;
                }
                let told = answer.config.platform().normalised();
                let known = !told.architecture.is_empty() && !told.os.is_empty();
                if known
                    && platform.is_some() | self.options.platform_given
                    && (told.os != wanted.os || told.architecture != wanted.architecture)
                {
                    let message = format!("{name} is for {told}, not for {wanted}");
                    self.linter.note(lint::INVALID_BASE_IMAGE_PLATFORM, lines, &[], message);
                }
                let follow = known && platform.is_none() && !self.options.platform_given;
                let config = Some(ImageConfig { created: None, ..answer.config });
                Image { source: resolved, config, platform: if follow { told } else { wanted.clone() }, node: None }
            }
            _ => Image { source: source.clone(), config: None, platform: wanted.clone(), node: None },
        };
        self.images.push((source, wanted, image.clone()));
        Ok(image)
    }

    /// What a name outside of the Dockerfile stands for.
    fn source(&self, name: &str, lines: crate::ast::Lines) -> Result<Source, Error> {
        let (context, image) = match self.named_context(name) {
            Some((name, NamedContext::Image(image))) => (Some(name), image),
            Some((name, NamedContext::Local)) => return Ok(Source::Local { name }),
            Some((_, NamedContext::Git(git))) => return Ok(Source::Git(git)),
            Some((_, NamedContext::Http(url))) => {
                let filename = match crate::paths::base(url.split(['?', '#']).next().unwrap_or_default()) {
                    "" => "context".to_owned(),
                    base => base.to_owned(),
                };
                return Ok(Source::Http { url, checksum: None, filename });
            }
            Some((name, NamedContext::OciLayout(reference))) => return Ok(Source::OciLayout { name, reference }),
            None => (None, name.to_owned()),
        };
        let reference = image.parse::<ImageRef>().map_err(|error| {
            let what = context.map_or(format!("{image:?} is no stage, no named context and no image name"), |name| {
                format!("the named context {name} is no image name: {image:?}")
            });
            let names: Vec<&str> = self.file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let near = crate::suggest::nearest(&image, &names).map(|near| format!("did you mean {near}?"));
            let mut fault = self.meaning(lines, format!("{what}: {error}"), Some(name));
            if let Problem::Meaning { hint, .. } = &mut fault.problem {
                *hint = near;
            }
            fault
        })?;
        Ok(Source::Image { reference: reference.with_default_tag().to_string(), digest: None })
    }

    /// The tree of an image or named context; an empty one has none. `name` is what progress shows.
    pub(super) fn outside(
        &mut self,
        name: &str,
        platform: Option<&Platform>,
        index: usize,
        title: impl FnOnce(&str) -> String,
    ) -> Result<(Option<NodeId>, Image), Error> {
        let image = self.image(name, platform, index)?;
        let has_layers = image
            .config
            .as_ref()
            .is_none_or(|config| !config.rootfs.diff_ids.is_empty() || config.history.iter().any(|entry| !entry.empty_layer));
        if !has_layers {
            return Ok((None, image));
        }
        if image.node.is_some() {
            return Ok((image.node, image));
        }
        let shown = match &image.source {
            Source::Image { reference, digest: Some(digest) } if !reference.contains('@') => format!("{reference}@{digest}"),
            Source::Image { reference, .. } => reference.clone(),
            _ => name.to_owned(),
        };
        let node = self.push(Node {
            op: Op::Source(image.source.clone()),
            inputs: Vec::new(),
            platform: image.platform.clone(),
            name: title(&shown),
            lines: Some(self.file.stages[index].lines),
            ignore_cache: false,
        });
        for (_, _, known) in self.images.iter_mut().filter(|(_, _, known)| known.source == image.source && known.platform == image.platform)
        {
            known.node = Some(node);
        }
        Ok((Some(node), image))
    }
}

/// The configuration of an image made from nothing.
pub(super) fn scratch(platform: &Platform) -> ImageConfig {
    let run = RunConfig { env: Some(vec![format!("PATH={DEFAULT_PATH}")]), working_dir: "/".to_owned(), ..RunConfig::default() };
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        os: platform.os.clone(),
        config: Some(run),
        rootfs: types::image::RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
        ..ImageConfig::default()
    }
}
