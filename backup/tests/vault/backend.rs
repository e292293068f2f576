//! The cases of restic's own backend suite, by their names, as far as a server sees them.

use crate::stage::{AUTHORIZATION, Stage, V2, home, noise, terms};
use std::collections::BTreeMap;
use thermidor_backup::vault::BlobName;

async fn open() -> Stage {
    let mut terms = terms();
    terms.append_only = false;
    let stage = Stage::with(terms, |_| {}).await;
    stage.create().await;
    stage
}

async fn list(stage: &Stage, kind: &str) -> BTreeMap<String, u64> {
    let headers = [("Authorization", AUTHORIZATION), ("Accept", V2)];
    let said = stage.ask_with("GET", &format!("/bob/{kind}/"), &headers, b"").await;
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&said.body).unwrap();
    let pair = |entry: &serde_json::Value| {
        (entry["name"].as_str().unwrap().to_owned(), entry["size"].as_u64().unwrap())
    };
    listed.iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn create_with_config() {
    let stage = open().await;
    assert_eq!(stage.ask("POST", "/bob/config", b"test config").await.status, 200);
    // Creating looks for a config first, and saving one is refused.
    assert_eq!(stage.ask("HEAD", "/bob/config", b"").await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/config", b"another").await.status, 403);
    assert_eq!(stage.ask("DELETE", "/bob/config", b"").await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/config", b"another").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn config() {
    let stage = open().await;
    assert_eq!(stage.get("/bob/config").await.status, 404);
    assert_eq!(stage.ask("POST", "/bob/config", b"Config").await.status, 200);
    assert_eq!(stage.get("/bob/config").await.text(), "Config");
    let long = noise(1, (1 << 20) + 1);
    assert_eq!(stage.ask("POST", "/bob/-/as-of/1/config", &long).await.status, 403);
    assert_eq!(stage.ask("DELETE", "/bob/config", b"").await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/config", &long).await.status, 413, "no config is that long");
    assert_eq!(stage.get("/bob/config").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn load() {
    let stage = open().await;
    let absent = format!("/bob/data/{}", BlobName::of(b"absent"));
    assert_eq!(stage.get(&absent).await.status, 404);
    assert_eq!(stage.get("/bob/data/foobar").await.status, 404);
    let content = noise(23, 3_000_017);
    let path = stage.save("data", &content).await;
    for n in 0..50_u64 {
        let random = noise(100 + n, 16);
        let number = |at: usize| u64::from_le_bytes(random[at..at + 8].try_into().unwrap()) as usize;
        let (offset, length) = (number(0) % content.len(), 1 + number(8) % (content.len() + 2000));
        let range = format!("bytes={offset}-{}", offset + length - 1);
        let headers = [("Authorization", AUTHORIZATION), ("Range", range.as_str())];
        let said = stage.ask_with("GET", &path, &headers, b"").await;
        let end = (offset + length).min(content.len());
        assert_eq!((said.status, said.body.len()), (206, end - offset), "{range}");
        assert!(said.body == content[offset..end], "{range}");
    }
    assert_eq!(stage.ask("DELETE", &path, b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_all() {
    let stage = open().await;
    assert_eq!(list(&stage, "data").await, BTreeMap::new());
    let mut saved = BTreeMap::new();
    for n in 0..40 {
        let content = noise(n, 55 + n as usize);
        let path = stage.save("data", &content).await;
        saved.insert(path.rsplit('/').next().unwrap().to_owned(), content.len() as u64);
    }
    assert_eq!(list(&stage, "data").await, saved);
    for name in saved.keys() {
        assert_eq!(stage.ask("DELETE", &format!("/bob/data/{name}"), b"").await.status, 200);
    }
    assert_eq!(list(&stage, "data").await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn list_cancel() {
    let stage = open().await;
    for n in 0..3000_u32 {
        let content = n.to_le_bytes();
        let name = BlobName::of(&content).to_string();
        std::fs::write(stage.folder("repo/data").join(&name[..2]).join(&name), content).unwrap();
    }
    for _ in 0..20 {
        let head = format!("GET /bob/data/ HTTP/1.1\r\nHost: v\r\nAuthorization: {AUTHORIZATION}\r\n\r\n");
        drop(stage.raw(head.as_bytes()).await);
    }
    assert_eq!(list(&stage, "data").await.len(), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn save() {
    let stage = open().await;
    for n in 0..5 {
        let content = noise(n, 200_000 + 1_000_003 * n as usize);
        let path = stage.save("data", &content).await;
        assert!(stage.get(&path).await.body == content);
        let head = stage.ask("HEAD", &path, b"").await;
        assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()));
        assert_eq!(stage.ask("DELETE", &path, b"").await.status, 200);
    }
    let empty = stage.save("keys", b"").await;
    assert_eq!(stage.get(&empty).await.body, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn save_filenames() {
    let stage = open().await;
    let names =
        ["f00b4r", "1dfc6bc0f06cb255889e9ea7860a5753e8eb9665c9a96627971171b444e3113e-5", "", "..", "config"];
    for name in names {
        let status = stage.ask("POST", &format!("/bob/data/{name}"), b"x").await.status;
        assert!([404, 405].contains(&status), "{name}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn save_error() {
    let stage = open().await;
    let content = noise(5, 300_000);
    let path = format!("/bob/data/{}", BlobName::of(&content));
    let length = (content.len() + 42).to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: v\r\nAuthorization: {AUTHORIZATION}\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut stream = stage.raw(&[head.as_bytes(), &content].concat()).await;
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    let said = crate::stage::hear(stream).await;
    assert_eq!(said.status, 400, "{}", said.text());
    stage.nothing_left().await;
    assert_eq!(stage.get(&path).await.status, 404);
    assert_eq!(list(&stage, "data").await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn save_wrong_hash() {
    let stage = open().await;
    for kind in ["data", "keys", "locks", "snapshots", "index"] {
        let path = format!("/bob/{kind}/{}", BlobName::of(b"right"));
        let said = stage.ask("POST", &path, b"wrong").await;
        assert_eq!(said.status, 400);
        assert!(said.text().contains("SHA-256"), "{}", said.text());
        assert_eq!(stage.get(&path).await.status, 404);
        assert_eq!(list(&stage, kind).await, BTreeMap::new());
    }
    stage.nothing_left().await;
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn backend() {
    let stage = open().await;
    for kind in ["data", "keys", "locks", "snapshots", "index"] {
        let absent = format!("/bob/{kind}/{}", BlobName::of(b"absent"));
        assert_eq!(stage.ask("HEAD", &absent, b"").await.status, 404);
        assert_eq!(stage.get(&absent).await.status, 404);
        for text in ["foobar", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "foo/bar"] {
            let path = stage.save(kind, text.as_bytes()).await;
            assert_eq!(stage.get(&path).await.text(), text);
            assert_eq!(stage.ask("POST", &path, b"other").await.status, 403);
            assert_eq!(stage.ask("DELETE", &path, b"").await.status, 200);
            assert_eq!(stage.ask("HEAD", &path, b"").await.status, 404);
            stage.save(kind, text.as_bytes()).await;
        }
        assert_eq!(list(&stage, kind).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delete() {
    // There is no way to delete a whole repository, whatever the terms.
    let stage = open().await;
    stage.save("data", b"x").await;
    for path in ["/bob", "/bob/", "/bob/mail/"] {
        assert_eq!(stage.ask("DELETE", path, b"").await.status, 405);
    }
    assert_eq!(list(&stage, "data").await.len(), 1);
}
