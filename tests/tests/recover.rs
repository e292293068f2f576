//! A home whose only radiator is gone comes back on a bare machine from the 24 words and a friend's address: its service
//! starts with its data. Then, in the living home, restores that are swapped in, undone, kept, and put into a folder.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Lab, Options};
use thermidor_tests::program;

/// Maison's radiator, that of the friend alpes, and a bare machine.
const MACHINES: [&str; 3] = ["salon", "chalet", "neuf"];
const PATIENCE: Duration = Duration::from_secs(120);
const NOTES: &str = "thermidor.maison.notes";

/// Runs a shell in the notes' container.
fn in_notes(home: &Home, machine: &str, script: &str) -> Result<String> {
    Ok(home.lab.radiator(machine)?.run("docker", &["exec", NOTES, "sh", "-c", script])?.trim().to_owned())
}

/// What a command says in JSON.
fn asked(home: &Home, machine: &str, args: &[&str]) -> Result<Value> {
    let said = home.lab.radiator(machine)?.thermidor(args, 60)?;
    Ok(serde_json::from_slice(&said.stdout)?)
}

/// Waits for a backup of a subject that nothing was changed after.
fn backed_up(home: &Home, machine: &str, subject: &str) -> Result<()> {
    until(PATIENCE, &format!("a proved backup of {subject}"), || {
        std::thread::sleep(Duration::from_millis(500));
        let Ok(all) = asked(home, machine, &["backup", "ls", "-o", "json"]) else { return Ok(None) };
        let lines = all["items"].as_array().cloned().unwrap_or_default();
        Ok(lines.iter().any(|l| l["subject"] == subject && l["state"] == "proved").then_some(()))
    })
    .map_err(Into::into)
}

#[test]
fn a_home_burns_down_and_comes_back_from_the_words_on_paper() {
    let name = format!("recover-{}", std::process::id());
    let options =
        Options::beside(&program("thermidor").unwrap()).with_images(&[], &|text| eprintln!("{text}"));
    let lab = Lab::new(&name, &MACHINES, options.unwrap()).unwrap();
    lab.engines_ready().unwrap();
    let mut home = Home::new(lab, "salon");
    let chalet = home.lab.radiator("chalet").unwrap().address();
    let fill = "test -e /data/it || head -c 2000000 /dev/urandom > /data/it; sync; exec sleep infinity";
    let maison = format!(
        "home: maison\nradiators: {{ salon: {{ heats: room, power: 250 }} }}\nservices:\n  notes:\n    \
         image: debian:bookworm-slim\n    command: [ sh, -c, \"{fill}\" ]\n    volumes: [ \"notes:/data\" ]\n    \
         stop_grace_period: 1s\n    backup: {{ every: 1h, to: [alpes] }}\nvolumes: {{ notes: {{ size: 64m }} }}\n"
    );
    let alpes = format!(
        "home: alpes\nradiators: {{ chalet: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    recipe: vault\n    \
         settings: {{ addresses: [\"{chalet}\"], lend: 64m }}\n    volumes: [ \"vault:/srv/vault\" ]\n\
         volumes: {{ vault: {{ size: 128m }} }}\n"
    );
    home.found("maison", "salon", &maison, "notes").unwrap();
    home.found("alpes", "chalet", &alpes, "vault").unwrap();
    home.befriend("chalet", "salon", "maison").unwrap();
    home.reaches_its_friend(PATIENCE.as_secs(), "salon").unwrap();
    let (words, sum) = burn(&mut home).unwrap();
    recover(&mut home, &words, &sum, &chalet.to_string()).unwrap();
    returned(&home, &sum).unwrap();
    live(&home, &sum).unwrap();
}

/// Everything is at the friend's, the words are on paper, and the power is gone for good. Answers the words and
/// what the data were.
fn burn(home: &mut Home) -> Result<(String, String)> {
    home.sit_at("salon");
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
    until(PATIENCE, "alpes to have heard of the new generation", || {
        std::thread::sleep(Duration::from_millis(500));
        let all = asked(home, "chalet", &["friend", "ls", "-o", "json"]).unwrap_or_default();
        Ok((all["items"][0]["claims"] == 2).then_some(()))
    })?;
    home.type_on("chalet", &["friend", "confirm", "maison", "--yes"])?;
    until(PATIENCE, "a backup in the new generation", || {
        std::thread::sleep(Duration::from_secs(1));
        Ok(home
            .lab
            .radiator("neuf")?
            .thermidor(&["backup", "run", "notes"], 60)?
            .status
            .success()
            .then_some(()))
    })?;
    Ok(())
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
