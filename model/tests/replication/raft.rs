//! The home's Raft group as an oracle: commands are really applied, but proposals get lost, come
//! late or remain unanswered, and every radiator learns of changes in its own time.

use thermidor_model::command::{Command, Outcome, Proposal};
use thermidor_model::name::{NodeId, ReplicaId};
use thermidor_model::spec::HomeSpec;
use thermidor_model::state::{State, Volume};
use thermidor_model::testing::{box_volume, declare, home_spec, joined, mail, service_on, volume_spec};

/// The applied state, and until when each epoch's lease may be held.
#[derive(Debug, Clone)]
pub struct Raft {
    pub state: State,
    pub lease_until_us: u64,
    next_id: u64,
}

impl Raft {
    /// A home of so many radiators, the first `replicas` of which hold a replica.
    pub fn new(radiators: u64, replicas: u64, size_bytes: u64) -> Self {
        let mut raft = Self { state: joined(radiators as usize), lease_until_us: 0, next_id: 100 };
        let declared = declare(&raft.state, spec(size_bytes));
        raft.must(declared);
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
        &self.state.volumes[&box_volume()]
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.state.apply(&Proposal { at_ms: 0, command });
        assert_eq!(self.state.check(), Vec::<String>::new());
        outcome
    }

    /// The home wants the volume to be so long.
    pub fn grow(&mut self, size_bytes: u64) {
        let declared = declare(&self.state, spec(size_bytes));
        self.must(declared);
    }

    pub fn add_replica(&mut self, node: NodeId) {
        self.next_id += 1;
        let (set_was, id) = (self.volume().set_version, ReplicaId(self.next_id));
        self.apply(Command::AddReplica { volume: box_volume(), set_was, node, id });
    }

    pub fn remove_replica(&mut self, node: NodeId) {
        let set_was = self.volume().set_version;
        self.apply(Command::RemoveReplica { volume: box_volume(), set_was, node });
    }
}

fn spec(size_bytes: u64) -> HomeSpec {
    HomeSpec {
        services: [(mail(), service_on(box_volume()))].into(),
        volumes: [(box_volume(), volume_spec(size_bytes, 3))].into(),
        ..home_spec(3)
    }
}
