//! The last things that a home acknowledged before a plug was pulled: nothing that came later made them
//! durable by the way.

use super::board::Board;
use super::clients::{PASSWORD, Step, USER, carry_out};
use super::compare::{Finding, compare};
use super::faults::{Fault, Whose};
use super::home::MailHome;
use super::imap::Imap;
use super::model::{INBOX, Operation};
use anyhow::{Context, Result, anyhow, ensure};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longer than a file system takes to write by itself what nobody synced.
const SETTLE: Duration = Duration::from_secs(6);
/// How long the plug stays pulled, ms.
const UNPLUGGED_MS: u64 = 1_000;

/// Sets a flag, moves, expunges, each as the last thing before the active loses its power and its page
/// cache; returns what is not as it was acknowledged.
pub fn last_words(test: &str) -> Result<Vec<Finding>> {
    let home = MailHome::form(test)?;
    let board = Board::default();
    let inbox = || INBOX.to_owned();
    let last = [
        ("stored", Operation::Store(inbox(), "\\Seen", true)),
        ("moved", Operation::Move(inbox(), "Archive".into())),
        ("expunged", Operation::Expunge(inbox())),
    ];
    let mut found = Vec::new();
    for (name, operation) in last {
        let id = format!("{name}@maison.example");
        act(&home, &board, &id, Operation::Append(inbox(), BTreeSet::from(["\\Flagged"])))?;
        std::thread::sleep(SETTLE);
        act(&home, &board, &id, operation)?;
        let whom = home.strike(Fault::Unplug(Whose::Active, UNPLUGGED_MS))?;
        home.healed().with_context(|| format!("{whom} was unplugged"))?;
        let seen = home.list()?;
        found = compare(&board.lock().model, &seen, board.now()).findings;
        println!("{name}, then {whom} unplugged: {found:?}");
    }
    Ok(found)
}

/// Does something that must be acknowledged.
fn act(home: &MailHome, board: &Board, id: &str, operation: Operation) -> Result<()> {
    let doors = home.doors();
    let uid = {
        let shared = board.lock();
        let copy = shared.model.messages.get(id).and_then(|message| message.copies.get(INBOX));
        copy.and_then(|copy| copy.uid)
    };
    let done = home.lab().as_client(|| {
        let mut session = Imap::open(doors.imap, USER, PASSWORD)?;
        Ok::<_, super::imap::NotDone>(carry_out(
            board,
            &mut session,
            Step::Do(id.to_owned(), uid, operation),
            0,
        ))
    })?;
    ensure!(done.map_err(|why| anyhow!("{id}: {why:?}"))?, "{id}: the session was lost");
    let account = &board.lock().account;
    let open = account.operations.values().map(|ends| ends[1] + ends[2]).sum::<u64>();
    ensure!(open == 0, "{id} was not acknowledged");
    Ok(())
}
