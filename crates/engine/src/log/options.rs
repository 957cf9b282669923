//! What the options of a container's log mean: driver, limits, attributes, tag, and where records go. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use types::container::LogConfig;

use crate::Error;
use crate::container::Record;

/// A log file is rotated beyond this, unless the container says otherwise.
const FILE_BYTES_DEFAULT: u64 = 20 << 20;
const FILES_DEFAULT: u32 = 5;
/// What a slow collector may leave waiting in memory in the mode that loses records, unless the container says otherwise.
const BUFFER_BYTES_DEFAULT: u64 = 1 << 20;
const FLUENTD_PORT: u16 = 24224;
const GELF_PORT: u16 = 12201;
const SYSLOG_PORT: u16 = 514;
/// Of the system's own collector where the options name none.
const SYSLOG_SOCKET: &str = "/dev/log";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const TAG_DEFAULT: &str = "{{.ID}}";

/// The drivers' names.
pub(crate) const DRIVERS: &[(&str, Driver)] = &[
    ("fluentd", Driver::Fluentd),
    ("gelf", Driver::Gelf),
    ("journald", Driver::Journald),
    ("json-file", Driver::JsonFile),
    ("local", Driver::Local),
    ("none", Driver::None),
    ("syslog", Driver::Syslog),
];

const OF_FILES: &[&str] = &["max-size", "max-file", "compress"];
const OF_ATTRIBUTES: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const OF_ALL: &[&str] = &["mode", "max-buffer-size"];
const OF_SENDERS: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];

/// What keeps a container's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    JsonFile,
    Local,
    None,
    Syslog,
    Journald,
    Gelf,
    Fluentd,
}

/// What a container's log options mean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogPlan {
    pub(crate) driver: Driver,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
    /// Rotated files are compressed.
    pub(crate) compress: bool,
    /// `logs` shows it.
    pub(crate) readable: bool,
    /// Labels and variables chosen by the options, and the tag where one was asked for.
    pub(crate) attrs: BTreeMap<String, String>,
    /// The container's name for the collector.
    pub(crate) tag: String,
    /// Records beyond this many bytes are lost rather than kept waiting for a slow collector; none: nothing is lost.
    pub(crate) lossy_bytes: Option<u64>,
    pub(crate) target: Option<Target>,
}

/// Where records are sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    Syslog { at: Address, facility: u8, format: SyslogFormat },
    Journald { socket: PathBuf },
    Gelf { at: Address, compression: Compression },
    Fluentd { at: Address, at_once: bool, nanos: bool },
}

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

/// How lines are put into syslog's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyslogFormat {
    Unix,
    Rfc3164,
    Rfc5424 { micros: bool },
}

/// How messages of GELF are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip(u32),
    Zlib(u32),
}

impl LogPlan {
    /// The attributes as records carry them; empty where there are none.
    pub(super) fn attrs_json(&self) -> String {
        if self.attrs.is_empty() || self.driver != Driver::JsonFile {
            return String::new();
        }
        serde_json::to_string(&self.attrs).unwrap_or_default()
    }
}

/// Reads the options, and refuses what is not known or cannot be.
pub(super) fn plan(record: &Record) -> Result<LogPlan, Error> {
    let log = &record.host.log_config;
    let driver = driver_of(&log.kind)?;
    known(driver, log)?;
    let options = Options(&log.config);
    let sends = !matches!(driver, Driver::JsonFile | Driver::Local | Driver::None);
    let option = |plain: &'static str, cached: &'static str| if sends { cached } else { plain };
    let mut attrs = attributes(&options, record)?;
    let tag = expand(options.get("tag").filter(|tag| !tag.is_empty()).unwrap_or(TAG_DEFAULT), record)?;
    if driver == Driver::JsonFile && options.get("tag").is_some_and(|tag| !tag.is_empty()) {
        attrs.insert("tag".to_owned(), tag.clone());
    }
    Ok(LogPlan {
        driver,
        max_bytes: options.size(option("max-size", "cache-max-size"))?.unwrap_or(FILE_BYTES_DEFAULT),
        max_files: options.count(option("max-file", "cache-max-file"))?.unwrap_or(FILES_DEFAULT),
        compress: options.truth(option("compress", "cache-compress"))?.unwrap_or(driver != Driver::JsonFile),
        readable: driver != Driver::None && options.truth("cache-disabled")? != Some(true),
        attrs,
        tag,
        lossy_bytes: lossy_bytes(&options)?,
        target: target(driver, &options)?,
    })
}

/// Refuses a choice of driver and options that no container could be made with; tags and patterns show with the first container.
pub(crate) fn check(log: &LogConfig) -> Result<(), Error> {
    let driver = driver_of(&log.kind)?;
    known(driver, log)?;
    target(driver, &Options(&log.config)).map(drop)
}

fn driver_of(kind: &str) -> Result<Driver, Error> {
    let found = DRIVERS.iter().find(|(name, _)| *name == kind || kind.is_empty() && *name == "json-file");
    found.map(|(_, driver)| *driver).ok_or_else(|| Error::NoSuchLogDriver { driver: kind.to_owned() })
}

/// Refuses options that the driver does not have.
fn known(driver: Driver, log: &LogConfig) -> Result<(), Error> {
    let known = known_options(driver);
    match log.config.iter().find(|(option, _)| !known.iter().any(|group| group.contains(&option.as_str()))) {
        Some((option, value)) => Err(bad(option, value, &format!("the log driver {} does not know this option", log.kind))),
        None => Ok(()),
    }
}

fn known_options(driver: Driver) -> Vec<&'static [&'static str]> {
    match driver {
        Driver::JsonFile => vec![OF_ALL, OF_FILES, OF_ATTRIBUTES],
        Driver::Local => vec![OF_ALL, OF_FILES],
        Driver::None => Vec::new(),
        Driver::Syslog => vec![OF_ALL, OF_SENDERS, OF_ATTRIBUTES, &["syslog-address", "syslog-facility", "syslog-format"]],
        Driver::Journald => vec![OF_ALL, OF_SENDERS, OF_ATTRIBUTES],
        Driver::Gelf => vec![OF_ALL, OF_SENDERS, OF_ATTRIBUTES, &["gelf-address", "gelf-compression-type", "gelf-compression-level"]],
        Driver::Fluentd => {
            let own = &["fluentd-address", "fluentd-async", "fluentd-sub-second-precision"];
            vec![OF_ALL, OF_SENDERS, OF_ATTRIBUTES, own]
        }
    }
}

fn lossy_bytes(options: &Options<'_>) -> Result<Option<u64>, Error> {
    let size = options.size("max-buffer-size")?;
    match options.get("mode") {
        None | Some("" | "blocking") if size.is_some() => {
            Err(bad("max-buffer-size", options.get("max-buffer-size").unwrap_or_default(), "it goes with mode=non-blocking"))
        }
        None | Some("" | "blocking") => Ok(None),
        Some("non-blocking") => Ok(Some(size.unwrap_or(BUFFER_BYTES_DEFAULT))),
        Some(other) => Err(bad("mode", other, "blocking or non-blocking is expected")),
    }
}

fn target(driver: Driver, options: &Options<'_>) -> Result<Option<Target>, Error> {
    Ok(Some(match driver {
        Driver::JsonFile | Driver::Local | Driver::None => return Ok(None),
        Driver::Journald => Target::Journald { socket: JOURNAL_SOCKET.into() },
        Driver::Syslog => Target::Syslog {
            at: options.address("syslog-address", SYSLOG_PORT)?.unwrap_or_else(|| Address::Unix(SYSLOG_SOCKET.into())),
            facility: facility(options.get("syslog-facility").unwrap_or("daemon"))?,
            format: match options.get("syslog-format").unwrap_or_default() {
                "" => SyslogFormat::Unix,
                "rfc3164" => SyslogFormat::Rfc3164,
                "rfc5424" => SyslogFormat::Rfc5424 { micros: false },
                "rfc5424micro" => SyslogFormat::Rfc5424 { micros: true },
                other => return Err(bad("syslog-format", other, "rfc3164, rfc5424 or rfc5424micro is expected")),
            },
        },
        Driver::Gelf => {
            let missing = || bad("gelf-address", "", "an address is needed, udp://10.0.0.1:12201 say");
            let at = options.address("gelf-address", GELF_PORT)?.ok_or_else(missing)?;
            Target::Gelf { compression: compression(options, &at)?, at }
        }
        Driver::Fluentd => Target::Fluentd {
            at: options.address("fluentd-address", FLUENTD_PORT)?.unwrap_or(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], FLUENTD_PORT)))),
            at_once: !options.truth("fluentd-async")?.unwrap_or(false),
            nanos: options.truth("fluentd-sub-second-precision")?.unwrap_or(false),
        },
    }))
}

fn compression(options: &Options<'_>, at: &Address) -> Result<Compression, Error> {
    let level = match options.get("gelf-compression-level") {
        None => 1,
        Some(text) => {
            let level = text.parse::<i32>().ok().filter(|level| (-1..=9).contains(level));
            let level = level.ok_or_else(|| bad("gelf-compression-level", text, "a number from -1 to 9 is expected"))?;
            u32::try_from(level).unwrap_or(6)
        }
    };
    let kind = options.get("gelf-compression-type");
    match (at, kind) {
        (Address::Udp(_), None | Some("gzip")) => Ok(Compression::Gzip(level)),
        (Address::Udp(_), Some("zlib")) => Ok(Compression::Zlib(level)),
        (_, None | Some("none")) => Ok(Compression::None),
        (Address::Udp(_), Some(other)) => Err(bad("gelf-compression-type", other, "gzip, zlib or none is expected")),
        (_, Some(other)) => Err(bad("gelf-compression-type", other, "messages over TCP are not compressed")),
    }
}

fn facility(name: &str) -> Result<u8, Error> {
    const NAMES: &[&str] = &[
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "", "", "local0",
        "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    let number = NAMES.iter().position(|known| *known == name && !name.is_empty());
    let number = number.or_else(|| name.parse().ok().filter(|number| *number < NAMES.len()));
    number.map(|number| number as u8).ok_or_else(|| bad("syslog-facility", name, "a name such as daemon or local0 is expected"))
}

/// The labels and variables that the options choose.
fn attributes(options: &Options<'_>, record: &Record) -> Result<BTreeMap<String, String>, Error> {
    let mut chosen = BTreeMap::new();
    let labels: Vec<(&str, &str)> = record.config.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let variables: Vec<(&str, &str)> = record.config.env.iter().filter_map(|entry| entry.split_once('=')).collect();
    for (list, pattern, from) in [("labels", "labels-regex", &labels), ("env", "env-regex", &variables)] {
        let names: Vec<&str> = options.get(list).unwrap_or_default().split(',').map(str::trim).collect();
        let matching = match options.get(pattern).filter(|text| !text.is_empty()) {
            Some(text) => Some(regex_lite::Regex::new(text).map_err(|error| bad(pattern, text, &error.to_string()))?),
            None => None,
        };
        let wanted = |name: &str| names.contains(&name) || matching.as_ref().is_some_and(|pattern| pattern.is_match(name));
        chosen.extend(from.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
    Ok(chosen)
}

/// A tag with what stands for the container's own filled in.
fn expand(template: &str, record: &Record) -> Result<String, Error> {
    let mut tag = String::new();
    let mut rest = template;
    while let Some((before, field)) = rest.split_once("{{") {
        let (field, after) = field.split_once("}}").ok_or_else(|| bad("tag", template, "a brace is not closed"))?;
        let image_id = record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id);
        let value = match field.trim() {
            ".ID" => record.id.short().to_owned(),
            ".FullID" | ".ContainerID" => record.id.to_string(),
            ".Name" => record.name.clone(),
            ".ContainerName" => format!("/{}", record.name),
            ".ImageID" => image_id.get(..12).unwrap_or(image_id).to_owned(),
            ".ImageFullID" | ".ContainerImageID" => record.image_id.clone(),
            ".ImageName" | ".ContainerImageName" => record.image.clone(),
            ".DaemonName" => "cais".to_owned(),
            ".Command" => std::iter::once(&record.path).chain(&record.args).map(String::as_str).collect::<Vec<_>>().join(" "),
            _ => {
                return Err(bad(
                    "tag",
                    template,
                    "{{.ID}}, {{.FullID}}, {{.Name}}, {{.ImageID}}, {{.ImageFullID}}, {{.ImageName}}, {{.DaemonName}} and {{.Command}} are known",
                ));
            }
        };
        tag.push_str(before);
        tag.push_str(&value);
        rest = after;
    }
    Ok(tag + rest)
}

/// The options as given.
struct Options<'a>(&'a BTreeMap<String, String>);

impl Options<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn size(&self, name: &'static str) -> Result<Option<u64>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("-1") => Ok(Some(u64::MAX)),
            Some(text) => size(text).map(Some).ok_or_else(|| bad(name, text, "a size such as 10m is expected")),
        }
    }

    fn count(&self, name: &'static str) -> Result<Option<u32>, Error> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
        number.map(Some).ok_or_else(|| bad(name, text, "a number from 1 to 1000 is expected"))
    }

    fn truth(&self, name: &'static str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(bad(name, other, "true or false is expected")),
        }
    }

    fn address(&self, name: &'static str, port: u16) -> Result<Option<Address>, Error> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let invalid = || {
            bad(name, text, "tcp://ADDRESS:PORT, udp://ADDRESS:PORT or unix:///PATH is expected, ADDRESS being an IP address or localhost")
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        if let "unix" | "unixgram" = scheme {
            return if rest.starts_with('/') { Ok(Some(Address::Unix(rest.into()))) } else { Err(invalid()) };
        }
        // Names are not looked up: an engine that waits for a name server at each start waits for ever sooner or later.
        let rest = rest.strip_prefix("localhost").map_or(rest.to_owned(), |port| format!("127.0.0.1{port}"));
        let socket = rest.parse().or_else(|_| format!("{rest}:{port}").parse()).map_err(|_: std::net::AddrParseError| invalid())?;
        match scheme {
            "tcp" => Ok(Some(Address::Tcp(socket))),
            "udp" => Ok(Some(Address::Udp(socket))),
            _ => Err(invalid()),
        }
    }
}

/// A size with an optional unit: `10m`, `1g`, `65536`.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match lower[digits.len()..].trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|size| *size > 0)
}

fn bad(option: &str, value: &str, reason: &str) -> Error {
    Error::BadLogOption { option: option.to_owned(), value: value.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    fn planned(kind: &str, options: &[(&str, &str)]) -> Result<LogPlan, Error> {
        let mut record = testing::record(&"ab".repeat(32), "web");
        record.config.env = vec!["TIER=front".to_owned(), "SECRET=x".to_owned()].into();
        record.config.labels.insert("team.a".to_owned(), "quay".to_owned());
        record.host.log_config.kind = kind.to_owned();
        for (name, value) in options {
            record.host.log_config.config.insert((*name).to_owned(), (*value).to_owned());
        }
        plan(&record)
    }

    #[test]
    fn files_are_rotated_by_default() {
        let plan = planned("", &[]).expect("good");
        assert_eq!((plan.driver, plan.max_bytes, plan.max_files, plan.compress), (Driver::JsonFile, 20 << 20, 5, false));
        let plan = planned("json-file", &[("max-size", "10m"), ("max-file", "3"), ("compress", "true")]).expect("good");
        assert_eq!((plan.max_bytes, plan.max_files, plan.compress), (10 << 20, 3, true));
        assert!(planned("local", &[]).expect("good").compress);
        assert!(!planned("none", &[]).expect("good").readable);
        assert!(!planned("syslog", &[("cache-disabled", "true")]).expect("good").readable);
    }

    #[test]
    fn attributes_are_chosen_by_name_and_by_pattern() {
        let options = [("env", "TIER, NOPE"), ("labels-regex", "^team\\."), ("tag", "{{.Name}}/{{ .ID }}")];
        let plan = planned("json-file", &options).expect("good");
        let expected = r#"{"TIER":"front","tag":"web/abababababab","team.a":"quay"}"#;
        assert_eq!(plan.attrs_json(), expected);
        assert_eq!(planned("gelf", &[("gelf-address", "udp://10.0.0.1")]).expect("good").tag, "abababababab");
    }

    #[test]
    fn targets_are_read() {
        let target = |kind: &str, options: &[(&str, &str)]| planned(kind, options).expect("good").target;
        let at = "10.0.0.1:12201".parse().expect("an address");
        assert_eq!(
            target("gelf", &[("gelf-address", "udp://10.0.0.1")]),
            Some(Target::Gelf { at: Address::Udp(at), compression: Compression::Gzip(1) })
        );
        let Some(Target::Syslog { at, facility, format }) =
            target("syslog", &[("syslog-facility", "local3"), ("syslog-format", "rfc5424micro")])
        else {
            panic!("no syslog");
        };
        assert_eq!((at, facility, format), (Address::Unix("/dev/log".into()), 19, SyslogFormat::Rfc5424 { micros: true }));
        let local = SocketAddr::from(([127, 0, 0, 1], 24224));
        assert_eq!(
            target("fluentd", &[("fluentd-address", "localhost")]),
            Some(Target::Fluentd { at: Address::Tcp(local), at_once: true, nanos: false })
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (kind, name, value) in [
            ("splunk", "", ""),
            ("json-file", "max-size", "banana"),
            ("json-file", "max-size", "0"),
            ("json-file", "max-file", "0"),
            ("json-file", "colour", "blue"),
            ("json-file", "syslog-address", "udp://1.2.3.4:5"),
            ("json-file", "max-buffer-size", "1m"),
            ("json-file", "mode", "sometimes"),
            ("json-file", "tag", "{{.Nope}}"),
            ("json-file", "tag", "{{.ID"),
            ("json-file", "env-regex", "("),
            ("local", "tag", "x"),
            ("none", "max-size", "1m"),
            ("syslog", "syslog-address", "gopher://x"),
            ("syslog", "syslog-address", "tcp://collector.example:514"),
            ("syslog", "syslog-facility", "moon"),
            ("gelf", "tag", "x"),
            ("gelf", "gelf-address", "unix://relative"),
        ] {
            let options = [(name, value)];
            assert!(planned(kind, if name.is_empty() { &[] } else { &options }).is_err(), "{kind} {name}={value}");
        }
    }
}
