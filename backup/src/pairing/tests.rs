//! Two homes, and whoever stands between them.

use super::*;
use crate::line::TransportKey;
use crate::vault::HomeKey;
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;
use thermidor_model::name::HomeName;

const NOW: u64 = 1_764_000_000_000;
const TTL: u64 = 600_000;

fn home(name: &str, n: u8) -> Introduction {
    Introduction {
        version: Introduction::VERSION,
        home: HomeName::new(name).unwrap(),
        generation: 1,
        key: HomeKey([n; 32]),
        transport: TransportKey([n + 100; 32]),
        addresses: vec![format!("{name}.example:7474")],
    }
}

fn alice() -> Introduction {
    home("alice", 1)
}

fn bob() -> Introduction {
    home("bob", 2)
}

/// What came of it on one side.
type Came = Result<Option<Paired>, PairingError>;

/// A side, its acts carried out; the code is burnt in `spent`, once.
struct Side<'a> {
    pairing: Pairing,
    spent: &'a Cell<u32>,
    paired: Option<Paired>,
}

impl<'a> Side<'a> {
    fn host(invitation: &Invitation, spent: &'a Cell<u32>) -> Self {
        Self { pairing: Pairing::host(invitation.clone(), alice()), spent, paired: None }
    }

    fn guest(code: &Code, spent: &'a Cell<u32>) -> (Self, Vec<u8>) {
        let (pairing, first) = Pairing::guest(code, bob());
        let Act::Say(first) = first else { panic!("{first:?}") };
        (Self { pairing, spent, paired: None }, first)
    }

    /// Hears a frame; answers what it says.
    fn hear(&mut self, frame: &[u8], now: u64) -> Result<Vec<Vec<u8>>, PairingError> {
        let mut acts: VecDeque<Act> = self.pairing.hear(frame, now)?.into();
        let mut said = Vec::new();
        while let Some(act) = acts.pop_front() {
            match act {
                Act::Say(frame) => said.push(frame),
                Act::Paired(paired) => self.paired = Some(*paired),
                Act::Burn => {
                    self.spent.set(self.spent.get() + 1);
                    acts.extend(self.pairing.burnt(self.spent.get() == 1)?);
                }
            }
        }
        Ok(said)
    }
}

/// Lets both speak; `between` sees each frame with its number and passes on what it wants. Answers guest, host.
fn meet(
    typed: &Code,
    invitation: &Invitation,
    spent: &Cell<u32>,
    mut between: impl FnMut(usize, Vec<u8>) -> Option<Vec<u8>>,
) -> (Came, Came) {
    let mut host = Side::host(invitation, spent);
    let unused = Cell::new(0);
    let (mut guest, first) = Side::guest(typed, &unused);
    let mut frames = VecDeque::from([(true, first)]);
    let (mut guest_error, mut host_error, mut number) = (None, None, 0);
    while let Some((to_host, frame)) = frames.pop_front() {
        number += 1;
        let Some(frame) = between(number, frame) else { break };
        let (side, error) =
            if to_host { (&mut host, &mut host_error) } else { (&mut guest, &mut guest_error) };
        if error.is_some() {
            continue;
        }
        match side.hear(&frame, NOW) {
            Ok(said) => frames.extend(said.into_iter().map(|frame| (!to_host, frame))),
            Err(e) => {
                if frame[0] != Kind::No as u8 {
                    frames.push_back((!to_host, Pairing::farewell(&e)));
                }
                *error = Some(e);
            }
        }
    }
    let came = |side: Side, error: Option<PairingError>| error.map_or(Ok(side.paired), Err);
    (came(guest, guest_error), came(host, host_error))
}

fn nobody(_: usize, frame: Vec<u8>) -> Option<Vec<u8>> {
    Some(frame)
}

#[test]
fn with_the_right_code_each_knows_the_other_and_both_see_the_same_words() {
    let invitation = Invitation::draw(NOW, TTL);
    let spent = Cell::new(0);
    let mut seen = Vec::new();
    let (guest, host) = meet(&invitation.code, &invitation, &spent, |_, frame| {
        seen.extend_from_slice(&frame);
        Some(frame)
    });
    let (guest, host) = (guest.unwrap().unwrap(), host.unwrap().unwrap());
    assert_eq!((guest.friend, host.friend), (alice(), bob()));
    assert_eq!(guest.words, host.words);
    assert_eq!(spent.get(), 1);
    // Who listens learns neither the names nor the code.
    let has = |text: &str| seen.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!has("alice") && !has("bob") && !has(&invitation.code.to_string()));
    // Another pairing has other words.
    let again = Cell::new(0);
    let (other, _) = meet(&invitation.code, &invitation, &again, nobody);
    assert_ne!(other.unwrap().unwrap().words, guest.words);
}

#[test]
fn a_wrong_code_is_one_guess_and_tells_nothing() {
    let invitation = Invitation::draw(NOW, TTL);
    let spent = Cell::new(0);
    let mut told = 0;
    let (guest, host) = meet(&Code::draw(), &invitation, &spent, |number, frame| {
        told = number;
        Some(frame)
    });
    assert!(matches!(host, Err(PairingError::WrongCode)), "{host:?}");
    assert!(matches!(guest, Err(PairingError::WrongCode)), "{guest:?}");
    // Hello, half, proof, no: the host has said nothing of itself.
    assert_eq!((told, spent.get()), (4, 1));
    // The right one comes too late.
    let (guest, host) = meet(&invitation.code, &invitation, &spent, nobody);
    assert!(matches!(host, Err(PairingError::Burnt)), "{host:?}");
    assert!(matches!(guest, Err(PairingError::Burnt)), "{guest:?}");
}

#[test]
fn a_code_is_good_once_and_for_a_time() {
    let invitation = Invitation::draw(NOW, TTL);
    let spent = Cell::new(0);
    assert!(meet(&invitation.code, &invitation, &spent, nobody).1.unwrap().is_some());
    let (guest, host) = meet(&invitation.code, &invitation, &spent, nobody);
    assert!(matches!(host, Err(PairingError::Burnt)) && matches!(guest, Err(PairingError::Burnt)));
    let old = Invitation::draw(NOW - TTL, TTL);
    let (guest, host) = meet(&old.code, &old, &Cell::new(0), nobody);
    assert!(matches!(host, Err(PairingError::Expired)) && matches!(guest, Err(PairingError::Expired)));
    // It ends between the first word and the proof, too; that is no guess.
    let spent = Cell::new(0);
    let mut host = Side::host(&invitation, &spent);
    let unused = Cell::new(0);
    let (mut guest, first) = Side::guest(&invitation.code, &unused);
    let half = host.hear(&first, NOW + TTL - 1).unwrap().remove(0);
    let proof = guest.hear(&half, NOW).unwrap().remove(0);
    assert!(matches!(host.hear(&proof, NOW + TTL), Err(PairingError::Expired)));
    assert_eq!(spent.get(), 0);
}

#[test]
fn two_guests_at_once_have_one_guess_together() {
    let invitation = Invitation::draw(NOW, TTL);
    let spent = Cell::new(0);
    let unused = Cell::new(0);
    let mut sides: Vec<_> = (0..8)
        .map(|n| {
            let typed = if n == 5 { invitation.code.clone() } else { Code::draw() };
            let mut host = Side::host(&invitation, &spent);
            let (mut guest, first) = Side::guest(&typed, &unused);
            let half = host.hear(&first, NOW).unwrap().remove(0);
            let proof = guest.hear(&half, NOW).unwrap().remove(0);
            (host, proof)
        })
        .collect();
    let came: Vec<_> = sides.iter_mut().map(|(host, proof)| host.hear(proof, NOW)).collect();
    assert!(matches!(came[0], Err(PairingError::WrongCode)));
    assert!(came[1..].iter().all(|one| matches!(one, Err(PairingError::Burnt))), "{came:?}");
}

#[test]
fn what_was_recorded_is_of_no_use_later() {
    let invitation = Invitation::draw(NOW, TTL);
    let mut record = Vec::new();
    let _ = meet(&invitation.code, &invitation, &Cell::new(0), |_, frame| {
        record.push(frame.clone());
        Some(frame)
    });
    assert_eq!(record.len(), 6);
    // To the host, which for once takes the same code again.
    let spent = Cell::new(0);
    let mut host = Side::host(&invitation, &spent);
    host.hear(&record[0], NOW).unwrap();
    assert!(matches!(host.hear(&record[2], NOW), Err(PairingError::WrongCode)));
    assert!(host.hear(&record[4], NOW).is_err() && host.paired.is_none());
    // To a guest.
    let unused = Cell::new(0);
    let (mut guest, _) = Side::guest(&invitation.code, &unused);
    guest.hear(&record[1], NOW).unwrap();
    assert!(matches!(guest.hear(&record[3], NOW), Err(PairingError::WrongCode)));
    assert!(guest.hear(&record[5], NOW).is_err() && guest.paired.is_none());
    // And each its own words, as from a mirror.
    let (mut guest, first) = Side::guest(&invitation.code, &unused);
    assert!(guest.hear(&first, NOW).is_err());
    let mut host = Side::host(&invitation, &spent);
    let half = host.hear(&first, NOW).unwrap().remove(0);
    assert!(host.hear(&half, NOW).is_err());
}

#[test]
fn whoever_changes_a_byte_on_the_way_pairs_nobody_with_a_stranger() {
    let invitation = Invitation::draw(NOW, TTL);
    let mut lengths = Vec::new();
    let _ = meet(&invitation.code, &invitation, &Cell::new(0), |_, frame| {
        lengths.push(frame.len());
        Some(frame)
    });
    for (number, length) in (1..).zip(lengths) {
        for at in (0..length).filter(|at| *at < 40 || at % 17 == 0 || at + 20 > length) {
            let (guest, host) = meet(&invitation.code, &invitation, &Cell::new(0), |n, mut frame| {
                if n == number {
                    frame[at] ^= 1;
                }
                Some(frame)
            });
            for (came, expected) in [(&guest, alice()), (&host, bob())] {
                let friend =
                    came.as_ref().ok().and_then(|paired| paired.as_ref()).map(|paired| &paired.friend);
                assert!(friend.is_none_or(|friend| *friend == expected), "frame {number}, byte {at}");
            }
            // Only the very last frame leaves the host sure of the guest.
            assert!(!matches!(guest, Ok(Some(_))), "frame {number}, byte {at}");
            assert!(number == 6 || !matches!(host, Ok(Some(_))), "frame {number}, byte {at}");
        }
    }
}

#[test]
fn somebody_in_between_who_knows_the_code_shows_other_words() {
    let invitation = Invitation::draw(NOW, TTL);
    let mallory = Cell::new(0);
    let as_host = meet(&invitation.code, &invitation, &Cell::new(0), nobody);
    let as_guest = meet(&invitation.code, &invitation, &mallory, nobody);
    let guest_sees = as_host.0.unwrap().unwrap().words;
    let host_sees = as_guest.1.unwrap().unwrap().words;
    assert_ne!(guest_sees, host_sees);
}

#[test]
fn cut_at_each_step_nobody_is_paired_alone_but_by_the_last_word() {
    let invitation = Invitation::draw(NOW, TTL);
    for cut in 1..=6 {
        let spent = Cell::new(0);
        let (guest, host) =
            meet(&invitation.code, &invitation, &spent, |number, frame| (number < cut).then_some(frame));
        assert_eq!(guest.unwrap(), None, "cut at {cut}");
        assert_eq!(host.unwrap().is_some(), cut == 6, "cut at {cut}");
        assert_eq!(spent.get(), u32::from(cut > 3), "cut at {cut}");
    }
}

#[test]
fn what_has_no_place_is_not_heard() {
    let invitation = Invitation::draw(NOW, TTL);
    let odd: [&[u8]; 7] = [b"", b"\0", b"GET / HTTP/1.1", &[1], &[1, 1], &[1, 1, 9, 9], &[4, 0]];
    for frame in odd {
        let spent = Cell::new(0);
        let mut host = Side::host(&invitation, &spent);
        assert!(matches!(host.hear(frame, NOW), Err(PairingError::OutOfTurn)), "{frame:?}");
        assert_eq!(spent.get(), 0);
        let (mut guest, _) = Side::guest(&invitation.code, &spent);
        assert!(guest.hear(frame, NOW).is_err(), "{frame:?}");
    }
    let spent = Cell::new(0);
    let mut host = Side::host(&invitation, &spent);
    assert!(matches!(host.hear(&[1, 9, 0, 0], NOW), Err(PairingError::Version(9))));
    // Nothing is heard after an error.
    let (_, first) = Side::guest(&invitation.code, &spent);
    assert!(matches!(host.hear(&first, NOW), Err(PairingError::OutOfTurn)));
    // A state that is not burning has nothing to burn.
    assert!(Pairing::host(invitation, alice()).burnt(true).is_err());
}

#[test]
fn who_can_be_no_friend_is_told_so() {
    let read = |it: &Introduction| Introduction::read(&serde_json::to_vec(it).unwrap(), &alice());
    assert_eq!(read(&bob()), Ok(bob()));
    assert_eq!(read(&home("alice", 2)), Err(NotTaken::SameName(alice().home)));
    assert_eq!(read(&home("bob", 1)), Err(NotTaken::Myself));
    assert_eq!(read(&Introduction { version: 2, ..bob() }), Err(NotTaken::Version(2)));
    for bad in ["", "a b", "a\n", &"x".repeat(256), "é"] {
        assert_eq!(read(&Introduction { addresses: vec![bad.into()], ..bob() }), Err(NotTaken::Address));
    }
    assert_eq!(read(&Introduction { addresses: vec!["a:1".into(); 17], ..bob() }), Err(NotTaken::Address));
    assert!(matches!(Introduction::read(b"{}", &alice()), Err(NotTaken::Unreadable(_))));
}

const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn over_a_stream_both_come_to_the_same() {
    let invitation = Invitation::draw(NOW, TTL);
    let (one, other) = tokio::io::duplex(64);
    let code = invitation.code.clone();
    let (guest, host) = tokio::join!(
        guest(one, &code, bob(), PATIENCE),
        host(other, invitation, alice(), async || Ok(true), || NOW, PATIENCE)
    );
    let (guest, host) = (guest.unwrap(), host.unwrap());
    assert_eq!((guest.friend, host.friend), (alice(), bob()));
    assert_eq!(guest.words, host.words);
}

#[tokio::test]
async fn over_a_stream_a_code_that_is_not_written_off_is_not_tried() {
    let invitation = Invitation::draw(NOW, TTL);
    let (one, other) = tokio::io::duplex(64);
    let code = invitation.code.clone();
    let (guest, host) = tokio::join!(
        guest(one, &code, bob(), PATIENCE),
        host(other, invitation, alice(), async || Err(io::Error::other("no quorum")), || NOW, PATIENCE)
    );
    assert!(matches!(host, Err(PairingError::Unwritten(_))), "{host:?}");
    assert!(matches!(guest, Err(PairingError::Cut { spent: true })), "{guest:?}");
}

#[tokio::test]
async fn over_a_stream_silence_floods_and_broken_lines_end_it() {
    let invitation = Invitation::draw(NOW, TTL);
    let (silent, other) = tokio::io::duplex(64);
    let came = host(other, invitation.clone(), alice(), async || Ok(true), || NOW, PATIENCE).await;
    assert!(matches!(came, Err(PairingError::Silent)), "{came:?}");
    drop(silent);
    let came = guest(tokio::io::empty(), &invitation.code, bob(), PATIENCE).await;
    assert!(matches!(came, Err(PairingError::Cut { spent: false })), "{came:?}");
    let (mut flood, other) = tokio::io::duplex(64);
    use tokio::io::AsyncWriteExt;
    flood.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let came = host(other, invitation, alice(), async || Ok(true), || NOW, PATIENCE).await;
    assert!(matches!(came, Err(PairingError::OutOfTurn)), "{came:?}");
}
