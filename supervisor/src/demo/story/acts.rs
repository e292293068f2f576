//! The acts of the story, one function each.

use super::ledger::Ledger;
use crate::demo::client::audit::audit;
use crate::demo::client::connect::Connected;
use crate::demo::client::deliver::Delivered;
use crate::demo::client::smtp::message_id;
use crate::demo::home::{Home, Status};
use crate::demo::lab::command::until;
use crate::demo::lab::held::Loop;
use crate::demo::lab::{Guest, LabError};
use anyhow::{Context, Result};
use std::fs;
use std::time::{Duration, Instant};

/// The radiators; the first founds the home.
pub const RADIATORS: [&str; 3] = ["salon", "bureau", "chambre"];
/// The third machine of the summer.
const WITNESS: &str = "grenier";
pub(super) const SERVICE: &str = "mail";
const USER: &str = "marie@maison.example";
const SECRET: &str = "mail/marie";
/// Of a home that lives for minutes in a namespace without a way out.
const PASSWORD: &str = "lavande-et-thym-7";
/// How many times faster than real ones the simulated rooms are.
const SPEED: u32 = 20;
const MINIMUM_STAY_S: u32 = 15;

/// The story under way.
pub struct Demo {
    /// The home.
    pub home: Home,
    /// What was claimed.
    pub ledger: Ledger,
    /// Message-IDs that were acknowledged.
    acknowledged: Vec<String>,
    /// Loop devices that the radiator had whose plug was pulled last.
    attached: Vec<Loop>,
}

pub(super) fn title(text: &str) {
    println!("\n{text}");
}

impl Demo {
    /// Before the first act.
    pub fn new(home: Home) -> Self {
        Self { home, ledger: Ledger::default(), acknowledged: Vec::new(), attached: Vec::new() }
    }

    /// Plays every act; an error ends the story.
    pub fn play(&mut self) -> Result<()> {
        self.form()?;
        self.declare()?;
        self.first_mail()?;
        self.follow_heat()?;
        let dead = self.pull_plug("in winter")?;
        self.read_without(&dead)?;
        self.come_back(&dead)?;
        self.summer()?;
        self.friends()
    }

    /// What home.yaml said in the first half.
    pub(super) fn yaml(&self) -> String {
        home_yaml(&self.home.lab.floating().to_string())
    }

    fn form(&mut self) -> Result<()> {
        title("Three radiators form a home");
        self.home.form()?;
        self.home.type_here(&["status"])?;
        self.ledger.claim("three radiators form a home", true, "3 voters");
        Ok(())
    }

    fn declare(&mut self) -> Result<()> {
        title("home.yaml declares what it is to run");
        let yaml = self.yaml();
        yaml.lines().for_each(|line| println!("    {line}"));
        println!(
            "  The rooms are simulated, {SPEED} times faster than real ones; minimum_stay is {MINIMUM_STAY_S} s."
        );
        self.home.tell_secret(SECRET, PASSWORD)?;
        let began = Instant::now();
        self.home.apply(&yaml)?;
        let status = self.home.wait(90, "mail to run, in sync everywhere", |s| {
            s.runs_on(SERVICE).is_some() && RADIATORS.iter().all(|r| s.in_sync(r))
        })?;
        self.ledger.time("from `apply` to mail that runs, three replicas in sync", ms(began));
        self.home.type_here(&["status"])?;
        self.home.type_here(&["explain", SERVICE])?;
        let (active, neediest) = (status.runs_on(SERVICE), status.neediest().map(|m| m.name.as_str()));
        let seen = format!("{} wants the most heat", neediest.unwrap_or("nobody"));
        self.ledger.claim(
            "mail runs where the room is coldest",
            active.is_some() && active == neediest,
            seen,
        );
        Ok(())
    }

    fn first_mail(&mut self) -> Result<()> {
        title("200 messages go in by SMTP and come out by IMAP");
        let delivered: Delivered = self.smtp("first", &["--count", "200"])?.report()?;
        let all = delivered.acknowledged.len() == 200;
        self.ledger.claim("200 messages are acknowledged", all, troubles(&delivered));
        self.remember(&delivered);
        self.audit("every one of them is read by IMAP")
    }

    fn follow_heat(&mut self) -> Result<()> {
        title("Heat is wanted elsewhere: only targets are changed, and mail follows");
        let status =
            self.home.wait(30, "a leader", |s| s.leader.is_some() && s.runs_on(SERVICE).is_some())?;
        let from = status.runs_on(SERVICE).context("mail runs")?.to_owned();
        // To the leader where it can be, so that the plug pulled next takes all three with it.
        let leader = status.leader.clone().filter(|l| *l != from);
        let other = || RADIATORS.iter().find(|r| **r != from).map(|r| (*r).to_owned());
        let to = leader.or_else(other).context("another radiator")?;
        self.heat_up(&from, &to)?;
        self.follow_the_leader()
    }

    /// Lets heat lead mail to the leader while it is elsewhere. An election on a busy machine may
    /// make another one leader meanwhile: a few times, then the story goes on as it is.
    fn follow_the_leader(&mut self) -> Result<()> {
        for _ in 0..3 {
            let status =
                self.home.wait(30, "a leader", |s| s.leader.is_some() && s.runs_on(SERVICE).is_some())?;
            let (active, leader) = (status.runs_on(SERVICE), status.leader.as_deref());
            let (Some(active), Some(leader)) = (active, leader) else { break };
            if active == leader {
                break;
            }
            self.heat_up(active, leader)?;
        }
        Ok(())
    }

    /// Raises the target of `to` and lowers the others until mail follows, a client connecting all the while.
    fn heat_up(&mut self, from: &str, to: &str) -> Result<()> {
        let connector = self.connector()?;
        std::thread::sleep(Duration::from_millis(500));
        // Every other room is to have enough, for the heat may lead mail to a third one meanwhile.
        for other in RADIATORS.iter().filter(|r| **r != to) {
            self.home.type_here(&["target", other, "12"])?;
        }
        self.home.type_here(&["target", to, "24"])?;
        let began = Instant::now();
        let status = self.home.wait(90, "mail to follow the heat", |s| s.runs_on(SERVICE) == Some(to))?;
        self.ledger.time(&format!("from the new target to mail in {to}, minimum stay included"), ms(began));
        let reason = status.service(SERVICE).map(|s| s.reason.clone()).unwrap_or_default();
        self.ledger.claim(&format!("mail follows the heat from {from} to {to}"), true, reason);
        std::thread::sleep(Duration::from_secs(1));
        let connected: Connected = connector.stop()?;
        self.ledger.time("longest wait for a greeting during the move", connected.longest_wait_ms);
        let fine =
            connected.turned_away() == 0 && connected.greeted == connected.tried && connected.tried > 0;
        let why = connected.first_failure.clone().unwrap_or_default();
        let seen = format!("{} of {} connections greeted {why}", connected.greeted, connected.tried);
        self.ledger.claim("nobody is refused or reset while it moves", fine, seen.trim());
        Ok(())
    }

    /// Pulls the active's plug in the middle of a stream of mail; returns whose it was.
    fn pull_plug(&mut self, when: &str) -> Result<String> {
        title(&format!("A plug is pulled {when}, in the middle of a stream of mail"));
        let all_one = |s: &Status| {
            s.runs_on(SERVICE).is_some()
                && s.leader.as_deref() == s.runs_on(SERVICE)
                && s.holder() == s.runs_on(SERVICE)
        };
        let winter = when == "in winter";
        let mut all_are_one =
            self.home.wait(if winter { 30 } else { 1 }, "one to be leader, active and holder", all_one);
        if winter && all_are_one.is_err() {
            self.follow_the_leader()?;
            all_are_one = self.home.wait(30, "one to be leader, active and holder", all_one);
        }
        let status = match all_are_one {
            Ok(status) => status,
            Err(_) => self.home.wait(30, "mail to run", |s| s.runs_on(SERVICE).is_some())?,
        };
        let dead = status.runs_on(SERVICE).context("mail runs")?.to_owned();
        let leads = status.leader.as_deref() == Some(&dead);
        let holds = status.holder() == Some(&dead);
        let seen = format!("{dead}, leader: {leads}, holds the address: {holds}");
        if winter {
            let claim = "the plug is that of the active, the leader and the address at once";
            self.ledger.claim(claim, leads && holds, seen);
        } else {
            println!("  {seen}");
        }
        let seat = self.another(&dead)?;
        self.home.sit_at(&seat);
        let stream = self.smtp(&format!("plug-{}", when.replace(' ', "-")), &["--pause-ms", "20"])?;
        let connector = self.connector()?;
        std::thread::sleep(Duration::from_secs(3));
        println!("  {dead} loses its power: every process and container killed, its link down");
        let began = Instant::now();
        let radiator = self.home.lab.radiator(&dead)?;
        self.attached = Loop::of(&radiator.pids_where(|_| true))?;
        radiator.power_off()?;
        let status =
            self.home.wait(60, "mail to run elsewhere", |s| s.runs_on(SERVICE).is_some_and(|r| r != dead))?;
        let shown = ms(began);
        std::thread::sleep(Duration::from_secs(5));
        let connected: Connected = connector.stop()?;
        let delivered: Delivered = stream.stop()?;
        self.home.type_here(&["status"])?;
        self.ledger.time(
            &format!("take-over {when}: longest time without an SMTP greeting"),
            connected.longest_gap_ms,
        );
        self.ledger.time(
            &format!("take-over {when}: longest time without an accepted message"),
            delivered.longest_gap_ms,
        );
        self.ledger.time(&format!("take-over {when}: until `status` says so"), shown);
        let heir = status.runs_on(SERVICE).unwrap_or("nobody").to_owned();
        self.ledger.claim("another radiator takes over", heir != "nobody", heir);
        let seen = format!("{} accepted, {} resent", delivered.acknowledged.len(), delivered.resent.len());
        let fine = delivered.acknowledged.len() > 10 && delivered.refused.is_empty();
        self.ledger.claim("the stream of mail goes on", fine, format!("{seen}{}", troubles(&delivered)));
        self.remember(&delivered);
        Ok(dead)
    }

    /// Reads everything while nothing of the dead radiator can be of help.
    fn read_without(&mut self, dead: &str) -> Result<()> {
        title(&format!("{dead}'s disk is taken away before anything is read"));
        let dir = self.home.lab.radiator(dead)?.dir().to_owned();
        let (data, away) = (dir.join("data"), dir.join("data.away"));
        let left = self.attached.iter().filter(|l| l.is_attached());
        let left: Vec<_> = left.map(|l| l.device.clone()).collect();
        let claim = "its image was attached, and is no more";
        self.ledger.claim(claim, !self.attached.is_empty() && left.is_empty(), left.join(", "));
        fs::rename(&data, &away).context("take the disk away")?;
        let read = self.audit(&format!("every accepted message is read without {dead}"));
        fs::rename(&away, &data).context("bring the disk back")?;
        read
    }

    fn come_back(&mut self, dead: &str) -> Result<()> {
        title(&format!("{dead} returns and catches up"));
        let began = Instant::now();
        self.home.lab.radiator(dead)?.power_on()?;
        let back = |s: &Status| s.in_sync(dead) && s.member(dead).is_some_and(|m| m.votes && m.state == "on");
        self.home.wait(90, "it to be in sync and vote", back)?;
        self.ledger.time("from power back to in sync", ms(began));
        self.ledger.claim("it catches up and votes again", true, "");
        // The heat may have led mail back already; a wish to where it is is no move.
        if self.home.wait(30, "mail to run", |s| s.runs_on(SERVICE).is_some())?.runs_on(SERVICE) != Some(dead)
        {
            self.home.type_here(&["move", SERVICE, dead])?;
        }
        self.home.wait(90, "mail to run on it", |s| s.runs_on(SERVICE) == Some(dead))?;
        self.audit(&format!("every accepted message is read from {dead}, now the active"))
    }

    fn summer(&mut self) -> Result<()> {
        title("Summer: a radiator goes off, a witness votes in its place, and a plug is pulled again");
        self.home.lab.add_witness(WITNESS)?;
        self.home.join(WITNESS, &["--witness"])?;
        self.home.start_units(WITNESS, false)?;
        self.home.wait(60, "the witness to be a member", |s| s.member(WITNESS).is_some())?;
        let status = self.home.wait(30, "mail to run", |s| s.runs_on(SERVICE).is_some())?;
        let active = status.runs_on(SERVICE).context("mail runs")?.to_owned();
        let off = self.another(&active)?;
        let seat = RADIATORS.iter().find(|r| **r != off && **r != active).context("a third radiator")?;
        self.home.sit_at(seat);
        self.home.type_here(&["off", &off, "--power-off"])?;
        self.home.wait(60, "it to be off without a vote, the witness to vote", |s| {
            let gone = s.member(&off).is_some_and(|m| m.state == "powered off" && !m.votes);
            gone && s.member(WITNESS).is_some_and(|m| m.votes)
        })?;
        self.home.lab.radiator(&off)?.power_off()?;
        self.home.type_here(&["status"])?;
        self.ledger.claim("a radiator is off and gave its vote up; a witness votes", true, off.clone());
        let dead = self.pull_plug("in summer")?;
        self.audit(&format!("every accepted message is read without {dead} and {off}"))
    }

    fn to(&self, port: u16) -> String {
        format!("{}:{port}", self.home.lab.floating())
    }

    fn smtp(&self, prefix: &str, more: &[&str]) -> Result<Guest, LabError> {
        let to = self.to(25);
        let mut args = vec!["smtp", "--to", &to, "--rcpt", USER, "--prefix", prefix];
        args.extend(more);
        Guest::start(&self.home.lab, &args, &[])
    }

    fn connector(&self) -> Result<Guest, LabError> {
        Guest::start(&self.home.lab, &["connect", "--to", &self.to(25), "--every-ms", "50"], &[])
    }

    fn remember(&mut self, delivered: &Delivered) {
        self.acknowledged.extend(delivered.acknowledged.iter().map(|name| message_id(name)));
    }

    /// Reads the mailbox and compares. Postfix answers before it delivers: what is not there
    /// yet is waited for, a while.
    pub(super) fn audit(&mut self, text: &str) -> Result<()> {
        let to = self.to(993);
        let mut last = None;
        let found = until(Duration::from_secs(60), "every message", || {
            let args = ["imap", "--to", &to, "--user", USER];
            let guest = Guest::start(&self.home.lab, &args, &[("THERMIDOR_IMAP_PASSWORD", PASSWORD)])?;
            match guest.report::<Vec<String>>() {
                Ok(present) => last = Some(audit(&self.acknowledged, &present)),
                Err(error) => println!("  IMAP: {error}"),
            }
            let whole = last.as_ref().is_some_and(|a| a.missing.is_empty());
            if !whole {
                std::thread::sleep(Duration::from_secs(1));
            }
            Ok(whole.then_some(()))
        });
        let seen = match &last {
            None => "the mailbox could not be read".to_owned(),
            Some(a) => {
                let missing =
                    if a.missing.is_empty() { String::new() } else { format!(", missing {:?}", a.missing) };
                format!(
                    "{} acknowledged, {} present, {} twice{missing}",
                    a.acknowledged, a.present, a.duplicates
                )
            }
        };
        self.ledger.claim(text, found.is_ok() && !self.acknowledged.is_empty(), seen);
        Ok(())
    }

    fn another(&self, than: &str) -> Result<String> {
        let radiators = RADIATORS.iter().filter(|r| **r != than);
        let mut powered = radiators.filter(|r| self.home.lab.radiator(r).is_ok_and(|r| r.has_power()));
        powered.next().map(|r| (*r).to_owned()).context("no other radiator has power")
    }

    /// The ends of the daemons' logs, after a failure.
    pub fn show_last_words(&self) {
        for radiator in self.home.lab.radiators() {
            for unit in ["run", "guard", "ingress"] {
                let path = radiator.dir().join("logs").join(format!("{unit}.log"));
                let Ok(text) = fs::read_to_string(path) else { continue };
                println!("-- {} {unit}", radiator.name());
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(15)..].iter().for_each(|line| println!("   {line}"));
            }
        }
    }
}

pub(super) fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

fn troubles(delivered: &Delivered) -> String {
    let mut text = String::new();
    if let Some((name, answer)) = delivered.refused.first_key_value() {
        text.push_str(&format!(" refused: {} ({name}: {answer})", delivered.refused.len()));
    }
    if let Some((why, times)) = delivered.not_opened.first_key_value() {
        text.push_str(&format!(" not reached: {times} times ({why})"));
    }
    text
}

fn home_yaml(address: &str) -> String {
    let room = |name: &str, start: f64| {
        format!(
            "  {name}:\n    heats: room\n    power: 250\n    sensor: {{ simulated: {{ start: {start:.1}, loss_w_per_k: 10, \
             capacity_kj_per_k: 837, outdoor: 5, speed: {SPEED} }} }}\n    comfort: {{ target: 20.0 }}\n"
        )
    };
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{}{}{}\
         placement: {{ move_gain_w: 60, minimum_stay: {MINIMUM_STAY_S}s, moves_per_day: 48 }}\n\
         services:\n  {SERVICE}:\n    recipe: mail\n    settings:\n      domain: maison.example\n      \
         accounts: {{ marie: {{ password: secret:{SECRET} }} }}\n    volumes: [ \"mail:/srv/mail\" ]\n\
         volumes:\n  mail: {{ size: 1g, replicas: 3, durability: 2 }}\n",
        room(RADIATORS[0], 19.5),
        room(RADIATORS[1], 16.0),
        room(RADIATORS[2], 19.0),
    )
}
