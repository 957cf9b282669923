//! The rules of the OCI distribution specification 1.1, one after the other.

mod common;

use std::io::{Read, Write};

use common::{Answer, OCI_INDEX, OCI_MANIFEST, Registry, image, noise, sha256, sha512};
use serde_json::json;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

#[test]
fn the_base_says_which_protocol_it_is() {
    let registry = Registry::start();
    for path in ["/v2", "/v2/"] {
        let answer = registry.get(path);
        assert_eq!((answer.status, answer.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
    }
    assert_eq!(registry.ask("POST", "/v2/", &[], b"").status, 405);
}

#[test]
fn what_is_not_there_is_not_found() {
    let registry = Registry::start();
    let digest = sha256(b"nothing");
    registry.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    registry.get("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    registry.get(&format!("/v2/a/manifests/{digest}")).refused(404, "MANIFEST_UNKNOWN");
    registry.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    registry.delete(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    registry.delete("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    let upload = format!("/v2/a/blobs/uploads/{}", "0".repeat(32));
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let target = if method == "PUT" { format!("{upload}?digest={digest}") } else { upload.clone() };
        registry.ask(method, &target, &[], b"").refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    for path in [format!("/v2/a/blobs/{digest}"), "/v2/a/manifests/v1".to_owned()] {
        let answer = registry.head(&path);
        assert_eq!((answer.status, answer.body.len()), (404, 0));
    }
    let answer = registry.get(&format!("/v2/a/referrers/{digest}"));
    assert_eq!((answer.status, answer.json()["manifests"].clone()), (200, json!([])));
}

#[test]
fn a_blob_is_pushed_whole_in_one_or_two_requests() {
    let registry = Registry::start();
    for (content, digest) in [(noise(70_000, 1), None), (noise(10, 2), Some(sha512(&noise(10, 2)))), (Vec::new(), None)] {
        let digest = digest.unwrap_or_else(|| sha256(&content));
        for (repository, single) in [("one", true), ("two", false)] {
            let answer = match single {
                true => registry.ask("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], &content),
                false => registry.ask("PUT", &format!("{}?digest={digest}", registry.begin(repository)), &[], &content),
            };
            assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(digest.as_str())), "{answer:?}");
            let pulled = registry.get(answer.header("location").expect("has a location"));
            assert!(pulled.status == 200 && pulled.body == content);
            let asked = registry.head(&format!("/v2/{repository}/blobs/{digest}"));
            assert_eq!((asked.status, asked.header("content-length")), (200, Some(content.len().to_string().as_str())));
        }
    }
}

#[test]
fn a_blob_is_pushed_in_chunks_in_order_only() {
    let registry = Registry::start();
    let content = noise(300_000, 3);
    let digest = sha256(&content);
    for put_last in [true, false] {
        let upload = registry.begin("a");
        let patch = |from: usize, to: usize| {
            let range = format!("{from}-{}", to - 1);
            registry.ask("PATCH", &upload, &[("Content-Range", &range)], &content[from..to])
        };
        let wrong = |answer: Answer, range: &str| {
            assert_eq!((answer.status, answer.header("range"), answer.header("location")), (416, Some(range), Some(upload.as_str())));
            assert_eq!(answer.code(), "BLOB_UPLOAD_INVALID");
        };
        wrong(patch(100_000, 200_000), "0-0");
        let answer = patch(0, 100_000);
        assert_eq!((answer.status, answer.header("range")), (202, Some("0-99999")));
        wrong(patch(0, 100_000), "0-99999");
        wrong(patch(200_000, 300_000), "0-99999");
        wrong(registry.ask("PATCH", &upload, &[("Content-Range", "banana")], b"x"), "0-99999");
        let answer = registry.get(&upload);
        assert_eq!((answer.status, answer.header("range")), (204, Some("0-99999")));
        registry.ask("PATCH", &upload, &[("Content-Range", "100000-100004")], b"four").refused(400, "SIZE_INVALID");
        assert_eq!(patch(100_000, 250_000).status, 202);
        let answer = match put_last {
            true => {
                let target = format!("{upload}?digest={digest}");
                let late = registry.ask("PUT", &target, &[("Content-Range", "0-49999")], &content[..50_000]);
                wrong(late, "0-249999");
                registry.ask("PUT", &target, &[("Content-Range", "250000-299999")], &content[250_000..])
            }
            false => {
                assert_eq!(patch(250_000, 300_000).status, 202);
                registry.ask("PUT", &format!("{upload}?digest={digest}"), &[], b"")
            }
        };
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(registry.get(&format!("/v2/a/blobs/{digest}")).body == content);
        registry.get(&upload).refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[test]
fn an_upload_goes_on_where_its_connection_broke() {
    let registry = Registry::start();
    let content = noise(500_000, 4);
    let upload = registry.begin("a");
    let mut broken = registry.connect();
    let head = format!("PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n");
    broken.write_all(head.as_bytes()).and_then(|()| broken.write_all(&content[..200_000])).expect("sends");
    drop(broken);
    // What had arrived is there when the upload can be had; the request that broke still holds it for a moment.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let offset = loop {
        let range = registry.get(&upload).header("range").and_then(|range| range.strip_prefix("0-")?.parse::<usize>().ok()).expect("range");
        if range == 199_999 || std::time::Instant::now() > deadline {
            break range + 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(offset, 200_000);
    let range = format!("{offset}-499999");
    let answer = registry.ask("PATCH", &upload, &[("Content-Range", &range)], &content[offset..]);
    assert_eq!(answer.status, 202, "{answer:?}");
    let digest = sha256(&content);
    assert_eq!(registry.ask("PUT", &format!("{upload}?digest={digest}"), &[], b"").status, 201);
    assert!(registry.get(&format!("/v2/a/blobs/{digest}")).body == content);
}

#[test]
fn a_body_in_http_chunks_is_taken() {
    let registry = Registry::start();
    let upload = registry.begin("a");
    let mut stream = registry.connect();
    let request = format!("PATCH {upload} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sends");
    let answer = Answer::read(&mut stream, "PATCH");
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-10")));
    let digest = sha256(b"firstsecond");
    assert_eq!(registry.ask("PUT", &format!("{upload}?digest={digest}"), &[], b"").status, 201);
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_of_it_stays() {
    let registry = Registry::start();
    let digest = sha256(b"something else");
    let upload = registry.begin("a");
    registry.ask("PUT", &format!("{upload}?digest={digest}"), &[], b"content").refused(400, "DIGEST_INVALID");
    registry.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], b"content").refused(400, "DIGEST_INVALID");
    assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).status, 404);
    registry.get(&upload).refused(404, "BLOB_UPLOAD_UNKNOWN");
    let upload = registry.begin("a");
    for bad in ["", "?digest=", "?digest=sha256:00", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e", "?digest=banana"] {
        registry.ask("PUT", &format!("{upload}{bad}"), &[], b"x").refused(400, "DIGEST_INVALID");
    }
    assert_eq!(std::fs::read_dir(registry.dir.path().join("uploads")).expect("lists").count(), 1);
    assert_eq!(registry.delete(&upload).status, 204);
    registry.get(&upload).refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(std::fs::read_dir(registry.dir.path().join("uploads")).expect("lists").count(), 0);
    assert_eq!(std::fs::read_dir(registry.dir.path().join("content/sha256")).expect("lists").count(), 0);
}

#[test]
fn an_upload_belongs_to_its_repository() {
    let registry = Registry::start();
    let upload = registry.begin("mine");
    let other = upload.replace("/mine/", "/theirs/");
    registry.get(&other).refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.ask("PATCH", &other, &[], b"x").refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(registry.get(&upload).status, 204);
}

#[test]
fn blobs_are_mounted_from_where_they_are() {
    let registry = Registry::start();
    let digest = registry.blob("source", b"shared");
    let mount = |repository: &str, query: String| registry.ask("POST", &format!("/v2/{repository}/blobs/uploads/?{query}"), &[], b"");
    let answer = mount("target", format!("mount={digest}&from=source"));
    assert_eq!((answer.status, answer.header("location")), (201, Some(format!("/v2/target/blobs/{digest}").as_str())));
    assert_eq!(registry.get(&format!("/v2/target/blobs/{digest}")).body, b"shared");
    assert_eq!(mount("anonymous", format!("mount={digest}")).status, 201);
    for query in
        [format!("mount={digest}&from=empty"), format!("mount={digest}&from=..%2F.."), format!("mount={}&from=source", sha256(b"?"))]
    {
        let answer = mount("third", query);
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(answer.header("location").is_some_and(|location| location.starts_with("/v2/third/blobs/uploads/")));
    }
    assert_eq!(registry.head(&format!("/v2/third/blobs/{digest}")).status, 404);
    mount("third", "mount=banana&from=source".to_owned()).refused(400, "DIGEST_INVALID");
}

#[test]
fn manifests_are_pushed_and_pulled_by_tag_and_digest() {
    let registry = Registry::start();
    let pushed = registry.image("a", "v1", "one");
    for reference in ["v1", &pushed.digest] {
        let answer = registry.get(&format!("/v2/a/manifests/{reference}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_MANIFEST)));
        assert_eq!(answer.header("docker-content-digest"), Some(pushed.digest.as_str()));
        assert_eq!(sha256(&answer.body), pushed.digest);
        let answer = registry.head(&format!("/v2/a/manifests/{reference}"));
        assert_eq!((answer.status, answer.header("content-length")), (200, Some(pushed.size.to_string().as_str())));
    }
    assert_eq!(registry.head(&format!("/v2/b/manifests/{}", pushed.digest)).status, 404, "another repository does not have it");
    let document = image(&pushed.config, &pushed.layer);
    let by_sha512 = sha512(document.to_string().as_bytes());
    let answer = registry.put("a", &by_sha512, OCI_MANIFEST, &document);
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(by_sha512.as_str())));
    assert_eq!(registry.get(&format!("/v2/a/manifests/{by_sha512}")).body, document.to_string().as_bytes());
    registry.put("a", &sha256(b"other"), OCI_MANIFEST, &document).refused(400, "DIGEST_INVALID");
    let target = format!("{}?tag=x&tag=y", pushed.digest);
    let answer = registry.put("a", &target, OCI_MANIFEST, &document);
    let tags: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "oci-tag").map(|(_, value)| value.as_str()).collect();
    assert_eq!((answer.status, tags), (201, vec!["x", "y"]));
    assert_eq!(registry.get("/v2/a/tags/list").json(), json!({ "name": "a", "tags": ["v1", "x", "y"] }));
}

#[test]
fn dockers_media_types_are_served_as_they_came() {
    let registry = Registry::start();
    let (config, layer) = (registry.blob("a", b"config"), registry.blob("a", b"layer"));
    let document = json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": 6 },
        "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": layer, "size": 5 }],
    });
    assert_eq!(registry.put("a", "v1", DOCKER_MANIFEST, &document).status, 201);
    assert_eq!(registry.get("/v2/a/manifests/v1").header("content-type"), Some(DOCKER_MANIFEST));
    let digest = sha256(document.to_string().as_bytes());
    let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [{ "mediaType": DOCKER_MANIFEST, "digest": digest, "size": 1 }] });
    assert_eq!(registry.put("a", "list", DOCKER_LIST, &list).status, 201);
    let answer = registry.get("/v2/a/manifests/list");
    assert_eq!((answer.header("content-type"), answer.body.as_slice()), (Some(DOCKER_LIST), list.to_string().as_bytes()));
}

#[test]
fn a_manifest_without_its_parts_is_refused() {
    let registry = Registry::start();
    let (config, layer) = (registry.blob("a", b"config"), registry.blob("a", b"layer"));
    let elsewhere = registry.blob("b", b"elsewhere");
    for (config, layer) in [(&config, &sha256(b"missing")), (&sha256(b"missing"), &layer), (&config, &elsewhere)] {
        registry.put("a", "v1", OCI_MANIFEST, &image(config, layer)).refused(404, "MANIFEST_BLOB_UNKNOWN");
    }
    let index =
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "mediaType": OCI_MANIFEST, "digest": config, "size": 1 }] });
    registry.put("a", "v1", OCI_INDEX, &index).refused(404, "MANIFEST_BLOB_UNKNOWN");
    registry.get("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    let foreign = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": { "mediaType": "x/y", "digest": config, "size": 1 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": sha256(b"foreign"), "size": 1 }],
    });
    assert_eq!(registry.put("a", "foreign", OCI_MANIFEST, &foreign).status, 201);
}

#[test]
fn what_is_no_manifest_is_refused() {
    let registry = Registry::start();
    let put = |body: &[u8], kind: &str| registry.ask("PUT", "/v2/a/manifests/v1", &[("Content-Type", kind)], body);
    put(b"", OCI_MANIFEST).refused(400, "MANIFEST_INVALID");
    put(b"{}", OCI_MANIFEST).refused(400, "MANIFEST_INVALID");
    put(b"[1, 2", OCI_MANIFEST).refused(400, "MANIFEST_INVALID");
    put(&[0xff; 100], OCI_MANIFEST).refused(400, "MANIFEST_INVALID");
    put(br#"{"schemaVersion": 1}"#, "application/vnd.docker.distribution.manifest.v1+prettyjws").refused(415, "MANIFEST_INVALID");
    let both = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": [] });
    put(both.to_string().as_bytes(), OCI_INDEX).refused(400, "MANIFEST_INVALID");
    put(both.to_string().as_bytes(), OCI_MANIFEST).refused(400, "MANIFEST_INVALID");
    let large = vec![b' '; (4 << 20) + 1];
    put(&large, OCI_MANIFEST).refused(413, "MANIFEST_INVALID");
    registry.ask("PUT", "/v2/a/manifests/.bad", &[], b"{}").refused(400, "TAG_INVALID");
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
    let filled = format!("{index}{}", " ".repeat((4 << 20) - index.to_string().len()));
    assert_eq!(put(filled.as_bytes(), OCI_INDEX).status, 201, "4 MiB are allowed");
}

#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let registry = Registry::start();
    let pushed = registry.image("a", "b1", "one");
    let document = image(&pushed.config, &pushed.layer);
    for tag in ["A2", "a1", "Z", "_x", "b1", "B0"] {
        assert_eq!(registry.put("a", tag, OCI_MANIFEST, &document).status, 201);
    }
    let tags = |query: &str| registry.get(&format!("/v2/a/tags/list{query}"));
    let all = ["_x", "a1", "A2", "B0", "b1", "Z"];
    assert_eq!(tags("").json()["tags"], json!(all));
    assert_eq!(tags("?n=3").json()["tags"], json!(all[..3]));
    assert_eq!(tags("?n=3&last=A2").json()["tags"], json!(all[3..]));
    assert_eq!(tags("?last=a9").json()["tags"], json!(all[3..]), "the last one need not be there");
    let empty = tags("?n=0");
    assert_eq!((empty.status, empty.json()["tags"].clone(), empty.header("link")), (200, json!([]), None));
    tags("?n=-1").refused(400, "PAGINATION_NUMBER_INVALID");
    tags("?n=many").refused(400, "PAGINATION_NUMBER_INVALID");
    let mut seen = Vec::new();
    let mut next = "/v2/a/tags/list?n=4".to_owned();
    loop {
        let answer = registry.get(&next);
        seen.extend(answer.json()["tags"].as_array().expect("tags").iter().map(|tag| tag.as_str().unwrap_or_default().to_owned()));
        let Some(link) = answer.header("link") else { break };
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        next = link.trim_start_matches('<').split('>').next().expect("has a target").to_owned();
    }
    assert_eq!(seen, all);
}

/// A page in the middle of many tags is found by the index: the same pages, put together, are the whole list.
#[test]
fn pages_of_tags_that_differ_in_case_only_are_whole() {
    let registry = Registry::start();
    let pushed = registry.image("a", "first", "one");
    let document = image(&pushed.config, &pushed.layer);
    let mut expected = vec!["first".to_owned()];
    for number in 0..6 {
        let names = ["tag", "Tag", "TAG", "tAG"].map(|word| format!("{word}{number}"));
        let query: String = names.iter().map(|name| format!("&tag={name}")).collect();
        let target = format!("{}?{}", pushed.digest, query.trim_start_matches('&'));
        assert_eq!(registry.put("a", &target, OCI_MANIFEST, &document).status, 201);
        expected.extend(names);
    }
    expected.sort_by_key(|name| (name.to_lowercase(), name.clone()));
    for size in [1, 2, 3, 7] {
        let (mut seen, mut last) = (Vec::new(), String::new());
        loop {
            let page = registry.get(&format!("/v2/a/tags/list?n={size}&last={last}")).json();
            let tags: Vec<String> = serde_json::from_value(page["tags"].clone()).expect("tags");
            let Some(end) = tags.last() else { break };
            last = end.clone();
            seen.extend(tags);
        }
        assert_eq!(seen, expected);
    }
}

#[test]
fn the_catalog_lists_repositories_that_have_something() {
    let registry = Registry::start();
    for name in ["c", "a/b", "a"] {
        registry.image(name, "v1", name);
    }
    registry.blob("only-a-blob", b"x");
    assert_eq!(registry.get("/v2/_catalog").json(), json!({ "repositories": ["a", "a/b", "c"] }));
    let page = registry.get("/v2/_catalog?n=2");
    assert_eq!(page.json(), json!({ "repositories": ["a", "a/b"] }));
    assert_eq!(page.header("link"), Some("</v2/_catalog?n=2&last=a%2Fb>; rel=\"next\""));
    assert_eq!(registry.get("/v2/_catalog?n=2&last=a%2Fb").json(), json!({ "repositories": ["c"] }));
    let digest = registry.get("/v2/c/manifests/v1").header("docker-content-digest").expect("digest").to_owned();
    assert_eq!(registry.delete(&format!("/v2/c/manifests/{digest}")).status, 202);
    assert_eq!(registry.get("/v2/_catalog").json(), json!({ "repositories": ["a", "a/b"] }));
}

#[test]
fn referrers_are_found_by_subject_and_filtered() {
    let registry = Registry::start();
    let config = registry.blob("a", b"{}");
    let subject = image(&config, &config);
    let subject_digest = sha256(subject.to_string().as_bytes());
    let attached = |kind: Option<&str>, note: &str| {
        let mut document = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": { "note": note },
            "config": { "mediaType": "application/vnd.example.config", "digest": config, "size": 2 }, "layers": [],
            "subject": { "mediaType": OCI_MANIFEST, "digest": subject_digest, "size": 1 },
        });
        if let Some(kind) = kind {
            document["artifactType"] = json!(kind);
        }
        document
    };
    let documents = [attached(Some("sig/one"), "1"), attached(Some("sig/two"), "2"), attached(None, "3")];
    let mut digests = Vec::new();
    for document in &documents {
        let digest = sha256(document.to_string().as_bytes());
        let answer = registry.put("a", &digest, OCI_MANIFEST, document);
        assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(subject_digest.as_str())), "before the subject is there");
        digests.push(digest);
    }
    let answer = registry.put("a", "subject", OCI_MANIFEST, &subject);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, None));
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "index/kind", "manifests": [],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject_digest, "size": 1 } });
    assert_eq!(registry.put("a", "tagged-index", OCI_INDEX, &index).status, 201);

    let answer = registry.get(&format!("/v2/a/referrers/{subject_digest}"));
    assert_eq!((answer.status, answer.header("content-type"), answer.header("oci-filters-applied")), (200, Some(OCI_INDEX), None));
    let listed = answer.json();
    assert_eq!((listed["schemaVersion"].clone(), listed["mediaType"].clone()), (json!(2), json!(OCI_INDEX)));
    let manifests = listed["manifests"].as_array().expect("manifests").clone();
    assert_eq!(manifests.len(), 4);
    let found = |digest: &str| manifests.iter().find(|found| found["digest"] == digest).expect("is listed").clone();
    assert_eq!(found(&digests[0])["artifactType"], "sig/one");
    assert_eq!(found(&digests[2])["artifactType"], "application/vnd.example.config");
    assert_eq!(found(&digests[1])["annotations"], json!({ "note": "2" }));
    assert_eq!(found(&digests[1])["size"], json!(documents[1].to_string().len()));

    let answer = registry.get(&format!("/v2/a/referrers/{subject_digest}?artifactType=sig%2Ftwo"));
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(answer.json()["manifests"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer.json()["manifests"][0]["digest"], json!(digests[1]));
    let page = registry.get(&format!("/v2/a/referrers/{subject_digest}?n=3"));
    let next = page.header("link").and_then(|link| link.strip_prefix('<')?.split('>').next()).expect("more follows").to_owned();
    assert_eq!(registry.get(&next).json()["manifests"].as_array().map(Vec::len), Some(1));

    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", digests[1])).status, 202);
    let left = registry.get(&format!("/v2/a/referrers/{subject_digest}")).json();
    assert_eq!(left["manifests"].as_array().map(Vec::len), Some(3));
    registry.get("/v2/a/referrers/banana").refused(400, "DIGEST_INVALID");
}

#[test]
fn tags_manifests_and_blobs_are_removed() {
    let registry = Registry::start();
    let pushed = registry.image("a", "v1", "one");
    let document = image(&pushed.config, &pushed.layer);
    assert_eq!(registry.put("a", "v2", OCI_MANIFEST, &document).status, 201);
    assert_eq!(registry.delete("/v2/a/manifests/v1").status, 202);
    registry.get("/v2/a/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(registry.get(&format!("/v2/a/manifests/{}", pushed.digest)).status, 200, "a tag's removal leaves the manifest");
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", pushed.digest)).status, 202);
    registry.get("/v2/a/manifests/v2").refused(404, "MANIFEST_UNKNOWN");
    registry.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    let blob = format!("/v2/a/blobs/{}", pushed.layer);
    assert_eq!(registry.delete(&blob).status, 202);
    registry.get(&blob).refused(404, "BLOB_UNKNOWN");
    registry.delete(&blob).refused(404, "BLOB_UNKNOWN");
    registry.image("a", "v1", "one");
}

#[test]
fn parts_of_blobs_are_served_on_one_connection() {
    let registry = Registry::start();
    let content = noise(1_000_000, 5);
    let digest = registry.blob("a", &content);
    let mut stream = registry.connect();
    // Large answers go around hyper, small ones through it; both keep the connection, and what was sent ahead is not lost.
    let requests =
        [("0-", 0..content.len()), ("100-199", 100..200), ("500000-", 500_000..content.len()), ("-20000", 980_000..content.len())];
    let mut pipelined = String::new();
    for (range, _) in &requests {
        pipelined += &format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nRange: bytes={range}\r\n\r\n");
    }
    stream.write_all(pipelined.as_bytes()).expect("sends");
    for (range, expected) in requests {
        let answer = Answer::read(&mut stream, "GET");
        let content_range = format!("bytes {}-{}/{}", expected.start, expected.end - 1, content.len());
        assert_eq!((answer.status, answer.header("content-range")), (206, Some(content_range.as_str())), "{range}");
        assert!(answer.body == content[expected], "{range}");
    }
    let past = registry.ask("GET", &format!("/v2/a/blobs/{digest}"), &[("Range", "bytes=1000000-")], b"");
    assert_eq!((past.status, past.header("content-range")), (416, Some("bytes */1000000")));
    let whole = registry.ask("GET", &format!("/v2/a/blobs/{digest}"), &[("Range", "bytes=0-1,5-6")], b"");
    assert_eq!((whole.status, whole.body.len()), (200, content.len()));
}

#[test]
fn many_slow_readers_get_all_of_a_large_blob() {
    let registry = Registry::start();
    let content = vec![7; 24 << 20];
    let digest = registry.blob("a", &content);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = registry.connect();
                let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).expect("sends");
                let mut buffer = vec![0; 300_000];
                let mut count = 0;
                // The socket is full and empty again and again.
                loop {
                    match stream.read(&mut buffer).expect("reads") {
                        0 => break,
                        read => count += read,
                    }
                    std::thread::yield_now();
                }
                assert!(count > content.len() && count < content.len() + 2000, "{count}");
            });
        }
    });
}

#[test]
fn conditions_are_heeded() {
    let registry = Registry::start();
    let pushed = registry.image("a", "v1", "one");
    for target in [format!("/v2/a/blobs/{}", pushed.layer), "/v2/a/manifests/v1".to_owned()] {
        let etag = registry.get(&target).header("etag").expect("has an etag").to_owned();
        let same = registry.ask("GET", &target, &[("If-None-Match", &etag)], b"");
        assert_eq!((same.status, same.body.len()), (304, 0));
        assert_eq!(registry.ask("GET", &target, &[("If-None-Match", "\"other\"")], b"").status, 200);
        assert_eq!(registry.ask("GET", &target, &[("If-Match", "\"other\"")], b"").status, 412);
    }
    let document = image(&pushed.config, &pushed.config);
    let put = |tag: &str, name: &str, value: &str| {
        let headers = [("Content-Type", OCI_MANIFEST), (name, value)];
        registry.ask("PUT", &format!("/v2/a/manifests/{tag}"), &headers, document.to_string().as_bytes())
    };
    assert_eq!(put("v1", "If-None-Match", "*").status, 412);
    assert_eq!(put("v1", "If-Match", "\"sha256:00\"").status, 412);
    assert_eq!(registry.get("/v2/a/manifests/v1").header("docker-content-digest"), Some(pushed.digest.as_str()));
    assert_eq!(put("v1", "If-Match", &format!("\"{}\"", pushed.digest)).status, 201);
    assert_eq!(put("v2", "If-None-Match", "*").status, 201);
}

#[test]
fn methods_that_are_not_for_a_path_are_refused() {
    let registry = Registry::start();
    let digest = sha256(b"x");
    for (method, target) in [
        ("PUT", format!("/v2/a/blobs/{digest}")),
        ("POST", "/v2/a/manifests/v1".to_owned()),
        ("GET", "/v2/a/blobs/uploads/".to_owned()),
        ("DELETE", "/v2/a/tags/list".to_owned()),
        ("POST", "/v2/_catalog".to_owned()),
        ("PUT", format!("/v2/a/referrers/{digest}")),
    ] {
        let answer = registry.ask(method, &target, &[], b"");
        answer.refused(405, "UNSUPPORTED");
        assert!(answer.header("allow").is_some(), "{method} {target}");
    }
    registry.get("/v2/UPPER/tags/list").refused(400, "NAME_INVALID");
    registry.get("/v2/a/../../etc/tags/list").refused(400, "NAME_INVALID");
}
