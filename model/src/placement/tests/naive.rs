//! Ranks against a naive search: no radiator may be better than the first by the design's words.

use super::fixture::*;
use crate::placement::{RankedRadiator, plan};
use crate::state::Off;
use proptest::prelude::*;

/// One radiator as the naive search sees it.
#[derive(Debug, Clone)]
struct Fact {
    demand_w: Option<f64>,
    off: bool,
    avoided: bool,
    water: bool,
    name: &'static str,
    node: u64,
}

/// Whether `a` is better than `b`, spelled out from DESIGN.md without a rank.
fn better(a: &Fact, b: &Fact, here: u64, summer: bool) -> bool {
    let left = |f: &Fact| f.off || f.avoided;
    if left(a) != left(b) {
        return left(b);
    }
    let covered = |f: &Fact| f.demand_w.unwrap_or(0.0).clamp(0.0, 250.0).round();
    if covered(a) != covered(b) {
        return covered(a) > covered(b);
    }
    let wanted = |f: &Fact| f.demand_w.unwrap_or(0.0).max(0.0).round();
    if wanted(a) != wanted(b) {
        return wanted(a) > wanted(b);
    }
    if summer && a.water != b.water {
        return a.water;
    }
    let hurt = |f: &Fact| if f.water { 0.0 } else { (-f.demand_w.unwrap_or(0.0)).max(0.0).round() };
    let step = |w: f64| if summer { (w / 10.0).floor() } else { w };
    if step(hurt(a)) != step(hurt(b)) {
        return step(hurt(a)) < step(hurt(b));
    }
    if (a.node == here) != (b.node == here) {
        return a.node == here;
    }
    a.name < b.name
}

fn demand() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        (-4i32..8).prop_map(|w| Some(f64::from(w) * 50.0)),
        (-300.0..600.0).prop_map(Some)
    ]
}

proptest! {
    #[test]
    fn nobody_is_better_than_the_first(
        demands in prop::array::uniform3(demand()),
        off in prop::array::uniform3(any::<bool>()),
        avoided in prop::array::uniform3(any::<bool>()),
    ) {
        let mut home = Home::running_in(SALON);
        let mut facts = vec![];
        for (i, name) in ["salon", "bureau", "cave"].into_iter().enumerate() {
            let node = i as u64 + 1;
            home.state.members.get_mut(&node).unwrap().off =
                off[i].then_some(Off { until_ms: None, power_off: false });
            if avoided[i] {
                home.state.services.get_mut(&mail()).unwrap().avoid.insert(node, home.now_ms + 1000);
            }
            facts.push(Fact { demand_w: demands[i], off: off[i], avoided: avoided[i], water: i == 2, name, node });
        }
        home.demand_w = facts.iter().filter_map(|f| Some((f.node, f.demand_w?))).collect();
        home.observe();
        let known: Vec<f64> = facts.iter().filter(|f| !f.off).filter_map(|f| f.demand_w).collect();
        let summer = !known.is_empty() && known.iter().all(|w| *w <= 0.0);
        let ranks = plan(&home.state, &home.observed, home.now()).reasons.remove(&mail()).unwrap().ranks;
        let order: Vec<u64> = ranks.iter().map(|r: &RankedRadiator| r.node).collect();
        let fact = |node: u64| facts.iter().find(|f| f.node == node).unwrap();
        for (i, a) in order.iter().enumerate() {
            for b in &order[i + 1..] {
                prop_assert!(!better(fact(*b), fact(*a), SALON, summer), "{order:?} {facts:?}");
            }
        }
    }
}
