//! The files of containers: `archive`, `export`, `changes`; and `commit`, which makes an image of them.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::request::{Commit, PathStat, PutArchive};
use engine::{ChangeKind, Engine};
use hyper::StatusCode;
use rustix::fs::FileType;
use serde_json::{Value, json};
use types::container::CreateRequest;

use crate::containers::bad_json;
use crate::error::Failure;
use crate::http::{self, Outcome, Reply, Request, TAR, json, ok, received, streamed, to_the_end, with_header};

const STAT_HEADER: &str = "x-docker-container-path-stat";

pub async fn stat(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let stat = engine.stat_path(name, path(&request)?).await?;
    Ok(with_stat(http::empty(StatusCode::OK), &stat))
}

pub async fn get(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (stat, archive) = engine.get_archive(name, path(&request)?).await?;
    Ok(with_stat(streamed(TAR, received(archive, |piece| piece)), &stat))
}

pub async fn put(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, path) = (name.to_owned(), path(&request)?.to_owned());
    let how = PutArchive { keep_kinds: request.query.flag("noOverwriteDirNonDir"), own_by_user: request.query.flag("copyUIDGID") };
    let archive = request.upload();
    to_the_end(async move { engine.put_archive(&name, &path, how, archive).await }).await?;
    Ok(http::empty(StatusCode::OK))
}

pub async fn export(engine: Arc<Engine>, name: &str) -> Outcome {
    let archive = engine.export_container(name).await?;
    Ok(streamed(TAR, received(archive, |piece| piece)))
}

pub async fn changes(engine: Arc<Engine>, name: &str) -> Outcome {
    let changes = engine.container_changes(name).await?;
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let list: Vec<Value> =
        changes.iter().map(|change| json!({ "Path": String::from_utf8_lossy(&change.path), "Kind": kind(change.kind) })).collect();
    ok(&Some(list).filter(|list| !list.is_empty()))
}

pub async fn commit(engine: Arc<Engine>, request: Request) -> Outcome {
    let query = &request.query;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let mut asked = Commit {
        container: text("container"),
        repository: text("repo"),
        tag: text("tag"),
        comment: text("comment"),
        author: text("author"),
        pause: query.flag_or("pause", true),
        changes: query.all("changes"),
        config: None,
    };
    let body = request.bytes().await?;
    // Docker's own client sends `null` for a configuration that it does not have.
    if !matches!(body.trim_ascii(), b"" | b"null") {
        asked.config = Some(CreateRequest::from_slice(&body).map_err(bad_json)?.config);
    }
    let id = to_the_end(async move { engine.commit(asked).await }).await?;
    json(StatusCode::CREATED, &json!({ "Id": id }))
}

fn path(request: &Request) -> Result<&str, Failure> {
    request.query.get("path").ok_or_else(|| Failure::bad("bad parameter: path cannot be empty"))
}

fn with_stat(reply: Reply, stat: &PathStat) -> Reply {
    with_header(reply, STAT_HEADER, &BASE64_STANDARD.encode(encode_stat(stat).to_string()))
}

fn encode_stat(stat: &PathStat) -> Value {
    json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": stat.modified.to_string(),
        "linkTarget": stat.link_target,
    })
}

/// A file's kind and permissions as Go's `os.FileMode` numbers them.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        FileType::RegularFile => 0,
        FileType::Unknown => 1 << 19,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    bits.iter().filter(|(bit, _)| mode & bit != 0).fold(kind | mode & 0o777, |sum, (_, go)| sum | go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_dockers() {
        let stat = PathStat {
            name: "a.txt".to_owned(),
            size: 6,
            mode: 0o100_644,
            modified: jiff::Timestamp::from_second(1_700_000_000).expect("a time"),
            link_target: String::new(),
        };
        let reply = with_stat(http::empty(StatusCode::OK), &stat);
        let header = reply.headers().get(STAT_HEADER).expect("the header").as_bytes();
        let read: Value = serde_json::from_slice(&BASE64_STANDARD.decode(header).expect("base64")).expect("JSON");
        let golden = "eyJuYW1lIjoiYS50eHQiLCJzaXplIjo2LCJtb2RlIjo0MjAsIm10aW1lIjoiMjAyMy0xMS0xNFQyMjoxMzoyMFoiLCJsaW5rVGFyZ2V0IjoiIn0=";
        let golden: Value = serde_json::from_slice(&BASE64_STANDARD.decode(golden).expect("base64")).expect("JSON");
        assert_eq!(read, golden);
    }

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
