//! What of a home's state comes back when nothing but its export is left: what people have declared and set stays,
//! where things ran and who belonged to it does not.

use crate::backup::Subject;
use crate::name::{NodeId, RadiatorName, ServiceName, UnixMs};
use crate::restore::{Restore, RestoreStage, RestoreWish};
use crate::spec::VolumeDriver;
use crate::state::{Member, Phase, Role, State, Weight};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How far beyond the numbers that the export knows the new member's lies. Members of old that were added after the
/// export know a number once it is given out by its owner's key alone: from one above all of theirs they can hear
/// that the home was recovered.
const NUMBERS_APART: NodeId = 1000;

/// The first member of a recovered home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recoverer {
    /// The radiator's name.
    pub radiator: RadiatorName,
    /// Where it will listen.
    pub address: SocketAddr,
    /// BLAKE3 of its public key, hex.
    pub key: String,
}

impl State {
    /// The state with which a home of one radiator begins anew, one generation later: its number, and the state.
    ///
    /// Kept: name, times, keys, declaration, overrides, secrets, mail accounts, build contexts, friends, kit, what is
    /// known of backups, events, and the epochs of services, raised. Gone: members, invitations, wishes, where anything ran, and every replica. Services whose
    /// data were the home's own are held until they are restored.
    pub fn recovered(&self, at: UnixMs, recoverer: &Recoverer) -> (NodeId, State) {
        let mut state = self.clone();
        let node = state.next_node + NUMBERS_APART;
        state.generation += 1;
        state.generation_ms = at;
        state.outlived = None;
        state.next_node = node + 1;
        let Recoverer { radiator, address, key } = recoverer.clone();
        state.members =
            [(node, Member { name: radiator.clone(), address, role: Role::Radiator, off: None })].into();
        state.keys.holders = BTreeSet::from([node]);
        state.keys.members = BTreeMap::from([(node, key)]);
        state.tokens.clear();
        state.pairing = None;
        for record in state.backups.values_mut().flat_map(|of| of.values_mut()) {
            // Nobody is there any more who made one, and what was in the way then is not in the way now.
            record.by = None;
            record.failure = None;
            // More was left there after the export was written: what a vault shows now is begun from.
            record.head = None;
            record.snapshot = None;
            record.content = None;
            record.asked = None;
        }
        if let Some(kit) = &mut state.kit {
            kit.rehearsed_ms = Some(at);
        }
        state.removed_images.clear();
        // Whoever missed one by mail has had another end of the home to think of.
        state.notified = state.next_event - 1;
        state.address.epoch += 1;
        state.address.holder = None;
        for epoch in state.retired_epochs.values_mut() {
            *epoch += 1;
        }
        for service in state.services.values_mut() {
            service.epoch += 1;
            service.active = None;
            service.phase = Phase::Run;
            service.since_ms = at;
            service.wish = None;
            service.moving = None;
            service.moved_ms.clear();
            service.avoid.clear();
        }
        for volume in state.volumes.values_mut() {
            volume.active = None;
            volume.replicas.clear();
            volume.in_sync.clear();
            volume.set_version += 1;
            // With the first epoch an image may be made; a shared folder is still what it was.
            volume.epoch =
                if matches!(volume.driver, VolumeDriver::Shared { .. }) { volume.epoch + 1 } else { 0 };
        }
        // What was declared no more and still stopping is gone.
        let declared: BTreeSet<_> = self.spec().map(|s| s.services.keys().collect()).unwrap_or_default();
        let gone: Vec<_> = self.services.keys().filter(|name| !declared.contains(name)).collect();
        for name in gone {
            if let Some(service) = state.services.remove(name) {
                state.retired_epochs.insert(name.clone(), service.epoch);
            }
        }
        state.hold_until_restored(at);
        let generation = state.generation;
        let name = state.home.as_ref().map_or_else(|| "the home".into(), ToString::to_string);
        let text = format!("{name} was recovered by {radiator}: generation {generation}");
        state.tell(at, Weight::Mail, "home", text);
        (node, state)
    }

    /// Every service that had data of its own waits for them, if anybody was to keep them.
    fn hold_until_restored(&mut self, at: UnixMs) {
        self.restores.clear();
        let own = |driver: &VolumeDriver| !matches!(driver, VolumeDriver::Shared { .. });
        let was_backed_up = |state: &Self, name: &ServiceName| {
            let declared = state.spec().and_then(|spec| spec.services.get(name));
            let known = state.backups.get(&Subject::Service(name.clone()));
            declared.is_some_and(|spec| spec.backup.is_some()) || known.is_some_and(|all| !all.is_empty())
        };
        let names: BTreeSet<_> =
            self.volumes.values().filter(|v| own(&v.driver)).map(|v| v.service.clone()).collect();
        for name in names {
            if !self.services.contains_key(&name) {
                continue;
            }
            if !was_backed_up(self, &name) {
                let text = format!("{name} was never backed up: it begins with empty volumes");
                self.tell(at, Weight::Mail, &format!("recovered/{name}"), text);
                continue;
            }
            self.restores_begun += 1;
            let wish = RestoreWish { from: None, snapshot: None, as_of_s: None, path: None };
            let restore = Restore {
                number: self.restores_begun,
                wish,
                stage: RestoreStage::Filling { held: true },
                turn: 0,
                begun_ms: at,
                trouble: String::new(),
            };
            self.restores.insert(name, restore);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{BackupSpec, HeadMark, Record};
    use crate::command::{Command, Why};
    use crate::name::{HomeName, ReplicaId};
    use crate::state::{MailAccount, RemovedImage, Sealed};
    use crate::testing::{box_volume, declare, done, home_spec, mail, serving_home};

    fn recoverer() -> Recoverer {
        let radiator = RadiatorName::new("neuf").unwrap();
        Recoverer { radiator, address: ([10, 0, 0, 99], 7470).into(), key: "k9".into() }
    }

    /// A home in the middle of everything.
    fn busy() -> State {
        let mut state = serving_home(3, 2);
        done(&mut state, Command::Invite { token_hash: "t".into(), expires_ms: 9_000_000 });
        done(&mut state, Command::Wish { service: mail(), to: 1 });
        done(&mut state, Command::HoldAddress { epoch_was: 0, to: Some(2) });
        let sealed = Sealed { nonce: [7; 12], bytes: vec![1, 2], key: 0 };
        done(&mut state, Command::SetSecret { name: "mail/marie".into(), sealed: Some(sealed) });
        let avoid = Command::Avoid { service: mail(), epoch_was: 1, node: 3, until_ms: 9_000_000 };
        done(&mut state, avoid);
        for node in 1..=3 {
            done(&mut state, Command::PinKey { node, key: format!("k{node}") });
        }
        let spec = &mut state.declared.as_mut().unwrap().spec;
        spec.services.get_mut(&mail()).unwrap().backup = Some(BackupSpec {
            every_ms: 3_600_000,
            to: vec![HomeName::new("alpes").unwrap()],
            windows: vec![],
            drill_ms: 0,
            retry_ms: 120_000,
        });
        let account = MailAccount { password_hash: "$6$".into(), aliases: ["post".to_owned()].into() };
        state.mail_accounts.entry(mail()).or_default().insert("luc".into(), account);
        state.removed_images.push(RemovedImage {
            volume: box_volume(),
            node: 3,
            id: ReplicaId(77),
            driver: VolumeDriver::Replicated,
        });
        state
    }

    #[test]
    fn what_people_declared_and_set_comes_back_and_where_things_were_does_not() {
        let before = busy();
        let (node, after) = before.recovered(5_000_000, &recoverer());
        assert_eq!(after.check(), Vec::<String>::new());
        assert_eq!(after.generation, before.generation + 1);
        assert_eq!(after.home, before.home);
        assert_eq!(after.declared, before.declared);
        assert_eq!(after.secrets, before.secrets);
        assert_eq!(after.mail_accounts, before.mail_accounts);
        assert_eq!(after.authority_pem, before.authority_pem);
        assert_eq!(
            (after.keys.number, after.keys.sealed_under),
            (before.keys.number, before.keys.sealed_under)
        );
        assert_eq!(after.keys.members, [(node, "k9".to_owned())].into());

        assert_eq!(after.members.keys().collect::<Vec<_>>(), [&node]);
        assert!(node > before.next_node + 100, "members added after the export may have the next numbers");
        assert!(after.tokens.is_empty() && after.removed_images.is_empty());
        assert_eq!((after.address.holder, after.address.epoch), (None, before.address.epoch + 1));
        let service = &after.services[&mail()];
        assert_eq!(service.epoch, before.services[&mail()].epoch + 1, "no guard ever serves an epoch twice");
        assert!(service.active.is_none() && service.wish.is_none() && service.avoid.is_empty());
        let volume = &after.volumes[&box_volume()];
        assert!(volume.replicas.is_empty() && volume.in_sync.is_empty() && volume.active.is_none());
        assert_eq!((volume.epoch, volume.size_bytes), (0, before.volumes[&box_volume()].size_bytes));
        assert!(volume.set_version > before.volumes[&box_volume()].set_version);
        assert_eq!(after.restores[&mail()].stage, RestoreStage::Filling { held: true });
        let said = &after.events.back().unwrap().text;
        assert_eq!(said, "maison was recovered by neuf: generation 2");
        assert_eq!(after.events.len(), before.events.len() + 1, "what happened before is still told");
    }

    #[test]
    fn the_first_replica_is_a_fresh_one_and_in_sync_by_itself() {
        let (node, mut state) = busy().recovered(5_000_000, &recoverer());
        let set_was = state.volumes[&box_volume()].set_version;
        done(&mut state, Command::AddReplica { volume: box_volume(), set_was, node, id: ReplicaId(500) });
        let volume = &state.volumes[&box_volume()];
        assert_eq!((volume.in_sync.len(), volume.epoch), (1, 0));
        let sets = [(box_volume(), volume.set_version)].into();
        let epoch_was = state.services[&mail()].epoch;
        let reason = "mail starts".to_string();
        done(
            &mut state,
            Command::Activate { service: mail(), epoch_was, to: node, sets, why: Why::Start, reason },
        );
        assert_eq!(state.services[&mail()].epoch, epoch_was + 1);
    }

    #[test]
    fn a_shared_folder_is_still_what_it_was_and_its_service_waits_for_nothing() {
        let mut before = busy();
        let volume = before.volumes.get_mut(&box_volume()).unwrap();
        volume.driver = VolumeDriver::Shared { path: "/mnt/ceph".into() };
        let (_, after) = before.recovered(5_000_000, &recoverer());
        assert_eq!(after.volumes[&box_volume()].epoch, before.volumes[&box_volume()].epoch + 1);
        assert!(after.restores.is_empty());
        assert_eq!(after.check(), Vec::<String>::new());
    }

    #[test]
    fn a_service_that_was_declared_no_more_is_gone_and_its_epoch_is_kept() {
        let mut before = busy();
        let mut spec = home_spec(3);
        spec.services.clear();
        let removed = declare(&before, spec);
        done(&mut before, removed);
        assert!(before.services.contains_key(&mail()), "it is still stopping");
        let (_, after) = before.recovered(5_000_000, &recoverer());
        assert!(!after.services.contains_key(&mail()) && after.restores.is_empty());
        assert_eq!(after.retired_epochs[&mail()], before.services[&mail()].epoch + 1);
        assert_eq!(after.check(), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_keeps_is_not_waited_for_and_what_a_vault_shows_is_begun_from() {
        let mut before = busy();
        let record = Record {
            made: Some(7),
            proven: Some(7),
            head: Some(HeadMark { number: 4, hash: "h".into() }),
            ..Record::default()
        };
        let records = [(HomeName::new("alpes").unwrap(), record)].into();
        before.backups.insert(Subject::Service(mail()), records);
        let (_, after) = before.recovered(5_000_000, &recoverer());
        let record = &after.backups[&Subject::Service(mail())][&HomeName::new("alpes").unwrap()];
        assert_eq!((record.made, record.head.clone()), (Some(7), None));

        before.backups.clear();
        before.declared.as_mut().unwrap().spec.services.get_mut(&mail()).unwrap().backup = None;
        let (_, after) = before.recovered(5_000_000, &recoverer());
        assert!(after.restores.is_empty());
        let told = |text: &str| after.events.iter().any(|event| event.text.contains(text));
        assert!(told("mail was never backed up: it begins with empty volumes"));
    }

    #[test]
    fn a_home_may_be_recovered_twice() {
        let (first, once) = busy().recovered(5_000_000, &recoverer());
        let (second, twice) = once.recovered(6_000_000, &recoverer());
        assert!(second > first);
        assert_eq!(twice.generation, 3);
        assert_eq!(twice.check(), Vec::<String>::new());
    }
}
