//! Images on a real disk.

use super::super::growth::NotGrown;
use super::*;

const SIZE: u64 = 8 * EXTENT_BYTES;

fn name() -> VolumeName {
    VolumeName::new("mail").unwrap()
}

fn made(dir: &tempfile::TempDir) -> (PathBuf, Image) {
    let path = dir.path().join("image");
    let image = Image::create(&path, &name(), ReplicaId(1), SIZE).unwrap();
    (path, image)
}

fn write(offset: u64, len: u64) -> Op {
    Op { kind: OpKind::Write, offset, len }
}

#[test]
fn what_was_written_is_read_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = made(&dir);
    image.mark(&[0, 1], &[]).unwrap();
    image.chart(&[1, 5, 7], &[]).unwrap();
    image.chart(&[], &[5]).unwrap();
    image.store(&write(EXTENT_BYTES - 2, 4), b"data").unwrap();
    image.update(|h| h.image.promised = 5).unwrap();
    image.note(|h| h.image.durable_seq = 9).unwrap();
    image.sync().unwrap();
    let image = Image::open(&path, &name(), ReplicaId(1)).unwrap();
    let mut back = [0; 4];
    image.read(&mut back, EXTENT_BYTES - 2).unwrap();
    assert_eq!(&back, b"data");
    let state = image.state();
    assert_eq!((state.header.promised, state.header.durable_seq), (5, 9));
    assert_eq!(state.marked, BTreeSet::from([0, 1]));
    assert_eq!(state.noted, BTreeSet::from([1, 7]));
    image.mark(&[], &[0]).unwrap();
    assert_eq!(Image::open(&path, &name(), ReplicaId(1)).unwrap().marked(), BTreeSet::from([1]));
    assert!(image.store(&write(0, 5), b"data").is_err(), "payload and length differ");
}

#[test]
fn a_longer_image_holds_what_it_held_also_if_it_was_cut_off_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = made(&dir);
    image.mark(&[7], &[]).unwrap();
    image.store(&write(SIZE - 2, 2), b"ab").unwrap();
    // As after a power cut between length and header.
    image.file.set_len(DATA_OFFSET + 2 * SIZE).unwrap();
    drop(image);
    let image = Image::open(&path, &name(), ReplicaId(1)).unwrap();
    assert_eq!(image.size_bytes(), SIZE);
    assert!(image.store(&write(SIZE, 1), b"a").is_err(), "not yet");
    image.grow(2 * SIZE).unwrap();
    image.grow(SIZE).unwrap();
    image.mark(&[12], &[]).unwrap();
    image.store(&write(2 * SIZE - 1, 1), b"c").unwrap();
    drop(image);
    let image = Image::open(&path, &name(), ReplicaId(1)).unwrap();
    assert_eq!((image.size_bytes(), image.marked()), (2 * SIZE, BTreeSet::from([7, 12])));
    let mut back = [1; 4];
    image.read(&mut back, SIZE - 2).unwrap();
    assert_eq!(&back, b"ab\0\0");
    assert_eq!(image.data_in(SIZE + EXTENT_BYTES, EXTENT_BYTES).unwrap(), None);
    assert!(matches!(image.grow(SIZE_MAX_BYTES + 1), Err(NotGrown::TooLarge(_))));
}

#[test]
fn what_lay_beyond_the_end_of_a_shorter_device_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = made(&dir);
    let resize = |image: &Image, extents: u64| {
        let size_bytes = extents * EXTENT_BYTES;
        image.save(&ImageHeader { size_bytes, ..image.header().image }, "").unwrap();
    };
    image.mark(&[4, 7], &[]).unwrap();
    image.chart(&[4, 7], &[]).unwrap();
    image.store(&write(7 * EXTENT_BYTES, 2), b"ab").unwrap();
    image.seal(6, &image.hash(6).unwrap()).unwrap();
    image.seal(3, &image.hash(3).unwrap()).unwrap();
    resize(&image, 5);
    assert!(image.store(&write(7 * EXTENT_BYTES, 2), b"ab").is_err(), "outside");
    assert_eq!((image.marked(), image.charted()), (BTreeSet::from([4]), BTreeSet::from([4])));
    assert!(image.extent(7).unwrap().is_empty() && image.hash(7).is_ok(), "asked for a moment too late");
    image.sync().unwrap();
    drop(image);
    let image = Image::open(&path, &name(), ReplicaId(1)).unwrap();
    assert_eq!(image.size_bytes(), 5 * EXTENT_BYTES);
    resize(&image, 8);
    assert_eq!((image.marked(), image.charted()), (BTreeSet::from([4]), BTreeSet::from([4])));
    assert_eq!(image.extent(7).unwrap(), vec![0; EXTENT_BYTES as usize]);
    assert_eq!((image.examine(6).seal, image.examine(3).seal), (Seal::Absent, Seal::Whole));
    image.file.set_len(DATA_OFFSET + EXTENT_BYTES).unwrap();
    let truncated = image.grow(9 * EXTENT_BYTES).unwrap_err();
    assert!(matches!(&truncated, NotGrown::Io(e) if e.to_string().contains("truncated")), "{truncated}");
}

#[test]
fn holes_have_the_hash_of_zeros_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = Image::create(&path, &name(), ReplicaId(1), SIZE_MAX_BYTES).unwrap();
    let last = SIZE_MAX_BYTES / EXTENT_BYTES - 1;
    let began = std::time::Instant::now();
    let zeros = *blake3::hash(&vec![0; EXTENT_BYTES as usize]).as_bytes();
    // Ten thousand of them.
    for extent in (0..last).step_by(375).chain([last]) {
        assert_eq!(image.hash(extent).unwrap(), zeros);
        assert_eq!(image.examine(extent).hash, Some(zeros));
    }
    assert!(began.elapsed().as_secs() < 5, "20 GiB were read: {:?}", began.elapsed());
    image.store(&write(last * EXTENT_BYTES, 2), b"ab").unwrap();
    assert_ne!(image.hash(last).unwrap(), zeros);
    image.mark(&[last], &[]).unwrap();
    image.chart(&[last], &[]).unwrap();
    drop(image);
    let image = Image::open(&path, &name(), ReplicaId(1)).unwrap();
    assert_eq!((image.marked(), image.charted()), (BTreeSet::from([last]), BTreeSet::from([last])));
    assert_eq!(image.extent(last).unwrap()[..3], *b"ab\0");
    assert!(matches!(image.grow(SIZE_MAX_BYTES + 1), Err(NotGrown::TooLarge(_))));
}

#[test]
fn missing_foreign_truncated_and_failed_images_are_told_apart_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = made(&dir);
    let other = VolumeName::new("notes").unwrap();
    assert!(matches!(Image::open(&path, &name(), ReplicaId(2)), Err(ImageError::Foreign { .. })));
    assert!(matches!(Image::open(&path, &other, ReplicaId(1)), Err(ImageError::Foreign { .. })));
    assert!(Image::create(&path, &name(), ReplicaId(3), SIZE).is_err(), "never overwritten");
    image
        .update(|h| {
            h.image.failed = true;
            h.words = "I/O error".into();
        })
        .unwrap();
    let failed = Image::open(&path, &name(), ReplicaId(1)).unwrap_err();
    assert_eq!(failed.to_string(), "the image was given up: I/O error");
    image.file.set_len(DATA_OFFSET + SIZE - 1).unwrap();
    assert!(matches!(Image::open(&path, &name(), ReplicaId(1)), Err(ImageError::Truncated { .. })));
    std::fs::write(&path, vec![0; (DATA_OFFSET + SIZE) as usize]).unwrap();
    assert!(matches!(Image::open(&path, &name(), ReplicaId(1)), Err(ImageError::Broken { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Image::open(&path, &name(), ReplicaId(1)), Err(ImageError::Missing(_))));
    assert!(!path.exists());
}

#[test]
fn what_rots_behind_its_back_is_seen_and_a_write_breaks_the_seal_first() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = made(&dir);
    image.mark(&[1], &[]).unwrap();
    image.store(&write(EXTENT_BYTES, 4), b"data").unwrap();
    let before = image.examine(1);
    assert_eq!(before.seal, Seal::Absent);
    image.sync().unwrap();
    image.seal(1, &before.hash.unwrap()).unwrap();
    assert_eq!(image.examine(1), Found { seal: Seal::Whole, ..before });
    let disk = OpenOptions::new().write(true).open(&path).unwrap();
    disk.write_all_at(b"rota", DATA_OFFSET + EXTENT_BYTES).unwrap();
    let rotten = image.examine(1);
    assert!(rotten.seal == Seal::Broken && rotten.hash != before.hash);
    assert_eq!(image.extent_on_platter(1).unwrap()[..4], *b"rota");
    image.mark(&[1], &[]).unwrap();
    assert_eq!(image.examine(1).seal, Seal::Absent);
}

#[test]
fn a_punched_range_is_zero_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = made(&dir);
    image.store(&write(EXTENT_BYTES, EXTENT_BYTES), &vec![7; EXTENT_BYTES as usize]).unwrap();
    image.sync().unwrap();
    let before = image.used_bytes().unwrap();
    let hole = Op { kind: OpKind::Discard, ..write(EXTENT_BYTES, EXTENT_BYTES) };
    image.store(&hole, &[]).unwrap();
    let mut back = vec![1; 4096];
    image.read(&mut back, EXTENT_BYTES + 4096).unwrap();
    assert_eq!(back, vec![0; 4096]);
    assert!(image.used_bytes().unwrap() < before);
    image.store(&write(3, 9), &[7; 9]).unwrap();
    image.write_zeros(0, 200_000).unwrap();
    image.read(&mut back, 0).unwrap();
    assert_eq!(back, vec![0; 4096]);
}

#[test]
fn nothing_is_read_or_written_outside_of_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = made(&dir);
    assert!(image.store(&write(SIZE - 1, 2), b"xx").is_err());
    assert!(image.store(&write(u64::MAX, 1), b"x").is_err());
    assert!(image.read(&mut [0; 2], SIZE - 1).is_err());
    assert_eq!(image.extent(7).unwrap().len() as u64, EXTENT_BYTES);
    let large = dir.path().join("large");
    let refused = Image::create(&large, &name(), ReplicaId(2), SIZE_MAX_BYTES + 1);
    assert!(matches!(refused, Err(ImageError::TooLarge(_))) && !large.exists());
}
