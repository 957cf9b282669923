//! What is allowed and yet likely a mistake, under the names of BuildKit's rules.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::ast::{Dockerfile, Lines};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// Where.
    pub lines: Lines,
    /// The rule's name, which `# check=skip=` takes.
    pub rule: &'static str,
    /// What the rule asks for, in general.
    pub description: &'static str,
    /// Where the rule is explained; empty if nowhere.
    pub url: String,
    /// What was found here.
    pub message: String,
}

/// A rule of the lint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// Whether it has to be asked for by `experimental=`.
    pub experimental: bool,
}

macro_rules! rules {
    ($($ident:ident $name:literal $experimental:literal $description:literal;)*) => {
        $(pub(crate) const $ident: Rule = Rule { name: $name, description: $description, experimental: $experimental };)*
        /// Every rule.
        pub const RULES: &[Rule] = &[$($ident),*];
    };
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" false "Write stage names in lower case";
    FROM_AS_CASING "FromAsCasing" false "Write AS in the same case as FROM";
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" false "Leave no empty line inside a continued instruction: a later syntax may refuse it";
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing" false "Write all instructions in the same case, upper or lower";
    DUPLICATE_STAGE_NAME "DuplicateStageName" false "Give each stage a name of its own";
    RESERVED_STAGE_NAME "ReservedStageName" false "Do not name a stage by a reserved word";
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended" false "Write CMD and ENTRYPOINT as JSON arrays, so that signals reach the program rather than a shell";
    MAINTAINER_DEPRECATED "MaintainerDeprecated" false "MAINTAINER is obsolete: name the author in a label";
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" false "Declare the variables of FROM with ARG before the first FROM";
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath" false "Set an absolute WORKDIR first: a relative one changes with the base image";
    UNDEFINED_VAR "UndefinedVar" false "Define variables before they are used";
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed" false "Write CMD, ENTRYPOINT and HEALTHCHECK once in a stage: only the last one counts";
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat" false "Write name=value rather than name value";
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform" false "Leave out --platform=$TARGETPLATFORM: it is what FROM does by itself";
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" false "Keep secrets out of ARG and ENV: they stay in the image; use RUN --mount=type=secret";
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom" false "Give the ARGs of FROM defaults that make a valid image name";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed" false "Do not fix the platform of FROM: the result would not follow --platform";
    COPY_IGNORED_FILE "CopyIgnoredFile" true "Do not copy what .dockerignore leaves out";
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription" true "Begin the comment above a stage or ARG with its name, or leave a line between them";
    EXPOSE_PROTO_CASING "ExposeProtoCasing" false "Write the protocol of EXPOSE in lower case";
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat" false "EXPOSE takes ports of the container only, no addresses and no ports of the host";
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform" false "Use a base image that has the platform asked for";
}

/// Where the rules are explained.
const RULE_URL: &str = "https://docs.docker.com/go/dockerfile/rule/";

/// What the lint is told by `# check=` or `--build-arg BUILDKIT_DOCKERFILE_CHECK=`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    skip: BTreeSet<String>,
    skip_all: bool,
    experimental: BTreeSet<String>,
    experimental_all: bool,
    /// Whether a finding fails the build.
    pub error: bool,
}

impl Config {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid check option {part:?}: expected key=value"))?;
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
            match key.trim() {
                "skip" if value.eq_ignore_ascii_case("all") => config.skip_all = true,
                "skip" => config.skip = names(),
                "experimental" if value.eq_ignore_ascii_case("all") => config.experimental_all = true,
                "experimental" => config.experimental = names(),
                "error" => {
                    config.error = value.parse().map_err(|_| format!("invalid check option error={value}: expected true or false"))?
                }
                key => return Err(format!("invalid check option {key:?}: expected skip, error or experimental")),
            }
        }
        Ok(config)
    }
}

/// Collects findings.
#[derive(Debug, Default)]
pub(crate) struct Linter {
    config: Config,
    found: Vec<Warning>,
}

impl Linter {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, found: Vec::new() }
    }

    /// Notes a finding, unless the rule is skipped for the file or by a comment above the instruction.
    pub(crate) fn note(&mut self, rule: Rule, lines: Lines, comments: &[String], message: String) {
        let local: Vec<Config> = comments.iter().filter_map(|line| Config::parse(line.strip_prefix("check=")?).ok()).collect();
        let configs = || std::iter::once(&self.config).chain(&local);
        let skipped = configs().any(|config| config.skip_all || config.skip.contains(rule.name));
        let asked = configs().any(|config| config.experimental_all || config.experimental.contains(rule.name));
        if skipped || (rule.experimental && !asked) {
            return;
        }
        let mut url = String::from(RULE_URL);
        for (index, letter) in rule.name.chars().enumerate() {
            let follows_lower = index > 0 && rule.name.as_bytes()[index - 1].is_ascii_lowercase();
            let ends_capitals = index > 0
                && rule.name.as_bytes()[index - 1].is_ascii_uppercase()
                && rule.name.as_bytes().get(index + 1).is_some_and(u8::is_ascii_lowercase);
            if letter.is_ascii_uppercase() && (follows_lower || ends_capitals) {
                url.push('-');
            }
            url.push(letter.to_ascii_lowercase());
        }
        url.push('/');
        let warning = Warning { lines, rule: rule.name, description: rule.description, url, message };
        if !self.found.contains(&warning) {
            self.found.push(warning);
        }
    }

    /// The findings in the order of their lines, and whether they fail the build.
    pub(crate) fn finish(mut self) -> (Vec<Warning>, bool) {
        self.found.sort();
        let fails = self.config.error && !self.found.is_empty();
        (self.found, fails)
    }

    /// Notes what shows in the text alone.
    pub(crate) fn text(&mut self, file: &Dockerfile) {
        for lines in &file.empty_continuations {
            self.note(NO_EMPTY_CONTINUATION, *lines, &[], "an empty line interrupts a continued instruction".to_owned());
        }
        self.stage_names(file);
        self.casing(file);
        for instruction in &file.args {
            self.arg_descriptions(instruction);
        }
        for stage in &file.stages {
            if let (Some(name), Some(comment)) = (&stage.name, description(&stage.comments))
                && !comment.to_lowercase().starts_with(&format!("{name} "))
            {
                let message = format!("the comment above the stage does not begin with its name: `# {name} <description>`");
                self.note(INVALID_DEFINITION_DESCRIPTION, stage.lines, &stage.comments, message);
            }
            for instruction in &stage.instructions {
                self.arg_descriptions(instruction);
                if matches!(instruction.kind, crate::ast::Kind::Maintainer(_)) {
                    let message = "MAINTAINER is obsolete; write LABEL org.opencontainers.image.authors=...".to_owned();
                    self.note(MAINTAINER_DEPRECATED, instruction.lines, &instruction.comments, message);
                }
            }
        }
    }

    fn arg_descriptions(&mut self, instruction: &crate::ast::Instruction) {
        let crate::ast::Kind::Arg(pairs) = &instruction.kind else { return };
        if let ([pair], Some(comment)) = (pairs.as_slice(), description(&instruction.comments))
            && !comment.starts_with(&format!("{} ", pair.name))
        {
            let message = format!("the comment above the ARG does not begin with its name: `# {} <description>`", pair.name);
            self.note(INVALID_DEFINITION_DESCRIPTION, instruction.lines, &instruction.comments, message);
        }
    }

    fn stage_names(&mut self, file: &Dockerfile) {
        let mut seen = BTreeSet::new();
        for stage in &file.stages {
            let (from, word) = &stage.keywords;
            if let Some(word) = word.as_deref().filter(|word| is_upper(word) != is_upper(from) || is_lower(word) != is_lower(from)) {
                let message = format!("{word:?} and {from:?} differ in case");
                self.note(FROM_AS_CASING, stage.lines, &stage.comments, message);
            }
            let (Some(name), Some(written)) = (&stage.name, &stage.written_name) else { continue };
            if name != written {
                self.note(STAGE_NAME_CASING, stage.lines, &stage.comments, format!("stage name {written:?} is not in lower case"));
            }
            if matches!(name.as_str(), "scratch" | "context") {
                self.note(RESERVED_STAGE_NAME, stage.lines, &stage.comments, format!("{name:?} is a reserved word"));
            }
            if !seen.insert(name.clone()) {
                self.note(DUPLICATE_STAGE_NAME, stage.lines, &stage.comments, format!("an earlier stage is named {name:?} too"));
            }
        }
    }

    fn casing(&mut self, file: &Dockerfile) {
        let mut keywords = Vec::new();
        for stage in &file.stages {
            keywords.push((stage.keywords.0.as_str(), stage.lines, stage.comments.as_slice()));
            keywords.extend(stage.instructions.iter().map(|item| (item.keyword.as_str(), item.lines, item.comments.as_slice())));
        }
        let lower = keywords.iter().filter(|(word, ..)| is_lower(word)).count();
        let upper = keywords.iter().filter(|(word, ..)| is_upper(word)).count();
        let (wanted, fits): (_, fn(&str) -> bool) = if lower > upper { ("lower", is_lower) } else { ("upper", is_upper) };
        for (word, lines, comments) in keywords.into_iter().filter(|(word, ..)| !fits(word)) {
            let message = format!("{word} is not in {wanted} case as most instructions of the file are");
            self.note(CONSISTENT_INSTRUCTION_CASING, lines, comments, message);
        }
    }
}

/// Whether a name looks like one of a secret: one of its words is a telling one, and none says that it is harmless.
pub(crate) fn is_secret_name(name: &str) -> bool {
    const TELLING: &[&str] = &["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const HARMLESS: &[&str] = &["public", "file", "version"];
    let name = name.to_lowercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(TELLING) && !has(HARMLESS)
}

/// The comment that describes what follows: not one that talks to the lint.
fn description(comments: &[String]) -> Option<&str> {
    comments.last().map(String::as_str).filter(|comment| !comment.starts_with("check=") && !comment.starts_with("syntax="))
}

fn is_lower(word: &str) -> bool {
    !word.bytes().any(|letter| letter.is_ascii_uppercase())
}

fn is_upper(word: &str) -> bool {
    !word.bytes().any(|letter| letter.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let config = Config::parse("skip=StageNameCasing,FromAsCasing;error=true;experimental=all").expect("parses");
        assert!(config.error && config.experimental_all && config.skip.contains("FromAsCasing") && !config.skip_all);
        assert!(Config::parse("skip=all").expect("parses").skip_all);
        assert!(Config::parse("skp=all").is_err());
        assert!(Config::parse("error=maybe").is_err());
    }

    #[test]
    fn links_have_dashes_between_words() {
        let mut linter = Linter::default();
        let lines = Lines { first: 1, last: 1 };
        linter.note(JSON_ARGS_RECOMMENDED, lines, &[], String::new());
        linter.note(SECRETS_USED_IN_ARG_OR_ENV, lines, &[], String::new());
        linter.note(STAGE_NAME_CASING, lines, &["check=skip=StageNameCasing".to_owned()], String::new());
        let urls: Vec<String> = linter.finish().0.into_iter().map(|warning| warning.url.replace(RULE_URL, "")).collect();
        assert_eq!(urls, ["json-args-recommended/", "secrets-used-in-arg-or-env/"]);
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        assert!(["GITHUB_TOKEN", "api_key", "AUTH", "DATABASE_PASSWORD"].iter().all(|name| is_secret_name(name)));
        assert!(["KEYBOARD", "TOKEN_FILE", "PUBLIC_KEY", "AUTHOR", "KEY_VERSION"].iter().all(|name| !is_secret_name(name)));
    }
}
