//! A home of three in which plugs are pulled and services moved, and the clients that notice.

use crate::options;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::client::connect::Connected;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::{Home, Status};
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::{Guest, Lab, Radiator};

const RADIATORS: [&str; 3] = ["salon", "bureau", "ballon"];
/// How long the home may take for anything that is not measured, s.
const PATIENCE_S: u64 = 120;
/// Time between two connections of a client, ms.
const EVERY_MS: &str = "10";
/// How long a client watches before something happens, and after.
const WATCH: Duration = Duration::from_secs(1);

/// A service and where it greets.
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    name: &'static str,
    port: u16,
    yaml: &'static str,
    volume: bool,
}

/// A line of Perl that greets: starts at once, has no volume.
pub const GREETER: Probed = Probed {
    name: "greeter",
    port: 7001,
    yaml: r#"  greeter:
    image: thermidor/record:1
    command: [ "perl", "-MIO::Socket::INET", "-e", "$$SIG{TERM}=sub{exit}; $$SIG{PIPE}='IGNORE'; $$s=IO::Socket::INET->new(LocalPort=>7001,Listen=>128,ReuseAddr=>1) or die; while(1){ $$c=$$s->accept or next; print $$c qq(220 greeter\r\n); close $$c }" ]
    ports: [ "7001:7001" ]
    stop_grace_period: 2s
"#,
    volume: false,
};

/// The record service, on a replicated volume.
pub const RECORD: Probed = Probed {
    name: "record",
    port: 7000,
    yaml: r#"  record:
    image: thermidor/record:1
    ports: [ "7000:7000" ]
    volumes: [ "record:/data" ]
    stop_grace_period: 2s
"#,
    volume: true,
};

/// Real Postfix and Dovecot.
pub const MAIL: Probed = Probed {
    name: "mail",
    port: 25,
    yaml: r#"  mail:
    recipe: mail
    settings:
      domain: maison.example
      accounts: { marie: { password: secret:mail/marie } }
    volumes: [ "mail:/srv/mail" ]
"#,
    volume: true,
};

/// Whose plug is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The active's, which holds the address and does not lead.
    Active,
    /// The active's, which holds the address and leads.
    ActiveAndLeader,
}

/// The home.
pub struct Plugs {
    home: Home,
    services: Vec<Probed>,
}

fn yaml(address: &str, services: &[Probed]) -> String {
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    let volumes: String = services
        .iter()
        .filter(|s| s.volume)
        .map(|s| format!("  {}: {{ size: 256m, replicas: 3, durability: 2 }}\n", s.name))
        .collect();
    let services: String = services.iter().map(|s| s.yaml).collect();
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{radiators}\
         placement: {{ minimum_stay: 1s, moves_per_day: 1000 }}\nservices:\n{services}volumes:\n{volumes}"
    )
}

impl Plugs {
    /// Forms it and waits until all of it runs.
    pub fn form(name: &str, services: &[Probed]) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let mail = services.iter().any(|s| s.name == MAIL.name);
        let home = Home::new(Lab::new(&name, &RADIATORS, options(&home_images())?)?, RADIATORS[0]);
        home.form()?;
        if mail {
            home.tell_secret("mail/marie", "lavande-et-thym-7")?;
        }
        home.apply(&yaml(&home.lab.floating().to_string(), services))?;
        let plugs = Self { home, services: services.to_vec() };
        plugs.healed()?;
        Ok(plugs)
    }

    fn healed(&self) -> Result<Status> {
        self.home.wait(PATIENCE_S, "the home to heal", |s| {
            self.services.iter().all(|p| s.runs_on(p.name).is_some())
                && RADIATORS.iter().all(|r| s.in_sync(r))
                && RADIATORS.iter().all(|r| s.member(r).is_some_and(|m| m.state == "on" && m.votes))
        })
    }

    /// Brings all services and the address to one radiator.
    fn gather(&self, to: &str) -> Result<()> {
        for service in &self.services {
            if self.healed()?.runs_on(service.name) != Some(to) {
                self.home.type_here(&["move", service.name, to])?;
            }
        }
        let all = |s: &Status| {
            self.services.iter().all(|p| s.runs_on(p.name) == Some(to)) && s.holder() == Some(to)
        };
        self.home.wait(PATIENCE_S, "everything on one radiator", all).map(drop)
    }

    fn sit_away_from(&mut self, name: &str) -> Result<()> {
        let seat = RADIATORS.iter().find(|r| **r != name).context("another radiator")?;
        self.home.sit_at(seat);
        Ok(())
    }

    /// Pulls the plug; returns for each service how long no client was greeted, s.
    pub fn pull_active(&mut self, whose: Whose) -> Result<Vec<f64>> {
        let leader = self.healed()?.leader.context("a leader")?;
        let dead = match whose {
            Whose::ActiveAndLeader => leader,
            Whose::Active => RADIATORS.iter().find(|r| **r != leader).context("a standby")?.to_string(),
        };
        self.gather(&dead)?;
        self.sit_away_from(&dead)?;
        let leads = self.healed()?.leader.as_deref() == Some(&*dead);
        ensure!(leads == (whose == Whose::ActiveAndLeader), "another leads by now");
        let clients: Vec<Guest> =
            self.services.iter().map(|service| self.client(service)).collect::<Result<_>>()?;
        std::thread::sleep(WATCH);
        self.radiator(&dead)?.power_off()?;
        self.home.wait(PATIENCE_S, "the services to run elsewhere", |s| {
            self.services.iter().all(|p| s.runs_on(p.name).is_some_and(|on| on != dead))
        })?;
        std::thread::sleep(WATCH);
        let gaps = clients.into_iter().map(gap).collect::<Result<_>>()?;
        self.radiator(&dead)?.power_on()?;
        self.healed()?;
        Ok(gaps)
    }

    /// Moves the greeter; returns how long no client was greeted, s. Nobody may be turned away.
    pub fn move_greeter(&mut self) -> Result<f64> {
        let status = self.healed()?;
        let from = status.runs_on(GREETER.name).context("it runs")?.to_owned();
        let to = *RADIATORS.iter().find(|r| **r != from).context("another radiator")?;
        let client = self.client(&GREETER)?;
        std::thread::sleep(WATCH);
        self.home.type_here(&["move", GREETER.name, to])?;
        self.home.wait(PATIENCE_S, "it to move", |s| s.runs_on(GREETER.name) == Some(to))?;
        std::thread::sleep(WATCH);
        gap(client)
    }

    /// How long the engine takes to stop a container like the greeter and to start it again until it
    /// greets, s.
    pub fn own_stop_and_start(&self, times: usize) -> Result<Vec<f64>> {
        let radiator = self.radiator(RADIATORS[2])?;
        let code = "$SIG{TERM}=sub{exit}; $s=IO::Socket::INET->new(LocalPort=>7002,Listen=>128,ReuseAddr=>1) \
                    or die; print STDERR qq(listens\\n); while(1){ $c=$s->accept or next; close $c }";
        let run =
            ["run", "--detach", "--name", "own", "thermidor/record:1", "perl", "-MIO::Socket::INET", "-e"];
        radiator.run("docker", &[&run[..], &[code]].concat())?;
        let listens = |count: usize| -> Result<()> {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut seen = 0;
            while seen < count {
                ensure!(Instant::now() < deadline, "the container does not listen");
                seen = radiator.run("sh", &["-c", "docker logs own 2>&1"])?.matches("listens").count();
            }
            Ok(())
        };
        listens(1)?;
        let mut samples = Vec::new();
        for time in 0..times {
            let began = Instant::now();
            radiator.run("docker", &["stop", "--time", "2", "own"])?;
            radiator.run("docker", &["start", "own"])?;
            listens(time + 2)?;
            samples.push(began.elapsed().as_secs_f64());
        }
        radiator.run("docker", &["rm", "--force", "own"])?;
        Ok(samples)
    }

    /// Pulls the plug of a standby, which leads or does not, while lines are written; returns how long none
    /// was acknowledged, s. The service may not move.
    pub fn pull_standby(&mut self, leads: bool) -> Result<f64> {
        let leader = self.healed()?.leader.context("a leader")?;
        let other = RADIATORS.iter().find(|r| **r != leader).context("another")?.to_string();
        let third = RADIATORS.iter().find(|r| **r != leader && **r != other).context("a third")?.to_string();
        let (dead, active) = if leads { (leader, other) } else { (third, other) };
        self.gather(&active)?;
        self.sit_away_from(&dead)?;
        let to = format!("{}:{}", self.home.lab.floating(), RECORD.port);
        let prefix = format!("stall-{}", jiff::Timestamp::now().as_millisecond());
        let args = ["record", "--to", &to, "--prefix", &prefix, "--pause-ms", "5"];
        let writer = Guest::start(&self.home.lab, &args, &[])?;
        std::thread::sleep(WATCH);
        self.radiator(&dead)?.power_off()?;
        std::thread::sleep(WATCH * 3);
        let delivered: Delivered = writer.stop()?;
        self.radiator(&dead)?.power_on()?;
        let status = self.healed()?;
        ensure!(status.runs_on(RECORD.name) == Some(&*active), "a standby's loss moved the service");
        Ok(delivered.longest_gap_ms as f64 / 1000.0)
    }

    fn radiator(&self, name: &str) -> Result<&Radiator> {
        Ok(self.home.lab.radiator(name)?)
    }

    fn client(&self, service: &Probed) -> Result<Guest> {
        let to = format!("{}:{}", self.home.lab.floating(), service.port);
        Ok(Guest::start(&self.home.lab, &["connect", "--to", &to, "--every-ms", EVERY_MS], &[])?)
    }
}

/// The longest time without a greeting, s.
fn gap(client: Guest) -> Result<f64> {
    let connected: Connected = client.stop()?;
    ensure!(connected.greeted > 0, "nobody was greeted: {connected:?}");
    Ok(connected.longest_gap_ms as f64 / 1000.0)
}
