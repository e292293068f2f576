//! Folders on this machine; what needs mounts is with the tests of the engine (`tests/folder.rs`).

use super::*;
use std::time::{Duration, Instant};

fn local(dir: &Path) -> Folder {
    let home = HomeName::new("maison").unwrap();
    Folder::new(dir.into(), home, VolumeName::new("notes").unwrap(), &VolumeDriver::Local)
}

#[tokio::test]
async fn a_folder_is_made_only_while_the_home_has_never_used_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = local(dir.path());
    let missing = folder.look(false).await.unwrap();
    assert!(matches!(missing.usable, Err(FolderError::Unmarked { .. })), "{missing:?}");
    assert!(!folder.path().exists());
    folder.look(true).await.unwrap().usable.unwrap();
    std::fs::write(folder.path().join("note"), "kept").unwrap();
    let found = folder.look(false).await.unwrap();
    found.usable.unwrap();
    assert_eq!((found.mounted, found.epoch), (false, 0));
    // The disk was exchanged.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(folder.look(false).await.unwrap().usable.is_err());
}

#[tokio::test]
async fn another_volumes_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    local(dir.path()).look(true).await.unwrap().usable.unwrap();
    let mut other = local(dir.path());
    other.volume = VolumeName::new("mail").unwrap();
    let why = other.look(true).await.unwrap().usable.unwrap_err().to_string();
    assert!(why.contains("the volume notes of the home maison"), "{why}");
    assert!(matches!(other.attach(1).await, Err(FolderError::Foreign { .. })));
}

#[tokio::test]
async fn a_shared_folder_without_its_file_system_is_refused_and_nothing_is_made() {
    let path = "/not-mounted-anywhere/mail";
    let driver = VolumeDriver::Shared { path: path.into() };
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::new(
        dir.path().into(),
        HomeName::new("maison").unwrap(),
        VolumeName::new("m").unwrap(),
        &driver,
    );
    let found = folder.look(true).await.unwrap();
    assert!(found.usable.unwrap_err().to_string().contains("mount the shared file system here"));
    assert!(!Path::new(path).exists());
}

#[tokio::test]
async fn a_file_system_that_hangs_is_not_waited_for() {
    let shell = Shell { limit: Duration::from_millis(200) };
    let began = Instant::now();
    let hangs = shell.run("looking", "exec sleep 60", &[]).await;
    assert!(matches!(hangs, Err(child::Ended::Other(FolderError::Hangs { .. }))), "{hangs:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn what_a_person_gave_up_is_removed_with_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let folder = local(dir.path());
    folder.look(true).await.unwrap().usable.unwrap();
    folder.remove().await.unwrap();
    folder.remove().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
