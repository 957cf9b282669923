//! The configuration file: TOML, every key of which is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::auth::{Action, AuthOptions, Rule, Scheme};
use crate::http::Options;
use crate::pattern::Pattern;
use crate::store::Collection;
use crate::{Error, Result};

/// A larger file is no configuration.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const COLLECTION_PAUSE_DEFAULT: Duration = Duration::from_secs(6 * 60 * 60);

/// The file as it is written. What is not there has its default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigFile {
    /// The address to listen on.
    pub addr: Option<String>,
    /// The registry's folder.
    pub root: Option<PathBuf>,
    /// How much to log.
    pub log_level: Option<String>,
    /// Where access is logged: a file, `-` for standard output, or `off`.
    pub access_log: Option<PathBuf>,
    /// The certificate chain, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
    /// The file of users.
    pub users: Option<PathBuf>,
    /// `token` or `basic`.
    pub auth: Option<String>,
    /// Whether who is nobody may pull.
    pub anonymous_pull: bool,
    /// Where clients find this registry.
    pub public_url: Option<String>,
    /// Whether plain HTTP may be served to others than this machine.
    pub allow_plain_http: bool,
    /// Whether everybody who gets there may do everything.
    pub allow_everybody: bool,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Requests per second from one address.
    pub rate_limit: Option<u32>,
    /// Whether others than this machine may read the metrics.
    pub open_metrics: bool,
    /// Whether an index may name manifests that are not there.
    pub sparse_indexes: bool,
    /// The largest blob: `64g`.
    pub blob_size_max: Option<String>,
    /// How long transfers may go on when the server stops: `30s`.
    pub grace: Option<String>,
    /// How often is collected: `6h`, or `off`.
    pub gc_interval: Option<String>,
    /// How long blobs that no manifest names are kept: `1h`.
    pub gc_lease: Option<String>,
    /// How old uploads get that nobody goes on with: `24h`.
    pub gc_uploads: Option<String>,
    /// How old manifests without a tag get; without it they stay.
    pub gc_untagged: Option<String>,
    /// Rights.
    pub access: Vec<AccessEntry>,
    /// Quotas.
    pub quota: Vec<QuotaEntry>,
}

/// `[[access]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AccessEntry {
    /// Users; `*` is every one, `anonymous` who has not logged in.
    pub users: Vec<String>,
    /// Patterns of repositories.
    pub repositories: Vec<String>,
    /// `pull`, `push`, `delete`.
    pub rights: Vec<Action>,
}

/// `[[quota]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QuotaEntry {
    /// A pattern of repositories, each of which gets this.
    pub repositories: String,
    /// How much: `10g`.
    pub size: String,
}

impl ConfigFile {
    /// Reads a file; one that was not asked for by name need not exist.
    pub fn read(path: &Path, must_exist: bool) -> Result<Self> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read the configuration", path, error)),
            Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
                return Err(Error::Configuration(format!("the configuration {} is larger than {CONFIG_BYTES_MAX} bytes", path.display())));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the configuration", path, error))?;
        toml::from_str(&text).map_err(|error| Error::Configuration(format!("the configuration {}: {error}", path.display())))
    }

    /// What the server is started with.
    pub fn options(&self) -> Result<Options> {
        let defaults = Options::default();
        let pattern = |text: &String| Pattern::parse(text).ok_or_else(|| wrong(format!("{text:?} is no pattern of repositories")));
        let rules = self.access.iter().map(|entry| {
            let repositories = entry.repositories.iter().map(pattern).collect::<Result<_>>()?;
            Ok(Rule { users: entry.users.clone(), repositories, actions: entry.rights.clone() })
        });
        let scheme = match self.auth.as_deref() {
            None | Some("token") => Scheme::Token,
            Some("basic") => Scheme::Basic,
            Some(other) => return Err(wrong(format!("auth = {other:?}: use \"token\" or \"basic\""))),
        };
        if let Some(url) = &self.public_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(wrong(format!("public-url = {url:?}: it begins with https:// or http://")));
        }
        if self.rate_limit == Some(0) {
            return Err(wrong("rate-limit = 0: nothing could be asked".to_owned()));
        }
        let auth = AuthOptions {
            users: self.users.clone(),
            scheme,
            anonymous_pull: self.anonymous_pull,
            rules: rules.collect::<Result<_>>()?,
            public_url: self.public_url.clone(),
        };
        let quotas = self.quota.iter().map(|entry| Ok((pattern(&entry.repositories)?, size("size", &entry.size)?)));
        let kept = Collection::default();
        let collection = Collection {
            lease: self.gc_lease.as_deref().map_or(Ok(kept.lease), |text| duration("gc-lease", text))?,
            upload_age: self.gc_uploads.as_deref().map_or(Ok(kept.upload_age), |text| duration("gc-uploads", text))?,
            untagged_age: self.gc_untagged.as_deref().map(|text| duration("gc-untagged", text)).transpose()?,
        };
        let pause = match self.gc_interval.as_deref() {
            Some("off") => None,
            Some(text) => Some(duration("gc-interval", text)?),
            None => Some(COLLECTION_PAUSE_DEFAULT),
        };
        Ok(Options {
            sparse_indexes: self.sparse_indexes,
            blob_bytes_max: self.blob_size_max.as_deref().map_or(Ok(defaults.blob_bytes_max), |text| size("blob-size-max", text))?,
            quotas: quotas.collect::<Result<_>>()?,
            grace: self.grace.as_deref().map_or(Ok(defaults.grace), |text| duration("grace", text))?,
            read_only: self.read_only,
            rate: self.rate_limit,
            open_metrics: self.open_metrics,
            auth,
            collection: pause.filter(|pause| !pause.is_zero()).map(|pause| (pause, collection)),
        })
    }
}

fn wrong(why: String) -> Error {
    Error::Configuration(why)
}

/// A whole number of bytes with an optional unit: `10g`, `512MiB`, `1000`.
pub fn size(key: &str, text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong(format!("{key} = {text:?}: a number with k, m, g or t is expected"))),
    };
    let number = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| wrong(format!("{key} = {text:?}: a number with k, m, g or t is expected")))
}

/// A whole number of seconds, minutes, hours or days: `90s`, `24h`.
pub fn duration(key: &str, text: &str) -> Result<Duration> {
    let bad = || wrong(format!("{key} = {text:?}: a number with s, m, h or d is expected"));
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "" if digits == "0" => 1,
        _ => return Err(bad()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)?;
    // A hundred years are as good as forever, and everything can count with them.
    Ok(Duration::from_secs(seconds.min(100 * 365 * 86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        file.options()
    }

    #[test]
    fn a_whole_file_is_read() {
        let options = options(
            "addr = \"0.0.0.0:5000\"\nusers = \"/etc/users\"\nanonymous-pull = true\nread-only = true\nrate-limit = 50\n\
             blob-size-max = \"2g\"\ngc-interval = \"30m\"\ngc-untagged = \"30d\"\n\
             [[access]]\nusers = [\"ann\"]\nrepositories = [\"team/**\"]\nrights = [\"pull\", \"push\"]\n\
             [[quota]]\nrepositories = \"team/*\"\nsize = \"10GiB\"\n",
        );
        let options = options.expect("reads");
        assert_eq!((options.blob_bytes_max, options.rate, options.read_only), (2 << 30, Some(50), true));
        assert_eq!(options.quotas.first().map(|(_, bytes)| *bytes), Some(10 << 30));
        assert_eq!(options.auth.rules.len(), 1);
        let (pause, collection) = options.collection.expect("collects");
        assert_eq!((pause.as_secs(), collection.untagged_age.map(|age| age.as_secs())), (1800, Some(30 * 86_400)));
    }

    #[test]
    fn bad_values_are_refused() {
        for text in [
            "unknown = 1",
            "rate-limit = 0",
            "rate-limit = -1",
            "auth = \"none\"",
            "public-url = \"registry\"",
            "blob-size-max = \"much\"",
            "blob-size-max = \"99999999999t\"",
            "grace = \"5\"",
            "gc-lease = \"-1h\"",
            "[[quota]]\nrepositories = \"/x\"\nsize = \"1g\"",
            "[[access]]\nusers = []\nrepositories = [\"A\"]\nrights = []",
            "[[access]]\nusers = []\nrepositories = [\"a\"]\nrights = [\"own\"]",
        ] {
            assert!(options(text).is_err(), "{text}");
        }
    }
}
