//! Room of real volume processes: given back when the file system needs it no more, and more of it while
//! somebody writes, whoever is killed, away or without room meanwhile. Needs root; says SKIPPED otherwise.
//!
//! ext4 grows in use only for whoever has CAP_SYS_RESOURCE. Where root lacks that, all but this last step is tested: the
//! loop device is longer, the process says why the file system is not, and what is beyond the old end is written and
//! compared as bytes of the device.

#[path = "volume/home.rs"]
mod home;

use home::letters::{deliver, has_all};
use home::{Home, skip};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thermidor_model::NodeId;
use thermidor_model::observe::ReplicaState;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

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

/// Between two letters of somebody who goes on: so many fit that no fast disk fills the volume.
const PAUSE: Duration = Duration::from_millis(3);

/// Somebody who goes on writing until an error or the end.
struct Writer {
    done: Arc<AtomicU32>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn go_on(mount: &Path, from: u32) -> Self {
        let done = Arc::new(AtomicU32::new(from));
        let ended = Arc::<AtomicBool>::default();
        let (d, e, mount) = (done.clone(), ended.clone(), mount.to_path_buf());
        let thread = std::thread::spawn(move || {
            for number in from.. {
                if e.load(Ordering::SeqCst) || deliver(&mount, number..number + 1).is_err() {
                    return;
                }
                d.store(number + 1, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
            }
        });
        Self { done, ended, thread: Some(thread) }
    }

    fn done(&self) -> u32 {
        self.done.load(Ordering::SeqCst)
    }

    fn goes_on(&self, home: &Home, more: u32) {
        let goal = self.done() + more;
        home.until("the writer goes on", || self.done() >= goal);
    }

    /// Ends it; how many letters there are.
    fn end(&mut self) -> u32 {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.done()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// What does not compress, fsynced.
fn fill(path: &Path, mib: u64) {
    let mut file = File::create(path).unwrap();
    let mut block = vec![0_u8; MIB as usize];
    for number in 0..mib {
        let mut bytes = blake3::Hasher::new();
        bytes.update(&number.to_le_bytes());
        bytes.finalize_xof().fill(&mut block);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn used_mib(home: &Home, node: NodeId) -> u64 {
    home.status(node).used_bytes / MIB
}

/// Size of a file system, MiB.
fn mib_of(mount: &Path) -> u64 {
    let found = rustix::fs::statvfs(mount).unwrap();
    found.f_blocks * found.f_frsize / MIB
}

/// Bytes of the device in an image.
fn device_bytes(home: &Home, node: NodeId) -> u64 {
    std::fs::metadata(home.radiators[&node].places.image()).unwrap().len() - MIB
}

/// The loop device over an export.
fn loop_of(home: &Home, node: NodeId) -> PathBuf {
    let exported = home.radiators[&node].places.exported();
    thermidor_services::volume::device::loops_of(&exported).unwrap().remove(0)
}

/// Size of the loop device over an export, as the kernel has it.
fn loop_bytes(home: &Home, node: NodeId) -> u64 {
    let device = loop_of(home, node);
    let size = Path::new("/sys/class/block").join(device.file_name().unwrap()).join("size");
    std::fs::read_to_string(size).unwrap().trim().parse::<u64>().unwrap() * 512
}

/// Whether this process may have ext4 resized (CAP_SYS_RESOURCE).
fn may_resize() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(bits.trim(), 16).unwrap() & 1 << 24 != 0
}

/// The loop device on the active is so long, and the file system fills it, but for what ext4 needs itself.
fn until_grown(home: &Home, node: NodeId, mount: &Path, size_bytes: u64) {
    home.until("the loop device is longer", || {
        home.configure_all();
        loop_bytes(home, node) == size_bytes
    });
    if may_resize() {
        home.until("the file system is longer", || mib_of(mount) * MIB > size_bytes * 85 / 100);
    } else {
        println!("SKIPPED here: the file system's own growth, for root lacks CAP_SYS_RESOURCE");
        home.until("it says why the file system is not longer", || {
            home.status(node).short.is_some_and(|words| words.contains("resize2fs"))
        });
    }
}

/// Writes so much beyond an old end, durably.
fn write_beyond(home: &Home, node: NodeId, mount: &Path, end_bytes: u64, mib: u64) {
    if may_resize() {
        return fill(&mount.join("big"), mib);
    }
    let device = loop_of(home, node);
    let device = File::options().write(true).open(device).unwrap();
    for number in 0..mib {
        let mut bytes = vec![0; MIB as usize];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        device.write_all_at(&bytes, end_bytes + number * MIB).unwrap();
    }
    device.sync_all().unwrap();
}

/// What was written so is on that radiator.
fn is_written_beyond(home: &Home, node: NodeId, end_bytes: u64, mib: u64) {
    let device = home.device(node);
    for number in (0..mib).filter(|_| !may_resize()) {
        let mut bytes = vec![0; MIB as usize];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let at = (end_bytes + number * MIB) as usize;
        assert!(device[at..at + bytes.len()] == bytes, "MiB {number} beyond the old end");
    }
}

/// A tool of that name that comes before the system's.
fn tool(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// After a planned detachment every replica holds the same, without an error.
fn all_alike(home: &Home) {
    let nodes = home.nodes();
    let first = home.device(nodes[0]);
    for node in &nodes {
        home.is_gone(*node);
        home.is_clean(*node);
        assert!(first == home.device(*node), "radiator {node} differs\n{}", home.words());
    }
}

#[test]
fn what_was_deleted_is_given_back_on_every_radiator() {
    if skip("what_was_deleted_is_given_back_on_every_radiator") {
        return;
    }
    let home = Home::new(151, 2, 256 * MIB);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&mount, 0..1).unwrap();
    fill(&mount.join("big"), 100);
    for node in [1, 2] {
        home.until("the blocks are there", || used_mib(&home, node) >= 100);
    }
    std::fs::remove_file(mount.join("big")).unwrap();
    rustix::fs::syncfs(File::open(&mount).unwrap()).unwrap();
    assert!(used_mib(&home, 1) >= 100, "a deleted file alone gives nothing back");
    let trim = |node: NodeId| home.wait(home.radiators[&node].control.trim());
    let refused = trim(2).unwrap_err().to_string();
    assert!(refused.contains("not mounted here"), "{refused}");
    assert!(trim(1).unwrap() >= 100 * MIB);
    for node in [1, 2] {
        home.until("the blocks are given back", || used_mib(&home, node) < 30);
    }
    eprintln!("used after the trim: {} and {} MiB", used_mib(&home, 1), used_mib(&home, 2));
    has_all(&mount, 0..1);
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn blocks_are_given_back_without_being_asked() {
    if skip("blocks_are_given_back_without_being_asked") {
        return;
    }
    let mut home = Home::new(152, 1, 256 * MIB);
    home.quit(1);
    home.trim_every_ms = 300;
    home.start(1);
    let mount = home.attach(1).unwrap();
    let mut writer = Writer::go_on(&mount, 0);
    fill(&mount.join("big"), 100);
    assert!(used_mib(&home, 1) >= 100);
    std::fs::remove_file(mount.join("big")).unwrap();
    home.until("the blocks are given back", || used_mib(&home, 1) < 60);
    writer.goes_on(&home, 5);
    let letters = writer.end();
    has_all(&mount, 0..letters);
    home.detach(1).unwrap();
    home.is_clean(1);
}

#[test]
fn a_trim_does_not_keep_a_volume() {
    if skip("a_trim_does_not_keep_a_volume") {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    tool(tools.path(), "fstrim", "exec 3<\"$2\"\necho begun >\"$2/begun\"\nexec sleep 1000");
    let mut home = Home::new(153, 1, SIZE);
    home.quit(1);
    home.tools = Some(tools.path().into());
    home.start(1);
    let mount = home.attach(1).unwrap();
    let control = home.radiators[&1].control.clone();
    let trimming = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(control.trim())
    });
    home.until("it is being trimmed", || mount.join("begun").exists());
    let again = home.wait(home.radiators[&1].control.trim()).unwrap_err().to_string();
    assert!(again.contains("trimmed already"), "{again}");
    let began = Instant::now();
    home.detach(1).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let ended = trimming.join().unwrap().unwrap_err().to_string();
    assert!(ended.contains("being detached"), "{ended}");
    home.is_gone(1);
    home.is_clean(1);
}

#[test]
fn a_volume_grows_under_a_writer_and_on_whoever_was_away() {
    if skip("a_volume_grows_under_a_writer_and_on_whoever_was_away") {
        return;
    }
    let mut home = Home::new(154, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    let mut writer = Writer::go_on(&mount, 0);
    writer.goes_on(&home, 10);
    home.kill(3);
    home.until_in_sync(&[1, 2]);
    let (began, set) = (Instant::now(), home.record().set_version);
    home.grow(3 * SIZE);
    until_grown(&home, 1, &mount, 3 * SIZE);
    eprintln!("{} MiB after {:?}, letter {}", mib_of(&mount), began.elapsed(), writer.done());
    assert_eq!(loop_bytes(&home, 1), 3 * SIZE);
    assert_eq!(home.record().set_version, set, "nobody is dropped for it");
    writer.goes_on(&home, 10);
    home.until_in_sync(&[1, 2]);
    assert_eq!(device_bytes(&home, 2), 3 * SIZE);
    assert_eq!(device_bytes(&home, 3), SIZE, "whoever is away knows nothing of it");
    home.start(3);
    home.until_in_sync(&[1, 2, 3]);
    assert_eq!(device_bytes(&home, 3), 3 * SIZE);
    // Beyond the old end, on every one of them.
    write_beyond(&home, 1, &mount, SIZE + MIB, 100);
    writer.goes_on(&home, 10);
    let letters = writer.end();
    home.detach(1).unwrap();
    all_alike(&home);
    is_written_beyond(&home, 3, SIZE + MIB, 100);
    let mount = home.attach(3).unwrap();
    has_all(&mount, 0..letters);
    until_grown(&home, 3, &mount, 3 * SIZE);
}

/// Kills the volume process, which is the parent of its tool, at one point of growing.
fn killers(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let (losetup, resize) = ("exec /usr/sbin/losetup \"$@\"", "/usr/sbin/resize2fs \"$@\"");
    let at = |what: &'static str, name: &str, script: String| {
        let tools = dir.join(what.replace(' ', "-"));
        std::fs::create_dir(&tools).unwrap();
        tool(&tools, name, &script);
        (what, tools)
    };
    let only_c = |script: &str| format!("if [ \"$1\" = -c ]; then {script}; fi\n{losetup}");
    vec![
        at("before the loop device", "losetup", only_c("kill -9 $PPID; exit 1")),
        at("after the loop device", "losetup", only_c("/usr/sbin/losetup \"$@\"; kill -9 $PPID; exit 1")),
        at("before the file system", "resize2fs", "kill -9 $PPID".into()),
        at("within the file system", "resize2fs", format!("{resize} & sleep 0.01; kill -9 $PPID; wait")),
        at("after the file system", "resize2fs", format!("{resize}; kill -9 $PPID")),
    ]
}

#[test]
fn growing_that_was_cut_off_is_finished_by_whoever_attaches_next() {
    if skip("growing_that_was_cut_off_is_finished_by_whoever_attaches_next") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut home = Home::new(155, 2, SIZE);
    let (mut letters, mut size) = (0, SIZE);
    for (round, (when, tools)) in killers(dir.path()).into_iter().enumerate() {
        let next = if round % 2 == 0 { 1 } else { 2 };
        home.quit(1);
        home.tools = Some(tools);
        home.start(1);
        let mount = home.attach(1).unwrap();
        home.until_in_sync(&[1, 2]);
        let mut writer = Writer::go_on(&mount, letters);
        let is_killed = || {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(home.pid(1)), options).unwrap().is_some()
        };
        // Where root may not make a file system larger, that was left to be done and begins at once.
        home.until("the writer goes on", || writer.done() >= letters + 3 || is_killed());
        size += SIZE;
        home.grow(size);
        home.until("it is killed", is_killed);
        home.kill(1);
        home.tools = None;
        home.start(1);
        letters = writer.end();
        eprintln!("killed {when}: {letters} letters, radiator {next} goes on");
        let mount = home.attach(next).unwrap();
        has_all(&mount, 0..letters);
        until_grown(&home, next, &mount, size);
        home.until_in_sync(&[1, 2]);
        deliver(&mount, letters..letters + 1).unwrap();
        letters += 1;
        home.detach(next).unwrap();
        all_alike(&home);
        assert_eq!([device_bytes(&home, 1), device_bytes(&home, 2)], [size, size]);
    }
}

fn remount(disk: &Path, mib: u64) {
    let options = format!("remount,size={mib}m");
    assert!(Command::new("mount").args(["-o", &options]).arg(disk).status().unwrap().success());
}

#[test]
fn a_replica_without_room_says_so_and_is_not_counted() {
    if skip("a_replica_without_room_says_so_and_is_not_counted") {
        return;
    }
    let home = Home::on_disks(156, 2, SIZE, &[(2, 100)]);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    let mut writer = Writer::go_on(&mount, 0);
    writer.goes_on(&home, 5);
    home.grow(4 * SIZE);
    until_grown(&home, 1, &mount, 4 * SIZE);
    home.until_in_sync(&[1]);
    let words = home.status(2).short.unwrap();
    assert!(words.contains("grows by 192 MiB") && words.contains("MiB left"), "{words}");
    assert!(!matches!(home.status(2).state, ReplicaState::Failed(_)), "it is a replica still");
    writer.goes_on(&home, 5);
    remount(home.radiators[&2].places.dir.parent().unwrap(), 1000);
    home.until_in_sync(&[1, 2]);
    assert_eq!((home.status(2).short, device_bytes(&home, 2)), (None, 4 * SIZE));
    writer.goes_on(&home, 5);
    let letters = writer.end();
    home.detach(1).unwrap();
    all_alike(&home);
    has_all(&home.attach(2).unwrap(), 0..letters);
}

#[test]
fn an_active_without_room_stays_as_it_is_until_there_is_some() {
    if skip("an_active_without_room_stays_as_it_is_until_there_is_some") {
        return;
    }
    let home = Home::on_disks(157, 2, SIZE, &[(1, 100)]);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    let mut writer = Writer::go_on(&mount, 0);
    let was = mib_of(&mount);
    home.grow(4 * SIZE);
    home.until("it says so", || home.status(1).short.is_some());
    let words = home.status(1).short.unwrap();
    assert!(words.contains("grows by 192 MiB"), "{words}");
    writer.goes_on(&home, 5);
    assert_eq!((mib_of(&mount), device_bytes(&home, 1)), (was, SIZE));
    home.until_in_sync(&[1, 2]);
    remount(home.radiators[&1].places.dir.parent().unwrap(), 1000);
    until_grown(&home, 1, &mount, 4 * SIZE);
    let room = |words: String| words.contains("grows by");
    home.until("it says nothing of room any more", || !home.status(1).short.is_some_and(room));
    home.until_in_sync(&[1, 2]);
    writer.end();
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn an_empty_tebibyte_costs_some_mebibytes() {
    if skip("an_empty_tebibyte_costs_some_mebibytes") {
        return;
    }
    let home = Home::new(158, 1, 1 << 40);
    let began = Instant::now();
    let mount = home.attach(1).unwrap();
    let attached = began.elapsed();
    deliver(&mount, 0..1).unwrap();
    let trimmed = home.wait(home.radiators[&1].control.trim()).unwrap();
    assert!(trimmed > 900 << 30, "{trimmed}");
    let used = used_mib(&home, 1);
    eprintln!("{} GiB: attached within {attached:?}, {used} MiB used", mib_of(&mount) >> 10);
    assert!(used < 64, "{used} MiB");
    has_all(&mount, 0..1);
    home.detach(1).unwrap();
}

#[test]
fn a_snapshot_keeps_its_size_and_a_comparison_goes_to_the_new_end() {
    if skip("a_snapshot_keeps_its_size_and_a_comparison_goes_to_the_new_end") {
        return;
    }
    // No multiple of what is compared at once: the last piece of the shorter device grows too.
    let size = SIZE - 3 * MIB / 4;
    let home = Home::new(159, 2, size);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&mount, 0..20).unwrap();
    let check = || {
        let control = &home.radiators[&1].control;
        let pass = home.wait(control.check()).unwrap();
        let now = || home.status(1).examination.unwrap();
        home.until("the comparison ends", || now().pass > pass || now().pass == pass && !now().running);
        now()
    };
    // From now on every piece is sealed.
    let record = check();
    assert!(record.alike() && record.extents == 64, "{record:?}");
    let name = |text: &str| thermidor_model::SnapshotName::new(text).unwrap();
    for (node, text) in [(1, "active"), (2, "standby")] {
        home.wait(home.radiators[&node].control.take_snapshot(name(text))).unwrap();
    }
    home.grow(3 * SIZE);
    until_grown(&home, 1, &mount, 3 * SIZE);
    write_beyond(&home, 1, &mount, size, 80);
    std::fs::remove_file(mount.join("letter0")).unwrap();
    let record = check();
    assert!(record.alike() && record.extents == 3 * SIZE / MIB && record.repaired_ever == 0, "{record:?}");
    for (node, text) in [(1, "active"), (2, "standby")] {
        let control = &home.radiators[&node].control;
        let then = home.wait(control.mount_snapshot(name(text))).unwrap();
        assert!(mib_of(&then) * MIB < size && !then.join("big").exists(), "{} MiB", mib_of(&then));
        has_all(&then, 0..20);
        home.wait(control.unmount_snapshot(name(text))).unwrap();
    }
    home.detach(1).unwrap();
    all_alike(&home);
}
