//! What comes between a home and its friends: one can't be reached, one is slow, the cable is cut while bytes flow, the
//! service moves away under its backup. One lab for all of it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::thread::{scope, sleep};
use std::time::Duration;
use thermidor_tests::neighbours::{MAISON, NOTES, Neighbours, SELDOM, files};

/// So slow a friend takes so much of what is coming in some seconds.
const SLOW: &str = "lend: 64m, up: 512k";
/// Bytes of a pack that has begun to come: no lock and no index is as large.
const BEGUN: u64 = 256 << 10;
/// How long a cable is cut: longer than a packet is late, shorter than anybody gives up.
const CUT: Duration = Duration::from_secs(5);

#[test]
fn a_friend_that_is_away_slow_or_cut_off_and_a_move_cost_nothing_but_time() {
    let homes = Neighbours::new("friends-faults").unwrap();
    away(&homes).context("a friend can't be reached").unwrap();
    slow(&homes).context("a friend is slow").unwrap();
    cut_while_backing_up(&homes).context("a cable is cut in the middle of a pack").unwrap();
    moved(&homes).context("the service moves in the middle of its backup").unwrap();
    doer_dies(&homes).context("the radiator that backs up loses its power").unwrap();
    cut_while_restoring(&homes).context("a cable is cut in the middle of a restore").unwrap();
}

/// Backups by the schedule: one friend is served, the other's absence is told, and made good once it is back.
fn away(homes: &Neighbours) -> Result<()> {
    homes.write("away", 1)?;
    let before = [homes.line("alpes")?, homes.line("plaine")?].map(|line| line.made_ms);
    homes.home.lab.cut_all(homes.radiator("plaine")?.name())?;
    homes.wish_every("1m")?;
    let failed = homes.until("plaine's absence to be noticed", || {
        Ok(Some(homes.line("plaine")?).filter(|line| line.failure.is_some()))
    })?;
    let why = failed.failure.clone().unwrap_or_default();
    let address = homes.radiator("plaine")?.address().to_string();
    ensure!(why.contains(&address), "{why}");
    ensure!(why.contains("can't be reached") || why.contains("has not answered"), "{why}");
    ensure!(!failed.person && failed.made_ms == before[1], "that passes by itself: {failed:?}");
    homes.until("alpes to be served meanwhile", || {
        let line = homes.line("alpes")?;
        Ok((line.made_ms > before[0] && line.proved_ms == line.made_ms).then_some(()))
    })?;
    let status = homes.asked(&["status", "-o", "json"])?["backups"].to_string();
    ensure!(status.contains("plaine has failed for") && status.contains(&address), "{status}");

    homes.home.lab.heal()?;
    let caught_up = homes.until("plaine to be served by itself", || {
        let line = homes.line("plaine")?;
        Ok(Some(line).filter(|line| line.state == "proved" && line.made_ms > before[1]))
    })?;
    ensure!(caught_up.failure.is_none() && caught_up.failures == 0, "{caught_up:?}");
    homes.wish_every(SELDOM)
}

/// It goes on for as long as that takes, and tells how far it is.
fn slow(homes: &Neighbours) -> Result<()> {
    homes.agree("alpes", SLOW)?;
    homes.write("slow", 4)?;
    scope(|scope| {
        let backup = homes.back_up(scope, "alpes");
        let begun = homes.until_coming("alpes", BEGUN)?;
        let (found, all) = homes.until("progress to be shown", || {
            let line = homes.line("alpes")?;
            ensure!(line.state == "runs", "{line:?}");
            Ok(line.progress.filter(|(found, _)| *found > 0))
        })?;
        ensure!(all >= found, "{found} of {all} bytes");
        homes.until_coming("alpes", begun + BEGUN)?;
        proved(homes, backup)
    })
}

/// Waits for a backup to alpes that was begun meanwhile; it must have ended well.
fn proved(
    homes: &Neighbours,
    backup: std::thread::ScopedJoinHandle<'_, Result<thermidor_tests::neighbours::Said>>,
) -> Result<()> {
    let said = backup.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    ensure!(said.done, "{}", said.text);
    let line = homes.line("alpes")?;
    ensure!(line.state == "proved" && line.failure.is_none(), "{line:?}");
    homes.nothing_comes("alpes")?;
    no_lock(homes)
}

fn cut_while_backing_up(homes: &Neighbours) -> Result<()> {
    homes.write("cut", 4)?;
    scope(|scope| {
        let backup = homes.back_up(scope, "alpes");
        homes.until_coming("alpes", BEGUN)?;
        homes.home.lab.cut_all(homes.radiator("alpes")?.name())?;
        sleep(CUT);
        let line = homes.line("alpes")?;
        homes.home.lab.heal()?;
        ensure!(line.state == "runs", "a blink ends nothing: {line:?}");
        proved(homes, backup)
    })
}

/// The standby that backs it up becomes the active meanwhile: its frozen source stays, and it ends what it has begun.
fn moved(homes: &Neighbours) -> Result<()> {
    let active = homes.active()?;
    let standby = MAISON.into_iter().find(|radiator| *radiator != active).context("a standby")?;
    homes.write("moved", 4)?;
    let sums = homes.sums()?;
    scope(|scope| {
        let backup = homes.back_up(scope, "alpes");
        homes.until_coming("alpes", BEGUN)?;
        homes.done(&["move", NOTES, standby])?;
        homes.home.wait(120, "the notes to have moved", |s| s.runs_on(NOTES) == Some(standby))?;
        proved(homes, backup)
    })?;
    let by = homes.line("alpes")?.by;
    ensure!(by.as_deref() == Some(standby), "{by:?} backed it up, and {standby} was the standby");
    homes.until_sums(&sums)?;
    // From now on it is the other's, once that holds all of it.
    homes.home.wait(120, "the earlier active to be in sync", |s| s.in_sync(&active))?;
    homes.write("since", 1)?;
    homes.done(&["backup", "run", NOTES, "--to", "alpes"])?;
    let line = homes.line("alpes")?;
    ensure!(line.by.as_deref() == Some(active.as_str()) && line.state == "proved", "{line:?}");
    Ok(())
}

/// What is half done is done anew by the other, and the lock of the dead is in nobody's way.
fn doer_dies(homes: &Neighbours) -> Result<()> {
    let [salon, bureau] = MAISON;
    if homes.active()? != salon {
        homes.done(&["move", NOTES, salon])?;
    }
    // With two radiators the active's alone votes.
    homes.home.wait(120, "salon to be active, to vote and to lead, bureau to be in sync", |s| {
        let votes = s.voters() == 1 && s.member(salon).is_some_and(|m| m.votes);
        votes && s.leader.as_deref() == Some(salon) && s.runs_on(NOTES) == Some(salon) && s.in_sync(bureau)
    })?;
    homes.write("dies", 4)?;
    scope(|scope| {
        let backup = homes.back_up(scope, "alpes");
        homes.until_coming("alpes", BEGUN)?;
        homes.home.lab.radiator(bureau)?.power_off()?;
        let said = backup.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        ensure!(!said.done && said.text.contains("nobody works on it any more"), "{}", said.text);
        Ok(())
    })?;
    // Nothing is written that its absence could be noticed by.
    homes.done(&["backup", "run", NOTES, "--to", "alpes"])?;
    let line = homes.line("alpes")?;
    ensure!(line.by.as_deref() == Some(salon) && line.state == "proved", "{line:?}");
    no_lock(homes)?;
    homes.home.lab.radiator(bureau)?.power_on()?;
    homes.home.wait(120, "bureau to be in sync again", |s| s.in_sync(bureau)).map(drop)
}

fn no_lock(homes: &Neighbours) -> Result<()> {
    let locks = files(&homes.kept("alpes")?.join("repo").join(NOTES).join("locks"))?;
    ensure!(locks.is_empty(), "locks are left: {locks:?}");
    Ok(())
}

/// The data of now stay what they are until what was backed up is there whole.
fn cut_while_restoring(homes: &Neighbours) -> Result<()> {
    homes.done(&["backup", "run", NOTES, "--to", "alpes"])?;
    homes.agree("alpes", "lend: 64m, down: 2m")?;
    let backed_up = homes.sums()?;
    homes.in_notes("echo changed > /data/1; rm /data/2; echo new > /data/new; sync")?;
    let now = homes.sums()?;
    ensure!(now != backed_up, "nothing has changed");
    let staging = homes.volume()?.join(".thermidor-restore");
    homes.done(&["restore", NOTES, "--from", "alpes", "--no-wait"])?;
    homes.until("files to be brought", || Ok((!files(&staging)?.is_empty()).then_some(())))?;
    homes.home.lab.cut_all(homes.radiator("alpes")?.name())?;
    sleep(CUT);
    let (restore, meanwhile) = (homes.restore()?, homes.sums()?);
    homes.home.lab.heal()?;
    ensure!(restore["waits_for_a_person"] == false && restore["held"] == false, "{restore}");
    ensure!(meanwhile == now, "{meanwhile} instead of {now}");
    homes.until("the restore to be done", || {
        Ok((homes.restore()?["waits_for_a_person"] == true).then_some(()))
    })?;
    homes.until_sums(&backed_up)?;
    homes.done(&["restore", NOTES, "--undo"])?;
    homes.until_sums(&now)?;
    homes.done(&["restore", NOTES, "--keep"])?;
    homes.until_sums(&now)
}
