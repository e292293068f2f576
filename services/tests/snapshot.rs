//! Snapshots of real volume processes while mail is written: exact on the active and on a replica, whatever is
//! killed, filled or taken over meanwhile. Needs root; says SKIPPED otherwise.

#[path = "volume/home.rs"]
mod home;

use home::letters::text;
use home::{Home, skip};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use thermidor_model::observe::ReplicaState;
use thermidor_model::{NodeId, SnapshotName};
use thermidor_services::volume::control::VolumeControl;
use thermidor_services::volume::device::{Places, loops_of};
use thermidor_services::volume::mounts;
use thermidor_services::volume::snapshot::{SnapshotView, Way};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// A write is sent with what follows it, or this much later.
const SENT_WITHIN: Duration = Duration::from_millis(400);

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

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// One letter, fsynced.
fn deliver(mount: &Path, number: u32) -> std::io::Result<()> {
    let mut file = File::create(mount.join(format!("letter{number}")))?;
    file.write_all(text(number).as_bytes())?;
    file.sync_all()?;
    // In place, over and over: what a copy-on-write that came too late would show.
    let board = File::options().create(true).write(true).truncate(false).open(mount.join("board"))?;
    board.write_all_at(&number.to_le_bytes(), 0)?;
    board.write_all_at(&[number as u8; 200_000], 4096)?;
    board.sync_all()?;
    File::open(mount)?.sync_all()
}

/// Somebody who goes on writing.
struct Writer {
    begun: Arc<AtomicU32>,
    done: Arc<AtomicU32>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(mount: &Path) -> Self {
        Self::go_on(mount, 0)
    }

    /// Goes on from a letter; all before it are there.
    fn go_on(mount: &Path, from: u32) -> Self {
        let (begun, done) = (Arc::new(AtomicU32::new(from)), Arc::new(AtomicU32::new(from)));
        let ended = Arc::<AtomicBool>::default();
        let (b, d, e, mount) = (begun.clone(), done.clone(), ended.clone(), mount.to_path_buf());
        let thread = std::thread::spawn(move || {
            for number in from.. {
                if e.load(Ordering::SeqCst) {
                    return;
                }
                b.store(number + 1, Ordering::SeqCst);
                if deliver(&mount, number).is_err() {
                    return;
                }
                d.store(number + 1, Ordering::SeqCst);
            }
        });
        Self { begun, done, ended, thread: Some(thread) }
    }

    fn done(&self) -> u32 {
        self.done.load(Ordering::SeqCst)
    }

    fn goes_on(&self, home: &Home, more: u32) {
        let goal = self.done() + more;
        home.until("the writer goes on", || self.done() >= goal);
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// A snapshot, and between which letters it was taken.
struct Taken {
    node: NodeId,
    view: SnapshotView,
    /// All letters below were fsynced before.
    before: u32,
    /// None from here on was begun.
    after: u32,
}

fn take(home: &Home, writer: &Writer, node: NodeId, text: &str) -> Taken {
    let before = writer.done();
    let view = home.wait(home.radiators[&node].control.take_snapshot(name(text)));
    let view = view.unwrap_or_else(|e| panic!("{text} on {node}: {e}\n{}", home.words()));
    let after = writer.begun.load(Ordering::SeqCst);
    eprintln!(
        "{text} on {node}: {} held writes for {} us, letters {before}..{after}",
        view.way, view.held_us
    );
    Taken { node, view, before, after }
}

fn control(home: &Home, node: NodeId) -> &VolumeControl {
    &home.radiators[&node].control
}

fn mount(home: &Home, taken: &Taken) -> PathBuf {
    let mounted = home.wait(control(home, taken.node).mount_snapshot(taken.view.name.clone()));
    mounted.unwrap_or_else(|e| panic!("{:?}: {e}\n{}", taken.view, home.words()))
}

/// Every letter fsynced before, none begun later, and a file system without an error; by its mount.
fn is_exact(taken: &Taken, point: &Path) {
    for number in 0..taken.before {
        let mut found = String::new();
        File::open(point.join(format!("letter{number}"))).unwrap().read_to_string(&mut found).unwrap();
        assert!(found == text(number), "letter {number} of {:?}", taken.view);
    }
    for entry in std::fs::read_dir(point).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if let Some(number) = file.strip_prefix("letter") {
            assert!(number.parse::<u32>().unwrap() < taken.after, "{file} is later than {:?}", taken.view);
        }
    }
    if taken.before > 0 {
        let mut number = [0; 4];
        File::open(point.join("board")).unwrap().read_exact_at(&mut number, 0).unwrap();
        let number = u32::from_le_bytes(number);
        assert!((taken.before - 1..taken.after).contains(&number), "the board shows {number}");
    }
    assert!(File::create(point.join("mine")).is_err(), "a snapshot took a file");
    let devices = loops_of(&point.parent().unwrap().join("fuse/device")).unwrap();
    let checked = Command::new("e2fsck").arg("-fn").arg(&devices[0]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// The same, mounting it for this.
fn check(home: &Home, taken: &Taken) {
    let point = mount(home, taken);
    is_exact(taken, &point);
    home.wait(control(home, taken.node).unmount_snapshot(taken.view.name.clone())).unwrap();
    is_unmounted(home, taken);
}

fn is_unmounted(home: &Home, taken: &Taken) {
    let places = home.radiators[&taken.node].places.snapshot(&taken.view.name);
    assert!(loops_of(&places.exported()).unwrap().is_empty());
    assert!(mounts::all().unwrap().iter().all(|m| !m.point.starts_with(&places.dir)));
}

fn lost(home: &Home, node: NodeId, text: &str) -> Option<String> {
    let status = home.status(node);
    status.snapshots.into_iter().find(|s| s.name == name(text)).unwrap().lost
}

/// A snapshot on the active and one on the replica, while mail is written.
fn both_are_exact(home: &Home, way: Way) {
    let at = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    home.until("the replica follows", || home.status(2).state == ReplicaState::Following);
    let mut writer = Writer::start(&at);
    writer.goes_on(home, 20);
    let mut all = vec![];
    for round in 0..2 {
        for node in [1, 2] {
            all.push(take(home, &writer, node, &format!("s{round}")));
            writer.goes_on(home, 15);
        }
    }
    for taken in &all {
        assert_eq!(taken.view.way, way);
        // Aimed at are milliseconds; a machine that also runs all other tests gets more.
        assert!(taken.view.held_us < 1_000_000, "{:?}", taken.view);
        check(home, taken);
    }
    writer.goes_on(home, 30);
    writer.end();
    all.iter().for_each(|taken| check(home, taken));
    home.detach(1).unwrap();
    home.is_gone(1);
    all.iter().for_each(|taken| check(home, taken));
    for taken in &all {
        home.wait(control(home, taken.node).remove_snapshot(taken.view.name.clone())).unwrap();
    }
    assert!(home.status(1).snapshots.is_empty() && home.status(2).snapshots.is_empty());
}

#[test]
fn what_is_overwritten_is_kept_on_the_active_and_on_a_replica() {
    if skip("what_is_overwritten_is_kept_on_the_active_and_on_a_replica") {
        return;
    }
    // Memory file systems share no blocks, whatever the machine's disk can.
    both_are_exact(&Home::on_disks(141, 2, SIZE, &[(1, 300), (2, 300)]), Way::CopyOnWrite);
}

#[test]
fn blocks_are_shared_where_the_disk_can() {
    let test = "blocks_are_shared_where_the_disk_can";
    if skip(test) {
        return;
    }
    if Command::new("mkfs.xfs").arg("-V").output().is_err() {
        eprintln!("SKIPPED {test}: there is no mkfs.xfs");
        return;
    }
    let home = Home::over(142, 2, SIZE, |node, root, disk| {
        let file = root.join(format!("{node}.xfs"));
        File::create(&file).unwrap().set_len(512 * MIB).unwrap();
        let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&file).status();
        assert!(made.unwrap().success());
        let done = Command::new("mount").args(["-t", "xfs", "-o", "loop"]).args([&*file, disk]).status();
        assert!(done.unwrap().success());
        true
    });
    both_are_exact(&home, Way::Reflink);
}

#[test]
fn a_killed_process_costs_a_snapshot_nothing() {
    if skip("a_killed_process_costs_a_snapshot_nothing") {
        return;
    }
    let mut home = Home::on_disks(143, 1, SIZE, &[(1, 300)]);
    let (mut taken, mut delivered): (Option<Taken>, u32) = (None, 0);
    for round in 0..3 {
        let at = home.attach(1).unwrap();
        let mut writer = Writer::go_on(&at, delivered);
        if let Some(taken) = &taken {
            writer.goes_on(&home, 10);
            check(&home, taken);
            home.wait(control(&home, 1).remove_snapshot(taken.view.name.clone())).unwrap();
        }
        writer.goes_on(&home, 10);
        let now = take(&home, &writer, 1, &format!("s{round}"));
        let point = mount(&home, &now);
        writer.goes_on(&home, 10);
        // In the midst of writing and of reading.
        let letters = point.join("board");
        let reader = std::thread::spawn(move || while std::fs::read(&letters).is_ok() {});
        home.kill(1);
        // What the page cache holds may still be read: the mount ends with the next process.
        home.start(1);
        reader.join().unwrap();
        writer.end();
        is_unmounted(&home, &now);
        assert_eq!(lost(&home, 1, now.view.name.as_str()), None);
        check(&home, &now);
        (taken, delivered) = (Some(now), writer.done());
    }
}

#[test]
fn a_snapshot_stays_while_another_takes_over() {
    if skip("a_snapshot_stays_while_another_takes_over") {
        return;
    }
    let mut home = Home::on_disks(144, 2, SIZE, &[(1, 300), (2, 300)]);
    let at = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    home.until("the replica follows", || home.status(2).state == ReplicaState::Following);
    let mut writer = Writer::start(&at);
    writer.goes_on(&home, 10);
    let all = [take(&home, &writer, 1, "old"), take(&home, &writer, 2, "new")];
    writer.goes_on(&home, 10);
    home.kill(1);
    writer.end();
    let at = home.attach(2).unwrap();
    let mut writer = Writer::go_on(&at, writer.done());
    writer.goes_on(&home, 20);
    check(&home, &all[1]);
    // The old active is caught up while its snapshot is there.
    home.start(1);
    let refused = home.wait(control(&home, 1).take_snapshot(name("early"))).unwrap_err().to_string();
    assert!(refused.contains("not in sync"), "{refused}");
    home.until_in_sync(&[1, 2]);
    writer.goes_on(&home, 10);
    all.iter().for_each(|taken| check(&home, taken));
    let later = take(&home, &writer, 1, "later");
    writer.goes_on(&home, 10);
    writer.end();
    check(&home, &later);
    all.iter().for_each(|taken| check(&home, taken));
    home.detach(2).unwrap();
}

#[test]
fn a_disk_that_gets_short_costs_the_snapshot_and_not_the_volume() {
    if skip("a_disk_that_gets_short_costs_the_snapshot_and_not_the_volume") {
        return;
    }
    let mut home = Home::on_disks(145, 1, SIZE, &[(1, 64)]);
    let at = home.attach(1).unwrap();
    let noise = |from: u32| -> Vec<u8> {
        (0..10 * MIB as u32).map(|n| n.wrapping_add(from).wrapping_mul(2_654_435_761) as u8 | 1).collect()
    };
    let board = File::create(at.join("large")).unwrap();
    board.write_all_at(&noise(0), 0).unwrap();
    board.sync_all().unwrap();
    let mut writer = Writer::start(&at);
    writer.goes_on(&home, 5);
    let taken = take(&home, &writer, 1, "s");
    assert_eq!(taken.view.way, Way::CopyOnWrite);
    writer.end();
    let point = mount(&home, &taken);
    board.write_all_at(&noise(9), 0).unwrap();
    board.sync_all().unwrap();
    let kept = home.status(1).snapshots[0].kept_bytes;
    assert!(kept >= 10 * MIB && lost(&home, 1, "s").is_none(), "{kept}");
    // Somebody else fills the disk, to the last byte.
    let disk = home.radiators[&1].places.dir.parent().unwrap().to_path_buf();
    let filler = File::create(disk.join("filler")).unwrap();
    let free = rustix::fs::statvfs(&disk).unwrap();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free.f_bavail * free.f_frsize)
        .unwrap();
    let from = writer.done();
    for number in from..from + 5 {
        deliver(&at, number).unwrap();
    }
    home.until("the snapshot is given up", || lost(&home, 1, "s").is_some());
    let words = lost(&home, 1, "s").unwrap();
    assert!(words.contains("the disk became"), "{words}");
    home.until("its mount is taken away", || home.status(1).snapshots[0].mounted.is_none());
    is_unmounted(&home, &taken);
    assert!(std::fs::read_dir(&point).unwrap().next().is_none());
    // Its room came back, which the volume now needs.
    std::fs::write(at.join("more"), &noise(3)[..7 * MIB as usize]).unwrap();
    File::open(at.join("more")).unwrap().sync_all().unwrap();
    assert_eq!(home.status(1).state, ReplicaState::Active);
    let mounting = home.wait(control(&home, 1).mount_snapshot(name("s"))).unwrap_err().to_string();
    assert!(mounting.contains("was given up: the disk became"), "{mounting}");
    let again = home.wait(control(&home, 1).take_snapshot(name("t"))).unwrap_err().to_string();
    assert!(again.contains("the disk is nearly full"), "{again}");
    // The next process says the same.
    drop(board);
    home.detach(1).unwrap();
    home.kill(1);
    home.start(1);
    assert_eq!(lost(&home, 1, "s"), Some(words));
    drop(filler);
    std::fs::remove_file(disk.join("filler")).unwrap();
    home.is_clean(1);
    home.wait(control(&home, 1).take_snapshot(name("s"))).unwrap();
    assert_eq!(lost(&home, 1, "s"), None, "the name was free");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    if skip("what_makes_no_sense_is_refused_in_words") {
        return;
    }
    let home = Home::on_disks(146, 1, SIZE, &[(1, 300)]);
    let control = control(&home, 1);
    let refused = |outcome: Result<(), thermidor_services::volume::control::ControlError>, words: &str| {
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains(words), "{said} is not: {words}");
    };
    // At rest there is no file system yet.
    home.wait(control.take_snapshot(name("blank"))).unwrap();
    refused(home.wait(control.mount_snapshot(name("blank"))).map(drop), "file system is not there");
    let at = home.attach(1).unwrap();
    let mut writer = Writer::start(&at);
    writer.goes_on(&home, 3);
    let taken = take(&home, &writer, 1, "a");
    refused(home.wait(control.take_snapshot(name("a"))).map(drop), "there is a snapshot a already");
    for text in ["b", "c"] {
        home.wait(control.take_snapshot(name(text))).unwrap();
    }
    refused(home.wait(control.take_snapshot(name("d"))).map(drop), "remove one first");
    refused(home.wait(control.mount_snapshot(name("d"))).map(drop), "there is no snapshot d here");
    refused(home.wait(control.unmount_snapshot(name("d"))), "there is no snapshot d here");
    refused(home.wait(control.remove_snapshot(name("d"))), "there is no snapshot d here");
    let point = mount(&home, &taken);
    assert_eq!(mount(&home, &taken), point, "mounted already");
    refused(home.wait(control.remove_snapshot(name("a"))), "mounted: unmount it first");
    let open = File::open(point.join("board")).unwrap();
    refused(home.wait(control.unmount_snapshot(name("a"))), "in use");
    is_exact(&taken, &point);
    drop(open);
    home.wait(control.unmount_snapshot(name("a"))).unwrap();
    home.wait(control.remove_snapshot(name("a"))).unwrap();
    assert!(!home.radiators[&1].places.snapshot(&name("a")).dir.exists());
    for bad in ["../image", "", "A", "a b"] {
        let socket = home.radiators[&1].places.dir.ancestors().nth(2).unwrap().join("volume-mail.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.write_all(format!("{{\"TakeSnapshot\":\"{bad}\"}}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("is no snapshot's name"), "{answer}");
    }
    home.wait(control.remove_snapshot(name("b"))).unwrap();
    // Whoever may not serve takes none as the active.
    home.end_lease(1, 0);
    if let Err(e) = home.wait(control.take_snapshot(name("late"))) {
        assert!(e.to_string().contains("cut off"), "{e}");
        home.until("it follows again", || home.status(1).state != ReplicaState::Active);
        home.wait(control.take_snapshot(name("late"))).unwrap();
    }
    writer.end();
}

#[test]
fn a_replica_promises_nothing_that_is_not_flushed() {
    if skip("a_replica_promises_nothing_that_is_not_flushed") {
        return;
    }
    let home = Home::on_disks(147, 2, SIZE, &[(1, 300), (2, 300)]);
    let at = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&at, 0).unwrap();
    home.wait(control(&home, 2).take_snapshot(name("quiet"))).unwrap();
    // Past the page cache, so that it is sent, and flushed by nobody before two seconds are over.
    let written = Command::new("dd")
        .args(["if=/dev/urandom", "bs=4096", "count=8", "seek=1", "conv=notrunc", "oflag=direct"])
        .arg(format!("of={}", at.join("board").display()))
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    std::thread::sleep(SENT_WITHIN);
    home.signal(1, Signal::STOP);
    let early = home.wait(control(&home, 2).take_snapshot(name("early")));
    home.signal(1, Signal::CONT);
    let words = early.unwrap_err().to_string();
    assert!(words.contains("does not flush") || words.contains("broke off"), "{words}");
    assert!(home.status(2).snapshots.iter().all(|s| s.name == name("quiet")));
    File::open(at.join("board")).unwrap().sync_all().unwrap();
    home.until_in_sync(&[1, 2]);
    home.until("it flushes", || home.wait(control(&home, 2).take_snapshot(name("early"))).is_ok());
}

#[test]
fn a_replica_of_a_volume_at_rest_waits_for_no_flush_of_the_file_system() {
    if skip("a_replica_of_a_volume_at_rest_waits_for_no_flush_of_the_file_system") {
        return;
    }
    let home = Home::on_disks(148, 2, SIZE, &[(1, 300), (2, 300)]);
    let at = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&at, 0).unwrap();
    // Into the last block, which belongs to no file, behind the file system's back: it has nothing to flush.
    let exported = Places { dir: at.parent().unwrap().into() }.exported();
    let last = SIZE / 4096 - 1;
    let written = Command::new("dd")
        .args(["if=/dev/urandom", "bs=4096", "count=1", "conv=notrunc", "oflag=direct"])
        .args([format!("seek={last}"), format!("of={}", exported.display())])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    std::thread::sleep(SENT_WITHIN);
    home.wait(control(&home, 2).take_snapshot(name("rest"))).unwrap();
}
