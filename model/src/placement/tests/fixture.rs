//! A small home whose radiators obey: they report, keep replicas in sync, start and stop.

use crate::command::{Command, Outcome, Proposal, Why};
use crate::name::{HomeName, NodeId, RadiatorName, ServiceName, VolumeName};
use crate::observe::{Instance, Lease, Observed, Readiness, ReplicaReport, ReplicaState, Report};
use crate::placement::{Action, Now, Plan, plan};
use crate::spec::*;
use crate::state::{Phase, State};
use crate::testing;
use std::collections::{BTreeMap, BTreeSet};

pub const SALON: NodeId = 1;
pub const BUREAU: NodeId = 2;
pub const CAVE: NodeId = 3;
pub const START_MS: u64 = 1_800_000_000_000;
const TICK_MS: u64 = 100;

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub fn mail() -> ServiceName {
    service("mail")
}

pub fn maildir() -> VolumeName {
    VolumeName::new("maildir").unwrap()
}

pub fn radiator(name: &str) -> RadiatorName {
    RadiatorName::new(name).unwrap()
}

pub fn service_spec(volume: Option<&str>) -> ServiceSpec {
    let mount = |v: &str| testing::mount(VolumeName::new(v).unwrap(), "/srv");
    ServiceSpec {
        ports: vec![PortSpec { published: 25, target: 25, proxy_protocol: false }],
        volumes: volume.map(mount).into_iter().collect(),
        ..testing::plain_service()
    }
}

pub fn home_spec() -> HomeSpec {
    let heats = |heats| RadiatorSpec { heats, power_w: 250.0, sensor: None, comfort: None };
    HomeSpec {
        home: HomeName::new("maison").unwrap(),
        address: Some(AddressSpec { ip: [192, 168, 1, 50].into(), prefix: 24 }),
        radiators: [
            (radiator("salon"), heats(Heats::Room)),
            (radiator("bureau"), heats(Heats::Room)),
            (radiator("cave"), heats(Heats::Water { tank_l: 200.0 })),
        ]
        .into(),
        placement: PlacementSpec::default(),
        services: [(mail(), service_spec(Some("maildir")))].into(),
        volumes: [(maildir(), testing::volume_spec(1 << 30, 3))].into(),
        notify: None,
    }
}

/// A home and the world around it.
pub struct Home {
    pub state: State,
    pub observed: Observed,
    pub now_ms: u64,
    /// Radiators that are plugged in.
    pub alive: BTreeSet<NodeId>,
    /// What a report would say.
    pub demand_w: BTreeMap<NodeId, f64>,
    pub images: BTreeMap<NodeId, Readiness>,
    /// Radiators on which a service ends at once, how often it did.
    pub deadly: BTreeMap<NodeId, u32>,
    pub broken: BTreeSet<NodeId>,
    /// When each lease was last granted.
    granted_ms: BTreeMap<ServiceName, u64>,
    granted_address_ms: u64,
}

impl Home {
    /// Three radiators, salon, bureau and cave, without a declaration.
    pub fn of_three() -> Self {
        Self {
            state: testing::joined(3),
            observed: Observed { leader: SALON, voters: [SALON, BUREAU, CAVE].into(), ..Observed::default() },
            now_ms: START_MS,
            alive: [SALON, BUREAU, CAVE].into(),
            demand_w: BTreeMap::new(),
            images: BTreeMap::new(),
            deadly: BTreeMap::new(),
            broken: BTreeSet::new(),
            granted_ms: BTreeMap::new(),
            granted_address_ms: 0,
        }
    }

    /// The same with [`home_spec`] declared, changed as wanted.
    pub fn declared(change: impl FnOnce(&mut HomeSpec)) -> Self {
        let mut home = Self::of_three();
        let mut spec = home_spec();
        change(&mut spec);
        home.declare(spec);
        home
    }

    /// Mail runs in a radiator, in sync everywhere, long enough that heat may move it.
    pub fn running_in(node: NodeId) -> Self {
        let mut home = Self::declared(|_| {});
        home.demand_w = [(SALON, 0.0), (BUREAU, 5.0), (CAVE, 0.0)].into();
        home.demand_w.insert(node, 100.0);
        home.run(5_000);
        assert_eq!(home.active(), Some(node));
        home.now_ms += 3_600_000;
        home.observe();
        home
    }

    /// The salon has lost its plug; of the others bureau leads, and only cave is in sync.
    pub fn unplug_salon(&mut self) {
        self.state.volumes.get_mut(&maildir()).unwrap().in_sync = [SALON, CAVE].into();
        self.alive = [BUREAU, CAVE].into();
        self.observed.leader = BUREAU;
        self.observe();
        self.observed.silent_ms.insert(SALON, 960);
        self.observed.leases.insert(mail(), Lease::Ended);
    }

    pub fn declare(&mut self, spec: HomeSpec) {
        self.apply(testing::declare(&self.state, spec));
    }

    /// Applies what must not be refused; the state must be sound afterwards.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.state.apply(&Proposal { at_ms: self.now_ms, command: command.clone() });
        assert!(!matches!(outcome, Outcome::Refused(_)), "{command:?}: {outcome:?}");
        assert_eq!(self.state.check(), Vec::<String>::new(), "after {command:?}");
        outcome
    }

    pub fn active(&self) -> Option<NodeId> {
        self.state.services.get(&mail())?.active
    }

    pub fn now(&self) -> Now {
        Now { unix_ms: self.now_ms, minute_of_day: 720 }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.state, &self.observed, self.now())
    }

    /// The commands planned now.
    pub fn commands(&self) -> Vec<Command> {
        let commands = self.plan().actions.into_iter().filter_map(|a| match a {
            Action::Propose(command) => Some(command),
            _ => None,
        });
        commands.collect()
    }

    pub fn sentence(&self) -> String {
        self.plan().reasons[&mail()].sentence.clone()
    }

    pub fn words_for(&self, node: NodeId) -> String {
        let reason = self.plan().reasons.remove(&mail()).unwrap();
        reason.ranks.into_iter().find(|r| r.node == node).unwrap().words
    }

    pub fn activate(&self, to: NodeId, why: Why, reason: &str) -> Command {
        Command::Activate {
            service: mail(),
            epoch_was: self.state.services[&mail()].epoch,
            to,
            sets: [(maildir(), self.state.volumes[&maildir()].set_version)].into(),
            why,
            reason: reason.into(),
        }
    }

    pub fn stop(&self, next: NodeId, reason: &str) -> Command {
        Command::Stop {
            service: mail(),
            epoch_was: self.state.services[&mail()].epoch,
            next: Some(next),
            reason: reason.into(),
        }
    }

    fn report(&self, node: NodeId) -> Report {
        let services =
            self.state.spec().map(|s| s.services.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let ready = self.images.get(&node).cloned().unwrap_or(Readiness::Ready);
        let actives = self.state.services.iter().filter(|(_, s)| s.active == Some(node));
        let replicas = self.state.volumes.iter().filter(|(_, v)| v.replicas.contains_key(&node));
        let broken = self.broken.contains(&node);
        Report {
            node,
            demand_w: self.demand_w.get(&node).copied(),
            temperature_c: None,
            target_c: None,
            power_w: 0.0,
            service_w: BTreeMap::new(),
            memory_free_bytes: 1 << 30,
            cores: 2,
            images: services.into_iter().map(|s| (s, ready.clone())).collect(),
            instances: actives
                .map(|(name, s)| {
                    let ended_count = self.deadly.get(&node).copied().unwrap_or(0);
                    let instance = Instance {
                        epoch: s.epoch,
                        running: ended_count == 0,
                        healthy: Some(ended_count == 0),
                        ended_count,
                        detail: "exit code 1".into(),
                    };
                    (name.clone(), instance)
                })
                .collect(),
            replicas: replicas
                .map(|(name, v)| {
                    let state = match () {
                        () if broken => ReplicaState::Failed("image missing".into()),
                        () if v.active == Some(node) => ReplicaState::Active,
                        () => ReplicaState::Following,
                    };
                    (
                        name.clone(),
                        ReplicaReport {
                            epoch: v.epoch,
                            state,
                            behind_bytes: 0,
                            used_bytes: 0,
                            catch_ups: BTreeMap::new(),
                            examination: None,
                        },
                    )
                })
                .collect(),
            probes: BTreeMap::new(),
            troubles: vec![],
        }
    }

    /// What the leader sees of the world now.
    pub fn observe(&mut self) {
        let members: Vec<NodeId> = self.state.members.keys().copied().collect();
        for node in members {
            if self.alive.contains(&node) {
                self.observed.silent_ms.insert(node, 0);
                self.observed.reports.insert(node, self.report(node));
            }
            if self.observed.silent_ms.get(&node).is_none_or(|ms| *ms > 2_000) {
                self.observed.reports.remove(&node);
            }
        }
        let lease_ms = self.state.timing.lease_ms + self.state.timing.margin_ms;
        let of =
            |granted: u64, now: u64| if now - granted < lease_ms { Lease::MayBeHeld } else { Lease::Ended };
        for (name, service) in &self.state.services {
            if service.active.is_some_and(|a| self.alive.contains(&a)) {
                self.granted_ms.insert(name.clone(), self.now_ms);
            } else if service.active.is_none() {
                self.granted_ms.remove(name);
            }
            let granted = self.granted_ms.get(name).copied().unwrap_or(0);
            self.observed.leases.insert(name.clone(), of(granted, self.now_ms));
        }
        if self.state.address.holder.is_some_and(|h| self.alive.contains(&h)) {
            self.granted_address_ms = self.now_ms;
        }
        self.observed.address_lease = of(self.granted_address_ms, self.now_ms);
    }

    /// A tenth of a second: the leader plans, the radiators obey.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        self.observed.leading_ms += TICK_MS;
        self.observed.silent_ms.values_mut().for_each(|ms| *ms += TICK_MS);
        self.observe();
        for action in self.plan().actions {
            match action {
                Action::Propose(command) => drop(self.apply(command)),
                Action::SetVoters(voters) => self.observed.voters = voters,
                Action::TransferLeader(to) => self.observed.leader = to,
            }
        }
        self.obey();
    }

    fn obey(&mut self) {
        for (name, service) in self.state.services.clone() {
            let Some(active) = service.active.filter(|a| self.alive.contains(a)) else { continue };
            if matches!(service.phase, Phase::Stop { .. }) {
                self.apply(Command::Stopped { service: name, epoch_was: service.epoch, node: active });
            } else if let Some(count) = self.deadly.get_mut(&active) {
                *count += 1;
            }
        }
        for (name, volume) in self.state.volumes.clone() {
            let Some(active) = volume.active.filter(|a| self.alive.contains(a)) else { continue };
            let behind = volume.replicas.iter().find(|(n, _)| {
                !volume.in_sync.contains(n) && self.alive.contains(n) && !self.broken.contains(n)
            });
            let silent = volume.in_sync.iter().find(|n| !self.alive.contains(n) && **n != active);
            let (epoch, set_was) = (volume.epoch, volume.set_version);
            if let Some(node) = silent {
                self.apply(Command::DropFromSet { volume: name, epoch, set_was, node: *node });
            } else if let Some((node, id)) = behind {
                self.apply(Command::JoinSet { volume: name, epoch, set_was, node: *node, id: *id });
            }
        }
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.tick();
        }
    }
}
