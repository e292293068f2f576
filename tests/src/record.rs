//! A home of three that runs the record service, whose every acknowledged line must be there
//! when the faults are over.

use crate::options;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use thermidor_supervisor::demo::client::audit::audit;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::{Home, Status};
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Guest, Lab, Radiator, images};

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

fn yaml(address: &str) -> String {
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{radiators}\
         services:\n  {SERVICE}:\n    image: thermidor/record:1\n    ports: [ \"7000:7000\" ]\n    \
         volumes: [ \"record:/data\" ]\n    stop_grace_period: 2s\n\
         volumes:\n  record: {{ size: 256m, replicas: 3, durability: 2 }}\n"
    )
}

impl RecordHome {
    /// Forms the home and waits until the service runs, in sync everywhere.
    pub fn form(test: &str) -> Result<Self> {
        let name = format!("{test}-{}", std::process::id());
        let lab = Lab::new(&name, &RADIATORS, options(&[images::record()])?)?;
        let home = Home::new(lab, RADIATORS[0]);
        home.form()?;
        home.apply(&yaml(&home.lab.floating().to_string()))?;
        let formed = Self { home, acknowledged: Vec::new(), rounds: 0 };
        formed.healed()?;
        Ok(formed)
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
        let (to, prefix) = (self.to(), format!("round-{}", self.rounds));
        let args = ["record", "--to", &to, "--prefix", &prefix, "--pause-ms", "5"];
        let writer = Guest::start(&self.home.lab, &args, &[])?;
        std::thread::sleep(Duration::from_secs(1));
        fault(self)?;
        std::thread::sleep(Duration::from_secs(4));
        self.healed()?;
        let delivered: Delivered = writer.stop()?;
        ensure!(delivered.acknowledged.len() > 50, "hardly anything was acknowledged: {delivered:?}");
        ensure!(delivered.refused.is_empty(), "refused: {:?}", delivered.refused);
        self.acknowledged.extend(delivered.acknowledged.iter().cloned());
        self.audit()?;
        Ok(delivered)
    }

    /// Demands that every line ever acknowledged is there.
    pub fn audit(&self) -> Result<()> {
        let to = self.to();
        let list = || {
            let guest = Guest::start(&self.home.lab, &["record-list", "--to", &to], &[])?;
            Ok(guest.report::<Vec<String>>().ok())
        };
        let present = until(Duration::from_secs(30), "the list of lines", list)?;
        let audit = audit(&self.acknowledged, &present);
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
