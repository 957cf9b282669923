//! Users at registries, kept where Docker keeps them: in `config.json`, or with the credential helpers that it names.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde::Serialize as _;
use serde_json::{Map, Value, json};
use types::reference::{DEFAULT_DOMAIN, ImageRef};

use crate::context::Context;

/// Under what Docker keeps the user at its own registry.
const DEFAULT_SERVER: &str = "https://index.docker.io/v1/";
const CONFIG_BYTES_MAX: u64 = 4 << 20;
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// What helpers say of a registry that they know nothing about.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name under which helpers keep an identity token.
const TOKEN_USER: &str = "<token>";

/// A user at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password or access token.
    pub password: String,
    /// What the registry gave in exchange for the password, if it did: goes before it, and lets it be forgotten.
    pub token: String,
}

/// Docker's `config.json`. Everything in it that is not about users stays as it is.
pub struct Config {
    path: PathBuf,
    document: Map<String, Value>,
}

/// The name under which a registry's user is kept.
pub fn server_key(registry: &str) -> String {
    let address = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    match address.split('/').next().unwrap_or_default() {
        "" | DEFAULT_DOMAIN | "index.docker.io" | "registry-1.docker.io" => DEFAULT_SERVER.to_owned(),
        domain => domain.to_owned(),
    }
}

/// The user for an image's registry.
pub fn login(context: &Context, image: &ImageRef) -> Result<Option<Login>> {
    Config::load(context)?.login(&server_key(image.domain())).with_context(|| format!("find the user for {}", image.domain()))
}

/// The header by which the engine gets the user for an image's registry; nothing where no user is kept.
pub fn header(context: &Context, image: &ImageRef) -> Result<Option<String>> {
    let config = Config::load(context)?;
    let server = server_key(image.domain());
    let login = config.login(&server).with_context(|| format!("find the user for {}", image.domain()))?;
    Ok(login.map(|login| {
        let document = match login.token.is_empty() {
            true => json!({ "username": login.username, "password": login.password, "serveraddress": server }),
            false => json!({ "username": login.username, "identitytoken": login.token, "serveraddress": server }),
        };
        BASE64_URL_SAFE.encode(document.to_string())
    }))
}

/// The header by which the engine gets the users for several registries; nothing where none is kept.
pub fn registries(context: &Context, domains: &[String]) -> Result<Option<String>> {
    let config = Config::load(context)?;
    let mut found = Map::new();
    for domain in domains {
        let server = server_key(domain);
        if let Some(login) = config.login(&server).with_context(|| format!("find the user for {domain}"))? {
            found.insert(server, json!({ "username": login.username, "password": login.password }));
        }
    }
    Ok((!found.is_empty()).then(|| BASE64_URL_SAFE.encode(Value::Object(found).to_string())))
}

impl Config {
    /// Reads the file in the folder of `--config`, `$DOCKER_CONFIG` or `~/.docker`. One that is not there is empty.
    pub fn load(context: &Context) -> Result<Self> {
        let path = folder(context)?.join("config.json");
        let document = match std::fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            opened => {
                let mut text = String::new();
                let read = opened.and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_string(&mut text));
                read.with_context(|| format!("read {}", path.display()))?;
                parse(&text).with_context(|| format!("read {}", path.display()))?
            }
        };
        Ok(Self { path, document })
    }

    /// The user at a server.
    pub fn login(&self, server: &str) -> Result<Option<Login>> {
        match self.helper(server) {
            Some(helper) => ask(&helper, server),
            None => self.entry(server).map(|(_, entry)| decode(entry)).transpose().map(Option::flatten),
        }
    }

    /// Keeps a user, with the token where there is one and else the password. Answers whether that is now in the file for everybody who can read it.
    pub fn keep(&mut self, server: &str, login: &Login) -> Result<bool> {
        let (has_token, password) = (!login.token.is_empty(), if login.token.is_empty() { login.password.as_str() } else { "" });
        if let Some(helper) = self.helper(server) {
            let (username, secret) = if has_token { (TOKEN_USER, &login.token) } else { (login.username.as_str(), &login.password) };
            let document = json!({ "ServerURL": server, "Username": username, "Secret": secret });
            call(&helper, "store", &document.to_string())?;
            // Docker notes that there is a user, without the secret.
            self.auths().insert(server.to_owned(), json!({}));
            self.save()?;
            return Ok(false);
        }
        let auth = BASE64_STANDARD.encode(format!("{}:{password}", login.username));
        let mut entry = json!({ "auth": auth });
        if has_token {
            entry["identitytoken"] = json!(login.token);
        }
        self.auths().insert(server.to_owned(), entry);
        self.save()?;
        Ok(true)
    }

    /// Forgets the user at a server. Answers whether one was known in the file.
    pub fn forget(&mut self, server: &str) -> Result<bool> {
        if let Some(helper) = self.helper(server) {
            call(&helper, "erase", server)?;
        }
        let Some((key, _)) = self.entry(server) else { return Ok(false) };
        let key = key.to_owned();
        self.auths().shift_remove(&key);
        self.save()?;
        Ok(true)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The program that keeps the secrets of a server, by its suffix.
    fn helper(&self, server: &str) -> Option<String> {
        let own = self.document.get("credHelpers").and_then(|helpers| helpers.get(server));
        let helper = own.or_else(|| self.document.get("credsStore"))?.as_str()?;
        (!helper.is_empty()).then(|| helper.to_owned())
    }

    /// The entry of a server; older files name servers as URLs.
    fn entry(&self, server: &str) -> Option<(&str, &Value)> {
        let auths = self.document.get("auths")?.as_object()?;
        let exact = auths.get_key_value(server);
        exact.or_else(|| auths.iter().find(|(key, _)| server_key(key) == server)).map(|(key, value)| (key.as_str(), value))
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.document.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        match auths {
            Value::Object(auths) => auths,
            _ => unreachable!("it was just made an object"),
        }
    }

    /// Replaces the file as a whole, readable by its owner only.
    fn save(&self) -> Result<()> {
        // A link, to a file kept elsewhere, stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().ok_or_else(|| anyhow!("{} is in no folder", path.display()))?;
        if !folder.is_dir() {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(DIRECTORY_MODE))?;
        }
        let staged = folder.join(format!(".config.json.{}", std::process::id()));
        let mut text = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.document.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
        let write = || -> io::Result<()> {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&staged)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&staged, &path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&staged);
            anyhow!(error).context(format!("write {}", path.display()))
        })
    }
}

/// The folder of Docker's client: of `--config`, `$DOCKER_CONFIG` or `~/.docker`.
pub fn folder(context: &Context) -> Result<PathBuf> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = context.config.as_ref().map(PathBuf::from).or_else(|| of("DOCKER_CONFIG")) {
        return Ok(folder);
    }
    // Without a home nobody has kept anything there.
    Ok(of("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".docker"))
}

fn parse(text: &str) -> Result<Map<String, Value>> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text)? {
        Value::Object(document) => Ok(document),
        _ => bail!("it is no JSON object"),
    }
}

/// An entry of `auths`: `auth` is `user:password` in base64.
fn decode(entry: &Value) -> Result<Option<Login>> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("identitytoken").unwrap_or_default().to_owned();
    let Some(auth) = text("auth") else {
        let login = text("username").zip(text("password"));
        let login =
            login.map(|(username, password)| Login { username: username.to_owned(), password: password.to_owned(), token: token.clone() });
        return Ok(login.or_else(|| (!token.is_empty()).then(|| Login { username: String::new(), password: String::new(), token })));
    };
    let bad = || anyhow!("the entry in config.json is damaged: log in again");
    let plain = BASE64_STANDARD.decode(auth).map_err(|_| bad())?;
    let plain = String::from_utf8(plain).map_err(|_| bad())?;
    let (username, password) = plain.split_once(':').ok_or_else(bad)?;
    Ok(Some(Login { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned(), token }))
}

/// Asks a helper for the user at a server.
fn ask(helper: &str, server: &str) -> Result<Option<Login>> {
    let answer = match call(helper, "get", server) {
        Err(error) if error.to_string().contains(NOT_FOUND) => return Ok(None),
        answer => answer?,
    };
    let answer: BTreeMap<String, String> =
        serde_json::from_str(&answer).with_context(|| format!("read the answer of docker-credential-{helper}"))?;
    let text = |key: &str| answer.get(key).cloned().unwrap_or_default();
    if text("Username") == TOKEN_USER {
        return Ok(Some(Login { username: TOKEN_USER.to_owned(), password: String::new(), token: text("Secret") }));
    }
    let login = Login { username: text("Username"), password: text("Secret"), token: String::new() };
    Ok(Some(login).filter(|login| !login.username.is_empty()))
}

/// Runs `docker-credential-HELPER VERB` with `input` as its stdin, and answers its stdout.
fn call(helper: &str, verb: &str, input: &str) -> Result<String> {
    if helper.contains('/') {
        bail!("{helper:?} is not the name of a credential helper");
    }
    let program = format!("docker-credential-{helper}");
    let started = Command::new(&program).arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = started.with_context(|| format!("run {program}"))?;
    // A helper that does not read is still heard.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(said),
        false => bail!("{program} {verb} failed: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config { path: PathBuf::from("/nowhere/config.json"), document: parse(text).expect("parses") }
    }

    #[test]
    fn users_are_found_under_every_name_of_their_server() {
        let config = config(r#"{"auths":{"http://r.example:5000/v1/":{"auth":"YTpiOmM="},"https://index.docker.io/v1/":{"auth":"eDp5"}}}"#);
        let found = |registry: &str| config.login(&server_key(registry)).expect("reads").map(|login| (login.username, login.password));
        assert_eq!(found("r.example:5000"), Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(found("docker.io"), Some(("x".to_owned(), "y".to_owned())));
        assert_eq!(found("other.example"), None);
    }

    #[test]
    fn damaged_entries_are_told() {
        for entry in [r#"{"auth":"*"}"#, r#"{"auth":"YQ=="}"#] {
            assert!(config(&format!(r#"{{"auths":{{"r.example":{entry}}}}}"#)).login("r.example").is_err(), "{entry}");
        }
        assert!(config("").login("r.example").expect("empty").is_none());
        assert!(parse("[]").is_err() && parse("{").is_err());
    }

    #[test]
    fn a_helper_goes_before_the_file() {
        let config = config(r#"{"auths":{"r.example":{}},"credHelpers":{"r.example":"one"},"credsStore":"all"}"#);
        assert_eq!((config.helper("r.example").as_deref(), config.helper("other").as_deref()), (Some("one"), Some("all")));
        assert!(call("../x", "get", "").is_err());
    }

    #[test]
    fn the_file_is_private_and_keeps_what_else_is_in_it() {
        let folder = std::env::temp_dir().join(format!("cais-auth-{}", std::process::id()));
        let path = folder.join("config.json");
        let mut config = Config { path: path.clone(), document: parse(r#"{"psFormat":"x"}"#).expect("parses") };
        let login = Login { username: "u".to_owned(), password: "p".to_owned(), token: String::new() };
        assert!(config.keep("r.example", &Login { token: "t".to_owned(), ..login.clone() }).expect("kept"));
        assert!(!std::fs::read_to_string(&path).expect("read").contains("dTpw"), "a token stands for the password");
        let found = config.login("r.example").expect("reads").expect("somebody");
        assert_eq!((found.username.as_str(), found.password.as_str(), found.token.as_str()), ("u", "", "t"));
        assert!(config.keep("r.example", &login).expect("kept"));
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, FILE_MODE);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains("\"psFormat\": \"x\"") && text.contains("dTpw"), "{text}");
        assert!(config.forget("r.example").expect("forgotten") && !config.forget("r.example").expect("nothing left"));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
