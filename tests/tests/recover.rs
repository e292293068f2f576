//! A home whose only radiator is gone comes back on a bare machine from the 24 words and a friend's address: its service
//! starts with its data. Then, in the living home, restores that are swapped in, undone, kept, and put into a folder.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_tests::alone::{asked, backed_up, confirm, form, in_notes, may_back_up};

#[test]
fn a_home_burns_down_and_comes_back_from_the_words_on_paper() {
    let mut home = form("recover", "every: 1h, retry: 5s", "lend: 64m").unwrap();
    let chalet = home.lab.radiator("chalet").unwrap().address();
    let (words, sum) = burn(&home).unwrap();
    recover(&mut home, &words, &sum, &chalet.to_string()).unwrap();
    returned(&home, &sum).unwrap();
    live(&home, &sum).unwrap();
}

/// Everything is at the friend's, the words are on paper, and the power is gone for good. Answers the words and
/// what the data were.
fn burn(home: &Home) -> Result<(String, String)> {
    let words = home.type_on("salon", &["kit", "print", "-o", "words"])?;
    let sum = in_notes(home, "salon", "sha256sum /data/it")?;
    // Both at once.
    home.type_on("salon", &["backup", "run"])?;
    backed_up(home, "salon", "notes")?;
    backed_up(home, "salon", "home-itself")?;
    home.lab.radiator("salon")?.power_off()?;
    Ok((words, sum))
}

fn recover(home: &mut Home, words: &str, sum: &str, friend: &str) -> Result<()> {
    let listen = home.listener("neuf")?;
    let paper = home.lab.radiator("neuf")?.dir().join("paper");
    let paper_path = paper.to_string_lossy().into_owned();
    let arguments = |more: &'static str| {
        let all =
            ["recover", "--kit", &paper_path, "--friend", friend, "--radiator", "salon", "--listen", &listen];
        all.into_iter().chain((!more.is_empty()).then_some(more)).map(str::to_owned).collect::<Vec<_>>()
    };
    let refused = |home: &Home, args: &[String]| {
        home.refused_on("neuf", &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // One word is another.
    let mut wrong: Vec<&str> = words.split_whitespace().collect();
    wrong.swap(3, 11);
    std::fs::write(&paper, wrong.join(" "))?;
    let said = refused(home, &arguments("--others-are-unplugged"))?;
    ensure!(said.contains("all words are known, but"), "{said}");
    std::fs::write(&paper, words)?;
    let said = refused(home, &arguments(""))?;
    ensure!(said.contains("--others-are-unplugged"), "{said}");
    let args = arguments("--others-are-unplugged");
    let said = home.type_on("neuf", &args.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(said.contains("maison is recovered from alpes") && said.contains("in generation 2"), "{said}");
    ensure!(said.contains("notes starts once its data are here again"), "{said}");
    let said = refused(home, &args)?;
    ensure!(said.contains("belongs to a home already"), "{said}");

    home.start_units("neuf", true)?;
    home.sit_at("neuf");
    home.wait(180, "the notes with their data", |s| {
        s.service("notes").is_some_and(|n| n.state == "runs" && n.active.as_deref() == Some("salon"))
    })?;
    let now = in_notes(home, "neuf", "sha256sum /data/it")?;
    ensure!(now == sum, "{now} is not {sum}");
    // The friend gives and takes nothing new before its person has asked.
    let said = home.refused_on("neuf", &["backup", "run", "notes"])?;
    ensure!(said.contains("before its person has confirmed this home's generation 2"), "{said}");
    confirm(home, 2)?;
    may_back_up(home)
}

/// The radiator that was thought lost gets power again, its disk as it was: it hears from the friend that its home lives
/// elsewhere, stops, says so, and stays so after another start. The recovered home goes on undisturbed.
fn returned(home: &Home, sum: &str) -> Result<()> {
    let salon = home.lab.radiator("salon")?;
    let stands_down = |what: &str| {
        // It comes to its friend within two minutes, and the word is left there within two after the confirmation.
        until(Duration::from_secs(360), what, || {
            std::thread::sleep(Duration::from_secs(1));
            let said = asked(home, "salon", &["status", "-o", "json"]).unwrap_or_default();
            let notes = said["services"].as_array().and_then(|all| all.iter().find(|s| s["name"] == "notes"));
            let is_down = notes.is_some_and(|notes| notes["state"] == "down");
            Ok((is_down && said["outlived"]["stands_down"] == true).then_some(said))
        })
    };
    salon.power_on()?;
    salon.engine_ready()?;
    let said = stands_down("the old radiator to stand down")?;
    ensure!(said["generation"] == 1 && said["outlived"]["generation"] == 2, "{said}");
    ensure!(said["outlived"]["from"] == "alpes", "{said}");
    let warning = said["warnings"][0].as_str().unwrap_or_default().to_owned();
    ensure!(warning.contains("recovered or rescued elsewhere as generation 2"), "{warning}");
    ensure!(warning.contains("its data stay") && warning.contains("thermidor join TOKEN"), "{warning}");
    let events = home.type_on("salon", &["events"])?;
    ensure!(events.contains("recovered or rescued elsewhere as generation 2"), "{events}");
    let running = || salon.run("docker", &["ps", "-q"]);
    ensure!(running()?.trim().is_empty(), "a container still runs: {}", running()?);
    for args in [&["move", "notes", "salon"][..], &["backup", "run", "notes"], &["resume"]] {
        let said = home.refused_on("salon", args)?;
        ensure!(said.contains("generation 2") || said.contains("--kit-was-stolen"), "{said}");
    }
    // It is written down: another start changes nothing.
    salon.power_off()?;
    salon.power_on()?;
    salon.engine_ready()?;
    stands_down("the old radiator to stand down at once after another start")?;
    ensure!(running()?.trim().is_empty(), "a container runs after the start: {}", running()?);

    let now = in_notes(home, "neuf", "sha256sum /data/it")?;
    ensure!(now == sum, "{now} is not {sum}");
    let said = asked(home, "neuf", &["status", "-o", "json"])?;
    ensure!(said["generation"] == 2 && said["outlived"].is_null(), "{said}");
    home.type_on("neuf", &["backup", "run", "notes"])?;
    Ok(())
}

/// Restores in the living home.
fn live(home: &Home, sum: &str) -> Result<()> {
    // Told as it will be within a moment: the container is just being started again.
    let is = |what: &str| -> Result<()> {
        let mut last = String::new();
        let told = until(Duration::from_secs(60), "the notes as they should be", || {
            std::thread::sleep(Duration::from_millis(300));
            last = in_notes(home, "neuf", "sha256sum /data/it; cat /data/since 2>/dev/null || :")
                .unwrap_or_default();
            Ok((last == what).then_some(()))
        });
        told.with_context(|| format!("{last} instead of {what}"))
    };
    in_notes(home, "neuf", "echo changed > /data/it; echo since > /data/since; sync")?;
    let changed = in_notes(home, "neuf", "sha256sum /data/it; cat /data/since")?;
    home.type_on("neuf", &["restore", "notes", "--from", "alpes"])?;
    is(sum)?;
    home.type_on("neuf", &["restore", "notes", "--undo"])?;
    is(&changed)?;
    let said = home.refused_on("neuf", &["restore", "notes"])?;
    ensure!(said.contains("--keep"), "{said}");
    home.type_on("neuf", &["restore", "notes", "--keep"])?;
    is(&changed)?;
    // One file of it, beside the one that differs.
    home.type_on("neuf", &["restore", "notes", "--path", "notes/it"])?;
    is(&changed)?;
    let beside = in_notes(home, "neuf", "cat /data/it.restored-* | sha256sum")?;
    ensure!(sum.starts_with(beside.trim_end_matches(['-', ' '])), "{beside} is not {sum}");
    let dir = home.lab.radiator("neuf")?.dir().join("look");
    home.type_on("neuf", &["restore", "notes", "--to", &dir.to_string_lossy()])?;
    let there = std::fs::metadata(dir.join("notes/it")).context("the file in the folder")?;
    ensure!(there.len() == 2_000_000, "{} bytes", there.len());
    Ok(())
}
