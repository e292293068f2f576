//! Volume processes with real FUSE, loop devices and ext4, and what they do when something breaks.
//! Needs root; says SKIPPED otherwise.

#[path = "volume/away.rs"]
mod away;
#[path = "volume/home.rs"]
mod home;

use home::letters::{deliver, has_all, read, write_synced};
use home::{Home, PATIENCE, skip};
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use thermidor_model::Outcome;
use thermidor_model::observe::ReplicaState;
use thermidor_services::volume::control::VolumeControl;

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

/// After a planned detachment every replica holds the same device, without an error.
fn all_alike(home: &Home) {
    let nodes = home.nodes();
    let first = home.device(nodes[0]);
    for node in &nodes {
        home.is_gone(*node);
        home.is_clean(*node);
        let other = home.device(*node);
        let differs = (0..first.len() / 4096)
            .find(|b| first[b * 4096..(b + 1) * 4096] != other[b * 4096..(b + 1) * 4096]);
        assert_eq!(differs, None, "block of radiator {node} differs\n{}", home.words());
    }
}

#[test]
fn one_replica_keeps_files_and_leaves_nothing_behind() {
    if skip("one_replica_keeps_files_and_leaves_nothing_behind") {
        return;
    }
    let mut home = Home::new(101, 1, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..3).unwrap();
    assert_eq!(home.status(1).state, ReplicaState::Active);
    assert_eq!(home.wait(home.radiators[&1].control.attach(1, 1)).unwrap(), mount, "attached already");
    home.detach(1).unwrap();
    home.is_gone(1);
    home.is_clean(1);
    assert!(File::create(mount.join("stray")).is_err(), "an unmounted mountpoint takes no files");
    assert_eq!(home.attach(1).unwrap(), mount);
    has_all(&mount, 0..3);
    home.quit(1);
    home.is_gone(1);
}

#[test]
fn a_crashed_active_needs_a_new_epoch() {
    if skip("a_crashed_active_needs_a_new_epoch") {
        return;
    }
    let mut home = Home::new(102, 1, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..3).unwrap();
    home.kill(1);
    home.start(1);
    home.is_gone(1);
    let again = home.wait(home.radiators[&1].control.attach(1, 1)).unwrap_err();
    assert_eq!(again.to_string(), "volume mail: epoch 1 is spent");
    let mount = home.attach(1).unwrap();
    has_all(&mount, 0..3);
}

#[test]
fn no_lease_no_device_and_a_lease_that_ends_takes_it_away() {
    if skip("no_lease_no_device_and_a_lease_that_ends_takes_it_away") {
        return;
    }
    let home = Home::new(103, 1, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..2).unwrap();
    let mut open = File::create(mount.join("open")).unwrap();
    home.end_lease(1, 0);
    let late = open.write_all(b"late").and_then(|()| open.sync_all());
    assert!(late.is_err(), "acknowledged without a lease");
    drop(open);
    home.until("the device is taken away", || home.status(1).state != ReplicaState::Active);
    home.is_gone(1);
    assert!(home.status(1).fenced.unwrap().contains("lease"));
    let refused = home.wait(home.radiators[&1].control.attach(1, 1)).unwrap_err();
    assert_eq!(refused.to_string(), "volume mail: the lease of mail in epoch 1 is not held here");
    let mount = home.attach(1).unwrap();
    has_all(&mount, 0..2);
    assert!(!read(&mount.join("open")).unwrap_or_default().contains("late"));
}

#[test]
fn three_replicas_hold_the_same_after_a_move() {
    if skip("three_replicas_hold_the_same_after_a_move") {
        return;
    }
    let home = Home::new(104, 3, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..5).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 5..20).unwrap();
    for number in 0..4 {
        std::fs::remove_file(mount.join(format!("letter{number}"))).unwrap();
    }
    let trimmed = Command::new("fstrim").arg(&mount).status().unwrap();
    assert!(trimmed.success());
    let status = home.status(1);
    assert_eq!(status.in_sync, home.record().in_sync);
    assert!(status.replicas.values().all(|r| r.connected && r.counted), "{status:?}");
    home.until("the others follow", || home.status(2).state == ReplicaState::Following);
    home.detach(1).unwrap();
    all_alike(&home);
    let mount = home.attach(3).unwrap();
    has_all(&mount, 4..20);
    deliver(&mount, 20..22).unwrap();
    home.detach(3).unwrap();
    all_alike(&home);
}

#[test]
fn a_killed_replica_is_dropped_and_catches_up() {
    if skip("a_killed_replica_is_dropped_and_catches_up") {
        return;
    }
    let mut home = Home::new(105, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5).unwrap();
    home.kill(2);
    deliver(&mount, 5..15).unwrap();
    home.until_in_sync(&[1, 3]);
    deliver(&mount, 15..25).unwrap();
    home.start(2);
    deliver(&mount, 25..30).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    home.detach(1).unwrap();
    all_alike(&home);
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..30);
}

/// Memory of its own that a process has, KiB.
fn own_memory_kib(pid: rustix::process::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_process_that_serves_again_and_again_takes_no_more_memory() {
    if skip("a_process_that_serves_again_and_again_takes_no_more_memory") {
        return;
    }
    let home = Home::new(121, 2, SIZE);
    let mut seen = Vec::new();
    for round in 0..16 {
        let mount = home.attach(1).unwrap();
        home.until_in_sync(&[1, 2]);
        deliver(&mount, round..round + 3).unwrap();
        home.detach(1).unwrap();
        seen.push(own_memory_kib(home.pid(1)));
    }
    // What is taken for a while may stay; what is taken each time would be there many times over.
    let (early, late) = (seen[..4].iter().max().unwrap(), seen[12..].iter().min().unwrap());
    assert!(*late < early + 16 * 1024, "KiB after each round: {seen:?}");
}

#[test]
fn a_session_ends_when_its_member_is_refused() {
    if skip("a_session_ends_when_its_member_is_refused") {
        return;
    }
    let home = Home::new(120, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5).unwrap();
    // Replica 2 hears that member 1 has left, and takes nothing more of it.
    home.refuse(2, 1, true);
    deliver(&mount, 5..10).unwrap();
    home.until_in_sync(&[1, 3]);
    deliver(&mount, 10..15).unwrap();
    home.refuse(2, 1, false);
    home.until_in_sync(&[1, 2, 3]);
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn a_set_that_is_changed_while_a_volume_is_attached_is_heard_of_at_once() {
    if skip("a_set_that_is_changed_while_a_volume_is_attached_is_heard_of_at_once") {
        return;
    }
    let mut home = Home::new(119, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5).unwrap();
    home.kill(1);
    // The home drops the failed one itself, while the next active is attached by the record as it was.
    let (attaching, epoch) = home.begin_to_attach(2).unwrap();
    let dropped = home.drop_from_set(1);
    assert!(matches!(dropped, Outcome::Set(_)), "{dropped:?}");
    home.until("the new record is taken", || home.configure(2).is_ok());
    let mount = home.wait(attaching).unwrap().unwrap();
    assert_eq!((home.record().epoch, home.status(2).epoch), (epoch, epoch));
    has_all(&mount, 0..5);
    deliver(&mount, 5..8).unwrap();
}

#[test]
fn what_was_fsynced_survives_a_killed_active() {
    if skip("what_was_fsynced_survives_a_killed_active") {
        return;
    }
    let mut home = Home::new(106, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..20).unwrap();
    // In the middle of writing what nobody waits for.
    std::fs::write(mount.join("unsynced"), vec![5; 3 * MIB as usize]).unwrap();
    home.kill(1);
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..20);
    deliver(&mount, 20..25).unwrap();
    home.start(1);
    home.is_gone(1);
    home.until_in_sync(&[1, 2, 3]);
    home.detach(2).unwrap();
    all_alike(&home);
    let mount = home.attach(1).unwrap();
    has_all(&mount, 0..25);
}

#[test]
fn a_frozen_active_gets_nothing_acknowledged_after_its_lease() {
    if skip("a_frozen_active_gets_nothing_acknowledged_after_its_lease") {
        return;
    }
    let home = Home::new(107, 2, SIZE);
    let old = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&old, 0..5).unwrap();
    home.signal(1, Signal::STOP);
    let (tell, told) = channel();
    let stale = old.join("stale");
    let writer = std::thread::spawn(move || drop(tell.send(write_synced(&stale, "stale"))));
    let new = home.attach(2).unwrap();
    has_all(&new, 0..5);
    deliver(&new, 5..8).unwrap();
    // The watchdog frees the writer although the process cannot.
    let outcome = told.recv_timeout(PATIENCE).unwrap_or_else(|e| {
        home.signal(1, Signal::CONT);
        panic!("the writer hangs: {e}\n{}", home.words())
    });
    assert!(outcome.is_err(), "a frozen active acknowledged");
    writer.join().unwrap();
    home.signal(1, Signal::CONT);
    home.until("the old active follows", || {
        home.configure_all();
        home.status(1).state == ReplicaState::Following
    });
    home.until_in_sync(&[1, 2]);
    assert!(read(&new.join("stale")).is_err());
    home.detach(2).unwrap();
    all_alike(&home);
}

#[test]
fn a_missing_foreign_or_truncated_image_is_no_member_and_is_left_alone() {
    if skip("a_missing_foreign_or_truncated_image_is_no_member_and_is_left_alone") {
        return;
    }
    let mut home = Home::new(108, 2, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&mount, 0..2).unwrap();
    home.detach(1).unwrap();
    let (ours, other) = (home.radiators[&2].places.image(), home.radiators[&1].places.image());
    let aside = ours.with_extension("test");
    home.quit(2);
    std::fs::rename(&ours, &aside).unwrap();
    home.launch(2);
    for (put, word) in [(None, "missing"), (Some(&other), "another disk"), (Some(&aside), "truncated")] {
        if let Some(from) = put {
            let source = File::open(from).unwrap();
            io::copy(&mut &source, &mut File::create(&ours).unwrap()).unwrap();
        }
        if word == "truncated" {
            File::options().write(true).open(&ours).unwrap().set_len(9 * MIB).unwrap();
        }
        let refused = home.configure(2).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
        assert!(home.failed_words(2).contains(word));
        assert_eq!(ours.exists(), put.is_some());
        let attached = home.wait(home.radiators[&2].control.attach(1, 1)).unwrap_err();
        assert!(attached.to_string().contains(word), "{attached}");
    }
    std::fs::rename(&aside, &ours).unwrap();
    home.configure(2).unwrap();
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..2);
}

#[test]
fn a_full_disk_ends_the_active_for_good_and_loses_nothing() {
    if skip("a_full_disk_ends_the_active_for_good_and_loses_nothing") {
        return;
    }
    let home = Home::on_disks(109, 2, SIZE, &[(1, 16)]);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&mount, 0..5).unwrap();
    let fill = || {
        let mut file = File::create(mount.join("large"))?;
        let noise: Vec<u8> = (0..MIB as u32).map(|n| n.wrapping_mul(2_654_435_761) as u8 | 1).collect();
        (0..30).try_for_each(|_| file.write_all(&noise))?;
        file.sync_all()
    };
    assert!(fill().is_err(), "a full disk acknowledged");
    home.until("the device is taken away", || home.status(1).state != ReplicaState::Active);
    assert!(home.failed_words(1).contains("the disk is full"), "{}", home.failed_words(1));
    assert!(deliver(&mount, 9..10).is_err());
    home.is_gone(1);
    let again = home.attach(1).unwrap_err().to_string();
    assert!(again.contains("given up"), "{again}");
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..5);
}

#[test]
fn a_replica_with_a_full_disk_is_left_behind() {
    if skip("a_replica_with_a_full_disk_is_left_behind") {
        return;
    }
    let home = Home::on_disks(110, 2, SIZE, &[(2, 16)]);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    let noise: Vec<u8> = (0..25 * MIB as u32).map(|n| n.wrapping_mul(2_654_435_761) as u8 | 1).collect();
    let mut file = File::create(mount.join("large")).unwrap();
    file.write_all(&noise).unwrap();
    file.sync_all().unwrap();
    drop(file);
    home.until_in_sync(&[1]);
    assert!(home.failed_words(2).contains("the disk is full"));
    deliver(&mount, 0..5).unwrap();
    home.detach(1).unwrap();
    home.is_clean(1);
}

/// A process that sits in a mount namespace of its own, with a copy of every mount.
fn sit(propagation: &str) -> std::process::Child {
    let mut child = Command::new("unshare")
        .args(["-m", "--propagation", propagation, "sh", "-c", "echo here; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    child
}

#[test]
fn a_copy_of_the_mount_elsewhere_is_said_and_waited_for() {
    if skip("a_copy_of_the_mount_elsewhere_is_said_and_waited_for") {
        return;
    }
    let home = Home::new(111, 1, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..2).unwrap();
    let mut holder = sit("private");
    let held = home.detach(1);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let words = held.unwrap_err().to_string();
    assert!(words.contains("another mount namespace"), "{words}");
    home.detach(1).unwrap();
    home.is_gone(1);
    let mount = home.attach(1).unwrap();
    has_all(&mount, 0..2);
    let mut follower = sit("slave");
    let done = home.detach(1);
    follower.kill().unwrap();
    follower.wait().unwrap();
    done.unwrap();
    home.is_gone(1);
}

#[test]
fn a_volume_in_use_stays_attached_until_force_is_used() {
    if skip("a_volume_in_use_stays_attached_until_force_is_used") {
        return;
    }
    let home = Home::new(112, 1, SIZE);
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..2).unwrap();
    let open = File::open(mount.join("letter1")).unwrap();
    assert!(home.detach(1).is_err());
    deliver(&mount, 2..3).unwrap();
    home.wait(home.radiators[&1].control.detach(true)).unwrap();
    drop(open);
    home.until("nothing is left", || {
        thermidor_services::volume::device::loops_of(&home.radiators[&1].places.exported())
            .unwrap()
            .is_empty()
    });
    home.is_gone(1);
    let mount = home.attach(1).unwrap();
    has_all(&mount, 0..3);
}

/// A memory cgroup with a limit, of whichever version this machine has.
struct Squeezed(PathBuf);

impl Squeezed {
    fn new(limit_bytes: u64) -> Option<Self> {
        let name = format!("thermidor-volume-test-{}", std::process::id());
        for (root, limit) in [("memory", "memory.limit_in_bytes"), ("", "memory.max")] {
            let dir = Path::new("/sys/fs/cgroup").join(root);
            let group = dir.join(&name);
            let controls = root == "memory" && dir.join(limit).exists()
                || std::fs::read_to_string(dir.join("cgroup.subtree_control"))
                    .is_ok_and(|c| c.contains("memory"));
            if controls && std::fs::create_dir(&group).is_ok() {
                let group = Self(group);
                std::fs::write(group.0.join(limit), limit_bytes.to_string()).unwrap();
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Squeezed {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir(&self.0) {
            eprintln!("{} is left: {e}", self.0.display());
        }
    }
}

#[test]
fn a_writer_short_of_memory_is_slow_but_does_not_hang() {
    let name = "a_writer_short_of_memory_is_slow_but_does_not_hang";
    if skip(name) {
        return;
    }
    let Some(group) = Squeezed::new(16 * MIB) else {
        eprintln!("SKIPPED {name}: there is no memory cgroup to make");
        return;
    };
    let home = Home::new(113, 2, 256 * MIB);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec timeout -s KILL 120 dd if=/dev/zero of={} bs=1M count=150 conv=fsync",
        group.0.display(),
        mount.join("large").display()
    );
    let done = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn garbage_at_its_port_and_its_socket_changes_nothing() {
    if skip("garbage_at_its_port_and_its_socket_changes_nothing") {
        return;
    }
    let home = Home::new(114, 2, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    for node in [1, 2] {
        let radiator = &home.radiators[&node];
        let mut stream = std::net::TcpStream::connect((radiator.ip, home.record().port)).unwrap();
        // A refusal may come before all is sent.
        drop(stream.write_all(&[0x5a; 100_000]));
        let socket = radiator.places.dir.ancestors().nth(2).unwrap().join("volume-mail.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.write_all(b"{\"Attach\":{\"epoch\":\"all\"}}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("that is no request"), "{answer}");
    }
    deliver(&mount, 0..3).unwrap();
    assert_eq!(home.record().in_sync.len(), 2);
    home.detach(1).unwrap();
    all_alike(&home);
}

#[test]
fn a_process_outlives_who_started_it_and_leaves_on_request() {
    if skip("a_process_outlives_who_started_it_and_leaves_on_request") {
        return;
    }
    let mut home = Home::new(115, 1, SIZE);
    home.quit(1);
    let log = home.radiators[&1].places.dir.join("log");
    let command = home.command(1);
    let daemon = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    daemon.block_on(async { VolumeControl::spawn(&command, &log).unwrap() });
    drop(daemon);
    home.until("it is found by its socket", || home.configure(1).is_ok());
    let mount = home.attach(1).unwrap();
    deliver(&mount, 0..2).unwrap();
    let pid = rustix::process::Pid::from_raw(home.status(1).pid as i32).unwrap();
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid, "it leads a session of its own");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    home.until("it has left", || !home.wait(home.radiators[&1].control.is_running()));
    home.until("its mounts are gone", || {
        let places = &home.radiators[&1].places;
        thermidor_services::volume::mounts::all().unwrap().iter().all(|m| !m.point.starts_with(&places.dir))
    });
    home.is_gone(1);
}
