//! What is wrong at a friend's, or with the room for what comes back: a quota, a disk there, an old state that is played
//! back, a full volume here. One lab for all of it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use thermidor_supervisor::demo::lab::Radiator;
use thermidor_tests::neighbours::{LENT, NOTES, Neighbours, all_whole, files, fill_script};

/// A backup of the notes to whoever keeps them.
const RUN: [&str; 3] = ["backup", "run", NOTES];

#[test]
fn a_friend_without_room_or_with_an_old_state_is_named_and_the_other_is_used() {
    let homes = Neighbours::new("friends-vaults").unwrap();
    out_of_quota(&homes).context("a friend lends too little").unwrap();
    disk_full_there(&homes).context("a friend's disk is full").unwrap();
    frozen(&homes).context("a friend's vault does not answer").unwrap();
    an_old_state(&homes).context("a friend shows an old state").unwrap();
    no_room_here(&homes).context("there is no room for a restore").unwrap();
    full_meanwhile(&homes).context("the volume becomes full during a restore").unwrap();
}

/// A backup to both ends well at alpes' and is refused at plaine's, in these words; a person has to do something.
fn refused_by_plaine(homes: &Neighbours, words: &[&str]) -> Result<()> {
    let before = homes.line("plaine")?;
    let text = homes.refused(&RUN)?;
    ensure!(text.contains("notes at alpes's: done") && text.contains("failed: notes at plaine's"), "{text}");
    for word in words {
        ensure!(text.contains(word), "no `{word}` in {text}");
    }
    let line = homes.line("plaine")?;
    ensure!(line.state == "failing" && line.person && line.made_ms == before.made_ms, "{line:?}");
    let alpes = homes.line("alpes")?;
    ensure!(alpes.state == "proved" && alpes.made_ms > before.made_ms, "{alpes:?}");
    // Alpes' is in time: it is loud all the same.
    let warnings = homes.warnings()?;
    ensure!(warnings.contains("plaine has failed") && warnings.contains(words[0]), "{warnings}");
    Ok(())
}

/// The next one goes well, and nothing more is said of it.
fn taken_by_plaine(homes: &Neighbours) -> Result<()> {
    homes.done(&["backup", "run", NOTES, "--to", "plaine"])?;
    let line = homes.line("plaine")?;
    ensure!(line.state == "proved" && line.failure.is_none(), "{line:?}");
    let warnings = homes.warnings()?;
    ensure!(!warnings.contains("plaine has failed"), "{warnings}");
    Ok(())
}

fn out_of_quota(homes: &Neighbours) -> Result<()> {
    homes.agree("plaine", "lend: 2m")?;
    homes.write("quota", 2)?;
    refused_by_plaine(homes, &["of the quota of 2 MiB", "Ask its person to raise `lend`"])?;
    all_whole(homes, "plaine")?;
    homes.agree("plaine", LENT)?;
    taken_by_plaine(homes)
}

/// More is lent than the vault's volume holds.
fn disk_full_there(homes: &Neighbours) -> Result<()> {
    let vault = homes.vault("plaine")?.display().to_string();
    let ferme = homes.radiator("plaine")?;
    ferme.run("sh", &["-c", &fill_script(&vault)])?;
    homes.write("full", 2)?;
    refused_by_plaine(homes, &["the disk under it is full", "make room"])?;
    all_whole(homes, "plaine")?;
    // What it keeps can be had all the same.
    let dir = homes.home.lab.radiator(homes.home.seat())?.dir().join("from-plaine");
    homes.done(&["restore", NOTES, "--from", "plaine", "--to", &dir.to_string_lossy()])?;
    let there = std::fs::read(dir.join(NOTES).join("1")).context("a file from the full vault")?;
    ensure!(there.len() == 1 << 20, "{} bytes", there.len());
    ferme.run("sh", &["-c", &format!("rm -f '{vault}'/filler.*; sync")])?;
    taken_by_plaine(homes)
}

fn signal(friends: &Radiator, signal: Signal) -> Result<()> {
    let pids = friends.pids_of("vault-process");
    ensure!(!pids.is_empty(), "no vault runs");
    for pid in pids {
        kill_process(Pid::from_raw(i32::try_from(pid)?).context("a process")?, signal)?;
    }
    Ok(())
}

/// It runs and answers nobody: its own home says so by itself, and that it is well again.
fn frozen(homes: &Neighbours) -> Result<()> {
    let ferme = homes.radiator("plaine")?;
    let status = || -> Result<Value> {
        Ok(serde_json::from_slice(&ferme.thermidor(&["status", "-o", "json"], 60)?.stdout)?)
    };
    homes.until("the vault to be well", || {
        Ok((vault_line(&status()?)["probe"]["healthy"] == true).then_some(()))
    })?;
    signal(ferme, Signal::STOP)?;
    let told = homes.until("the silent vault to be told of", || {
        let warnings = status()?["warnings"].to_string();
        Ok(warnings.contains("vault runs on ferme but is sick").then_some(warnings))
    });
    signal(ferme, Signal::CONT)?;
    let told = told?;
    ensure!(told.contains("no friend gets in") && told.contains("has not answered"), "{told}");
    homes.until("the vault to be well again", || {
        let status = status()?;
        let is_calm = !status["warnings"].to_string().contains("is sick");
        Ok((is_calm && vault_line(&status)["probe"]["healthy"] == true).then_some(()))
    })?;
    let events = ferme.thermidor(&["events"], 60)?.stdout;
    let events = String::from_utf8_lossy(&events);
    ensure!(
        events.contains("vault runs on ferme but is sick") && events.contains("vault is well again"),
        "{events}"
    );
    taken_by_plaine(homes)
}

fn vault_line(status: &Value) -> Value {
    let services = status["services"].as_array().cloned().unwrap_or_default();
    services.into_iter().find(|service| service["name"] == "vault").unwrap_or_default()
}

/// Plaine puts back what it had before the last backup: it is told, nothing more is left there, and alpes is used.
fn an_old_state(homes: &Neighbours) -> Result<()> {
    let (kept, ferme) = (homes.kept("plaine")?, homes.radiator("plaine")?);
    let old = ferme.dir().join("old");
    copy(homes, &kept, &old)?;
    homes.write("newest", 2)?;
    homes.done(&RUN)?;
    let newest = homes.sums()?;
    ferme.run("rm", &["-rf", &kept.display().to_string()])?;
    copy(homes, &old, &kept)?;
    // Its process knows no better either.
    signal(ferme, Signal::KILL)?;
    homes.reached("plaine")?;

    refused_by_plaine(homes, &["has lost something", "it was rolled back", "thermidor friend rm plaine"])?;
    let checked = homes.refused(&["backup", "check", NOTES, "--from", "plaine"])?;
    ensure!(checked.contains("it was rolled back"), "{checked}");
    homes.done(&["backup", "check", NOTES, "--from", "alpes"])?;
    // The newest of whoever has it is taken, and that is alpes' now.
    homes.in_notes("rm /data/newest; echo changed > /data/1; sync")?;
    homes.done(&["restore", NOTES])?;
    homes.until_sums(&newest)?;
    homes.done(&["restore", NOTES, "--keep"])?;

    homes.done(&["friend", "rm", "plaine", "--yes"])?;
    homes.befriend("plaine")?;
    taken_by_plaine(homes)
}

/// Times of arrival are the files' own: they are kept.
fn copy(homes: &Neighbours, from: &Path, to: &Path) -> Result<()> {
    let ferme = homes.radiator("plaine")?;
    ferme.run("cp", &["-a", &from.display().to_string(), &to.display().to_string()])?;
    ferme.run("sync", &[])?;
    Ok(())
}

/// Less is free than what comes needs: refused before anything is brought.
fn no_room_here(homes: &Neighbours) -> Result<()> {
    homes.done(&RUN)?;
    let now = homes.sums()?;
    homes.in_notes(
        "free=$(df -B1 --output=avail /data | tail -1); fallocate -l $((free - 8388608)) /data/filler; sync",
    )?;
    let text = homes.refused(&["restore", NOTES, "--from", "alpes"])?;
    ensure!(text.contains("has no room for both") && text.contains("Raise its `size`"), "{text}");
    ensure!(text.contains("--cancel` gives it up"), "{text}");
    let staging = homes.volume()?.join(".thermidor-restore");
    ensure!(files(&staging)?.is_empty(), "something was brought");
    homes.done(&["restore", NOTES, "--cancel"])?;
    homes.until("nothing to be left beside the data", || Ok((!staging.exists()).then_some(())))?;
    homes.in_notes("rm /data/filler; sync")?;
    homes.until_sums(&now)
}

/// There was room, and the service takes it while files are brought: it has it back at once, and the restore is done once
/// there is room again.
fn full_meanwhile(homes: &Neighbours) -> Result<()> {
    homes.agree("alpes", "lend: 64m, down: 1m")?;
    let backed_up = homes.sums()?;
    homes.in_notes("echo changed > /data/1; sync")?;
    let now = homes.sums()?;
    let staging = homes.volume()?.join(".thermidor-restore");
    homes.done(&["restore", NOTES, "--from", "alpes", "--no-wait"])?;
    homes.until("files to be brought", || Ok((!files(&staging)?.is_empty()).then_some(())))?;
    homes.in_notes(&fill_script("/data"))?;
    let restore = homes.until("the full volume to be told of", || {
        Ok(Some(homes.restore()?).filter(|r| r["trouble"].as_str().is_some_and(|words| !words.is_empty())))
    })?;
    let words = restore["trouble"].as_str().unwrap_or_default();
    ensure!(words.contains("notes became full") && words.contains("`size`"), "{words}");
    ensure!(files(&staging)?.is_empty(), "what was brought takes the service's room");
    ensure!(homes.sums()? == now, "the service's data were touched");
    homes.in_notes("rm /data/filler.*; sync")?;
    homes.until("the restore to be done by itself", || {
        Ok((homes.restore()?["waits_for_a_person"] == true).then_some(()))
    })?;
    homes.until_sums(&backed_up)?;
    homes.done(&["restore", NOTES, "--keep"])?;
    homes.until_sums(&backed_up)
}
