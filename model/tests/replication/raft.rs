//! The home's Raft group as an oracle: commands are really applied, but proposals get lost, come
//! late or remain unanswered, and every radiator learns of changes in its own time.

use std::collections::BTreeMap;
use thermidor_model::command::{Command, Outcome, Proposal};
use thermidor_model::name::{HomeName, NodeId, RadiatorName, ReplicaId, ServiceName, VolumeName};
use thermidor_model::spec::{
    HeatClass, HomeSpec, MountSpec, OnDegraded, PlaceSpec, PlacementSpec, ServiceSpec, VolumeDriver,
    VolumeSpec,
};
use thermidor_model::state::{Role, State, Volume};
use thermidor_model::timing::Timing;

pub fn volume_name() -> VolumeName {
    VolumeName::new("box").unwrap()
}

pub fn service() -> ServiceName {
    ServiceName::new("mail").unwrap()
}

/// The applied state, and until when each epoch's lease may be held.
#[derive(Debug)]
pub struct Raft {
    pub state: State,
    pub lease_until_us: u64,
    next_id: u64,
}

impl Raft {
    /// A home of so many radiators, the first `replicas` of which hold a replica.
    pub fn new(radiators: u64, replicas: u64, size_bytes: u64) -> Self {
        let mut raft = Self { state: State::default(), lease_until_us: 0, next_id: 100 };
        let name = |n: u64| RadiatorName::new(format!("r{n}")).unwrap();
        let address = |n: u64| ([10, 0, 0, n as u8], 7470).into();
        raft.must(Command::Found {
            home: HomeName::new("maison").unwrap(),
            radiator: name(1),
            address: address(1),
            authority_pem: String::new(),
            timing: Timing::default(),
        });
        for n in 2..=radiators {
            raft.must(Command::Invite { token_hash: n.to_string(), expires_ms: 1 });
            let token_hash = n.to_string();
            raft.must(Command::Join { token_hash, name: name(n), address: address(n), role: Role::Radiator });
        }
        raft.must(Command::Declare {
            revision_was: 0,
            text: String::new(),
            spec: Box::new(spec(size_bytes)),
            keep_overrides: false,
            contexts: BTreeMap::new(),
        });
        for node in 1..=replicas {
            raft.add_replica(node);
        }
        raft
    }

    fn must(&mut self, command: Command) {
        let outcome = self.apply(command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    pub fn volume(&self) -> &Volume {
        &self.state.volumes[&volume_name()]
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.state.apply(&Proposal { at_ms: 0, command });
        assert_eq!(self.state.check(), Vec::<String>::new());
        outcome
    }

    pub fn add_replica(&mut self, node: NodeId) {
        self.next_id += 1;
        let (set_was, id) = (self.volume().set_version, ReplicaId(self.next_id));
        self.apply(Command::AddReplica { volume: volume_name(), set_was, node, id });
    }

    pub fn remove_replica(&mut self, node: NodeId) {
        let set_was = self.volume().set_version;
        self.apply(Command::RemoveReplica { volume: volume_name(), set_was, node });
    }
}

fn spec(size_bytes: u64) -> HomeSpec {
    let mail = ServiceSpec {
        recipe: None,
        image: Some("x".into()),
        build: None,
        command: None,
        entrypoint: None,
        environment: BTreeMap::new(),
        ports: vec![],
        volumes: vec![MountSpec { volume: volume_name(), path: "/srv".into(), read_only: false }],
        healthcheck: None,
        user: None,
        working_dir: None,
        memory_max_bytes: None,
        cpus_max: None,
        stop_grace_s: 10,
        restart: true,
        heat: HeatClass::Steady,
        place: PlaceSpec::default(),
    };
    let volume = VolumeSpec {
        size_bytes,
        replicas: 3,
        durability: 2,
        on_degraded: OnDegraded::Continue,
        driver: VolumeDriver::Replicated,
    };
    HomeSpec {
        home: HomeName::new("maison").unwrap(),
        address: None,
        radiators: BTreeMap::new(),
        placement: PlacementSpec::default(),
        services: [(service(), mail)].into(),
        volumes: [(volume_name(), volume)].into(),
        notify: None,
    }
}
