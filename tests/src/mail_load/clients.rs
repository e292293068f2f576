//! The clients: each goes on by itself through the home's address, one message at a time, and writes down
//! what was answered. None repeats anything: whatever is there twice, the home has made two of it.

use super::board::Board;
use super::imap::{Imap, NotDone};
use super::model::{FLAGS, INBOX, Operation, Outcome};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use thermidor_supervisor::demo::client::deliver::{Session as _, Trouble};
use thermidor_supervisor::demo::client::smtp::{Smtp, message_id};

/// Who reads the mail.
pub const USER: &str = "marie@maison.example";
/// Of a home that lives for minutes in a namespace without a way out.
pub const PASSWORD: &str = "lavande-et-thym-7";
/// Mailboxes that all sessions share, beside the inbox.
const SHARED: [&str; 2] = ["Archive", "Letters"];
/// How the Message-ID of a submitted message begins.
pub const SENT: &str = "sent-";
/// Sessions at once.
pub const SESSIONS: u64 = 3;
/// How many messages there are to be: below there are more appended, above more expunged.
const POPULATION: usize = 400;
/// Pause between two operations of a session.
const PAUSE: Duration = Duration::from_millis(25);
/// Longest pause between two submissions, ms: what is synced for one makes durable what others did before,
/// so there must be moments without any.
const SUBMIT_PAUSE_MAX_MS: u64 = 500;
/// Pause before a session is opened anew.
const RETRY: Duration = Duration::from_millis(100);

/// Where the services are reached.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    /// SMTP.
    pub smtp: SocketAddr,
    /// IMAP over TLS.
    pub imap: SocketAddr,
}

/// The mailbox that one session alone works in.
fn desk(number: u64) -> String {
    format!("Desk{number}")
}

/// All mailboxes but the inbox.
pub fn mailboxes() -> Vec<String> {
    SHARED.iter().map(|name| (*name).to_owned()).chain((0..SESSIONS).map(desk)).collect()
}

/// Submits mail until all is over.
pub fn submit(board: &Board, doors: Doors, number: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_sub(number + 1));
    let mut session: Option<Smtp> = None;
    let to = [USER.to_owned()];
    for count in 0.. {
        std::thread::sleep(Duration::from_millis(rng.random_range(0..SUBMIT_PAUSE_MAX_MS)));
        if !board.begin() {
            return;
        }
        let open = || Smtp::open(doors.smtp, "sender@elsewhere.example", &to);
        match session.take().map_or_else(open, Ok) {
            Err(_) => {
                board.lock().account.not_opened += 1;
                std::thread::sleep(RETRY);
            }
            Ok(mut opened) => {
                let name = format!("{SENT}{number}-{count}");
                let outcome = match opened.put(&name) {
                    Ok(()) => {
                        session = Some(opened);
                        Outcome::Acknowledged
                    }
                    Err(Trouble::Refused(why)) => {
                        board.lock().account.refused(&why);
                        Outcome::Refused
                    }
                    Err(Trouble::Again(_)) => Outcome::Unknown,
                };
                board.record(&message_id(&name), &Operation::Send, outcome, None);
            }
        }
        board.end();
    }
}

/// What a session does next.
#[derive(Debug)]
pub enum Step {
    /// Looks up the number of a delivered message.
    Find(String),
    /// Changes something: the message, its number in the mailbox that it is in, what.
    Do(String, Option<u32>, Operation),
}

/// Chooses, and takes the message for itself.
fn choose(board: &Board, rng: &mut StdRng, number: u64, count: u64) -> Step {
    let mut shared = board.lock();
    let few = shared.model.population() < POPULATION;
    let homes: Vec<String> =
        [INBOX, SHARED[0], SHARED[1]].iter().map(|name| (*name).to_owned()).chain([desk(number)]).collect();
    let dice = rng.random_range(0..100);
    let append = |rng: &mut StdRng| {
        let to = homes[rng.random_range(0..homes.len())].clone();
        let flags: BTreeSet<&'static str> = FLAGS.into_iter().filter(|_| rng.random_bool(0.3)).collect();
        Step::Do(format!("appended-{number}-{count}@maison.example"), None, Operation::Append(to, flags))
    };
    if dice < if few { 45 } else { 10 } {
        return append(rng);
    }
    let free = shared.model.messages.iter().filter(|(_, message)| !message.busy);
    let mine = free.filter_map(|(id, message)| {
        let (mailbox, copy) = message.settled()?;
        homes.iter().any(|home| home == mailbox).then_some((id, mailbox, copy))
    });
    let candidates: Vec<_> = mine.collect();
    let Some((id, mailbox, copy)) = candidates.choose(rng) else { return append(rng) };
    let (id, from) = ((*id).clone(), (*mailbox).to_owned());
    let step = match copy.uid {
        None => Step::Find(id.clone()),
        Some(uid) => {
            let elsewhere: Vec<&String> = homes.iter().filter(|home| **home != from).collect();
            let to = elsewhere[rng.random_range(0..elsewhere.len())].clone();
            let flag = FLAGS[rng.random_range(0..FLAGS.len())];
            let operation = match rng.random_range(0..100) {
                0..40 => Operation::Store(from, flag, copy.flags.get(flag) != Some(&Some(true))),
                40..60 => Operation::Move(from, to),
                60..70 => Operation::Copy(from, to),
                70..85 if few => Operation::Store(from, flag, copy.flags.get(flag) != Some(&Some(true))),
                _ => Operation::Expunge(from),
            };
            Step::Do(id.clone(), Some(uid), operation)
        }
    };
    if let Some(message) = shared.model.messages.get_mut(&id) {
        message.busy = true;
    }
    step
}

/// Works in the mailboxes until all is over.
pub fn work(board: &Board, doors: Doors, number: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number));
    let mut session: Option<Imap> = None;
    for count in 0.. {
        std::thread::sleep(PAUSE);
        if !board.begin() {
            return;
        }
        let open = || Imap::open(doors.imap, USER, PASSWORD);
        match session.take().map_or_else(open, Ok) {
            Err(_) => {
                board.lock().account.not_opened += 1;
                std::thread::sleep(RETRY);
            }
            Ok(mut opened) => {
                let step = choose(board, &mut rng, number, count);
                if carry_out(board, &mut opened, step, number) {
                    session = Some(opened);
                }
            }
        }
        board.end();
    }
}

/// Does a step and writes down what became of it; false if the session is lost.
pub fn carry_out(board: &Board, session: &mut Imap, step: Step, number: u64) -> bool {
    let (id, uid, operation) = match step {
        Step::Find(id) => return find(board, session, &id),
        Step::Do(id, uid, operation) => (id, uid.unwrap_or_default(), operation),
    };
    let done = change(session, &id, uid, &operation, number);
    if done.is_ok()
        && let Operation::Copy(from, _) = &operation
    {
        // The old way of moving: the copy first, then away with the other.
        let (outcome, uid_there) = note(board, &done);
        board.record(&id, &operation, outcome, uid_there);
        if outcome == Outcome::Acknowledged {
            let away = Operation::Expunge(from.clone());
            let done = change(session, &id, uid, &away, number);
            board.record(&id, &away, note(board, &done).0, None);
            return !matches!(done, Err(NotDone::Lost(_)));
        }
        return true;
    }
    let (outcome, uid) = note(board, &done);
    board.record(&id, &operation, outcome, uid);
    !matches!(done, Err(NotDone::Lost(_)))
}

/// Looks up the number of a delivered message.
fn find(board: &Board, session: &mut Imap, id: &str) -> bool {
    let found = session.select(INBOX).and_then(|()| session.find(id));
    let mut shared = board.lock();
    if let Some(message) = shared.model.messages.get_mut(id) {
        message.busy = false;
        if let (Ok(Some(uid)), Some(copy)) = (&found, message.copies.get_mut(INBOX)) {
            copy.uid = Some(*uid);
        }
    }
    found.is_ok()
}

/// What the server says to an operation: the number that the message has now, or nothing if it did not
/// know the message by the old one.
fn change(
    session: &mut Imap,
    id: &str,
    uid: u32,
    operation: &Operation,
    number: u64,
) -> Result<Option<Option<u32>>, NotDone> {
    match operation {
        Operation::Send => Ok(None),
        Operation::Append(to, flags) => session.append(to, flags, id).map(Some),
        Operation::Store(at, flag, set) => {
            session.select(at)?;
            Ok(session.store(uid, flag, *set)?.then_some(None))
        }
        Operation::Move(from, to) | Operation::Copy(from, to) => {
            session.select(from)?;
            let verb = if matches!(operation, Operation::Move(..)) { "MOVE" } else { "COPY" };
            Ok(session.transfer(verb, uid, to)?.map(Some))
        }
        Operation::Expunge(from) => {
            session.select(from)?;
            if !session.store(uid, "\\Deleted", true)? {
                return Ok(None);
            }
            // Where nobody else works the old command does the same.
            let alone = *from == desk(number);
            session.ask(&if alone { "EXPUNGE".to_owned() } else { format!("UID EXPUNGE {uid}") })?;
            Ok(Some(None))
        }
    }
}

/// The outcome, and what there is to note of it beside the model.
fn note(board: &Board, done: &Result<Option<Option<u32>>, NotDone>) -> (Outcome, Option<u32>) {
    match done {
        Ok(Some(uid)) => (Outcome::Acknowledged, *uid),
        Ok(None) => {
            board.lock().account.numbers_void += 1;
            (Outcome::Unknown, None)
        }
        Err(NotDone::Refused(why)) => {
            board.lock().account.refused(why);
            (Outcome::Refused, None)
        }
        Err(NotDone::Lost(_)) => (Outcome::Unknown, None),
    }
}
