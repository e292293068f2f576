//! Forgetting: what restic finds unreachable becomes a signed list, the vault hides it, and later deletes it; at every
//! moment what is kept can be restored, and until the end what goes as well.

use crate::restic::{good, mail, restic as stock, skip};
use crate::stage::{PASSWORD, Stage, home, noise, statement, terms};
use crate::supervised::{backup, repository, restic};
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::time::Duration;
use thermidor_backup::restic::{Keep, Repository, ResticError, Restore, SnapshotId};
use thermidor_backup::vault::{Folder, Kind, Says, Signer, Visit};

const KEEP: Keep = Keep { all_days: 3, daily_days: 0, weekly_days: 0, monthly_days: 0 };

/// A backup of some days ago.
async fn earlier(stage: &Stage, dir: &Path, mail: &Path, days: i64) {
    let time = Timestamp::now() - SignedDuration::from_hours(24 * days);
    let time = time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let arguments = ["backup", "--host", "bob", "--tag", "mail", "--time", &time, mail.to_str().unwrap()];
    good(stock(dir, stage.at, "mail/", &arguments)).await;
}

async fn visit(stage: &Stage) -> Visit {
    let stream = tokio::net::TcpStream::connect(stage.at).await.unwrap();
    let patience = Duration::from_secs(20);
    Visit::begin(stream, home("bob"), home("alice"), Some(PASSWORD), patience).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_goes_by_a_signed_list_and_all_else_stays() {
    if skip("what_is_forgotten_goes_by_a_signed_list_and_all_else_stays") {
        return;
    }
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let mut agreed = terms();
    agreed.key = Some(signer.public());
    // What is packed again is most of this small repository.
    agreed.share_percent = 80;
    let stage = Stage::with(agreed, |_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let folder = Folder::new("mail").unwrap();
    let mail = mail(dir.path(), 20);
    restic.init(&bobs).await.unwrap();
    earlier(&stage, dir.path(), &mail, 20).await;
    for n in 0..8 {
        std::fs::remove_file(mail.join(format!("cur/{n}"))).unwrap();
    }
    std::fs::write(mail.join("cur/new"), noise(500, 1 << 20)).unwrap();
    earlier(&stage, dir.path(), &mail, 1).await;
    stage.pass(Duration::from_secs(3600));
    let before = stage.pass(Duration::ZERO) / 1000 - 60;
    let newest = backup(&restic, &bobs, &mail).await.unwrap();
    let now = Timestamp::now();

    let going = restic.would_forget(&bobs, &KEEP, now).await.unwrap();
    assert_eq!(going.len(), 1);
    let used = stage.vault.usage(&home("bob")).unwrap().used;
    let forget = restic.forget(&bobs, &KEEP, now).await.unwrap().expect("nothing goes");
    assert_eq!(forget.snapshots.iter().collect::<Vec<_>>(), [&going[0].id]);
    let of = |kind| forget.blobs.iter().filter(|(k, _)| *k == kind).count();
    assert_eq!(of(Kind::Snapshots), 1);
    assert!(of(Kind::Data) > 0 && of(Kind::Index) > 0, "{:?}", forget.blobs);
    assert_eq!((of(Kind::Keys), of(Kind::Locks)), (0, 0));
    // Nothing has gone yet.
    assert!(stage.vault.usage(&home("bob")).unwrap().used >= used);
    assert_eq!(restic.snapshots(&bobs).await.unwrap().len(), 3);
    restic.check(&bobs, 100).await.unwrap();

    let mut to = visit(&stage).await;
    assert!(forget.holds(&to.list(&folder, 0).await.unwrap()));
    let delete = statement("mail", 1, Says::Delete(forget.blobs.clone()));
    to.announce(&signer.sign(&delete).unwrap()).await.unwrap();
    let look = async |repository: &Repository, snapshot: &SnapshotId, files: usize| {
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("out");
        let restore = Restore { snapshot: snapshot.clone(), target, only: None, verify: true };
        restic.restore(repository, &restore).await.unwrap();
        let mut folders = vec![restore.target];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() { folders.push(path) } else { count += 1 }
            }
        }
        assert_eq!(count, files);
    };
    // It is hidden, what is kept is whole, and what goes can still be had from the past.
    assert_eq!(restic.snapshots(&bobs).await.unwrap().len(), 2);
    restic.check(&bobs, 100).await.unwrap();
    look(&bobs, &newest.snapshot, 13).await;
    let past = Repository { as_of: Some(before), ..bobs.clone() };
    look(&past, &going[0].id, 20).await;
    // A later backup does not lean on what goes.
    std::fs::write(mail.join("cur/0"), noise(0, 1 << 20)).unwrap();
    let later = backup(&restic, &bobs, &mail).await.unwrap();
    assert!(later.added > 1 << 20, "{later:?}");
    assert!(
        !forget.holds(&visit(&stage).await.list(&folder, 0).await.unwrap()),
        "a later snapshot is overlooked"
    );

    stage.pass(Duration::from_secs(15 * 24 * 3600));
    for (_, done) in stage.vault.tend() {
        assert_eq!(done.unwrap().len(), 1);
    }
    assert_eq!(stage.vault.usage(&home("bob")).unwrap().waiting, 0);
    restic.check(&bobs, 100).await.unwrap();
    look(&bobs, &newest.snapshot, 13).await;
    look(&bobs, &later.snapshot, 14).await;
    assert_eq!(restic.forget(&bobs, &KEEP, now).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_the_future_pushes_nothing_out() {
    if skip("a_snapshot_from_the_future_pushes_nothing_out") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 1);
    restic.init(&bobs).await.unwrap();
    backup(&restic, &bobs, &mail).await.unwrap();
    earlier(&stage, dir.path(), &mail, -400).await;
    let done = restic.forget(&bobs, &KEEP, Timestamp::now()).await;
    assert!(matches!(done, Err(ResticError::Future(_))), "{done:?}");
    assert_eq!(restic.snapshots(&bobs).await.unwrap().len(), 2);
}
