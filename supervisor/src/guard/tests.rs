//! The guard under a scripted leader, with real processes in cgroups of their own, and as a
//! process of its own that is frozen and killed.

use super::{Call, GuardClient, GuardOptions, Reply, StatusReply, run};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thermidor_model::ServiceName;
use thermidor_model::observe::{LeaseGrant, LeaseRequest};
use thermidor_model::timing::Timing;
use thermidor_services::fence;
use thermidor_services::lease_page::LeasePage;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// Set for the process that [`guard_process`] is.
const RUN_DIR: &str = "THERMIDOR_TEST_GUARD_DIR";

fn mail() -> ServiceName {
    "mail".parse().unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: never"));
}

/// A "container": a process in a cgroup of its own.
struct Container {
    cgroup: PathBuf,
    child: Child,
}

impl Container {
    fn new(name: &str) -> Option<Self> {
        let cgroup = PathBuf::from(format!("/sys/fs/cgroup/pids/ingress-{name}-{}", std::process::id()));
        Self::at(name, cgroup)
    }

    fn at(name: &str, cgroup: PathBuf) -> Option<Self> {
        if let Err(e) = std::fs::create_dir(&cgroup) {
            println!("SKIPPED {name}: no cgroup can be made: {e}");
            return None;
        }
        Some(Self { child: Self::start(&cgroup), cgroup })
    }

    fn start(cgroup: &Path) -> Child {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        child
    }

    fn restart(&mut self) {
        self.child = Self::start(&self.cgroup);
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn register(&self, epoch: u64) -> Call {
        Call::Register { service: mail(), epoch, cgroup: self.cgroup.clone(), pid: Some(self.child.id()) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// What the leader does with the next requests, and what it has heard.
#[derive(Default)]
struct Script {
    /// Mail's epoch to be granted; `None`: the leader is away.
    epoch: Option<u64>,
    requests: Vec<LeaseRequest>,
    /// A cgroup that must be empty whenever mail is given back.
    empty_when_returned: Option<PathBuf>,
    returned_too_early: bool,
}

type Scripted = Arc<Mutex<Script>>;

fn ask(script: &Scripted, request: LeaseRequest) -> Result<LeaseGrant, String> {
    let mut script = script.lock().unwrap();
    if let Some(cgroup) = script.empty_when_returned.clone()
        && request.returned.contains_key(&mail())
        && !fence::is_empty(&cgroup).unwrap()
    {
        script.returned_too_early = true;
    }
    script.requests.push(request.clone());
    let epoch = script.epoch.ok_or("the leader is away")?;
    let mut grant = LeaseGrant { lease_ms: Timing::default().lease_ms, ..LeaseGrant::default() };
    if request.daemon_alive && request.returned.get(&mail()) != Some(&epoch) {
        grant.services.insert(mail(), epoch);
    }
    Ok(grant)
}

/// A guard in this process.
struct Guarded {
    dir: tempfile::TempDir,
    script: Scripted,
    ending: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    page: LeasePage,
    client: GuardClient,
}

fn options(run_dir: &Path, timing: Timing) -> GuardOptions {
    GuardOptions { node: 1, run_dir: run_dir.to_path_buf(), timing, raise: false }
}

impl Guarded {
    async fn new(timing: Timing) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = Scripted::default();
        let (ending, task) = Self::begin(dir.path(), &script, timing);
        let client = connected(dir.path()).await;
        let page = LeasePage::open(&dir.path().join(super::PAGE_FILE)).unwrap();
        Self { dir, script, ending, task, page, client }
    }

    fn begin(
        dir: &Path,
        script: &Scripted,
        timing: Timing,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let (ending, script) = (CancellationToken::new(), script.clone());
        let asked = move |request| {
            let answer = ask(&script, request);
            async move { answer }
        };
        let running = run(options(dir, timing), asked, ending.clone());
        (ending, tokio::spawn(async move { running.await.unwrap() }))
    }

    fn grants(&self, epoch: Option<u64>) {
        self.script.lock().unwrap().epoch = epoch;
    }

    async fn holds(&self, epoch: u64) {
        until("the lease", async || self.page.holds("mail", epoch)).await;
    }

    async fn ok(&mut self, call: Call) {
        assert_eq!(self.client.call(&call).await.unwrap(), Reply::Done, "{call:?}");
    }

    async fn refused(&mut self, call: Call) -> String {
        match self.client.call(&call).await.unwrap() {
            Reply::Refused { why } => why,
            other => panic!("{call:?}: {other:?}"),
        }
    }

    async fn status(&mut self) -> StatusReply {
        match self.client.call(&Call::Status).await.unwrap() {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn given_back(&self, epoch: u64) {
        let heard = || {
            let script = self.script.lock().unwrap();
            script.requests.iter().any(|r| r.returned.get(&mail()) == Some(&epoch))
        };
        until("the lease given back", async || heard()).await;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

async fn connected(dir: &Path) -> GuardClient {
    let mut client = None;
    until("the guard's socket", async || {
        client = GuardClient::connect(dir).await.ok();
        // A guard that has just ended may have taken the connection.
        match &mut client {
            Some(client) => client.call(&Call::Status).await.is_ok(),
            None => false,
        }
    })
    .await;
    client.unwrap()
}

#[tokio::test]
async fn a_guard_that_holds_nothing_asks_seldom_but_at_once_when_told_or_unanswered() {
    let timing = Timing::default();
    let asked = async |guard: &Guarded| {
        let count = || guard.script.lock().unwrap().requests.len();
        let before = count();
        tokio::time::sleep(Duration::from_millis(timing.renew_ms * 10)).await;
        count() - before
    };
    let mut guard = Guarded::new(timing).await;
    // A leader that has nothing to grant: the epoch that was given back.
    guard.grants(Some(1));
    guard.holds(1).await;
    guard.ok(Call::Release { service: mail(), epoch: 1 }).await;
    guard.given_back(1).await;
    let calm = asked(&guard).await;
    assert!((1..=4).contains(&calm), "{calm} requests in ten renewals");
    guard.grants(Some(2));
    let told = std::time::Instant::now();
    guard.ok(Call::Ask).await;
    guard.holds(2).await;
    assert!(told.elapsed() < Duration::from_millis(timing.renew_ms), "{:?}", told.elapsed());
    let busy = asked(&guard).await;
    assert!(busy >= 7, "{busy} requests in ten renewals of a lease");
    guard.ok(Call::Release { service: mail(), epoch: 2 }).await;
    guard.grants(None);
    let unanswered = asked(&guard).await;
    assert!(unanswered >= 5, "{unanswered} requests in ten renewals without an answer");
}

#[tokio::test]
async fn a_lost_lease_ends_on_the_page_then_the_container_dies_then_it_is_given_back() {
    let Some(mut container) = Container::new("order") else { return };
    let mut guard = Guarded::new(Timing::default()).await;
    guard.script.lock().unwrap().empty_when_returned = Some(container.cgroup.clone());
    guard.grants(Some(4));
    guard.holds(4).await;
    guard.ok(container.register(4)).await;
    assert_eq!(guard.status().await.leases[0].cgroup, Some(container.cgroup.clone()));
    assert!(container.runs());
    guard.grants(None);
    until("the container's end", async || {
        let runs = container.runs();
        assert!(runs || !guard.page.holds("mail", 4), "dead while the page still lets it serve");
        !runs
    })
    .await;
    guard.given_back(4).await;
    assert!(!guard.script.lock().unwrap().returned_too_early);
    assert!(guard.status().await.troubles.iter().any(|t| t.contains("no leader answers")));

    // The leader is back and grants the same epoch: it stays ended, and what starts in it dies.
    guard.grants(Some(4));
    container.restart();
    until("the late container's end", async || !container.runs()).await;
    assert!(!guard.page.holds("mail", 4));
    assert!(guard.refused(container.register(4)).await.contains("not held"));
    guard.grants(Some(5));
    guard.holds(5).await;
    // It starts where it was, and only then can the guard be told of it.
    container.restart();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(container.runs(), "the newer epoch is not swept away with the old one");
    guard.ok(container.register(5)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(container.runs(), "the newer epoch is served");
}

/// What an engine does with a container that is about to start: nothing is there of it before.
struct Engine {
    parent: PathBuf,
    id: String,
}

impl Engine {
    fn new(name: &str) -> Option<Self> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        let root = if freezer.is_dir() { freezer } else { Path::new("/sys/fs/cgroup") };
        let parent = root.join(format!("ingress-{name}-{}", std::process::id()));
        if let Err(e) = std::fs::create_dir(&parent) {
            println!("SKIPPED {name}: no cgroup can be made: {e}");
            return None;
        }
        Some(Self { parent, id: format!("{:064x}", u128::from(std::process::id()) << 64 | 0xfeed) })
    }

    fn starting(&self, epoch: u64) -> Call {
        Call::Starting { service: mail(), epoch, container: self.id.clone() }
    }

    /// The container, and a monitor such as Podman's that must outlive it.
    fn start(&self) -> Option<(Container, Container)> {
        let container = Container::at("container", self.parent.join(format!("libpod-{}.scope", self.id)))?;
        let monitor = Container::at("monitor", self.parent.join(format!("libpod-conmon-{}.scope", self.id)))?;
        Some((container, monitor))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.parent);
    }
}

#[tokio::test]
async fn a_container_whose_lease_is_lost_before_it_is_registered_is_killed_all_the_same() {
    let Some(engine) = Engine::new("starting") else { return };
    let mut guard = Guarded::new(Timing::default()).await;
    assert!(guard.refused(engine.starting(4)).await.contains("not held"), "not to be started");
    guard.grants(Some(4));
    guard.holds(4).await;
    let nonsense = Call::Starting { service: mail(), epoch: 4, container: "mail".into() };
    assert!(guard.refused(nonsense).await.contains("no container's id"));
    guard.ok(engine.starting(4)).await;
    let Some((mut container, mut monitor)) = engine.start() else { return };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(container.runs(), "under its lease it is let be, registered or not");
    // Whoever started it never comes to say where it is.
    guard.grants(None);
    until("the container's end", async || {
        let runs = container.runs();
        assert!(runs || !guard.page.holds("mail", 4), "dead while the page still lets it serve");
        !runs
    })
    .await;
    guard.given_back(4).await;
    assert!(monitor.runs(), "only the container is killed");

    // An engine that is slower still: the lease is lost first, and then the container starts.
    container.restart();
    until("the late container's end", async || !container.runs()).await;

    // Told by a daemon that died with it, the next guard knows it too.
    guard.grants(Some(5));
    guard.holds(5).await;
    guard.ok(engine.starting(5)).await;
    container.restart();
    guard.task.abort();
    guard.grants(None);
    until("the lease's end", async || !guard.page.holds("mail", 5)).await;
    assert!(container.runs());
    (guard.ending, guard.task) = Guarded::begin(guard.dir.path(), &guard.script, Timing::default());
    until("the container's end", async || !container.runs()).await;
    assert!(monitor.runs());
}

#[tokio::test]
async fn a_container_that_was_told_of_is_registered_where_it_runs_and_only_another_one_is_refused() {
    let Some(engine) = Engine::new("told") else { return };
    let mut guard = Guarded::new(Timing::default()).await;
    guard.grants(Some(4));
    guard.holds(4).await;
    guard.ok(engine.starting(4)).await;
    let Some((mut container, monitor)) = engine.start() else { return };
    let elsewhere = Call::Register { service: mail(), epoch: 4, cgroup: monitor.cgroup.clone(), pid: None };
    assert!(guard.refused(elsewhere).await.contains("still runs in container"));
    guard.ok(container.register(4)).await;
    assert_eq!(guard.status().await.leases[0].cgroup, Some(container.cgroup.clone()));
    assert!(guard.refused(Call::Release { service: mail(), epoch: 4 }).await.contains("still runs"));
    container.child.kill().unwrap();
    container.child.wait().unwrap();
    guard.ok(Call::Release { service: mail(), epoch: 4 }).await;
    guard.given_back(4).await;
}

#[tokio::test]
async fn a_service_stopped_in_good_order_is_given_back_at_once_but_not_while_it_runs() {
    let Some(mut container) = Container::new("release") else { return };
    let mut guard = Guarded::new(Timing::default()).await;
    guard.grants(Some(4));
    guard.holds(4).await;
    guard.ok(container.register(4)).await;
    let release = Call::Release { service: mail(), epoch: 4 };
    assert!(guard.refused(release.clone()).await.contains("still runs"));
    assert!(guard.page.holds("mail", 4));
    container.child.kill().unwrap();
    container.child.wait().unwrap();
    guard.ok(release).await;
    assert!(!guard.page.holds("mail", 4));
    guard.given_back(4).await;
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_but_a_containers_cgroup_is_taken() {
    let mut guard = Guarded::new(Timing::default()).await;
    guard.grants(Some(4));
    guard.holds(4).await;
    for cgroup in ["/", "/sys/fs/cgroup/pids", "relative", "/sys/fs/cgroup/pids/a/../b"] {
        let call = Call::Register { service: mail(), epoch: 4, cgroup: cgroup.into(), pid: None };
        assert!(guard.refused(call).await.contains("no container's cgroup"), "{cgroup}");
    }
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (garbage, said) in [(&b"nonsense\n"[..], "not understood"), (&vec![b'x'; 200_000], "not understood")]
    {
        let path = guard.dir.path().join(super::SOCKET_FILE);
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        // The guard may hang up in mid-write.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(said) || garbage.len() > 100_000);
    }
    assert!(guard.page.holds("mail", 4));
}

#[tokio::test]
async fn without_a_daemon_the_lease_ends_and_with_it_again_the_next_epoch_is_taken() {
    let timing = Timing { daemon_absent_max_ms: 400, ..Timing::default() };
    let mut guard = Guarded::new(timing).await;
    guard.grants(Some(4));
    guard.holds(4).await;
    guard.given_back(4).await;
    assert!(!guard.status().await.daemon_alive, "asking how things stand is no sign of a daemon");
    guard.ok(Call::Hello).await;
    guard.grants(Some(5));
    guard.holds(5).await;
}

#[tokio::test]
async fn a_guard_that_is_restarted_takes_up_its_leases() {
    let Some(mut container) = Container::new("restart") else { return };
    let mut guard = Guarded::new(Timing::default()).await;
    guard.grants(Some(4));
    guard.holds(4).await;
    guard.ok(container.register(4)).await;
    guard.task.abort();
    let (ending, task) = Guarded::begin(guard.dir.path(), &guard.script, Timing::default());
    (guard.ending, guard.task) = (ending, task);
    guard.client = connected(guard.dir.path()).await;
    let known = guard.status().await.leases;
    assert_eq!((known.len(), known[0].epoch, &known[0].cgroup), (1, 4, &Some(container.cgroup.clone())));
    assert!(guard.page.holds("mail", 4) && container.runs());
    // Ended with nobody there to see it: the next guard kills at once, before any daemon spoke.
    guard.task.abort();
    guard.grants(None);
    until("the lease's end", async || !guard.page.holds("mail", 4)).await;
    assert!(container.runs());
    (guard.ending, guard.task) = Guarded::begin(guard.dir.path(), &guard.script, Timing::default());
    until("the container's end", async || !container.runs()).await;
    guard.given_back(4).await;
}

/// Not a test by itself: the guard that [`a_frozen_or_killed_guard`] runs as another process.
#[test]
fn guard_process() {
    let Ok(dir) = std::env::var(RUN_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = Arc::new(Mutex::new(Script { epoch: Some(4), ..Script::default() }));
    let asked = move |request: LeaseRequest| {
        let answer = ask(&script, request);
        async move { answer }
    };
    let options = options(Path::new(&dir), Timing::default());
    runtime.block_on(run(options, asked, CancellationToken::new())).unwrap();
}

struct Process(Child);

impl Process {
    fn new(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["guard::tests::guard_process", "--exact"]).env(RUN_DIR, dir);
        Self(command.stdout(std::process::Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).unwrap(), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_frozen_or_killed_guard() {
    let Some(mut container) = Container::new("frozen") else { return };
    let dir = tempfile::tempdir().unwrap();
    let guard = Process::new(dir.path());
    let mut client = connected(dir.path()).await;
    let page = LeasePage::open(&dir.path().join(super::PAGE_FILE)).unwrap();
    until("the lease", async || page.holds("mail", 4)).await;
    assert_eq!(client.call(&container.register(4)).await.unwrap(), Reply::Done);

    // Killed, and another one begun within the lease: nobody notices.
    drop(guard);
    let guard = Process::new(dir.path());
    let mut client = connected(dir.path()).await;
    let status = client.call(&Call::Status).await.unwrap();
    assert!(matches!(&status, Reply::Status(s) if s.leases.iter().any(|l| l.epoch == 4)), "{status:?}");
    assert!(page.holds("mail", 4) && container.runs());

    // Frozen: the page ends by itself. Resumed: the container is killed, though the leader grants on.
    guard.signal(Signal::STOP);
    until("the page's end", async || !page.holds("mail", 4)).await;
    assert!(container.runs(), "only its guard could have killed it");
    guard.signal(Signal::CONT);
    until("the container's end", async || {
        assert!(!page.holds("mail", 4), "served again before it was killed");
        !container.runs()
    })
    .await;
    let mut client = connected(dir.path()).await;
    let again = client.call(&container.register(4)).await.unwrap();
    assert!(matches!(again, Reply::Refused { .. }), "{again:?}");
    assert!(!page.holds("mail", 4));
}
