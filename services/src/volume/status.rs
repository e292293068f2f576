//! What a volume process says of itself.

use super::control::{ReplicaView, Status};
use super::roles::{Process, Role, lock};
use std::collections::BTreeMap;
use thermidor_model::observe::{CatchUp, ReplicaState};
use thermidor_model::replication::EXTENT_BYTES;

impl Process {
    pub(super) fn status(&self) -> Status {
        let state = lock(&self.state);
        let image = state.disk.as_ref().map(|(_, disk)| disk.image());
        let mut status = Status {
            pid: std::process::id(),
            state: ReplicaState::Waiting,
            epoch: image.map_or(0, |i| i.header().image.epoch),
            mounted: None,
            behind_bytes: 0,
            used_bytes: image.and_then(|i| i.used_bytes().ok()).unwrap_or(0),
            replicas: BTreeMap::new(),
            set_version: state.configured.as_ref().map_or(0, |c| c.record.set_version),
            in_sync: state.configured.as_ref().map_or_else(Default::default, |c| c.record.in_sync.clone()),
            fenced: state.fenced.clone(),
            snapshots: vec![],
            examination: None,
            short: None,
        };
        match &state.role {
            Role::Unconfigured => {}
            Role::Ending(epoch) => (status.state, status.epoch) = (ReplicaState::Active, *epoch),
            Role::Idle(words) => status.state = ReplicaState::Failed(words.clone()),
            Role::Following(following) => {
                let view = following.view();
                status.short = view.short;
                status.state = match view {
                    _ if view.failed.is_some() => ReplicaState::Failed(view.failed.unwrap_or_default()),
                    _ if view.heard && view.torn => ReplicaState::CatchingUp,
                    _ if view.heard => ReplicaState::Following,
                    _ => ReplicaState::Waiting,
                };
            }
            Role::Active { active, epoch, attached, .. } => {
                status.state = ReplicaState::Active;
                status.short = lock(&self.not_grown).clone();
                status.epoch = *epoch;
                status.mounted = attached.as_ref().filter(|a| !a.is_gone()).map(|_| self.places.mount());
                let view = active.view();
                status.fenced = view.fenced;
                status.in_sync = view.in_sync;
                status.examination = view.examination;
                for (node, progress) in view.progress {
                    let behind_bytes = progress.extents_left * EXTENT_BYTES;
                    status.behind_bytes = status.behind_bytes.max(behind_bytes);
                    let (connected, counted) = (progress.connected, progress.counted);
                    let catch_up = progress.grade.map(|grade| CatchUp {
                        grade,
                        extents_done: progress.extents_total.saturating_sub(progress.extents_left),
                        extents_total: progress.extents_total,
                        extents_copied: progress.extents_copied,
                        bytes_per_s: progress.bytes_per_s,
                        seconds_left: progress.seconds_left,
                    });
                    let view = ReplicaView { connected, counted, behind_bytes, catch_up };
                    status.replicas.insert(node, view);
                }
            }
        }
        drop(state);
        status.snapshots = self.snapshot_views();
        status
    }
}
