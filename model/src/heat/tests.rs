//! Rooms against a golden run, the controller against rooms.

use super::room::{MassiveRoom, Room, Tank, TwoNodes};
use super::*;

/// A plant like the one of reference tables: 18 W/K, 2.4 MJ/K, 500 W.
fn plant(at_c: f64) -> Room {
    Room { temperature_c: at_c, loss_w_per_k: 18.0, capacity_j_per_k: 2.4e6 }
}

fn sample(room: &Room, heat_w: f64) -> Sample {
    Sample { temperature_c: room.temperature_c, target_c: 19.0, outdoor_c: Some(5.0), heat_w, seconds: 60.0 }
}

#[test]
fn a_heated_room_settles_at_its_target() {
    let mut room = plant(15.0);
    let mut controller = Controller::new(500.0, 300.0);
    let mut heat_w = 0.0;
    for _ in 0..3 * 24 * 60 {
        heat_w = controller.demand_w(sample(&room, heat_w)).unwrap().clamp(0.0, 500.0);
        // Gains of the sun that nobody told the controller.
        room.step(heat_w + 60.0, 5.0, 60.0);
    }
    assert!((room.temperature_c - 19.0).abs() < 0.3, "{}", room.temperature_c);
}

#[test]
fn the_colder_the_room_the_more_is_wanted_and_too_warm_is_negative() {
    let ask = |at_c: f64| Controller::new(500.0, 300.0).demand_w(sample(&plant(at_c), 0.0)).unwrap();
    assert!(ask(16.0) > ask(18.0) && ask(18.0) > ask(19.0) && ask(19.0) > 0.0);
    assert!(ask(24.0) < 0.0);
    assert_eq!(ask(19.0).round(), (18.0 * 14.0f64).round(), "at the target: the loss, fed forward");
}

#[test]
fn a_room_that_nobody_heats_does_not_wind_up() {
    let room = plant(15.0);
    let mut controller = Controller::new(500.0, 0.0);
    let first = controller.demand_w(sample(&room, 0.0)).unwrap();
    let last = (0..10_000).map(|_| controller.demand_w(sample(&room, 0.0)).unwrap()).last().unwrap();
    assert!((first - last).abs() < 1.0, "{first} {last}");
    let after = controller.demand_w(Sample { temperature_c: 23.0, ..sample(&room, 0.0) }).unwrap();
    assert!(after < 0.0, "it is over at once: {after}");
}

#[test]
fn loss_and_capacity_are_learned() {
    let mut room = plant(15.0);
    let mut controller = Controller::new(500.0, 300.0);
    let mut heat_w = 0.0;
    for minute in 0..4 * 24 * 60 {
        let outdoor = 5.0 + 5.0 * (f64::from(minute) / 1440.0 * std::f64::consts::TAU).sin();
        let target_c = if (minute / 360) % 2 == 0 { 19.0 } else { 17.0 };
        let seen = Sample { target_c, outdoor_c: Some(outdoor), ..sample(&room, heat_w) };
        heat_w = controller.demand_w(seen).unwrap().clamp(0.0, 500.0);
        room.step(heat_w, outdoor, 60.0);
    }
    let (loss, capacity) = (controller.loss_w_per_k(), controller.learned().capacity_j_per_k().unwrap());
    assert!((loss / 18.0 - 1.0).abs() < 0.1, "{loss}");
    assert!((capacity / 2.4e6 - 1.0).abs() < 0.1, "{capacity}");
}

#[test]
fn full_power_is_learned_but_not_from_one_wrong_reading() {
    let room = plant(18.0);
    let mut controller = Controller::new(250.0, 300.0);
    controller.demand_w(sample(&room, 5_000.0));
    assert!(controller.power_w() <= 500.0);
    let mut controller = Controller::new(250.0, 300.0);
    for _ in 0..200 {
        controller.demand_w(sample(&room, 300.0));
    }
    assert!((controller.power_w() - 300.0).abs() < 1.0);
}

#[test]
fn a_demand_is_held_but_a_new_target_is_obeyed_at_once() {
    let room = plant(18.0);
    let mut controller = Controller::new(500.0, 300.0);
    let first = controller.demand_w(sample(&room, 0.0)).unwrap();
    let warmer = Sample { temperature_c: 18.05, ..sample(&room, 0.0) };
    for _ in 0..4 {
        assert_eq!(controller.demand_w(warmer), Some(first));
    }
    assert!(controller.demand_w(warmer).unwrap() < first, "the hold is over");
    let wanted = controller.demand_w(Sample { target_c: 19.1, ..warmer }).unwrap();
    assert!(wanted > first);
    let colder = Sample { temperature_c: 17.0, target_c: 19.1, ..warmer };
    assert!(controller.demand_w(colder).unwrap() > wanted + 100.0, "much colder is told at once");
}

#[test]
fn nonsense_gives_no_demand_and_spoils_nothing() {
    let room = plant(18.0);
    let mut controller = Controller::new(500.0, 300.0);
    let before = controller.clone();
    for bad in [f64::NAN, f64::INFINITY] {
        assert_eq!(controller.demand_w(Sample { temperature_c: bad, ..sample(&room, 0.0) }), None);
        assert_eq!(controller.demand_w(Sample { outdoor_c: Some(bad), ..sample(&room, 0.0) }), None);
    }
    assert_eq!(controller.demand_w(Sample { seconds: -1.0, ..sample(&room, 0.0) }), None);
    assert_eq!(controller, before);
}

#[test]
fn a_room_without_loss_gains_what_it_is_given() {
    let mut room = Room { loss_w_per_k: 0.0, ..plant(15.0) };
    room.step(100.0, -20.0, 3600.0);
    assert!((room.temperature_c - 15.0 - 100.0 * 3600.0 / 2.4e6).abs() < 1e-9);
    let mut still = plant(15.0);
    still.step(0.0, 15.0, 1e6);
    assert_eq!(still.temperature_c, 15.0);
}

#[test]
fn one_long_step_equals_many_short_ones() {
    let two = TwoNodes {
        temperature_c: [18.0, 21.0],
        capacity_j_per_k: [2e5, 3e6],
        loss_w_per_k: [8.0, 10.0],
        between_w_per_k: 90.0,
    };
    let (mut long, mut short) = (two, two);
    long.step([300.0, 20.0], 3.0, 7200.0);
    // Explicit Euler, the naive way.
    for _ in 0..720_000 {
        let t = short.temperature_c;
        let flow = 90.0 * (t[1] - t[0]);
        short.temperature_c[0] += 0.01 * (300.0 + 8.0 * (3.0 - t[0]) + flow) / 2e5;
        short.temperature_c[1] += 0.01 * (20.0 + 10.0 * (3.0 - t[1]) - flow) / 3e6;
    }
    for i in 0..2 {
        assert!((long.temperature_c[i] - short.temperature_c[i]).abs() < 1e-3, "{long:?} {short:?}");
    }
}

#[test]
fn the_air_of_a_massive_room_answers_before_its_walls() {
    let mut room = MassiveRoom::new(18.0, (2e5, 8.0), (4e6, 10.0), 100.0);
    room.step(500.0, 18.0, 600.0);
    assert!(room.air_c() > 18.5 && room.mass_c() < 18.2, "{room:?}");
    room.step(0.0, 18.0, 1e9);
    assert!((room.air_c() - 18.0).abs() < 1e-6);
}

#[test]
fn a_tank_keeps_its_heat_in_layers_and_gives_it_from_the_top() {
    let mut tank = Tank::new(200.0, 55.0, 0.0);
    let before = tank.mean_c();
    let out = tank.draw(60.0, 10.0);
    assert_eq!(out, 55.0);
    assert!((tank.mean_c() - (before - 60.0 * 45.0 / 200.0)).abs() < 1e-9, "heat is conserved");
    assert!(tank.layers_c()[0] > tank.layers_c()[1]);
    let cold = tank.mean_c();
    tank.step(400.0, 15.0, 3600.0);
    assert!((tank.mean_c() - cold - 400.0 * 3600.0 / (200.0 * 4186.0)).abs() < 1e-6);
    let emptied = tank.draw(1e4, 10.0);
    assert!((10.0..20.0).contains(&emptied), "{emptied}");
}

#[test]
fn a_persons_override_goes_before_the_schedule() {
    use crate::spec::{ComfortSpan, ComfortSpec, Heats, HomeSpec, PlacementSpec, RadiatorSpec};
    use crate::state::Declared;
    let salon = RadiatorName::new("salon").unwrap();
    let night = ComfortSpan { from_minute: 22 * 60, until_minute: 6 * 60, target_c: 17.0 };
    let comfort = ComfortSpec { target_c: 20.0, schedule: vec![night] };
    let radiator = RadiatorSpec { heats: Heats::Room, power_w: 250.0, sensor: None, comfort: Some(comfort) };
    let spec = HomeSpec {
        home: crate::name::HomeName::new("maison").unwrap(),
        address: None,
        radiators: [(salon.clone(), radiator)].into(),
        placement: PlacementSpec::default(),
        services: Default::default(),
        volumes: Default::default(),
        notify: None,
    };
    let mut state = State::default();
    assert_eq!(target_c(&state, &salon, 720), None);
    state.declared = Some(Declared { revision: 1, text: String::new(), spec });
    assert_eq!(target_c(&state, &salon, 720), Some(20.0));
    assert_eq!(target_c(&state, &salon, 60), Some(17.0));
    state.overrides.targets_c.insert(salon.clone(), 22.5);
    assert_eq!(target_c(&state, &salon, 60), Some(22.5));
}
