//! The daemon probes the mail it runs: what it finds is shown and told, and nothing moves for it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::Lab;
use thermidor_supervisor::demo::lab::command::until;

const RADIATORS: [&str; 2] = ["salon", "bureau"];
/// How long the probe may take to notice, s.
const NOTICE_S: u64 = 60;

fn yaml(address: &str) -> String {
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{radiators}services:\n  mail:\n    recipe: mail\n    \
         settings: {{ domain: maison.example, probe_every: 5s }}\n    volumes: [ \"mail:/srv/mail\" ]\n\
         volumes:\n  mail: {{ size: 256m, replicas: 2, durability: 1 }}\n"
    )
}

/// The home and where its commands are typed.
struct Mail {
    home: Home,
}

impl Mail {
    fn form(test: &str) -> Result<Self> {
        let name = format!("{test}-{}", std::process::id());
        let lab = Lab::new(&name, &RADIATORS, thermidor_tests::options(&home_images())?)?;
        let home = Home::new(lab, RADIATORS[0]);
        home.form()?;
        home.apply(&yaml(&home.lab.floating().to_string()))?;
        home.wait(120, "mail to run", |s| s.runs_on("mail").is_some())?;
        Ok(Self { home })
    }

    fn shown(&self) -> Result<Value> {
        let said = self
            .home
            .lab
            .radiator(RADIATORS[0])?
            .thermidor(&["service", "show", "mail", "-o", "json"], 10)?;
        let value: Value = serde_json::from_slice(&said.stdout).context("service show in JSON")?;
        Ok(value["items"][0].clone())
    }

    /// Waits until the service is shown as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        until(Duration::from_secs(NOTICE_S), what, || {
            std::thread::sleep(Duration::from_millis(200));
            last = self.shown().unwrap_or(Value::Null);
            Ok(wanted(&last).then(|| last.clone()))
        })
        .with_context(|| format!("the last was {last}"))
    }

    fn events(&self) -> Result<Vec<Value>> {
        let said = self.home.lab.radiator(RADIATORS[0])?.thermidor(&["events", "-o", "json"], 10)?;
        let text = String::from_utf8(said.stdout)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    fn told(&self, words: &str) -> Result<()> {
        until(Duration::from_secs(20), words, || {
            let events = self.events().unwrap_or_default();
            let is_it = |e: &&Value| e["text"].as_str().is_some_and(|t| t.contains(words));
            Ok(events.iter().find(is_it).map(|e| e["mailed"] == true).filter(|mailed| *mailed))
        })?;
        Ok(())
    }
}

#[test]
fn mail_is_probed_as_a_client_would_and_a_change_of_its_health_is_told() {
    let mail = Mail::form("probe").unwrap();
    let well = mail.until("a probe that went round", |s| s["probe"]["healthy"] == true).unwrap();
    let legs: Vec<_> = well["probe"]["legs"].as_array().unwrap().iter().map(|l| l["name"].clone()).collect();
    assert_eq!(legs, ["greet", "submit", "login", "deliver", "delete"]);
    assert_eq!((&well["state"], &well["probe"]["trouble"]), (&"runs".into(), &"".into()));
    let active = well["active"].as_str().unwrap().to_owned();
    assert!(mail.events().unwrap().iter().all(|e| !e["text"].as_str().unwrap().contains("sick")));

    // Nobody but the mailbox's owner could tell: connections and greetings are as ever.
    let radiator = mail.home.lab.radiator(&active).unwrap();
    let data = radiator.run("sh", &["-c", "echo $THERMIDOR_DATA"]).unwrap();
    let boxes = format!("{}/volumes/mail/mnt/boxes/thermidor-probe", data.trim());
    radiator.run("mv", &[&boxes, &format!("{boxes}.away")]).unwrap();
    radiator.run("touch", &[&boxes]).unwrap();
    let sick = mail.until("the probe to fail", |s| s["state"] == "sick").unwrap();
    assert_eq!(sick["probe"]["healthy"], false);
    assert!(!sick["probe"]["trouble"].as_str().unwrap().is_empty(), "{sick}");
    mail.told("mail runs on").unwrap();
    assert_eq!(sick["active"], active.as_str(), "sick is no reason to move");

    radiator.run("rm", &[&boxes]).unwrap();
    radiator.run("mv", &[&format!("{boxes}.away"), &boxes]).unwrap();
    let again = mail.until("mail to be well again", |s| s["probe"]["healthy"] == true).unwrap();
    mail.told("mail is well again").unwrap();
    assert_eq!((&again["active"], &again["epoch"]), (&well["active"], &well["epoch"]), "nothing moved");

    // Another instance elsewhere is probed at once, by its own radiator.
    let other = RADIATORS.iter().find(|r| **r != active).unwrap();
    mail.home.type_here(&["move", "mail", other]).unwrap();
    let moved =
        mail.until("a probe there", |s| s["active"] == *other && s["probe"]["healthy"] == true).unwrap();
    assert!(moved["epoch"].as_u64() > well["epoch"].as_u64(), "{moved}");
    ensure_quiet(&mail).unwrap();
}

/// One fall and one recovery were told, and no more.
fn ensure_quiet(mail: &Mail) -> Result<()> {
    let events = mail.events()?;
    for words in ["but is sick", "is well again"] {
        let times = events.iter().filter(|e| e["text"].as_str().is_some_and(|t| t.contains(words))).count();
        ensure!(times == 1, "`{words}` was told {times} times: {events:?}");
    }
    Ok(())
}
