//! Retention challenges over whole rounds with the real restic: drawn while packs go by, asked once, and what a vault
//! makes of them that has lost, changed or withheld something, or was put back to an old state.

use crate::restic::skip;
use crate::round::{Bob, NOW, ONE_A_DAY, clock, copy, why};
use crate::stage::{Stage, home, listen, noise};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thermidor_backup::stock::Stock;
use thermidor_backup::vault::{BlobName, Caller, Challenge, Kind, RANGE_MAX};
use thermidor_model::backup::{Passes, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOUR: u64 = 3_600_000;

impl Bob {
    fn stock(&self) -> Stock {
        Stock::read(&self.challenges()).unwrap()
    }

    /// Which packs would be asked about.
    fn in_stock(&self) -> BTreeSet<String> {
        let mut stock = self.stock();
        let mut names = BTreeSet::new();
        while !stock.is_empty() {
            names.extend(stock.take(&mut rand::rng()).iter().map(|c| c.question.name.to_string()));
        }
        names
    }

    /// Asks until nothing is left to be asked, or something is found.
    async fn ask_all(&self, was: &Record, now: u64) -> Record {
        let mut record = was.clone();
        while !self.stock().is_empty() && record.failure.is_none() {
            record = self.round().ask(&record, || now).await;
        }
        record
    }

    async fn backed_up(&self) -> Record {
        let record = self.back_up(&Record::default(), NOW).await;
        assert_eq!(record.failure, None);
        record
    }

    /// The packs on alice's disk.
    fn packs(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.kept().join("data")).unwrap().map(|e| e.unwrap().path());
        let files = folders.filter(|p| p.is_dir()).flat_map(|p| std::fs::read_dir(p).unwrap());
        files.map(|e| e.unwrap().path()).collect()
    }
}

fn name_of(pack: &Path) -> String {
    pack.file_name().unwrap().to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pack_that_goes_by_can_be_asked_about_later_and_a_vault_that_keeps_all_answers_all() {
    if skip("every_pack_that_goes_by_can_be_asked_about_later_and_a_vault_that_keeps_all_answers_all") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.backed_up().await;
    let packs: BTreeSet<String> = bob.packs().iter().map(|p| name_of(p)).collect();
    assert_eq!(bob.in_stock(), packs, "each of them went by");
    let drawn = bob.stock().len();
    assert!(drawn > packs.len(), "those that were read back were seen too");
    let asked = bob.ask_all(&first, NOW + HOUR).await;
    assert_eq!(asked.failure, None);
    let sum = asked.asked.clone().unwrap();
    assert_eq!((sum.at, sum.ranges, sum.kept), (NOW + HOUR, drawn as u64, drawn as u64));
    assert_eq!(sum.in_words(), format!("{drawn} ranges, all kept"));
    // None is left, and asking goes on counting nothing.
    let idle = bob.round().ask(&asked, || NOW + 2 * HOUR).await;
    assert_eq!((idle.failure, idle.asked.unwrap().ranges), (None, drawn as u64));
    // What is read back of old packs is drawn anew.
    let proved = bob.round().prove(&asked, || NOW + 3 * HOUR).await;
    assert_eq!(proved.failure, None);
    assert!(!bob.stock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_an_old_pack_is_noticed_by_asking_alone_and_told_until_the_pack_is_whole_again() {
    let name =
        "a_flipped_bit_in_an_old_pack_is_noticed_by_asking_alone_and_told_until_the_pack_is_whole_again";
    if skip(name) {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.backed_up().await;
    let old = bob.packs();
    bob.message(9);
    let second = bob.back_up(&first, NOW + HOUR).await;
    assert_eq!(second.failure, None);
    // A bit of each byte, for a question is about a part of a pack, and which one nobody knows.
    let whole: Vec<_> = old.iter().map(|pack| std::fs::read(pack).unwrap()).collect();
    for (pack, content) in old.iter().zip(&whole) {
        std::fs::write(pack, content.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
    }
    let found = bob.ask_all(&second, NOW + 2 * HOUR).await;
    let (text, passes) = why(&found);
    assert!(text.contains("the vault has lost something: pack ") && text.contains("is not what was sent"));
    assert_eq!(passes, Passes::ByAPerson);
    let asked = found.asked.clone().unwrap();
    assert!(asked.kept < asked.ranges && asked.in_words().contains(" of "), "{}", asked.in_words());
    let names: BTreeSet<String> = old.iter().map(|p| name_of(p)).collect();
    assert!(asked.doubtful.is_subset(&names) && !asked.doubtful.is_empty(), "{asked:?}");

    // Nothing is left there while that is so, whoever asks and whatever else goes well.
    let made = found.made;
    let backup = bob.back_up(&found, NOW + 8 * HOUR).await;
    assert_eq!((backup.made, why(&backup).1), (made, Passes::ByAPerson));
    let proved = bob.round().prove(&backup, || NOW + 9 * HOUR).await;
    assert!(why(&proved).0.contains("is not what was sent"));
    let asked_again = bob.round().ask(&proved, || NOW + 10 * HOUR).await;
    assert_eq!(asked_again.failure.unwrap().count, found.failure.as_ref().unwrap().count + 3);

    // Alice's disk was put right.
    for (pack, content) in old.iter().zip(&whole) {
        std::fs::write(pack, content).unwrap();
    }
    let after = bob.back_up(&found, NOW + 16 * HOUR).await;
    assert_eq!((after.failure, after.asked.unwrap().doubtful.len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_is_noticed_by_asking_alone() {
    if skip("a_pack_that_is_gone_is_noticed_by_asking_alone") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.backed_up().await;
    for pack in bob.packs() {
        std::fs::remove_file(pack).unwrap();
    }
    let found = bob.round().ask(&first, || NOW + HOUR).await;
    let (text, passes) = why(&found);
    assert!(text.contains("is not shown when it is asked for (the vault says 404"), "{text}");
    assert_eq!(passes, Passes::ByAPerson);
    assert_eq!(found.asked.unwrap().kept, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_state_that_was_put_back_is_noticed_by_asking_alone() {
    if skip("an_old_state_that_was_put_back_is_noticed_by_asking_alone") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.backed_up().await;
    let earlier = bob.dir.path().join("earlier");
    copy(&bob.stage.root, &earlier);
    bob.message(7);
    let second = bob.back_up(&first, NOW + HOUR).await;
    assert_eq!(second.failure, None);
    let friends = bob.stage.root.join("friends");
    std::fs::remove_dir_all(&friends).unwrap();
    copy(&earlier.join("friends"), &friends);
    bob.stage.vault.close(&home("bob"));
    bob.agree(|_| ());
    let found = bob.ask_all(&second, NOW + 2 * HOUR).await;
    let (text, passes) = why(&found);
    assert!(text.contains("is not shown when it is asked for") && passes == Passes::ByAPerson, "{text}");
}

/// Passes connections on, and shows each piece of what is asked before.
async fn passed_on(
    onto: std::net::SocketAddr,
    see: impl Fn(&[u8]) + Clone + Send + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            let (mut back, mut on) = TcpStream::connect(onto).await.unwrap().into_split();
            let see = see.clone();
            tokio::spawn(async move {
                let mut piece = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from.read(&mut piece).await {
                    see(&piece[..count]);
                    on.write_all(&piece[..count]).await.unwrap();
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
        }
    });
    at
}

/// The same, and keeps all that was asked.
async fn overheard(onto: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = heard.clone();
    let at = passed_on(onto, move |piece| all.lock().unwrap().extend_from_slice(piece)).await;
    (at, heard)
}

/// The nonces in what was overheard.
fn nonces(heard: &Mutex<Vec<u8>>) -> Vec<String> {
    let text = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let all = text.split("\"nonce\":[").skip(1);
    all.map(|rest| rest.split(']').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_question_is_put_twice_also_when_the_line_breaks_and_the_radiator_starts_again() {
    if skip("no_question_is_put_twice_also_when_the_line_breaks_and_the_radiator_starts_again") {
        return;
    }
    let mut bob = Bob::new().await;
    for n in 0..12 {
        bob.message(100 + n);
    }
    let first = bob.backed_up().await;
    let mut record = first.clone();
    for n in 0..4 {
        bob.message(200 + n);
        record = bob.back_up(&record, NOW + HOUR + n).await;
    }
    let drawn = bob.stock().len();
    let there = bob.at;
    // A vault that takes the question and says nothing: the line breaks.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bob.at = deaf.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = heard.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = deaf.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let mut count = 0;
            // Head and body, however they come.
            while count == 0 || !asked[..count].ends_with(b"}") {
                match stream.read(&mut asked[count..]).await {
                    Ok(more @ 1..) => count += more,
                    _ => break,
                }
            }
            all.lock().unwrap().extend_from_slice(&asked[..count]);
        }
    });
    let broken = bob.round().ask(&record, || NOW + 2 * HOUR).await;
    assert_eq!(why(&broken).1, Passes::ByItself, "{broken:?}");
    assert_eq!(broken.asked.as_ref().unwrap().ranges, 0, "nothing was answered");
    assert_eq!(bob.stock().len(), drawn - 1, "what was on its way is thrown away, and nothing else");
    let (at, honest) = overheard(there).await;
    bob.at = at;
    record = bob.ask_all(&record, NOW + 3 * HOUR).await;
    assert_eq!(record.failure, None);
    let mut all = nonces(&heard);
    assert_eq!(all.len(), 1);
    all.extend(nonces(&honest));
    assert_eq!(all.len(), drawn);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), drawn, "a question was put twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_in_agreement_is_asked_about_no_more_whichever_radiator_agreed_to_it() {
    let name = "what_was_deleted_in_agreement_is_asked_about_no_more_whichever_radiator_agreed_to_it";
    if skip(name) {
        return;
    }
    let bob = Bob::new().await;
    let record = bob.backed_up_thrice().await;
    // Another radiator's stock, which knows nothing of what follows.
    let theirs = bob.dir.path().join("theirs");
    std::fs::copy(bob.challenges(), &theirs).unwrap();
    let before = bob.in_stock();
    let (keep, now) = (ONE_A_DAY, clock());
    let tidied = bob.round().tidy(&keep, &record, || now).await;
    assert_eq!(tidied.failure, None);
    let lists = bob.stage.vault.deletions(&home("bob"));
    let gone: BTreeSet<String> =
        lists.iter().flat_map(|l| &l.blobs).map(|(_, name, _)| name.to_string()).collect();
    assert!(before.intersection(&gone).next().is_some(), "no pack went: this test shows nothing");
    // Alice need not keep them.
    for pack in bob.packs().iter().filter(|pack| gone.contains(&name_of(pack))) {
        std::fs::remove_file(pack).unwrap();
    }
    assert!(bob.in_stock().is_disjoint(&gone));
    std::fs::copy(&theirs, bob.challenges()).unwrap();
    let asked = bob.ask_all(&tidied, now + HOUR).await;
    assert_eq!(asked.failure, None);
    assert!(asked.asked.unwrap().ranges > 0);

    // The radiator that agreed to it may have died before it was noted: its head says the same.
    std::fs::copy(&theirs, bob.challenges()).unwrap();
    assert_eq!(bob.stock().head(), record.head.as_ref().unwrap().number);
    let asked = bob.ask_all(&record, now + HOUR).await;
    assert_eq!(asked.failure, None);
    let sum = asked.asked.unwrap();
    assert!(sum.ranges > 0 && sum.kept == sum.ranges && sum.doubtful.is_empty(), "{sum:?}");
    // It excuses nothing else.
    std::fs::copy(&theirs, bob.challenges()).unwrap();
    bob.packs().iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let found = bob.ask_all(&record, now + 2 * HOUR).await;
    assert!(why(&found).0.contains("is not shown when it is asked for"), "{found:?}");
    assert!(found.asked.unwrap().doubtful.is_disjoint(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_shows_less_than_it_took_gets_no_head_signed() {
    if skip("a_vault_that_shows_less_than_it_took_gets_no_head_signed") {
        return;
    }
    let mut bob = Bob::new().await;
    let first = bob.backed_up().await;
    let earlier = bob.packs();
    bob.message(7);
    let unnoted = bob.back_up(&first, NOW + 1000).await;
    assert_eq!(unnoted.failure, None);
    // One that is in a head alone that was never noted: the radiator died.
    let old = bob.packs().into_iter().find(|pack| !earlier.contains(pack)).unwrap();
    // Between the comparison and the signature alice drops a pack: once the new snapshot comes.
    let pack = old.clone();
    bob.at = passed_on(bob.at, move |piece| {
        if piece.starts_with(b"POST /bob/mail/snapshots/") {
            std::fs::remove_file(&pack).unwrap();
        }
    })
    .await;
    bob.message(8);
    let second = bob.back_up(&first, NOW + HOUR).await;
    assert!(!old.exists());
    let (text, passes) = why(&second);
    assert!(text.contains("1 of data are missing") && passes == Passes::ByAPerson, "{text}");
    assert_eq!(second.head, unnoted.head, "a head without the pack would make the loss an agreed one");
    assert!(why(&bob.back_up(&second, NOW + 2 * HOUR).await).0.contains("1 of data are missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_question_is_refused() {
    let stage = Stage::new().await;
    stage.create().await;
    let content = noise(1, 100_000);
    stage.save("data", &content).await;
    assert_eq!(stage.ask("POST", "/bob/config", b"the config").await.status, 200);
    let challenge = Challenge::draw(Kind::Data, &content, &mut rand::rng());
    let good = serde_json::to_value(&challenge.question).unwrap();
    let ask = async |path: &str, change: &[(&str, serde_json::Value)]| {
        let mut question = good.clone();
        for (field, value) in change {
            question[*field] = value.clone();
        }
        stage.ask("POST", path, &serde_json::to_vec(&question).unwrap()).await.status
    };
    let at = "/bob/-/challenge";
    assert_eq!(ask(at, &[]).await, 200);
    // Too long, outside, over the end of all numbers.
    assert_eq!(ask(at, &[("length", (RANGE_MAX + 1).into())]).await, 413);
    assert_eq!(ask(at, &[("offset", 100_001.into()), ("length", 0.into())]).await, 416);
    assert_eq!(ask(at, &[("offset", 99_999.into()), ("length", 2.into())]).await, 416);
    assert_eq!(ask(at, &[("offset", u64::MAX.into()), ("length", 64.into())]).await, 416);
    // Names that are none, or of nothing.
    assert_eq!(ask(at, &[("name", BlobName::of(b"absent").to_string().into())]).await, 404);
    for name in ["../../records/last", "..", "config", "", "/etc/passwd", "%2e%2e"] {
        assert_eq!(ask(at, &[("name", name.into())]).await, 400, "{name}");
    }
    for kind in ["records", "..", "tmp", ""] {
        assert_eq!(ask(at, &[("kind", kind.into())]).await, 400, "{kind}");
    }
    assert_eq!(ask(at, &[("nonce", serde_json::json!([1, 2, 3]))]).await, 400);
    assert_eq!(ask(at, &[("more", 1.into())]).await, 400);
    // Another's folder, or none at all.
    for path in [
        "/bob/-/challenge/..",
        "/bob/-/challenge/../carol",
        "/bob/-/challenge/%2e%2e",
        "/bob/-/challenge/data",
    ] {
        let status = ask(path, &[]).await;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    assert!([401, 404].contains(&ask("/carol/-/challenge", &[]).await));
    // More than a question.
    let long = vec![b' '; 1 << 20];
    assert_eq!(stage.ask("POST", at, &long).await.status, 413);
    assert_eq!(stage.ask("GET", at, b"").await.status, 405);
    // Who may only read may ask as well: it costs no more than reading.
    let (to, _) = listen(stage.vault.clone(), Caller::ProvedToRead(home("bob"))).await;
    let body = serde_json::to_vec(&good).unwrap();
    assert_eq!(crate::stage::ask(to, "POST", at, &[], &body).await.status, 200);
}
