//! When which service is backed up to which friend, proved and drilled: pure decisions over what is known of each pair.
//! Times are in ms since the Unix epoch and come in as arguments.

mod standing;
#[cfg(test)]
mod tests;

pub use standing::{Standing, standing};
pub use thermidor_model::backup::{Failure, Passes, Record, Subject};

use crate::restic::ResticError;
use crate::vault::{Hours, Window};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use thermidor_model::backup::RETRY_MAX_MS;
use thermidor_model::name::HomeName;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The wait after a failure that a person has to see to.
const PERSON: u64 = 6 * HOUR;
/// The first wait after a restore that was tried and failed: all of it is brought anew each time; doubles too.
const DRILL_BACK_OFF: u64 = 30 * MINUTE;
/// How often a vault is asked about random ranges of what it keeps: that costs a few hundred bytes a range.
const ASK_EVERY: u64 = 6 * HOUR;
/// Backups come earlier by up to this part of `every`, so that not all begin at once; never later.
const JITTER_PART: u64 = 10;
/// And by no more than this.
const JITTER_MAX: u64 = 30 * MINUTE;

/// What was asked for a service, or for the home itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What is backed up.
    pub subject: Subject,
    /// Where to.
    pub friends: Vec<HomeName>,
    /// How often, in ms.
    pub every: u64,
    /// At which times of the day backups may begin; none at all is the whole day.
    pub windows: Vec<Window>,
    /// How often a restore is tried, in ms; 0 is never.
    pub drill_every: u64,
    /// The first wait after a failure that passes by itself, in ms; doubles each time. After a start or a wake the network is
    /// given as long, and things their turn.
    pub retry: u64,
}

/// A service, or the home itself, at a friend's.
pub type Pair = (Subject, HomeName);

/// What can be done for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Make a snapshot.
    Backup,
    /// Read a part back.
    Prove,
    /// Restore to a place aside.
    Drill,
    /// Ask the vault about random ranges of packs of any age.
    Ask,
}

/// What is to be done, when, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Of what.
    pub subject: Subject,
    /// The friend.
    pub friend: HomeName,
    /// What.
    pub task: Task,
    /// When; now if it has passed.
    pub at: u64,
    /// In one sentence.
    pub why: String,
}

/// When to try again after a failure.
fn again(wish: &Wish, failure: &Failure) -> u64 {
    let wait = match failure.passes {
        Passes::ByItself => {
            wish.retry.saturating_mul(1 << failure.count.saturating_sub(1).min(16)).min(RETRY_MAX_MS)
        }
        Passes::ByAPerson => PERSON,
    };
    failure.at.saturating_add(wait)
}

/// How a failure of restic's passes.
pub fn passes(error: &ResticError) -> Passes {
    use ResticError::*;
    match error {
        Unreachable(_) | NotNow | Locked(_) | Stuck(_) | TooLong(_) | Killed(_) | Failed(_) => {
            Passes::ByItself
        }
        _ => Passes::ByAPerson,
    }
}

/// All that can be done for all services, what is due first and the most overdue first of that. Pairs in `running` are
/// left alone; `awake` is when this radiator started or woke.
pub fn decide(
    wishes: &[Wish],
    records: &BTreeMap<Pair, Record>,
    running: &BTreeSet<Pair>,
    awake: u64,
    now: u64,
    zone: &TimeZone,
) -> Vec<Decision> {
    let mut all: Vec<(u64, Decision)> = Vec::new();
    for wish in wishes {
        for friend in &wish.friends {
            let pair = (wish.subject.clone(), friend.clone());
            if running.contains(&pair) {
                continue;
            }
            let record = records.get(&pair).cloned().unwrap_or_default();
            let (task, due, why) = due(wish, friend, &record, now);
            let ready = ready(wish, &record, task, due, awake, now, zone);
            let overdue = now.saturating_sub(due).saturating_mul(1000) / wish.every.max(1);
            let (subject, friend) = pair;
            all.push((overdue, Decision { subject, friend, task, at: ready, why }));
        }
    }
    all.sort_by_key(|(overdue, decision)| {
        let waits = decision.at.max(now);
        (waits, std::cmp::Reverse(*overdue), decision.task, decision.subject.clone(), decision.friend.clone())
    });
    all.into_iter().map(|(_, decision)| decision).collect()
}

/// What comes next for a pair, when by the rule alone, and why.
fn due(wish: &Wish, friend: &HomeName, record: &Record, now: u64) -> (Task, u64, String) {
    let subject = &wish.subject;
    // A clock that was set back leaves times in the future: they count as now.
    let Some(made) = record.made.map(|made| made.min(now)) else {
        return (Task::Backup, 0, format!("{subject} has never been backed up to {friend}"));
    };
    let backup = made.saturating_add(wish.every).saturating_sub(jitter(wish, friend, made));
    if backup <= now {
        let age = said(now - made);
        return (Task::Backup, backup, format!("{subject} was last backed up to {friend} {age} ago"));
    }
    if record.proven.is_none_or(|proven| proven < made) {
        return (Task::Prove, made, format!("the last backup of {subject} at {friend}'s is not proved yet"));
    }
    if wish.drill_every > 0 {
        let drill = drill_due(wish, record, now);
        if drill <= now {
            return (Task::Drill, drill, format!("it is time to try a restore of {subject} from {friend}"));
        }
    }
    if record.head.is_some() {
        let ask = record.asked.as_ref().map_or(0, |asked| asked.at.min(now).saturating_add(ASK_EVERY));
        if ask <= now {
            return (
                Task::Ask,
                ask,
                format!("it is time to ask {friend} about some of what {subject} has left there"),
            );
        }
    }
    (Task::Backup, backup, format!("{subject} is backed up to {friend} every {}", said(wish.every)))
}

/// When a restore is to be tried next: so long after the last that went well, and some time after one that failed.
fn drill_due(wish: &Wish, record: &Record, now: u64) -> u64 {
    let regular = record.drilled.map_or(0, |drilled| drilled.min(now).saturating_add(wish.drill_every));
    match record.drill.as_ref().and_then(|drill| drill.failure.as_ref()) {
        Some(failure) if failure.at <= now => {
            let wait = DRILL_BACK_OFF.saturating_mul(1 << failure.count.saturating_sub(1).min(16)).min(DAY);
            regular.max(failure.at.saturating_add(wait))
        }
        _ => regular,
    }
}

/// When what is due can be begun: after a failure's wait, some time after waking, and within the windows.
fn ready(wish: &Wish, record: &Record, task: Task, due: u64, awake: u64, now: u64, zone: &TimeZone) -> u64 {
    let mut ready = due.max(now);
    if let Some(failure) = &record.failure {
        // A failure from the future: the clock was set back.
        ready = ready.max(if failure.at > now { now } else { again(wish, failure) });
    }
    if awake <= now {
        ready = ready.max(awake.saturating_add(wish.retry));
    }
    // Reading is welcome at any hour.
    if task == Task::Backup {
        let hours = Hours { windows: wish.windows.clone(), ..Hours::default() };
        if let Err(minutes) = hours.open(minute(ready, zone)) {
            let begun = ready - ready % MINUTE;
            ready = begun + u64::from(minutes) * MINUTE;
        }
    }
    if ready <= now { due } else { ready }
}

fn minute(time: u64, zone: &TimeZone) -> u16 {
    let time = i64::try_from(time).unwrap_or(i64::MAX);
    let Ok(time) = Timestamp::from_millisecond(time) else { return 0 };
    let time = time.to_zoned(zone.clone());
    time.hour() as u16 * 60 + time.minute() as u16
}

/// How much earlier this backup comes: always the same for one pair and one backup before.
fn jitter(wish: &Wish, friend: &HomeName, made: u64) -> u64 {
    let most = (wish.every / JITTER_PART).min(JITTER_MAX);
    let text = format!("{}\n{friend}\n{made}", wish.subject);
    let hash = blake3::hash(text.as_bytes());
    let mut drawn = [0; 8];
    drawn.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(drawn) % (most + 1)
}

/// A span of time in words.
fn said(ms: u64) -> String {
    match ms {
        0..MINUTE => "less than a minute".into(),
        MINUTE..HOUR => format!("{} min", ms / MINUTE),
        HOUR..172_800_000 => format!("{} h", ms / HOUR),
        _ => format!("{} days", ms / DAY),
    }
}
