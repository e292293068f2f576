//! `friends`: restic through a friend's vault, over TLS, beside a folder of the same disk and beside `rclone serve
//! restic`; what memory the vault takes while many send at once; and how long a burnt home's recovery takes.

mod crowd;
mod mail;
mod recovery;
mod sides;

use super::figures::{Bound, Figure, quantile};
use super::{Ground, Group};
use anyhow::{Context, Result};
use sides::{Side, Took, Vault};

/// The group.
pub const GROUP: Group = Group {
    name: "friends",
    about: "backup and restore through a friend's vault, against a folder and rclone; its memory; a recovery",
    figures: &[
        "backup_wall_ratio_local",
        "restore_wall_ratio_local",
        "backup_wall_ratio_rclone",
        "vault_rss",
        "recovery_seconds",
    ],
    run: measure,
};

/// What the group is when it is the vault's own process.
pub const VAULT: &str = "friends-vault";

/// Megabytes of mail; `THERMIDOR_BENCH_MAIL_MB` overrides it.
const MAIL_MB: u64 = 1000;
/// How often each side has its turn; `THERMIDOR_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 3;
/// Homes burnt and recovered; `THERMIDOR_BENCH_RUNS` overrides it.
const RECOVERIES: usize = 1;

/// Runs as the vault's own process until it is ended.
pub fn be_a_vault(root: &std::path::Path, listen: std::net::SocketAddr) -> Result<()> {
    sides::serve(root, listen)
}

fn measure(ground: &Ground) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir_in(&ground.scratch).context("make a folder")?;
    let rounds = super::setting("THERMIDOR_BENCH_ROUNDS", ROUNDS)?;
    let megabytes = super::setting("THERMIDOR_BENCH_MAIL_MB", MAIL_MB)?;
    let source = dir.path().join("mail");
    let messages = mail::write(&source, megabytes << 20)?;
    ground.say(format!("{messages} messages, {megabytes} MB; {rounds} rounds"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all: [Vec<Took>; 3] = Default::default();
    for round in 0..rounds {
        for (side, took) in Side::ALL.into_iter().zip(&mut all) {
            let place = dir.path().join(format!("{side:?}-{round}"));
            std::fs::create_dir(&place).with_context(|| place.display().to_string())?;
            let one = runtime.block_on(sides::measure(side, &place, &source, messages))?;
            std::fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
            ground.say(format!(
                "round {}, {side:?}: backup {:.1} s ({:.0} MB/s), restore {:.1} s ({:.0} MB/s)",
                round + 1,
                one.backup_s,
                megabytes as f64 / one.backup_s,
                one.restore_s,
                megabytes as f64 / one.restore_s,
            ));
            took.push(one);
        }
    }
    let place = dir.path().join("crowd");
    std::fs::create_dir(&place)?;
    let vault = Vault::start(&place)?;
    let rss = runtime.block_on(crowd::press(&vault))?;
    ground.say(format!("{} uploads at once: the vault took {rss:.1} MiB at most", crowd::UPLOADS));
    let recoveries = recovery::measure(ground, super::setting("THERMIDOR_BENCH_RUNS", RECOVERIES)?)?;
    Ok(figures(&all, rss, recoveries))
}

fn figures([ours, local, rclone]: &[Vec<Took>; 3], rss: f64, recoveries: Vec<f64>) -> Vec<Figure> {
    let backup = |side: &[Took]| side.iter().map(|took| took.backup_s).collect::<Vec<f64>>();
    let restore = |side: &[Took]| side.iter().map(|took| took.restore_s).collect::<Vec<f64>>();
    let figure = |name, ours: Vec<f64>, anchor: &str, theirs: Vec<f64>| {
        Figure::new(name, "s", quantile(&ours, 0.5), ours.clone()).against(
            anchor,
            quantile(&theirs, 0.5),
            theirs,
        )
    };
    let (folder, served) = ("restic to a folder", "rclone serve restic");
    vec![
        figure("backup_wall_ratio_local", backup(ours), folder, backup(local))
            .aimed_at(Bound::RatioAtMost(1.25)),
        figure("restore_wall_ratio_local", restore(ours), folder, restore(local))
            .aimed_at(Bound::RatioAtMost(1.25)),
        figure("backup_wall_ratio_rclone", backup(ours), served, backup(rclone)),
        Figure::new("vault_rss", "MiB", rss, vec![rss]).aimed_at(Bound::AtMost(64.0)),
        Figure::new("recovery_seconds", "s", quantile(&recoveries, 0.5), recoveries),
    ]
}
