//! The parameters of Docker's own build request.

use std::collections::BTreeMap;

use engine::build::Build;
use serde::de::DeserializeOwned;
use types::build::{BuildRequest, ContextSource, DockerfileSource};
use types::container::{HostConfig, Ulimit};

use crate::error::Failure;
use crate::query::Query;

/// What is asked for, without the context's archive.
pub fn decode(query: &Query) -> Result<Build, Failure> {
    match query.get("version").unwrap_or_default() {
        "" | "1" => {}
        "2" => return Err(Failure::not_served("BuildKit's protocol (version=2): the engine's own builder is version 1")),
        other => return Err(Failure::bad(format!("invalid version {other:?} of the builder"))),
    }
    if query.get("isolation").is_some_and(|isolation| !matches!(isolation, "" | "default")) {
        return Err(Failure::bad("isolation is for Windows only"));
    }
    if query.get("outputs").is_some_and(|outputs| !matches!(outputs, "" | "[]" | "null")) {
        return Err(Failure::not_served("outputs of the builder of version 1"));
    }
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let context = match query.get("remote").filter(|remote| !remote.is_empty() && *remote != "client-session") {
        Some(url) => ContextSource::Url { url: url.to_owned() },
        None => ContextSource::Archive,
    };
    let args: BTreeMap<String, Option<String>> = parsed(query, "buildargs")?.unwrap_or_default();
    let labels: BTreeMap<String, String> = parsed(query, "labels")?.unwrap_or_default();
    let request = BuildRequest {
        context,
        dockerfile: DockerfileSource::Context { path: text("dockerfile") },
        args: args.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels,
        tags: query.all("t"),
        target: text("target"),
        platforms: vec![text("platform")].into_iter().filter(|platform| !platform.is_empty()).collect(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        network: text("networkmode"),
        id: text("buildid"),
        ..BuildRequest::default()
    };
    Ok(Build { request, limits: limits(query)?, is_sequential: true, squash: query.flag("squash"), ..Build::default() })
}

fn limits(query: &Query) -> Result<HostConfig, Failure> {
    let number = |name: &str| query.number(name).map(Option::unwrap_or_default);
    let hosts: Vec<String> = match query.get("extrahosts").unwrap_or_default() {
        "" => Vec::new(),
        text if text.starts_with('[') => parsed(query, "extrahosts")?.unwrap_or_default(),
        _ => query.all("extrahosts").iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
    };
    let ulimits: Vec<Ulimit> = parsed(query, "ulimits")?.unwrap_or_default();
    let options: Vec<String> = parsed(query, "securityopt")?.unwrap_or_default();
    Ok(HostConfig {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: query.get("cpusetcpus").unwrap_or_default().to_owned(),
        cpuset_mems: query.get("cpusetmems").unwrap_or_default().to_owned(),
        cgroup_parent: query.get("cgroupparent").unwrap_or_default().to_owned(),
        shm_size: number("shmsize")?,
        ulimits: ulimits.into(),
        extra_hosts: hosts.into(),
        security_opt: options.into(),
        ..HostConfig::default()
    })
}

/// A parameter that is JSON.
fn parsed<T: DeserializeOwned>(query: &Query, name: &str) -> Result<Option<T>, Failure> {
    match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => serde_json::from_str(text).map_err(|error| Failure::bad(format!("invalid {name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_a_request() {
        let query = "t=a:1&t=b&dockerfile=sub%2FDf&buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22m%22%7D&memory=1048576&nocache=1&target=x&networkmode=host&extrahosts=h:1.2.3.4,i:5.6.7.8&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&shmsize=67108864&platform=linux%2Famd64";
        let build = decode(&Query::parse(query)).expect("decodes");
        let request = &build.request;
        assert_eq!(request.tags, ["a:1", "b"]);
        assert_eq!(request.dockerfile, DockerfileSource::Context { path: "sub/Df".to_owned() });
        assert_eq!(request.args, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!((request.target.as_str(), request.network.as_str(), request.no_cache), ("x", "host", true));
        assert_eq!(request.platforms, ["linux/amd64"]);
        assert_eq!(build.limits.extra_hosts.to_vec(), ["h:1.2.3.4", "i:5.6.7.8"]);
        assert_eq!((build.limits.memory, build.limits.shm_size, build.limits.ulimits.len()), (1 << 20, 64 << 20, 1));
        assert!(
            request.platforms.len() == 1
                && decode(&Query::parse("remote=x.git"))
                    .is_ok_and(|build| build.request.context == ContextSource::Url { url: "x.git".to_owned() })
        );
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for query in ["version=2", "version=3", "isolation=hyperv", "buildargs=x", "outputs=[1]", "memory=much"] {
            assert!(decode(&Query::parse(query)).is_err(), "{query}");
        }
        assert!(decode(&Query::parse("version=1&cpusetcpus=0&isolation=default&outputs=")).is_ok());
    }
}
