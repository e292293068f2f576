//! Volumes that are folders: `driver: shared`, on a real GlusterFS, where the home only fences, starts and stops; and
//! `replication: none`.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use std::time::Duration;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::Status;
use thermidor_tests::record::RecordHome;

const SERVICE: &str = "    image: thermidor/record:1\n    ports: [ \"7001:7000\" ]\n    volumes: [ \"notes:/data\" ]\n    \
                       stop_grace_period: 2s\n";
const VOLUME: &str = "  notes: { driver: shared, path: /run/shared/notes }\n";

/// A volume of three bricks, on a machine that is none of the home's.
const SERVE: &str = r#"
for own in /var/lib/glusterd /var/log/glusterfs; do mkdir -p $own; mount -t tmpfs tmpfs $own; done
mkdir -p /run/gluster
glusterd
i=0
until gluster --mode=script volume list >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 300 ]; sleep 0.2; done
for n in 1 2 3; do mkdir -p "$2/brick$n"; done
gluster --mode=script volume create homes replica 3 "$1:$2/brick1" "$1:$2/brick2" "$1:$2/brick3" force
gluster --mode=script volume start homes
"#;
const MOUNT: &str = "mkdir -p /run/shared && mount -t glusterfs \"$1:/homes\" /run/shared";

fn mount(home: &RecordHome, radiator: &str) -> Result<()> {
    let server = home.radiator("store")?.address().to_string();
    home.radiator(radiator)?.run("sh", &["-ec", MOUNT, "mount", &server])?;
    Ok(())
}

/// What is said of the folder on a radiator.
fn word(status: &Status, radiator: &str) -> Option<String> {
    let volume = status.volumes.iter().find(|v| v.name == "notes")?;
    Some(volume.replicas.iter().find(|r| r.radiator == radiator)?.state.clone())
}

fn wait_for_word(home: &RecordHome, radiator: &str, words: &str) -> Result<Status> {
    let said = |s: &Status| word(s, radiator).is_some_and(|w| w.contains(words));
    home.home.wait(60, &format!("`{words}` of {radiator}"), said)
}

fn runs_on(home: &RecordHome, not: &[&str]) -> Result<String> {
    let good = |s: &Status| s.runs_on("notes").is_some_and(|r| !not.contains(&r));
    let status = home.home.wait(60, "notes to run", good)?;
    Ok(status.runs_on("notes").context("it runs")?.to_owned())
}

fn runs_again(home: &RecordHome, service: &str, epoch: u64) -> Result<()> {
    let again =
        |s: &Status| s.runs_on(service).is_some() && s.service(service).is_some_and(|s| s.epoch > epoch);
    home.home.wait(60, &format!("{service} to run again"), again)?;
    Ok(())
}

/// The other kind of folder, on the one radiator that has not mounted anything.
fn a_folder_on_one_radiator_has_its_data_after_a_plug_was_pulled_and_is_nowhere_else(home: &RecordHome) {
    let status = home.home.wait(60, "plain to run", |s| s.runs_on("plain") == Some("ballon")).unwrap();
    let epoch = status.service("plain").unwrap().epoch;
    let volume = status.volumes.iter().find(|v| v.name == "plain").unwrap();
    assert_eq!(volume.replicas.len(), 1, "{volume:?}");
    let ballon = home.radiator("ballon").unwrap();
    let served =
        |words: &[String]| words.iter().any(|w| w == "volume-process") && words.iter().any(|w| w == "plain");
    assert!(ballon.pids_where(served).is_empty(), "no process, no device");

    let to = format!("{}:7002", home.home.lab.floating());
    let writer = home.writer(&to, "line").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    ballon.power_off().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let status = home.home.status().unwrap().unwrap();
    assert!(status.service("plain").unwrap().epoch == epoch, "nobody else has its data: {status:?}");
    ballon.power_on().unwrap();
    runs_again(home, "plain", epoch).unwrap();
    let delivered: Delivered = writer.stop().unwrap();
    assert!(delivered.acknowledged.len() > 50, "{delivered:?}");
    home.audit_at(&to, &delivered.acknowledged).unwrap();
}

#[test]
fn volumes_that_are_folders_have_what_was_fsynced_after_a_plug_was_pulled() {
    let mut home = RecordHome::form("shared").unwrap();
    home.home.lab.add_witness("store").unwrap();
    let store = home.radiator("store").unwrap();
    let (address, dir) = (store.address().to_string(), store.dir().display().to_string());
    store.run("sh", &["-ec", SERVE, "serve", &address, &dir]).unwrap();
    for radiator in ["salon", "bureau"] {
        mount(&home, radiator).unwrap();
    }
    let plain = SERVICE.replace("notes:", "plain:").replace("7001", "7002");
    let services = format!("  notes:\n{SERVICE}  plain:\n{plain}    place: {{ only: [ ballon ] }}\n");
    home.declare_with(&services, &format!("{VOLUME}  plain: {{ replication: none }}\n")).unwrap();
    let first = runs_on(&home, &[]).unwrap();
    wait_for_word(&home, &first, "active").unwrap();
    // Where it is not mounted nothing is made, and the service does not go there.
    wait_for_word(&home, "ballon", "mount the shared file system here").unwrap();
    assert_ne!(first, "ballon");

    home.sit_away_from(&[&first]).unwrap();
    let to = format!("{}:7001", home.home.lab.floating());
    let writer = home.writer(&to, "note").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    home.radiator(&first).unwrap().power_off().unwrap();
    let second = runs_on(&home, &[&first]).unwrap();
    assert_ne!(second, "ballon");
    std::thread::sleep(Duration::from_secs(3));
    let delivered: Delivered = writer.stop().unwrap();
    let after = delivered.acknowledged.len();
    assert!(after > 50, "{after} lines were acknowledged");
    assert!(delivered.refused.is_empty(), "{:?}", delivered.refused);
    home.audit_at(&to, &delivered.acknowledged).unwrap();

    // The one that returns has lost its mount, and says so until somebody mounts it again.
    home.radiator(&first).unwrap().power_on().unwrap();
    wait_for_word(&home, &first, "mount the shared file system here").unwrap();
    mount(&home, &first).unwrap();
    wait_for_word(&home, &first, "following").unwrap();
    home.home.type_here(&["move", "notes", &first]).unwrap();
    assert_eq!(runs_on(&home, &[&second]).unwrap(), first);
    home.audit_at(&to, &delivered.acknowledged).unwrap();
    home.sit_away_from(&["ballon"]).unwrap();
    a_folder_on_one_radiator_has_its_data_after_a_plug_was_pulled_and_is_nowhere_else(&home);
}
