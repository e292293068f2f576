//! On folders of their own: each exchange ended before each of its steps and gone on with, each merge twice.

use super::swap::exchange_by;
use super::*;
use crate::restic::Measured;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

const DAY: &str = "2026-11-26";

/// Everything below a folder that is data: files with their content, folders with nothing.
fn below(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if folder == root && is_no_data(&entry.file_name()) {
                continue;
            }
            let (path, about) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if about.is_dir() {
                all.insert(format!("{name}/"), String::new());
                folders.push(path);
            } else if about.is_symlink() {
                all.insert(name, format!("-> {}", std::fs::read_link(&path).unwrap().display()));
            } else {
                all.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    all
}

fn put(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn ours(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(".thermidor"));
    names.sort();
    names
}

const OLD: [(&str, &str); 3] = [("marie/cur/1", "late"), ("queue/a", "q"), (".hidden", "h")];
const NEW: [(&str, &str); 3] = [("marie/cur/1", "early"), ("luc/cur/2", "two"), (".hidden", "g")];

/// A volume with data and restored files beside them.
fn volume() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &OLD);
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    let staged = new_staging(dir.path()).unwrap().join("volumes/box");
    put(&staged, &NEW);
    std::fs::set_permissions(&staged, Permissions::from_mode(0o711)).unwrap();
    dir
}

fn alone(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), files);
    below(dir.path())
}

fn from() -> &'static Path {
    Path::new("volumes/box")
}

#[test]
fn restored_files_take_the_place_of_those_that_were_there_and_give_it_back() {
    let dir = volume();
    let root = dir.path();
    let mode = || root.metadata().unwrap().mode() & 0o777;
    let first = mode();
    assert!(has_restored(root, from()).unwrap());
    assert_eq!(exchange(root, 0, from()).unwrap(), Exchanged { earlier: true });
    assert_eq!(below(root), alone(&NEW));
    assert_eq!(mode(), 0o711, "the root is of whoever it was");
    assert_eq!(below(&root.join(BEFORE)), alone(&OLD));
    assert!(root.join("lost+found").is_dir());
    assert_eq!(ours(root), [BEFORE, JOURNAL]);
    // Told twice, done once.
    exchange(root, 0, from()).unwrap();
    assert_eq!(below(root), alone(&NEW));
    // Something is written, and then the person wants the earlier files after all.
    put(root, &[("luc/cur/3", "three")]);
    assert_eq!(exchange(root, 1, from()).unwrap(), Exchanged { earlier: true });
    assert_eq!((below(root), mode()), (alone(&OLD), first));
    assert_eq!(below(&root.join(BEFORE))["luc/cur/3"], "three", "what was written since is kept too");
    exchange(root, 2, from()).unwrap();
    assert_eq!(below(root)["luc/cur/3"], "three");
    clean(root).unwrap();
    assert!(ours(root).is_empty());
    assert_eq!(below(root)["luc/cur/2"], "two");
}

#[test]
fn an_exchange_goes_on_from_wherever_it_was_ended() {
    for turns in 1..=2_u32 {
        for end in 0.. {
            let dir = volume();
            let root = dir.path();
            for turn in 0..turns - 1 {
                exchange(root, turn, from()).unwrap();
            }
            let mut left = end;
            let mut crash = || match left {
                0 => Err(io::Error::other("the power is gone")),
                _ => {
                    left -= 1;
                    Ok(())
                }
            };
            let ended = exchange_by(root, turns - 1, from(), &mut crash);
            if ended.is_ok() {
                assert!(end > 5, "{end} steps in all");
                break;
            }
            // No file is ever in two places or in none.
            let mut seen: Vec<_> = below(root).into_values().filter(|text| !text.is_empty()).collect();
            for aside in [STAGING, BEFORE] {
                if root.join(aside).is_dir() {
                    seen.extend(below(&root.join(aside)).into_values().filter(|text| !text.is_empty()));
                }
            }
            seen.sort();
            assert_eq!(seen, ["early", "g", "h", "late", "q", "two"], "turn {turns}, step {end}");
            let done = exchange(root, turns - 1, from()).unwrap();
            assert_eq!(done, Exchanged { earlier: true });
            let (is, was) = if turns == 1 { (&NEW, &OLD) } else { (&OLD, &NEW) };
            assert_eq!(below(root), alone(is), "turn {turns}, step {end}");
            assert_eq!(below(&root.join(BEFORE)), alone(was), "turn {turns}, step {end}");
            assert_eq!(ours(root), [BEFORE, JOURNAL]);
        }
    }
}

#[test]
fn nothing_goes_aside_for_a_restore_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, &OLD);
    assert!(exchange(root, 0, from()).is_err());
    new_staging(root).unwrap();
    assert!(exchange(root, 0, from()).is_err(), "an empty staging folder is no restore");
    assert!(exchange(root, 1, from()).is_err(), "nothing was kept");
    assert!(!has_restored(root, from()).unwrap());
    assert_eq!(below(root), alone(&OLD));
    assert!(exchange(root, 0, Path::new("../../etc")).is_err());
    // A service that laid a link where the restored files should be.
    let elsewhere = tempfile::tempdir().unwrap();
    put(elsewhere.path(), &[("box/passwd", "root")]);
    symlink(elsewhere.path(), root.join(STAGING).join("volumes")).unwrap();
    assert!(exchange(root, 0, from()).is_err());
    clean(root).unwrap();
    symlink(elsewhere.path(), root.join(STAGING)).unwrap();
    staging(root).unwrap();
    assert!(root.join(STAGING).symlink_metadata().unwrap().is_dir());
    assert_eq!(below(elsewhere.path()).len(), 2, "nothing of it was touched");
    assert_eq!(below(root), alone(&OLD));
}

#[test]
fn a_volume_that_was_empty_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    put(&new_staging(dir.path()).unwrap().join(from()), &NEW);
    assert_eq!(exchange(dir.path(), 0, from()).unwrap(), Exchanged { earlier: false });
    assert_eq!(below(dir.path()), alone(&NEW));
}

#[test]
fn a_turn_before_its_time_and_a_journal_of_a_later_program_are_refused() {
    let dir = volume();
    let root = dir.path();
    exchange_by(root, 0, from(), &mut {
        let mut left = 3;
        move || {
            left -= 1;
            if left == 0 { Err(io::Error::other("ended")) } else { Ok(()) }
        }
    })
    .unwrap_err();
    assert!(exchange(root, 1, from()).is_err(), "turn 0 is not over");
    exchange(root, 0, from()).unwrap();
    exchange(root, 1, from()).unwrap();
    assert!(exchange(root, 0, from()).is_err(), "that was before");
    std::fs::write(root.join(JOURNAL), "{\"version\":2,\"turn\":1,\"phase\":\"Done\"}").unwrap();
    assert!(exchange(root, 1, from()).unwrap_err().to_string().contains("newer thermidor"));
}

#[test]
fn a_merge_adds_what_is_missing_and_puts_nothing_in_the_place_of_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("into"));
    put(&into, &[("notes/a", "a"), ("notes/b", "changed"), ("plain", "file"), ("only-here", "x")]);
    put(&from, &[("notes/a", "a"), ("notes/b", "b"), ("notes/deep/c", "c"), ("plain/d", "d"), ("new", "n")]);
    symlink("a", from.join("notes/link")).unwrap();
    symlink("/etc/passwd", into.join("trap")).unwrap();
    put(&from, &[("trap/x", "x")]);
    let done = merge(&from, &into, DAY).unwrap();
    let mut expected: BTreeMap<String, String> = alone(&[
        ("notes/a", "a"),
        ("notes/b", "changed"),
        ("notes/b.restored-2026-11-26", "b"),
        ("notes/deep/c", "c"),
        ("plain", "file"),
        ("plain.restored-2026-11-26/d", "d"),
        ("only-here", "x"),
        ("new", "n"),
        ("trap.restored-2026-11-26/x", "x"),
    ]);
    expected.insert("notes/link".into(), "-> a".into());
    expected.insert("trap".into(), "-> /etc/passwd".into());
    assert_eq!(below(&into), expected);
    assert_eq!(done, Merged { added: 3, there: 1, beside: 3 });
    // The same once more, as after a crash that lost what was renamed before it was told.
    put(&from, &[("notes/a", "a"), ("notes/b", "b"), ("notes/deep/c", "c"), ("new", "n")]);
    let again = merge(&from, &into, DAY).unwrap();
    assert_eq!((again.added, again.there), (0, 3));
    assert_eq!(below(&into), expected);
}

#[test]
fn no_message_of_a_maildir_is_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("into"));
    let live = [
        ("marie/cur/100.M1P1.salon,S=5:2,RS", "read since"),
        ("marie/new/101.M1P1.salon", "new"),
        ("marie/tmp/x", "under way"),
        ("marie/dovecot-uidlist", "of now"),
        ("marie/.Archive/cur/90.M1P1.salon:2,S", "old"),
    ];
    put(&into, &live);
    std::fs::create_dir_all(into.join("marie/.Archive/new")).unwrap();
    std::fs::create_dir_all(into.join("marie/.Archive/tmp")).unwrap();
    put(
        &from,
        &[
            ("marie/new/100.M1P1.salon,S=5", "read since"),
            ("marie/cur/101.M1P1.salon:2,S", "new"),
            ("marie/cur/102.M1P1.salon:2,FSac", "gone since"),
            ("marie/new/103.M1P1.salon", "gone unread"),
            ("marie/tmp/y", "under way then"),
            ("marie/dovecot-uidlist", "of then"),
            ("marie/dovecot.index", "of then"),
            ("marie/.Archive/cur/90.M1P1.salon:2,", "old"),
            ("marie/.Archive/cur/91.M1P1.salon:2,S", "archived"),
            ("marie/.Gone/cur/80.M1P1.salon:2,S", "its folder is gone too"),
            ("marie/.Gone/dovecot-uidlist", "of then"),
        ],
    );
    let done = merge(&from, &into, DAY).unwrap();
    let mut expected = live.to_vec();
    expected.extend([
        // What the letters stood for is listed in no file that is the same.
        ("marie/cur/102.M1P1.salon:2,FS", "gone since"),
        ("marie/new/103.M1P1.salon", "gone unread"),
        ("marie/.Archive/cur/91.M1P1.salon:2,S", "archived"),
        ("marie/.Gone/cur/80.M1P1.salon:2,S", "its folder is gone too"),
        ("marie/.Gone/dovecot-uidlist", "of then"),
    ]);
    let mut expected = alone(&expected);
    expected.insert("marie/.Archive/new/".into(), String::new());
    expected.insert("marie/.Archive/tmp/".into(), String::new());
    assert_eq!(below(&into), expected);
    assert_eq!(done, Merged { added: 5, there: 3, beside: 0 });
    let again = merge(&from, &into, DAY).unwrap();
    assert_eq!(again.added, 0);
    assert_eq!(below(&into), expected);
}

#[test]
fn flags_that_mean_the_same_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("into"));
    for folder in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(into.join(folder)).unwrap();
    }
    put(&into, &[("dovecot-keywords", "0 urgent\n")]);
    put(&from, &[("dovecot-keywords", "0 urgent\n"), ("cur/1.a.b:2,Sa", "m")]);
    merge(&from, &into, DAY).unwrap();
    assert!(into.join("cur/1.a.b:2,Sa").exists());
}

#[test]
fn room_is_counted_before_anything_is_touched() {
    let mail = Measured { files: 5000, bytes: 1 << 30 };
    assert!(enough(&mail, 2 << 30).is_ok());
    let short = enough(&mail, 1 << 30).unwrap_err();
    assert!(short.needed > (1 << 30) + 5000 * 4096);
    assert!(short.to_string().starts_with("1099 MiB are needed and 1024 MiB are free"), "{short}");
    assert!(enough(&Measured::default(), 1 << 20).is_err(), "a file system needs some for itself");
    assert!(free_in(Path::new("/")).unwrap() > 0);
    assert!(free_in(Path::new("/nowhere")).is_err());
    let spare = spare_in(Path::new("/")).unwrap();
    assert!(spare < free_in(Path::new("/")).unwrap(), "what is only looked at fills no disk");
}
