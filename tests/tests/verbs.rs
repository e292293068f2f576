//! The verbs of the command line against a running home, as a person and as a program use them.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

fn ask(radiator: &Radiator, line: &str) -> Output {
    let args: Vec<&str> = line.split(' ').collect();
    radiator.thermidor(&args, 30).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn out(said: &Output) -> String {
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The exit code and what was said on standard error.
fn refused(radiator: &Radiator, line: &str) -> (Option<i32>, String) {
    let said = ask(radiator, line);
    (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
}

fn json(radiator: &Radiator, line: &str) -> Value {
    let said = ask(radiator, &format!("{line} -o json"));
    assert!(said.status.success(), "{line}: {said:?}");
    serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", out(&said)))
}

/// A command that goes on, and its lines as they come.
struct Followed {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Followed {
    fn start(radiator: &Radiator, line: &str) -> Self {
        let args: Vec<&str> = line.split(' ').collect();
        let mut command = radiator.thermidor_command(&args, 120).unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with these words.
    fn hears(&self, words: &str) {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(40));
            let line = line.unwrap_or_else(|e| panic!("`{words}` never comes: {e}"));
            if line.contains(words) {
                return;
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn reading_verbs_answer_in_three_forms(home: &RecordHome, active: &str) {
    let salon = home.radiator("salon").unwrap();
    for line in [
        "status",
        "explain record",
        "radiator ls",
        "radiator show salon",
        "service ls",
        "service show record",
        "volume ls",
        "volume show record",
        "volume snapshots record",
        "secret ls",
        "ps",
        "top",
        "doctor",
    ] {
        assert_eq!(json(salon, line)["version"], 1, "{line}");
        let yaml = ask(salon, &format!("{line} -o yaml"));
        assert!(yaml.status.success() && out(&yaml).lines().any(|l| l == "version: 1"), "{line}: {yaml:?}");
        let table = ask(salon, line);
        assert!(table.status.success() && !out(&table).trim().is_empty(), "{line}: {table:?}");
    }
    let address = salon.address().to_string();
    let shown = json(salon, "radiator show salon")["items"][0].clone();
    assert!(shown["address"].as_str().unwrap().starts_with(&address), "{shown}");
    assert!(out(&ask(salon, "radiator show salon")).contains(&address));
    assert_eq!(json(salon, "service show record")["items"][0]["active"], active);
    let volume = out(&ask(salon, "volume show record"));
    assert_eq!(volume.matches("in sync").count(), 3, "{volume}");
    assert!(out(&ask(salon, "top")).contains("W given"));
    let explained = json(salon, "explain record");
    assert_eq!(explained["reason"]["ranks"].as_array().unwrap().len(), 3);
    assert!(out(&ask(salon, "ps")).contains(active));
}

fn replicas_are_compared_from_wherever_one_sits(home: &RecordHome) {
    for name in RADIATORS {
        let compared = ask(home.radiator(name).unwrap(), "volume check record");
        let said = out(&compared);
        assert!(compared.status.success() && said.contains("record: all replicas are alike"), "{compared:?}");
    }
    let salon = home.radiator("salon").unwrap();
    let shown = json(salon, "volume show record")["items"][0]["check"].clone();
    assert!(shown["ended_ms"].as_u64().unwrap() > 0 && shown["repaired_ever"] == 0, "{shown}");
    assert!(out(&ask(salon, "volume show record")).contains("compared    last "));
}

fn what_needs_no_home_is_there(home: &RecordHome) {
    let salon = home.radiator("salon").unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let text = out(&ask(salon, &format!("completions {shell}")));
        assert!(text.contains("thermidor") && text.contains("promote"), "{shell}");
    }
    assert!(out(&ask(salon, "man")).contains(".TH thermidor"));
    assert!(out(&ask(salon, "man volume")).contains("promote"));
    let schema: Value = serde_json::from_slice(&ask(salon, "schema").stdout).unwrap();
    assert!(schema["properties"]["services"].is_object());
}

fn refusals_have_their_code_and_name_the_next_command(home: &RecordHome) {
    let salon = home.radiator("salon").unwrap();
    for (line, words) in [
        ("volume show nope", "thermidor volume ls"),
        ("radiator show nope", "thermidor radiator ls"),
        ("service show nope", "thermidor service ls"),
        ("logs nope", "thermidor service ls"),
        ("explain nope", "thermidor service ls"),
        ("move record nope", "thermidor radiator ls"),
        ("target nope 20", "thermidor radiator ls"),
        ("target salon warm", "20.5"),
        ("man frobnicate", "thermidor help"),
        ("volume rm nope --yes", "thermidor volume ls"),
        ("volume rm record --yes", "thermidor apply"),
        ("volume promote record bureau", "--accept-loss"),
        ("volume check nope", "thermidor volume ls"),
        ("mail account ls", "--service"),
        ("secret rm nope", "thermidor secret ls"),
        ("leave nope --stolen", "thermidor radiator ls"),
    ] {
        let (code, said) = refused(salon, line);
        assert_eq!(code, Some(1), "{line}: {said}");
        assert!(said.contains(words), "{line}: {said}");
    }
    for line in ["frobnicate", "status -o csv", "volume rm", "radiator show Not-A-Name", "leave --stolen"] {
        let (code, said) = refused(salon, line);
        assert_eq!(code, Some(2), "{line}: {said}");
    }
}

fn snapshots_are_taken_and_looked_at_from_anywhere(home: &RecordHome, active: &str) {
    let here = home.radiator(active).unwrap();
    let standby = RADIATORS.iter().find(|r| **r != active).unwrap();
    let done = |line: &str| {
        let said = ask(here, line);
        assert!(said.status.success(), "{line}: {said:?}");
        out(&said).trim().to_string()
    };
    // What was acknowledged before is in them, while more is written.
    let before: Delivered = {
        let writer = home.writer(&home.to(), "before").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        writer.stop().unwrap()
    };
    assert!(before.acknowledged.len() > 10, "{before:?}");
    let writer = home.writer(&home.to(), "later").unwrap();
    assert!(done("volume snapshot record --name own").contains(&format!("on {active}")));
    assert!(done(&format!("volume snapshot record --name far --on {standby}")).contains(standby));
    assert!(done("volume snapshot record").contains("at-2"));
    let listed = json(home.radiator(standby).unwrap(), "volume snapshots record");
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "{listed}");
    assert!(done("volume snapshots record").contains("far"));
    for (name, on) in [("own", active), ("far", *standby)] {
        let path = done(&format!("volume mount-snapshot record {name}"));
        let log = home.radiator(on).unwrap().run("cat", &[&format!("{path}/log")]).unwrap();
        let lines: std::collections::BTreeSet<&str> = log.lines().collect();
        let missing = before.acknowledged.iter().find(|line| !lines.contains(line.as_str()));
        assert_eq!(missing, None, "{name} of {} lines", lines.len());
        let (code, said) = refused(here, &format!("volume rm-snapshot record {name}"));
        assert!(code == Some(1) && said.contains("unmount it first"), "{said}");
        done(&format!("volume unmount-snapshot record {name}"));
        done(&format!("volume rm-snapshot record {name}"));
    }
    let later: Delivered = writer.stop().unwrap();
    assert!(later.refused.is_empty() && later.acknowledged.len() > 10, "{later:?}");
    let trimmed = done("volume trim record");
    assert!(trimmed.contains("given back") && trimmed.contains(active), "{trimmed}");
    for (line, words) in [
        ("volume trim nope", "thermidor volume ls"),
        ("volume snapshot nope", "thermidor volume ls"),
        ("volume snapshots nope", "thermidor volume ls"),
        ("volume mount-snapshot record own", "thermidor volume snapshots record"),
        ("volume snapshot record --on nope", "thermidor radiator ls"),
    ] {
        let (code, said) = refused(here, line);
        assert!(code == Some(1) && said.contains(words), "{line}: {said}");
    }
    assert_eq!(refused(here, "volume snapshot record --name ../x").0, Some(2));
}

/// Whether root may have ext4 resized in use here (CAP_SYS_RESOURCE); else its images alone grow.
fn may_resize() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may = u64::from_str_radix(bits.trim(), 16).unwrap() & 1 << 24 != 0;
    if !may {
        println!("SKIPPED here: the file system's own growth, for root lacks CAP_SYS_RESOURCE");
    }
    may
}

fn a_volume_grows_under_its_service_when_more_is_declared(home: &RecordHome, active: &str) {
    let writer = home.writer(&home.to(), "growing").unwrap();
    home.resize("512m").unwrap();
    let number = |name: &str, tool: &str, arguments: &[&str]| {
        let said = home.radiator(name).unwrap().run(tool, arguments)?;
        Ok::<u64, anyhow::Error>(said.split_whitespace().next_back().unwrap_or_default().parse()?)
    };
    let folder = |name: &str| home.radiator(name).unwrap().dir().join("data/volumes").join(SERVICE);
    until(Duration::from_secs(20), "the volume to grow everywhere", || {
        let mount = folder(active).join("mnt").display().to_string();
        let mut grown = !may_resize()
            || number(active, "df", &["-B1048576", "--output=size", &mount]).is_ok_and(|mib| mib > 435);
        for name in RADIATORS {
            let image = folder(name).join("image").display().to_string();
            grown &= number(name, "stat", &["-c", "%s", &image]).is_ok_and(|bytes| bytes == 513 << 20);
        }
        Ok(grown.then_some(()))
    })
    .unwrap();
    let refused = format!("{:#}", home.resize("256m").unwrap_err());
    assert!(refused.contains("can't shrink to 256 MiB: make one of another name"), "{refused}");
    let later: Delivered = writer.stop().unwrap();
    assert!(later.refused.is_empty() && later.acknowledged.len() > 10, "{later:?}");
    home.healed().unwrap();
}

fn followers_hear_what_comes_wherever_they_sit(home: &RecordHome, active: &str) {
    let standby = RADIATORS.iter().find(|r| **r != active).unwrap();
    let radiator = home.radiator(standby).unwrap();
    let tail = |name: &str| out(&ask(home.radiator(name).unwrap(), "logs record --tail 5"));
    assert!(tail(active).contains("listening"), "{}", tail(active));
    assert_eq!(tail(standby), tail(active), "any radiator tells the same");
    let events = Followed::start(radiator, "events -f -o json");
    let logs = Followed::start(radiator, "logs record -f");
    logs.hears("listening");
    let aimed = ask(radiator, "target salon 21.5");
    assert!(aimed.status.success(), "{aimed:?}");
    events.hears("salon is wanted at 21.5");
    assert!(ask(radiator, "target salon yaml").status.success());
    home.home.type_on(standby, &["move", SERVICE, standby]).unwrap();
    // The new instance, on another radiator, is followed too.
    logs.hears("listening");
}

#[test]
fn every_verb_does_what_it_says() {
    let home = RecordHome::form("verbs").unwrap();
    let active = home.active().unwrap();
    reading_verbs_answer_in_three_forms(&home, &active);
    replicas_are_compared_from_wherever_one_sits(&home);
    what_needs_no_home_is_there(&home);
    refusals_have_their_code_and_name_the_next_command(&home);
    snapshots_are_taken_and_looked_at_from_anywhere(&home, &active);
    a_volume_grows_under_its_service_when_more_is_declared(&home, &active);
    followers_hear_what_comes_wherever_they_sit(&home, &active);
    home.healed().unwrap();

    // Without a majority what was known is shown, and the exit says so.
    for name in ["bureau", "ballon"] {
        home.radiator(name).unwrap().power_off().unwrap();
    }
    let salon = home.radiator("salon").unwrap();
    until(Duration::from_secs(20), "the leader to be missed", || {
        Ok((ask(salon, "status").status.code() == Some(3)).then_some(()))
    })
    .unwrap();
    for line in ["status -o json", "volume ls", "radiator show salon", "top --once", "explain record"] {
        assert_eq!(refused(salon, line).0, Some(3), "{line}");
    }
    let shown: Value = serde_json::from_slice(&ask(salon, "status -o json").stdout).unwrap();
    assert_eq!((&shown["quorum"], &shown["services"][0]["name"]), (&false.into(), &SERVICE.into()));
    let (code, said) = refused(salon, "doctor");
    assert!(code == Some(1) && !said.is_empty(), "{said}");
}

fn image(home: &RecordHome, radiator: &str) -> Result<bool> {
    let folder = home.radiator(radiator)?.dir().join("data/volumes").join(SERVICE);
    folder.try_exists().with_context(|| folder.display().to_string())
}

#[test]
fn a_removed_volume_goes_from_every_radiator_also_from_one_that_was_away() {
    let mut home = RecordHome::form("volume-rm").unwrap();
    let active = home.active().unwrap();
    let away = RADIATORS.iter().find(|r| **r != active).unwrap();
    home.sit_away_from(&[away]).unwrap();
    home.radiator(away).unwrap().power_off().unwrap();
    let led = |s: &thermidor_supervisor::demo::home::Status| {
        s.leader.as_deref().is_some_and(|l| l != *away) && s.member(away).is_some_and(|m| m.state == "silent")
    };
    home.home.wait(30, "the others to be led", led).unwrap();
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    home.home.apply(&format!("home: maison\nradiators:\n{radiators}")).unwrap();
    home.home.wait(60, "the service to be gone", |s| s.services.is_empty()).unwrap();
    let seat = RADIATORS.iter().find(|r| *r != away).unwrap();
    let seat = home.radiator(seat).unwrap();
    let (code, said) = refused(seat, "volume rm record");
    assert!(code == Some(1) && said.contains("--yes"), "nobody agreed: {said}");
    assert!(RADIATORS.iter().all(|r| image(&home, r).unwrap()), "a refusal removes nothing");

    let removed = ask(seat, "volume rm record --yes");
    assert!(removed.status.success(), "{removed:?}");
    until(Duration::from_secs(30), "the images to go", || {
        Ok(RADIATORS.iter().all(|r| image(&home, r).is_ok_and(|there| there == (r == away))).then_some(()))
    })
    .unwrap();
    assert_eq!(json(seat, "volume ls")["items"], Value::Array(vec![]));
    home.radiator(away).unwrap().power_on().unwrap();
    until(Duration::from_secs(60), "the image of the one that was away", || {
        Ok(image(&home, away).is_ok_and(|there| !there).then_some(()))
    })
    .unwrap();
    until(Duration::from_secs(10), "its process to end", || {
        Ok(home.radiator(away).unwrap().pids_of("volume-process").is_empty().then_some(()))
    })
    .unwrap();
    until(Duration::from_secs(10), "the word of it", || {
        let said = out(&ask(seat, "events"));
        Ok(said.contains(&format!("the image of record on {away} is removed")).then_some(()))
    })
    .unwrap();
}
