//! What a container gets from its image. Pure.

use types::container::{Config, Empty, HealthConfig, List};
use types::image::{Healthcheck, RunConfig};

/// Fills in what the request left to the image: what the request gives wins, environment, labels, ports and volumes are joined.
pub(crate) fn merge(config: &mut Config, image: &RunConfig) {
    for entry in image.env.iter().flatten() {
        let name = variable(entry);
        if !config.env.iter().any(|own| variable(own) == name) {
            config.env.push(entry.clone());
        }
    }
    for (key, value) in image.labels.iter().flatten() {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    for port in image.exposed_ports.keys() {
        let port = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
        config.exposed_ports.insert(port, Empty {});
    }
    for path in image.volumes.keys() {
        config.volumes.insert(path.clone(), Empty {});
    }
    // An entry point of the request takes the image's command away with the image's entry point: it was meant for that one.
    if config.entrypoint.is_empty() {
        if config.cmd.is_empty() {
            config.cmd = image.cmd.clone().map_or_else(|| std::mem::take(&mut config.cmd), List::from);
        }
        if config.entrypoint.is_null() {
            config.entrypoint = image.entrypoint.clone().map(List::from).unwrap_or_default();
        }
    } else if config.entrypoint.iter().all(String::is_empty) {
        // `--entrypoint ""`: neither the image's.
        config.entrypoint = List::default();
    }
    for (own, given) in [(&mut config.user, &image.user), (&mut config.working_dir, &image.working_dir)] {
        if own.is_empty() {
            own.clone_from(given);
        }
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = image.stop_signal.clone().unwrap_or_default();
    }
    if let Some(image) = image.healthcheck.as_ref().map(health) {
        let own = config.healthcheck.get_or_insert_default();
        // `NONE` and an own command stand as they are; times alone change the image's check.
        if own.test.is_empty() {
            own.test = image.test;
            for (own, image) in [
                (&mut own.interval, image.interval),
                (&mut own.timeout, image.timeout),
                (&mut own.start_period, image.start_period),
                (&mut own.start_interval, image.start_interval),
                (&mut own.retries, image.retries),
            ] {
                if *own == 0 {
                    *own = image;
                }
            }
        }
    }
}

/// Program and arguments: the entry point followed by the command.
pub(crate) fn command(config: &Config) -> Option<(String, Vec<String>)> {
    let mut words = config.entrypoint.iter().chain(config.cmd.iter()).cloned();
    let path = words.next().filter(|path| !path.is_empty())?;
    Some((path, words.collect()))
}

/// The name in `NAME=value`.
pub(crate) fn variable(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn health(image: &Healthcheck) -> HealthConfig {
    HealthConfig {
        test: image.test.clone().map(List::from).unwrap_or_default(),
        interval: image.interval,
        timeout: image.timeout,
        start_period: image.start_period,
        start_interval: image.start_interval,
        retries: image.retries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> RunConfig {
        RunConfig {
            env: Some(vec!["PATH=/bin".into(), "A=image".into()]),
            entrypoint: Some(vec!["serve".into()]),
            cmd: Some(vec!["--all".into()]),
            working_dir: "/app".into(),
            ..RunConfig::default()
        }
    }

    fn merged(entrypoint: List<String>, cmd: &[&str]) -> Option<(String, Vec<String>)> {
        let cmd: Vec<String> = cmd.iter().map(|word| (*word).to_owned()).collect();
        let mut config = Config { entrypoint, cmd: if cmd.is_empty() { List::default() } else { cmd.into() }, ..Config::default() };
        merge(&mut config, &image());
        command(&config)
    }

    #[test]
    fn entry_point_and_command_follow_the_rules() {
        let words = |path: &str, args: &[&str]| Some((path.to_owned(), args.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()));
        assert_eq!(merged(List::default(), &[]), words("serve", &["--all"]));
        assert_eq!(merged(List::default(), &["-x"]), words("serve", &["-x"]));
        assert_eq!(merged(vec!["sh".to_owned()].into(), &[]), words("sh", &[]));
        assert_eq!(merged(vec![String::new()].into(), &["ls"]), words("ls", &[]));
        assert_eq!(merged(vec![String::new()].into(), &[]), None);
    }

    #[test]
    fn own_values_win() {
        let mut config = Config { env: vec!["A=own".to_owned()].into(), ..Config::default() };
        merge(&mut config, &image());
        assert_eq!(*config.env, ["A=own", "PATH=/bin"]);
        assert_eq!(config.working_dir, "/app");
    }
}
