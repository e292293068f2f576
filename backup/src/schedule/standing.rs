//! How a service's backups stand, as `status` says it: by the last one that was proved, wherever that is.

use super::{DAY, HOUR, MINUTE, Pair, Passes, Record, Wish, said};
use crate::vault::Hours;
use std::collections::BTreeMap;
use thermidor_model::name::HomeName;

/// How a service's backups stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Age of the last proved backup, in ms; `None` if there is none.
    pub age: Option<u64>,
    /// Whether it is older than the rule lets it become.
    pub late: bool,
    /// Whether the last restore that was tried failed, or none was for too long.
    pub untried: bool,
    /// Friends that are failing.
    pub failing: Vec<HomeName>,
    /// Whether a person has to do something.
    pub person: bool,
    /// All of it in a few sentences.
    pub text: String,
}

/// How the backups of a service stand.
pub fn standing(wish: &Wish, records: &BTreeMap<Pair, Record>, now: u64) -> Standing {
    let of = |friend: &HomeName| records.get(&(wish.subject.clone(), friend.clone()));
    let proven = |friend: &HomeName| of(friend)?.proven.map(|at| now.saturating_sub(at));
    let best = wish.friends.iter().filter_map(|f| Some((proven(f)?, f))).min();
    let age = best.map(|(age, _)| age);
    let late = age.is_none_or(|age| age > allowed(wish));
    let mut text = match best {
        _ if wish.friends.is_empty() => format!("{}: no backup is wished", wish.subject),
        None => format!("{}: no backup has been proved yet", wish.subject),
        Some((age, friend)) => {
            let warning = if late { ", which is too long" } else { "" };
            format!("{}: the last proved backup is {} old, at {friend}'s{warning}", wish.subject, said(age))
        }
    };
    if let Some(asked) = best.and_then(|(_, friend)| of(friend)?.asked.as_ref()).filter(|a| a.ranges > 0) {
        text += &format!("; asked about random parts: {}", asked.in_words());
    }
    let (mut failing, mut person) = (Vec::new(), false);
    for friend in &wish.friends {
        let Some(failure) = of(friend).and_then(|record| record.failure.as_ref()) else { continue };
        failing.push(friend.clone());
        person |= failure.passes == Passes::ByAPerson;
        let span = said(now.saturating_sub(failure.since));
        text += &format!("; {friend} has failed for {span} ({} times): {}", failure.count, failure.why);
    }
    let late = late && !wish.friends.is_empty();
    let mut untried = false;
    for friend in &wish.friends {
        let Some((is_bad, words)) = of(friend).and_then(|record| tried(wish, friend, record, now)) else {
            continue;
        };
        untried |= is_bad;
        text += &format!("; {words}");
    }
    Standing { age, late, untried, failing, person, text }
}

/// What is to be said of the restores tried from a friend, and whether it is bad.
fn tried(wish: &Wish, friend: &HomeName, record: &Record, now: u64) -> Option<(bool, String)> {
    let age = |at: u64| said(now.saturating_sub(at));
    let failure = record.drill.as_ref().and_then(|drill| drill.failure.as_ref());
    if let Some(failure) = failure {
        let again = format!("`thermidor backup check {} --from {friend} --drill` tries again", wish.subject);
        let words = format!(
            "the last restore tried from {friend} failed {} ago ({} times): {}; {again}",
            age(failure.at),
            failure.count,
            failure.why
        );
        return Some((true, words));
    }
    match record.drilled {
        // Before there is a proved backup there is nothing to try.
        None if wish.drill_every == 0 || record.proven.is_none() => None,
        None => Some((true, format!("no restore from {friend} has been tried yet"))),
        Some(at) => {
            let allowed = wish.drill_every.saturating_mul(2).saturating_add(HOUR);
            let is_old = wish.drill_every > 0 && now.saturating_sub(at) > allowed;
            let warning = if is_old { ", which is too long" } else { "" };
            Some((is_old, format!("a restore from {friend} was last tried {} ago{warning}", age(at))))
        }
    }
}

/// How old a proved backup may become, in ms: one may fail, and none begins while the windows are shut.
fn allowed(wish: &Wish) -> u64 {
    let hours = Hours { windows: wish.windows.clone(), ..Hours::default() };
    let shut = (0..(DAY / MINUTE) as u16).filter_map(|minute| hours.open(minute).err()).max().unwrap_or(0);
    wish.every.saturating_mul(2).saturating_add(u64::from(shut) * MINUTE).saturating_add(HOUR)
}
