//! A home on the lab's machines as a person handles it: by the command line on its radiators,
//! whose commands and answers are shown. The demo and the tests with real radiators share it.

use crate::demo::lab::command::{LabError, until};
use crate::demo::lab::{Lab, Radiator};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

/// The port of a member's listener.
const HOME_PORT: u16 = 7470;
/// How long one command may take, s.
const COMMAND_S: u64 = 60;

/// What is read of `thermidor status -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Its generation.
    pub generation: u64,
    /// Whether a majority answers.
    pub quorum: bool,
    /// Who leads.
    pub leader: Option<String>,
    /// The floating address.
    pub address: Option<Address>,
    /// Members.
    pub radiators: Vec<Member>,
    /// Services.
    pub services: Vec<Service>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// What a person should know or do.
    pub warnings: Vec<String>,
}

/// The floating address.
#[derive(Debug, Clone, Deserialize)]
pub struct Address {
    /// Who holds it.
    pub holder: Option<String>,
}

/// A member.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `on`, `off`, `silent`, `expected`.
    pub state: String,
    /// Whether it votes.
    pub votes: bool,
    /// °C
    pub temperature_c: Option<f64>,
    /// W
    pub demand_w: Option<f64>,
    /// What is wrong there.
    pub troubles: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Whose instance may run.
    pub active: Option<String>,
    /// `runs`, ...
    pub state: String,
    /// Raised with each new active.
    pub epoch: u64,
    /// The planner's sentence.
    pub reason: String,
}

/// A volume.
#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Each replica.
    pub replicas: Vec<Replica>,
}

/// A replica.
#[derive(Debug, Clone, Deserialize)]
pub struct Replica {
    /// Where.
    pub radiator: String,
    /// Holds every acknowledged write.
    pub in_sync: bool,
    /// `active`, `following`, `failed: ...`
    pub state: String,
}

impl Status {
    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }

    /// Where the service runs, once it runs.
    pub fn runs_on(&self, name: &str) -> Option<&str> {
        self.service(name).filter(|s| s.state == "runs").and_then(|s| s.active.as_deref())
    }

    /// Whether the radiator holds every volume's acknowledged writes.
    pub fn in_sync(&self, radiator: &str) -> bool {
        let holds = |v: &Volume| v.replicas.iter().any(|r| r.radiator == radiator && r.in_sync);
        !self.volumes.is_empty() && self.volumes.iter().all(holds)
    }

    /// How many vote.
    pub fn voters(&self) -> usize {
        self.radiators.iter().filter(|m| m.votes).count()
    }

    /// Who holds the floating address.
    pub fn holder(&self) -> Option<&str> {
        self.address.as_ref().and_then(|a| a.holder.as_deref())
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.radiators.iter().find(|m| m.name == name)
    }

    /// The radiator that wants the most heat.
    pub fn neediest(&self) -> Option<&Member> {
        let wants = |m: &&Member| m.demand_w.is_some();
        let order = |a: &&Member, b: &&Member| {
            a.demand_w.unwrap_or(f64::MIN).total_cmp(&b.demand_w.unwrap_or(f64::MIN))
        };
        self.radiators.iter().filter(wants).max_by(order)
    }
}

/// The home, seen from one radiator that has power.
#[derive(Debug)]
pub struct Home {
    /// The machines.
    pub lab: Lab,
    /// On which radiator commands are typed.
    seat: String,
}

impl Home {
    /// A home of that lab.
    pub fn new(lab: Lab, seat: &str) -> Self {
        Self { lab, seat: seat.to_owned() }
    }

    /// Where commands are typed.
    pub fn seat(&self) -> &str {
        &self.seat
    }

    /// Types commands on that radiator from now on.
    pub fn sit_at(&mut self, radiator: &str) {
        self.seat = radiator.to_owned();
    }

    /// Types a command on a radiator, shows it and what it answers, and returns its standard
    /// output; an exit other than 0 is an error.
    pub fn type_on(&self, radiator: &str, args: &[&str]) -> Result<String> {
        println!("  {radiator}# thermidor {}", args.join(" "));
        let said = self.lab.radiator(radiator)?.thermidor(args, COMMAND_S)?;
        let text = shown(&said);
        text.lines().for_each(|line| println!("    {line}"));
        if !said.status.success() {
            bail!("`thermidor {}` on {radiator} failed: {}", args.join(" "), text.trim());
        }
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// Types a command that must be refused, and returns what it says.
    pub fn refused_on(&self, radiator: &str, args: &[&str]) -> Result<String> {
        println!("  {radiator}# thermidor {}", args.join(" "));
        let said = self.lab.radiator(radiator)?.thermidor(args, COMMAND_S)?;
        let text = shown(&said);
        text.lines().for_each(|line| println!("    {line}"));
        anyhow::ensure!(!said.status.success(), "`thermidor {}` was not refused", args.join(" "));
        Ok(text)
    }

    /// [`Home::type_on`], where commands are typed.
    pub fn type_here(&self, args: &[&str]) -> Result<String> {
        self.type_on(&self.seat, args)
    }

    /// A command whose standard input is a secret; neither is shown.
    pub fn tell_secret(&self, name: &str, value: &str) -> Result<()> {
        println!("  {}# thermidor secret set {name}    (its value is typed, not shown)", self.seat);
        let radiator = self.lab.radiator(&self.seat)?;
        let mut command = radiator.thermidor_command(&["secret", "set", name], COMMAND_S)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start thermidor")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(value.as_bytes()).context("type the secret")?;
        }
        let said = child.wait_with_output().context("seal the secret")?;
        anyhow::ensure!(said.status.success(), "the secret was not sealed: {}", shown(&said).trim());
        Ok(())
    }

    /// Founds the home on the first of all radiators, lets the others join, and waits until
    /// they vote.
    pub fn form(&self) -> Result<()> {
        self.form_with(&[])
    }

    /// The same, with more arguments for `init`.
    pub fn form_with(&self, more: &[&str]) -> Result<()> {
        let names: Vec<String> = self.lab.radiators().iter().map(|r| r.name().to_owned()).collect();
        let [first, rest @ ..] = names.as_slice() else { bail!("a home without radiators") };
        self.lab.engines_ready()?;
        self.init("maison", first, more)?;
        for name in rest {
            self.join(name, &[])?;
            self.start_units(name, true)?;
            self.wait(60, &format!("{name} to be on"), |s| s.member(name).is_some_and(|m| m.state == "on"))?;
        }
        // With exactly two radiators one votes: a home never has two voters.
        let votes = if names.len() == 2 { 1 } else { names.len() };
        self.wait(60, &format!("{votes} voters"), |s| s.voters() == votes)?;
        Ok(())
    }

    /// Makes a machine, at which commands are typed, the first radiator of a home; its daemon leads then.
    fn init(&self, home: &str, radiator: &str, more: &[&str]) -> Result<()> {
        let listen = self.listener(radiator)?;
        let mut args = vec!["init", home, "--radiator", radiator, "--listen", &listen];
        args.extend(more);
        self.type_on(radiator, &args)?;
        self.start_units(radiator, true)?;
        self.wait(60, "the founder's daemon", |s| s.leader.is_some()).map(drop)
    }

    /// Founds a home of one radiator there, at which commands are typed from then on, and waits for a service of what
    /// it declares.
    pub fn found(&mut self, home: &str, radiator: &str, yaml: &str, service: &str) -> Result<()> {
        self.sit_at(radiator);
        self.init(home, radiator, &[])?;
        self.apply(yaml)?;
        let runs = |s: &Status| s.runs_on(service) == Some(radiator);
        self.wait(120, &format!("{service} to run"), runs).map(drop)
    }

    /// A code with which another home can become a friend of that radiator's.
    pub fn friends_code(&self, radiator: &str) -> Result<String> {
        let said = self.type_on(radiator, &["friend", "invite", "--no-wait"])?;
        Ok(said.lines().next().context("no code was printed")?.trim().to_owned())
    }

    /// The homes of two radiators become friends: one gives out a code, the other, of that name, types it, and both say
    /// that the words are the same.
    pub fn befriend(&self, radiator: &str, guest: &str, guests_home: &str) -> Result<()> {
        let address = self.lab.radiator(radiator)?.address().to_string();
        let code = self.friends_code(radiator)?;
        self.type_on(guest, &["friend", "accept", &code, &address, "--yes"])?;
        self.type_on(radiator, &["friend", "confirm", guests_home, "--yes"]).map(drop)
    }

    /// Waits until a radiator's only friend lets it in: a vault reads its friends anew once a second.
    pub fn reaches_its_friend(&self, limit_s: u64, radiator: &str) -> Result<()> {
        self.reaches_whom(limit_s, radiator, |_| true)
    }

    /// Waits until one of a radiator's friends lets it in.
    pub fn reaches(&self, limit_s: u64, radiator: &str, friend: &str) -> Result<()> {
        self.reaches_whom(limit_s, radiator, |line| line["home"] == friend)
    }

    fn reaches_whom(
        &self,
        limit_s: u64,
        radiator: &str,
        is_meant: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<()> {
        until(Duration::from_secs(limit_s), "the friend to let us in", || {
            std::thread::sleep(Duration::from_millis(300));
            let said = self.lab.radiator(radiator)?.thermidor(&["friend", "ls", "-o", "json"], 60)?;
            let list: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
            let mut lines = list["items"].as_array().into_iter().flatten();
            Ok(lines.any(|line| is_meant(line) && line["reachable"] == true).then_some(()))
        })?;
        Ok(())
    }

    /// Lets a machine join, with more arguments for `join`; its processes are not started yet.
    pub fn join(&self, name: &str, more: &[&str]) -> Result<()> {
        let invited = self.type_here(&["invite"])?;
        let token = invited.lines().next().context("invite printed no token")?.trim();
        let listen = self.listener(name)?;
        let mut args = vec!["join", token, "--radiator", name, "--listen", &listen];
        args.extend(more);
        self.type_on(name, &args).map(|_| ())
    }

    /// Starts a member's processes; a witness passes no connections on.
    pub fn start_units(&self, name: &str, passes_on: bool) -> Result<()> {
        let radiator: &Radiator = self.lab.radiator(name)?;
        radiator.spawn(&["guard"])?;
        if passes_on {
            radiator.spawn(&["ingress"])?;
        }
        radiator.spawn(&["run"])?;
        Ok(())
    }

    /// Declares the home where commands are typed.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let path = self.lab.radiator(&self.seat)?.dir().join("home.yaml");
        std::fs::write(&path, yaml).context("write home.yaml")?;
        self.type_here(&["apply", &path.to_string_lossy(), "--yes"]).map(|_| ())
    }

    /// Where a member is told to listen.
    pub fn listener(&self, name: &str) -> Result<String> {
        Ok(format!("{}:{HOME_PORT}", self.lab.radiator(name)?.address()))
    }

    /// The home's status, if it answers now.
    pub fn status(&self) -> Result<Option<Status>, LabError> {
        let said = self.lab.radiator(&self.seat)?.thermidor(&["status", "-o", "json"], 10)?;
        Ok(serde_json::from_slice(&said.stdout).ok())
    }

    /// Waits until the status is as wanted; the error tells the last one.
    pub fn wait(&self, limit_s: u64, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let found = until(Duration::from_secs(limit_s), what, || {
            std::thread::sleep(Duration::from_millis(100));
            let status = self.status()?;
            let done = status.clone().filter(|s| wanted(s));
            last = status.or(last.take());
            Ok(done)
        });
        found.with_context(|| match &last {
            Some(status) => format!("the last status was {status:?}"),
            None => "no status was had".into(),
        })
    }
}

fn shown(said: &Output) -> String {
    let mut text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&said.stderr));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_str(
            r#"{"version":1,"home":"maison","generation":1,"quorum":true,"leader":"salon","address":{"address":"x","holder":"salon"},
            "radiators":[{"name":"salon","state":"on","votes":true,"temperature_c":19.5,"demand_w":40.0,"troubles":[]},
              {"name":"bureau","state":"on","votes":true,"temperature_c":16.0,"demand_w":300.0,"troubles":[]},
              {"name":"grenier","state":"on","votes":true,"temperature_c":null,"demand_w":null,"troubles":[]}],
            "services":[{"name":"mail","active":"bureau","state":"starts","epoch":1,"reason":"r"}],
            "volumes":[{"name":"mail","replicas":[{"radiator":"bureau","in_sync":true,"state":"active"},
              {"radiator":"salon","in_sync":false,"state":"catching up"}]}],"warnings":[]}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_service_that_starts_does_not_run_yet() {
        let mut status = status();
        assert_eq!(status.runs_on("mail"), None);
        status.services[0].state = "runs".into();
        assert_eq!(status.runs_on("mail"), Some("bureau"));
    }

    #[test]
    fn the_neediest_is_the_one_that_wants_most_and_only_members_in_sync_hold_all() {
        let status = status();
        assert_eq!(status.neediest().map(|m| m.name.as_str()), Some("bureau"));
        assert!(status.in_sync("bureau") && !status.in_sync("salon") && !status.in_sync("grenier"));
        assert_eq!(status.holder(), Some("salon"));
    }
}
