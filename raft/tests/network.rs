//! Calls, barriers, the client, and what strangers throw at the port.

mod harness;

use bytes::Bytes;
use harness::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use thermidor_model::Outcome;
use thermidor_raft::{CallError, HomeClient, Node, ProposeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_call_one_another_and_the_leader() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let time = Duration::from_secs(10);
    for from in &nodes {
        for to in &nodes {
            let heard = from.call(to.id(), "echo", Bytes::from_static(b"salut"), time).await.unwrap();
            assert_eq!(heard, format!("someone hears {}: salut", from.id()));
        }
        let heard = from.call_leader("echo", Bytes::from_static(b"chef"), deadline()).await.unwrap();
        assert_eq!(heard, format!("someone hears {}: chef", from.id()));
        assert_eq!(
            from.call_leader("grumble", Bytes::new(), deadline()).await,
            Err(CallError::Failed("not today".into()))
        );
    }
    let unknown = nodes[0].call(2, "nonsense", Bytes::new(), time).await;
    assert!(matches!(unknown, Err(CallError::Failed(_))), "{unknown:?}");
    let slow = nodes[0].call(2, "sleep", Bytes::new(), Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(CallError::Lost(_) | CallError::Failed(_))), "{slow:?}");
    // A large body, and one that is too large.
    let large = Bytes::from(vec![b'x'; 8 << 20]);
    let heard = nodes[0].call(2, "echo", large, time).await.unwrap();
    assert!(heard.len() > 8 << 20);
    let huge = nodes[0].call(2, "echo", Bytes::from(vec![b'x'; 65 << 20]), time).await;
    assert!(matches!(huge, Err(CallError::Unreachable(_))), "{huge:?}");
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_barriers_pass_on_the_leader_alone() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let lead = leader(&nodes).await;
    let many = (0..500).map(|_| lead.barrier());
    assert!(futures::future::join_all(many).await.iter().all(Result::is_ok));
    for node in nodes.iter().filter(|n| n.id() != lead.id()) {
        assert_eq!(node.barrier().await, Err(CallError::NotLeader(Some(lead.id()))));
        assert_eq!(node.unhurried_barrier().await, Err(CallError::NotLeader(Some(lead.id()))));
    }
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_proves_as_much_as_a_round_and_nothing_once_the_others_are_gone() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let lead = leader(&nodes).await.clone();
    for _ in 0..20 {
        assert_eq!(lead.unhurried_barrier().await, Ok(()));
    }
    let (last, others): (Vec<Machine>, Vec<Machine>) =
        machines.into_iter().partition(|m| m.node.id() == lead.id());
    shut_all(others).await;
    // What they acknowledged before does not count, however lately that was.
    assert!(lead.unhurried_barrier().await.is_err());
    shut_all(last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_needs_no_local_daemon_and_finds_the_next_leader() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await.clone();
    let local = machines.iter().find(|m| m.node.id() != old.id()).unwrap();
    eventually("members.json is complete", || {
        HomeClient::open(&local.data()).is_ok() && local.data().join("members.json").exists()
    })
    .await;
    same_states(&nodes).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let client = HomeClient::open(&local.data()).unwrap();
    let heard = client.call_leader("echo", Bytes::from_static(b"bail"), deadline()).await.unwrap();
    assert_eq!(heard, format!("someone hears {}: bail", local.node.id()));
    assert_eq!(client.leader(), Some(old.id()));
    client.propose(tell("by the client"), deadline()).await.unwrap();

    old.shutdown().await;
    client.call_leader("echo", Bytes::from_static(b"bail"), deadline()).await.unwrap();
    client.propose(tell("to the next"), deadline()).await.unwrap();
    assert_ne!(client.leader(), Some(old.id()));
    let failed = client.call_leader("grumble", Bytes::new(), Instant::now() + Duration::from_secs(1)).await;
    assert!(failed.unwrap_err().to_string().contains("not today"));
    eventually("both are there", || {
        let told = told(&state(&local.node));
        told.contains("by the client") && told.contains("to the next")
    })
    .await;

    // The local daemon goes, and with it the quorum: the client says so.
    local.node.shutdown().await;
    let soon = Instant::now() + Duration::from_secs(2);
    assert!(client.propose(tell("nobody"), soon).await.is_err());
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_just_answered_asks_nobody_and_still_finds_the_next_leader() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let old = leader(&nodes).await.clone();
    let local = machines.iter().find(|m| m.node.id() != old.id()).unwrap();
    same_states(&nodes).await;
    let known = || HomeClient::open(&local.data()).is_ok_and(|client| client.members().len() == 3);
    eventually("members.json is complete", known).await;
    let client = HomeClient::open(&local.data()).unwrap();
    client.propose(tell("first"), deadline()).await.unwrap();
    old.shutdown().await;
    // Sent straight to who led: not known to be done, or surely not done and then done elsewhere.
    let second = client.propose(tell("second"), deadline()).await;
    assert!(matches!(second, Ok(Outcome::Done) | Err(ProposeError::Unknown(_))), "{second:?}");
    assert_eq!(client.propose(tell("third"), deadline()).await, Ok(Outcome::Done));
    eventually("what was answered is there", || {
        let told = told(&state(&local.node));
        told.contains("first") && told.contains("third") && (second.is_err() || told.contains("second"))
    })
    .await;
    shut_all(machines).await;
}

/// Passes connections on, and what comes over them until that one is stuck: as one is behind a lost packet.
struct Relay {
    address: SocketAddr,
    /// Connections so far.
    opened: Arc<AtomicUsize>,
    /// Of these the first so many carry nothing any more.
    stuck: watch::Sender<usize>,
}

impl Relay {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(any()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let stuck = watch::Sender::new(0);
        let (count, until) = (opened.clone(), stuck.subscribe());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let number = count.fetch_add(1, SeqCst);
                let mut until = until.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let stuck = async { drop(until.wait_for(|stuck| number < *stuck).await) };
                    let over = tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => true,
                        () = stuck => false,
                    };
                    if !over {
                        // Both ends stay open, and nothing comes.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, opened, stuck }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_stuck_is_overtaken_by_another_and_given_up() {
    let machines = three(None).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let lead = leader(&nodes).await;
    let local = machines.iter().find(|m| m.node.id() != lead.id()).unwrap();
    same_states(&nodes).await;
    let client = HomeClient::open(&local.data()).unwrap();
    let relay = Relay::to(lead.address()).await;
    client.set_members(BTreeMap::from([(lead.id(), relay.address)]));
    // Far less than the second after which a silent connection is given up, but for a busy machine.
    let ask = || {
        client.call_leader("echo", Bytes::from_static(b"bail"), Instant::now() + Duration::from_millis(800))
    };
    ask().await.unwrap();
    assert_ne!(relay.opened.load(SeqCst), 0);
    for _ in 0..3 {
        // All that there are: only new ones can help.
        let before = relay.opened.load(SeqCst);
        relay.stuck.send_replace(before);
        let began = Instant::now();
        while ask().await.is_err() {
            assert!(began.elapsed() < PATIENCE, "no connection that is not stuck was made");
        }
        assert!(relay.opened.load(SeqCst) > before);
        // What is stuck is replaced beside the work, so that the next loss finds connections that work.
        let alive = || relay.opened.load(SeqCst) - before;
        while alive() < 2 {
            ask().await.unwrap();
            assert!(began.elapsed() < PATIENCE, "what is stuck is not given up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    shut_all(machines).await;
}

/// Sends bytes to the port and waits until they are answered by a close.
async fn throw(node: &Node, bytes: &[u8]) {
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    // Err: it may close before it has taken all of it.
    drop(stream.write_all(bytes).await);
    let mut sink = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await;
    assert!(closed.is_ok(), "the connection stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_closes_that_connection_and_nothing_else() {
    let machines = three(None).await;
    let node = &machines[0].node;
    throw(node, b"GET / HTTP/1.1\r\n\r\n").await;
    throw(node, &[0xff; 70_000]).await;
    throw(node, &[0; 5]).await;
    let mut noise = Vec::new();
    let mut seed = 7_u32;
    for _ in 0..100_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((seed >> 24) as u8);
    }
    throw(node, &noise).await;

    // The same inside TLS: by a stranger and by a member.
    let member = machines[1].node.identity().client_config().unwrap();
    let mut long = (200_u32 << 20).to_be_bytes().to_vec();
    long.extend([1; 1000]);
    let nonsense: [&[u8]; 5] = [
        &long,
        &[0, 0, 0, 3, 9, 9, 9],
        &[0, 0, 0, 0],
        &[0, 0, 0, 12, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
        &noise,
    ];
    for bytes in nonsense {
        let stream = TcpStream::connect(node.address()).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(member.clone());
        let name = "thermidor.home".to_string().try_into().unwrap();
        let mut stream = tls.connect(name, stream).await.unwrap();
        drop(stream.write_all(bytes).await);
        drop(stream.flush().await);
        let mut sink = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await;
        assert!(closed.is_ok(), "the connection stays open after {:?}", &bytes[..bytes.len().min(20)]);
    }
    done(node, tell("still here")).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    same_states(&nodes).await;
    shut_all(machines).await;
}
