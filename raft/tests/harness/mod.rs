//! A home of real members on loopback, each in its own temporary directory.
#![allow(dead_code)]

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_model::name::HomeName;
use thermidor_model::state::Weight;
use thermidor_model::timing::Timing;
use thermidor_model::{Command, NodeId, Outcome, RadiatorName, State};
use thermidor_raft::{Handler, InitOptions, JoinError, JoinOptions, Node, StartOptions, init, join};
use tokio::time::Instant;

/// Waits for anything no longer than this: a loaded machine takes its time.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

pub fn name(text: &str) -> RadiatorName {
    RadiatorName::new(text).unwrap()
}

pub fn logged() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into());
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
}

pub fn tell(text: impl Into<String>) -> Command {
    Command::Tell { weight: Weight::Note, key: "test".into(), text: text.into() }
}

/// Times that a loaded two-core machine keeps.
pub fn timing() -> Timing {
    Timing::default()
}

/// One machine; its directory is on the disk of the build, for /tmp may be memory.
pub struct Machine {
    pub dir: TempDir,
    pub node: Node,
}

impl Machine {
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// Answers `echo` with who asks, from where and what.
pub fn handlers(who: &'static str) -> BTreeMap<&'static str, Handler> {
    let echo: Handler = Arc::new(move |from, body: Bytes| {
        Box::pin(
            async move { Ok(Bytes::from(format!("{who} hears {from}: {}", String::from_utf8_lossy(&body)))) },
        )
    });
    let grumble: Handler = Arc::new(|_, _| Box::pin(async { Err("not today".to_string()) }));
    let sleep: Handler = Arc::new(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(Bytes::new())
        })
    });
    BTreeMap::from([("echo", echo), ("grumble", grumble), ("sleep", sleep)])
}

pub async fn start(data: PathBuf, snapshot_every: Option<u64>) -> Node {
    start_at(data, any(), snapshot_every).await
}

/// A member on a known address, as in a real home: all of them may restart at once.
pub async fn start_at(data: PathBuf, listen: SocketAddr, snapshot_every: Option<u64>) -> Node {
    let options =
        StartOptions { data, listen, advertise: None, handlers: handlers("someone"), snapshot_every };
    Node::start(options).await.expect("a member starts")
}

/// Ends a member at once and starts it again on the same address.
pub async fn restart(machine: Machine) -> Machine {
    let address = machine.node.address();
    machine.node.shutdown().await;
    let node = start_at(machine.dir.path().join("data"), address, None).await;
    Machine { dir: machine.dir, node }
}

pub async fn found(snapshot_every: Option<u64>) -> Machine {
    found_with(timing(), snapshot_every).await
}

pub async fn found_with(timing: Timing, snapshot_every: Option<u64>) -> Machine {
    logged();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let options = InitOptions {
        data: data.clone(),
        home: HomeName::new("maison").unwrap(),
        radiator: name("salon"),
        listen: any(),
        advertise: None,
        timing,
    };
    init(&options).expect("a home");
    let node = start(data, snapshot_every).await;
    Machine { dir, node }
}

pub async fn try_join(token: &str, who: &str, witness: bool) -> Result<(TempDir, NodeId), JoinError> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = JoinOptions {
        data: dir.path().join("data"),
        token: token.to_string(),
        name: name(who),
        listen: any(),
        advertise: None,
        witness,
    };
    let id = join(&options).await?;
    Ok((dir, id))
}

pub async fn add(home: &Node, who: &str, witness: bool, snapshot_every: Option<u64>) -> Machine {
    let token = home.invite(Duration::from_secs(600)).await.expect("a token");
    let (dir, id) = try_join(&token.text(), who, witness).await.expect("joined");
    let node = start(dir.path().join("data"), snapshot_every).await;
    assert_eq!(node.id(), id);
    Machine { dir, node }
}

/// A home of three radiators that all vote.
pub async fn three(snapshot_every: Option<u64>) -> Vec<Machine> {
    three_with(timing(), snapshot_every).await
}

pub async fn three_with(timing: Timing, snapshot_every: Option<u64>) -> Vec<Machine> {
    let first = found_with(timing, snapshot_every).await;
    let second = add(&first.node, "bureau", false, snapshot_every).await;
    let third = add(&first.node, "chambre", false, snapshot_every).await;
    first.node.set_voters([1, 2, 3].into(), deadline()).await.expect("three voters");
    vec![first, second, third]
}

pub async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = deadline();
    while !is_true() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The leader among these, once exactly one of them says so.
pub async fn leader<'a>(among: &[&'a Node]) -> &'a Node {
    let until = deadline();
    loop {
        for node in among {
            if node.leadership().borrow().is_me && node.barrier().await.is_ok() {
                return node;
            }
        }
        assert!(Instant::now() < until, "nobody leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn done(node: &Node, command: Command) -> Outcome {
    let outcome = node.propose(command, deadline()).await.expect("an outcome");
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    outcome
}

pub fn state(node: &Node) -> Arc<State> {
    node.state().borrow().clone()
}

pub fn told(state: &State) -> BTreeSet<String> {
    state.events.iter().filter(|event| event.key == "test").map(|event| event.text.clone()).collect()
}

/// All states are the same, bit for bit, and sound.
pub async fn same_states(nodes: &[&Node]) {
    eventually("the states are the same", || nodes.windows(2).all(|two| state(two[0]) == state(two[1])))
        .await;
    let bytes: BTreeSet<Vec<u8>> =
        nodes.iter().map(|node| thermidor_raft::codec::encode(&*state(node)).unwrap()).collect();
    assert_eq!(bytes.len(), 1);
    assert_eq!(state(nodes[0]).check(), Vec::<String>::new());
}

pub async fn shut_all(machines: Vec<Machine>) {
    for machine in machines {
        machine.node.shutdown().await;
    }
}
