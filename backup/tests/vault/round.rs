//! Whole rounds at a friend's with the real restic: what is made, proved and signed, and what a hostile, absent or
//! foreign vault makes of the next one.

use crate::faults::Small;
use crate::restic::skip;
use crate::stage::{Stage, home, listen, noise, terms};
use crate::supervised::{processes, restic};
use std::path::{Path, PathBuf};
use thermidor_backup::kit::Kit;
use thermidor_backup::restic::{Keep, Progress, Restic, Restore};
use thermidor_backup::round::Round;
use thermidor_backup::vault::{Caller, Terms};
use thermidor_model::ServiceName;
use thermidor_model::backup::{Passes, Record, Subject};
use tokio::sync::watch;

pub const NOW: u64 = 1_790_000_000_000;
const MESSAGE_ID: &str = "<known-1@bob.example>";

/// Bob's mail, his kit, and the way to alice.
pub struct Bob {
    pub stage: Stage,
    pub kit: Kit,
    pub restic: Restic,
    mail: PathBuf,
    pub at: std::net::SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Bob {
    pub async fn new() -> Self {
        Self::at(None).await
    }

    /// The same, at a vault in that folder.
    async fn at(root: Option<&Path>) -> Self {
        let (kit, dir) = (Kit::draw().unwrap(), tempfile::tempdir().unwrap());
        let mut terms = terms();
        terms.key = Some(kit.signer().unwrap().public());
        let stage = match root {
            Some(root) => Stage::over(root, terms, |_| {}).await,
            None => Stage::with(terms, |_| {}).await,
        };
        let (at, _) = listen(stage.vault.clone(), Caller::Proved(home("bob"))).await;
        let mail = dir.path().join("source");
        std::fs::create_dir_all(mail.join("volumes/mail/marie/cur")).unwrap();
        let it = Self { restic: restic(dir.path()).await, stage, kit, mail, at, dir };
        for n in 0..3 {
            it.message(n);
        }
        it
    }

    pub fn message(&self, n: u64) {
        let text =
            format!("Message-ID: <known-{n}@bob.example>\nSubject: sesame\n\n{:?}\n", noise(n, 20_000));
        std::fs::write(self.mail.join(format!("volumes/mail/marie/cur/{n}")), text).unwrap();
    }

    pub fn round(&self) -> Round<'_> {
        Round {
            restic: &self.restic,
            at: self.at,
            kit: &self.kit,
            home: home("bob"),
            generation: 0,
            vault: home("alice"),
            subject: Subject::Service(ServiceName::new("mail").unwrap()),
            challenges: self.challenges(),
        }
    }

    pub fn challenges(&self) -> PathBuf {
        self.dir.path().join("challenges/mail-alice.json")
    }

    pub async fn back_up(&self, was: &Record, now: u64) -> Record {
        let progress = watch::Sender::new(Progress::default());
        self.round().back_up(&self.mail, now - 5, was, 2, || now, &progress).await
    }

    /// Three backups, each with a message more; what is known after the last.
    pub async fn backed_up_thrice(&self) -> Record {
        let mut record = Record::default();
        for n in 0..3 {
            self.message(10 + n);
            record = self.back_up(&record, NOW + n * 1000).await;
            assert_eq!(record.failure, None);
        }
        record
    }

    /// Alice lends on other terms from now on.
    pub fn agree(&self, change: impl FnOnce(&mut Terms)) {
        let mut terms = terms();
        terms.key = Some(self.kit.signer().unwrap().public());
        change(&mut terms);
        self.stage.vault.lend(&home("bob"), terms).unwrap();
    }

    /// What alice keeps of bob's mail.
    pub fn kept(&self) -> PathBuf {
        self.stage.folder("repo/mail")
    }
}

/// Of a day's snapshots the last one stays.
pub const ONE_A_DAY: Keep = Keep { all_days: 0, daily_days: 7, weekly_days: 0, monthly_days: 0 };

/// Unix ms.
pub fn clock() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap()
}

pub fn why(record: &Record) -> (&str, Passes) {
    let failure = record.failure.as_ref().expect("it went well");
    (&failure.why, failure.passes)
}

pub fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_makes_proves_and_signs_and_the_next_one_finds_all_of_it_again() {
    if skip("a_round_makes_proves_and_signs_and_the_next_one_finds_all_of_it_again") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    assert_eq!((first.made, first.proven, first.by), (Some(NOW - 5), Some(NOW - 5), Some(2)));
    assert_eq!(first.failure, None);
    bob.message(3);
    let left = bob.mail.join("volumes/mail/.thermidor-before");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("old"), "of before a restore").unwrap();
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!((second.made, second.failure.clone()), (Some(NOW + 995), None));
    assert!(second.head.as_ref().unwrap().number > first.head.as_ref().unwrap().number);

    let aside = bob.dir.path().join("aside");
    let refused = bob.round().restore_aside(&aside, 1 << 20, &second).await.unwrap_err();
    assert!(refused.to_string().contains("17 MiB are needed and 1 MiB are free"), "{refused}");
    assert_eq!(refused.passes(), Passes::ByAPerson);
    assert!(!aside.exists(), "nothing was brought");
    let counted = bob.round().restore_aside(&aside, u64::MAX, &second).await.unwrap();
    assert!(counted.files == 4 && counted.bytes > 80_000, "{counted:?}");

    // What alice has on her disk gives nothing away.
    let mut folders = vec![bob.stage.root.clone()];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap();
            read += content.len();
            for known in [MESSAGE_ID, "sesame", "marie"] {
                let found = content.windows(known.len()).any(|w| w == known.as_bytes());
                assert!(!found, "{known} stands in {}", path.display());
            }
        }
    }
    assert!(read > 60_000, "{read} bytes were searched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_drops_the_newest_snapshot_or_goes_back_in_time_is_noticed_before_anything_is_left_there()
 {
    let name = "a_vault_that_drops_the_newest_snapshot_or_goes_back_in_time_is_noticed_before_anything_is_left_there";
    if skip(name) {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    let earlier = bob.dir.path().join("earlier");
    copy(&bob.stage.root, &earlier);
    bob.message(7);
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!(second.failure, None);

    let snapshots = bob.kept().join("snapshots");
    let newest = second.snapshot.clone().unwrap();
    let entry = std::fs::read_dir(&snapshots).unwrap().map(|e| e.unwrap());
    let entry = entry.into_iter().find(|e| e.file_name().to_string_lossy().starts_with(&newest)).unwrap();
    let aside = bob.dir.path().join("dropped");
    std::fs::rename(entry.path(), &aside).unwrap();
    let third = bob.back_up(&second, NOW + 2000).await;
    assert_eq!((third.made, third.snapshot.as_ref()), (second.made, Some(&newest)), "nothing was made");
    let (text, passes) = why(&third);
    assert!(text.contains("1 of snapshots are missing") && passes == Passes::ByAPerson, "{text}");
    std::fs::rename(&aside, entry.path()).unwrap();
    assert_eq!(bob.back_up(&third, NOW + 3000).await.failure, None);

    // Alice plays an old disk back.
    let latest = bob.back_up(&second, NOW + 4000).await;
    let friends = bob.stage.root.join("friends");
    std::fs::remove_dir_all(&friends).unwrap();
    copy(&earlier.join("friends"), &friends);
    bob.stage.vault.close(&home("bob"));
    bob.agree(|_| ());
    let back = bob.back_up(&latest, NOW + 5000).await;
    let (text, passes) = why(&back);
    assert!(text.contains("rolled back") && passes == Passes::ByAPerson, "{text}");
    assert!(text.contains("friend rm alice"), "{text}");
    assert_eq!(back.made, latest.made);
    // The old state is whole: read back alone it would prove what is not there any more.
    let unproven = Record { proven: None, ..latest };
    let checked = bob.round().prove(&unproven, || NOW + 6000).await;
    assert!(why(&checked).0.contains("rolled back"), "{checked:?}");
    assert_eq!(checked.proven, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_radiator_left_that_died_before_it_was_noted_is_gone_on_from_and_no_loss() {
    if skip("what_a_radiator_left_that_died_before_it_was_noted_is_gone_on_from_and_no_loss") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    bob.message(4);
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!(second.failure, None);
    // Nobody has heard of that one: its head is later than the one that is known.
    let proved = bob.round().prove(&first, || NOW + 2000).await;
    assert_eq!((proved.failure, proved.head), (None, second.head), "from now on it is known");
    bob.message(5);
    let third = bob.back_up(&first, NOW + 3000).await;
    assert_eq!((third.made, third.failure.clone()), (Some(NOW + 2995), None));
    // What it left counts: it is missed like all else.
    let snapshots = std::fs::read_dir(bob.kept().join("snapshots")).unwrap();
    let names: Vec<PathBuf> = snapshots.map(|e| e.unwrap().path()).collect();
    assert_eq!(names.len(), 3);
    let lasts = [&first, &third].map(|record| record.snapshot.clone().unwrap());
    let is_known = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        lasts.iter().any(|last| name.starts_with(last.as_str()))
    };
    std::fs::remove_file(names.iter().find(|path| !is_known(path)).unwrap()).unwrap();
    let fourth = bob.back_up(&third, NOW + 4000).await;
    assert!(why(&fourth).0.contains("1 of snapshots are missing"), "{fourth:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_radiator_that_lost_its_power_is_in_nobodys_way() {
    if skip("the_lock_of_a_radiator_that_lost_its_power_is_in_nobodys_way") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    let locks = || std::fs::read_dir(bob.kept().join("locks")).unwrap().count();
    assert_eq!(locks(), 0);
    // Reading back locks everybody else out: such a lock is left.
    for _ in 0..20 {
        let dies = async {
            while locks() == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            for pid in processes(bob.dir.path()) {
                let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                // One that was just ending is gone.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        };
        let round = bob.round();
        tokio::join!(round.prove(&first, || NOW + 500), dies);
        if locks() > 0 {
            break;
        }
    }
    assert_eq!(locks(), 1, "no lock was left");
    bob.message(6);
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!((second.failure.clone(), second.proven), (None, Some(NOW + 995)));
    assert_eq!(locks(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_without_room_says_whether_the_quota_or_the_disk_is_in_the_way() {
    let name = "a_vault_without_room_says_whether_the_quota_or_the_disk_is_in_the_way";
    let dir = tempfile::tempdir().unwrap();
    if skip(name) {
        return;
    }
    let Some(_small) = Small::new(name, dir.path()) else { return };
    let bob = Bob::at(Some(dir.path())).await;
    let first = bob.back_up(&Record::default(), NOW).await;
    assert_eq!(first.failure, None);
    let used = bob.stage.vault.usage(&home("bob")).unwrap().used;
    bob.agree(|terms| terms.quota = used + 10_000);
    bob.message(5);
    let small = bob.back_up(&first, NOW + 1000).await;
    let (text, passes) = why(&small);
    assert!(text.contains("the quota of") && text.contains("raise `lend`"), "{text}");
    assert_eq!((passes, small.made), (Passes::ByAPerson, first.made));

    bob.agree(|terms| terms.quota = 1 << 30);
    let filler = dir.path().join("filler");
    let _ = std::fs::write(&filler, noise(3, 4 << 20));
    let full = bob.back_up(&small, NOW + 2000).await;
    let (text, passes) = why(&full);
    assert!(text.contains("the disk under it is full") && text.contains("make room"), "{text}");
    assert_eq!((passes, full.made), (Passes::ByAPerson, first.made));
    // What is there can be had without room for a lock.
    let repository = bob.round().repository(None).unwrap();
    let all = bob.restic.snapshots(&repository).await.unwrap();
    let out = bob.dir.path().join("out");
    let restore = Restore { snapshot: all[0].id.clone(), target: out.clone(), only: None, verify: true };
    bob.restic.restore(&repository, &restore).await.unwrap();
    assert!(out.join("volumes/mail/marie/cur/2").exists());
    std::fs::remove_file(&filler).unwrap();
    let after = bob.back_up(&full, NOW + 3000).await;
    assert_eq!((after.failure.clone(), after.proven), (None, Some(NOW + 2995)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_fails_the_proof_and_the_snapshot_does_not_count_as_proved() {
    if skip("a_flipped_bit_fails_the_proof_and_the_snapshot_does_not_count_as_proved") {
        return;
    }
    let bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    let mut packs = Vec::new();
    for below in std::fs::read_dir(bob.kept().join("data")).unwrap() {
        let below = below.unwrap().path();
        let found = if below.is_dir() { std::fs::read_dir(below).unwrap().collect() } else { Vec::new() };
        packs.extend(found.into_iter().map(|e| e.unwrap().path()));
    }
    let largest = packs.into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let mut content = std::fs::read(&largest).unwrap();
    content[100] ^= 1;
    std::fs::write(&largest, content).unwrap();
    bob.message(9);
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!((second.made, second.proven), (Some(NOW + 995), Some(NOW - 5)));
    let (text, passes) = why(&second);
    assert!(passes == Passes::ByAPerson, "{text}");
    let again = bob.round().prove(&second, || NOW + 2000).await;
    assert_eq!((again.proven, again.failure.as_ref().unwrap().count), (Some(NOW - 5), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friend_that_is_away_passes_by_itself_and_another_kit_needs_a_person() {
    if skip("a_friend_that_is_away_passes_by_itself_and_another_kit_needs_a_person") {
        return;
    }
    let mut bob = Bob::new().await;
    let first = bob.back_up(&Record::default(), NOW).await;
    let there = bob.at;
    bob.at = {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        nobody.local_addr().unwrap()
    };
    let away = bob.back_up(&first, NOW + 1000).await;
    assert_eq!(why(&away).1, Passes::ByItself, "{away:?}");
    assert_eq!((away.made, away.head.clone()), (first.made, first.head.clone()));
    bob.at = there;
    bob.kit = Kit::draw().unwrap();
    let foreign = bob.back_up(&Record::default(), NOW + 2000).await;
    let (text, passes) = why(&foreign);
    assert!(text.contains("another recovery kit") && passes == Passes::ByAPerson, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_did_not_reach_the_vault_or_was_not_noted_leaves_no_loss_and_is_sent_again() {
    if skip("a_list_that_did_not_reach_the_vault_or_was_not_noted_leaves_no_loss_and_is_sent_again") {
        return;
    }
    let bob = Bob::new().await;
    let record = bob.backed_up_thrice().await;
    let (keep, now) = (ONE_A_DAY, clock());
    // The head is signed, and the list is not taken: as where the power fails between the two.
    bob.agree(|terms| terms.share_percent = 0);
    let half = bob.round().tidy(&keep, &record, || now).await;
    assert!(half.failure.is_some() && half.head != record.head && half.tidied.is_none(), "{half:?}");
    assert_eq!(bob.stage.vault.deletions(&home("bob")).len(), 0);
    for noted in [&half, &record] {
        assert_eq!(bob.round().prove(noted, || now + 500).await.failure, None, "nothing is missing");
    }
    bob.agree(|terms| terms.share_percent = 100);
    let next = bob.back_up(&half, now + 1000).await;
    assert_eq!(next.failure, None);
    let whole = bob.round().tidy(&keep, &next, || now + 2000).await;
    assert_eq!((whole.failure.clone(), whole.tidied), (None, Some(now + 2000)));
    assert_eq!(bob.stage.vault.deletions(&home("bob")).len(), 1);
    // Who was to note it died: whoever goes on from what was known before finds no loss either.
    assert_eq!(bob.back_up(&next, now + 3000).await.failure, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_snapshots_are_forgotten_by_a_signed_list_and_the_next_round_misses_nothing() {
    if skip("old_snapshots_are_forgotten_by_a_signed_list_and_the_next_round_misses_nothing") {
        return;
    }
    let bob = Bob::new().await;
    let record = bob.backed_up_thrice().await;
    let (keep, now) = (ONE_A_DAY, clock());
    let tidied = bob.round().tidy(&keep, &record, || now).await;
    assert_eq!((tidied.failure.clone(), tidied.tidied), (None, Some(now)));
    let announced = bob.stage.vault.deletions(&home("bob"));
    assert_eq!(announced.len(), 1, "{announced:?}");
    let left = bob.restic.snapshots(&bob.round().repository(None).unwrap()).await.unwrap();
    assert_eq!(left.len(), 1);
    let next = bob.back_up(&tidied, now + 1000).await;
    assert_eq!(next.failure, None);
    // Nothing more to forget today but the one before.
    let again = bob.round().tidy(&keep, &next, || now + 2000).await;
    assert_eq!(again.failure, None);
}
