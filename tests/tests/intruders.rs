//! Whoever does not belong to the home: a machine with a token that is no good, and anybody on the
//! network who sends nonsense to a radiator's ports. Nothing changes, and nothing ends.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thermidor_model::State;
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_tests::garbage;
use thermidor_tests::record::{RADIATORS, RecordHome};

/// Connections that say nothing to one door: more than it serves at once, where it counts them.
const SILENT: usize = 100;
/// How much more memory nonsense may cost a process, KiB.
const MEMORY_MAX_KIB: u64 = 160 << 10;

fn state(home: &RecordHome) -> State {
    let radiator = home.radiator(RADIATORS[0]).unwrap();
    client::ask_for(&radiator.paths().unwrap(), &Request::State).unwrap()
}

/// The token with one of its parts replaced, its check made good again.
fn forged(token: &str, part: usize, replacement: &str) -> String {
    let (body, _) = token.rsplit_once('/').unwrap();
    let mut parts: Vec<&str> = body.split('/').collect();
    parts[part] = replacement;
    let body = parts.join("/");
    format!("{body}/{}", &blake3::hash(body.as_bytes()).to_hex()[..8])
}

fn invited(home: &RecordHome, ttl: &str) -> String {
    let printed = home.home.type_here(&["invite", "--ttl", ttl]).unwrap();
    printed.lines().next().unwrap().trim().to_owned()
}

#[test]
fn expired_used_forged_and_damaged_tokens_are_refused_in_words_and_change_nothing() {
    let mut home = RecordHome::form("tokens").unwrap();
    home.home.lab.add_witness("grenier").unwrap();
    home.home.lab.add_witness("cave").unwrap();
    let join = |home: &RecordHome, name: &str, token: &str| {
        let listen = home.home.listener(name).unwrap();
        let args = ["join", token, "--radiator", name, "--listen", &listen, "--witness"];
        home.home.refused_on(name, &args).unwrap()
    };

    let used = invited(&home, "1h");
    let listen = home.home.listener("grenier").unwrap();
    let args = ["join", &used, "--radiator", "grenier", "--listen", &listen, "--witness"];
    home.home.type_on("grenier", &args).unwrap();
    let expired = invited(&home, "1s");
    let good = invited(&home, "1h");
    std::thread::sleep(Duration::from_secs(2));

    let before = state(&home);
    let damaged = good.replacen('a', "b", 1);
    let cases = [
        (expired, "has expired"),
        (used, "it was used"),
        (forged(&good, 3, &"5e".repeat(20)), "was never given out"),
        (forged(&good, 2, &"ab".repeat(32)), "is not the home maison"),
        (damaged, "not copied whole"),
        ("let-me-in".to_owned(), "thermidor invite"),
    ];
    for (token, words) in &cases {
        let said = join(&home, "cave", token);
        assert!(said.contains(words), "`{words}` was expected: {said}");
        assert!(!said.contains(good.split('/').nth(3).unwrap()), "the secret is not repeated: {said}");
        let identity = home.radiator("cave").unwrap().paths().unwrap().data.join("identity");
        assert!(!identity.exists(), "a machine that was refused has become nobody");
    }
    let after = state(&home);
    assert_eq!(before, after, "refused input changes nothing");

    home.home.type_here(&["leave", "grenier"]).unwrap();
    home.through(|_| Ok(())).unwrap();
}

/// Where a radiator listens for the network, as its own kernel says.
fn ports(radiator: &Radiator) -> Result<Vec<SocketAddr>> {
    let listed = radiator.run("ss", &["-Hltn"])?;
    let own = IpAddr::V4(radiator.address());
    let mut ports: Vec<u16> = Vec::new();
    for line in listed.lines() {
        let local = line.split_whitespace().nth(3).context("a local address")?;
        let (ip, port) = local.rsplit_once(':').context("a port")?;
        if !ip.starts_with("127.") && !ip.starts_with("[::1]") {
            ports.push(port.parse()?);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports.into_iter().map(|port| SocketAddr::new(own, port)).collect())
}

/// Its Unix sockets.
fn sockets(radiator: &Radiator) -> Result<Vec<PathBuf>> {
    let listed = radiator.run("ss", &["-Hlx"])?;
    let ours = |path: &&str| {
        let name = Path::new(path).file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name == "thermidor.sock" || name == "guard.sock" || name.starts_with("volume-")
    };
    let paths = listed.lines().filter_map(|line| line.split_whitespace().nth(4)).filter(ours);
    paths.map(|path| Ok(radiator.seen(Path::new(path))?)).collect()
}

/// The most memory that each of a radiator's processes has ever had, KiB.
fn memory(home: &RecordHome) -> Result<BTreeMap<(String, u32), u64>> {
    let mut peaks = BTreeMap::new();
    for name in RADIATORS {
        for verb in ["run", "guard", "ingress", "volume-process"] {
            for pid in home.radiator(name)?.pids_of(verb) {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
                let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("VmHWM")?;
                let kib = line.split_whitespace().next().context("KiB")?.parse()?;
                peaks.insert((format!("{name}'s {verb}"), pid), kib);
            }
        }
    }
    Ok(peaks)
}

#[test]
fn nonsense_and_silence_at_every_door_end_nothing_and_cost_little() {
    let mut home = RecordHome::form("nonsense").unwrap();
    let epoch = state(&home).services.values().map(|s| s.epoch).collect::<Vec<_>>();
    let before = memory(&home).unwrap();
    assert_eq!(before.len(), 12, "three processes and a volume's on each: {before:?}");
    let assault = |home: &RecordHome| -> Result<()> {
        for name in RADIATORS {
            let radiator = home.radiator(name)?;
            let (doors, local) = (ports(radiator)?, sockets(radiator)?);
            println!("{name} listens at {doors:?} and {local:?}");
            ensure!(
                [7000, 7470, 7471].iter().all(|port| doors.iter().any(|d| d.port() == *port)),
                "{doors:?}"
            );
            ensure!(
                doors.len() >= 4 && local.len() == 3,
                "a volume's port and three sockets: {doors:?}, {local:?}"
            );
            let mut held = Vec::new();
            for door in doors {
                held.extend(home.home.lab.as_client(|| garbage::silence(door, SILENT))??);
                home.home.lab.as_client(|| garbage::assault(door))??;
            }
            for path in &local {
                garbage::assault_local(path)?;
            }
        }
        Ok(())
    };
    home.through(assault).unwrap();

    // Processes are the same ones, and of a reasonable size.
    let after = memory(&home).unwrap();
    for (process, peak_kib) in &before {
        let now_kib = after.get(process).unwrap_or_else(|| panic!("{process:?} ended"));
        println!("{}: {} MiB at most, {} before", process.0, now_kib >> 10, peak_kib >> 10);
        assert!(now_kib - peak_kib < MEMORY_MAX_KIB, "{process:?} grew from {peak_kib} to {now_kib} KiB");
    }
    assert_eq!(state(&home).services.values().map(|s| s.epoch).collect::<Vec<_>>(), epoch, "no take-over");

    // Whoever holds all places and says nothing keeps neither the command line nor a new daemon out.
    let radiator = home.radiator(RADIATORS[0]).unwrap();
    let mut held = Vec::new();
    for path in sockets(radiator).unwrap() {
        held.extend(garbage::local_silence(&path, SILENT).unwrap());
    }
    home.home.wait(60, "an answer", |_| true).unwrap();
    assert!(radiator.unit("run", |u| u.kill9()).unwrap());
    let member = |s: &thermidor_supervisor::demo::home::Status| {
        s.member(RADIATORS[0]).is_some_and(|m| m.state == "on" && m.troubles.is_empty())
    };
    home.home.wait(60, "its daemon to be well", member).unwrap();
    home.through(|_| Ok(())).unwrap();
    drop(held);
}
