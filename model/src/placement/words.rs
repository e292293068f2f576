//! The sentences that people read.

use super::rank::worth_on;
use super::view::View;
use super::{RankedRadiator, Reason};
use crate::name::{NodeId, ServiceName};

/// A span for people.
pub(super) fn span(ms: u64) -> String {
    match ms / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// What a radiator's heat is worth to a service, in words.
pub(super) fn heat(view: &View<'_>, service: &ServiceName, node: NodeId) -> String {
    match worth_on(view, service, node).map(|w| w.round() as i64) {
        None => "its heat is not known".into(),
        Some(w) if w < 0 => format!("is too warm by {} W", -w),
        Some(0) => "wants no heat".into(),
        Some(w) => format!("wants {w} W"),
    }
}

/// A radiator's rank in words.
pub(super) fn standing(view: &View<'_>, service: &ServiceName, node: NodeId) -> String {
    let mut words = heat(view, service, node);
    let member = view.state.members.get(&node);
    let present = view.state.services.get(service);
    if member.is_some_and(|m| m.off.is_some()) {
        words.push_str(", is off");
    }
    if let Some(why) = view.broken_volume(service, node) {
        words.push_str(&format!(", {why}"));
    }
    if let Some(until) = present.and_then(|s| s.avoid.get(&node)).filter(|u| **u > view.now.unix_ms) {
        words.push_str(&format!(
            ", {service} kept ending there: kept away for {}",
            span(until - view.now.unix_ms)
        ));
    }
    if present.is_some_and(|s| s.active == Some(node)) {
        words.push_str(", has it now");
    }
    words
}

/// How much more a radiator wants than another, in words: "bureau wants 40 W more".
pub(super) fn more(view: &View<'_>, service: &ServiceName, node: NodeId, gain_w: f64) -> String {
    let name = view.name(node);
    let watts = gain_w.round() as i64;
    match worth_on(view, service, node) {
        Some(w) if w < 0.0 => format!("{name} is {watts} W less too warm"),
        _ => format!("{name} wants {watts} W more"),
    }
}

/// "bureau: image is being built; cave: not in sync for mail".
pub(super) fn obstacles(ranks: &[RankedRadiator], but: Option<NodeId>) -> String {
    let each = ranks.iter().filter(|r| r.rank.is_none() && Some(r.node) != but);
    let text: Vec<String> = each.map(|r| format!("{}: {}", r.name, r.words)).collect();
    if text.is_empty() { "there is no other radiator".into() } else { text.join("; ") }
}

/// Why a service that is nowhere stays so; says who holds the data if they are all missing.
pub(super) fn stays_down(view: &View<'_>, service: &ServiceName, ranks: Vec<RankedRadiator>) -> Reason {
    let mut sentence = format!("{service} stays down: {}", obstacles(&ranks, None));
    for (volume, v) in view.state.volumes_of(service) {
        if !v.in_sync.is_empty() && !v.in_sync.iter().any(|n| view.heard(*n)) {
            let who: Vec<String> = v.in_sync.iter().map(|n| view.name(*n)).collect();
            sentence.push_str(&format!(
                "; {} {} all that was acknowledged of {volume}: bring {} back, or see `thermidor volume promote`",
                who.join(", "),
                if who.len() == 1 { "alone holds" } else { "hold" },
                if who.len() == 1 { "it" } else { "one of them" },
            ));
        }
    }
    Reason { sentence, ranks }
}
