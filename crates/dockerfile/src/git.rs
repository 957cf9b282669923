//! Addresses of git repositories, as contexts and as sources of `ADD`.

use crate::graph::GitSource;

/// What of a text looks like an address of a repository.
const HTTP: [&str; 2] = ["http://", "https://"];

/// Reads an address of a git repository; nothing if it is something else. `Err` tells what is wrong with one.
///
/// `git://` and `ssh://` addresses, `user@host:path`, and web addresses whose path ends with `.git`. After a `#` come the branch, tag or
/// commit and, after a colon, a folder; or a query `?branch=…&tag=…&subdir=…`.
pub fn parse_git(text: &str) -> Option<Result<GitSource, String>> {
    let (address, fragment) = text.split_once('#').map_or((text, None), |(address, fragment)| (address, Some(fragment)));
    let (base, query) = address.split_once('?').map_or((address, None), |(base, query)| (base, Some(query)));
    let web = HTTP.iter().any(|scheme| base.starts_with(scheme));
    let known = if web {
        base.trim_end_matches('/').ends_with(".git")
    } else {
        base.starts_with("git://") || base.starts_with("ssh://") || is_scp(base)
    };
    known.then(|| read(base, query, fragment))
}

/// The same for a context on a command line, where `github.com/user/repository` is an address too.
pub fn parse_git_context(text: &str) -> Option<Result<GitSource, String>> {
    let short = text.strip_prefix("github.com/").map(|_| format!("https://{text}"));
    match short {
        Some(address) => {
            let (base, fragment) = address.split_once('#').map_or((address.as_str(), None), |(base, fragment)| (base, Some(fragment)));
            Some(read(base, None, fragment))
        }
        None => parse_git(text),
    }
}

fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter));
    word(user) && word(host) && !path.is_empty() && !path.starts_with("//")
}

fn read(base: &str, query: Option<&str>, fragment: Option<&str>) -> Result<GitSource, String> {
    let mut git =
        GitSource { remote: base.to_owned(), reference: None, subdir: None, keep_git_dir: false, checksum: None, submodules: true };
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    for (key, value) in
        query.unwrap_or_default().split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
    {
        let switch = |value: &str| match value {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(format!("invalid value {value:?} of {key:?} in the address of a git repository: expected true or false")),
        };
        match key {
            "ref" | "tag" | "branch" => {
                let full = match key {
                    "tag" => format!("refs/tags/{value}"),
                    "branch" => format!("refs/heads/{value}"),
                    _ => value.to_owned(),
                };
                if git.reference.replace(full).is_some() {
                    return Err("the address of a git repository names more than one of ref, tag and branch".to_owned());
                }
            }
            "subdir" => git.subdir = given(value),
            "checksum" | "commit" => git.checksum = given(value),
            "keep-git-dir" => git.keep_git_dir = switch(value)?,
            "submodules" => git.submodules = switch(value)?,
            _ => return Err(format!("unexpected query key {key:?} in the address of a git repository")),
        }
    }
    if let Some(fragment) = fragment {
        if query.is_some() {
            return Err("the address of a git repository has a query and a fragment: use one of them".to_owned());
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        git.reference = given(reference);
        git.subdir = given(subdir);
    }
    // A name that begins with a dash would be an option of the program that fetches it.
    let dash = |text: &Option<String>| text.as_deref().is_some_and(|text| text.starts_with('-'));
    if dash(&git.reference) || dash(&git.subdir) || git.remote.starts_with('-') {
        return Err("a reference or folder of a git repository can't begin with a dash".to_owned());
    }
    Ok(git)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_other_addresses() {
        for text in ["https://host/a/b.git", "git@host:a/b.git", "ssh://git@host/a", "git://host/a.git#v1:sub", "https://h/a.git?branch=x"]
        {
            assert!(parse_git(text).is_some_and(|git| git.is_ok()), "{text}");
        }
        for text in ["https://host/a.tar.gz", "file.git", "a@b", "./x", "http://host/", "github.com/a/b"] {
            assert!(parse_git(text).is_none(), "{text}");
        }
        let git = parse_git("https://host/a.git#v1.0:sub/dir").expect("is one").expect("is right");
        assert_eq!(
            (git.remote.as_str(), git.reference.as_deref(), git.subdir.as_deref()),
            ("https://host/a.git", Some("v1.0"), Some("sub/dir"))
        );
        let git = parse_git("https://host/a.git?tag=v1&subdir=d&keep-git-dir=1").expect("is one").expect("is right");
        assert_eq!((git.reference.as_deref(), git.subdir.as_deref(), git.keep_git_dir), (Some("refs/tags/v1"), Some("d"), true));
        assert!(parse_git("https://host/a.git?x=y").is_some_and(|git| git.is_err()));
        assert!(parse_git("git://host/a#--upload-pack=x").is_some_and(|git| git.is_err()));
        assert!(parse_git_context("github.com/a/b#main").is_some_and(|git| git.is_ok_and(|git| git.remote == "https://github.com/a/b")));
    }
}
