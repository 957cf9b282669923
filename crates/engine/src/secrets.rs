//! Secrets of containers: kept beside the container's files for root alone, given to it as files in memory.
//!
//! They are in no record, so that nothing that shows or copies one can show them; and not in the read/write layer, so that no image gets them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kernel::mount::{Change, attribute};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use types::container::Secret;

use crate::Error;

const SECRETS_LEN_MAX: usize = 64;
const SECRET_BYTES_MAX: usize = 500 * 1024;
const NAME_BYTES_MAX: usize = 255;

/// Refuses what cannot be given to a container.
pub(crate) fn validate(secrets: &[Secret]) -> Result<(), Error> {
    let bad = |value: &str, reason: &str| Err(Error::BadField { field: "Secrets", value: value.to_owned(), reason: reason.to_owned() });
    if secrets.len() > SECRETS_LEN_MAX {
        return bad(&secrets.len().to_string(), "a container takes at most 64");
    }
    for (at, secret) in secrets.iter().enumerate() {
        let name = &secret.target;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(['/', '\0']) || name == "." || name == ".." {
            return bad(name, "the target is the name of a file in /run/secrets");
        }
        if secrets[..at].iter().any(|other| other.target == *name) {
            return bad(name, "two secrets have this target");
        }
        if secret.mode & !0o777 != 0 {
            return bad(&format!("{:o}", secret.mode), "the mode has permissions only");
        }
        match BASE64.decode(&secret.data) {
            Ok(content) if content.len() <= SECRET_BYTES_MAX => {}
            Ok(_) => return bad(name, "a secret has at most 500 KiB"),
            Err(_) => return bad(name, "the content is not base64"),
        }
    }
    Ok(())
}

/// Keeps the secrets of a new container in a file that root alone reads. Blocks.
pub(crate) fn keep(path: &Path, secrets: &[Secret]) -> Result<(), Error> {
    if secrets.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(secrets).map_err(|source| Error::Record { subject: "the secrets".to_owned(), source })?;
    let kept = File::options().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    kept.map_err(|source| Error::File { operation: "write", path: path.to_owned(), source })
}

/// A filesystem in memory with the secrets kept in `path`, read-only, attached nowhere yet. Blocks.
pub(crate) fn mount(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::File { operation: "give the container the secrets in", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    let secrets: Vec<Secret> =
        serde_json::from_slice(&text).map_err(|source| Error::Record { subject: "the secrets".to_owned(), source })?;
    filled(&secrets).map_err(failed)
}

fn filled(secrets: &[Secret]) -> std::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    for secret in secrets {
        let content = BASE64.decode(&secret.data).map_err(std::io::Error::other)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&mount, secret.target.as_str(), flags, Mode::RUSR)?);
        file.write_all(&content)?;
        fchown(&file, Some(Uid::from_raw(secret.uid)), Some(Gid::from_raw(secret.gid)))?;
        fchmod(&file, Mode::from_raw_mode(secret.mode))?;
    }
    kernel::mount::change(mount.as_fd(), c"", &Change { set: attribute::RDONLY, ..Change::default() })?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_given_is_refused_and_nothing_is_shown() {
        let secret = |target: &str, data: &str| Secret { target: target.into(), mode: 0o400, data: data.into(), ..Secret::default() };
        assert!(validate(&[secret("token", "aHVzaA=="), secret("other", "")]).is_ok());
        for bad in
            [secret("", ""), secret("a/b", ""), secret("..", ""), secret("token", "?"), Secret { mode: 0o4755, ..secret("token", "") }]
        {
            assert!(validate(&[bad]).is_err());
        }
        assert!(validate(&[secret("token", ""), secret("token", "")]).is_err());
        assert!(validate(&[secret("large", &BASE64.encode(vec![0; SECRET_BYTES_MAX + 1]))]).is_err());
        assert!(!format!("{:?}", secret("token", "aHVzaA==")).contains("aHV"));
    }
}
