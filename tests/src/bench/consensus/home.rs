//! Our side: a home of three `thermidor run` on loopback, and doors into it by the network API
//! that guards and volume processes use.

use super::load::{Door, Last, Value};
use crate::bench::processes::Process;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::state::{Sealed, State};
use thermidor_model::{Command as HomeCommand, Outcome};
use thermidor_raft::{HomeClient, ProposeError};
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::demo::home::Status;
use thermidor_supervisor::paths::Paths;

/// The members.
pub const MEMBERS: [&str; 3] = ["salon", "bureau", "ballon"];
/// How long the home may take for anything but a put.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one put may take.
const PUT_MAX: Duration = Duration::from_secs(10);

/// One member's folders, listener and daemon.
#[derive(Debug)]
struct Member {
    name: &'static str,
    paths: Paths,
    listen: SocketAddr,
    daemon: Option<Process>,
}

/// The home.
#[derive(Debug)]
pub struct Home {
    thermidor: PathBuf,
    members: Vec<Member>,
    dir: PathBuf,
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// Asks again until it is so.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "after {} s still waiting for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Member {
    fn command(&self, thermidor: &Path) -> Command {
        let mut command = Command::new(thermidor);
        command.env("THERMIDOR_DATA", &self.paths.data).env("THERMIDOR_RUN", &self.paths.run);
        command
    }

    /// Types a command here and returns what it printed.
    fn types(&self, thermidor: &Path, args: &[&str]) -> Result<String> {
        let said = self.command(thermidor).args(args).output().context("start thermidor")?;
        let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        ensure!(said.status.success(), "`thermidor {}` on {}: {text}", args.join(" "), self.name);
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    fn start(&mut self, thermidor: &Path, dir: &Path) -> Result<()> {
        // No engine: nothing is declared here that would run.
        let engine = OsStr::new("unix:///nonexistent/engine.sock");
        let env = [
            ("THERMIDOR_DATA", self.paths.data.as_os_str()),
            ("THERMIDOR_RUN", self.paths.run.as_os_str()),
            ("THERMIDOR_DOCKER", engine),
        ];
        let log = dir.join(format!("{}.log", self.name));
        self.daemon = Some(Process::start(thermidor, ["run"], &env, &log)?);
        Ok(())
    }
}

impl Home {
    /// Founds it below that folder and waits until all three vote.
    pub fn form(thermidor: &Path, dir: &Path) -> Result<Self> {
        let member = |name| -> Result<Member> {
            let data = dir.join(name);
            let run = dir.join(format!("{name}.run"));
            Ok(Member { name, paths: Paths { data, run }, listen: free_port()?, daemon: None })
        };
        let members = MEMBERS.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        let mut home = Self { thermidor: thermidor.to_owned(), members, dir: dir.to_owned() };
        let listen = home.members[0].listen.to_string();
        let args = ["init", "bench", "--radiator", MEMBERS[0], "--listen", &listen];
        home.members[0].types(thermidor, &args)?;
        home.start(0)?;
        home.wait("a leader", |status| status.leader.is_some())?;
        for (index, name) in MEMBERS.into_iter().enumerate().skip(1) {
            let token = home.members[0].types(thermidor, &["invite"])?;
            let listen = home.members[index].listen.to_string();
            let args = ["join", token.trim(), "--radiator", name, "--listen", &listen];
            home.members[index].types(thermidor, &args)?;
            home.start(index)?;
        }
        home.wait("three voters", |status| status.voters() == MEMBERS.len())?;
        Ok(home)
    }

    /// Starts a member's daemon.
    pub fn start(&mut self, index: usize) -> Result<()> {
        self.members[index].start(&self.thermidor, &self.dir)
    }

    /// The status, from a member that runs.
    fn wait(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let running = self.members.iter().find(|m| m.daemon.is_some()).context("no member runs")?;
        wait_for(what, || {
            // While it starts or has no leader there is no status.
            let said = running.types(&self.thermidor, &["status", "-o", "json"]).unwrap_or_default();
            Ok(serde_json::from_str::<Status>(&said).ok().filter(&wanted))
        })
    }

    /// Which member leads.
    pub fn leader(&self) -> Result<usize> {
        let status = self.wait("a leader", |status| status.leader.is_some())?;
        let index = MEMBERS.iter().position(|name| status.leader.as_deref() == Some(*name));
        index.context("the leader is no member")
    }

    /// Kills a member's daemon (-9).
    pub fn kill9(&mut self, index: usize) -> Result<()> {
        let Some(mut daemon) = self.members[index].daemon.take() else { bail!("it does not run") };
        daemon.kill9()
    }

    /// So many connections, each with TLS of its own.
    pub fn doors(&self, count: usize) -> Result<Vec<Arc<HomeDoor>>> {
        let data = &self.members[0].paths.data;
        let open = |_| Ok(Arc::new(HomeDoor(HomeClient::open(data).context("open a way into the home")?)));
        (0..count).map(open).collect()
    }

    /// An error where a daemon that was started has ended by itself.
    pub fn all_run(&mut self) -> Result<()> {
        self.members.iter_mut().filter_map(|m| m.daemon.as_mut()).try_for_each(Process::runs)
    }

    /// The state as applied at a member.
    fn state(&self, index: usize) -> Result<State> {
        let member = &self.members[index];
        let asked = client::ask_for(&member.paths, &Request::State);
        asked.with_context(|| format!("ask {} for its state", member.name))
    }

    /// Waits until a member has applied what was put, and says what of it differs there.
    pub fn differing(&self, index: usize, last: &Last) -> Result<Vec<String>> {
        let began = Instant::now();
        // One that was just started does not answer yet.
        wait_for("its answer", || Ok(self.state(index).ok()))?;
        loop {
            let state = self.state(index)?;
            let differs = |(key, values): &(&String, &Vec<Value>)| {
                let there = state.secrets.get(*key);
                there.is_none_or(|sealed| values.iter().all(|value| sealed.bytes != value))
            };
            let differing: Vec<String> = last.iter().filter(differs).map(|(key, _)| key.clone()).collect();
            if differing.is_empty() || began.elapsed() > PATIENCE {
                return Ok(differing);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A way into the home over connections of its own. A put is the command that keeps a sealed
/// secret: 256 bytes of state under a name.
pub struct HomeDoor(HomeClient);

impl HomeDoor {
    /// Puts; tells what is surely not done from what nobody knows.
    pub async fn propose(&self, key: String, value: &Value) -> Result<Outcome, ProposeError> {
        let sealed = Some(Sealed { nonce: [0; 12], bytes: value.to_vec(), key: 0 });
        let command = HomeCommand::SetSecret { name: key, sealed };
        self.0.propose(command, tokio::time::Instant::now() + PUT_MAX).await
    }
}

impl Door for HomeDoor {
    async fn put(&self, key: String, value: Value) -> Result<()> {
        let outcome = self.propose(key, &value).await.context("a put in the home")?;
        ensure!(outcome == Outcome::Done, "a put was refused: {outcome:?}");
        Ok(())
    }
}
