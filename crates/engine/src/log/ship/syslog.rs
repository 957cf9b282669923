//! Messages of syslog: BSD's and RFC 5424's.

use jiff::Timestamp;

use super::About;
use crate::log::decode::LogRecord;
use crate::log::options::SyslogFormat;
use crate::request::Stream;

const SEVERITY_ERROR: u8 = 3;
const SEVERITY_INFO: u8 = 6;

/// One record as a message, with a line feed at its end: what frames it on a stream.
pub(super) fn message(about: &About, record: &LogRecord<'_>, time_ns: i64, facility: u8, format: SyslogFormat) -> Vec<u8> {
    let severity = if record.stream == Stream::Stderr { SEVERITY_ERROR } else { SEVERITY_INFO };
    let priority = facility * 8 + severity;
    let time = Timestamp::from_nanosecond(time_ns.into()).unwrap_or_default();
    let (host, tag, pid) = (&about.host, &about.tag, std::process::id());
    let head = match format {
        SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
        SyslogFormat::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
        SyslogFormat::Rfc5424 { micros } => {
            let time = if micros { time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ") } else { time.strftime("%Y-%m-%dT%H:%M:%SZ") };
            format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
        }
    };
    let line = record.line.strip_suffix(b"\n").unwrap_or(record.line);
    [head.as_bytes(), line, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::super::testing::about;
    use super::*;
    use crate::log::decode::LogTime;

    #[test]
    fn formats_are_the_standards() {
        let record = LogRecord { stream: Stream::Stderr, time: LogTime::Nanos(0), line: b"oh no\n", attrs: "" };
        let text = |format| String::from_utf8(message(&about(), &record, 1_767_323_045_600_000_000, 3, format)).expect("text");
        let pid = std::process::id();
        assert_eq!(text(SyslogFormat::Unix), format!("<27>Jan  2 03:04:05 tag[{pid}]: oh no\n"));
        assert_eq!(text(SyslogFormat::Rfc3164), format!("<27>Jan  2 03:04:05 quay tag[{pid}]: oh no\n"));
        assert_eq!(text(SyslogFormat::Rfc5424 { micros: true }), format!("<27>1 2026-01-02T03:04:05.600000Z quay tag {pid} tag - oh no\n"));
    }
}
