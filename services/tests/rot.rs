//! Bit rot under real volume processes: bytes of an image change behind its process's back, and the comparison of
//! replicas finds it, repairs it, or says that nobody can. Needs root; says SKIPPED otherwise.

#[path = "volume/home.rs"]
mod home;

use home::{Home, skip};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thermidor_model::NodeId;
use thermidor_model::replication::scrub::Record;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// In an image the device's bytes begin there.
const DATA: u64 = MIB;
/// Nobody searches by himself in the time of a test.
const NEVER: Option<(u64, u64)> = Some((1 << 40, 1 << 40));

/// Not a test: what this binary is when it is started as a volume process.
#[test]
fn be_a_process() {
    home::be_a_process();
}

/// Not a test either: the watchdog.
#[test]
fn be_a_watchdog() {
    home::be_a_watchdog();
}

/// Bytes that occur nowhere else.
fn marker(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A file of 3 MiB that begins with its marker, fsynced.
fn write_marked(mount: &Path, name: &str) {
    let noise: Vec<u8> =
        (0..3 * MIB as u32).map(|n| n.wrapping_mul(2_654_435_761).rotate_left(7) as u8).collect();
    let mut file = File::create(mount.join(name)).unwrap();
    file.write_all(&marker(name)).unwrap();
    file.write_all(&noise).unwrap();
    file.sync_all().unwrap();
    File::open(mount).unwrap().sync_all().unwrap();
}

/// Where a file's first bytes lie in a radiator's device.
fn place_of(home: &Home, node: NodeId, name: &str) -> u64 {
    let (device, marker) = (home.device(node), marker(name));
    let found = device.chunks(1024).position(|block| block.starts_with(&marker));
    found.unwrap_or_else(|| panic!("{name} is not in the image of {node}")) as u64 * 1024
}

/// Flips one bit behind the process's back, on the disk.
fn flip(home: &Home, node: NodeId, at: u64) {
    let image = File::options().read(true).write(true).open(home.radiators[&node].places.image()).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, DATA + at).unwrap();
    image.write_all_at(&[byte[0] ^ 0x10], DATA + at).unwrap();
    image.sync_all().unwrap();
}

fn examination(home: &Home, node: NodeId) -> Record {
    home.until("the search has begun", || home.status(node).examination.is_some());
    home.status(node).examination.unwrap()
}

/// Has all replicas compared, and waits for the end.
fn check(home: &Home, node: NodeId) -> Record {
    let pass = home.wait(home.radiators[&node].control.check()).unwrap();
    home.until("the comparison ends", || {
        let now = examination(home, node);
        now.pass > pass || now.pass == pass && !now.running
    });
    let record = examination(home, node);
    println!("compared: {record:?}");
    record
}

/// After a planned detachment every replica holds the same device, without an error.
fn all_alike(home: &Home) {
    let nodes = home.nodes();
    let first = home.device(nodes[0]);
    for node in &nodes {
        home.is_clean(*node);
        assert!(home.device(*node) == first, "the image of {node} differs\n{}", home.words());
    }
}

#[test]
fn a_bit_that_flips_on_a_standby_is_found_and_repaired() {
    if skip("a_bit_that_flips_on_a_standby_is_found_and_repaired") {
        return;
    }
    let home = Home::at_pace(131, 3, SIZE, &[], NEVER);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    write_marked(&mount, "large");
    let at = place_of(&home, 2, "large") + 5000;
    flip(&home, 2, at);
    let record = check(&home, 1);
    assert_eq!((record.repaired, record.alike()), (1, true), "{record:?}");
    assert_eq!((record.repairs[0].extent, record.repairs[0].wrong.clone()), (at / MIB, vec![2]));
    assert_eq!(check(&home, 1).repaired, 0);
    assert_eq!(home.record().in_sync.len(), 3, "nobody was dropped for it");
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn a_bit_that_flips_under_the_active_is_repaired_from_another_replica() {
    if skip("a_bit_that_flips_under_the_active_is_repaired_from_another_replica") {
        return;
    }
    let home = Home::at_pace(132, 3, SIZE, &[], NEVER);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    write_marked(&mount, "large");
    let at = place_of(&home, 1, "large");
    flip(&home, 1, at);
    let record = check(&home, 1);
    assert_eq!((record.repaired, record.alike()), (1, true), "{record:?}");
    assert_eq!(record.repairs[0].wrong, [1]);
    assert_eq!(place_of(&home, 1, "large"), at, "its marker is whole again");
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn of_two_replicas_a_seal_tells_which_is_right_and_without_one_it_is_told_and_left() {
    if skip("of_two_replicas_a_seal_tells_which_is_right_and_without_one_it_is_told_and_left") {
        return;
    }
    let home = Home::at_pace(133, 2, SIZE, &[], NEVER);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    write_marked(&mount, "unsealed");
    let at = place_of(&home, 2, "unsealed") + 100;
    flip(&home, 2, at);
    let record = check(&home, 1);
    let finding = &record.open[&(at / MIB)];
    assert!(finding.undecided && record.repaired == 0, "{record:?}");
    let words = finding.words(at / MIB, |node| format!("r{node}"));
    println!("{words}");
    assert!(words.contains("nobody can tell which is right, nothing was changed"), "{words}");
    assert!(words.contains("r1 against r2") || words.contains("r2 against r1"), "{words}");
    assert_ne!(home.device(1), home.device(2), "nothing was changed");
    // Flipped back it is whole again; then all is sealed.
    flip(&home, 2, at);
    let record = check(&home, 1);
    assert!(record.alike() && record.repaired == 0, "{record:?}");
    for node in [2, 1] {
        flip(&home, node, at);
        let record = check(&home, 1);
        assert_eq!((record.repaired, record.alike()), (1, true), "{record:?}");
        assert_eq!(record.repairs.last().unwrap().wrong, [node]);
    }
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn writers_go_on_while_replicas_are_compared_and_no_false_alarm_arises() {
    if skip("writers_go_on_while_replicas_are_compared_and_no_false_alarm_arises") {
        return;
    }
    let home = Home::at_pace(134, 3, SIZE, &[], NEVER);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..3u8)
        .map(|number| {
            let (stop, longest, path) = (stop.clone(), longest.clone(), mount.join(format!("busy{number}")));
            std::thread::spawn(move || {
                let file = File::create(path).unwrap();
                let mut written = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let block = [written as u8 ^ number; 4096];
                    file.write_all_at(&block, written * 7919 * 4096 % (8 * MIB)).unwrap();
                    if written.is_multiple_of(5) {
                        file.sync_data().unwrap();
                    }
                    longest.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                    written += 1;
                }
                written
            })
        })
        .collect();
    for _ in 0..5 {
        let record = check(&home, 1);
        assert!(record.alike() && record.repaired_ever == 0, "{record:?}\n{}", home.words());
        assert_eq!(record.compared, [1, 2, 3].into());
    }
    stop.store(true, Ordering::Relaxed);
    let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    println!("{written} writes meanwhile, the longest took {} ms", longest.load(Ordering::Relaxed));
    assert!(written > 100 && !home.words().contains("the replicas differ"), "{}", home.words());
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn the_slow_search_finds_it_by_itself_and_the_next_active_goes_on_where_it_was() {
    if skip("the_slow_search_finds_it_by_itself_and_the_next_active_goes_on_where_it_was") {
        return;
    }
    let home = Home::at_pace(135, 3, SIZE, &[], Some((1 << 40, 50)));
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    write_marked(&mount, "large");
    home.until("some of it was looked at", || examination(&home, 1).next >= 5);
    home.detach(1).unwrap();
    let mount = home.attach(3).unwrap();
    let record = examination(&home, 3);
    assert!(record.next >= 4 && record.pass == 1 && record.running, "it began anew: {record:?}");
    write_marked(&mount, "later");
    // It ends, and the next one that is asked for begins at the beginning.
    home.until("the pass ends", || !examination(&home, 3).running);
    assert!(examination(&home, 3).alike());
    home.detach(3).unwrap();
    drop(home);

    let home = Home::at_pace(136, 3, SIZE, &[], Some((1_000, 5)));
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    write_marked(&mount, "large");
    flip(&home, 3, place_of(&home, 3, "large") + 77);
    home.until("it is found and repaired unasked", || examination(&home, 1).repaired_ever == 1);
    assert_eq!(examination(&home, 1).repairs[0].wrong, [3]);
    std::thread::sleep(Duration::from_millis(100));
    home.detach(1).unwrap();
    all_alike(&home);
}
