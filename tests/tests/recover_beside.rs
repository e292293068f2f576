//! A home is recovered while the old one still runs: a thief's doing, or somebody's who did not pull the plug. Until the
//! friend's person has said which one counts both serve; from then on the friend takes nothing of the old one, which hears
//! that at its next contact and stops.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::alone::{asked, backed_up, confirm, form, in_notes, may_back_up};
use thermidor_tests::neighbours::files;

/// How long the old home may take from its next contact on, also where the new one has still to leave its word.
const HEARD: Duration = Duration::from_secs(90);
/// How long nobody serves twice is looked at.
const WATCHED: Duration = Duration::from_secs(20);
/// Bytes of an upload that has begun to come: no lock and no index is as large.
const BEGUN: u64 = 256 << 10;

#[test]
fn an_old_home_that_runs_beside_the_recovered_one_is_refused_and_stops_at_its_next_contact() {
    let mut home = form(
        "recover-beside",
        "every: 12h, drill: never, retry: 5s",
        "lend: 64m, friends: { maison: { lend: 64m, up: 512k } }",
    )
    .unwrap();
    let sum = beside(&mut home).context("both live").unwrap();
    let late = refused(&home).context("the friend's person has decided").unwrap();
    stood_down(&home).context("the old home stops").unwrap();
    alone(&home, &sum).context("the recovered home goes on").unwrap();
    kept(&home, &late).context("the old home's data").unwrap();
}

/// Recovers maison on the bare machine while salon goes on. What the notes were when they were backed up.
fn beside(home: &mut Home) -> Result<String> {
    let words = home.type_on("salon", &["kit", "print", "-o", "words"])?;
    let sum = in_notes(home, "salon", "sha256sum /data/it")?;
    home.type_on("salon", &["backup", "run"])?;
    backed_up(home, "salon", "notes")?;
    backed_up(home, "salon", "home-itself")?;
    let paper = home.lab.radiator("neuf")?.dir().join("paper");
    std::fs::write(&paper, words)?;
    let (paper, listen) = (paper.to_string_lossy().into_owned(), home.listener("neuf")?);
    let chalet = home.lab.radiator("chalet")?.address().to_string();
    let args = ["recover", "--kit", &paper, "--friend", &chalet, "--radiator", "salon", "--listen", &listen];
    home.type_on("neuf", &[&args[..], &["--others-are-unplugged"]].concat())?;
    home.start_units("neuf", true)?;
    home.sit_at("neuf");
    home.wait(180, "the notes with their data", |s| s.runs_on("notes") == Some("salon"))?;
    ensure!(in_notes(home, "neuf", "sha256sum /data/it")? == sum, "other notes came back");

    // Nobody has decided yet: the old home's backups are taken, the new one's are not.
    in_notes(home, "salon", "echo before > /data/before; sync")?;
    home.type_on("salon", &["backup", "run", "notes"])?;
    let said = home.refused_on("neuf", &["backup", "run", "notes"])?;
    ensure!(said.contains("before its person has confirmed this home's generation 2"), "{said}");
    let status = asked(home, "salon", &["status", "-o", "json"])?;
    ensure!(status["outlived"].is_null(), "nothing that was not confirmed stops a home: {status}");
    Ok(sum)
}

/// Snapshots of the notes that the friend keeps.
fn snapshots(home: &Home) -> Result<usize> {
    let kept = home.lab.radiator("chalet")?.paths()?.volume("vault").join("mnt/friends/maison");
    Ok(files(&kept.join("repo/notes/snapshots"))?.len())
}

/// The friend's person confirms while the old home is sending: that upload is cut off and comes to nothing, and so does the
/// next. What the notes of the old home are by then.
fn refused(home: &Home) -> Result<String> {
    in_notes(home, "salon", "head -c 8000000 /dev/urandom > /data/late; sync")?;
    let late = in_notes(home, "salon", "sha256sum /data/late")?;
    let before = snapshots(home)?;
    let tmp = home.lab.radiator("chalet")?.paths()?.volume("vault").join("mnt/friends/maison/tmp");
    std::thread::scope(|scope| -> Result<()> {
        let backup = scope.spawn(|| home.lab.radiator("salon")?.thermidor(&["backup", "run", "notes"], 120));
        until(Duration::from_secs(60), "an upload of the old home", || {
            std::thread::sleep(Duration::from_millis(100));
            let coming: u64 = files(&tmp).unwrap_or_default().iter().map(|(_, bytes)| bytes).sum();
            Ok((coming >= BEGUN).then_some(()))
        })?;
        confirm(home, 2)?;
        let said = backup.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let text = String::from_utf8([said.stdout, said.stderr].concat())?;
        ensure!(!said.status.success() && text.contains("generation 2 is believed"), "{text}");
        Ok(())
    })?;
    let said = home.refused_on("salon", &["backup", "run", "notes"])?;
    ensure!(said.contains("generation 2"), "{said}");
    ensure!(snapshots(home)? == before, "the old home has left a snapshot");
    Ok(late)
}

/// It says why, runs nothing, and does nothing more by itself.
fn stood_down(home: &Home) -> Result<()> {
    let status = until(HEARD, "the old home to stand down", || {
        std::thread::sleep(Duration::from_millis(500));
        let status = asked(home, "salon", &["status", "-o", "json"]).unwrap_or_default();
        Ok((status["outlived"]["stands_down"] == true && notes(&status)["state"] == "down").then_some(status))
    })?;
    ensure!(status["generation"] == 1 && status["outlived"]["generation"] == 2, "{status}");
    let warnings = status["warnings"].to_string();
    ensure!(warnings.contains("recovered or rescued elsewhere as generation 2"), "{warnings}");
    Ok(())
}

fn notes(status: &Value) -> Value {
    let all = status["services"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|service| service["name"] == "notes").unwrap_or_default()
}

fn containers(home: &Home, machine: &str) -> Result<usize> {
    Ok(home.lab.radiator(machine)?.run("docker", &["ps", "-q"])?.lines().count())
}

/// One serves, the recovered one, and its backups are taken.
fn alone(home: &Home, sum: &str) -> Result<()> {
    may_back_up(home)?;
    let until = Instant::now() + WATCHED;
    while Instant::now() < until {
        let running = (containers(home, "salon")?, containers(home, "neuf")?);
        ensure!(running == (0, 1), "{running:?} containers of the old and of the recovered home run");
        std::thread::sleep(Duration::from_millis(500));
    }
    let now = in_notes(home, "neuf", "sha256sum /data/it; ls /data")?;
    ensure!(now.starts_with(sum) && !now.contains("late"), "{now}");
    let status = asked(home, "neuf", &["status", "-o", "json"])?;
    ensure!(status["generation"] == 2 && status["outlived"].is_null(), "{status}");
    let before = snapshots(home)?;
    in_notes(home, "neuf", "echo since > /data/since; sync")?;
    home.type_on("neuf", &["backup", "run", "notes"])?;
    ensure!(snapshots(home)? == before + 1, "{before} snapshots as before");
    home.type_on("neuf", &["backup", "check", "notes", "--from", "alpes"]).map(drop)
}

/// Whoever says that the paper was stolen has the old home with all of its data again; the friend goes by its own person.
fn kept(home: &Home, late: &str) -> Result<()> {
    home.type_on("salon", &["resume", "--kit-was-stolen"])?;
    let now = until(Duration::from_secs(60), "the old notes to run", || {
        std::thread::sleep(Duration::from_millis(500));
        Ok(in_notes(home, "salon", "sha256sum /data/late").ok())
    })?;
    ensure!(now == late, "{now} is not {late}");
    let said = home.refused_on("salon", &["backup", "run", "notes"])?;
    ensure!(said.contains("generation 2"), "{said}");
    Ok(())
}
