//! Who may ask what, and who answers it.

use crate::identity::{Papers, Shown};
use crate::line::LineError;
use crate::node::{Node, decode, encode};
use crate::types::C;
use crate::{introducing, joining, rotation};
use bytes::Bytes;
use openraft::alias::VoteOf;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use std::sync::{Arc, PoisonError};
use thermidor_model::{NodeId, State};
use tokio::time::{Instant, timeout_at};

/// Who asks, as the handshake has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asker {
    /// What the certificate said.
    Member(Arc<Shown>),
    /// Someone without a certificate.
    Stranger,
}

/// What becomes of a request before anybody looks into it.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Member(NodeId),
    Newcomer,
    /// Its certificate is of a later generation than ours.
    WeAreOld(u64),
    TheyAreOld,
    Left,
    Unknown,
}

/// Asked for each request, since the state changes while a connection lasts. A number above all that our state has
/// given out belongs to somebody who joined while we were away: its certificate says so, and it may even lead.
fn admit(asker: &Asker, verb: &str, ours: u64, state: &State, papers: &Papers) -> Admission {
    let shown = match asker {
        Asker::Stranger if verb == "home/join" => return Admission::Newcomer,
        Asker::Stranger => return Admission::Unknown,
        Asker::Member(shown) => shown,
    };
    let (member, never_given) = (shown.member, shown.member >= state.next_node);
    let proven = match state.keys.members.get(&member) {
        Some(pinned) => *pinned == shown.key,
        None => {
            let signed = shown.under.as_ref() == Some(&papers.authority());
            signed || (never_given && papers.is_vouched(member, &shown.key))
        }
    };
    match shown.generation {
        _ if !proven => Admission::Unknown,
        generation if generation > ours => Admission::WeAreOld(generation),
        generation if generation < ours => Admission::TheyAreOld,
        _ if never_given || state.members.contains_key(&member) => Admission::Member(member),
        _ => Admission::Left,
    }
}

/// Answers one request, by its deadline at the latest.
pub(crate) async fn serve(
    node: &Node,
    asker: &Asker,
    verb: &str,
    body: Bytes,
    deadline: Instant,
) -> Result<Bytes, LineError> {
    let identity = node.identity();
    let ours = identity.generation;
    let state = node.state().borrow().clone();
    let failed = |text: &str| Err(LineError::Failed(text.into()));
    let from = match admit(asker, verb, ours, &state, identity.papers()) {
        Admission::Member(member) => {
            node.0.contacted.lock().unwrap_or_else(PoisonError::into_inner).insert(member);
            member
        }
        Admission::Newcomer => return joining::admit(node, &body, deadline).await,
        Admission::WeAreOld(generation) => {
            node.pool().hear(generation);
            return failed("this member is of an older generation of the home");
        }
        Admission::TheyAreOld => return failed("this home was rescued: its older generation must rejoin"),
        Admission::Left => return Err(LineError::Expelled),
        Admission::Unknown => return failed("a certificate of this home is needed"),
    };
    match verb {
        "home/propose" => node.propose_for(&body, deadline).await,
        "raft/append" | "raft/vote" | "raft/pre-vote" | "raft/transfer" | "raft/snapshot" => {
            raft(node, from, verb, body).await
        }
        _ => {
            let answer = timeout_at(deadline, other(node, from, verb, body)).await;
            answer.unwrap_or_else(|_| failed("not answered in time"))
        }
    }
}

async fn other(node: &Node, from: NodeId, verb: &str, body: Bytes) -> Result<Bytes, LineError> {
    match verb.split_once('/') {
        Some(("home", "leader")) => {
            node.barrier().await.map_err(|e| match e {
                crate::calling::CallError::NotLeader(leader) => LineError::NotLeader(leader),
                e => LineError::Failed(e.to_string()),
            })?;
            Ok(Bytes::new())
        }
        Some(("raft", "quiet")) => node.quiet_for(&body),
        Some(("home", "unborn")) => joining::forget_unborn(node, &body).await,
        Some(("home", "key")) => introducing::answer(node, &body),
        Some(("home", "keys")) => rotation::hand_over(node, from, &body),
        Some(("app", kind)) => node.handle(from, kind, body).await,
        Some(("lead", kind)) => node.handle_as_leader(from, kind, body).await,
        _ => Err(LineError::Failed(format!("`{verb}` is not understood here"))),
    }
}

async fn raft(node: &Node, from: NodeId, verb: &str, body: Bytes) -> Result<Bytes, LineError> {
    let raft = node.raft();
    let failed = |e: &dyn std::error::Error| LineError::Failed(e.to_string());
    // A restarted member has forgotten whom it had promised its silence: no vote yet (see Node::start),
    // but for a hand-over, which the leader whom it may have promised it asks for itself.
    let may_vote = |handed: bool| match handed || Instant::now() >= node.0.votes_from {
        true => Ok(()),
        false => Err(LineError::Failed("just started: no vote yet".into())),
    };
    match verb {
        "raft/append" => {
            let request: AppendEntriesRequest<C> = decode(&body)?;
            node.note_taken(&request.vote);
            encode(&raft.append_entries(request).await.map_err(|e| failed(&e))?)
        }
        "raft/vote" => {
            let request: VoteRequest<C> = decode(&body)?;
            may_vote(request.leadership_transfer)?;
            encode(&raft.vote(request).await.map_err(|e| failed(&e))?)
        }
        "raft/pre-vote" => {
            may_vote(false)?;
            let request: VoteRequest<C> = decode(&body)?;
            encode(&raft.pre_vote(request).await.map_err(|e| failed(&e))?)
        }
        "raft/transfer" => {
            let request: TransferLeaderRequest<C> = decode(&body)?;
            node.0.handed.store(crate::boottime_ns(), std::sync::atomic::Ordering::Relaxed);
            encode(&raft.handle_transfer_leader(request).await.map_err(|e| failed(&e))?)
        }
        _ => {
            let arrived = {
                let mut arriving = node.0.arriving.lock().unwrap_or_else(PoisonError::into_inner);
                arriving.take(from, body).map_err(LineError::Failed)?
            };
            let Some((vote, snapshot)): Option<(VoteOf<C>, _)> = arrived else { return Ok(Bytes::new()) };
            node.note_taken(&vote);
            encode(&raft.install_full_snapshot(vote, snapshot).await.map_err(|e| failed(&e))?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Authority, Known, testing::own};
    use thermidor_model::state::{Member, Role};
    use thermidor_model::{RadiatorName, State};

    #[test]
    fn members_of_this_generation_are_admitted_and_nobody_else() {
        let authority = Authority::generate(&"maison".parse().unwrap()).unwrap();
        let known = Known { authority_pem: authority.pem().to_string(), ..Known::default() };
        let papers = Papers::new(own(&authority), known).unwrap();
        let mut state = State { next_node: 4, ..State::default() };
        for (id, name) in [(1, "salon"), (3, "bureau")] {
            let name = RadiatorName::new(name).unwrap();
            let address = "127.0.0.1:7600".parse().unwrap();
            state.members.insert(id, Member { name, address, role: Role::Radiator, off: None });
        }
        state.keys.members.insert(1, "salon's".into());
        let shown = |member, generation, key: &str, under: Option<String>| {
            let shown = Shown { member, generation, key: key.to_string(), under };
            admit(&Asker::Member(Arc::new(shown)), "app/x", 2, &state, &papers)
        };
        let signed = || Some(papers.authority());
        // Salon is known by its key, whoever signed its certificate.
        assert_eq!(shown(1, 2, "salon's", None), Admission::Member(1));
        assert_eq!(shown(1, 2, "the thief's", signed()), Admission::Unknown);
        assert_eq!(
            shown(1, 9, "the thief's", signed()),
            Admission::Unknown,
            "no generation is heard from him"
        );
        // Bureau's key is not written down, and nobody knows number 4 yet: the authority's word is needed.
        for member in [2, 3, 4] {
            let elsewhere = Some("another authority".to_string());
            assert_eq!(shown(member, 2, "x", elsewhere), Admission::Unknown, "{member}");
        }
        papers.vouch(4, "x".into());
        assert_eq!(shown(4, 2, "x", None), Admission::Member(4), "another member vouches for it");
        let ask = |member, generation| shown(member, generation, "salon's", signed());
        assert_eq!(ask(1, 2), Admission::Member(1));
        assert_eq!(ask(2, 2), Admission::Left);
        assert_eq!(ask(4, 2), Admission::Member(4), "joined while we were away");
        assert_eq!(ask(1, 1), Admission::TheyAreOld);
        assert_eq!(ask(1, 3), Admission::WeAreOld(3));
        assert_eq!(admit(&Asker::Stranger, "raft/vote", 2, &state, &papers), Admission::Unknown);
        assert_eq!(admit(&Asker::Stranger, "home/join", 2, &state, &papers), Admission::Newcomer);
    }
}
