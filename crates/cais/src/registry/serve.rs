//! `cais registry serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cli::flags::Matches;
use registryd::{AccessLog, ConfigFile, Store, Surroundings, Tls, Users};
use tokio::signal::unix::{SignalKind, signal};

use super::{root, users_in};
use crate::serve::{StopSignals, described, notify_ready, raise_descriptor_limit};

const CONFIG_FILE: &str = "/etc/cais/registry.toml";
const ADDRESS: &str = "127.0.0.1:5000";
/// Threads for operations that wait for the disk.
const BLOCKING_THREADS_MAX: usize = 48;

/// What flags and file together say.
struct Plan {
    file: ConfigFile,
    address: SocketAddr,
    root: PathBuf,
    level: tracing::Level,
}

pub(super) fn serve(matches: &Matches) -> Result<ExitCode> {
    let plan = plan(matches)?;
    check_exposure(&plan)?;
    let options = plan.file.options().map_err(described)?;
    let tls = match (&plan.file.tls_cert, &plan.file.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key).map_err(described)?),
        (None, None) => None,
        _ => bail!("--tls-cert and --tls-key go together"),
    };
    // What cannot work is told before anything is made.
    plan.file.users.as_deref().map(Users::open).transpose().map_err(described)?;
    tracing_subscriber::fmt().with_max_level(plan.level).with_writer(std::io::stderr).with_target(false).init();
    raise_descriptor_limit();
    let store = Arc::new(Store::serve(&plan.root).map_err(described)?);
    let listener = std::net::TcpListener::bind(plan.address).with_context(|| format!("listen on {}", plan.address))?;
    let address = listener.local_addr().context("find the port that was chosen")?;
    let log = plan.file.access_log.as_deref().filter(|path| *path != Path::new("off"));
    let access_log = log.map(AccessLog::open).transpose().map_err(described)?.map(Arc::new);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    let (secure, users) = (tls.is_some(), plan.file.users.is_some());
    runtime.block_on(async {
        let mut stop = StopSignals::new()?;
        let mut hangup = signal(SignalKind::hangup())?;
        if let Some(log) = access_log.clone() {
            tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    if let Err(error) = log.reopen() {
                        tracing::error!(error = types::error::chain(&error), "the access log could not be opened again");
                    }
                }
            });
        }
        tracing::info!(%address, root = %plan.root.display(), tls = secure, users, read_only = options.read_only, "the registry listens");
        notify_ready();
        let surroundings = Surroundings { tls, access_log };
        let stopped = async {
            stop.recv().await;
            tracing::info!("the registry stops: transfers under way may end");
        };
        registryd::serve(store, options, surroundings, listener, stopped).await.map_err(described)
    })?;
    // What still blocks must not hold up the end.
    runtime.shutdown_background();
    tracing::info!("the registry has stopped");
    Ok(ExitCode::SUCCESS)
}

/// Flags win over the file.
fn plan(matches: &Matches) -> Result<Plan> {
    if let Some(word) = matches.positional(0) {
        bail!("unexpected argument {word:?}");
    }
    let given = matches.text("config-file").map(Path::new);
    let mut file = ConfigFile::read(given.unwrap_or(Path::new(CONFIG_FILE)), given.is_some()).map_err(described)?;
    let path = |flag: &str, key: &mut Option<PathBuf>| {
        if let Some(path) = matches.text(flag) {
            *key = Some(path.into());
        }
    };
    path("root", &mut file.root);
    path("access-log", &mut file.access_log);
    path("tls-cert", &mut file.tls_cert);
    path("tls-key", &mut file.tls_key);
    path("users", &mut file.users);
    let word = |flag: &str, key: &mut Option<String>| {
        if let Some(word) = matches.text(flag) {
            *key = Some(word.to_owned());
        }
    };
    word("addr", &mut file.addr);
    word("auth", &mut file.auth);
    word("log-level", &mut file.log_level);
    word("public-url", &mut file.public_url);
    let switch = |flag: &str, key: &mut bool| *key = matches.switch(flag).unwrap_or(*key);
    switch("allow-everybody", &mut file.allow_everybody);
    switch("allow-plain-http", &mut file.allow_plain_http);
    switch("anonymous-pull", &mut file.anonymous_pull);
    switch("read-only", &mut file.read_only);
    if let Some(text) = matches.text("rate-limit") {
        file.rate_limit = Some(text.parse().with_context(|| format!("--rate-limit {text:?}: a number is expected"))?);
    }
    let address = file.addr.as_deref().unwrap_or(ADDRESS);
    let address = address.parse().with_context(|| format!("--addr {address:?}: an IP address and a port are expected"))?;
    let level = file.log_level.as_deref().unwrap_or("info");
    let level = level.parse().map_err(|_| anyhow::anyhow!("--log-level {level:?}: use trace, debug, info, warn or error"))?;
    let root = root(file.root.as_deref())?;
    // Users who were added without naming a file count.
    if file.users.is_none() && users_in(&root).is_file() {
        file.users = Some(users_in(&root));
    }
    if file.users.is_none() && (!file.access.is_empty() || file.anonymous_pull) {
        bail!("there are rights, but no users: add one with `cais registry user add`, or name their file with --users");
    }
    Ok(Plan { file, address, root, level })
}

/// What strangers can reach is served to them only when that was said, once for each danger.
fn check_exposure(plan: &Plan) -> Result<()> {
    if plan.address.ip().is_loopback() {
        return Ok(());
    }
    let address = plan.address;
    if plan.file.tls_cert.is_none() && !plan.file.allow_plain_http {
        bail!(
            "--addr {address}: images and passwords would go over the network in the clear: give --tls-cert and --tls-key, \
             or say --allow-plain-http"
        );
    }
    if plan.file.users.is_none() && !plan.file.allow_everybody {
        bail!(
            "--addr {address}: everybody who gets there could change everything: add users with `cais registry user add`, \
             or say --allow-everybody"
        );
    }
    Ok(())
}
