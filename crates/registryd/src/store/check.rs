//! Checks: whether what the tables say is true of the files, and what to do where it is not.

use std::fmt;
use std::path::PathBuf;

use rusqlite::{Connection, params};
use types::Digest;

use super::content::digest_of_file;
use super::{Store, manifests};
use crate::{Error, Result};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The tables name content whose file is missing.
    Missing(Digest),
    /// A file has another length than it should.
    Length {
        /// What it should be.
        digest: Digest,
        /// Its length.
        found: u64,
        /// The length it should have.
        expected: u64,
    },
    /// A file's bytes are others.
    Damaged(Digest),
    /// A manifest names what its repository does not have.
    Incomplete {
        /// The repository.
        repository: String,
        /// The manifest.
        manifest: String,
        /// What is missing.
        part: String,
    },
    /// A tag names no manifest.
    Dangling {
        /// The repository.
        repository: String,
        /// The tag.
        tag: String,
    },
    /// A file that is no content.
    Stray(PathBuf),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(digest) => write!(out, "{digest} is missing"),
            Self::Length { digest, found, expected } => write!(out, "{digest} has {found} bytes instead of {expected}"),
            Self::Damaged(digest) => write!(out, "{digest} is damaged"),
            Self::Incomplete { repository, manifest, part } => write!(out, "{repository}@{manifest} names {part}, which is not there"),
            Self::Dangling { repository, tag } => write!(out, "{repository}:{tag} names nothing"),
            Self::Stray(path) => write!(out, "{} is no content", path.display()),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Contents that were looked at.
    pub contents: u64,
    /// Files that nothing names: left by a crash, or about to be named. A collection removes them.
    pub unnamed: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Checks everything; with `read_all` also that each file's bytes are those of its digest. May run beside the server.
    pub fn check(&self, read_all: bool) -> Result<Checked> {
        let mut checked = Checked::default();
        let rows = self.database.read("check", |connection| {
            let mut query = connection.prepare("SELECT digest, size FROM content ORDER BY digest")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for (text, expected) in &rows {
            let Ok(digest) = text.parse::<Digest>() else { continue };
            checked.contents += 1;
            let path = self.content.path(&digest);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() != *expected => {
                    checked.problems.push(Problem::Length { digest, found: metadata.len(), expected: *expected });
                }
                Ok(_) if read_all && digest_of_file(&path, digest.algorithm())? != digest => {
                    checked.problems.push(Problem::Damaged(digest))
                }
                Ok(_) => {}
                // It may have been collected since the rows were read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.has_content(&digest)? => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => checked.problems.push(Problem::Missing(digest)),
                Err(error) => return Err(Error::io("stat", &path, error)),
            }
        }
        let mut files = Vec::new();
        self.content.each(|entry| match entry {
            Ok((digest, _)) => files.push(digest),
            Err(path) => checked.problems.push(Problem::Stray(path)),
        })?;
        for digest in files {
            checked.unnamed += u64::from(rows.binary_search_by(|(text, _)| text.as_str().cmp(&digest.to_string())).is_err());
        }
        checked.problems.extend(self.database.read("check", references)?);
        Ok(checked)
    }

    /// Takes away what is damaged, so that a new push makes it whole: damaged content goes, with the manifests that are it, and tags that name
    /// nothing. Answers what was done.
    pub fn repair(&self, checked: &Checked) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for problem in &checked.problems {
            match problem {
                Problem::Missing(digest) | Problem::Damaged(digest) | Problem::Length { digest, .. } => {
                    self.drop_damaged(digest)?;
                    done.push(format!("forgot {digest}: push it again"));
                }
                Problem::Dangling { repository, tag } => {
                    let (name, gone) = (repository.clone(), tag.clone());
                    self.database.write("repair", move |connection| {
                        let remove = "DELETE FROM tag WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND name = ?2";
                        connection.execute(remove, params![name, gone]).map_err(Error::sql("repair"))
                    })?;
                    done.push(format!("removed the tag {repository}:{tag}"));
                }
                // Pushing the missing part makes it whole; removing it is the owner's choice.
                Problem::Incomplete { .. } | Problem::Stray(_) => {}
            }
        }
        Ok(done)
    }

    fn has_content(&self, digest: &Digest) -> Result<bool> {
        let text = digest.to_string();
        self.database.read("check", |connection| {
            connection.query_row("SELECT EXISTS (SELECT 1 FROM content WHERE digest = ?1)", [text], |row| row.get(0))
        })
    }

    fn drop_damaged(&self, digest: &Digest) -> Result<()> {
        let (text, digest, content) = (digest.to_string(), digest.clone(), std::sync::Arc::clone(&self.content));
        self.database.write("repair", move |connection| {
            // A push that made it whole meanwhile is not undone.
            let expected = "SELECT size FROM content WHERE digest = ?1";
            let expected: i64 = connection.query_row(expected, [&text], |row| row.get(0)).map_err(Error::sql("repair"))?;
            let path = content.path(&digest);
            let is_whole = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == expected as u64)
                && digest_of_file(&path, digest.algorithm())? == digest;
            if is_whole {
                return Ok(());
            }
            let forgotten = || -> rusqlite::Result<()> {
                let mut query = connection.prepare("SELECT repository FROM manifest WHERE digest = ?1")?;
                let owners = query.query_map([&text], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
                for id in owners {
                    manifests::remove_manifest(connection, id, &text)?;
                }
                connection.execute("DELETE FROM link WHERE digest = ?1", [&text])?;
                connection.execute("DELETE FROM content WHERE digest = ?1", [&text]).map(drop)
            };
            forgotten().map_err(Error::sql("repair"))
        })
    }
}

fn references(connection: &Connection) -> rusqlite::Result<Vec<Problem>> {
    let incomplete = "SELECT repository.name, edge.parent, edge.child FROM edge JOIN repository ON repository.id = edge.repository \
        WHERE NOT EXISTS (SELECT 1 FROM link WHERE link.repository = edge.repository AND link.digest = edge.child) \
        AND NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.repository = edge.repository AND manifest.digest = edge.child)";
    let mut query = connection.prepare(incomplete)?;
    let rows = query.query_map([], |row| Ok(Problem::Incomplete { repository: row.get(0)?, manifest: row.get(1)?, part: row.get(2)? }))?;
    let mut problems = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let dangling = "SELECT repository.name, tag.name FROM tag JOIN repository ON repository.id = tag.repository \
        WHERE NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.repository = tag.repository AND manifest.digest = tag.digest)";
    let mut query = connection.prepare(dangling)?;
    let rows = query.query_map([], |row| Ok(Problem::Dangling { repository: row.get(0)?, tag: row.get(1)? }))?;
    problems.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    Ok(problems)
}
