//! The second half: two friends keep the home's backups, one of them comes back with an old state, every machine of the
//! home is lost, and a bare one becomes the home again from 24 words.

use super::acts::{Demo, RADIATORS, SERVICE, ms, title};
use crate::api::backups::BackupLine;
use crate::demo::client::smtp::message_id;
use crate::demo::lab::command::until;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fs;
use std::time::{Duration, Instant};

/// The friends' homes, and the radiator of each.
pub(super) const ALPES: &str = "alpes";
const CHALET: &str = "chalet";
pub(super) const PLAINE: &str = "plaine";
pub(super) const FERME: &str = "ferme";
const FRIENDS: [(&str, &str); 2] = [(ALPES, CHALET), (PLAINE, FERME)];
/// The machine that is bought after the fire.
const BARE: &str = "neuf";
/// The same line stands in the subjects of what the first act delivered.
const KNOWN: &str = "first-0";

#[derive(Deserialize)]
struct Backups {
    items: Vec<BackupLine>,
}

impl Demo {
    /// Plays it, on what the first half has left of the home.
    pub fn friends(&mut self) -> Result<()> {
        let seat = self.home.seat().to_owned();
        self.pair(&seat)?;
        self.back_up(&seat)?;
        self.copy_what_plaine_keeps()?;
        self.search_the_friends_disk()?;
        self.come_back_with_an_old_state(&seat)?;
        let words = self.print_the_kit(&seat)?;
        self.burn_down()?;
        self.recover(&words)
    }

    fn pair(&mut self, seat: &str) -> Result<()> {
        title("Two other households lend space: homes become friends by a code and four words");
        // The engines of both start side by side.
        for (_, radiator) in FRIENDS {
            self.home.lab.add(radiator)?;
        }
        let mut reached = true;
        for (friend, radiator) in FRIENDS {
            self.home.lab.radiator(radiator)?.engine_ready()?;
            let address = self.home.lab.radiator(radiator)?.address().to_string();
            self.home.found(friend, radiator, &friends_yaml(friend, radiator, &address), "vault")?;
            self.home.sit_at(seat);
            self.home.befriend(radiator, seat, "maison")?;
            reached &= self.home.reaches(30, seat, friend).is_ok();
        }
        self.home.type_here(&["friend", "ls"])?;
        let text = "homes that never met are friends, each known to the other by its key";
        self.ledger.claim(text, reached, "");
        Ok(())
    }

    fn back_up(&mut self, seat: &str) -> Result<()> {
        title("home.yaml wishes a backup every minute; nobody orders one");
        let yaml = self.yaml().replace("    volumes: [ \"mail:/srv/mail\" ]\n", BACKED_UP);
        println!("    {}", BACKED_UP.lines().last().unwrap_or_default().trim());
        self.home.apply(&yaml)?;
        let begun = u64::try_from(jiff::Timestamp::now().as_millisecond())?;
        let began = Instant::now();
        let mut last = Vec::new();
        let proved =
            until(Duration::from_secs(180), "a proved backup of mail and of the home itself", || {
                std::thread::sleep(Duration::from_millis(500));
                let said = self.home.lab.radiator(seat)?.thermidor(&["backup", "ls", "-o", "json"], 30)?;
                last = serde_json::from_slice::<Backups>(&said.stdout).map(|b| b.items).unwrap_or_default();
                let is_proved = |l: &BackupLine| l.proved_ms.is_some_and(|at| at >= begun);
                let is_at = |subject: &str, friend: &str| {
                    last.iter().any(|l| l.subject == subject && l.friend == friend && is_proved(l))
                };
                let all = FRIENDS.iter().all(|(f, _)| [SERVICE, "home-itself"].iter().all(|s| is_at(s, f)));
                Ok(all.then_some(()))
            });
        self.ledger.time("from the wish to mail and home backed up at both friends', and proved", ms(began));
        self.home.type_here(&["backup", "ls"])?;
        let seen: Vec<String> = last.iter().filter_map(|l| l.failure.clone()).collect();
        let claim = "mail and the home itself are backed up by themselves, a part of each read back";
        self.ledger.claim(claim, proved.is_ok(), seen.join("; "));
        Ok(())
    }

    fn search_the_friends_disk(&mut self) -> Result<()> {
        title("The friend's disk is searched for what is known to be in the mail");
        let chalet = self.home.lab.radiator(CHALET)?;
        let vault = chalet.paths()?.volume("vault").join("mnt").display().to_string();
        let kept = chalet.run("sh", &["-c", &format!("find {vault} -type f -size +4k | wc -l")])?;
        let known = message_id(KNOWN);
        let search = format!("grep -rlaF -e '{known}' -e '{KNOWN}' -e marie {vault} || true");
        let found = chalet.run("sh", &["-c", &search])?;
        let files: u32 = kept.trim().parse().context("a count")?;
        let seen = if found.trim().is_empty() { format!("{files} files searched") } else { found.clone() };
        let claim = "neither a Message-ID nor a subject nor a name can be found there";
        self.ledger.claim(claim, files > 0 && found.trim().is_empty(), seen);
        Ok(())
    }

    fn print_the_kit(&mut self, seat: &str) -> Result<String> {
        title("The recovery kit is printed");
        let said = self.home.lab.radiator(seat)?.thermidor(&["kit", "print", "-o", "words"], 30)?;
        let said = String::from_utf8(said.stdout).context("the words")?;
        let words = said.lines().find(|line| line.split(' ').count() == 24).context("24 words")?;
        println!("  {seat}# thermidor kit print    (its words are kept, not shown)");
        Ok(words.to_owned())
    }

    fn burn_down(&mut self) -> Result<()> {
        title("The house burns down: every machine of the home is lost with its disk");
        let mut lost = Vec::new();
        for radiator in
            self.home.lab.radiators().iter().filter(|r| FRIENDS.iter().all(|(_, f)| r.name() != *f))
        {
            radiator.power_off()?;
            let data = radiator.dir().join("data");
            if data.exists() {
                fs::rename(&data, radiator.dir().join("data.burnt"))
                    .with_context(|| data.display().to_string())?;
            }
            lost.push(radiator.name().to_owned());
        }
        println!("  {} are gone", lost.join(", "));
        Ok(())
    }

    fn recover(&mut self, words: &str) -> Result<()> {
        title("A bare machine, 24 words and the friends' addresses");
        self.home.lab.add(BARE)?.engine_ready()?;
        let machine = self.home.lab.radiator(BARE)?;
        let page = machine.dir().join("page").display().to_string();
        fs::write(&page, format!("{words}\n")).context("the page")?;
        let [chalet, ferme] = [CHALET, FERME].map(|name| self.home.lab.radiator(name).map(|r| r.address()));
        let (chalet, ferme) = (chalet?.to_string(), ferme?.to_string());
        let (listen, name) = (self.home.listener(BARE)?, RADIATORS[0]);
        let began = Instant::now();
        let args = [
            "recover",
            "--kit",
            &page,
            "--friend",
            &ferme,
            "--friend",
            &chalet,
            "--radiator",
            name,
            "--listen",
            &listen,
            "--others-are-unplugged",
        ];
        let told = self.home.type_on(BARE, &args)?;
        ensure!(told.contains("is recovered from"), "{told}");
        let claim = "of two friends' backups the newest is taken, not the old state";
        self.ledger.claim(claim, told.contains(&format!("is recovered from {ALPES}")), "");
        self.home.start_units(BARE, true)?;
        self.home.sit_at(BARE);
        self.home.wait(180, "mail to run again", |s| s.runs_on(SERVICE).is_some())?;
        self.ledger.time("from the bare machine to mail that runs", ms(began));
        self.home.type_here(&["status"])?;
        let claim =
            "the bare machine is the home: its declaration, accounts and mail came back from the words alone";
        self.ledger.claim(claim, true, "");
        self.audit("every accepted message is read again by IMAP, with the password of old")
    }
}

/// In place of mail's line of volumes.
const BACKED_UP: &str =
    "    volumes: [ \"mail:/srv/mail\" ]\n    backup: { every: 1m, to: [alpes, plaine], drill: never }\n";

fn friends_yaml(friend: &str, radiator: &str, address: &str) -> String {
    format!(
        "home: {friend}\nradiators: {{ {radiator}: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    \
         recipe: vault\n    settings: {{ addresses: [\"{address}\"], lend: 500m }}\n    \
         volumes: [ \"vault:/srv/vault\" ]\nvolumes: {{ vault: {{ size: 1g }} }}\n"
    )
}
