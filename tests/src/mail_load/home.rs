//! A home of three that runs mail, whose radiators have disks that lose what was not made to reach them.

use super::clients::{Doors, PASSWORD, USER, mailboxes};
use super::compare::Listing;
use super::faults::{Fault, Process, Way, Whose};
use super::imap::{Imap, NotDone};
use super::model::INBOX;
use crate::{options, replicas};
use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::home::{Home, Status};
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::command::output;
use thermidor_supervisor::demo::lab::{Lab, Radiator};

/// The radiators.
pub const RADIATORS: [&str; 3] = ["salon", "bureau", "ballon"];
const SERVICE: &str = "mail";
/// How long a home may take to heal once a fault lifts.
const HEAL: Duration = Duration::from_secs(120);
/// How long a listing may take, sessions that are refused included.
const LIST: Duration = Duration::from_secs(60);
/// Each radiator's disk, MiB.
const DISK_MIB: u64 = 480;

/// The home.
#[derive(Debug)]
pub struct MailHome {
    home: Home,
}

fn yaml(address: &str, runs: bool) -> String {
    let radiators: String =
        RADIATORS.iter().map(|name| format!("  {name}: {{ heats: room, power: 250 }}\n")).collect();
    let services = format!(
        "services:\n  {SERVICE}:\n    recipe: mail\n    settings:\n      domain: maison.example\n      \
         accounts: {{ marie: {{ password: secret:mail/marie }} }}\n    volumes: [ \"mail:/srv/mail\" ]\n"
    );
    format!(
        "home: maison\naddress: {address}/24\nradiators:\n{radiators}\
         placement: {{ minimum_stay: 1s, moves_per_day: 1000 }}\n{}\
         volumes:\n  {SERVICE}: {{ size: 256m, replicas: 3, durability: 2 }}\n",
        if runs { services.as_str() } else { "" }
    )
}

impl MailHome {
    /// Forms it, waits until mail runs in sync everywhere, and makes the mailboxes.
    pub fn form(test: &str) -> Result<Self> {
        let name = format!("{test}-{}", std::process::id());
        let mut options = options(&home_images())?;
        options.disk_mib = Some(DISK_MIB);
        let home = Home::new(Lab::new(&name, &RADIATORS, options)?, RADIATORS[0]);
        home.form()?;
        home.tell_secret("mail/marie", PASSWORD)?;
        let formed = Self { home };
        formed.declare(true)?;
        formed.healed()?;
        formed.imap(|session| {
            for name in mailboxes() {
                match session.ask(&format!("CREATE {name}")) {
                    Err(NotDone::Refused(why)) if why.contains("ALREADYEXISTS") => {}
                    made => drop(made?),
                }
            }
            Ok(())
        })?;
        Ok(formed)
    }

    fn declare(&self, runs: bool) -> Result<()> {
        self.home.apply(&yaml(&self.home.lab.floating().to_string(), runs))
    }

    /// The machines.
    pub fn lab(&self) -> &Lab {
        &self.home.lab
    }

    /// Where clients go.
    pub fn doors(&self) -> Doors {
        let at = |port| SocketAddr::from((self.lab().floating(), port));
        Doors { smtp: at(25), imap: at(993) }
    }

    /// The status, from the first radiator that answers as wanted.
    fn wait(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let began = Instant::now();
        let mut last = None;
        loop {
            for name in RADIATORS {
                let said = self.lab().radiator(name)?.thermidor(&["status", "-o", "json"], 10)?;
                match serde_json::from_slice::<Status>(&said.stdout).ok() {
                    Some(status) if wanted(&status) => return Ok(status),
                    status => last = status.or(last),
                }
            }
            ensure!(began.elapsed() < HEAL, "{what} never came; the last status was {last:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until every radiator is on and in sync and mail runs.
    pub fn healed(&self) -> Result<Status> {
        self.wait("a healed home", |s| {
            s.runs_on(SERVICE).is_some()
                && s.leader.is_some()
                && RADIATORS.iter().all(|r| s.in_sync(r))
                && RADIATORS.iter().all(|r| s.member(r).is_some_and(|m| m.state == "on" && m.votes))
        })
    }

    fn imap<T: Send>(&self, act: impl Fn(&mut Imap) -> Result<T, NotDone> + Send + Sync) -> Result<T> {
        let began = Instant::now();
        loop {
            let doors = self.doors();
            let session = || Imap::open(doors.imap, USER, PASSWORD).and_then(|mut session| act(&mut session));
            match self.lab().as_client(session)? {
                Ok(done) => return Ok(done),
                Err(why) if began.elapsed() > LIST => return Err(anyhow!("IMAP in a healed home: {why:?}")),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// All that is in all mailboxes.
    pub fn list(&self) -> Result<Listing> {
        let names: Vec<String> = [INBOX.to_owned()].into_iter().chain(mailboxes()).collect();
        self.imap(|session| session.list(&names))
    }

    /// Whom a fault strikes.
    fn struck(&self, whose: Whose) -> Result<&Radiator> {
        let status = self.healed()?;
        let active = status.runs_on(SERVICE).context("mail runs")?;
        let leader = status.leader.as_deref().context("somebody leads")?;
        let name = match whose {
            Whose::Active => active,
            Whose::Leader => leader,
            Whose::Standby => RADIATORS.into_iter().find(|r| *r != active).context("a standby")?,
        };
        Ok(self.lab().radiator(name)?)
    }

    /// Lets a fault happen and lifts it; returns whom it struck.
    pub fn strike(&self, fault: Fault) -> Result<String> {
        let wait = |ms| std::thread::sleep(Duration::from_millis(ms));
        let radiator = match fault {
            Fault::Kill(whose, _) | Fault::Stop(whose, ..) | Fault::Freeze(whose, _) => self.struck(whose)?,
            Fault::Cut(whose, ..) | Fault::Unplug(whose, _) => self.struck(whose)?,
            Fault::Blackout(_) => self.struck(Whose::Active)?,
        };
        match fault {
            Fault::Kill(_, process) => signal(&pids(radiator, process), Signal::KILL)?,
            Fault::Stop(_, process, ms) => {
                let pids = pids(radiator, process);
                signal(&pids, Signal::STOP)?;
                wait(ms);
                signal(&pids, Signal::CONT)?;
            }
            Fault::Freeze(_, ms) => {
                radiator.freeze()?;
                wait(ms);
                radiator.thaw()?;
            }
            Fault::Cut(_, way, ms) => {
                let name = radiator.name();
                for other in RADIATORS.into_iter().filter(|other| *other != name) {
                    match way {
                        Way::Both => {}
                        Way::Mute => self.lab().cut_way(name, other)?,
                        Way::Deaf => self.lab().cut_way(other, name)?,
                    }
                }
                if way == Way::Both {
                    self.lab().cut_all(name)?;
                }
                wait(ms);
                self.lab().heal()?;
            }
            Fault::Unplug(_, ms) => {
                radiator.power_off()?;
                wait(ms);
                radiator.power_on()?;
            }
            Fault::Blackout(ms) => {
                self.lab().radiators().iter().try_for_each(Radiator::power_off)?;
                wait(ms);
                self.lab().radiators().iter().try_for_each(Radiator::power_on)?;
            }
        }
        Ok(radiator.name().to_owned())
    }

    /// Takes the service away as planned, demands that all replicas hold the same file system without an
    /// error, and lets mail run again.
    pub fn detach_and_check(&self) -> Result<()> {
        self.declare(false)?;
        self.wait("every replica at rest", |s| {
            let resting = |v: &thermidor_supervisor::demo::home::Volume| {
                v.replicas.iter().all(|r| r.in_sync && r.state != "active")
            };
            s.service(SERVICE).is_none() && s.volumes.iter().all(resting)
        })?;
        self.detached()?;
        replicas::alike(self.lab(), &RADIATORS, SERVICE)?;
        replicas::clean(self.lab(), &RADIATORS, SERVICE)?;
        self.declare(true)?;
        self.healed().map(drop)
    }

    /// Waits until the volume is mounted nowhere.
    fn detached(&self) -> Result<()> {
        let began = Instant::now();
        for radiator in self.lab().radiators() {
            let mounted = || {
                radiator.run("grep", &["-c", "/volumes/mail/", "/proc/mounts"]).is_ok_and(|n| n.trim() != "0")
            };
            while mounted() {
                ensure!(began.elapsed() < HEAL, "{} never detached the volume", radiator.name());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Copies the radiators' logs and what the mailboxes look like on the disk into a folder.
    pub fn keep_evidence(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for radiator in self.lab().radiators() {
            let name = radiator.name();
            output(
                std::process::Command::new("cp")
                    .arg("-a")
                    .arg(radiator.dir().join("logs"))
                    .arg(to.join(name)),
            )?;
            let look = "docker logs thermidor.maison.mail 2>&1; docker exec thermidor.maison.mail \
                        sh -c 'cd /srv/mail && find . -type f -ls; postqueue -p; ps -ef' 2>&1 || :";
            std::fs::write(to.join(format!("{name}.mail")), radiator.run("sh", &["-c", look])?)?;
        }
        Ok(())
    }
}

/// The numbers of a process, and of what does the same.
fn pids(radiator: &Radiator, process: Process) -> Vec<u32> {
    let program = |path: &str| radiator.pids_where(|words| words.iter().any(|word| word == path));
    match process {
        Process::Daemon => radiator.pids_of("run"),
        Process::Guard => radiator.pids_of("guard"),
        Process::Ingress => radiator.pids_of("ingress"),
        Process::Volume => radiator.pids_of("volume-process"),
        Process::Container => program("/usr/local/bin/entrypoint"),
        Process::Postfix => program("/usr/lib/postfix/sbin/master"),
        Process::Dovecot => program("/usr/sbin/dovecot"),
        Process::All => {
            use Process::{Container, Daemon, Guard, Ingress, Volume};
            [Container, Daemon, Guard, Ingress, Volume].into_iter().flat_map(|p| pids(radiator, p)).collect()
        }
    }
}

fn signal(pids: &[u32], signal: Signal) -> Result<()> {
    ensure!(!pids.is_empty(), "there is no such process");
    for pid in pids {
        let pid = Pid::from_raw(i32::try_from(*pid)?).context("pid 0")?;
        match kill_process(pid, signal) {
            // It went with another, or meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
