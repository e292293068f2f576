//! What rest-server does not have: the repository as it stood at a time, deletions that wait, heads, challenges; and a
//! hostile home and a hostile friend who try to get round them.

use crate::restic::{good, mail, restic, restored, run, same, skip};
use crate::stage::{self, AUTHORIZATION, BEGIN, Said, Stage, V2, home, noise, terms};
use std::time::Duration;
use thermidor_backup::vault::{
    Answer, BlobName, Challenge, Finding, Head, Kind, List, Outcome, Says, Signed, Signer, Statement, Terms,
    compare_heads,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn signer() -> Signer {
    Signer::from_seed(&[42; 32]).unwrap()
}

fn agreed() -> Terms {
    let mut terms = terms();
    terms.key = Some(signer().public());
    terms.keep = 14 * DAY;
    terms
}

fn statement(number: u64, says: Says) -> Statement {
    stage::statement("", number, says)
}

fn signed(number: u64, says: Says) -> Vec<u8> {
    serde_json::to_vec(&signer().sign(&statement(number, says)).unwrap()).unwrap()
}

async fn say(stage: &Stage, number: u64, says: Says) -> Said {
    stage.ask("POST", "/bob/-/deletions", &signed(number, says)).await
}

fn named(path: &str) -> (Kind, BlobName) {
    let mut parts = path.rsplit('/');
    let name = BlobName::read(parts.next().unwrap()).unwrap();
    (Kind::of(parts.next().unwrap()).unwrap(), name)
}

fn as_of(path: &str, time: u64) -> String {
    path.replacen("/bob/", &format!("/bob/-/as-of/{}/", time / 1000), 1)
}

/// What bob's deletions come to.
fn tend(stage: &Stage) -> Vec<List> {
    stage.vault.tend().into_iter().flat_map(|(_, done)| done.unwrap()).collect()
}

async fn waiting(stage: &Stage) -> Vec<List> {
    serde_json::from_slice(&stage.get("/bob/-/deletions").await.body).unwrap()
}

async fn listed(stage: &Stage) -> Head {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let headers = [("Authorization", AUTHORIZATION), ("Accept", V2)];
        let said = stage.ask_with("GET", &format!("/bob/{}/", kind.as_str()), &headers, b"").await;
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&said.body).unwrap();
        all.extend(entries.iter().map(|e| (kind, BlobName::read(e["name"].as_str().unwrap()).unwrap())));
    }
    Head::of(BEGIN, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_shown_and_can_only_be_read() {
    let stage = Stage::new().await;
    stage.create().await;
    assert_eq!(stage.ask("POST", "/bob/config", b"config").await.status, 200);
    let old = stage.save("index", b"old").await;
    let before = stage.pass(DAY) - 1000;
    let new = stage.save("index", b"new").await;
    let lock = stage.save("locks", b"a hacked home's lock").await;
    // The times are on disk: a vault that was killed knows them.
    let stage = stage.reopened(terms()).await;
    assert_eq!(stage.get(&as_of(&old, before)).await.text(), "old");
    assert_eq!(stage.get(&as_of("/bob/config", before)).await.text(), "config");
    for hidden in [&new, &lock] {
        assert_eq!(stage.get(&as_of(hidden, before)).await.status, 404);
        assert_eq!(stage.ask("HEAD", &as_of(hidden, before), b"").await.status, 404);
        assert_eq!(stage.get(hidden).await.status, 200);
    }
    let list = stage.get(&as_of("/bob/index/", before)).await;
    assert_eq!(list.text(), format!("[\"{}\"]", BlobName::of(b"old")));
    assert_eq!(stage.get(&as_of("/bob/index/", before + 2000)).await.body.len(), 135);
    assert_eq!(stage.get(&as_of("/bob/config", BEGIN - 1000)).await.status, 404);
    assert_eq!(stage.get(&as_of("/bob/index/", BEGIN - 1000)).await.text(), "[]");
    // Nothing can be added or taken away; a lock is taken, checked and forgotten.
    let blob = format!("/bob/data/{}", BlobName::of(b"x"));
    assert_eq!(stage.ask("POST", &as_of(&blob, before), b"x").await.status, 403);
    assert_eq!(stage.ask("DELETE", &as_of(&old, before), b"").await.status, 403);
    assert_eq!(stage.ask("POST", &as_of("/bob/config", before), b"x").await.status, 403);
    assert_eq!(stage.ask("POST", &as_of("/bob/?create=true", before), b"").await.status, 403);
    let own = as_of(&format!("/bob/locks/{}", BlobName::of(b"lock")), before);
    assert_eq!(stage.ask("POST", &own, b"other").await.status, 400);
    assert_eq!(stage.ask("POST", &own, b"lock").await.status, 200);
    assert_eq!(stage.get(&as_of("/bob/locks/", before)).await.text(), "[]");
    assert_eq!(stage.ask("DELETE", &own, b"").await.status, 200);
    assert_eq!(stage.get(&lock).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_put_poison_into_the_past() {
    let stage = Stage::new().await;
    stage.create().await;
    let good = stage.save("index", b"good").await;
    stage.clock.store(BEGIN - 10 * DAY.as_millis() as u64, std::sync::atomic::Ordering::SeqCst);
    let stage = stage.reopened(terms()).await;
    let poison = stage.save("index", b"poison").await;
    assert_eq!(stage.get(&as_of(&poison, BEGIN - 1000)).await.status, 404);
    assert_eq!(stage.get(&as_of(&good, BEGIN)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_repository_is_restored_as_it_stood_before() {
    if skip("a_poisoned_repository_is_restored_as_it_stood_before") {
        return;
    }
    let stage = Stage::with(agreed(), |_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let mail = mail(dir.path(), 6);
    let to = |below: &str, args: &[&str]| restic(dir.path(), stage.at, below, args);
    good(to("", &["init"])).await;
    good(to("", &["backup", mail.to_str().unwrap()])).await;
    let before = stage.pass(DAY) - 1000;

    // A hacked home: garbage under right names, an exclusive lock, and all but one snapshot announced for deletion.
    for kind in ["index", "snapshots", "keys", "locks"] {
        stage.save(kind, b"garbage").await;
    }
    let head = listed(&stage).await;
    let snapshot = head.blobs[&Kind::Snapshots].iter().find(|n| **n != BlobName::of(b"garbage")).unwrap();
    assert_eq!(say(&stage, 1, Says::Delete(vec![(Kind::Snapshots, *snapshot)])).await.status, 200);
    let out = dir.path().join("out");
    let live = run(to("", &["restore", "latest", "--no-lock", "--target", out.to_str().unwrap()])).await;
    assert!(!live.status.success(), "the poison does nothing: this test shows nothing");

    let garbage = format!("/bob/keys/{}", BlobName::of(b"garbage"));
    assert_eq!(stage.get(&as_of(&garbage, before)).await.status, 404, "whichever key restic tries first");

    // restic as it is, with locks and a fresh cache.
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let below = format!("-/as-of/{}/", before / 1000);
    good(to(&below, &["restore", "latest", "--target", out.to_str().unwrap()])).await;
    same(&mail, &restored(&out, &mail));
    good(to(&below, &["check", "--read-data"])).await;
}

/// Who holds the new kit must be able to read the past, and whoever put a key there later must not be in the way.
#[tokio::test(flavor = "multi_thread")]
async fn of_later_keys_those_alone_are_in_the_past_that_a_new_kit_signed_when_it_took_over() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    stage.save("keys", b"old").await;
    let before = stage.pass(DAY) - 1000;
    let [stray, new] = [stage.save("keys", b"stray").await, stage.save("keys", b"new").await];
    let status = async |stage: &Stage, key: &str| stage.get(&as_of(key, before)).await.status;
    let say = async |stage: &Stage, by: &Signer, number: u64, path: &str, says: Says| {
        let words = serde_json::to_vec(&by.sign(&statement(number, says)).unwrap()).unwrap();
        stage.ask("POST", path, &words).await.status
    };
    // The same kit signs once more: nothing that came later is in the past.
    for number in [1, 2] {
        let head = Says::Head(listed(&stage).await);
        assert_eq!(say(&stage, &signer(), number, "/bob/-/head", head).await, 200);
    }
    assert_eq!((status(&stage, &stray).await, status(&stage, &new).await), (404, 404));

    let other = Signer::from_seed(&[43; 32]).unwrap();
    let believed = || Terms { key: Some(other.public()), ..agreed() };
    stage.vault.lend(&home("bob"), believed()).unwrap();
    let head = Says::Head(listed(&stage).await);
    assert_eq!(say(&stage, &other, 3, "/bob/-/head", head).await, 200);
    assert_eq!(say(&stage, &other, 4, "/bob/-/deletions", Says::Delete(vec![named(&stray)])).await, 200);
    let late = stage.save("keys", b"late").await;
    let head = Says::Head(listed(&stage).await);
    assert_eq!(say(&stage, &other, 5, "/bob/-/head", head).await, 200);
    let seen = async |stage: &Stage| {
        [status(stage, &new).await, status(stage, &stray).await, status(stage, &late).await]
    };
    assert_eq!(seen(&stage).await, [200, 404, 404]);
    let stage = stage.reopened(believed()).await;
    assert_eq!(seen(&stage).await, [200, 404, 404], "written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_can_be_read_and_is_carried_out_in_its_time() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    let gone = stage.save("data", &noise(1, 400)).await;
    stage.save("data", &noise(2, 600)).await;
    stage.pass(DAY);
    let list = Says::Delete(vec![named(&gone)]);
    assert_eq!(say(&stage, 1, list.clone()).await.status, 200);
    // A lost answer: the same words again.
    assert_eq!(say(&stage, 1, list).await.status, 200);
    let announced = waiting(&stage).await;
    assert_eq!(announced.len(), 1);
    assert_eq!((announced[0].number, announced[0].bytes()), (1, 400));
    assert_eq!(announced, stage.vault.deletions(&home("bob")));
    let hidden = async |stage: &Stage| {
        assert_eq!(stage.get(&gone).await.status, 404);
        assert_eq!(stage.get("/bob/data/").await.body.len(), 68);
        let usage = stage.vault.usage(&home("bob")).unwrap();
        assert_eq!((usage.used, usage.waiting), (600, 400));
        assert_eq!(stage.get(&as_of(&gone, BEGIN + 1000)).await.body, noise(1, 400));
    };
    hidden(&stage).await;
    stage.pass(14 * DAY - Duration::from_secs(1));
    assert_eq!(tend(&stage), []);
    let stage = stage.reopened(agreed()).await;
    hidden(&stage).await;
    stage.pass(Duration::from_secs(1));
    let done = tend(&stage);
    assert_eq!(done.iter().map(|list| list.number).collect::<Vec<_>>(), [1]);
    assert_eq!(stage.get(&as_of(&gone, BEGIN + 1000)).await.status, 404);
    assert_eq!(waiting(&stage).await, []);
    let usage = stage.vault.usage(&home("bob")).unwrap();
    assert_eq!((usage.used, usage.waiting), (600, 0));
    assert_eq!(tend(&stage), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_carries_out_nothing() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    let gone = stage.save("data", &noise(1, 400)).await;
    stage.save("data", &noise(2, 600)).await;
    assert_eq!(say(&stage, 1, Says::Delete(vec![named(&gone)])).await.status, 200);
    stage.clock.store(BEGIN * 2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(tend(&stage), []);
    // Nor does the time in which the vault was off: only what it was there for counts, an hour more or less.
    let hour = Duration::from_secs(3600);
    stage.pass(7 * DAY);
    assert_eq!(tend(&stage), []);
    let stage = stage.reopened(agreed()).await;
    assert_eq!(stage.vault.deletions(&home("bob"))[0].waited, 7 * DAY.as_millis() as u64);
    stage.pass(7 * DAY - hour);
    assert_eq!(tend(&stage), []);
    stage.pass(hour);
    assert_eq!(tend(&stage).len(), 1);
    assert_eq!(stage.get(&as_of(&gone, BEGIN + 1000)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_crash_broke_off_is_finished() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    let (one, two) = (stage.save("data", &noise(1, 100)).await, stage.save("data", &noise(2, 100)).await);
    stage.save("data", &noise(3, 600)).await;
    assert_eq!(say(&stage, 1, Says::Delete(vec![named(&one), named(&two)])).await.status, 200);
    // One file has gone when the machine stops.
    let name = named(&one).1.to_string();
    std::fs::remove_file(stage.folder("repo/data").join(&name[..2]).join(&name)).unwrap();
    let stage = stage.reopened(agreed()).await;
    let usage = stage.vault.usage(&home("bob")).unwrap();
    assert_eq!((usage.used, usage.waiting), (600, 100));
    stage.pass(15 * DAY);
    assert_eq!(tend(&stage).len(), 1);
    let usage = stage.vault.usage(&home("bob")).unwrap();
    assert_eq!((usage.used, usage.waiting), (600, 0));
    let stage = stage.reopened(agreed()).await;
    assert_eq!(stage.vault.usage(&home("bob")).unwrap(), usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_can_be_taken_back_until_it_is_carried_out() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    let (one, two) = (stage.save("data", &noise(1, 100)).await, stage.save("data", &noise(2, 100)).await);
    stage.save("data", &noise(3, 600)).await;
    let list = Says::Delete(vec![named(&one), named(&two)]);
    assert_eq!(say(&stage, 5, list.clone()).await.status, 200);
    stage.pass(13 * DAY);
    assert_eq!(say(&stage, 6, Says::Cancel(5)).await.status, 200);
    assert_eq!(say(&stage, 6, Says::Cancel(5)).await.status, 200);
    assert_eq!(stage.get(&one).await.status, 200);
    // The old words, kept by a thief, say nothing any more - also after a crash.
    assert_eq!(say(&stage, 5, list).await.status, 409);
    let stage = stage.reopened(agreed()).await;
    assert_eq!(say(&stage, 5, Says::Delete(vec![named(&two)])).await.status, 409);
    stage.pass(30 * DAY);
    assert_eq!(tend(&stage), []);
    assert_eq!(stage.get(&two).await.status, 200);
    // Sending a blob again keeps it as well.
    assert_eq!(say(&stage, 7, Says::Delete(vec![named(&one), named(&two)])).await.status, 200);
    assert_eq!(stage.get(&one).await.status, 404);
    assert_eq!(stage.ask("POST", &one, &noise(9, 100)).await.status, 403);
    assert_eq!(stage.ask("POST", &one, &noise(1, 100)).await.status, 200);
    assert_eq!(stage.get(&one).await.status, 200);
    let stage = stage.reopened(agreed()).await;
    assert_eq!(stage.get(&one).await.status, 200);
    stage.pass(30 * DAY);
    assert_eq!(tend(&stage).len(), 1);
    assert_eq!(stage.get(&one).await.body, noise(1, 100));
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().used, 700);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_only_the_credentials_announces_nothing() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    let path = stage.save("data", &noise(1, 100)).await;
    stage.save("data", &noise(2, 900)).await;
    let delete = || Says::Delete(vec![named(&path)]);
    let post = async |statement: &Statement, signer: &Signer| {
        let signed: Signed = signer.sign(statement).unwrap();
        stage.ask("POST", "/bob/-/deletions", &serde_json::to_vec(&signed).unwrap()).await.status
    };
    let thief = Signer::from_seed(&Signer::seed().unwrap()).unwrap();
    assert_eq!(post(&statement(1, delete()), &thief).await, 403);
    let elsewhere = Statement { vault: home("carol"), ..statement(1, delete()) };
    assert_eq!(post(&elsewhere, &signer()).await, 403);
    let other = Statement { home: home("carol"), ..statement(1, delete()) };
    assert_eq!(post(&other, &signer()).await, 403);
    for generation in [1, 7] {
        assert_eq!(post(&Statement { generation, ..statement(1, delete()) }, &signer()).await, 403);
    }
    let misplaced = Statement { folder: "../carol".into(), ..statement(1, delete()) };
    assert_eq!(post(&misplaced, &signer()).await, 400);
    assert_eq!(stage.ask("POST", "/bob/-/deletions", b"{}").await.status, 400);
    assert_eq!(stage.ask("POST", "/bob/-/deletions", b"").await.status, 400);
    // Without an agreed key nobody can.
    stage.vault.lend(&home("bob"), terms()).unwrap();
    assert_eq!(post(&statement(1, delete()), &signer()).await, 403);
    stage.vault.lend(&home("bob"), agreed()).unwrap();
    assert_eq!(waiting(&stage).await, []);
    assert_eq!(stage.get(&path).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_key_too_deletes_no_more_than_agreed_at_once() {
    let mut terms = agreed();
    terms.reserve = 450;
    let stage = Stage::with(terms.clone(), |_| {}).await;
    stage.create().await;
    assert_eq!(stage.ask("POST", "/bob/config", b"c").await.status, 200);
    let mut packs = Vec::new();
    for n in 0..9 {
        packs.push(named(&stage.save("data", &noise(n, 100)).await));
    }
    let snapshots: Vec<_> = [stage.save("snapshots", b"1").await, stage.save("snapshots", b"2").await]
        .iter()
        .map(|path| named(path))
        .collect();
    let refused = async |number, blobs: &[(Kind, BlobName)], why: &str| {
        let said = say(&stage, number, Says::Delete(blobs.to_vec())).await;
        assert!(said.text().contains(why), "{}", said.text());
        assert!([400, 404, 422].contains(&said.status), "{}", said.status);
    };
    refused(1, &packs[..5], "50 percent may at once").await;
    refused(1, &snapshots, "one must remain").await;
    refused(1, &[(Kind::Data, BlobName::of(b"absent"))], "none of what the list names").await;
    refused(1, &[(Kind::Locks, BlobName::of(b"absent"))], "locks").await;
    // In slices neither, nor snapshot by snapshot; a name twice counts once.
    let four = [&packs[..4], &packs[..4]].concat();
    assert_eq!(say(&stage, 1, Says::Delete(four)).await.status, 200);
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().waiting, 400);
    refused(2, &packs[4..5], "50 percent may at once").await;
    assert_eq!(say(&stage, 2, Says::Delete(snapshots[..1].to_vec())).await.status, 200);
    refused(3, &snapshots, "one must remain").await;
    // The reserve binds where the share does not.
    for n in 20..40 {
        stage.save("data", &noise(n, 100)).await;
    }
    refused(3, &packs[4..5], "the reserve is 450").await;
    let stage = stage.reopened(terms).await;
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().waiting, 401);
    assert_eq!(waiting(&stage).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_rolled_back_is_noticed() {
    let stage = Stage::with(agreed(), |_| {}).await;
    stage.create().await;
    stage.save("snapshots", b"first").await;
    stage.save("data", b"pack").await;
    assert_eq!(stage.get("/bob/-/head").await.status, 404);
    let first = listed(&stage).await;
    assert_eq!(stage.ask("POST", "/bob/-/head", &signed(1, Says::Head(first.clone()))).await.status, 200);
    let snapshot = stage.save("snapshots", b"second").await;
    let second = listed(&stage).await;
    // A disk as it was, put back later.
    let old = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&stage.folder("records"), old.path());
    assert_eq!(stage.ask("POST", "/bob/-/head", &signed(2, Says::Head(second.clone()))).await.status, 200);
    assert_eq!(stage.ask("POST", "/bob/-/head", &signed(1, Says::Head(first.clone()))).await.status, 409);

    let shown = async |stage: &Stage| {
        let signed: Signed = serde_json::from_slice(&stage.get("/bob/-/head").await.body).unwrap();
        let statement = signed.open(&signer().public()).unwrap();
        let Says::Head(head) = statement.says else { panic!("no head") };
        (statement.number, head)
    };
    let (number, head) = shown(&stage).await;
    assert_eq!(compare_heads((2, &second), Some((number, &head))), None);
    assert_eq!(second.compare(&listed(&stage).await), []);

    // restic itself would not miss it: a snapshot is gone.
    let name = named(&snapshot).1;
    std::fs::remove_file(stage.folder("repo/snapshots").join(name.to_string())).unwrap();
    let missing = Finding::Missing { kind: Kind::Snapshots, names: [name].into() };
    assert_eq!(second.compare(&listed(&stage).await), [missing]);
    std::fs::remove_dir_all(stage.folder("records")).unwrap();
    copy(&old.path().join("records"), &stage.folder(""));
    let stage = stage.reopened(agreed()).await;
    let (number, head) = shown(&stage).await;
    let older = compare_heads((2, &second), Some((number, &head)));
    assert_eq!(older, Some(Finding::HeadOlder { shown: 1, known: 2 }));
    // No head for a folder that is not, nor other words.
    assert_eq!(stage.ask("POST", "/bob/-/head/mail", &signed(9, Says::Head(first))).await.status, 400);
    assert_eq!(stage.ask("POST", "/bob/-/head", &signed(9, Says::Cancel(1))).await.status, 400);
}

async fn judge(stage: &Stage, challenge: &Challenge) -> Outcome {
    let question = serde_json::to_vec(&challenge.question).unwrap();
    let said = stage.ask("POST", "/bob/-/challenge", &question).await;
    let answer = match said.status {
        200 => serde_json::from_slice::<Answer>(&said.body).map_err(|e| e.to_string()),
        _ => Err(said.text().to_owned()),
    };
    challenge.judge(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_lost_or_changed_a_pack_cannot_answer() {
    let stage = Stage::new().await;
    stage.create().await;
    let content = noise(1, 3_000_000);
    let path = stage.save("data", &content).await;
    let (kind, name) = named(&path);
    let challenge = Challenge::draw(kind, &content, &mut rand::rng());
    assert_eq!(judge(&stage, &challenge).await, Outcome::Kept);
    // Every byte of the range was flipped.
    let text = name.to_string();
    let file = stage.folder("repo/data").join(&text[..2]).join(&text);
    let flipped: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    std::fs::write(&file, flipped).unwrap();
    assert_eq!(judge(&stage, &challenge).await, Outcome::Wrong(name));
    // The pack was cut short, then thrown away.
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(judge(&stage, &challenge).await, Outcome::Unanswered(n, _) if n == name));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(judge(&stage, &challenge).await, Outcome::Unanswered(n, _) if n == name));
    // A question is bounded, and no way to other files.
    let mut question = serde_json::to_value(&challenge.question).unwrap();
    question["length"] = (1_u64 << 40).into();
    let said = stage.ask("POST", "/bob/-/challenge", &serde_json::to_vec(&question).unwrap()).await;
    assert_eq!(said.status, 413);
    question["name"] = "../../records/last".into();
    let said = stage.ask("POST", "/bob/-/challenge", &serde_json::to_vec(&question).unwrap()).await;
    assert_eq!(said.status, 400);
}
