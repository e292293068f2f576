//! restic as a supervised child: the real one against a vault over a cable that fails, and programs that behave worse
//! than restic would.

use crate::cable::Cable;
use crate::restic::{mail, skip};
use crate::stage::{PASSWORD, PATIENCE, Stage, home, noise, terms};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thermidor_backup::restic::{
    Backup, Patience, Progress, Repository, Restic, ResticError, Restore, Secret, Settings, SnapshotId,
    Source,
};
use thermidor_backup::vault::Folder;
use tokio::sync::watch;

pub const KEY: &str = "words of bob's own";

pub fn repository(at: SocketAddr) -> Repository {
    Repository {
        at,
        home: home("bob"),
        folder: Folder::new("mail").unwrap(),
        password: Some(Secret::new(PASSWORD)),
        key: Secret::new(KEY),
        as_of: None,
    }
}

pub fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir.join("cache"));
    let s = Duration::from_secs;
    settings.patience = Patience { silence: s(60), trouble: s(60), longest: s(180) };
    settings
}

pub async fn restic(dir: &Path) -> Restic {
    Restic::find(settings(dir)).await.unwrap()
}

pub fn source(dir: &Path) -> Source {
    Source { dir: dir.to_owned(), home: home("bob"), tag: "mail".into(), parent: None }
}

pub async fn backup(restic: &Restic, repository: &Repository, dir: &Path) -> Result<Backup, ResticError> {
    restic.backup(repository, &source(dir), &watch::Sender::default()).await
}

fn restore(snapshot: &SnapshotId, target: &Path) -> Restore {
    Restore { snapshot: snapshot.clone(), target: target.to_owned(), only: None, verify: true }
}

/// Every file, folder and link below: rights, owner, time and content.
fn below(dir: &Path) -> Vec<(PathBuf, u32, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            let content = if about.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if about.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(dir).unwrap().to_owned();
            all.push((name, about.mode(), about.uid(), about.mtime(), content));
        }
    }
    all.sort();
    all
}

/// Processes that use a cache, by their environment.
pub fn processes(dir: &Path) -> Vec<u32> {
    let mark = format!("RESTIC_CACHE_DIR={}", dir.join("cache").display());
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|one| one == mark.as_bytes())
    })
    .collect()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what}: never");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn blame(done: Result<impl std::fmt::Debug, ResticError>) -> String {
    done.expect_err("it went well").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_what_was_backed_up() {
    if skip("what_is_restored_is_what_was_backed_up") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 8);
    std::fs::create_dir(mail.join("[odd] *")).unwrap();
    std::fs::write(mail.join("[odd] */a?b\\c"), "odd").unwrap();
    std::fs::write(mail.join("o"), "not odd").unwrap();
    std::os::unix::fs::symlink("cur/1", mail.join("link")).unwrap();
    std::fs::set_permissions(mail.join("cur/2"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(mail.join("cur/3"), Some(5000), Some(5000)).unwrap();

    assert!(matches!(restic.snapshots(&bobs).await, Err(ResticError::Missing)));
    restic.init(&bobs).await.unwrap();
    assert!(matches!(restic.init(&bobs).await, Err(ResticError::Exists)));
    assert_eq!(restic.snapshots(&bobs).await.unwrap(), []);
    let progress = watch::Sender::new(Progress::default());
    let made = restic.backup(&bobs, &source(&mail), &progress).await.unwrap();
    assert!(made.bytes > 8 << 20 && made.added > 8 << 20, "{made:?}");
    let snapshots = restic.snapshots(&bobs).await.unwrap();
    assert_eq!(snapshots.len(), 1);
    assert!(snapshots[0].id.as_str().starts_with(made.snapshot.as_str()));
    assert_eq!((snapshots[0].hostname.as_str(), &snapshots[0].tags[..]), ("bob", &["mail".to_owned()][..]));
    restic.check(&bobs, 5).await.unwrap();

    let out = dir.path().join("out");
    restic.restore(&bobs, &restore(&snapshots[0].id, &out)).await.unwrap();
    assert!(below(&out) == below(&mail), "restored files differ");
    let some = dir.path().join("some");
    let only = Restore { only: Some("[odd] */a?b\\c".into()), ..restore(&made.snapshot, &some) };
    restic.restore(&bobs, &only).await.unwrap();
    assert_eq!(std::fs::read_to_string(some.join("[odd] */a?b\\c")).unwrap(), "odd");
    assert!(!some.join("cur/1").exists() && !some.join("o").exists());
    let none = restore(&SnapshotId::new("0123456789").unwrap(), &some);
    assert!(matches!(restic.restore(&bobs, &none).await, Err(ResticError::NoSnapshot)));

    // A snapshot of the same in another place, as on another radiator: told its parent, it reads nothing again.
    let moved = dir.path().join("elsewhere");
    std::fs::rename(&mail, &moved).unwrap();
    let second = Source { parent: Some(made.snapshot.clone()), ..source(&moved) };
    let again = restic.backup(&bobs, &second, &progress).await.unwrap();
    assert!(again.bytes == made.bytes && again.added < 100_000, "{again:?}");

    // As it stood before the second one.
    stage.pass(Duration::from_secs(3600));
    std::fs::write(moved.join("later"), "x").unwrap();
    backup(&restic, &bobs, &moved).await.unwrap();
    let mut past = bobs.clone();
    past.as_of = Some(crate::stage::BEGIN / 1000 + 60);
    assert_eq!(restic.snapshots(&past).await.unwrap().len(), 2);
    assert_eq!(restic.snapshots(&bobs).await.unwrap().len(), 3);
    let why = blame(backup(&restic, &past, &moved).await);
    assert!(why.contains("refuses"), "{why}");
    stage.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_words() {
    if skip("what_is_wrong_is_said_in_words") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 1);
    let other = Repository { password: Some(Secret::new("no")), ..bobs.clone() };
    assert!(matches!(restic.init(&other).await, Err(ResticError::Credentials)));
    restic.init(&bobs).await.unwrap();
    backup(&restic, &bobs, &mail).await.unwrap();
    let other = Repository { key: Secret::new("another kit"), ..bobs.clone() };
    let why = blame(restic.snapshots(&other).await);
    assert!(why.contains("another password"), "{why}");
    let other = Repository { password: Some(Secret::new("no")), ..bobs.clone() };
    let why = blame(restic.snapshots(&other).await);
    assert!(why.contains("credentials"), "{why}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let why = blame(restic.snapshots(&repository(nobody)).await);
    assert!(why.contains("can't be reached") && why.contains("connection refused"), "{why}");

    // A pack whose content has changed on the vault's disk.
    let data = stage.folder("repo/mail/data");
    let packs = std::fs::read_dir(data).unwrap().flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap());
    let pack = packs.map(|e| e.unwrap().path()).max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let mut content = std::fs::read(&pack).unwrap();
    content[1000] ^= 1;
    std::fs::write(&pack, content).unwrap();
    assert!(matches!(restic.check(&bobs, 0).await, Ok(())));
    let why = blame(restic.check(&bobs, 100).await);
    assert!(why.contains("damaged") && why.to_lowercase().contains("pack"), "{why}");
    std::fs::remove_file(&pack).unwrap();
    let why = blame(restic.check(&bobs, 0).await);
    assert!(why.contains("damaged") && why.to_lowercase().contains("pack"), "{why}");

    let mut absent = settings(dir.path());
    absent.program = "no-such-restic".into();
    assert!(matches!(Restic::find(absent).await, Err(ResticError::NotInstalled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friend_out_of_room_ends_a_backup_at_once() {
    if skip("a_friend_out_of_room_ends_a_backup_at_once") {
        return;
    }
    let mut small = terms();
    small.quota = 10 << 20;
    let stage = Stage::with(small, |_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 40);
    restic.init(&bobs).await.unwrap();
    let begun = Instant::now();
    let done = backup(&restic, &bobs, &mail).await;
    assert!(matches!(done, Err(ResticError::NoRoom)), "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    until("restic ends", || processes(dir.path()).is_empty()).await;
    // It took its lock along. With more room the next one goes through.
    assert_eq!(std::fs::read_dir(stage.folder("repo/mail/locks")).unwrap().count(), 0);
    stage.vault.lend(&home("bob"), terms()).unwrap();
    backup(&restic, &bobs, &mail).await.unwrap();
    restic.check(&bobs, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_at_its_quiet_hours_says_so() {
    if skip("a_vault_at_its_quiet_hours_says_so") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 1);
    restic.init(&bobs).await.unwrap();
    let mut quiet = terms();
    quiet.hours.windows = vec![thermidor_backup::vault::Window { from: 0, to: 1 }];
    stage.vault.lend(&home("bob"), quiet).unwrap();
    let done = backup(&restic, &bobs, &mail).await;
    assert!(matches!(done, Err(ResticError::NotNow)), "{done:?}");
    assert_eq!(restic.snapshots(&bobs).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_cut_in_the_middle_of_a_pack_costs_nothing_but_time() {
    if skip("a_cable_cut_in_the_middle_of_a_pack_costs_nothing_but_time") {
        return;
    }
    let stage = Stage::new().await;
    let cable = Cable::to(stage.at).await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(cable.at));
    let mail = mail(dir.path(), 30);
    restic.init(&bobs).await.unwrap();
    cable.fail_after(5 << 20, true);
    let (work, mended) = tokio::join!(backup(&restic, &bobs, &mail), async {
        until("the cut", || cable.hits() > 2).await;
        cable.mend();
        cable.sent()
    });
    let made = work.unwrap();
    assert!(mended < 30 << 20, "it was cut after the end");
    restic.check(&bobs, 100).await.unwrap();
    let out = dir.path().join("out");
    restic.restore(&bobs, &restore(&made.snapshot, &out)).await.unwrap();
    assert!(below(&out) == below(&mail), "restored files differ");
    stage.nothing_left().await;

    // Cut for good: given up in the agreed time, and the vault keeps nothing half.
    let mut hasty = settings(dir.path());
    hasty.patience.trouble = Duration::from_secs(3);
    let hasty = Restic::find(hasty).await.unwrap();
    std::fs::write(mail.join("cur/new"), noise(99, 20 << 20)).unwrap();
    cable.fail_after(5 << 20, true);
    let begun = Instant::now();
    let why = blame(backup(&hasty, &bobs, &mail).await);
    assert!(why.contains("can't be reached"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    cable.mend();
    stage.nothing_left().await;
    // It could not take its lock along; but its owner is dead.
    restic.unlock(&bobs).await.unwrap();
    backup(&restic, &bobs, &mail).await.unwrap();
    restic.check(&bobs, 10).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_dead_is_given_up_and_nothing_stays_behind() {
    if skip("a_server_that_goes_dead_is_given_up_and_nothing_stays_behind") {
        return;
    }
    let stage = Stage::new().await;
    let cable = Cable::to(stage.at).await;
    let dir = tempfile::tempdir().unwrap();
    let mut hasty = settings(dir.path());
    hasty.patience.silence = Duration::from_secs(3);
    let (hasty, patient, bobs) =
        (Restic::find(hasty).await.unwrap(), restic(dir.path()).await, repository(cable.at));
    let mail = mail(dir.path(), 40);
    hasty.init(&bobs).await.unwrap();
    for after in [0, 300, 3 << 20] {
        cable.fail_after(after, false);
        let begun = Instant::now();
        let done = backup(&hasty, &bobs, &mail).await;
        assert!(matches!(done, Err(ResticError::Stuck(_))), "{after}: {done:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        until("the kernel has ended all of them", || processes(dir.path()).is_empty()).await;
        cable.mend();
    }
    backup(&patient, &bobs, &mail).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_or_unwanted_child_is_gone_on_from() {
    if skip("a_killed_or_unwanted_child_is_gone_on_from") {
        return;
    }
    let stage = Stage::new().await;
    let cable = Cable::to(stage.at).await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (Arc::new(restic(dir.path()).await), repository(cable.at));
    let mail = mail(dir.path(), 40);
    restic.init(&bobs).await.unwrap();
    cable.fail_after(8 << 20, false);
    let task = tokio::spawn({
        let (restic, bobs, mail) = (restic.clone(), bobs.clone(), mail.clone());
        async move { backup(&restic, &bobs, &mail).await }
    });
    until("8 MiB are sent", || cable.hits() > 0).await;
    for pid in processes(dir.path()) {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let done = task.await.unwrap();
    assert!(matches!(done, Err(ResticError::Killed(9))), "{done:?}");

    // Nobody wants it any more: the future is dropped.
    let task = tokio::spawn({
        let (restic, bobs, mail) = (restic.clone(), bobs.clone(), mail.clone());
        async move { backup(&restic, &bobs, &mail).await }
    });
    until("it runs", || !processes(dir.path()).is_empty()).await;
    task.abort();
    until("it is gone", || processes(dir.path()).is_empty()).await;

    cable.mend();
    restic.unlock(&bobs).await.unwrap();
    let made = backup(&restic, &bobs, &mail).await.unwrap();
    restic.check(&bobs, 100).await.unwrap();
    let out = dir.path().join("out");
    restic.restore(&bobs, &restore(&made.snapshot, &out)).await.unwrap();
    assert!(below(&out) == below(&mail), "restored files differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_somebody_alive_is_respected_and_one_of_the_dead_removed() {
    if skip("a_lock_of_somebody_alive_is_respected_and_one_of_the_dead_removed") {
        return;
    }
    let stage = Stage::new().await;
    let cable = Cable::to(stage.at).await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (Arc::new(restic(dir.path()).await), repository(stage.at));
    let mail = mail(dir.path(), 20);
    restic.init(&bobs).await.unwrap();
    cable.fail_after(4 << 20, false);
    let slow = tokio::spawn({
        let (restic, mail, at) = (restic.clone(), mail.clone(), cable.at);
        async move { backup(&restic, &repository(at), &mail).await }
    });
    until("the backup is under way", || cable.hits() > 0).await;
    restic.unlock(&bobs).await.unwrap();
    let done = restic.check(&bobs, 0).await;
    let why = blame(done);
    assert!(why.contains("locked"), "{why}");
    // Another backup needs not wait.
    backup(&restic, &bobs, &mail).await.unwrap();
    slow.abort();
    until("it is gone", || processes(dir.path()).is_empty()).await;
    restic.unlock(&bobs).await.unwrap();
    restic.check(&bobs, 0).await.unwrap();
}

/// Keeps all that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_in_a_command_line_a_log_or_an_error() {
    if skip("no_secret_stands_in_a_command_line_a_log_or_an_error") {
        return;
    }
    let log = Log::default();
    let kept = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || kept.clone())
        .finish();
    // The only test of this binary that listens to the log of all threads.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let stage = Stage::new().await;
    let cable = Cable::to(stage.at).await;
    let dir = tempfile::tempdir().unwrap();
    let mut hasty = settings(dir.path());
    hasty.patience.trouble = Duration::from_secs(2);
    let (restic, bobs) = (Arc::new(Restic::find(hasty).await.unwrap()), repository(cable.at));
    let mail = mail(dir.path(), 20);
    restic.init(&bobs).await.unwrap();
    cable.fail_after(1 << 20, false);
    let task = tokio::spawn({
        let (restic, bobs, mail) = (restic.clone(), bobs.clone(), mail.clone());
        async move { backup(&restic, &bobs, &mail).await }
    });
    until("it runs", || cable.hits() > 0).await;
    let all = processes(dir.path());
    assert!(!all.is_empty());
    for pid in all {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(line.contains("restic backup") && !line.contains(PASSWORD) && !line.contains(KEY), "{line}");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let nice =
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap();
        assert!(nice >= 10, "it is not nice: {nice}");
    }
    cable.fail_after(0, true);
    let mut said = vec![blame(task.await.unwrap())];
    let wrong = Repository { key: Secret::new("wrong-words"), ..repository(stage.at) };
    said.push(blame(restic.snapshots(&wrong).await));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    said.push(blame(restic.snapshots(&repository(nobody)).await));
    said.push(format!("{bobs:?} {restic:?}"));
    said.push(String::from_utf8(log.0.lock().unwrap().clone()).unwrap());
    let said = said.join("\n");
    assert!(said.contains("restic tries again"), "no log: {said}");
    for secret in [PASSWORD, KEY, "wrong-words", crate::stage::AUTHORIZATION] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

/// A program that behaves as it is told.
fn program(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("fake-restic");
    let version = r#"if [ "$1" = version ]; then echo "restic 0.14.0 compiled with go"; exit; fi"#;
    std::fs::write(&path, format!("#!/bin/sh\n{version}\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn children_worse_than_restic_are_ended_too() {
    let dir = tempfile::tempdir().unwrap();
    let at = "127.0.0.1:9".parse().unwrap();
    let mut hasty = settings(dir.path());
    hasty.patience.silence = Duration::from_millis(500);
    // One that listens to no signal, and has children that hold its pipes.
    hasty.program =
        program(dir.path(), "trap '' INT TERM; sleep 600 & sleep 600 & while :; do sleep 1; done");
    let restic = Restic::find(hasty.clone()).await.unwrap();
    let done = restic.snapshots(&repository(at)).await;
    assert!(matches!(done, Err(ResticError::Stuck(_))), "{done:?}");
    // Killed already; a busy machine takes a moment to be rid of those that nobody waits for.
    until("the kernel has ended all of them", || processes(dir.path()).is_empty()).await;
    // One that says without end that nothing gets done.
    let status = r#"{"message_type":"status","total_files":1,"files_done":0,"total_bytes":9,"bytes_done":3}"#;
    hasty.program = program(dir.path(), &format!("while sleep 0.05; do echo '{status}'; done"));
    let restic = Restic::find(hasty.clone()).await.unwrap();
    let done = backup(&restic, &repository(at), dir.path()).await;
    assert!(matches!(done, Err(ResticError::Stuck(_))), "{done:?}");
    // One that is busy for too long.
    hasty.patience.longest = Duration::from_secs(2);
    hasty.program = program(dir.path(), "while :; do :; done");
    let restic = Restic::find(hasty.clone()).await.unwrap();
    let begun = Instant::now();
    let done = restic.check(&repository(at), 0).await;
    assert!(matches!(done, Err(ResticError::TooLong(_) | ResticError::Stuck(_))), "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // One that ends and leaves a child with its pipes.
    hasty.patience.longest = Duration::from_secs(60);
    hasty.program = program(dir.path(), "sleep 30 & echo '[]'");
    let restic = Restic::find(hasty.clone()).await.unwrap();
    assert_eq!(restic.snapshots(&repository(at)).await.unwrap(), []);
    // One that could not read some files, and one that is from a museum.
    let summary = r#"{"message_type":"summary","data_added":1,"total_files_processed":1,"total_bytes_processed":1,"snapshot_id":"c172cae9"}"#;
    let error = r#"{"message_type":"error","error":{"Op":"open"},"during":"archival","item":"/gone"}"#;
    hasty.program = program(dir.path(), &format!("echo '{error}' >&2; echo '{summary}'; exit 3"));
    let restic = Restic::find(hasty.clone()).await.unwrap();
    let why = blame(backup(&restic, &repository(at), dir.path()).await);
    assert!(why.contains("c172cae9 lacks 1 files") && why.contains("/gone"), "{why}");
    std::fs::write(&hasty.program, "#!/bin/sh\necho restic 0.13.1 compiled with go").unwrap();
    let why = blame(Restic::find(hasty).await);
    assert!(why.contains("0.13 is too old"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_here_is_not_taken_for_one_there() {
    let test = "a_full_disk_here_is_not_taken_for_one_there";
    if skip(test) {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (restic, bobs) = (restic(dir.path()).await, repository(stage.at));
    let mail = mail(dir.path(), 10);
    restic.init(&bobs).await.unwrap();
    let made = backup(&restic, &bobs, &mail).await.unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let Some(_small) = crate::faults::Small::new(test, &small) else { return };
    let done = restic.restore(&bobs, &restore(&made.snapshot, &small.join("out"))).await;
    assert!(matches!(done, Err(ResticError::DiskFull)), "{done:?}");
    std::fs::remove_dir_all(small.join("out")).unwrap();
    let mut tight = settings(dir.path());
    tight.cache = small.join("cache");
    let tight = Restic::find(tight).await.unwrap();
    std::fs::write(mail.join("new"), noise(77, 20 << 20)).unwrap();
    let done = backup(&tight, &bobs, &mail).await;
    assert!(matches!(done, Err(ResticError::DiskFull)), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_stays_within_its_bounds() {
    if skip("the_cache_stays_within_its_bounds") {
        return;
    }
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    let mut small = settings(dir.path());
    small.cache_max = 0;
    let (restic, bobs) = (Restic::find(small).await.unwrap(), repository(stage.at));
    let mail = mail(dir.path(), 2);
    restic.init(&bobs).await.unwrap();
    let first = backup(&restic, &bobs, &mail).await.unwrap();
    let of =
        |dir: &Path| std::fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_ne!(of(&dir.path().join("cache")), 0);
    // All of it goes, and all of it can be had again.
    assert!(backup(&restic, &bobs, &mail).await.unwrap().added < first.added / 10);
    assert_eq!(restic.snapshots(&bobs).await.unwrap().len(), 2);
}
