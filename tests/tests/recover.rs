//! A house burns down, with every disk in it. What is left is a page of words and a friend: on a bare machine one command
//! makes the home again, its data among it; and the friend keeps out whoever comes with the words until its person has
//! looked.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Lab, Options};
use thermidor_tests::program;

/// The house that burns, the friend's, and the machine bought afterwards.
const MACHINES: [&str; 3] = ["salon", "chalet", "neuf"];
/// A line that no friend may find on its disks.
const SECRET: &str = "the-family-meets-at-the-old-mill";

fn found(home: &mut Home, name: &str, radiator: &str, yaml: &str) -> Result<()> {
    let listen = home.listener(radiator)?;
    home.type_on(radiator, &["init", name, "--radiator", radiator, "--listen", &listen])?;
    home.start_units(radiator, true)?;
    home.sit_at(radiator);
    home.wait(60, "the founder's daemon", |s| s.leader.is_some())?;
    home.apply(yaml)
}

fn become_friends(home: &Home) -> Result<()> {
    let address = home.lab.radiator("chalet")?.address().to_string();
    let said = home.type_on("chalet", &["friend", "invite", "--no-wait"])?;
    let code = said.lines().next().context("no code was printed")?.trim().to_owned();
    home.type_on("salon", &["friend", "accept", &code, &address, "--yes"])?;
    home.type_on("chalet", &["friend", "confirm", "maison", "--yes"])?;
    until(Duration::from_secs(30), "alpes to let maison in", || {
        std::thread::sleep(Duration::from_millis(300));
        let said = home.lab.radiator("salon")?.thermidor(&["friend", "ls", "-o", "json"], 60)?;
        let list: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        Ok((list["items"][0]["reachable"] == true).then_some(()))
    })?;
    Ok(())
}

/// What the notes are, read on the machine where they are served.
fn notes(home: &Home, machine: &str) -> Result<String> {
    let radiator = home.lab.radiator(machine)?;
    let path = radiator.paths()?.volume("notes").join("mnt/letter");
    Ok(radiator.run("cat", &[&path.display().to_string()])?)
}

#[test]
fn a_burnt_down_home_comes_back_from_the_words_and_a_friend() {
    let name = format!("recover-{}", std::process::id());
    let options =
        Options::beside(&program("thermidor").unwrap()).with_images(&[], &|text| eprintln!("{text}"));
    let lab = Lab::new(&name, &MACHINES, options.unwrap()).unwrap();
    lab.engines_ready().unwrap();
    let mut home = Home::new(lab, "salon");

    let write =
        format!("test -e /data/letter || {{ echo {SECRET} > /data/letter; sync; }}; exec sleep infinity");
    let maison = format!(
        "home: maison\nradiators: {{ salon: {{ heats: room, power: 250 }} }}\nservices:\n  notes:\n    \
         image: debian:bookworm-slim\n    command: [ sh, -c, \"{write}\" ]\n    volumes: [ \"notes:/data\" ]\n    \
         stop_grace_period: 1s\n    backup: {{ every: 1h, to: [alpes] }}\n  scratch:\n    \
         image: debian:bookworm-slim\n    command: [ sleep, infinity ]\n    volumes: [ \"scratch:/data\" ]\n    \
         stop_grace_period: 1s\nvolumes: {{ notes: {{ size: 64m }}, scratch: {{ size: 64m }} }}\n"
    );
    let chalet = home.lab.radiator("chalet").unwrap().address().to_string();
    let alpes = format!(
        "home: alpes\nradiators: {{ chalet: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    \
         recipe: vault\n    settings: {{ addresses: [\"{chalet}\"], lend: 64m }}\n    volumes: [ \"vault:/srv/vault\" ]\n\
         volumes: {{ vault: {{ size: 128m }} }}\n"
    );
    found(&mut home, "alpes", "chalet", &alpes).unwrap();
    home.wait(120, "the vault to run", |s| s.runs_on("vault").is_some()).unwrap();
    found(&mut home, "maison", "salon", &maison).unwrap();
    home.wait(60, "the notes to run", |s| s.runs_on("notes").is_some()).unwrap();
    become_friends(&home).unwrap();
    let before = notes(&home, "salon").unwrap();
    assert!(before.contains(SECRET), "{before}");

    // Both go by themselves too; here nobody waits for their time.
    home.type_on("salon", &["backup", "run", "notes"]).unwrap();
    home.type_on("salon", &["backup", "run", "home-itself"]).unwrap();
    let words = home.type_on("salon", &["kit", "print", "-o", "words"]).unwrap();
    let words = words.lines().find(|line| line.split(' ').count() == 24).unwrap().to_owned();
    nothing_to_read(&home).unwrap();
    home.lab.radiator("salon").unwrap().power_off().unwrap();

    recovers(&mut home, &words, &chalet).unwrap();
    assert_eq!(notes(&home, "neuf").unwrap(), before);
    is_let_in_again(&home).unwrap();
}

/// The friend's disk holds the backup, and neither what is in it nor the home's words for it.
fn nothing_to_read(home: &Home) -> Result<()> {
    let chalet = home.lab.radiator("chalet")?;
    let vault = chalet.paths()?.volume("vault").join("mnt").display().to_string();
    let kept =
        chalet.run("find", &[&vault, "-path", "*maison*", "-name", "????????????????*", "-type", "f"])?;
    ensure!(kept.lines().count() > 4, "the vault keeps nothing: {kept}");
    let search = format!("grep -rlF -e {SECRET} -e letter {vault} || true");
    let found = chalet.run("sh", &["-c", &search])?;
    ensure!(found.trim().is_empty(), "it can be read in {found}");
    Ok(())
}

fn recovers(home: &mut Home, words: &str, chalet: &str) -> Result<()> {
    let machine = home.lab.radiator("neuf")?;
    let (listen, paper) = (home.listener("neuf")?, machine.dir().join("page"));
    let path = paper.display().to_string();
    let recover = ["recover", "--kit", &path, "--friend", chalet, "--radiator", "salon", "--listen", &listen];
    let (first, rest) = words.split_once(' ').context("the words")?;
    std::fs::write(&paper, format!("{rest} {first}\n"))?;
    let unplugged = [&recover[..], &["--others-are-unplugged"]].concat();
    home.refused_on("neuf", &unplugged).context("words in another order are no kit")?;
    std::fs::write(&paper, format!("{words}\n"))?;
    let asked = home.refused_on("neuf", &recover)?;
    ensure!(asked.contains("--others-are-unplugged"), "{asked}");
    let told = home.type_on("neuf", &unplugged)?;
    ensure!(told.contains("maison is recovered from alpes"), "{told}");
    home.start_units("neuf", true)?;
    home.sit_at("neuf");
    home.wait(120, "the notes to run again", |s| s.runs_on("notes").is_some())?;
    // What was never backed up waits for nobody.
    home.wait(60, "the scratch service to run", |s| s.runs_on("scratch").is_some()).map(drop)
}

/// The friend gives to whoever has the words, and takes nothing until its person has looked.
fn is_let_in_again(home: &Home) -> Result<()> {
    let refused = home.refused_on("neuf", &["backup", "run", "notes"])?;
    ensure!(refused.contains("notes at alpes's"), "{refused}");
    until(Duration::from_secs(60), "alpes to have heard of the new generation", || {
        std::thread::sleep(Duration::from_millis(500));
        let said = home.type_on("chalet", &["friend", "ls", "-o", "json"])?;
        let list: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        Ok((list["items"][0]["claims"] == 2).then_some(()))
    })?;
    home.type_on("chalet", &["friend", "confirm", "maison", "--yes"])?;
    until(Duration::from_secs(60), "a backup under the new generation", || {
        std::thread::sleep(Duration::from_secs(1));
        let said = home.lab.radiator("neuf")?.thermidor(&["backup", "run", "notes"], 120)?;
        Ok(said.status.success().then_some(()))
    })?;
    Ok(())
}
