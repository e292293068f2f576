//! The last radiator that holds all of a volume dies while a majority of the home lives: a person takes an older
//! replica, and the home goes on from it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

const LAMP: &str = "  lamp:\n    image: thermidor/record:1\n    command: [\"sleep\", \"infinity\"]\n    \
                    volumes: [ \"shade:/data\" ]\n    stop_grace_period: 1s\n";
const SHADE: &str = "  shade: { size: 64m, replicas: 2, durability: 1 }\n";
const WITHIN: Duration = Duration::from_secs(60);

/// Who holds a replica of the volume, and whether in sync.
fn holders(home: &RecordHome) -> Result<Vec<(String, bool)>> {
    let text = home.home.type_here(&["volume", "show", "shade", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&text)?;
    let replicas = shown["items"][0]["replicas"].as_array().context("replicas")?.clone();
    let each = replicas.iter().map(|r| Some((r["radiator"].as_str()?.to_owned(), r["in_sync"].as_bool()?)));
    each.collect::<Option<_>>().context("a replica's name")
}

#[test]
fn an_older_replica_is_promoted_where_the_last_in_sync_radiator_died_and_a_majority_lives() {
    let mut home = RecordHome::form("promote").unwrap();
    home.declare_with(LAMP, SHADE).unwrap();
    home.home.wait(60, "the lamp", |s| s.runs_on("lamp").is_some()).unwrap();
    let both = until(WITHIN, "two replicas in sync", || {
        let holders = holders(&home).unwrap_or_default();
        Ok((holders.len() == 2 && holders.iter().all(|(_, in_sync)| *in_sync)).then_some(holders))
    })
    .unwrap();
    let status = home.home.wait(10, "the lamp", |s| s.runs_on("lamp").is_some()).unwrap();
    let newer = status.runs_on("lamp").unwrap().to_owned();
    let older = both.iter().map(|(name, _)| name).find(|name| **name != newer).unwrap().clone();
    home.sit_away_from(&[&newer, &older]).unwrap();

    home.radiator(&older).unwrap().power_off().unwrap();
    until(WITHIN, "the older replica to be left behind", || {
        let holders = holders(&home).unwrap_or_default();
        Ok(holders.contains(&(older.clone(), false)).then_some(()))
    })
    .unwrap();
    let write = "docker exec thermidor.maison.lamp sh -c 'echo late >/data/late; sync'";
    home.radiator(&newer).unwrap().run("sh", &["-c", write]).unwrap();
    home.radiator(&newer).unwrap().power_off().unwrap();
    home.radiator(&older).unwrap().power_on().unwrap();
    let says = |s: &thermidor_supervisor::demo::home::Status| {
        let reason = s.service("lamp").map(|l| l.reason.clone()).unwrap_or_default();
        reason.contains(&format!("{newer} alone holds all that was acknowledged of shade"))
    };
    home.home.wait(60, "words of who holds the data", says).unwrap();
    let promoted = || -> Result<()> {
        home.home.type_here(&["volume", "promote", "shade", &older, "--accept-loss"])?;
        Ok(())
    };
    until(WITHIN, "the older replica to be promoted", || Ok(promoted().ok())).unwrap();
    home.home.wait(60, "the lamp", |s| s.runs_on("lamp") == Some(&older)).unwrap();

    home.radiator(&newer).unwrap().power_on().unwrap();
    let whole = |s: &thermidor_supervisor::demo::home::Status| {
        let on = |name: &&str| s.member(name).is_some_and(|m| m.state == "on" && m.votes);
        s.runs_on(SERVICE).is_some() && RADIATORS.iter().all(on)
    };
    home.home.wait(120, "everybody to be back", whole).unwrap();
    let found = || -> Result<()> {
        let look = "docker exec thermidor.maison.lamp sh -c 'ls /data'";
        let seen = home.radiator(&older)?.run("sh", &["-c", look])?;
        ensure!(!seen.contains("late"), "it is of another line: {seen}");
        let events = home.home.type_here(&["events"])?;
        ensure!(events.contains("was promoted by a person; later writes are lost"), "{events}");
        ensure!(events.contains("lamp is active nowhere"), "{events}");
        Ok(())
    };
    found().unwrap();
}
