//! Which OCI runtime a container has: the engine's own, or a program of the host.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use types::container::defaults::{RUNTIME, RUNTIMES};

use crate::sandbox::bad;
use crate::{Engine, Error};

/// Where programs are looked for by name.
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Runtimes that are shown where they are installed.
const WELL_KNOWN: [&str; 4] = ["crun", "runc", "runsc", "youki"];
const FIELD: &str = "Runtime";

/// A runtime that is a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeProgram {
    /// Its path, or a name that is looked for in the usual folders.
    pub path: PathBuf,
    /// Arguments that go before its own commands.
    pub arguments: Vec<String>,
}

impl Engine {
    /// The program of a runtime by name or path; none for the engine's own.
    pub(crate) fn runtime(&self, name: &str) -> Result<Option<RuntimeProgram>, Error> {
        choose(name, &self.config.sandbox.runtimes)
    }

    /// Runtimes by name, with their paths.
    pub(crate) fn runtimes(&self) -> BTreeMap<String, String> {
        let configured = self.config.sandbox.runtimes.iter().map(|(name, program)| (name.clone(), program.path.display().to_string()));
        let installed = WELL_KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), installed(name)?.display().to_string())));
        [(RUNTIME.to_owned(), "cais".to_owned())].into_iter().chain(installed).chain(configured).collect()
    }
}

fn choose(name: &str, configured: &BTreeMap<String, RuntimeProgram>) -> Result<Option<RuntimeProgram>, Error> {
    let program = |path: PathBuf| Ok(Some(RuntimeProgram { path, arguments: Vec::new() }));
    if let Some(configured) = configured.get(name) {
        let path =
            if configured.path.is_absolute() { Some(configured.path.clone()) } else { installed(&configured.path.to_string_lossy()) };
        return match path.filter(|path| executable(path)) {
            Some(path) => Ok(Some(RuntimeProgram { path, ..configured.clone() })),
            None => Err(bad(FIELD, name, &format!("its program {} cannot be executed", configured.path.display()))),
        };
    }
    if name.starts_with('/') {
        return if executable(Path::new(name)) { program(name.into()) } else { Err(bad(FIELD, name, "there is no such program")) };
    }
    match installed(name) {
        // By these names clients call what an engine has of its own, too.
        None if RUNTIMES.contains(&name) => Ok(None),
        Some(_) if name.is_empty() || name == RUNTIME => Ok(None),
        Some(path) => program(path),
        None => Err(bad(FIELD, name, "unknown or invalid runtime name: it is neither configured (--add-runtime) nor installed")),
    }
}

/// The program of a plain name in the usual folders.
fn installed(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| executable(path))
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_by_name_and_path() {
        let configured: BTreeMap<String, RuntimeProgram> = [
            ("mine".to_owned(), RuntimeProgram { path: "/bin/sh".into(), arguments: vec!["-x".to_owned()] }),
            ("gone".to_owned(), RuntimeProgram { path: "/no/such".into(), arguments: Vec::new() }),
        ]
        .into();
        let path = |name: &str| choose(name, &configured).map(|found| found.map(|program| program.path));
        for own in ["", "cais", "io.containerd.runc.v2"] {
            assert_eq!(path(own).expect("the engine's own"), None);
        }
        assert_eq!(choose("mine", &configured).expect("configured").expect("a program").arguments, ["-x"]);
        assert_eq!(path("/bin/sh").expect("a path"), Some("/bin/sh".into()));
        assert!(path("sh").expect("installed").is_some_and(|path| path.ends_with("sh")));
        for bad in ["gone", "/no/such", "/etc/passwd", "no-such-runtime", "../sh"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
