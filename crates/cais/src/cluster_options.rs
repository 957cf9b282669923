//! The options of networks across machines: where etcd is, and how other hosts reach this one.

use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::overlay::ClusterConfig;

/// The words of the options, from the command line or the file.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) store: Option<String>,
    pub(crate) advertise: Option<String>,
    /// `KEY=VALUE` each.
    pub(crate) store_options: Vec<String>,
    pub(crate) ttl: Option<String>,
}

/// The keys of `--cluster-store-opt`.
const OPTIONS: &str = "kv.cacertfile, kv.certfile, kv.keyfile, kv.user and kv.passwordfile";
/// A longer file holds no password.
const PASSWORD_LEN_MAX: u64 = 4096;

/// None where the engine keeps to itself.
pub(crate) fn read(words: Words) -> Result<Option<ClusterConfig>> {
    let Some(store) = words.store else {
        if words.advertise.is_some() || !words.store_options.is_empty() || words.ttl.is_some() {
            bail!("--cluster-advertise, --cluster-store-opt and --cluster-ttl need --cluster-store etcd://HOST:2379");
        }
        return Ok(None);
    };
    let store: cluster::Store =
        store.parse().map_err(|error: cluster::Error| anyhow::anyhow!("--cluster-store: {}", types::error::chain(&error)))?;
    let Some(advertise) = words.advertise else {
        bail!("--cluster-store needs --cluster-advertise ADDRESS|INTERFACE: where other hosts reach this one");
    };
    let (mut ca, mut cert, mut key, mut user, mut password) = (None, None, None, None, None);
    for option in &words.store_options {
        let place = match option.split_once('=') {
            Some(("kv.cacertfile", value)) => (&mut ca, value),
            Some(("kv.certfile", value)) => (&mut cert, value),
            Some(("kv.keyfile", value)) => (&mut key, value),
            Some(("kv.user", value)) => (&mut user, value),
            Some(("kv.passwordfile", value)) => (&mut password, value),
            _ => bail!("--cluster-store-opt {option:?}: KEY=VALUE is expected, and the keys are {OPTIONS}"),
        };
        *place.0 = Some(place.1.to_owned());
    }
    if store.tls && ca.is_none() {
        bail!("--cluster-store etcds://… needs --cluster-store-opt kv.cacertfile=FILE: who signed etcd's certificates");
    }
    let user = match (user, password) {
        (Some(user), Some(file)) => Some((user, read_password(Path::new(&file))?)),
        (None, None) => None,
        _ => bail!("--cluster-store-opt kv.user=NAME and kv.passwordfile=FILE go together"),
    };
    let path = |text: &Option<String>| text.as_ref().map(std::path::PathBuf::from);
    let tls = cluster::Tls::read(path(&ca).as_deref(), path(&cert).as_deref(), path(&key).as_deref());
    let config = ClusterConfig {
        store,
        tls: tls.map_err(|error| anyhow::anyhow!("--cluster-store-opt: {}", types::error::chain(&error)))?,
        user,
        advertise: address(&advertise)?,
        ttl_secs: words.ttl.as_deref().map_or(Ok(cluster::TTL_SECS_DEFAULT), seconds)?,
    };
    config.check().map_err(|error| anyhow::anyhow!("{}", types::error::chain(&error)))?;
    Ok(Some(config))
}

fn address(text: &str) -> Result<std::net::IpAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let found = net::interface_address(text).map_err(|error| anyhow::anyhow!("{}", types::error::chain(&error)));
    found.with_context(|| format!("--cluster-advertise {text:?}: an address, or the name of an interface that has one, is expected"))
}

fn seconds(text: &str) -> Result<u32> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        _ => None,
    };
    let seconds = unit.zip(number.parse::<u32>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    seconds.with_context(|| format!("--cluster-ttl {text:?}: seconds or minutes are expected: 30s"))
}

fn read_password(path: &Path) -> Result<String> {
    use std::io::Read;
    let read = || format!("--cluster-store-opt kv.passwordfile={}", path.display());
    let mut text = String::new();
    std::fs::File::open(path).with_context(read)?.take(PASSWORD_LEN_MAX).read_to_string(&mut text).with_context(read)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(store: &str, options: &[&str]) -> Words {
        Words {
            store: Some(store.to_owned()),
            advertise: Some("192.0.2.1".to_owned()),
            store_options: options.iter().map(|&option| option.to_owned()).collect(),
            ttl: None,
        }
    }

    #[test]
    fn what_goes_together_is_asked_for_together() {
        assert!(read(Words::default()).expect("nothing").is_none());
        let config = read(words("etcd://10.0.0.1", &[])).expect("good").expect("something");
        assert_eq!((config.ttl_secs, config.user.is_none()), (cluster::TTL_SECS_DEFAULT, true));
        for (options, hint) in [(&["kv.user=a"][..], "kv.passwordfile"), (&["x=y"], "kv.cacertfile"), (&["kv.certfile=/nope"], "/nope")] {
            let error = format!("{:#}", read(words("etcd://10.0.0.1", options)).expect_err("wrong"));
            assert!(error.contains(hint), "{error}");
        }
        assert!(read(Words { ttl: Some("2h".to_owned()), ..words("etcd://10.0.0.1", &[]) }).is_err());
        assert!(read(Words { advertise: None, ..words("etcd://10.0.0.1", &[]) }).is_err());
    }
}
