//! Maison on one radiator, its friend alpes, and a bare machine on which maison can come back from its paper.

use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Lab, Options};

/// Maison's radiator, that of the friend alpes, and a bare machine.
pub const MACHINES: [&str; 3] = ["salon", "chalet", "neuf"];
/// How long what takes no waiting may take.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The service's container.
const NOTES: &str = "thermidor.maison.notes";

/// Founds both homes and makes them friends.
pub fn form(test: &str, backup: &str, terms: &str) -> Result<Home> {
    let mut home = found(test, backup, terms)?;
    befriend(&mut home)?;
    Ok(home)
}

/// Founds both homes, and has the notes hold `/data/it`, 2 MB that nothing compresses. `backup` is when it is backed up, `terms`
/// what alpes says of what it lends.
pub fn found(test: &str, backup: &str, terms: &str) -> Result<Home> {
    let name = format!("{test}-{}", std::process::id());
    let options =
        Options::beside(&crate::program("thermidor")?).with_images(&[], &|text| eprintln!("{text}"))?;
    let lab = Lab::new(&name, &MACHINES, options)?;
    lab.engines_ready()?;
    let mut home = Home::new(lab, "salon");
    let chalet = home.lab.radiator("chalet")?.address();
    let fill = "test -e /data/it || head -c 2000000 /dev/urandom > /data/it; sync; exec sleep infinity";
    let maison = format!(
        "home: maison\nradiators: {{ salon: {{ heats: room, power: 250 }} }}\nservices:\n  notes:\n    \
         image: debian:bookworm-slim\n    command: [ sh, -c, \"{fill}\" ]\n    volumes: [ \"notes:/data\" ]\n    \
         stop_grace_period: 1s\n    backup: {{ {backup}, to: [alpes] }}\nvolumes: {{ notes: {{ size: 64m }} }}\n"
    );
    let alpes = format!(
        "home: alpes\nradiators: {{ chalet: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    recipe: vault\n    \
         settings: {{ addresses: [\"{chalet}\"], {terms} }}\n    volumes: [ \"vault:/srv/vault\" ]\n\
         volumes: {{ vault: {{ size: 128m }} }}\n"
    );
    home.found("maison", "salon", &maison, "notes")?;
    home.found("alpes", "chalet", &alpes, "vault")?;
    Ok(home)
}

/// Makes friends of the two, each reached by the other.
pub fn befriend(home: &mut Home) -> Result<()> {
    home.befriend("chalet", "salon", "maison")?;
    home.reaches_its_friend(PATIENCE.as_secs(), "salon")?;
    home.sit_at("salon");
    Ok(())
}

/// Runs a shell in the notes' container.
pub fn in_notes(home: &Home, machine: &str, script: &str) -> Result<String> {
    Ok(home.lab.radiator(machine)?.run("docker", &["exec", NOTES, "sh", "-c", script])?.trim().to_owned())
}

/// What a command says in JSON.
pub fn asked(home: &Home, machine: &str, args: &[&str]) -> Result<Value> {
    let said = home.lab.radiator(machine)?.thermidor(args, 60)?;
    Ok(serde_json::from_slice(&said.stdout)?)
}

/// Waits for a backup of a subject that nothing was changed after.
pub fn backed_up(home: &Home, machine: &str, subject: &str) -> Result<()> {
    until(PATIENCE, &format!("a proved backup of {subject}"), || {
        std::thread::sleep(Duration::from_millis(500));
        let Ok(all) = asked(home, machine, &["backup", "ls", "-o", "json"]) else { return Ok(None) };
        let lines = all["items"].as_array().cloned().unwrap_or_default();
        Ok(lines.iter().any(|l| l["subject"] == subject && l["state"] == "proved").then_some(()))
    })
    .map_err(Into::into)
}

/// Alpes' person says that maison is recovered, once alpes has heard of that generation.
pub fn confirm(home: &Home, generation: u64) -> Result<()> {
    until(PATIENCE, "alpes to have heard of the new generation", || {
        std::thread::sleep(Duration::from_millis(500));
        let all = asked(home, "chalet", &["friend", "ls", "-o", "json"]).unwrap_or_default();
        Ok((all["items"][0]["claims"] == generation).then_some(()))
    })?;
    home.type_on("chalet", &["friend", "confirm", "maison", "--yes"]).map(drop)
}

/// Waits until the later generation's home may back up; the vault hears of the confirmation within a second or two.
pub fn may_back_up(home: &Home) -> Result<()> {
    until(PATIENCE, "a backup in the new generation", || {
        std::thread::sleep(Duration::from_secs(1));
        let said = home.lab.radiator("neuf")?.thermidor(&["backup", "run", "notes"], 60)?;
        Ok(said.status.success().then_some(()))
    })
    .context("neuf")
}
