//! Variables in the order in which they were set, and those that every build has.

use types::Platform;

use crate::options::Options;

/// What is set where an image sets no path.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Env(Vec<(String, String)>);

impl Env {
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// `NAME=value`.
    pub(super) fn assignments(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// The arguments that are there without being declared before the first `FROM`.
pub(super) fn global(options: &Options, target_stage: &str) -> Env {
    let mut env = Env::default();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.platform)] {
        let platform: &Platform = platform;
        let parts = [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone().unwrap_or_default()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ];
        for (part, value) in parts {
            env.set(&format!("{prefix}{part}"), &value);
        }
    }
    env.set("TARGETSTAGE", if target_stage.is_empty() { "default" } else { target_stage });
    for name in env.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>() {
        if let Some(value) = options.build_args.get(&name) {
            env.set(&name, value);
        }
    }
    env
}

/// Proxies given as build arguments, under both spellings, for commands only.
pub(super) fn proxies(options: &Options) -> Vec<String> {
    let mut found = Vec::new();
    for name in PROXIES {
        if let Some((_, value)) = options.build_args.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)) {
            found.push(format!("{}={value}", name.to_uppercase()));
            found.push(format!("{name}={value}"));
        }
    }
    found
}

/// Whether a build argument needs no declaration.
pub(super) fn is_predefined(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name)) || name == "SOURCE_DATE_EPOCH" || name.starts_with("BUILDKIT_")
}
