//! A home in a loop: plan, apply, obey, observe, over seasons and losses.

use super::fixture::*;
use crate::command::Command;
use crate::observe::Readiness;
use crate::state::Off;

#[test]
fn a_home_forms_and_the_first_start_is_in_the_coldest_room() {
    let mut home = Home::declared(|_| {});
    home.demand_w = [(SALON, 300.0), (BUREAU, 400.0), (CAVE, 20.0)].into();
    home.run(3_000);
    assert_eq!(home.active(), Some(BUREAU), "both want more than they can give: the colder one");
    let volume = &home.state.volumes[&maildir()];
    assert_eq!((volume.replicas.len(), volume.in_sync.len()), (3, 3));
    assert_eq!(home.state.services[&mail()].epoch, 1, "started once");
    let events = home.state.events.len();
    home.run(60_000);
    assert_eq!(home.state.events.len(), events, "an idle home decides nothing");
    assert_eq!(home.state.services[&mail()].epoch, 1);
}

#[test]
fn a_service_follows_the_heat_there_and_back_and_not_more() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 0.0), (BUREAU, 200.0), (CAVE, 0.0)].into();
    home.run(1_000);
    assert_eq!(home.active(), Some(BUREAU));
    assert_eq!(home.state.services[&mail()].moved_ms.len(), 1, "heat's moves are counted");
    home.demand_w = [(SALON, 200.0), (BUREAU, 0.0), (CAVE, 0.0)].into();
    home.run(60_000);
    assert_eq!(home.active(), Some(BUREAU), "minimum stay");
    home.now_ms += 1_800_000;
    home.run(1_000);
    assert_eq!(home.active(), Some(SALON));
    assert_eq!(home.state.services[&mail()].epoch, 3);
}

#[test]
fn the_plug_is_pulled_and_put_back() {
    let mut home = Home::running_in(SALON);
    home.run(500);
    home.alive.remove(&SALON);
    home.observed.leader = BUREAU;
    let pulled = home.now_ms;
    while home.active() == Some(SALON) {
        home.tick();
        assert!(home.now_ms < pulled + 2_000, "{}", home.sentence());
    }
    assert!(home.now_ms >= pulled + 900, "not before the lease has ended");
    assert_eq!(home.active(), Some(BUREAU));
    home.run(2_000);
    assert_eq!(home.state.volumes[&maildir()].in_sync.len(), 2);
    home.alive.insert(SALON);
    home.run(2_000);
    assert_eq!(home.state.volumes[&maildir()].in_sync.len(), 3);
    assert_eq!(
        (home.active(), home.state.services[&mail()].epoch),
        (Some(BUREAU), 2),
        "it does not rush back"
    );
}

#[test]
fn everything_loses_power_and_comes_back() {
    let mut home = Home::running_in(SALON);
    home.alive.clear();
    home.now_ms += 60_000;
    home.observed.leader = BUREAU;
    home.observed.reports.clear();
    home.observed.silent_ms.clear();
    home.observed.leading_ms = 0;
    home.observe();
    home.alive = [SALON, BUREAU, CAVE].into();
    home.run(5_000);
    assert!(home.active().is_some());
    assert!(home.state.services[&mail()].epoch <= 2);
}

#[test]
fn off_moves_the_service_away_and_failover_still_works_then() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Off { node: SALON, off: Off { until_ms: None, power_off: false } });
    home.run(1_000);
    assert_eq!(home.active(), Some(BUREAU));
    assert!(home.state.services[&mail()].moved_ms.is_empty());
    home.run(3_000);
    assert_eq!(home.state.address.holder, Some(BUREAU), "the address left it too");
    home.alive.remove(&BUREAU);
    home.observed.leader = CAVE;
    home.run(2_000);
    assert_eq!(home.active(), Some(CAVE));
    home.alive.remove(&CAVE);
    home.observed.leader = SALON;
    home.run(2_000);
    assert_eq!(home.active(), Some(SALON), "off is about heat: it serves when nobody else can");
    home.alive.insert(CAVE);
    home.run(3_000);
    assert_eq!(home.active(), Some(CAVE));
}

#[test]
fn in_summer_the_service_goes_to_the_water() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, -150.0), (BUREAU, -80.0), (CAVE, -20.0)].into();
    home.observe();
    assert_eq!(home.sentence(), "mail moves from salon to cave: cave wants 150 W more");
    home.run(1_000);
    assert_eq!(home.active(), Some(CAVE));
    home.images.insert(CAVE, Readiness::Ready);
    home.now_ms += 3_600_000;
    home.demand_w = [(SALON, -150.0), (BUREAU, -80.0), (CAVE, -220.0)].into();
    home.run(1_000);
    assert_eq!(home.active(), Some(CAVE), "water keeps it");
}

#[test]
fn without_water_the_least_warm_room_has_it() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Off { node: CAVE, off: Off { until_ms: None, power_off: false } });
    home.demand_w = [(SALON, -150.0), (BUREAU, -80.0)].into();
    home.observe();
    assert_eq!(home.sentence(), "mail moves from salon to bureau: bureau is 70 W less too warm");
    home.run(1_000);
    assert_eq!(home.active(), Some(BUREAU));
}

#[test]
fn a_service_that_dies_everywhere_ends_up_somewhere_and_the_log_stays_quiet() {
    let mut home = Home::running_in(SALON);
    home.deadly = [(SALON, 0), (BUREAU, 0), (CAVE, 0)].into();
    home.run(5_000);
    let epoch = home.state.services[&mail()].epoch;
    assert!(epoch <= 3, "each radiator once: {epoch}");
    assert!(home.sentence().contains("keeps ending"), "{}", home.sentence());
    let events = home.state.events.len();
    home.run(60_000);
    assert_eq!(home.state.events.len(), events);
}

#[test]
fn two_services_do_not_move_by_heat_at_once() {
    let mut home = Home::declared(|spec| {
        spec.services.insert(service("notes"), service_spec(None));
    });
    home.demand_w = [(SALON, 100.0), (BUREAU, 0.0), (CAVE, 0.0)].into();
    home.run(5_000);
    home.now_ms += 3_600_000;
    home.demand_w = [(SALON, 0.0), (BUREAU, 200.0), (CAVE, 0.0)].into();
    home.observe();
    let stops = home.commands().into_iter().filter(|c| matches!(c, Command::Stop { .. })).count();
    assert_eq!(stops, 1);
    let notes = home.plan().reasons[&service("notes")].sentence.clone();
    assert_eq!(notes, "notes stays in salon: bureau wants 200 W more, but another service is moving");
}
