//! Base images for tests, without any I/O.

use std::collections::BTreeMap;

use dockerfile::graph::Source;
use dockerfile::{BaseImage, Bases};
use types::image::{History, ImageConfig, RootFs, RunConfig};
use types::{Digest, Platform};

/// Knows every image: the same small one, but for those with a configuration of their own.
#[derive(Default)]
pub struct Fake {
    pub own: BTreeMap<String, RunConfig>,
    pub asked: Vec<String>,
}

pub fn digest(letter: char) -> Digest {
    format!("sha256:{}", letter.to_string().repeat(64)).parse().expect("is a digest")
}

impl Bases for Fake {
    fn config(&mut self, source: &Source, platform: &Platform) -> Result<BaseImage, Box<dyn std::error::Error + Send + Sync>> {
        let (Source::Image { reference, .. } | Source::OciLayout { reference, .. }) = source else { return Err("no image".into()) };
        self.asked.push(format!("{reference} {platform}"));
        if reference.contains("missing") {
            return Err("not found".into());
        }
        let run = self.own.get(reference).cloned().unwrap_or_else(|| RunConfig {
            env: Some(vec!["PATH=/bin".to_owned()]),
            cmd: Some(vec!["sh".to_owned()]),
            ..RunConfig::default()
        });
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            config: Some(run),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![digest('a')] },
            history: vec![History { created_by: "base".to_owned(), ..History::default() }],
            ..ImageConfig::default()
        };
        Ok(BaseImage { digest: Some(digest('b')), config })
    }
}
