//! A replica that was away is brought up to date by the dirty-extent map: what was written meanwhile, and no more.

use super::home::{Home, skip};
use super::{MIB, all_alike};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use thermidor_model::observe::CatchUp;
use thermidor_model::replication::{Grade, Limits};

/// A volume so large that only a part of it is ever written here.
const LARGE: u64 = 256 * MIB;

/// Files of a MiB each, fsynced.
fn fill(mount: &Path, files: std::ops::Range<u8>) {
    for number in files {
        let mut file = File::create(mount.join(format!("file{number}"))).unwrap();
        file.write_all(&vec![number; MIB as usize]).unwrap();
        file.sync_all().unwrap();
    }
}

/// Extents in which two radiators' images differ.
fn differing(home: &Home, one: u64, other: u64) -> u64 {
    let (one, other) = (home.device(one), home.device(other));
    let extents = one.chunks(MIB as usize).zip(other.chunks(MIB as usize));
    extents.filter(|(one, other)| one != other).count() as u64
}

/// How an active brings a replica up to date in their present session.
fn catch_up(home: &Home, active: u64, replica: u64) -> CatchUp {
    home.status(active).replicas[&replica].catch_up.unwrap()
}

#[test]
fn a_replica_that_was_away_long_gets_the_extents_written_meanwhile_and_no_others() {
    if skip("a_replica_that_was_away_long_gets_the_extents_written_meanwhile_and_no_others") {
        return;
    }
    let mut home = Home::new(117, 3, LARGE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    fill(&mount, 0..20);
    home.kill(3);
    home.until_in_sync(&[1, 2]);
    fill(&mount, 20..60);
    let written = differing(&home, 1, 3);
    assert!((40..80).contains(&written), "{written} extents of 256");
    home.start(3);
    home.until_in_sync(&[1, 2, 3]);
    let told = catch_up(&home, 1, 3);
    println!("{written} extents differed: {told:?}");
    assert_eq!(told.grade, Grade::Map);
    // What was written with the same bytes as before is copied too: the journal's head.
    assert!((written..written + 3).contains(&told.extents_copied), "{written} differed, {told:?}");
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn a_killed_active_is_followed_by_one_that_knows_what_a_missing_replica_lacks() {
    if skip("a_killed_active_is_followed_by_one_that_knows_what_a_missing_replica_lacks") {
        return;
    }
    let mut home = Home::new(118, 3, LARGE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    fill(&mount, 0..20);
    home.kill(3);
    home.until_in_sync(&[1, 2]);
    fill(&mount, 20..50);
    home.kill(1);
    let mount = home.attach(2).unwrap();
    fill(&mount, 50..60);
    home.until_in_sync(&[2]);
    // Once more in another process, so that nothing is known but what the image says.
    home.kill(2);
    home.start(2);
    let mount = home.attach(2).unwrap();
    fill(&mount, 60..62);
    let lacks = [1, 3].map(|node| differing(&home, 2, node));
    assert!((10..30).contains(&lacks[0]) && (40..80).contains(&lacks[1]), "{lacks:?} extents of 256");
    home.start(3);
    home.start(1);
    home.until_in_sync(&[1, 2, 3]);
    for (node, lacks) in [1, 3].into_iter().zip(lacks) {
        let told = catch_up(&home, 2, node);
        println!("{lacks} extents differed on {node}: {told:?}");
        assert_eq!(told.grade, Grade::Map);
        assert!((lacks..lacks + 3).contains(&told.extents_copied), "{lacks} differed on {node}, {told:?}");
        // So many extents stay in a map though all hold them: more than this small volume has are not looked at.
        assert!(told.extents_total <= Limits::default().noted_max as u64, "{told:?}");
    }
    home.detach(2).unwrap();
    all_alike(&home);
}
