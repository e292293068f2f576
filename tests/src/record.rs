//! A home of three that runs the record service, whose every acknowledged line must be there
//! when the faults are over.

use crate::{options, replicas};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::client::audit::audit;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::{Home, Status};
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Guest, Lab, Options, Radiator};

/// The radiators.
pub const RADIATORS: [&str; 3] = ["salon", "bureau", "ballon"];
/// The service.
pub const SERVICE: &str = "record";
/// How long a home may take to heal once faults lift, s.
const HEAL_S: u64 = 120;

/// The home and what it has acknowledged.
#[derive(Debug)]
pub struct RecordHome {
    /// The home.
    pub home: Home,
    acknowledged: Vec<String>,
    rounds: u32,
}

/// `home.yaml` of the home, with more services and volumes.
fn yaml(address: &str, services: &str, volumes: &str) -> String {
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{radiators}\
         services:\n  {SERVICE}:\n    image: thermidor/record:1\n    ports: [ \"7000:7000\" ]\n    \
         volumes: [ \"record:/data\" ]\n    stop_grace_period: 2s\n{services}\
         volumes:\n  record: {{ size: 256m, replicas: 3, durability: 2 }}\n{volumes}"
    )
}

impl RecordHome {
    /// Forms the home and waits until the service runs, in sync everywhere.
    pub fn form(test: &str) -> Result<Self> {
        Self::form_on(test, &|_| {}, &[])
    }

    /// The same, on machines with other options, and with more arguments for `init`.
    pub fn form_on(test: &str, change: &dyn Fn(&mut Options), init: &[&str]) -> Result<Self> {
        let name = format!("{test}-{}", std::process::id());
        let mut options = options(&home_images())?;
        change(&mut options);
        let lab = Lab::new(&name, &RADIATORS, options)?;
        let home = Home::new(lab, RADIATORS[0]);
        home.form_with(init)?;
        let formed = Self { home, acknowledged: Vec::new(), rounds: 0 };
        formed.declare("")?;
        formed.healed()?;
        Ok(formed)
    }

    /// Declares the home with more services than the record: lines of YAML below `services:`.
    pub fn declare(&self, services: &str) -> Result<()> {
        self.declare_with(services, "")
    }

    /// The same, with more volumes: lines below `volumes:`.
    pub fn declare_with(&self, services: &str, volumes: &str) -> Result<()> {
        self.home.apply(&yaml(&self.home.lab.floating().to_string(), services, volumes))
    }

    /// Declares it with another size of its volume, as in YAML.
    pub fn resize(&self, size: &str) -> Result<()> {
        let text = yaml(&self.home.lab.floating().to_string(), "", "");
        self.home.apply(&text.replace("size: 256m", &format!("size: {size}")))
    }

    /// Waits until every radiator is on and in sync and the service runs.
    pub fn healed(&self) -> Result<Status> {
        self.home.wait(HEAL_S, "the home to heal", |s| {
            s.runs_on(SERVICE).is_some()
                && RADIATORS.iter().all(|r| s.in_sync(r))
                && RADIATORS.iter().all(|r| s.member(r).is_some_and(|m| m.state == "on" && m.votes))
        })
    }

    /// The radiator of that name.
    pub fn radiator(&self, name: &str) -> Result<&Radiator> {
        Ok(self.home.lab.radiator(name)?)
    }

    /// Where the service runs now.
    pub fn active(&self) -> Result<String> {
        let status = self.home.wait(HEAL_S, "the service to run", |s| s.runs_on(SERVICE).is_some())?;
        Ok(status.runs_on(SERVICE).context("the service runs")?.to_owned())
    }

    /// Who leads now.
    pub fn leader(&self) -> Result<String> {
        self.home.wait(HEAL_S, "a leader", |s| s.leader.is_some())?.leader.context("a leader")
    }

    /// Types commands on a radiator other than these from now on.
    pub fn sit_away_from(&mut self, names: &[&str]) -> Result<()> {
        let seat = RADIATORS.iter().find(|r| !names.contains(r)).context("another radiator")?;
        self.home.sit_at(seat);
        Ok(())
    }

    /// Writes lines while `fault` happens and for as long after, lets the home heal, then
    /// demands that every acknowledged line is there. Returns the writer's account.
    pub fn through(&mut self, fault: impl FnOnce(&Self) -> Result<()>) -> Result<Delivered> {
        self.rounds += 1;
        let writer = self.writer(&self.to(), &format!("round-{}", self.rounds))?;
        std::thread::sleep(Duration::from_secs(1));
        fault(self)?;
        std::thread::sleep(Duration::from_secs(4));
        self.healed()?;
        let delivered: Delivered = writer.stop()?;
        ensure!(delivered.acknowledged.len() > 50, "hardly anything was acknowledged: {delivered:?}");
        ensure!(delivered.refused.is_empty(), "refused: {:?}", delivered.refused);
        self.remember(&delivered);
        self.audit()?;
        Ok(delivered)
    }

    /// Writes lines that begin with `prefix` until it is told to end.
    pub fn writer(&self, to: &str, prefix: &str) -> Result<Guest> {
        let args = ["record", "--to", to, "--prefix", prefix, "--pause-ms", "5"];
        Ok(Guest::start(&self.home.lab, &args, &[])?)
    }

    /// What was acknowledged to that writer must be there for ever.
    pub fn remember(&mut self, delivered: &Delivered) {
        self.acknowledged.extend(delivered.acknowledged.iter().cloned());
    }

    /// Demands that all replicas come to hold the same bytes: nobody but the active's epoch wrote.
    pub fn replicas_alike(&self) -> Result<()> {
        replicas::alike(&self.home.lab, &RADIATORS, SERVICE)
    }

    /// Demands that every line ever acknowledged is there.
    pub fn audit(&self) -> Result<()> {
        self.audit_at(&self.to(), &self.acknowledged)
    }

    /// The same of these lines, at another service that keeps lines.
    pub fn audit_at(&self, to: &str, acknowledged: &[String]) -> Result<()> {
        let list = || {
            let guest = Guest::start(&self.home.lab, &["record-list", "--to", to], &[])?;
            Ok(guest.report::<Vec<String>>().ok())
        };
        let present = until(Duration::from_secs(30), "the list of lines", list)?;
        let audit = audit(acknowledged, &present);
        ensure!(
            audit.missing.is_empty(),
            "{} of {} acknowledged lines are lost: {:?}",
            audit.missing.len(),
            audit.acknowledged,
            &audit.missing[..audit.missing.len().min(10)]
        );
        Ok(())
    }

    /// Where the service is reached.
    pub fn to(&self) -> String {
        format!("{}:7000", self.home.lab.floating())
    }
}
