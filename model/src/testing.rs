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

/// The names of a test home's radiators, members 1 to 8.
pub const RADIATORS: [&str; 8] =
    ["salon", "bureau", "cave", "grenier", "atelier", "cuisine", "chambre", "garage"];

/// The service `mail`.
pub fn mail() -> ServiceName {
    ServiceName::new("mail").expect("a name")
}

/// Its volume `box`.
pub fn box_volume() -> VolumeName {
    VolumeName::new("box").expect("a name")
}

/// A plain service of an image, without volumes or ports.
pub fn plain_service() -> ServiceSpec {
    ServiceSpec {
        recipe: None,
        image: Some("example/plain:1".into()),
        build: None,
        command: None,
        entrypoint: None,
        environment: BTreeMap::new(),
        ports: vec![],
        volumes: vec![],
        healthcheck: None,
        user: None,
        working_dir: None,
        memory_max_bytes: None,
        cpus_max: None,
        stop_grace_s: 10,
        restart: true,
        heat: HeatClass::Steady,
        place: PlaceSpec::default(),
        backup: None,
    }
}

/// A volume mounted for writing.
pub fn mount(volume: VolumeName, path: &str) -> MountSpec {
    MountSpec { volume, path: path.into(), read_only: false }
}

/// A plain service with that volume.
pub fn service_on(volume: VolumeName) -> ServiceSpec {
    ServiceSpec { volumes: vec![mount(volume, "/srv")], ..plain_service() }
}

/// A replicated volume of that size with so many replicas.
pub fn volume_spec(size_bytes: u64, replicas: u32) -> VolumeSpec {
    VolumeSpec {
        size_bytes,
        replicas,
        durability: 2.min(replicas),
        on_degraded: OnDegraded::Continue,
        driver: VolumeDriver::Replicated,
    }
}

/// A declaration of that many radiators with the service `mail`.
pub fn home_spec(radiators: usize) -> HomeSpec {
    let radiator = RadiatorSpec { heats: Heats::Room, power_w: 250.0, sensor: None, comfort: None };
    let volume = volume_spec(64 << 20, 3.min(radiators as u32));
    HomeSpec {
        home: HomeName::new("maison").expect("a name"),
        address: None,
        radiators: RADIATORS[..radiators]
            .iter()
            .map(|r| (RadiatorName::new(*r).expect("a name"), radiator.clone()))
            .collect(),
        placement: PlacementSpec::default(),
        services: [(mail(), service_on(box_volume()))].into(),
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

/// A home that so many radiators have joined, members 1, 2, ...; nothing is declared.
pub fn joined(radiators: usize) -> State {
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
    for name in &RADIATORS[1..radiators] {
        join(&mut state, name, Role::Radiator);
    }
    state
}

/// A machine of that name joins; its number.
pub fn join(state: &mut State, name: &str, role: Role) -> NodeId {
    let number = state.next_node;
    done(state, Command::Invite { token_hash: name.into(), expires_ms: 2_000_000 });
    let join = Command::Join {
        token_hash: name.into(),
        name: RadiatorName::new(name).expect("a name"),
        address: ([10, 0, 0, number as u8], 7470).into(),
        role,
    };
    assert_eq!(done(state, join), Outcome::Joined(number));
    number
}

/// The command that declares this after what the state has declared.
pub fn declare(state: &State, spec: HomeSpec) -> Command {
    Command::Declare {
        revision_was: state.declared.as_ref().map_or(0, |d| d.revision),
        text: String::new(),
        spec: Box::new(spec),
        keep_overrides: false,
        contexts: BTreeMap::new(),
    }
}

/// The same with `mail` declared and nothing placed yet.
pub fn home_of(radiators: usize) -> State {
    let mut state = joined(radiators);
    let declared = declare(&state, home_spec(radiators));
    done(&mut state, declared);
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
