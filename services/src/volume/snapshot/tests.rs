//! A snapshot against a copy of the device: whatever is written, discarded, killed or read meanwhile, both are
//! the same, byte for byte, or the snapshot says that it is given up.

use super::*;
use crate::volume::image::Image;
use std::sync::atomic::AtomicBool;
use thermidor_model::VolumeName;
use thermidor_model::replication::{EXTENT_BYTES, OpKind};

const SIZE: u64 = 6 * EXTENT_BYTES + 4096;

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn volume() -> VolumeName {
    VolumeName::new("mail").unwrap()
}

fn made() -> (tempfile::TempDir, Image) {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::create(&dir.path().join("image"), &volume(), ReplicaId(1), SIZE).unwrap();
    (dir, image)
}

fn opened(dir: &Path) -> Image {
    let image = Image::open(&dir.join("image"), &volume(), ReplicaId(1)).unwrap();
    image.snapshots().load(&image.origin(dir)).unwrap();
    image
}

fn taken(dir: &Path, image: &Image, text: &str) -> Arc<Snapshot> {
    let snapshot = image.snapshots().begin(&name(text), &image.origin(dir)).unwrap();
    image.snapshots().commit(&snapshot).unwrap();
    snapshot
}

fn bytes_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    snapshot.read(&mut bytes, 0).unwrap();
    bytes
}

fn device(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    image.read(&mut bytes, 0).unwrap();
    bytes
}

/// A generator of its own: one seed, one run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// Some change of the device.
    fn change(&mut self, image: &Image) {
        let offset = self.throw(SIZE);
        let most = [512, 4096, 200_000, 2 << 20][self.throw(4) as usize];
        let len = (1 + self.throw(most)).min(SIZE - offset);
        let op = |kind| Op { kind, offset, len };
        match self.throw(5) {
            0 => image.store(&op(OpKind::Discard), &[]),
            1 => image.store(&op(OpKind::Zero), &[]),
            _ => image.store(&op(OpKind::Write), &vec![self.throw(256) as u8; len as usize]),
        }
        .unwrap();
    }
}

#[test]
fn a_snapshot_is_the_device_of_its_moment_whatever_is_written_later() {
    for seed in 0..20 {
        let (dir, image) = made();
        let mut dice = Dice(seed);
        let mut snapshots = vec![];
        for round in 0..SNAPSHOTS_MAX {
            (0..10).for_each(|_| dice.change(&image));
            snapshots.push((taken(dir.path(), &image, &format!("s{round}")), device(&image)));
        }
        (0..30).for_each(|_| dice.change(&image));
        for (snapshot, then) in &snapshots {
            assert!(bytes_of(snapshot) == *then, "seed {seed}: {} differs", snapshot.name());
        }
        // As a process finds it that comes after a kill: nothing was made durable on purpose.
        drop(image);
        let image = opened(dir.path());
        (0..10).for_each(|_| dice.change(&image));
        for (snapshot, then) in &snapshots {
            let snapshot = image.snapshots().get(snapshot.name()).unwrap();
            assert!(bytes_of(&snapshot) == *then, "seed {seed}: {} differs later", snapshot.name());
        }
    }
}

#[test]
fn a_reader_beside_the_writer_sees_one_moment_only() {
    let (dir, image) = made();
    let mut dice = Dice(7);
    (0..20).for_each(|_| dice.change(&image));
    let (snapshot, then) = (taken(dir.path(), &image, "s"), device(&image));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) || rounds == 0 {
                assert!(bytes_of(&snapshot) == then, "round {rounds}");
                rounds += 1;
            }
        });
        (0..400).for_each(|_| dice.change(&image));
        ended.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert!(bytes_of(&snapshot) == then);
}

/// Killed between any two steps, the bytes there are belong to one moment: first the old bytes are kept, then
/// the map says so, then the image changes.
#[test]
fn every_step_of_keeping_leaves_an_exact_snapshot() {
    let (dir, image) = made();
    let mut dice = Dice(3);
    (0..20).for_each(|_| dice.change(&image));
    let (snapshot, then) = (taken(dir.path(), &image, "s"), device(&image));
    let Bytes::Kept { kept, image: file } = &snapshot.bytes else {
        eprintln!("SKIPPED: {} has reflinks", dir.path().display());
        return;
    };
    // Kept, but the map does not say so yet.
    let mut piece = vec![0; PIECE_BYTES as usize];
    image.read(&mut piece, PIECE_BYTES).unwrap();
    kept.file().write_all_at(&piece, PIECE_BYTES).unwrap();
    assert!(bytes_of(opened(dir.path()).snapshots().get(&name("s")).unwrap().as_ref()) == then);
    // The map says so, the image has not changed yet.
    kept.keep(file, 0, 3 * PIECE_BYTES).unwrap();
    let again = opened(dir.path());
    assert!(bytes_of(&again.snapshots().get(&name("s")).unwrap()) == then);
    // And it has.
    let op = Op { kind: OpKind::Write, offset: 0, len: 3 * PIECE_BYTES };
    again.store(&op, &vec![0xee; op.len as usize]).unwrap();
    assert!(bytes_of(&again.snapshots().get(&name("s")).unwrap()) == then);
    assert!(bytes_of(&snapshot) == then);
}

#[test]
fn a_copy_on_write_snapshot_does_not_outlive_the_machine_nor_its_image() {
    let (dir, image) = made();
    let snapshot = taken(dir.path(), &image, "s");
    if snapshot.about.way == Way::Reflink {
        eprintln!("SKIPPED: {} has reflinks", dir.path().display());
        return;
    }
    drop(image);
    About { boot: "another".into(), ..snapshot.about.clone() }.write(&snapshot.dir).unwrap();
    let image = opened(dir.path());
    let lost = image.snapshots().get(&name("s")).unwrap_err().to_string();
    assert!(lost.contains("given up: the machine was restarted"), "{lost}");
    let again = taken(dir.path(), &image, "s");
    assert!(again.lost().is_none(), "the name is free again");
    drop(image);
    void(dir.path(), "the image is gone").unwrap();
    let image = opened(dir.path());
    assert!(image.snapshots().get(&name("s")).unwrap_err().to_string().contains("the image is gone"));
    image.snapshots().discard(&image.snapshots().find(&name("s")).unwrap()).unwrap();
    assert!(image.snapshots().all().is_empty() && !folder(dir.path()).join("s").exists());
}

#[test]
fn an_old_one_is_given_up_and_reads_nothing_any_more() {
    let (dir, image) = made();
    let snapshot = taken(dir.path(), &image, "s");
    let born = snapshot.about.taken_ms;
    snapshot.look_after(born + AGE_MAX.as_millis() as u64);
    assert_eq!(snapshot.lost(), None);
    snapshot.look_after(born + AGE_MAX.as_millis() as u64 + 1);
    assert_eq!(snapshot.lost(), Some("it was older than 24 hours"));
    assert!(snapshot.read(&mut [0; 512], 0).is_err());
    snapshot.look_after(born);
    assert!(snapshot.tidied.load(Ordering::Relaxed));
    drop(image);
    let later = opened(dir.path());
    assert_eq!(later.snapshots().all()[0].lost(), Some("it was older than 24 hours"));
    assert!(later.store(&Op { kind: OpKind::Write, offset: 0, len: 2 }, b"ab").is_ok());
}

#[test]
fn what_was_begun_and_not_kept_is_no_snapshot() {
    let (dir, image) = made();
    let begun = image.snapshots().begin(&name("s"), &image.origin(dir.path())).unwrap();
    assert!(image.snapshots().all().is_empty());
    assert!(begun.dir().exists());
    drop(image);
    let image = opened(dir.path());
    assert!(image.snapshots().all().is_empty() && !begun.dir().exists());
}

#[test]
fn names_numbers_and_replicas_are_bounded() {
    let (dir, image) = made();
    for text in ["a", "b", "c", "d"] {
        taken(dir.path(), &image, text);
    }
    let begin = |text| image.snapshots().begin(&name(text), &image.origin(dir.path())).unwrap_err();
    assert!(matches!(begin("a"), SnapshotError::Taken(_)));
    assert!(matches!(begin("e"), SnapshotError::TooMany));
    remove_of(dir.path(), ReplicaId(2)).unwrap();
    assert!(folder(dir.path()).join("a").exists(), "of another replica");
    remove_of(dir.path(), ReplicaId(1)).unwrap();
    assert!(!folder(dir.path()).join("a").exists());
}

#[test]
fn what_is_no_snapshot_hinders_no_volume() {
    let (dir, image) = made();
    taken(dir.path(), &image, "good");
    drop(image);
    let folder = folder(dir.path());
    std::fs::write(folder.join("stray"), "a file").unwrap();
    for (name, text) in [("garbage", "{"), ("newer", "{\"version\":99}")] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("about"), text).unwrap();
    }
    // A copy of a whole snapshot under another name would be kept by nobody.
    std::fs::create_dir(folder.join("copy")).unwrap();
    for file in ["about", "bytes"] {
        std::fs::copy(folder.join("good").join(file), folder.join("copy").join(file)).unwrap();
    }
    let image = opened(dir.path());
    let known: Vec<String> = image.snapshots().all().iter().map(|s| s.name().to_string()).collect();
    assert_eq!(known, ["good"]);
    assert!(!folder.join("garbage").exists() && !folder.join("copy").exists());
    drop(image);
    void(dir.path(), "gone").unwrap();
    assert!(opened(dir.path()).snapshots().get(&name("good")).is_err());
}
