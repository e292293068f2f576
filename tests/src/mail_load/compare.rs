//! The whole state as IMAP shows it against what the clients know: what is lost, what came back, what is
//! there twice. Afterwards the model takes what it saw wherever both outcomes were open.

use super::model::{FLAGS, INBOX, Message, Model, Origin};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long an accepted message may be on its way through the queue, s: a first delivery that fails
/// is tried again after fifteen, and Postfix leaves a part of its own that ended badly alone for sixty.
const ON_ITS_WAY_S: u64 = 150;

/// A message in a mailbox, as seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its number.
    pub uid: u32,
    /// Its Message-ID.
    pub id: String,
    /// Its flags.
    pub flags: BTreeSet<String>,
}

/// A mailbox, as seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// Under which its numbers hold.
    pub validity: u32,
    /// What is in it.
    pub messages: Vec<Seen>,
}

/// All mailboxes by name.
pub type Listing = BTreeMap<String, Mailbox>;

/// Something that may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Acknowledged, and in none of the mailboxes that it must be in.
    Lost(String, String),
    /// A flag is not as it was acknowledged.
    Flag(String, String, &'static str),
    /// In a mailbox that it was acknowledged to have left.
    Returned(String, String),
    /// Nobody put it there.
    Stranger(String, String),
    /// All numbers of a mailbox became void.
    Validity(String, u32, u32),
    /// A number that belonged to another message.
    Number(String, u32, String),
}

impl Finding {
    /// The message that it is about, if any.
    pub fn message(&self) -> Option<&str> {
        match self {
            Finding::Lost(id, _) | Finding::Flag(id, _, _) | Finding::Returned(id, _) => Some(id),
            Finding::Stranger(id, _) | Finding::Number(_, _, id) => Some(id),
            Finding::Validity(..) => None,
        }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What may not be.
    pub findings: Vec<Finding>,
    /// Message-IDs that are there more often than they should be: allowed where an answer was lost.
    pub twice: BTreeSet<String>,
    /// Accepted by SMTP a moment ago, and not yet delivered.
    pub on_their_way: usize,
    /// How long the oldest of these has been.
    pub oldest: Duration,
    /// Copies in all.
    pub present: usize,
}

/// Compares; `now` is since the beginning.
pub fn compare(model: &Model, seen: &Listing, now: Duration) -> Comparison {
    let mut found = Comparison::default();
    let mut places: BTreeMap<&str, BTreeMap<&str, Vec<&Seen>>> = BTreeMap::new();
    for (name, mailbox) in seen {
        if let Some(before) = model.validity.get(name).filter(|v| **v != mailbox.validity) {
            found.findings.push(Finding::Validity(name.clone(), *before, mailbox.validity));
        }
        for message in &mailbox.messages {
            found.present += 1;
            places.entry(&message.id).or_default().entry(name).or_default().push(message);
            let owner = model.numbers.get(&(name.clone(), message.uid));
            if owner.is_some_and(|owner| *owner != message.id) {
                found.findings.push(Finding::Number(name.clone(), message.uid, message.id.clone()));
            }
            if !model.messages.contains_key(&message.id) && !model.gone.contains_key(&message.id) {
                found.findings.push(Finding::Stranger(message.id.clone(), name.clone()));
            }
        }
    }
    let nowhere = BTreeMap::new();
    for (id, message) in &model.messages {
        look(id, message, places.get(id.as_str()).unwrap_or(&nowhere), now, &mut found);
    }
    for (id, places) in &places {
        if let Some(message) = model.gone.get(*id) {
            look(id, message, places, now, &mut found);
        }
    }
    found
}

fn look(
    id: &str,
    message: &Message,
    places: &BTreeMap<&str, Vec<&Seen>>,
    now: Duration,
    found: &mut Comparison,
) {
    let mut absent: Vec<&str> = Vec::new();
    for (name, copy) in &message.copies {
        let there = places.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        if there.is_empty() && copy.must {
            absent.push(name);
        }
        let differs = |flag: &&&str| {
            let wanted = copy.flags.get(**flag).copied().flatten();
            wanted.is_some_and(|set| there.iter().all(|seen| seen.flags.contains(**flag) != set))
        };
        for flag in FLAGS.iter().filter(|flag| !there.is_empty() && differs(flag)) {
            found.findings.push(Finding::Flag(id.to_owned(), name.clone(), flag));
        }
    }
    if absent.is_empty() && places.is_empty() && message.somewhere {
        absent.push("any");
    }
    let young = message.origin == Origin::Sent && now < message.at + Duration::from_secs(ON_ITS_WAY_S);
    for name in absent {
        if young && name == INBOX && message.copies.get(INBOX).is_some_and(|copy| copy.uid.is_none()) {
            found.on_their_way += 1;
            found.oldest = found.oldest.max(now.saturating_sub(message.at));
        } else {
            found.findings.push(Finding::Lost(id.to_owned(), name.to_owned()));
        }
    }
    for name in places.keys().filter(|name| !message.copies.contains_key(**name)) {
        // A delivery whose answer was lost on the way is repeated by the queue.
        if message.origin == Origin::Sent && *name == INBOX {
            found.twice.insert(id.to_owned());
        } else {
            found.findings.push(Finding::Returned(id.to_owned(), (*name).to_owned()));
        }
    }
    let wanted = message.copies.values().filter(|copy| copy.must).count().max(1);
    if places.len() > wanted || places.values().any(|copies| copies.len() > 1) {
        found.twice.insert(id.to_owned());
    }
}

/// Takes what was seen: where both outcomes were open one of them is known now, and so are the numbers.
pub fn adopt(model: &mut Model, seen: &Listing, comparison: &Comparison) {
    let mut places: BTreeMap<&str, BTreeMap<&str, &Seen>> = BTreeMap::new();
    for (name, mailbox) in seen {
        model.validity.insert(name.clone(), mailbox.validity);
        for message in &mailbox.messages {
            model.numbers.insert((name.clone(), message.uid), message.id.clone());
            places.entry(&message.id).or_default().insert(name, message);
        }
    }
    let nowhere = BTreeMap::new();
    for (id, message) in &mut model.messages {
        let there = places.get(id.as_str()).unwrap_or(&nowhere);
        message.twice |= comparison.twice.contains(id);
        let undelivered = message.origin == Origin::Sent && there.is_empty();
        message.copies.retain(|name, copy| {
            let Some(seen) = there.get(name.as_str()) else {
                // What was sent may still come.
                return undelivered && copy.uid.is_none();
            };
            // Somebody wanted it expunged: it may go with the next who expunges there.
            copy.must = !seen.flags.contains("\\Deleted");
            copy.uid = Some(seen.uid);
            for flag in FLAGS {
                copy.flags.insert(flag, Some(seen.flags.contains(flag)));
            }
            true
        });
        message.somewhere = message.copies.values().any(|copy| copy.must);
    }
    let empty = model.messages.iter().filter(|(_, message)| message.copies.is_empty() && !message.busy);
    let gone: Vec<String> = empty.map(|(id, _)| id.clone()).collect();
    for id in gone {
        if let Some(message) = model.messages.remove(&id) {
            model.gone.insert(id, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Operation, Outcome};
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn mailbox(validity: u32, messages: &[(u32, &str, &[&str])]) -> Mailbox {
        let seen = |(uid, id, flags): &(u32, &str, &[&str])| Seen {
            uid: *uid,
            id: (*id).to_owned(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        };
        Mailbox { validity, messages: messages.iter().map(seen).collect() }
    }

    fn listing(inbox: &[(u32, &str, &[&str])], archive: &[(u32, &str, &[&str])]) -> Listing {
        [(INBOX.to_owned(), mailbox(7, inbox)), ("Archive".to_owned(), mailbox(8, archive))].into()
    }

    fn after(operations: &[(&str, Operation, Outcome)]) -> Model {
        let mut model = Model::default();
        for (id, done, outcome) in operations {
            model.record(id, done, *outcome, Some(1), Duration::from_secs(1));
        }
        model
    }

    fn appended(flags: &[&'static str]) -> Operation {
        Operation::Append(INBOX.into(), flags.iter().copied().collect())
    }

    fn to_archive() -> Operation {
        Operation::Move(INBOX.into(), "Archive".into())
    }

    use Outcome::{Acknowledged, Refused, Unknown};

    #[test]
    fn an_acknowledged_message_that_is_gone_is_lost() {
        let model = after(&[("a", appended(&[]), Acknowledged), ("b", Operation::Send, Acknowledged)]);
        let found = compare(&model, &listing(&[], &[]), NOW).findings;
        let lost = |id: &str| Finding::Lost(id.into(), INBOX.into());
        assert_eq!(found, [lost("a"), lost("b")]);
        let both = listing(&[(1, "a", &[]), (2, "b", &[])], &[]);
        assert_eq!(compare(&model, &both, NOW).findings, []);
    }

    #[test]
    fn what_was_accepted_a_moment_ago_may_be_on_its_way_but_only_into_the_inbox() {
        let model = after(&[("b", Operation::Send, Acknowledged)]);
        let found = compare(&model, &listing(&[], &[]), Duration::from_secs(30));
        assert_eq!((found.findings.len(), found.on_their_way), (0, 1));
        let model = after(&[("a", appended(&[]), Acknowledged)]);
        assert_eq!(compare(&model, &listing(&[], &[]), Duration::from_secs(2)).findings.len(), 1);
    }

    #[test]
    fn a_dropped_flag_is_told_and_so_is_one_that_nobody_set() {
        let store = Operation::Store(INBOX.into(), "\\Seen", true);
        let model = after(&[("a", appended(&["\\Flagged"]), Acknowledged), ("a", store, Acknowledged)]);
        let fine = listing(&[(1, "a", &["\\Flagged", "\\Seen", "\\Recent"])], &[]);
        assert_eq!(compare(&model, &fine, NOW), Comparison { present: 1, ..Comparison::default() });
        let flag = |flag| Finding::Flag("a".into(), INBOX.into(), flag);
        let dropped = listing(&[(1, "a", &["\\Flagged"])], &[]);
        assert_eq!(compare(&model, &dropped, NOW).findings, [flag("\\Seen")]);
        let added = listing(&[(1, "a", &["\\Flagged", "\\Seen", "\\Draft"])], &[]);
        assert_eq!(compare(&model, &added, NOW).findings, [flag("\\Draft")]);
    }

    #[test]
    fn a_flag_whose_answer_was_lost_may_be_either() {
        let store = Operation::Store(INBOX.into(), "\\Seen", true);
        let model = after(&[("a", appended(&[]), Acknowledged), ("a", store, Unknown)]);
        for flags in [&[][..], &["\\Seen"][..]] {
            assert_eq!(compare(&model, &listing(&[(1, "a", flags)], &[]), NOW).findings, []);
        }
    }

    #[test]
    fn an_expunged_message_that_is_back_is_told() {
        let gone = Operation::Expunge(INBOX.into());
        let model = after(&[("a", appended(&[]), Acknowledged), ("a", gone.clone(), Acknowledged)]);
        let back = listing(&[(1, "a", &[])], &[]);
        assert_eq!(compare(&model, &back, NOW).findings, [Finding::Returned("a".into(), INBOX.into())]);
        assert_eq!(compare(&model, &listing(&[], &[]), NOW).findings, []);
        // Whose answer was lost it may be either, until somebody has looked.
        let mut model = after(&[("a", appended(&[]), Acknowledged), ("a", gone, Unknown)]);
        for seen in [&back, &listing(&[], &[])] {
            assert_eq!(compare(&model, seen, NOW).findings, []);
        }
        let nowhere = listing(&[], &[]);
        let comparison = compare(&model, &nowhere, NOW);
        adopt(&mut model, &nowhere, &comparison);
        assert_eq!(compare(&model, &back, NOW).findings.len(), 1, "it had been seen to be gone");
    }

    #[test]
    fn a_moved_message_is_in_one_of_the_two_and_a_known_move_leaves_nothing_behind() {
        let both = listing(&[(1, "a", &[])], &[(1, "a", &[])]);
        let (here, there) = (listing(&[(1, "a", &[])], &[]), listing(&[], &[(1, "a", &[])]));
        for outcome in [Unknown, Refused] {
            let model = after(&[("a", appended(&[]), Acknowledged), ("a", to_archive(), outcome)]);
            assert_eq!(compare(&model, &here, NOW).findings, []);
            assert_eq!(compare(&model, &there, NOW).findings, []);
            let twice = compare(&model, &both, NOW);
            assert_eq!((twice.findings.len(), twice.twice.len()), (0, 1));
            let found = compare(&model, &listing(&[], &[]), NOW).findings;
            assert_eq!(found, [Finding::Lost("a".into(), "any".into())]);
        }
        let model = after(&[("a", appended(&[]), Acknowledged), ("a", to_archive(), Acknowledged)]);
        assert_eq!(compare(&model, &there, NOW).findings, []);
        let back = Finding::Returned("a".into(), INBOX.into());
        assert_eq!(compare(&model, &both, NOW).findings, std::slice::from_ref(&back));
        assert_eq!(compare(&model, &here, NOW).findings, [Finding::Lost("a".into(), "Archive".into()), back]);
    }

    #[test]
    fn a_copy_is_no_duplicate_and_neither_may_be_missing() {
        let copy = Operation::Copy(INBOX.into(), "Archive".into());
        let model = after(&[("a", appended(&[]), Acknowledged), ("a", copy, Acknowledged)]);
        let both = compare(&model, &listing(&[(1, "a", &[])], &[(1, "a", &[])]), NOW);
        assert_eq!((both.findings.len(), both.twice.len()), (0, 0));
        let found = compare(&model, &listing(&[(1, "a", &[])], &[]), NOW).findings;
        assert_eq!(found, [Finding::Lost("a".into(), "Archive".into())]);
    }

    #[test]
    fn a_repeated_delivery_is_a_duplicate_and_a_repeated_append_too() {
        let model = after(&[("a", appended(&[]), Acknowledged), ("b", Operation::Send, Acknowledged)]);
        let twice = listing(&[(1, "a", &[]), (2, "b", &[]), (3, "a", &[]), (4, "b", &[])], &[]);
        let found = compare(&model, &twice, NOW);
        assert_eq!(found.findings, []);
        assert_eq!(found.twice, ["a".to_owned(), "b".to_owned()].into());
        let model = after(&[
            ("b", Operation::Send, Acknowledged),
            ("b", Operation::Expunge(INBOX.into()), Acknowledged),
        ]);
        let again = compare(&model, &listing(&[(4, "b", &[])], &[]), NOW);
        assert_eq!((again.findings.len(), again.twice.len()), (0, 1));
        let elsewhere = listing(&[], &[(4, "b", &[])]);
        assert_eq!(compare(&model, &elsewhere, NOW).findings.len(), 1);
        let mut model = model;
        adopt(&mut model, &listing(&[], &[]), &Comparison::default());
        assert_eq!(
            compare(&model, &elsewhere, NOW).findings.len(),
            1,
            "also when it had been seen to be gone"
        );
    }

    #[test]
    fn numbers_keep_their_meaning_and_strangers_are_told() {
        let mut model = after(&[("a", appended(&[]), Acknowledged), ("b", appended(&[]), Acknowledged)]);
        let first = listing(&[(1, "a", &[]), (2, "b", &[])], &[]);
        let comparison = compare(&model, &first, NOW);
        adopt(&mut model, &first, &comparison);
        let swapped = listing(&[(2, "a", &[]), (3, "b", &[])], &[]);
        let found = compare(&model, &swapped, NOW).findings;
        assert_eq!(found, [Finding::Number(INBOX.into(), 2, "a".into())]);
        let mut void = first.clone();
        void.insert(INBOX.into(), mailbox(9, &[(1, "a", &[]), (2, "b", &[])]));
        assert_eq!(compare(&model, &void, NOW).findings, [Finding::Validity(INBOX.into(), 7, 9)]);
        let stranger = listing(&[(1, "a", &[]), (2, "b", &[]), (3, "c", &[])], &[]);
        let found = compare(&model, &stranger, NOW).findings;
        assert_eq!(found, [Finding::Stranger("c".into(), INBOX.into())]);
    }
}
