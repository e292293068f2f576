//! The lab itself: if it did not cut, kill and clean up as it says, no test that stands on it
//! would prove anything.

#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;
use thermidor_supervisor::demo::client::audit::audit;
use thermidor_supervisor::demo::client::connect::Connected;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Guest, Lab, Radiator, images};
use thermidor_tests::traces;

/// Whether one machine reaches another, by one ping.
fn reaches(from: &Radiator, to: &Radiator) -> bool {
    from.run("ping", &["-c1", "-W1", &to.address().to_string()]).is_ok()
}

/// Starts the record service with the host's network, so that it is reached by the radiator's
/// address; its volume is a folder of the radiator.
fn start_record(radiator: &Radiator) {
    let folder = radiator.dir().join("data/record");
    std::fs::create_dir_all(&folder).unwrap();
    let data = radiator.run("sh", &["-c", "echo $THERMIDOR_DATA"]).unwrap();
    let mount = format!("{}/record:/data", data.trim());
    let image = images::record().tag;
    radiator.run("docker", &["run", "-d", "--name", "record", "--net=host", "-v", &mount, &image]).unwrap();
    let listens =
        || radiator.run("docker", &["logs", "record"]).map(|t| t.contains("listening").then_some(()));
    until(Duration::from_secs(20), "the record service", listens).unwrap();
}

#[test]
fn cables_are_cut_one_way_both_ways_wholly_and_lossily_and_heal() {
    let lab = thermidor_tests::lab("cables", &["salon", "bureau", "ballon"], &[]).unwrap();
    let [salon, bureau, ballon] = ["salon", "bureau", "ballon"].map(|n| lab.radiator(n).unwrap());
    assert!(reaches(salon, bureau) && reaches(bureau, salon) && reaches(salon, ballon));
    lab.cut_way("salon", "bureau").unwrap();
    assert!(!reaches(salon, bureau) && reaches(salon, ballon));
    // One way: what bureau sends still arrives, only the answer is lost.
    let seen = || salon.run("sh", &["-c", "grep '^Icmp:' /proc/net/snmp | tail -1"]).unwrap();
    let before = seen();
    assert!(!reaches(bureau, salon));
    assert_ne!(before, seen(), "the echo request reached salon");
    lab.heal().unwrap();
    assert!(reaches(salon, bureau));
    lab.cut_all("ballon").unwrap();
    assert!(!reaches(ballon, salon) && !reaches(bureau, ballon) && reaches(salon, bureau));
    lab.heal().unwrap();
    lab.drop_percent("salon", 100).unwrap();
    assert!(!reaches(salon, bureau));
    lab.drop_percent("salon", 0).unwrap();
    assert!(reaches(salon, bureau) && reaches(ballon, salon));
    assert!(lab.cut("salon", "grenier").unwrap_err().to_string().contains("grenier"));
}

#[test]
fn a_pulled_plug_ends_engine_and_containers_at_once_and_power_brings_the_engine_back() {
    let lab = thermidor_tests::lab("plug", &["salon", "bureau"], &home_images()).unwrap();
    let (salon, dir) = (lab.radiator("salon").unwrap(), lab.dir().to_owned());
    start_record(salon);
    let to = format!("{}:7000", salon.address());
    let delivered: Delivered =
        Guest::start(&lab, &["record", "--to", &to, "--count", "200"], &[]).unwrap().report().unwrap();
    assert_eq!(delivered.acknowledged.len(), 200, "{delivered:?}");
    let writer = Guest::start(&lab, &["record", "--to", &to, "--prefix", "late"], &[]).unwrap();
    std::thread::sleep(Duration::from_millis(300));

    salon.freeze().unwrap();
    let frozen = std::fs::metadata(salon.dir().join("data/record/log")).unwrap().len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(std::fs::metadata(salon.dir().join("data/record/log")).unwrap().len(), frozen);
    salon.thaw().unwrap();
    std::thread::sleep(Duration::from_millis(200));

    salon.power_off().unwrap();
    assert!(!salon.has_power() && salon.pids_of("run").is_empty());
    assert!(salon.run("true", &[]).is_err(), "nothing runs without power");
    assert!(!reaches(lab.radiator("bureau").unwrap(), salon));
    let late: Delivered = writer.stop().unwrap();
    assert!(!late.acknowledged.is_empty(), "{late:?}");

    salon.power_on().unwrap();
    salon.engine_ready().unwrap();
    salon.run("docker", &["start", "record"]).unwrap();
    let list = || Guest::start(&lab, &["record-list", "--to", &to], &[]).unwrap().report::<Vec<String>>();
    let present = until(Duration::from_secs(20), "the record service", || Ok(list().ok())).unwrap();
    for acknowledged in [&delivered.acknowledged, &late.acknowledged] {
        let audit = audit(acknowledged, &present);
        assert_eq!(audit.missing, Vec::<String>::new());
    }
    let name = lab.name().to_owned();
    drop(lab);
    assert_eq!(traces(&name, &dir), Vec::<String>::new());
}

#[test]
fn a_killed_unit_is_restarted_and_the_connector_tells_refused_from_greeted() {
    let lab = thermidor_tests::lab("unit", &["salon"], &home_images()).unwrap();
    let salon = lab.radiator("salon").unwrap();
    let first = salon.unit("dockerd", |u| u.pid()).unwrap();
    assert!(salon.unit("dockerd", |u| u.kill9()).unwrap());
    until(Duration::from_secs(20), "another engine", || {
        Ok(salon.unit("dockerd", |u| u.pid())?.filter(|pid| Some(*pid) != first))
    })
    .unwrap();
    salon.engine_ready().unwrap();
    let to = format!("{}:7000", salon.address());
    let connector = Guest::start(&lab, &["connect", "--to", &to, "--every-ms", "20"], &[]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    start_record(salon);
    std::thread::sleep(Duration::from_millis(300));
    let connected: Connected = connector.stop().unwrap();
    assert!(connected.refused > 0 && connected.greeted > 0, "{connected:?}");
}

#[test]
fn when_its_owner_is_killed_nothing_of_a_lab_stays() {
    if let Ok(name) = std::env::var("THERMIDOR_TEST_ABANDONED_LAB") {
        return abandon(&name);
    }
    let name = format!("abandoned-{}", std::process::id());
    let this = "when_its_owner_is_killed_nothing_of_a_lab_stays";
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env("THERMIDOR_TEST_ABANDONED_LAB", &name)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = thermidor_tests::options(&[]).unwrap().base.join("run").join(&name);
    until(Duration::from_secs(60), "the lab to stand", || Ok(dir.join("stands").exists().then_some(())))
        .unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    until(Duration::from_secs(30), "the reaper", || Ok(traces(&name, &dir).is_empty().then_some(())))
        .unwrap();
}

/// Makes a lab and waits to be killed.
fn abandon(name: &str) {
    let options = thermidor_tests::options(&home_images()).unwrap();
    let lab = Lab::new(name, &["salon"], options).unwrap();
    lab.engines_ready().unwrap();
    start_record(lab.radiator("salon").unwrap());
    std::fs::write(lab.dir().join("stands"), "").unwrap();
    std::thread::sleep(Duration::from_secs(120));
}
