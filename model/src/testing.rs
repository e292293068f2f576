//! Small homes for the tests of this crate and of those that decide by it.

use crate::name::{HomeName, NodeId, RadiatorName, ReplicaId, ServiceName, VolumeName};
use crate::spec::{
    HeatClass, Heats, HomeSpec, MountSpec, OnDegraded, PlaceSpec, PlacementSpec, RadiatorSpec, ServiceSpec,
    VolumeDriver, VolumeSpec,
};
use crate::state::Role;
use crate::timing::Timing;
use crate::{Command, Outcome, Proposal, State};
use std::collections::BTreeMap;

/// The names of a test home's radiators, members 1 to 5.
pub const RADIATORS: [&str; 5] = ["salon", "bureau", "cave", "grenier", "atelier"];

/// The service `mail`.
pub fn mail() -> ServiceName {
    ServiceName::new("mail").expect("a name")
}

/// Its volume `box`.
pub fn box_volume() -> VolumeName {
    VolumeName::new("box").expect("a name")
}

/// A plain service with the volume `box`.
pub fn service_spec() -> ServiceSpec {
    ServiceSpec {
        recipe: None,
        image: Some("example/mail:1".into()),
        build: None,
        command: None,
        entrypoint: None,
        environment: BTreeMap::new(),
        ports: vec![],
        volumes: vec![MountSpec { volume: box_volume(), path: "/srv".into(), read_only: false }],
        healthcheck: None,
        user: None,
        working_dir: None,
        memory_max_bytes: None,
        cpus_max: None,
        stop_grace_s: 10,
        restart: true,
        heat: HeatClass::Steady,
        place: PlaceSpec::default(),
    }
}

/// A declaration of that many radiators with the service `mail`.
pub fn home_spec(radiators: usize) -> HomeSpec {
    let radiator = RadiatorSpec { heats: Heats::Room, power_w: 250.0, sensor: None, comfort: None };
    let volume = VolumeSpec {
        size_bytes: 64 << 20,
        replicas: 3.min(radiators as u32),
        durability: 2.min(radiators as u32),
        on_degraded: OnDegraded::Continue,
        driver: VolumeDriver::Replicated,
    };
    HomeSpec {
        home: HomeName::new("maison").expect("a name"),
        address: None,
        radiators: RADIATORS[..radiators]
            .iter()
            .map(|r| (RadiatorName::new(*r).expect("a name"), radiator.clone()))
            .collect(),
        placement: PlacementSpec::default(),
        services: [(mail(), service_spec())].into(),
        volumes: [(box_volume(), volume)].into(),
        notify: None,
    }
}

/// Applies a command that must not be refused, and checks the state.
pub fn done(state: &mut State, command: Command) -> Outcome {
    let outcome = state.apply(&Proposal { at_ms: 1_000_000, command });
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert_eq!(state.check(), Vec::<String>::new());
    outcome
}

/// A home of that many radiators, with `mail` declared and nothing placed yet.
pub fn home_of(radiators: usize) -> State {
    let mut state = State::default();
    done(
        &mut state,
        Command::Found {
            home: HomeName::new("maison").expect("a name"),
            radiator: RadiatorName::new(RADIATORS[0]).expect("a name"),
            address: ([10, 0, 0, 1], 7470).into(),
            authority_pem: String::new(),
            timing: Timing::default(),
        },
    );
    for (i, name) in RADIATORS[..radiators].iter().enumerate().skip(1) {
        done(&mut state, Command::Invite { token_hash: (*name).into(), expires_ms: 2_000_000 });
        let join = Command::Join {
            token_hash: (*name).into(),
            name: RadiatorName::new(*name).expect("a name"),
            address: ([10, 0, 0, i as u8 + 1], 7470).into(),
            role: Role::Radiator,
        };
        done(&mut state, join);
    }
    let declare = Command::Declare {
        revision_was: 0,
        text: String::new(),
        spec: Box::new(home_spec(radiators)),
        keep_overrides: false,
        contexts: BTreeMap::new(),
    };
    done(&mut state, declare);
    state
}

/// The same with replicas of `box` on all radiators, in sync, and `mail` active on member `active` in epoch 1.
pub fn serving_home(radiators: usize, active: NodeId) -> State {
    let mut state = home_of(radiators);
    for node in std::iter::once(active).chain((1..=radiators as NodeId).filter(|n| *n != active)) {
        let set_was = state.volumes[&box_volume()].set_version;
        done(&mut state, Command::AddReplica { volume: box_volume(), set_was, node, id: ReplicaId(node) });
    }
    let sets = [(box_volume(), state.volumes[&box_volume()].set_version)].into();
    let why = crate::command::Why::Start;
    let reason = "mail starts".to_string();
    done(&mut state, Command::Activate { service: mail(), epoch_was: 0, to: active, sets, why, reason });
    for node in (1..=radiators as NodeId).filter(|n| *n != active) {
        let volume = &state.volumes[&box_volume()];
        let (epoch, set_was) = (volume.epoch, volume.set_version);
        done(
            &mut state,
            Command::JoinSet { volume: box_volume(), epoch, set_was, node, id: ReplicaId(node) },
        );
    }
    state
}
