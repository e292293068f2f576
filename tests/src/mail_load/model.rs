//! What the clients know of every message: in which mailboxes it must be, may be or must not be, and with
//! which flags. An operation whose answer was lost leaves both outcomes open until somebody looks.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The mailbox that delivered messages come to.
pub const INBOX: &str = "INBOX";
/// The flags that are set and taken away.
pub const FLAGS: [&str; 4] = ["\\Answered", "\\Draft", "\\Flagged", "\\Seen"];
/// How much of a message's past is kept for the case that something is wrong with it.
const PAST_MAX: usize = 40;

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The server said that it is done.
    Acknowledged,
    /// The server said that it is not done; it may have been, in part.
    Refused,
    /// No answer came: done or not.
    Unknown,
}

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By SMTP: it comes at least once.
    Sent,
    /// By APPEND: it comes once.
    Appended,
}

/// A copy of a message in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// It must be there; else it may be.
    pub must: bool,
    /// Whether each flag is set; `None`: either.
    pub flags: BTreeMap<&'static str, Option<bool>>,
    /// Its number there, once known.
    pub uid: Option<u32>,
}

impl Copy {
    fn new(must: bool, set: &BTreeSet<&'static str>) -> Self {
        Self { must, flags: FLAGS.map(|flag| (flag, Some(set.contains(flag)))).into(), uid: None }
    }
}

/// What is known of a message.
#[derive(Debug, Clone)]
pub struct Message {
    /// How it came.
    pub origin: Origin,
    /// When the last operation on it ended, since the beginning.
    pub at: Duration,
    /// By mailbox; it must not be in any other.
    pub copies: BTreeMap<String, Copy>,
    /// It must be in one of them at least.
    pub somewhere: bool,
    /// A client is at work on it.
    pub busy: bool,
    /// Found more often than it should be, and counted once.
    pub twice: bool,
    /// What was done with it.
    pub past: Vec<String>,
}

impl Message {
    /// The one mailbox that it must be in, if everything is known of it.
    pub fn settled(&self) -> Option<(&str, &Copy)> {
        let (mailbox, copy) = self.copies.first_key_value()?;
        let known = copy.must && copy.flags.values().all(Option::is_some);
        (self.copies.len() == 1 && known && !self.twice).then_some((mailbox.as_str(), copy))
    }
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A message comes by SMTP.
    Send,
    /// A message is put into a mailbox, with flags.
    Append(String, BTreeSet<&'static str>),
    /// A flag is set or taken away.
    Store(String, &'static str, bool),
    /// From one mailbox to another.
    Move(String, String),
    /// Beside the one that is in the first.
    Copy(String, String),
    /// Taken away for good.
    Expunge(String),
}

/// What all clients know.
#[derive(Debug, Default)]
pub struct Model {
    /// By Message-ID.
    pub messages: BTreeMap<String, Message>,
    /// Those that were seen to be in no mailbox any more, and must be in none again.
    pub gone: BTreeMap<String, Message>,
    /// The UIDVALIDITY of each mailbox, once seen.
    pub validity: BTreeMap<String, u32>,
    /// Whose each number in a mailbox was seen to be.
    pub numbers: BTreeMap<(String, u32), String>,
}

impl Model {
    /// Takes an outcome; `uid` is the number that the server gave the message where it now is.
    pub fn record(&mut self, id: &str, done: &Operation, outcome: Outcome, uid: Option<u32>, at: Duration) {
        let sure = outcome == Outcome::Acknowledged;
        let message = self.messages.entry(id.to_owned()).or_insert_with(|| Message {
            origin: if *done == Operation::Send { Origin::Sent } else { Origin::Appended },
            at,
            copies: BTreeMap::new(),
            somewhere: false,
            busy: false,
            twice: false,
            past: Vec::new(),
        });
        message.at = at;
        message.busy = false;
        if message.past.len() == PAST_MAX {
            message.past.remove(0);
        }
        let told = format!("{:.3} s: {done:?} {outcome:?} {uid:?}", at.as_secs_f64());
        message.past.push(told);
        match done {
            Operation::Send => {
                message.copies.insert(INBOX.to_owned(), Copy::new(sure, &BTreeSet::new()));
                message.somewhere = sure;
            }
            Operation::Append(to, flags) => {
                message.copies.insert(to.clone(), Copy { uid, ..Copy::new(sure, flags) });
                message.somewhere = sure;
            }
            Operation::Store(mailbox, flag, set) => {
                if let Some(copy) = message.copies.get_mut(mailbox) {
                    let before = copy.flags.insert(*flag, Some(*set));
                    if !sure && before != Some(Some(*set)) {
                        copy.flags.insert(*flag, None);
                    }
                }
            }
            Operation::Move(from, to) | Operation::Copy(from, to) => {
                let Some(source) = message.copies.get(from).cloned() else { return };
                message.copies.insert(to.clone(), Copy { must: sure, uid, flags: source.flags });
                if let (Operation::Move(..), Some(source)) = (done, message.copies.get_mut(from)) {
                    source.must = false;
                    if sure {
                        message.copies.remove(from);
                    }
                }
            }
            Operation::Expunge(mailbox) => {
                if sure {
                    message.copies.remove(mailbox);
                } else if let Some(copy) = message.copies.get_mut(mailbox) {
                    copy.must = false;
                }
                message.somewhere = message.copies.values().any(|copy| copy.must);
            }
        }
    }

    /// How many messages must be somewhere.
    pub fn population(&self) -> usize {
        self.messages.values().filter(|message| message.somewhere).count()
    }

    /// The acknowledged history of a message, for a report.
    pub fn past(&self, id: &str) -> &[String] {
        self.messages.get(id).or_else(|| self.gone.get(id)).map_or(&[], |message| &message.past)
    }
}
