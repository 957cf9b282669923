//! Who may do what: users, tokens, rights, limits; and what the registry tells about itself.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Answer, OCI_MANIFEST, Registry, image, sha256};
use registryd::{AccessLog, Action, AuthOptions, Options, Pattern, Rule, Scheme, Surroundings, Users};
use serde_json::json;

const ANN: &str = "Basic YW5uOmFubnNlY3JldA==";
const BOB: &str = "Basic Ym9iOmJvYnNlY3JldA==";
const WRONG: &str = "Basic YW5uOndyb25n";

/// Made by `htpasswd -nbB -C 4`: cheap to try, so that the tests are quick.
const USERS: &str =
    "ann:$2y$04$UBNjPIKZPoKk/KLerxfSyepGtmjPS7qwYy4BX.qp3.xzC54e7usZC\nbob:$2y$04$81hssxfH8e08C3fN9ZE.YuaWAqn5GSrP.T/NAB/3jKr9FUxEI0rMe\n";

fn users(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("users");
    std::fs::write(&path, USERS).expect("writes");
    path
}

fn guarded(change: impl FnOnce(&mut Options)) -> Registry {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut options = Options { auth: AuthOptions { users: Some(users(&dir)), ..AuthOptions::default() }, ..Options::default() };
    change(&mut options);
    let root = dir.path().join("root");
    Registry::at(&root, dir, options)
}

fn rule(users: &[&str], repositories: &str, actions: &[Action]) -> Rule {
    Rule {
        users: users.iter().map(ToString::to_string).collect(),
        repositories: vec![Pattern::parse(repositories).expect("pattern")],
        actions: actions.to_vec(),
    }
}

/// A whole push with credentials; the answer to its manifest, or the first refusal.
fn push(registry: &Registry, repository: &str, credentials: &str) -> Answer {
    let as_user = [("Authorization", credentials), ("Content-Type", OCI_MANIFEST)];
    let digest = sha256(b"content");
    let answer = registry.ask("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &as_user, b"content");
    if answer.status != 201 {
        return answer;
    }
    let manifest = image(&digest, &digest).to_string();
    registry.ask("PUT", &format!("/v2/{repository}/manifests/v1"), &as_user, manifest.as_bytes())
}

fn get(registry: &Registry, target: &str, credentials: &str) -> Answer {
    registry.ask("GET", target, &[("Authorization", credentials)], b"")
}

fn token(registry: &Registry, credentials: Option<&str>, scope: &str) -> String {
    let headers: Vec<_> = credentials.map(|credentials| ("Authorization", credentials)).into_iter().collect();
    let answer = registry.ask("GET", &format!("/token?service=cais+registry&scope={scope}"), &headers, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    format!("Bearer {}", answer.json()["token"].as_str().expect("has a token"))
}

#[test]
fn strangers_are_told_how_to_log_in() {
    let registry = guarded(|_| {});
    let answer = registry.get("/v2/");
    answer.refused(401, "UNAUTHORIZED");
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"cais registry\"", registry.address);
    assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()));
    let answer = registry.ask("POST", "/v2/a/b/blobs/uploads/", &[], b"");
    assert_eq!(answer.header("www-authenticate"), Some(format!("{challenge},scope=\"repository:a/b:pull,push\"").as_str()));
    registry.get("/v2/_catalog").refused(401, "UNAUTHORIZED");
    registry.get("/v2/a/tags/list").refused(401, "UNAUTHORIZED");
    for wrong in [WRONG, "Basic !!!", "Basic YW5u", "Digest x", "Bearer x.y.z", "Bearer"] {
        get(&registry, "/v2/", wrong).refused(401, "UNAUTHORIZED");
    }
    assert_eq!(get(&registry, "/v2/", ANN).status, 200);
    assert_eq!(push(&registry, "a", ANN).status, 201);
    assert_eq!(get(&registry, "/v2/a/manifests/v1", BOB).status, 200);
    let basic = guarded(|options| options.auth.scheme = Scheme::Basic);
    assert_eq!(basic.get("/v2/").header("www-authenticate"), Some("Basic realm=\"cais registry\""));
    let elsewhere = guarded(|options| options.auth.public_url = Some("https://registry.example/".to_owned()));
    let answer = elsewhere.get("/v2/");
    assert!(answer.header("www-authenticate").is_some_and(|text| text.starts_with("Bearer realm=\"https://registry.example/token\"")));
}

#[test]
fn a_token_is_for_what_it_says() {
    let registry = guarded(|_| {});
    assert_eq!(push(&registry, "a", ANN).status, 201);
    let pull = token(&registry, Some(ANN), "repository:a:pull");
    assert_eq!(get(&registry, "/v2/a/manifests/v1", &pull).status, 200);
    push(&registry, "a", &pull).refused(401, "UNAUTHORIZED");
    get(&registry, "/v2/b/tags/list", &pull).refused(401, "UNAUTHORIZED");
    registry.ask("DELETE", "/v2/a/manifests/v1", &[("Authorization", &pull)], b"").refused(401, "UNAUTHORIZED");
    let more = token(&registry, Some(ANN), "repository:a:pull,push+repository:b:pull,push&scope=repository:a:delete");
    assert_eq!(push(&registry, "b", &more).status, 201);
    assert_eq!(registry.ask("DELETE", "/v2/a/manifests/v1", &[("Authorization", &more)], b"").status, 202);
    let nothing = token(&registry, None, "repository:b:pull");
    get(&registry, "/v2/b/manifests/v1", &nothing).refused(401, "UNAUTHORIZED");
    let mut forged = pull.clone();
    forged.pop();
    get(&registry, "/v2/a/manifests/v1", &forged).refused(401, "UNAUTHORIZED");
    get(&registry, "/token?scope=repository:a:push", &pull).refused(401, "UNAUTHORIZED");
    get(&registry, "/token?scope=repository:a:push", WRONG).refused(401, "UNAUTHORIZED");
    registry.ask("POST", "/token", &[], b"grant_type=password").refused(405, "UNSUPPORTED");
}

#[test]
fn rights_are_those_of_the_rules() {
    let registry = guarded(|options| {
        options.auth.anonymous_pull = false;
        options.auth.rules = vec![
            rule(&["ann"], "team/**", &[Action::Pull, Action::Push, Action::Delete]),
            rule(&["*"], "public/*", &[Action::Pull]),
            rule(&["anonymous"], "public/*", &[Action::Pull]),
            rule(&["bob"], "public/*", &[Action::Push]),
        ];
    });
    assert_eq!(push(&registry, "team/x/app", ANN).status, 201);
    assert_eq!(push(&registry, "public/app", BOB).status, 201);
    push(&registry, "team/x/app", BOB).refused(403, "DENIED");
    push(&registry, "public/app", ANN).refused(403, "DENIED");
    get(&registry, "/v2/team/x/app/tags/list", BOB).refused(403, "DENIED");
    registry.ask("DELETE", "/v2/public/app/manifests/v1", &[("Authorization", BOB)], b"").refused(403, "DENIED");
    assert_eq!(registry.get("/v2/public/app/manifests/v1").status, 200);
    registry.get("/v2/team/x/app/manifests/v1").refused(401, "UNAUTHORIZED");
    assert_eq!(get(&registry, "/v2/_catalog", ANN).json(), json!({ "repositories": ["public/app", "team/x/app"] }));
    assert_eq!(get(&registry, "/v2/_catalog?n=5", BOB).json(), json!({ "repositories": ["public/app"] }));
    let granted = token(&registry, Some(BOB), "repository:team/x/app:pull,push");
    get(&registry, "/v2/team/x/app/tags/list", &granted).refused(401, "UNAUTHORIZED");
    assert_eq!(get(&registry, "/v2/public/app/manifests/v1", &token(&registry, None, "repository:public/app:pull")).status, 200);
}

#[test]
fn a_mount_needs_the_right_to_read_there() {
    let registry = guarded(|options| {
        options.auth.rules =
            vec![rule(&["ann"], "ann/*", &[Action::Pull, Action::Push]), rule(&["bob"], "bob/*", &[Action::Pull, Action::Push])];
    });
    assert_eq!(push(&registry, "ann/app", ANN).status, 201);
    let digest = sha256(b"content");
    for query in [format!("mount={digest}&from=ann/app"), format!("mount={digest}")] {
        let mount = |repository: &str, credentials: &str| {
            let target = format!("/v2/{repository}/blobs/uploads/?{query}");
            registry.ask("POST", &target, &[("Authorization", credentials)], b"").status
        };
        assert_eq!(mount("bob/app", BOB), 202, "he may not read it, and is not told that it is there");
        assert_eq!(mount("ann/other", ANN), 201);
    }
}

#[test]
fn anonymous_pull_and_read_only() {
    let registry = guarded(|options| options.auth.anonymous_pull = true);
    assert_eq!(push(&registry, "a", ANN).status, 201);
    assert_eq!(registry.get("/v2/").status, 200);
    assert_eq!(registry.get("/v2/a/manifests/v1").status, 200);
    assert_eq!(registry.get("/v2/_catalog").json(), json!({ "repositories": ["a"] }));
    registry.ask("POST", "/v2/a/blobs/uploads/", &[], b"").refused(401, "UNAUTHORIZED");
    let read_only = Registry::with(Options { read_only: true, ..Options::default() });
    read_only.ask("POST", "/v2/a/blobs/uploads/", &[], b"").refused(405, "UNSUPPORTED");
    read_only.put("a", "v1", OCI_MANIFEST, &json!({})).refused(405, "UNSUPPORTED");
    read_only.delete("/v2/a/manifests/v1").refused(405, "UNSUPPORTED");
    assert_eq!(read_only.get("/v2/").status, 200);
}

#[test]
fn too_many_requests_and_too_many_wrong_passwords_have_to_wait() {
    let registry = Registry::with(Options { rate: Some(1), ..Options::default() });
    let answers: Vec<_> = (0..200).map(|_| registry.get("/v2/")).collect();
    let refused = answers.iter().find(|answer| answer.status == 429).expect("one is too many");
    refused.refused(429, "TOOMANYREQUESTS");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(registry.get("/healthz").status, 200, "who looks after it may always ask");
    let registry = guarded(|_| {});
    assert!((0..30).any(|_| get(&registry, "/v2/", WRONG).status == 429));
    get(&registry, "/v2/", ANN).refused(429, "TOOMANYREQUESTS");
}

#[test]
fn users_change_while_it_serves() {
    let registry = guarded(|_| {});
    let path = registry.dir.path().join("users");
    assert_eq!(get(&registry, "/v2/", BOB).status, 200);
    Users::remove(&path, "bob").expect("removes");
    get(&registry, "/v2/", BOB).refused(401, "UNAUTHORIZED");
    Users::add(&path, "bob", "bobsecret").expect("adds");
    assert_eq!(get(&registry, "/v2/", BOB).status, 200);
}

#[test]
fn it_tells_about_itself() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (root, log) = (dir.path().join("root"), dir.path().join("access.log"));
    let access_log = Some(Arc::new(AccessLog::open(&log).expect("opens")));
    let registry = Registry::served(&root, dir, Options::default(), Surroundings { tls: None, access_log });
    registry.image("team/app", "v1", "one");
    registry.ask("GET", "/v2/team/app/tags/list", &[("User-Agent", "a\"b")], b"");
    let health = registry.get("/healthz");
    assert_eq!((health.status, health.body.as_slice()), (200, b"ok\n".as_slice()));
    let metrics = registry.get("/metrics");
    let page = String::from_utf8(metrics.body).expect("is text");
    for line in [
        "cais_registry_requests_total{method=\"PUT\",route=\"manifest\",status=\"201\"} 1",
        "cais_registry_requests_total{method=\"GET\",route=\"tags\",status=\"200\"} 1",
        "cais_registry_uploads_open 0",
        "# TYPE cais_registry_request_seconds histogram",
        "cais_registry_request_seconds_bucket{le=\"+Inf\"}",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        assert!(value.parse::<f64>().is_ok() && name.starts_with("cais_registry_") && !name.contains(' '), "{line}");
    }
    let log = std::fs::read_to_string(&log).expect("reads");
    let line = log.lines().find(|line| line.contains("/tags/list")).expect("is logged");
    assert!(line.starts_with("127.0.0.1 - - [") && line.contains("\"GET /v2/team/app/tags/list HTTP/1.1\" 200 "), "{line}");
    assert!(line.contains("\"a?b\""), "{line}");
}

#[test]
fn people_see_what_is_there() {
    let registry = Registry::start();
    let pushed = registry.image("team/app", "v1", "one");
    let digest = pushed.digest.clone();
    for (target, words) in [
        ("/".to_owned(), vec!["<a href=\"/ui/team/app\">"]),
        ("/ui/team/app".to_owned(), vec!["/ui/team/app:v1", digest.as_str()]),
        ("/ui/team/app:v1".to_owned(), vec![pushed.layer.as_str(), "Together"]),
        (format!("/ui/team/app@{digest}"), vec![pushed.layer.as_str()]),
    ] {
        let answer = registry.get(&target);
        let page = String::from_utf8_lossy(&answer.body);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")), "{target}");
        assert!(words.iter().all(|word| page.contains(word)) && !page.contains("<script"), "{target}: {page}");
        assert!(answer.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    }
    for target in ["/ui/none", "/ui/team/app:v9", "/ui/../x", "/ui/team/app:..", "/favicon.ico", "/ui/%3Cscript%3E"] {
        assert_eq!(registry.get(target).status, 404, "{target}");
    }
    let hidden = guarded(|_| {});
    let answer = hidden.get("/");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Basic realm=\"cais registry\"")));
    assert_eq!(get(&hidden, "/", ANN).status, 200);
}
