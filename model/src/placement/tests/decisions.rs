//! One situation each: the whole list of actions, and the sentence.

use super::fixture::*;
use crate::command::{Command, Outcome, Proposal, Why};
use crate::observe::{Lease, Readiness};
use crate::placement::{AVOID_MS, GONE_MS};
use crate::state::{Off, Phase};
use std::collections::BTreeSet;

#[test]
fn a_gain_under_the_threshold_moves_nothing_and_says_so() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 80.0), (BUREAU, 120.0), (CAVE, 10.0)].into();
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 40 W more, under the 60 W it takes to move"
    );
    home.demand_w.insert(BUREAU, 20.0);
    home.observe();
    assert_eq!(home.sentence(), "mail stays in salon: it wants 80 W, nothing is better");
}

#[test]
fn heat_moves_a_service_that_has_stayed_long_enough() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 80.0), (BUREAU, 200.0), (CAVE, 10.0)].into();
    home.observe();
    let reason = "mail moves from salon to bureau: bureau wants 120 W more";
    assert_eq!(home.commands(), vec![home.stop(BUREAU, reason)]);
    assert_eq!(home.sentence(), reason);
    home.state.services.get_mut(&mail()).unwrap().since_ms = home.now_ms - 60_000;
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 120 W more, but it stays at least 30 min after a start"
    );
}

#[test]
fn a_clock_that_was_set_back_does_not_hold_a_service_in_place() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 0.0), (BUREAU, 200.0)].into();
    home.observe();
    home.state.services.get_mut(&mail()).unwrap().since_ms = home.now_ms + 3_600_000;
    assert!(matches!(home.commands()[..], [Command::Stop { next: Some(BUREAU), .. }]));
}

#[test]
fn a_radiator_gives_at_most_its_power() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 240.0), (BUREAU, 900.0)].into();
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 10 W more, under the 60 W it takes to move"
    );
}

#[test]
fn heat_moves_a_service_so_often_a_day_only() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 0.0), (BUREAU, 200.0)].into();
    home.state.services.get_mut(&mail()).unwrap().moved_ms = vec![home.now_ms - 1000; 6];
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 200 W more, but heat moved it 6 times in 24 hours already"
    );
    home.state.services.get_mut(&mail()).unwrap().moved_ms = vec![home.now_ms - 25 * 3_600_000; 6];
    assert_eq!(home.commands().len(), 1);
}

#[test]
fn a_fresh_leader_moves_nothing_by_heat_before_it_has_heard_everyone() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 0.0), (BUREAU, 200.0)].into();
    home.observe();
    home.observed.leading_ms = 200;
    home.observed.reports.remove(&CAVE);
    home.observed.silent_ms.remove(&CAVE);
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 200 W more, but not all radiators are heard yet"
    );
}

#[test]
fn unknown_heat_moves_nothing() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(BUREAU, 200.0)].into();
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(home.sentence(), "mail stays in salon: its heat is not known");
    home.demand_w = [(SALON, -100.0)].into();
    home.observe();
    assert_eq!(home.commands(), vec![]);
    home.demand_w = [(SALON, f64::NAN), (BUREAU, f64::INFINITY)].into();
    home.observe();
    assert_eq!(home.commands(), vec![], "nonsense is not known either");
}

#[test]
fn what_another_service_gives_is_no_demand_any_more() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 80.0), (BUREAU, 200.0)].into();
    home.observe();
    let mut other = home.state.services[&mail()].clone();
    other.active = Some(BUREAU);
    home.state.services.insert(service("notes"), other);
    let mut spec = home.state.declared.clone().unwrap();
    spec.spec.services.insert(service("notes"), service_spec(None));
    home.state.declared = Some(spec);
    home.observed.reports.get_mut(&BUREAU).unwrap().service_w.insert(service("notes"), 90.0);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: bureau wants 30 W more, under the 60 W it takes to move"
    );
}

#[test]
fn the_epoch_is_never_raised_before_the_lease_has_ended() {
    let mut home = Home::running_in(SALON);
    home.alive = [BUREAU, CAVE].into();
    home.observed.leader = BUREAU;
    home.observed.silent_ms.insert(SALON, 5_000);
    home.observed.reports.remove(&SALON);
    home.observed.leases.insert(mail(), Lease::MayBeHeld);
    assert_eq!(home.commands(), vec![]);
    home.observed.leases.clear();
    assert_eq!(home.commands(), vec![], "an unknown lease may be held");
    home.observed.leases.insert(mail(), Lease::Ended);
    let reason = "mail is taken over by bureau: salon is silent";
    assert_eq!(home.commands(), vec![home.activate(BUREAU, Why::Failover, reason)]);
    assert_eq!(home.sentence(), reason);
}

#[test]
fn failover_needs_no_heat_and_only_one_who_is_in_sync_takes_over() {
    let mut home = Home::running_in(SALON);
    home.demand_w.clear();
    home.unplug_salon();
    let reason = "mail is taken over by cave: salon is silent";
    assert_eq!(home.commands(), vec![home.activate(CAVE, Why::Failover, reason)]);
    home.alive = [BUREAU].into();
    home.observed.reports.remove(&CAVE);
    home.observed.reports.remove(&SALON);
    home.observed.silent_ms = [(CAVE, 5_000), (SALON, 5_000)].into();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays down: bureau: not in sync for maildir; cave: not heard; \
         salon, cave hold all that was acknowledged of maildir: bring one of them back, or see `thermidor volume promote`"
    );
}

#[test]
fn a_last_in_sync_active_that_stays_silent_is_the_active_no_more_so_that_an_older_replica_can_be_promoted() {
    let mut home = Home::running_in(SALON);
    let volume = maildir();
    home.unplug_salon();
    home.state.volumes.get_mut(&volume).unwrap().in_sync = [SALON].into();
    home.observed.silent_ms.insert(SALON, GONE_MS - 1);
    home.observed.leading_ms = 60_000;
    assert_eq!(home.commands(), vec![], "it may come back at any moment");
    home.observed.silent_ms.insert(SALON, GONE_MS);
    home.observed.leading_ms = 5_000;
    assert_eq!(home.commands(), vec![], "a fresh leader has not heard for long who is there");
    home.observed.leading_ms = 60_000;
    let promote = |home: &Home| {
        let v = &home.state.volumes[&volume];
        let (epoch, set_was) = (v.epoch, v.set_version);
        Command::Promote { volume: volume.clone(), epoch, set_was, node: BUREAU }
    };
    let apply = |home: &mut Home, command: Command| {
        let outcome = home.state.apply(&Proposal { at_ms: home.now_ms, command });
        assert_eq!(home.state.check(), Vec::<String>::new());
        outcome
    };
    let early = promote(&home);
    assert!(matches!(apply(&mut home, early), Outcome::Refused(_)), "the home still names it");
    for _ in 0..2 {
        for command in home.commands() {
            let outcome = apply(&mut home, command);
            assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
    }
    assert_eq!(home.state.services[&mail()].active, None);
    assert_eq!(home.state.services[&mail()].moving, None, "other services may move");
    assert_eq!(home.commands(), vec![], "nobody else has the data");
    assert!(
        home.sentence().contains("alone holds all that was acknowledged of maildir"),
        "{}",
        home.sentence()
    );
    let promoted = promote(&home);
    assert!(matches!(apply(&mut home, promoted), Outcome::Set(_)));
    assert!(
        matches!(home.commands()[..], [Command::Activate { to: BUREAU, .. }, ..]),
        "{:?}",
        home.commands()
    );
}

#[test]
fn an_active_that_only_lost_its_lease_starts_again() {
    let mut home = Home::running_in(SALON);
    home.observed.leases.insert(mail(), Lease::Ended);
    let again = "mail starts in salon again: it had lost its lease";
    assert_eq!(home.commands(), vec![home.activate(SALON, Why::Again, again)]);
    let service = home.state.services.get_mut(&mail()).unwrap();
    service.since_ms = home.now_ms - 1_000;
    assert_eq!(home.commands(), vec![], "it is given the time to ask for its lease");
    assert_eq!(home.sentence(), "mail is being started in salon");
    home.state.services.get_mut(&mail()).unwrap().since_ms = home.now_ms - 5_000;
    let elsewhere = "mail is taken over by bureau: salon lost its lease and can't have it again";
    assert_eq!(home.commands(), vec![home.activate(BUREAU, Why::Unfit, elsewhere)]);
    home.images =
        [(BUREAU, Readiness::Preparing("building".into())), (CAVE, Readiness::Failed("no".into()))].into();
    home.observe();
    home.observed.leases.insert(mail(), Lease::Ended);
    assert_eq!(home.commands(), vec![home.activate(SALON, Why::Again, again)], "nobody else can");
}

#[test]
fn a_daemon_that_is_silent_while_its_lease_goes_on_moves_nothing() {
    let mut home = Home::running_in(SALON);
    home.demand_w = [(SALON, 0.0), (BUREAU, 250.0)].into();
    home.observe();
    home.observed.leader = BUREAU;
    home.observed.reports.remove(&SALON);
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: its daemon is silent, but its lease goes on or may do so"
    );
}

#[test]
fn a_service_that_keeps_ending_is_tried_elsewhere_or_it_is_said() {
    let mut home = Home::running_in(SALON);
    home.deadly.insert(SALON, 5);
    home.observe();
    let reason = "mail leaves salon for bureau: it keeps ending in salon (exit code 1)";
    let avoid =
        Command::Avoid { service: mail(), epoch_was: 1, node: SALON, until_ms: home.now_ms + AVOID_MS };
    assert_eq!(home.commands(), vec![avoid, home.stop(BUREAU, reason)]);
    home.images = [(BUREAU, Readiness::Preparing("image is being built".into()))].into();
    home.state.volumes.get_mut(&maildir()).unwrap().in_sync.remove(&CAVE);
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: it keeps ending (exit code 1), and nowhere else will do \
         (bureau: image is being built; cave: not in sync for maildir)"
    );
}

#[test]
fn a_wish_is_done_waited_for_or_given_up() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Wish { service: mail(), to: CAVE });
    let reason = "mail moves from salon to cave, as wished";
    assert_eq!(home.commands(), vec![home.stop(CAVE, reason)]);
    home.images.insert(CAVE, Readiness::Preparing("image is being built".into()));
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(home.sentence(), "mail goes to cave as wished, but has to wait: image is being built");
    home.images.insert(CAVE, Readiness::Failed("no such image".into()));
    home.observe();
    let why = "mail does not go to cave: no such image";
    let forget = Command::ForgetWish { service: mail(), to: CAVE, why: Some(why.into()) };
    assert_eq!(home.commands(), vec![forget.clone()]);
    assert_eq!(home.sentence(), why);
    // Whoever waits for it finds it among the events, once.
    for _ in 0..2 {
        home.apply(forget.clone());
    }
    assert_eq!(home.state.events.iter().filter(|e| e.text == why).count(), 1);
}

#[test]
fn a_wish_that_fell_through_after_the_stop_starts_at_the_best() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Wish { service: mail(), to: CAVE });
    let stop = home.commands().remove(0);
    home.apply(stop);
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: SALON });
    home.observe();
    let reason = "mail starts in cave, as wished";
    assert_eq!(home.commands(), vec![home.activate(CAVE, Why::Planned, reason)]);
    home.observed.silent_ms.insert(CAVE, 1_500);
    let why = Some("mail does not go to cave: not heard".into());
    let forget = Command::ForgetWish { service: mail(), to: CAVE, why };
    let start = home.activate(SALON, Why::Planned, "mail starts in salon: it wants 100 W");
    assert_eq!(home.commands(), vec![forget, start]);
}

#[test]
fn a_service_leaves_a_radiator_that_goes_off_unless_nothing_else_will_do() {
    let mut home = Home::running_in(SALON);
    home.apply(Command::Off { node: SALON, off: Off { until_ms: None, power_off: false } });
    home.observe();
    let reason = "mail leaves salon for bureau: salon is off";
    assert_eq!(home.commands(), vec![home.stop(BUREAU, reason)]);
    home.state.volumes.get_mut(&maildir()).unwrap().in_sync = [SALON].into();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays in salon: it wants 100 W, is off, has it now, but nothing else will do \
         (bureau: not in sync for maildir; cave: not in sync for maildir)"
    );
}

#[test]
fn a_stopping_service_is_left_to_stop_while_its_radiator_lives() {
    let mut home = Home::running_in(SALON);
    home.apply(home.stop(BUREAU, "so"));
    home.observed.leases.insert(mail(), Lease::Ended);
    assert_eq!(home.commands(), vec![]);
    assert_eq!(home.sentence(), "mail is stopping in salon");
    home.observed.leader = BUREAU;
    home.observed.silent_ms.insert(SALON, 960);
    let reason = "mail is taken over by bureau: salon is silent";
    assert_eq!(home.commands(), vec![home.activate(BUREAU, Why::Failover, reason)]);
    home.observed.leases.insert(mail(), Lease::MayBeHeld);
    assert_eq!(home.sentence(), "mail is stopping in salon, then it goes to bureau");
}

#[test]
fn the_first_start_waits_for_everyone_but_not_for_ever() {
    let mut home = Home::declared(|_| {});
    home.demand_w = [(SALON, 10.0), (BUREAU, 90.0), (CAVE, 200.0)].into();
    home.alive = [SALON, BUREAU].into();
    home.observe();
    home.observed.leading_ms = 2_900;
    assert_eq!(home.commands(), vec![]);
    home.observed.leading_ms = 3_000;
    assert!(matches!(home.commands()[..], [Command::AddReplica { node: BUREAU, .. }]));
    home.observed.leading_ms = 100;
    home.alive = [SALON, BUREAU, CAVE].into();
    home.observe();
    assert!(matches!(home.commands()[..], [Command::AddReplica { node: CAVE, .. }]), "the coldest of all");
}

#[test]
fn a_service_without_anywhere_to_go_says_why_for_each() {
    let mut home = Home::running_in(SALON);
    home.apply(home.stop(BUREAU, "so"));
    home.apply(Command::Stopped { service: mail(), epoch_was: 1, node: SALON });
    home.images = [
        (BUREAU, Readiness::Preparing("image is being built".into())),
        (SALON, Readiness::Failed("no such image".into())),
    ]
    .into();
    home.state.volumes.get_mut(&maildir()).unwrap().in_sync.remove(&CAVE);
    home.observe();
    assert_eq!(home.commands(), vec![]);
    assert_eq!(
        home.sentence(),
        "mail stays down: bureau: image is being built; cave: not in sync for maildir; salon: no such image"
    );
}

#[test]
fn who_alone_holds_the_data_is_named() {
    let mut home = Home::running_in(SALON);
    home.state.volumes.get_mut(&maildir()).unwrap().in_sync = [SALON].into();
    home.alive = [BUREAU, CAVE].into();
    home.observed.leader = BUREAU;
    home.observed.silent_ms.insert(SALON, 9_000);
    home.observed.reports.remove(&SALON);
    home.observed.leases.insert(mail(), Lease::Ended);
    assert_eq!(home.commands(), vec![]);
    let said = home.sentence();
    assert!(said.contains("salon alone holds all that was acknowledged of maildir: bring it back"), "{said}");
}

#[test]
fn memory_places_and_the_yaml_are_respected() {
    let mut home = Home::running_in(SALON);
    let mut declared = home.state.declared.clone().unwrap();
    let spec = declared.spec.services.get_mut(&mail()).unwrap();
    spec.memory_max_bytes = Some(2 << 30);
    spec.place.never = [radiator("bureau")].into();
    home.state.declared = Some(declared);
    assert_eq!(home.words_for(CAVE), "1024 MiB of memory free, it may take 2048");
    assert_eq!(home.words_for(BUREAU), "`place: never` names it");
    let mut declared = home.state.declared.clone().unwrap();
    declared.spec.radiators.remove(&radiator("cave"));
    declared.spec.services.get_mut(&mail()).unwrap().place.only = [radiator("salon")].into();
    home.state.declared = Some(declared);
    assert_eq!(home.words_for(CAVE), "it is not in home.yaml");
    assert_eq!(home.words_for(SALON), "wants 100 W, has it now");
}

#[test]
fn a_removed_service_whose_radiator_is_gone_ends() {
    let mut home = Home::running_in(SALON);
    let mut spec = home_spec();
    spec.services.clear();
    spec.volumes.clear();
    home.declare(spec);
    home.observe();
    assert_eq!(home.state.services[&mail()].phase, Phase::Stop { next: None });
    assert_eq!(home.commands(), vec![]);
    home.observed.leader = BUREAU;
    home.observed.silent_ms.insert(SALON, 2_000);
    home.observed.leases.insert(mail(), Lease::Ended);
    let stopped = Command::Stopped { service: mail(), epoch_was: 1, node: SALON };
    assert_eq!(home.commands(), vec![stopped]);
    assert_eq!(home.sentence(), "mail was removed and is stopping in salon");
}

#[test]
fn the_same_question_has_the_same_answer() {
    let home = Home::declared(|_| {});
    assert_eq!(home.plan(), home.plan());
    assert_eq!(home.observed.voters, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_home_that_was_recovered_elsewhere_stops_lets_the_address_go_and_stays_down() {
    let mut home = Home::running_in(SALON);
    home.run(20_000);
    assert!(home.state.address.holder.is_some());
    let from = crate::name::HomeName::new("alpes").unwrap();
    home.apply(Command::StandDown { generation: 2, since_ms: 0, from });
    assert_eq!(home.sentence(), "mail is stopping in salon: generation 2 of this home lives elsewhere");
    home.run(20_000);
    assert_eq!((home.active(), home.state.address.holder), (None, None));
    let volumes = home.state.volumes.clone();
    // Whatever the heat wants, and whoever comes and goes.
    home.demand_w = [(BUREAU, 240.0)].into();
    home.alive.remove(&CAVE);
    home.run(60_000);
    assert_eq!((home.commands(), home.active()), (vec![], None));
    assert_eq!(home.sentence(), "mail stays down: generation 2 of this home lives elsewhere");
    assert_eq!(home.state.volumes, volumes);
    home.alive.insert(CAVE);
    home.apply(Command::Overrule { generation: 2 });
    home.run(20_000);
    assert!(home.active().is_some(), "a person had it go on");
}

#[test]
fn an_active_that_was_gone_when_its_home_was_outlived_is_told_to_have_stopped() {
    let mut home = Home::running_in(SALON);
    home.unplug_salon();
    let from = crate::name::HomeName::new("alpes").unwrap();
    home.apply(Command::StandDown { generation: 2, since_ms: 0, from });
    home.run(30_000);
    assert_eq!(home.active(), None);
    assert!(home.sentence().contains("stays down"), "{}", home.sentence());
}
