//! Replicas whose disk or way is bad: an image that is truncated or deleted under its process, a disk with I/O errors,
//! one that hangs, a replica that stands still, one far away, radiators that reboot again and again. Each is said in
//! clear words, and nothing acknowledged is lost. Needs root; says SKIPPED otherwise.

#[path = "volume/home.rs"]
mod home;

use home::letters::{self, has_all};
use home::{Home, skip};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command as Process;
use std::sync::mpsc::channel;
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

/// Delivers letters one by one; how long the slowest took.
fn deliver(mount: &Path, numbers: std::ops::Range<u32>) -> Duration {
    let one = |number: u32| {
        let began = Instant::now();
        letters::deliver(mount, number..number + 1).unwrap();
        began.elapsed()
    };
    numbers.map(one).max().unwrap_or_default()
}

fn all_alike(home: &Home, nodes: &[NodeId]) {
    let first = home.device(nodes[0]);
    for node in nodes {
        home.is_clean(*node);
        assert!(home.device(*node) == first, "the image of {node} differs\n{}", home.words());
    }
}

/// What is done to a live image, and the words for it.
type Harm = (u8, fn(&Path), &'static str);

#[test]
fn an_image_that_is_truncated_or_deleted_under_a_standby_is_said_and_given_up() {
    if skip("an_image_that_is_truncated_or_deleted_under_a_standby_is_said_and_given_up") {
        return;
    }
    let harms: [Harm; 2] = [
        (
            141,
            |image| File::options().write(true).open(image).unwrap().set_len(9 * MIB).unwrap(),
            "truncated",
        ),
        (142, |image| std::fs::remove_file(image).unwrap(), "deleted"),
    ];
    for (subnet, harm, word) in harms {
        let home = Home::new(subnet, 3, SIZE);
        let mount = home.attach(1).unwrap();
        home.until_in_sync(&[1, 2, 3]);
        deliver(&mount, 0..5);
        harm(&home.radiators[&2].places.image());
        deliver(&mount, 5..10);
        home.until_in_sync(&[1, 3]);
        let words = home.failed_words(2);
        assert!(words.contains(word), "{words}");
        println!("{words}");
        deliver(&mount, 10..15);
        home.detach(1).unwrap();
        all_alike(&home, &[1, 3]);
        let mount = home.attach(3).unwrap();
        has_all(&mount, 0..15);
    }
}

#[test]
fn an_image_that_is_truncated_under_the_active_ends_its_service_there_and_loses_nothing() {
    if skip("an_image_that_is_truncated_under_the_active_ends_its_service_there_and_loses_nothing") {
        return;
    }
    let home = Home::new(143, 2, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    deliver(&mount, 0..5);
    File::options().write(true).open(home.radiators[&1].places.image()).unwrap().set_len(9 * MIB).unwrap();
    let late = File::create(mount.join("late")).and_then(|file| file.sync_all());
    assert!(late.is_err(), "acknowledged on a truncated image");
    home.until("the device is taken away", || home.status(1).state != ReplicaState::Active);
    assert!(home.failed_words(1).contains("truncated"), "{}", home.failed_words(1));
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..5);
}

#[test]
fn a_replica_that_stands_still_is_dropped_after_its_timeout_and_not_waited_for_longer() {
    if skip("a_replica_that_stands_still_is_dropped_after_its_timeout_and_not_waited_for_longer") {
        return;
    }
    let home = Home::new(144, 3, SIZE);
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5);
    home.signal(2, Signal::STOP);
    let longest = deliver(&mount, 5..20);
    println!("the longest fsync took {longest:?}");
    assert!(longest < Duration::from_secs(5), "writers waited {longest:?}");
    assert_eq!(home.record().in_sync, [1, 3].into());
    home.signal(2, Signal::CONT);
    home.until_in_sync(&[1, 2, 3]);
    home.detach(1).unwrap();
    all_alike(&home, &[1, 2, 3]);
}

/// A program that must succeed.
fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let done = Process::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A disk that can die: another volume, whose device answers every request with an I/O error once its lease has ended.
struct Mortal(Home);

impl Mortal {
    fn new(subnet: u8) -> Self {
        let under = Home::new(subnet, 1, 4 * SIZE);
        under.attach(1).unwrap();
        Self(under)
    }

    fn mount(&self, disk: &Path) -> bool {
        run("mount", &["--bind".as_ref(), self.0.radiators[&1].places.mount().as_ref(), disk.as_ref()]);
        true
    }

    fn die(&self) {
        self.0.end_lease(1, 0);
    }
}

#[test]
fn a_disk_with_io_errors_ends_the_active_there_for_good_and_loses_nothing() {
    if skip("a_disk_with_io_errors_ends_the_active_there_for_good_and_loses_nothing") {
        return;
    }
    let bad = Mortal::new(148);
    let home = Home::over(149, 3, SIZE, |node, _, disk| node == 1 && bad.mount(disk));
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5);
    bad.die();
    let late = letters::deliver(&mount, 5..6);
    assert!(late.is_err(), "acknowledged what its disk refused");
    home.until("the device is taken away", || home.status(1).state != ReplicaState::Active);
    let words = home.failed_words(1);
    assert!(words.contains("the disk failed"), "{words}");
    println!("{words}");
    home.is_gone(1);
    // Sticky: whatever the disk says of itself later.
    let again = home.attach(1).unwrap_err().to_string();
    println!("{again}");
    assert!(again.contains("given up"), "{again}");
    let mount = home.attach(2).unwrap();
    has_all(&mount, 0..5);
    deliver(&mount, 6..8);
    home.until_in_sync(&[2, 3]);
    home.detach(2).unwrap();
    all_alike(&home, &[2, 3]);
}

#[test]
fn a_standby_whose_disk_has_io_errors_is_left_behind_and_says_so_and_is_not_asked_all_the_time() {
    if skip("a_standby_whose_disk_has_io_errors_is_left_behind_and_says_so_and_is_not_asked_all_the_time") {
        return;
    }
    let bad = Mortal::new(151);
    let home = Home::over(152, 3, SIZE, |node, _, disk| node == 3 && bad.mount(disk));
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5);
    bad.die();
    let longest = deliver(&mount, 5..10);
    println!("the longest fsync took {longest:?}");
    home.until_in_sync(&[1, 2]);
    let words = home.failed_words(3);
    assert!(words.contains("the disk failed"), "{words}");
    println!("{words}");
    std::thread::sleep(Duration::from_secs(4));
    let log = std::fs::read_to_string(home.root.path().join("3.log")).unwrap();
    let refused = log.matches("a session of an active is refused").count();
    assert_eq!(refused, 1, "{log}");
    let log = std::fs::read_to_string(home.root.path().join("1.log")).unwrap();
    let attempts = log.matches("a session to a replica ended").count();
    assert!(attempts < 15, "{attempts} attempts\n{log}");
    deliver(&mount, 10..15);
    home.detach(1).unwrap();
    all_alike(&home, &[1, 2]);
}

/// A disk of 256 MiB with a file system of its own on a loop device.
fn own_disk(root: &Path, disk: &Path) -> bool {
    let device = root.join("device");
    File::create(&device).unwrap().set_len(256 * MIB).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), device.as_ref()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), device.as_ref(), disk.as_ref()]);
    true
}

/// A disk that answers nothing, until it is dropped.
struct Hanging<'a>(&'a Path);

impl<'a> Hanging<'a> {
    fn disk(at: &'a Path) -> Self {
        assert!(Process::new("fsfreeze").arg("-f").arg(at).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        let thawed = Process::new("fsfreeze").arg("-u").arg(self.0).status();
        assert!(thawed.unwrap().success(), "{} stays frozen", self.0.display());
    }
}

#[test]
fn a_replica_whose_disk_hangs_is_dropped_and_catches_up_once_it_answers() {
    if skip("a_replica_whose_disk_hangs_is_dropped_and_catches_up_once_it_answers") {
        return;
    }
    let home = Home::over(150, 3, SIZE, |node, root, disk| node == 2 && own_disk(root, disk));
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 0..5);
    let hanging = Hanging::disk(&home.disks[0]);
    let longest = deliver(&mount, 5..20);
    println!("the longest fsync took {longest:?}");
    assert_eq!(home.record().in_sync, [1, 3].into());
    assert!(longest < Duration::from_secs(15), "writers waited {longest:?}");
    drop(hanging);
    home.until_in_sync(&[1, 2, 3]);
    deliver(&mount, 20..25);
    home.detach(1).unwrap();
    all_alike(&home, &[1, 2, 3]);
}

#[test]
fn radiators_that_reboot_again_and_again_cost_time_and_nothing_else() {
    if skip("radiators_that_reboot_again_and_again_cost_time_and_nothing_else") {
        return;
    }
    let mut home = Home::new(146, 3, SIZE);
    let mut mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2, 3]);
    let (mut letters, mut longest) = (0, Duration::ZERO);
    // A standby that never stays up for long enough to be whole.
    for up_ms in [0, 20, 80, 150, 300, 0, 20, 80] {
        home.kill(3);
        longest = longest.max(deliver(&mount, letters..letters + 3));
        home.start(3);
        std::thread::sleep(Duration::from_millis(up_ms));
        longest = longest.max(deliver(&mount, letters + 3..letters + 6));
        letters += 6;
    }
    println!("{letters} letters past a standby that reboots, the longest fsync took {longest:?}");
    assert!(longest < Duration::from_secs(5), "writers waited {longest:?}");
    home.until_in_sync(&[1, 2, 3]);
    // Actives that last for a moment, each of them found again by the one after next.
    for (active, next) in [(1, 2), (2, 3), (3, 1), (1, 2), (2, 1)] {
        deliver(&mount, letters..letters + 2);
        letters += 2;
        home.kill(active);
        home.start(active);
        mount = home.attach(next).unwrap();
        has_all(&mount, 0..letters);
        home.until_in_sync(&[1, 2, 3]);
    }
    home.detach(1).unwrap();
    all_alike(&home, &[1, 2, 3]);
}

#[test]
fn a_volume_process_is_the_last_to_go_when_memory_is_short_and_no_terminal_ends_it() {
    if skip("a_volume_process_is_the_last_to_go_when_memory_is_short_and_no_terminal_ends_it") {
        return;
    }
    let home = Home::new(147, 1, SIZE);
    let pid = home.pid(1).as_raw_nonzero().get();
    let about = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap();
    // Machines whose root lacks CAP_SYS_RESOURCE refuse this, and the process says so.
    let told = home.words().contains("staying when memory is short");
    assert!(about("oom_score_adj").trim() == "-1000" || told, "{}", home.words());
    println!("oom_score_adj {}", about("oom_score_adj").trim());
    // Not in the group of whoever writes, which may be short of memory.
    let apart = home.words().contains("a control group of its own");
    let group = |groups: &str| {
        let own = groups.lines().filter(|l| l.contains(":memory:") || l.starts_with("0::"));
        own.map(str::to_string).collect::<Vec<_>>()
    };
    let (its, ours) =
        (group(&about("cgroup")), group(&std::fs::read_to_string("/proc/self/cgroup").unwrap()));
    let named = its.iter().all(|line| line.ends_with("/thermidor-volume-mail"));
    assert!(!apart && named && its != ours, "{its:?}, here {ours:?}\n{}", home.words());
    // Behind the name in brackets: state, parent, group, session.
    let stat = about("stat");
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "{stat}");
}

/// Passes connections on, each byte so much later.
fn far_away(listen: Ipv4Addr, to: Ipv4Addr, port: u16, late: Duration) {
    let listener = TcpListener::bind((listen, port)).unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let Ok(far) = TcpStream::connect((to, port)) else { continue };
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            for (mut from, mut into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                let (send, passed) = channel::<(Instant, Vec<u8>)>();
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = from.read(&mut bytes) {
                        if send.send((Instant::now() + late, bytes[..read].to_vec())).is_err() {
                            return;
                        }
                    }
                });
                std::thread::spawn(move || {
                    for (due, bytes) in passed {
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        if into.write_all(&bytes).is_err() {
                            return;
                        }
                    }
                    // The other end may have gone already.
                    drop(into.shutdown(Shutdown::Both));
                });
            }
        }
    });
}

#[test]
fn a_replica_three_hundred_milliseconds_away_stays_in_sync_and_slows_each_flush_by_that_and_no_more() {
    if skip(
        "a_replica_three_hundred_milliseconds_away_stays_in_sync_and_slows_each_flush_by_that_and_no_more",
    ) {
        return;
    }
    let mut home = Home::new(145, 2, SIZE);
    let (proxy, real) = (Ipv4Addr::new(127, 0, 145, 102), Ipv4Addr::new(127, 0, 145, 2));
    far_away(proxy, real, home.record().port, Duration::from_millis(150));
    home.reached_by.insert(2, proxy.into());
    let mount = home.attach(1).unwrap();
    home.until_in_sync(&[1, 2]);
    let longest = deliver(&mount, 0..10);
    println!("the longest letter took {longest:?}");
    assert!(longest > Duration::from_millis(300), "it was not waited for: {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(home.record().in_sync, [1, 2].into(), "it was never dropped\n{}", home.words());
    let began = Instant::now();
    let noise = vec![7; 16 * MIB as usize];
    let mut file = File::create(mount.join("large")).unwrap();
    file.write_all(&noise).unwrap();
    file.sync_all().unwrap();
    drop(file);
    println!("16 MiB took {:?}", began.elapsed());
    home.detach(1).unwrap();
    all_alike(&home, &[1, 2]);
}
