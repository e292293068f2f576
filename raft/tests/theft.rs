//! New keys for a running home after a theft: what the thief has is refused, and whoever crashes, leads, or
//! was away meanwhile ends up with the new keys.

mod harness;

use bytes::Bytes;
use harness::*;
use rcgen::{CertificateParams, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use thermidor_model::{Command, NodeId, Outcome};
use thermidor_raft::{HomeClient, Identity, Node, codec};
use tokio::time::Instant;

const SECRET: &[u8] = b"correct horse";

fn temporary() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A disk's copy, as a thief makes it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place),
            false => drop(std::fs::copy(entry.path(), place).unwrap()),
        }
    }
}

/// The stolen disk with a certificate made with the authority's key on it, for any member.
fn forged(stolen: &Path, claims: NodeId) -> (TempDir, PathBuf) {
    let dir = temporary();
    let data = dir.path().join("data");
    copy(stolen, &data);
    let identity = Identity::load(stolen).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(vec!["thermidor.home".to_string()]).unwrap().serialize_request(&key);
    let request = request.unwrap().pem().unwrap();
    let issued = identity.authority().unwrap().issue_for(&request, &identity.own.home, claims, 1).unwrap();
    let own = thermidor_raft::identity::Own { node: claims, ..identity.own.clone() };
    let place = data.join("identity");
    std::fs::write(place.join("own"), codec::encode(&own).unwrap()).unwrap();
    std::fs::write(place.join("member.pem"), issued).unwrap();
    std::fs::write(place.join("member.key"), key.serialize_pem()).unwrap();
    (dir, data)
}

/// Whether whoever has these files is listened to.
async fn is_heard(data: &Path) -> bool {
    let client = HomeClient::open(data).unwrap();
    let soon = Instant::now() + Duration::from_secs(2);
    client.call_leader("echo", Bytes::from_static(b"salut"), soon).await.is_ok()
}

async fn set_secret(node: &Node) {
    let sealed = node.identity().seal(state(node).keys.sealed_under, "mail/marie", SECRET).unwrap();
    done(node, Command::SetSecret { name: "mail/marie".into(), sealed: Some(sealed) }).await;
}

fn opens(node: &Node) -> bool {
    let state = state(node);
    node.identity().open("mail/marie", &state.secrets["mail/marie"]).is_ok_and(|s| s.as_slice() == SECRET)
}

/// The change is over: everybody has its part, the secret is sealed under the new key and opens.
async fn changed(nodes: &[&Node], number: u64) {
    for node in nodes {
        eventually(&format!("member {} has keys number {number}", node.id()), || {
            let keys = state(node).keys.clone();
            keys.number == number && !keys.changing() && keys.holders.contains(&node.id())
        })
        .await;
        let authority = state(node).authority_pem.clone();
        assert_eq!(node.identity().authority_pem, authority);
        assert_eq!(node.identity().own.keys, number);
    }
}

/// Proposes all the while; nothing may fail.
fn writer(node: Node) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let task = tokio::spawn(async move {
        let mut served = 0;
        while !until.load(Ordering::Relaxed) {
            let begun = Instant::now();
            assert_eq!(node.propose(tell("serving"), deadline()).await, Ok(Outcome::Done));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            served += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_thief_has_is_refused_and_the_home_goes_on() {
    let mut machines = three(None).await;
    let witness = add(&machines[0].node, "temoin", true, None).await;
    let stolen = machines.remove(2);
    let [salon, bureau] = [machines[0].node.clone(), machines[1].node.clone()];
    set_secret(&salon).await;
    eventually("the thief's copy knows everybody", || state(&stolen.node).keys.members.len() == 4).await;
    let members = || HomeClient::open(&stolen.data()).is_ok_and(|client| client.members().len() == 4);
    eventually("members.json is complete", members).await;
    stolen.node.shutdown().await;
    leader(&[&salon, &bureau]).await;

    // While the theft is not known he is a member, may call himself a newcomer, but never another member.
    assert!(is_heard(&stolen.data()).await);
    let (_newcomer_dir, newcomer) = forged(&stolen.data(), 99);
    assert!(is_heard(&newcomer).await);
    let (_bureau_dir, as_bureau) = forged(&stolen.data(), 2);
    assert!(!is_heard(&as_bureau).await);
    let early = HomeClient::open(&newcomer).unwrap();
    early.call_leader("echo", Bytes::new(), deadline()).await.unwrap();

    let (stop, serving) = writer(bureau.clone());
    let invited = salon.invite(Duration::from_secs(600)).await.unwrap();
    let lead = leader(&[&salon, &bureau]).await;
    lead.leave(3, [1, 2, 4].into(), deadline()).await.unwrap();
    assert_eq!(salon.change_keys(deadline()).await.unwrap(), 1);
    changed(&[&salon, &bureau, &witness.node], 1).await;
    assert!(opens(&salon) && opens(&bureau));
    assert_eq!(state(&salon).secrets["mail/marie"].key, 1);
    // The change itself takes a moment only.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(serving.await.unwrap() > 10);

    // A witness has its certificate and no key; nobody keeps the old authority's.
    for file in ["home.key", "authority.key"] {
        assert!(!witness.data().join("identity").join(file).exists());
    }
    let old = std::fs::read(stolen.data().join("identity/authority.key")).unwrap();
    for machine in &machines {
        let identity = machine.data().join("identity");
        assert_ne!(std::fs::read(identity.join("authority.key")).unwrap(), old);
        assert!(!machine.data().join("identity.next").exists());
        eventually("members.json follows", || {
            let text = std::fs::read_to_string(machine.data().join("members.json")).unwrap();
            !text.contains("\"3\"")
        })
        .await;
    }

    // The thief, with all he has.
    for data in [&stolen.data(), &newcomer, &as_bureau] {
        assert!(!is_heard(data).await, "{}", data.display());
    }
    let soon = Instant::now() + Duration::from_secs(2);
    let again = early.call_leader("echo", Bytes::new(), soon).await;
    assert!(again.is_err(), "a connection from before is of no use: {again:?}");
    assert!(try_join(&invited.text(), "cave", false).await.is_err(), "an invitation from before is void");
    let term = |node: &Node| node.leadership().borrow().term;
    let before = term(&salon);
    let loose = start_at(stolen.data(), stolen.node.address(), None).await;
    let proposed = loose.propose(tell("from the thief"), Instant::now() + Duration::from_secs(3)).await;
    assert!(proposed.is_err(), "{proposed:?}");
    assert!(!told(&state(&salon)).contains("from the thief"));
    assert_eq!(term(&salon), before, "nobody stands for election because of him");
    assert!(
        Identity::load(&stolen.data())
            .unwrap()
            .open("mail/marie", &state(&salon).secrets["mail/marie"])
            .is_err()
    );
    loose.shutdown().await;

    // Whoever joins now, joins under the new authority; and what is set now is sealed under the new key.
    let cave = add(&salon, "cave", false, None).await;
    changed(&[&cave.node], 1).await;
    set_secret(&bureau).await;
    eventually("it opens there", || opens(&cave.node)).await;
    // Processes beside the daemon follow.
    let client = HomeClient::open(&machines[1].data()).unwrap();
    client.call_leader("echo", Bytes::new(), deadline()).await.unwrap();
    cave.node.shutdown().await;
    witness.node.shutdown().await;
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_keys_survives_whoever_makes_it_leads_or_receives_it() {
    let mut machines = three(None).await;
    let fourth = add(&machines[0].node, "cave", false, None).await;
    machines.push(fourth);
    set_secret(&machines[0].node).await;
    let nodes: Vec<&Node> = machines[..3].iter().map(|m| &m.node).collect();
    let lead = leader(&nodes).await.clone();
    lead.leave(4, [1, 2, 3].into(), deadline()).await.unwrap();
    machines.pop().unwrap().node.shutdown().await;

    // The leader makes the new keys and goes at once; nobody may have them but its disk.
    assert_eq!(lead.change_keys(deadline()).await.unwrap(), 1);
    let at = machines.iter().position(|m| m.node.id() == lead.id()).unwrap();
    let made = machines.remove(at);
    made.node.shutdown().await;
    let rest: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    let next = leader(&rest).await.clone();
    done(&next, tell("goes on")).await;
    assert!(rest.iter().all(|node| opens(node)), "the secret opens, under whichever key");
    // One who receives them is restarted, then the new leader too.
    let receives = machines.iter().position(|m| m.node.id() != next.id()).unwrap();
    let machine = restart(machines.remove(receives)).await;
    machines.push(machine);
    let back = start_at(made.dir.path().join("data"), made.node.address(), None).await;
    let nexts = machines.iter().position(|m| m.node.id() == next.id()).unwrap();
    let machine = restart(machines.remove(nexts)).await;
    machines.push(machine);
    let all = [&back, &machines[0].node, &machines[1].node];
    changed(&all, 1).await;
    for node in all {
        eventually("the secret opens", || opens(node)).await;
    }

    // Keys whose maker is lost before anybody has them: made again elsewhere.
    let number = machines[0].node.change_keys(deadline()).await.unwrap();
    let lost = machines.remove(0);
    lost.node.shutdown().await;
    let heard = machines[0].node.clone();
    eventually("the other one has heard of it", || state(&heard).keys.number == number).await;
    let again = machines[0].node.change_keys(deadline()).await.unwrap();
    assert_eq!(again, number + 1);
    changed(&[&back, &machines[0].node], again).await;
    // It was not lost for good after all.
    let found = start_at(lost.dir.path().join("data"), lost.node.address(), None).await;
    changed(&[&found], again).await;
    eventually("the secret opens", || opens(&found)).await;
    for node in [&found, &back] {
        node.shutdown().await;
    }
    shut_all(machines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_gets_its_keys_even_from_a_newcomer_that_leads() {
    let mut machines = three(None).await;
    let cave = add(&machines[0].node, "cave", false, None).await;
    set_secret(&machines[0].node).await;
    let nodes: Vec<&Node> = machines.iter().map(|m| &m.node).collect();
    leader(&nodes).await.set_voters([1, 2, 3, 4].into(), deadline()).await.unwrap();
    let salon = machines[0].node.clone();
    eventually("bureau knows cave", || state(&machines[1].node).keys.members.len() == 4).await;
    // Bureau is off; chambre is stolen.
    let bureau = machines.remove(1);
    bureau.node.shutdown().await;
    let all = [&salon, &machines[1].node, &cave.node];
    let lead = leader(&all).await.clone();
    if lead.id() == 3 {
        lead.transfer_leader(1, deadline()).await.unwrap();
    }
    let lead = leader(&[&salon, &cave.node]).await.clone();
    lead.leave(3, [1, 2, 4].into(), deadline()).await.unwrap();
    machines.remove(1).node.shutdown().await;
    salon.change_keys(deadline()).await.unwrap();
    changed(&[&salon, &cave.node], 1).await;
    assert!(!state(&salon).keys.holders.contains(&2));
    // A new radiator in the stolen one's place, which leads.
    let grenier = add(&salon, "grenier", false, None).await;
    let lead = leader(&[&salon, &cave.node]).await.clone();
    lead.set_voters([1, 4, 5].into(), deadline()).await.unwrap();
    lead.transfer_leader(5, deadline()).await.unwrap();
    eventually("grenier leads", || grenier.node.leadership().borrow().is_me).await;

    let back = start_at(bureau.dir.path().join("data"), bureau.node.address(), None).await;
    changed(&[&back], 1).await;
    eventually("the secret opens", || opens(&back)).await;
    assert!(grenier.node.leadership().borrow().is_me, "it had to come from the newcomer");
    for node in [&back, &grenier.node, &cave.node, &salon] {
        node.shutdown().await;
    }
}
