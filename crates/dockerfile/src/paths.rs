//! Paths as text: cleaned by Go's rules, never looked up.

/// The absolute path without `.`, `..` and doubled slashes; what climbs above the root stays at the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` from `dir`, cleaned.
pub(crate) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{dir}/{path}")) }
}

/// `path` from `dir`, cleaned; a slash at the end, which says that a folder is meant, stays. `.` is a folder.
pub(crate) fn join_destination(dir: &str, path: &str) -> String {
    let folder = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    let joined = join(dir, path);
    if folder && joined != "/" { format!("{joined}/") } else { joined }
}

/// Whether a relative path leaves the folder that it is relative to.
pub(crate) fn climbs_out(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

/// The last part of a path.
pub(crate) fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Whether a path is a pattern.
pub(crate) fn is_pattern(path: &str) -> bool {
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' | '?' | '[' => return true,
            '\\' => {
                letters.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(clean("/a/../../b//c/."), "/b/c");
        assert_eq!(join("/w/x", "../y"), "/w/y");
        assert_eq!(join_destination("/w", "."), "/w/");
        assert_eq!(join_destination("/w", "d/"), "/w/d/");
        assert_eq!(join_destination("/w", "f"), "/w/f");
        assert_eq!(join_destination("/", "./"), "/");
        assert!(climbs_out("../x") && climbs_out("a/../../x") && !climbs_out("a/../x") && !climbs_out("/x"));
        assert!(is_pattern("a*") && !is_pattern("a\\*"));
        assert_eq!(base("/a/b/"), "b");
    }
}
