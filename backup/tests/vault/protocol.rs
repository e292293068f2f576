//! What a vault must do, point by point, and the cases of rest-server's own tests by their names.

use crate::stage::{AUTHORIZATION, PASSWORD, Stage, V1, V2, ask, home, listen, terms};
use base64::Engine;
use thermidor_backup::vault::{BlobName, Caller, Password};

const KINDS: [&str; 5] = ["data", "keys", "locks", "snapshots", "index"];

/// Creates at a path, tries to overwrite and to delete.
async fn create_overwrite_delete(stage: &Stage, path: &str, data: &[u8]) {
    let statuses = async |method, body: Vec<u8>| stage.ask(method, path, &body).await.status;
    assert_eq!(statuses("GET", vec![]).await, 404, "{path}");
    assert_eq!(statuses("HEAD", vec![]).await, 404, "{path}");
    if !path.ends_with("/config") {
        assert_eq!(statuses("POST", [data, b"broken"].concat()).await, 400, "{path}");
        assert_eq!(stage.temporary(), Vec::<String>::new());
    }
    assert_eq!(statuses("POST", data.to_vec()).await, 200, "{path}");
    assert_eq!(stage.get(path).await.body, data);
    assert_eq!(statuses("POST", [data, b"other stuff"].concat()).await, 403, "{path}");
    assert_eq!(stage.get(path).await.body, data);
    assert_eq!(statuses("DELETE", vec![]).await, 403, "{path}");
    assert_eq!(stage.get(path).await.body, data);
    let head = stage.ask("HEAD", path, b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(data.len().to_string().as_str())));
    assert_eq!(head.body, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_append_only_handler() {
    let stage = Stage::new().await;
    let data = b"random data file, more or less";
    let name = BlobName::of(data);
    for folder in ["", "mail/", "notes/"] {
        assert_eq!(stage.ask("POST", &format!("/bob/{folder}?create=true"), b"").await.status, 200);
        create_overwrite_delete(&stage, &format!("/bob/{folder}config"), data).await;
        for kind in KINDS.iter().filter(|kind| **kind != "locks") {
            create_overwrite_delete(&stage, &format!("/bob/{folder}{kind}/{name}"), data).await;
        }
        // Locks can be removed.
        let lock = format!("/bob/{folder}locks/{name}");
        assert_eq!(stage.get(&lock).await.status, 404);
        assert_eq!(stage.ask("POST", &lock, b"broken").await.status, 400);
        assert_eq!(stage.ask("POST", &lock, data).await.status, 200);
        assert_eq!(stage.get(&lock).await.body, data);
        assert_eq!(stage.ask("POST", &lock, b"other data").await.status, 403);
        assert_eq!(stage.ask("DELETE", &lock, b"").await.status, 200);
        assert_eq!(stage.get(&lock).await.status, 404);
        assert_eq!(stage.ask("DELETE", &lock, b"").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_handler() {
    let mut terms = terms();
    terms.append_only = false;
    let stage = Stage::with(terms, |_| {}).await;
    stage.create().await;
    let data = b"some data";
    for path in ["/bob/config".to_owned(), format!("/bob/data/{}", BlobName::of(data))] {
        assert_eq!(stage.ask("POST", &path, data).await.status, 200);
        assert_eq!(stage.ask("DELETE", &path, b"").await.status, 200);
        assert_eq!(stage.get(&path).await.status, 404);
        assert_eq!(stage.ask("DELETE", &path, b"").await.status, 200);
    }
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_error_handler() {
    let stage = Stage::new().await;
    stage.create().await;
    assert_eq!(stage.ask("POST", "/bob/config", b"example").await.status, 200);
    // Root reads whatever its mode is: what lies there is no file any more.
    let config = stage.folder("repo/config");
    std::fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &config).unwrap();
    let said = stage.get("/bob/config").await;
    assert_eq!(said.status, 500, "a link is followed out of the folder");
    assert!(said.text().contains("the vault's disk fails"), "{}", said.text());
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    assert_eq!(stage.get("/bob/config").await.status, 500);
    assert_eq!(stage.get("/bob/nowhere/config").await.status, 404);
    assert_eq!(stage.get("/bob/nowhere/data/").await.status, 404);
    assert_eq!(stage.ask("POST", "/bob/nowhere/config", b"x").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_list() {
    let stage = Stage::new().await;
    stage.create().await;
    for kind in KINDS {
        let path = format!("/bob/{kind}/");
        let said = stage.get(&path).await;
        assert_eq!((said.status, said.text(), said.header("content-type")), (200, "[]", Some(V1)));
        let headers = [("Authorization", AUTHORIZATION), ("Accept", V2)];
        let said = stage.ask_with("GET", &path, &headers, b"").await;
        assert_eq!((said.status, said.text(), said.header("content-type")), (200, "[]", Some(V2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_with_unexpected_files() {
    let stage = Stage::new().await;
    stage.create().await;
    std::fs::write(stage.folder("repo/data/temp"), b"").unwrap();
    std::fs::write(stage.folder("repo/data/ab/also-not"), b"").unwrap();
    std::fs::create_dir(stage.folder("repo/data/stray")).unwrap();
    std::fs::create_dir(stage.folder("repo/index").join(BlobName::of(b"a folder").to_string())).unwrap();
    std::os::unix::fs::symlink("/nowhere", stage.folder("repo/index").join(BlobName::of(b"l").to_string()))
        .unwrap();
    assert_eq!(stage.get("/bob/data/").await.text(), "[]");
    assert_eq!(stage.get("/bob/index/").await.text(), "[]");
    // Neither are they counted when the vault starts.
    let stage = stage.reopened(terms()).await;
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_say_names_or_names_with_sizes() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = stage.save("data", b"12345").await;
    let name = path.rsplit('/').next().unwrap();
    let v1 = format!("[\"{name}\"]");
    let v2 = format!("[{{\"name\":\"{name}\",\"size\":5}}]");
    for (accept, wanted, form) in
        [(V2, &v2, V2), (V1, &v1, V1), ("*/*", &v1, V1), ("application/json", &v1, V1)]
    {
        let headers = [("Authorization", AUTHORIZATION), ("Accept", accept)];
        let said = stage.ask_with("GET", "/bob/data/", &headers, b"").await;
        assert_eq!((said.text(), said.header("content-type")), (wanted.as_str(), Some(form)), "{accept}");
    }
    // Many: more than one piece.
    for n in 0..1500_u32 {
        let content = n.to_le_bytes();
        let name = BlobName::of(&content).to_string();
        std::fs::write(stage.folder("repo/data").join(&name[..2]).join(&name), content).unwrap();
    }
    let headers = [("Authorization", AUTHORIZATION), ("Accept", V2)];
    let said = stage.ask_with("GET", "/bob/data/", &headers, b"").await;
    let all: Vec<serde_json::Value> = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(all.len(), 1501);
    assert!(said.body.len() > 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_auth() {
    let stage = Stage::new().await;
    stage.vault.lend(&home("carol"), terms()).unwrap();
    stage.create().await;
    let basic = |user: &str, password: &str| {
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")))
    };
    let right = basic("bob", PASSWORD);
    assert_eq!(right, AUTHORIZATION);
    let wrong = [
        basic("bob", "wrong"),
        basic("bob", ""),
        basic("alice", PASSWORD),
        basic("", PASSWORD),
        basic("nobody", ""),
        right.replace("Basic", "Bearer"),
        "Basic".to_owned(),
        "Basic !!!".to_owned(),
    ];
    // Before anything else: neither path, method nor body is looked at.
    for path in ["/bob/config", "/bob/", "/bob/../x", "/", "/bob/-/deletions", "/bob/data/short"] {
        for method in ["GET", "POST", "DELETE", "BREW"] {
            for authorization in &wrong {
                let headers = [("Authorization", authorization.as_str())];
                let said = stage.ask_with(method, path, &headers, b"").await;
                assert_eq!(said.status, 401, "{method} {path} {authorization}");
                assert_eq!(said.header("www-authenticate"), Some("Basic realm=\"vault\""));
            }
            assert_eq!(stage.ask_with(method, path, &[], b"").await.status, 401);
        }
    }
    // Somebody else's repository is as unknown as one that is not.
    for path in ["/carol/config", "/nobody/config", "/", "//bob/config", "/bob%2f/config", "/BOB/config"] {
        assert_eq!(stage.get(path).await.status, 401, "{path}");
    }
    assert_eq!(stage.get("/bob/config").await.status, 404);
    // A friend without a password is let in by nobody's.
    let mut without = terms();
    without.password = None;
    stage.vault.lend(&home("bob"), without).unwrap();
    for authorization in [basic("bob", ""), right.clone()] {
        let headers = [("Authorization", authorization.as_str())];
        assert_eq!(stage.ask_with("GET", "/bob/config", &headers, b"").await.status, 401);
    }
    // A changed password counts at once, and a friend that was removed is unknown.
    let mut changed = terms();
    changed.password = Some(Password::new("another"));
    stage.vault.lend(&home("bob"), changed).unwrap();
    assert_eq!(stage.get("/bob/config").await.status, 401);
    let headers = [("Authorization", basic("bob", "another"))];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    assert_eq!(stage.ask_with("GET", "/bob/config", &headers, b"").await.status, 404);
    stage.vault.close(&home("bob"));
    assert_eq!(stage.ask_with("GET", "/bob/config", &headers, b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_the_transport_has_proved_needs_no_password() {
    let stage = Stage::new().await;
    stage.vault.lend(&home("carol"), terms()).unwrap();
    let (at, accepting) = listen(stage.vault.clone(), Caller::Proved(home("bob"))).await;
    assert_eq!(ask(at, "POST", "/bob/?create=true", &[], b"").await.status, 200);
    assert_eq!(ask(at, "POST", "/carol/?create=true", &[], b"").await.status, 401);
    // Nor does a password open another's.
    let headers = [("Authorization", AUTHORIZATION)];
    assert_eq!(ask(at, "POST", "/carol/?create=true", &headers, b"").await.status, 401);
    accepting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_names_and_paths() {
    let stage = Stage::new().await;
    stage.create().await;
    assert_eq!(stage.ask("POST", "/bob/config", b"x").await.status, 200);
    let name = BlobName::of(b"x").to_string();
    let odd = [
        "/bob/../bob/config".to_owned(),
        "/bob/./config".into(),
        "/bob//config".into(),
        "/bob/%2e%2e/bob/config".into(),
        "/bob/a/b/config".into(),
        "/bob/config/".into(),
        "/bob/tmp/0".into(),
        "/bob/records/last".into(),
        "/bob/data/../config".into(),
        "/bob/data/%00".into(),
        format!("/bob/data/{}", name.to_uppercase()),
        format!("/bob/data/{}", &name[1..]),
        format!("/bob/data/{}/{name}", &name[..2]),
        format!("/bob/data/{name}/"),
        format!("/bob/packs/{name}"),
    ];
    for path in &odd {
        for method in ["GET", "HEAD", "POST", "DELETE", "PUT"] {
            assert_eq!(stage.ask(method, path, b"x").await.status, 404, "{method} {path}");
        }
    }
    assert_eq!(stage.ask("POST", "/bob/../x/?create=true", b"").await.status, 404);
    let left: Vec<_> =
        std::fs::read_dir(stage.folder("repo")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 6, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_are_told_the_right_ones() {
    let stage = Stage::new().await;
    stage.create().await;
    let blob = format!("/bob/data/{}", BlobName::of(b"x"));
    let cases = [
        ("GET", "/bob/", "POST"),
        ("DELETE", "/bob/", "POST"),
        ("PUT", "/bob/config", "HEAD, GET, POST, DELETE"),
        ("PUT", blob.as_str(), "HEAD, GET, POST, DELETE"),
        ("POST", "/bob/data/", "GET"),
        ("DELETE", "/bob/data/", "GET"),
    ];
    for (method, path, allowed) in cases {
        let said = stage.ask(method, path, b"").await;
        assert_eq!((said.status, said.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    // Creating is idempotent and must be said.
    assert_eq!(stage.ask("POST", "/bob/config", b"x").await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/?create=true", b"").await.status, 200);
    assert_eq!(stage.get("/bob/config").await.text(), "x");
    for path in ["/bob/", "/bob/?create=false", "/bob/?", "/bob/new/"] {
        assert_eq!(stage.ask("POST", path, b"").await.status, 400, "{path}");
    }
    assert_eq!(stage.get("/bob/new/config").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_handler() {
    let stage = Stage::new().await;
    stage.create().await;
    let content: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let path = stage.save("data", &content).await;
    let part = async |range: &str| {
        stage.ask_with("GET", &path, &[("Authorization", AUTHORIZATION), ("Range", range)], b"").await
    };
    let whole = part("bytes=0-").await;
    assert_eq!((whole.status, whole.header("content-range")), (206, Some("bytes 0-199999/200000")));
    assert_eq!(whole.body, content);
    let some = part("bytes=70000-139999").await;
    assert_eq!((some.status, some.header("content-length")), (206, Some("70000")));
    assert_eq!(some.body, content[70_000..140_000]);
    assert_eq!(part("bytes=199999-").await.body, content[199_999..]);
    assert_eq!(part("bytes=199000-999999").await.body, content[199_000..]);
    let outside = part("bytes=200000-").await;
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */200000")));
    let plain = stage.get(&path).await;
    assert_eq!((plain.status, plain.header("content-length")), (200, Some("200000")));
    assert_eq!(plain.body, content);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_are_welcome() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = stage.save("data", b"lost answer").await;
    assert_eq!(stage.ask("POST", &path, b"lost answer").await.status, 200);
    assert_eq!(stage.ask("POST", &path, b"lost answeR").await.status, 403);
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, 11);
    // The config is not: there is one.
    assert_eq!(stage.ask("POST", "/bob/config", b"one").await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/config", b"one").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_taken_and_a_body_without_length_is_not() {
    let stage = Stage::new().await;
    stage.create().await;
    let path = format!("/bob/data/{}", BlobName::of(b"hello world"));
    let headers = [("Authorization", AUTHORIZATION), ("Transfer-Encoding", "chunked"), ("Accept", "*/*")];
    let said = stage.ask_with("POST", &path, &headers, b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n").await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(stage.get(&path).await.body, b"hello world");
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: v\r\nConnection: close\r\nAuthorization: {AUTHORIZATION}\r\n");
    let none = crate::stage::hear(stage.raw(format!("{head}\r\n").as_bytes()).await).await;
    assert_eq!(none.status, 411);
    for bad in ["-1", "x", "1, 2"] {
        let said = stage.raw(format!("{head}Content-Length: {bad}\r\n\r\n").as_bytes()).await;
        // What is no HTTP is refused as such.
        assert_eq!(crate::stage::hear(said).await.status, 400, "{bad}");
    }
}
