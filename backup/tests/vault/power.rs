//! Power cuts: a file system on a loop device, whose image as it is at the moment of an answer is all that is left. What
//! was only in a page cache is not in it.

use crate::stage::{Said, Stage, home, noise, statement, terms};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_backup::vault::{BlobName, Kind, Says, Signer};

fn done(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A mounted image; both go with the test.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    /// Mounts an image. Nothing is written back by itself within the time a test takes.
    fn new(image: PathBuf, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        done(Command::new("mount").args(["-o", "loop,commit=600"]).args([&image, &at]));
        Self { image, at }
    }

    fn fresh(dir: &Path) -> Self {
        let image = dir.join("disk.img");
        done(Command::new("truncate").args(["-s", "64M"]).arg(&image));
        done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        Self::new(image, dir.join("before"))
    }

    /// The disk as it would be found had the power failed now.
    fn cut(&self, dir: &Path, name: &str) -> Self {
        let image = dir.join(format!("{name}.img"));
        done(Command::new("cp").arg("--sparse=always").args([&self.image, &image]));
        Self::new(image, dir.join(name))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn skip(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Path::new("/dev/loop-control").exists() {
        println!("SKIPPED {test}: a loop device takes root and a kernel that has them");
    }
    !is_root || !Path::new("/dev/loop-control").exists()
}

/// A vault over the disk that a cut leaves.
async fn after(disk: &Mounted) -> Stage {
    let mut terms = terms();
    terms.key = Some(signer().public());
    Stage::over(&disk.at.join("vault"), terms, |_| {}).await
}

fn signer() -> Signer {
    Signer::from_seed(&[42; 32]).unwrap()
}

async fn say(stage: &Stage, number: u64, says: Says) -> Said {
    let signed = signer().sign(&statement("", number, says)).unwrap();
    stage.ask("POST", "/bob/-/deletions", &serde_json::to_vec(&signed).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_power_cut() {
    if skip("what_was_answered_outlives_a_power_cut") {
        return;
    }
    let dir: TempDir = tempfile::tempdir().unwrap();
    let disk = Mounted::fresh(dir.path());
    let stage = after(&disk).await;
    stage.create().await;
    let created = disk.cut(dir.path(), "created");

    stage.pass(Duration::from_secs(5000));
    let content = noise(1, 1_000_000);
    let path = stage.save("data", &content).await;
    let saved = disk.cut(dir.path(), "saved");

    let other = stage.save("data", &noise(2, 2_000_000)).await;
    let name = BlobName::read(path.rsplit('/').next().unwrap()).unwrap();
    assert_eq!(say(&stage, 1, Says::Delete(vec![(Kind::Data, name)])).await.status, 200);
    let announced = disk.cut(dir.path(), "announced");
    assert_eq!(say(&stage, 2, Says::Cancel(1)).await.status, 200);
    let cancelled = disk.cut(dir.path(), "cancelled");

    let stage = after(&created).await;
    assert_eq!(stage.get("/bob/data/").await.text(), "[]");
    stage.save("keys", b"a key").await;

    let stage = after(&saved).await;
    assert!(stage.get(&path).await.body == content);
    let as_of = |seconds: u64| format!("/bob/-/as-of/{}/data/{name}", 1_764_000_000 + seconds);
    assert_eq!(stage.get(&as_of(4999)).await.status, 404, "the time of arrival is lost");
    assert_eq!(stage.get(&as_of(5000)).await.status, 200);
    stage.nothing_left().await;

    let stage = after(&announced).await;
    assert_eq!(stage.get(&path).await.status, 404);
    assert_eq!(stage.get(&other).await.status, 200);
    assert_eq!(stage.vault.deletions(&home("bob")).len(), 1);

    let stage = after(&cancelled).await;
    assert!(stage.get(&path).await.body == content);
    assert_eq!(stage.vault.deletions(&home("bob")), []);
    assert_eq!(say(&stage, 1, Says::Delete(vec![(Kind::Data, name)])).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_retry_is_worth_as_much() {
    if skip("the_answer_to_a_retry_is_worth_as_much") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Mounted::fresh(dir.path());
    let stage = after(&disk).await;
    stage.create().await;
    // A vault that was killed between the rename and the fsync of the folder: the file is there, but only in memory.
    let content = noise(1, 100_000);
    let name = BlobName::of(&content).to_string();
    std::fs::write(stage.folder("repo/data").join(&name[..2]).join(&name), &content).unwrap();
    let before = disk.cut(dir.path(), "before-the-retry");
    let path = stage.save("data", &content).await;
    let behind = disk.cut(dir.path(), "after-the-retry");
    let stage = after(&before).await;
    assert_ne!(stage.get(&path).await.body, content, "the file was on disk anyway: this test shows nothing");
    let stage = after(&behind).await;
    assert!(stage.get(&path).await.body == content);
}
