//! A registry that misbehaves, on loopback: broken connections, challenges, redirects, lies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use registry::{Credentials, Error, Options, Registry};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use types::image::{Descriptor, media_type};
use types::{Classify, Digest, ErrorKind, ImageRef};

/// What the fake answers.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    cut: Option<usize>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request: its target and its headers by lower-case name.
struct Asked {
    target: String,
    headers: BTreeMap<String, String>,
}

type Log = Arc<Mutex<Vec<String>>>;

/// Starts a server; answers its `host:port` and the requests it saw.
async fn serve(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address").to_string();
    let log = Log::default();
    let (seen, answer) = (Arc::clone(&log), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&answer), Arc::clone(&seen)));
        }
    });
    (address, log)
}

async fn converse(mut stream: TcpStream, answer: Arc<impl Fn(&Asked) -> Answer>, log: Log) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let asked = Asked { target, headers };
    if asked.target == "/v2/" {
        // Asked once of registries on loopback, to find out that they speak plain HTTP.
        let _ = stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        return;
    }
    let authorization = asked.headers.get("authorization").map_or("", String::as_str);
    log.lock().expect("log").push(format!("{} [{authorization}]", asked.target));
    let reply = answer(&asked);
    let mut out = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    let _ = stream.write_all(out.as_bytes()).await;
    let _ = stream.write_all(body).await;
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, digest_of(bytes), bytes.len() as u64)
}

fn reference(text: &str) -> ImageRef {
    text.parse().expect(text)
}

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":1},"layers":[]}"#;

#[tokio::test]
async fn a_broken_transfer_is_taken_up_where_it_broke() {
    let content: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8).collect();
    for serves_ranges in [true, false] {
        let whole = content.clone();
        let tries = Arc::new(Mutex::new(0));
        let (host, log) = serve(move |asked| {
            let mut tries = tries.lock().expect("tries");
            *tries += 1;
            let from: usize =
                asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
            let mut answer = match serves_ranges && from > 0 {
                true => Answer::new(206, &whole[from..]).with("Content-Range", format!("bytes {from}-{}/{}", whole.len() - 1, whole.len())),
                false => Answer::new(200, whole.clone()),
            };
            answer.cut = (*tries < 4).then_some(if serves_ranges { 50_000 } else { 30_000 * *tries });
            answer
        })
        .await;
        let mut got = Vec::new();
        let registry = Registry::new(Options::default());
        registry.blob(&reference(&format!("{host}/a")), &blob(&content), None, &mut got).await.expect("fetches");
        assert!(got == content);
        assert_eq!(log.lock().expect("log").len(), 4);
    }
}

#[tokio::test]
async fn lies_are_found_out() {
    let (host, _) = serve(|asked| match asked.target.as_str() {
        target if target.contains("blobs") => Answer::new(200, "other"),
        _ => Answer::new(200, MANIFEST).with("Docker-Content-Digest", digest_of(b"x").to_string()),
    })
    .await;
    let registry = Registry::new(Options::default());
    let name = reference(&format!("{host}/a"));
    let fetched = registry.blob(&name, &blob(b"right"), None, &mut Vec::new()).await;
    assert!(matches!(fetched, Err(Error::DigestMismatch { .. })), "{fetched:?}");
    let fetched = registry.blob(&name, &blob(b"longer than it is"), None, &mut Vec::new()).await;
    assert!(matches!(fetched, Err(Error::SizeMismatch { .. })), "{fetched:?}");
    let fetched = registry.blob(&name, &blob(b"shor"), None, &mut Vec::new()).await;
    assert!(matches!(fetched, Err(Error::SizeMismatch { .. })), "{fetched:?}");
    let root = registry.root(&name, None).await;
    assert!(matches!(root, Err(Error::DigestMismatch { .. })), "{root:?}");
    let root = registry.root(&name.with_digest(digest_of(b"y")), None).await;
    assert!(matches!(root, Err(Error::DigestMismatch { .. })), "{root:?}");
}

#[tokio::test]
async fn tokens_are_fetched_used_and_kept() {
    let (tokens, token_log) = serve(|_| Answer::new(200, r#"{"token":"T","expires_in":300}"#)).await;
    let (host, log) = serve(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Bearer T") => Answer::new(200, MANIFEST),
        _ => Answer::new(401, "{}")
            .with("WWW-Authenticate", format!("Bearer realm=\"http://{tokens}/token\",service=\"s v\",scope=\"repository:a:pull\"")),
    })
    .await;
    let registry = Registry::new(Options::default());
    let name = reference(&format!("{host}/a"));
    let credentials = Credentials::password("u", "p");
    for _ in 0..2 {
        registry.root(&name, None).await.expect("fetches");
    }
    registry.root(&name, Some(&credentials)).await.expect("fetches");
    assert_eq!(
        *token_log.lock().expect("log"),
        ["/token?service=s+v&scope=repository%3Aa%3Apull []", "/token?service=s+v&scope=repository%3Aa%3Apull [Basic dTpw]"]
    );
    assert_eq!(log.lock().expect("log").len(), 5, "one challenge for each user, then the token is kept");
}

#[tokio::test]
async fn the_default_registry_is_docker_hub_with_its_library() {
    let (host, log) = serve(|_| Answer::new(200, MANIFEST)).await;
    let endpoints = BTreeMap::from([("docker.io".to_owned(), format!("http://{host}"))]);
    let registry = Registry::new(Options { endpoints, ..Options::default() });
    registry.root(&reference("busybox:1"), None).await.expect("fetches");
    assert_eq!(*log.lock().expect("log"), ["/v2/library/busybox/manifests/1 []"]);
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let content = b"content".to_vec();
    let whole = content.clone();
    let (storage, storage_log) = serve(move |_| Answer::new(200, whole.clone())).await;
    let (host, log) = serve(move |asked| match asked.headers.contains_key("authorization") {
        true => Answer::new(307, "").with("Location", format!("http://{storage}/elsewhere")),
        false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let registry = Registry::new(Options::default());
    let credentials = Credentials::password("u", "p");
    let mut got = Vec::new();
    registry.blob(&reference(&format!("{host}/a")), &blob(&content), Some(&credentials), &mut got).await.expect("fetches");
    assert_eq!(got, content);
    assert_eq!(*storage_log.lock().expect("log"), ["/elsewhere []"]);
    assert_eq!(log.lock().expect("log").len(), 2);
}

#[tokio::test]
async fn refusals_are_told_in_dockers_words() {
    let (host, _) = serve(|asked| match asked.target.as_str() {
        target if target.contains("/gone/") => Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        target if target.contains("/norepo/") => {
            Answer::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#)
        }
        target if target.contains("/denied/") => {
            Answer::new(403, r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#)
        }
        target if target.contains("/basic/") => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        target if target.contains("/odd/") => Answer::new(401, "").with("WWW-Authenticate", "Negotiate"),
        target if target.contains("/old/") => Answer::new(200, r#"{"schemaVersion":1}"#),
        target if target.contains("/html/") => Answer::new(200, "<html>"),
        target if target.contains("/huge/") => Answer::new(200, vec![b' '; 5 << 20]),
        _ => Answer::new(418, "\x1b[31m"),
    })
    .await;
    let registry = Registry::new(Options::default());
    for (repository, message, kind) in [
        ("gone", "manifest for HOST/gone:latest not found: manifest unknown: manifest unknown", ErrorKind::NotFound),
        ("norepo", "repository HOST/norepo not found: name unknown: repository name not known to registry", ErrorKind::NotFound),
        (
            "denied",
            "pull access denied for HOST/denied, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            ErrorKind::NotFound,
        ),
        (
            "basic",
            "pull access denied for HOST/basic, repository does not exist or may require 'docker login': denied: no basic auth credentials",
            ErrorKind::NotFound,
        ),
        ("odd", "HOST asks for authentication in a way that is not supported: Negotiate", ErrorKind::NotServed),
        ("old", "HOST/old:latest is a manifest of schema 1, which is obsolete and not supported", ErrorKind::NotServed),
        ("html", "HOST/html:latest: unexpected answer of the registry HOST: expected value at line 1 column 1", ErrorKind::Internal),
        ("huge", "HOST/huge:latest: unexpected answer of the registry HOST: the manifest has more than 4194304 bytes", ErrorKind::Internal),
        ("other", "HOST/other:latest: the registry HOST answered 418", ErrorKind::Unavailable),
    ] {
        let name = reference(&format!("{host}/{repository}")).with_default_tag();
        let error = registry.root(&name, None).await.expect_err(repository);
        assert_eq!((error.to_string(), error.kind()), (message.replace("HOST", &host), kind));
    }
}

#[tokio::test]
async fn busy_registries_are_asked_again() {
    let tries = Arc::new(Mutex::new(0));
    let (host, log) = serve(move |_| {
        let mut tries = tries.lock().expect("tries");
        *tries += 1;
        if *tries < 3 { Answer::new(503, "").with("Retry-After", "0") } else { Answer::new(200, MANIFEST) }
    })
    .await;
    Registry::new(Options::default()).root(&reference(&format!("{host}/a")), None).await.expect("fetches");
    assert_eq!(log.lock().expect("log").len(), 3);
    // Nobody listens on a port that was just given back: told at once.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let nobody = listener.local_addr().expect("has an address");
    drop(listener);
    let error = Registry::new(Options::default()).root(&reference(&format!("{nobody}/a")), None).await.expect_err("nobody");
    assert!(types::error::chain(&error).contains("refused"), "{}", types::error::chain(&error));
}

fn with(options: Options) -> Registry {
    Registry::new(options)
}

fn mirrored(host: &str, mirror: &str) -> Registry {
    let mirrors = BTreeMap::from([(host.to_owned(), vec![format!("http://{mirror}/")])]);
    with(Options { mirrors, ..Options::default() })
}

#[tokio::test]
async fn mirrors_are_asked_first_and_told_no_password() {
    let (mirror, mirror_log) = serve(|asked| match asked.target.contains("/a/") {
        true => Answer::new(200, MANIFEST),
        false => Answer::new(404, ""),
    })
    .await;
    let (host, log) = serve(|asked| match asked.headers.contains_key("authorization") {
        true => Answer::new(200, MANIFEST),
        false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let registry = mirrored(&host, &mirror);
    let user = Credentials::password("u", "p");
    registry.root(&reference(&format!("{host}/a")), Some(&user)).await.expect("the mirror has it");
    assert_eq!(log.lock().expect("log").len(), 0);
    registry.root(&reference(&format!("{host}/b")), Some(&user)).await.expect("the registry has it");
    assert_eq!(*mirror_log.lock().expect("log"), ["/v2/a/manifests/latest []", "/v2/b/manifests/latest []"]);
    assert_eq!(*log.lock().expect("log"), ["/v2/b/manifests/latest []", "/v2/b/manifests/latest [Basic dTpw]"]);
}

#[tokio::test]
async fn a_mirror_that_lies_or_is_gone_is_passed_by() {
    let (mirror, _) = serve(|_| Answer::new(200, MANIFEST).with("Docker-Content-Digest", digest_of(b"x").to_string())).await;
    let (host, log) = serve(|_| Answer::new(200, MANIFEST)).await;
    let name = reference(&format!("{host}/a"));
    mirrored(&host, &mirror).root(&name, None).await.expect("the registry has it");
    mirrored(&host, "127.0.0.1:1").root(&name, None).await.expect("the registry has it");
    assert_eq!(log.lock().expect("log").len(), 2);
    // What a blob turns out to be is known at its end only: the next attempt passes the mirror by.
    let (liar, _) = serve(|_| Answer::new(200, "other")).await;
    let (host, _) = serve(|_| Answer::new(200, "right")).await;
    let (name, registry) = (reference(&format!("{host}/a")), mirrored(&host, &liar));
    assert!(registry.blob(&name, &blob(b"right"), None, &mut Vec::new()).await.is_err());
    assert!(!registry.has_mirrors(&name));
    registry.blob(&name, &blob(b"right"), None, &mut Vec::new()).await.expect("the registry's own");
}

#[tokio::test]
async fn proxies_are_used_but_for_loopback_and_exceptions() {
    let (proxy, log) = serve(|_| Answer::new(200, MANIFEST)).await;
    let (host, own_log) = serve(|_| Answer::new(200, MANIFEST)).await;
    let http = Some(format!("http://{proxy}"));
    let proxies = registry::Proxies { http, https: None, none: Some("other.invalid".to_owned()) };
    let insecure = vec!["registry.invalid:5000".to_owned()];
    let registry = with(Options { proxies, insecure, ..Options::default() });
    registry.root(&reference("registry.invalid:5000/a"), None).await.expect("through the proxy");
    registry.root(&reference(&format!("{host}/a")), None).await.expect("directly");
    let seen = log.lock().expect("log").clone();
    assert!(seen.iter().all(|line| line.starts_with("http://registry.invalid:5000/v2/")), "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("http://registry.invalid:5000/v2/a/manifests/latest []"));
    assert_eq!(own_log.lock().expect("log").len(), 1);
    let proxies = registry::Proxies { http: Some("http://u:secret@[".to_owned()), ..Default::default() };
    let error = with(Options { proxies, ..Options::default() }).root(&reference(&format!("{host}/a")), None).await.expect_err("no proxy");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn identity_tokens_and_registry_tokens_stand_for_passwords() {
    let (tokens, token_log) = serve(|asked| match asked.target.contains("offline_token=true") {
        true => Answer::new(200, r#"{"token":"T","refresh_token":"R"}"#),
        // The form of a refresh is in the body.
        false => Answer::new(200, r#"{"access_token":"T"}"#),
    })
    .await;
    let (host, log) = serve(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Bearer T" | "Bearer given") => Answer::new(200, MANIFEST),
        _ => Answer::new(401, "{}").with("WWW-Authenticate", format!("Bearer realm=\"http://{tokens}/token\",service=\"s\"")),
    })
    .await;
    let name = reference(&format!("{host}/a"));
    let identity = Credentials { identity_token: "R".to_owned(), ..Credentials::default() };
    with(Options::default()).root(&name, Some(&identity)).await.expect("fetches");
    assert_eq!(*token_log.lock().expect("log"), ["/token []"]);
    let given = Credentials { registry_token: "given".to_owned(), ..Credentials::default() };
    with(Options::default()).root(&name, Some(&given)).await.expect("fetches");
    assert_eq!(token_log.lock().expect("log").len(), 1, "no token was asked for");
    assert_eq!(log.lock().expect("log").last().map(String::as_str), Some("/v2/a/manifests/latest [Bearer given]"));
}

#[tokio::test]
async fn redirects_end_somewhere_and_never_leave_protection() {
    let (host, log) = serve(|asked| match asked.target.contains("/loop/") {
        true => Answer::new(307, "").with("Location", asked.target.clone()),
        false => Answer::new(307, "").with("Location", "file:///etc/passwd"),
    })
    .await;
    let registry = with(Options::default());
    let fetched = registry.root(&reference(&format!("{host}/loop/a")), None).await;
    assert!(matches!(fetched, Err(Error::Redirect { .. })), "{fetched:?}");
    assert_eq!(log.lock().expect("log").len(), 11);
    let fetched = registry.root(&reference(&format!("{host}/file")), None).await;
    assert!(matches!(fetched, Err(Error::Redirect { .. })), "{fetched:?}");
}

#[tokio::test]
async fn tags_come_in_pages_and_hosts_without_search_say_so() {
    let (host, _) = serve(|asked| match asked.target.as_str() {
        "/v2/a/tags/list" => {
            Answer::new(200, r#"{"tags":["1","2"]}"#).with("Link", "</v2/a/tags/list?last=2>; rel=\"next\"")
        }
        "/v2/a/tags/list?last=2" => Answer::new(200, r#"{"tags":["3"]}"#),
        "/v2/none/tags/list" => Answer::new(200, r#"{"name":"none","tags":null}"#),
        // A list that never ends.
        target if target.starts_with("/v2/loop/") => {
            Answer::new(200, r#"{"tags":["1"]}"#).with("Link", "</v2/loop/tags/list?n=1>; rel=\"next\"")
        }
        target if target.starts_with("/v1/search?q=some+thing&n=25") => Answer::new(
            200,
            r#"{"num_results":1,"results":[{"name":"some/thing","description":"d","star_count":3,"is_official":true,"is_automated":false}]}"#,
        ),
        _ => Answer::new(404, ""),
    })
    .await;
    let registry = with(Options::default());
    let tags = |name: &str| reference(&format!("{host}/{name}"));
    assert_eq!(registry.tags(&tags("a"), None).await.expect("lists"), ["1", "2", "3"]);
    assert!(registry.tags(&tags("none"), None).await.expect("lists").is_empty());
    assert!(matches!(registry.tags(&tags("loop"), None).await, Err(Error::Answer { .. })));
    let found = registry.search(&host, "some thing", 25, None).await.expect("finds");
    assert_eq!((found[0].name.as_str(), found[0].star_count, found[0].is_official), ("some/thing", 3, true));
    assert!(matches!(registry.search(&host, "else", 1, None).await, Err(Error::NoSearch { .. })));
}
