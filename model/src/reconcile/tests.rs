//! One table of what is found and what is done about it, and a walk from nothing to running and back.

use super::*;
use crate::command::Command;
use crate::spec::OnDegraded;
use crate::testing::{box_volume, done, mail, serving_home};

const ME: NodeId = 1;

fn container(running: bool, epoch: u64) -> BTreeMap<ServiceName, Container> {
    [(mail(), Container { running, epoch, current: true })].into()
}

/// Everything as it should be in epoch 1.
fn serving() -> Actual {
    Actual {
        containers: container(true, 1),
        engine_answers: true,
        devices: [(box_volume(), Device::Attached(1))].into(),
        leases: [(mail(), 1)].into(),
        ..Actual::default()
    }
}

fn next(state: &State, actual: &Actual) -> Step {
    reconcile(state, ME, actual).remove(&mail()).unwrap()
}

fn only_box() -> BTreeSet<VolumeName> {
    [box_volume()].into()
}

#[test]
fn an_active_goes_from_nothing_to_running_in_order() {
    let state = serving_home(3, ME);
    let mut actual = Actual { devices: [(box_volume(), Device::Absent)].into(), ..Actual::default() };
    assert_eq!(next(&state, &actual), Step::Rest("waits for its lease"));
    actual.leases = [(mail(), 1)].into();
    assert_eq!(next(&state, &actual), Step::Rest("waits for its volume's process"));
    actual.devices = [(box_volume(), Device::Detached(0))].into();
    assert_eq!(next(&state, &actual), Step::Attach { epoch: 1, volumes: [(box_volume(), 1)].into() });
    actual.devices = [(box_volume(), Device::Attached(1))].into();
    assert_eq!(next(&state, &actual), Step::Rest("waits for the container engine"));
    actual.engine_answers = true;
    assert_eq!(next(&state, &actual), Step::Prepare);
    actual.containers = container(false, 0);
    assert_eq!(next(&state, &actual), Step::Start { epoch: 1 });
    actual.containers = container(true, 1);
    assert_eq!(next(&state, &actual), Step::Rest("runs"));
}

#[test]
fn a_planned_stop_is_container_then_volume_then_word() {
    let mut state = serving_home(3, ME);
    done(&mut state, Command::Stop { service: mail(), epoch_was: 1, next: Some(2), reason: "cold".into() });
    let mut actual = serving();
    assert_eq!(next(&state, &actual), Step::Stop { epoch: 1 });
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Detach { volumes: only_box(), force: false });
    actual.devices = [(box_volume(), Device::Detached(1))].into();
    assert_eq!(next(&state, &actual), Step::TellStopped { epoch: 1 });
}

#[test]
fn a_dead_volume_process_ends_the_container_and_gives_the_lease_back() {
    let state = serving_home(3, ME);
    let mut actual = serving();
    actual.devices = [(box_volume(), Device::Absent)].into();
    assert_eq!(next(&state, &actual), Step::Kill, "it writes to a device that is gone");
    actual.devices = [(box_volume(), Device::Broken(1))].into();
    assert_eq!(next(&state, &actual), Step::Kill);
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Detach { volumes: only_box(), force: true });
    actual.devices = [(box_volume(), Device::Detached(1))].into();
    assert_eq!(next(&state, &actual), Step::GiveBack { epoch: 1 }, "an epoch is attached once");
}

#[test]
fn a_fenced_epoch_is_never_served_again() {
    let state = serving_home(3, ME);
    let mut actual = serving();
    actual.fenced = [(mail(), 1)].into();
    assert_eq!(next(&state, &actual), Step::Kill);
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Detach { volumes: only_box(), force: true });
    actual.devices = [(box_volume(), Device::Detached(1))].into();
    assert_eq!(next(&state, &actual), Step::GiveBack { epoch: 1 });
}

#[test]
fn a_stand_by_runs_and_mounts_nothing_but_is_ready() {
    let state = serving_home(3, 2);
    let mut actual = serving();
    assert_eq!(next(&state, &actual), Step::Kill, "another is active");
    actual.containers = container(false, 0);
    assert_eq!(next(&state, &actual), Step::Detach { volumes: only_box(), force: true });
    actual.devices = [(box_volume(), Device::Detached(0))].into();
    assert_eq!(next(&state, &actual), Step::Rest("stands by"));
    actual.containers.clear();
    assert_eq!(next(&state, &actual), Step::Prepare);
    actual.engine_answers = false;
    assert_eq!(next(&state, &actual), Step::Rest("waits for the container engine"));
}

#[test]
fn a_container_of_another_epoch_or_of_no_service_is_killed() {
    let state = serving_home(3, ME);
    let mut actual = serving();
    actual.containers = container(true, 0);
    assert_eq!(next(&state, &actual), Step::Kill);
    let stray = ServiceName::new("stray").unwrap();
    actual.containers.insert(stray.clone(), Container { running: true, epoch: 1, current: true });
    assert_eq!(reconcile(&state, ME, &actual)[&stray], Step::Kill);
}

#[test]
fn below_durability_with_on_degraded_stop_only_the_container_stops() {
    let mut state = serving_home(3, ME);
    for v in state.volumes.values_mut() {
        v.on_degraded = OnDegraded::Stop;
        v.in_sync = [ME].into();
    }
    let mut actual = serving();
    assert_eq!(next(&state, &actual), Step::Stop { epoch: 1 });
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Rest("waits until its volume is whole (on_degraded: stop)"));
    for v in state.volumes.values_mut() {
        v.in_sync = [ME, 2].into();
    }
    assert_eq!(next(&state, &actual), Step::Start { epoch: 1 });
}

#[test]
fn what_was_declared_anew_is_made_anew_in_the_same_epoch() {
    let state = serving_home(3, ME);
    let mut actual = serving();
    actual.containers = [(mail(), Container { running: true, epoch: 1, current: false })].into();
    assert_eq!(next(&state, &actual), Step::Stop { epoch: 1 });
    actual.containers = [(mail(), Container { running: false, epoch: 1, current: false })].into();
    assert_eq!(next(&state, &actual), Step::Prepare);
    actual.resting = [mail()].into();
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Rest("rests before it is started again"));
}

#[test]
fn a_service_that_is_held_by_a_restore_is_stopped_and_keeps_its_volume_attached() {
    use crate::restore::{RestoreOrder, RestoreStage, RestoreWish};
    let mut state = serving_home(3, ME);
    let order = |order| Command::Restore { service: mail(), order };
    let wish = RestoreWish { from: None, snapshot: None, as_of_s: None, path: None };
    done(&mut state, order(RestoreOrder::Begin { wish }));
    let mut actual = serving();
    assert_eq!(next(&state, &actual), Step::Rest("runs"), "while its files are brought");
    let stage = RestoreStage::Filling { held: false };
    done(&mut state, order(RestoreOrder::Done { number: 1, stage, earlier: false }));
    assert_eq!(next(&state, &actual), Step::Stop { epoch: 1 });
    actual.containers = container(false, 1);
    assert_eq!(next(&state, &actual), Step::Rest("waits while restored files are swapped in"));
    let stage = RestoreStage::Swapping;
    done(&mut state, order(RestoreOrder::Done { number: 1, stage, earlier: true }));
    assert_eq!(next(&state, &actual), Step::Start { epoch: 1 });
}

#[test]
fn a_recovered_service_gets_its_container_made_and_not_started() {
    use crate::restore::{Restore, RestoreStage, RestoreWish};
    let mut state = serving_home(3, ME);
    let wish = RestoreWish { from: None, snapshot: None, as_of_s: None, path: None };
    let stage = RestoreStage::Filling { held: true };
    state.restores_begun = 1;
    let restore = Restore { number: 1, wish, stage, turn: 0, begun_ms: 1, trouble: String::new() };
    state.restores.insert(mail(), restore);
    let mut actual = serving();
    actual.containers.clear();
    assert_eq!(next(&state, &actual), Step::Prepare);
    actual.containers = container(false, 0);
    assert_eq!(next(&state, &actual), Step::Rest("waits until its data are restored from a friend"));
}
