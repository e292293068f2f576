//! A friend's home of two radiators, both with a replica of the vault: the one on which the vault is active loses its power
//! in the middle of an upload. The backup is made all the same, by itself, and what was acknowledged before is there.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_tests::neighbours::{NOTES, Neighbours, SELDOM, all_whole, files};

/// So slow a friend takes some seconds for each pack.
const SLOW: &str = "lend: 64m, up: 2m";
/// MiB that make more than two packs of restic's.
const MUCH: u64 = 44;
/// Bytes of a pack that has begun to come: no lock and no index is as large.
const BEGUN: u64 = 1 << 20;
/// A pack that lies in its place is acknowledged within that time.
const ACKNOWLEDGED: Duration = Duration::from_secs(1);

#[test]
fn a_vault_that_is_taken_over_in_the_middle_of_an_upload_has_all_it_acknowledged_and_gets_the_rest() {
    let mut homes = Neighbours::new("friends-takeover").unwrap();
    homes.grow("alpes", "grange", "cave").context("alpes grows").unwrap();
    homes.agree("alpes", SLOW).unwrap();
    let (acknowledged, before) = cut_off(&homes).context("the vault loses its power").unwrap();
    homes.taken_over("alpes").unwrap();
    goes_on(&homes, &acknowledged, before).context("the backup goes on").unwrap();
    restored(&homes).context("a restore from the one that took over").unwrap();
    comes_back(&mut homes, &acknowledged).context("the first radiator has power again").unwrap();
}

fn names(homes: &Neighbours) -> Result<BTreeSet<String>> {
    let all = files(&homes.packs("alpes")?)?;
    Ok(all.iter().filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

/// A backup by the schedule has left a pack and is in the middle of the next. Answers the packs that were acknowledged, and
/// when the backup before was made.
fn cut_off(homes: &Neighbours) -> Result<(BTreeSet<String>, Option<u64>)> {
    homes.done(&["backup", "run", NOTES, "--to", "alpes"])?;
    let (old, before) = (names(homes)?, homes.line("alpes")?.made_ms);
    homes.write("much", MUCH)?;
    homes.wish_every("1m")?;
    let acknowledged = homes.until("one pack to have come, and another to be coming", || {
        let packs = names(homes)?;
        Ok((packs.len() > old.len() && homes.coming("alpes")? >= BEGUN).then_some(packs))
    })?;
    std::thread::sleep(ACKNOWLEDGED);
    ensure!(homes.coming("alpes")? >= BEGUN, "nothing is coming any more");
    ensure!(acknowledged.is_superset(&old), "{acknowledged:?}, {old:?}");
    homes.radiator("alpes")?.power_off()?;
    Ok((acknowledged, before))
}

/// Nobody does anything: the backup is made to its end, or anew, and proved.
fn goes_on(homes: &Neighbours, acknowledged: &BTreeSet<String>, before: Option<u64>) -> Result<()> {
    let there = names(homes)?;
    ensure!(
        there.is_superset(acknowledged),
        "lost: {:?}",
        acknowledged.difference(&there).collect::<Vec<_>>()
    );
    let line = homes.until("a proved backup at the vault that took over", || {
        let line = homes.line("alpes")?;
        Ok(Some(line).filter(|line| line.made_ms > before && line.proved_ms == line.made_ms))
    })?;
    ensure!(line.failure.is_none() && !line.person, "{line:?}");
    homes.wish_every(SELDOM)?;
    homes
        .until("its backups to be at rest", || Ok((homes.line("alpes")?.state == "proved").then_some(())))?;
    let whole = all_whole(homes, "alpes")?;
    ensure!(
        whole.is_superset(acknowledged),
        "lost: {:?}",
        acknowledged.difference(&whole).collect::<Vec<_>>()
    );
    homes.done(&["backup", "check", NOTES, "--from", "alpes"]).map(drop)
}

fn restored(homes: &Neighbours) -> Result<()> {
    let backed_up = homes.sums()?;
    homes.in_notes("rm /data/much; echo changed > /data/1; sync")?;
    homes.done(&["restore", NOTES, "--from", "alpes"])?;
    homes.until_sums(&backed_up)?;
    homes.done(&["restore", NOTES, "--keep"]).map(drop)
}

/// It catches up, and the vault moved back there has the same packs.
fn comes_back(homes: &mut Neighbours, acknowledged: &BTreeSet<String>) -> Result<()> {
    let seat = homes.home.seat().to_owned();
    let grange = homes.radiator("alpes")?.name().to_owned();
    homes.home.lab.radiator("chalet")?.power_on()?;
    homes.home.sit_at(&grange);
    homes.home.wait(120, "chalet to be in sync again", |s| s.in_sync("chalet"))?;
    homes.home.type_here(&["move", "vault", "chalet"])?;
    homes.home.sit_at(&seat);
    homes.taken_over("alpes")?;
    let whole = all_whole(homes, "alpes")?;
    ensure!(
        whole.is_superset(acknowledged),
        "lost: {:?}",
        acknowledged.difference(&whole).collect::<Vec<_>>()
    );
    homes.write("since", 1)?;
    homes.done(&["backup", "run", NOTES, "--to", "alpes"])?;
    ensure!(homes.line("alpes")?.state == "proved", "{:?}", homes.line("alpes")?);
    Ok(())
}
