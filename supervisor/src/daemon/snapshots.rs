//! Snapshots of volumes, wherever their replicas are: asked of the radiator that is named, or of the one that
//! fits best, whose volume process does it.

use super::Context;
use super::orders::{known_volume, member, value};
use crate::api::view::{SnapshotLine, SnapshotList};
use crate::api::{Refused, SnapshotOrder};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use thermidor_model::state::Volume;
use thermidor_model::{NodeId, RadiatorName, SnapshotName, State, VolumeName};
use thermidor_services::volume::control::{ControlError, VolumeControl};
use thermidor_services::volume::snapshot::SnapshotView;

/// How long a radiator may take to tell its snapshots.
const LIST_MAX: Duration = Duration::from_secs(5);

/// How long one may take to do something: a journal is replayed, a flush is waited for.
const DO_MAX: Duration = Duration::from_secs(50);

/// What one radiator is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    volume: VolumeName,
    order: SnapshotOrder,
}

/// What it answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Answer {
    snapshots: Vec<SnapshotView>,
    mount: Option<PathBuf>,
}

/// What another member is answered.
pub async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let Asked { volume, order } = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let control = VolumeControl::new(&context.paths.run, volume);
    let done = carry_out(&control, order).await.map_err(|e| match e {
        ControlError::Refused { why, .. } => why.to_string(),
        other => other.to_string(),
    })?;
    serde_json::to_vec(&done).map(Bytes::from).map_err(|e| e.to_string())
}

async fn carry_out(control: &VolumeControl, order: SnapshotOrder) -> Result<Answer, ControlError> {
    let mut done = Answer::default();
    match order {
        SnapshotOrder::List => done.snapshots = control.snapshots().await?,
        SnapshotOrder::Take { name } => done.snapshots.push(control.take_snapshot(name).await?),
        SnapshotOrder::Mount { name } => done.mount = Some(control.mount_snapshot(name).await?),
        SnapshotOrder::Unmount { name } => control.unmount_snapshot(name).await?,
        SnapshotOrder::Remove { name } => control.remove_snapshot(name).await?,
    }
    Ok(done)
}

impl Context {
    async fn ask_radiator(
        &self,
        node: NodeId,
        volume: &VolumeName,
        order: SnapshotOrder,
    ) -> Result<Answer, String> {
        let within = if order == SnapshotOrder::List { LIST_MAX } else { DO_MAX };
        let asked = Asked { volume: volume.clone(), order };
        let body = serde_json::to_vec(&asked).map_err(|e| e.to_string())?;
        let said = self.node.call(node, "snapshot", body.into(), within).await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&said).map_err(|e| e.to_string())
    }

    /// An order about snapshots: a [`SnapshotList`] of what is there, or of the one that was acted on.
    pub(super) async fn snapshot(
        &self,
        state: &State,
        volume: &VolumeName,
        on: Option<&RadiatorName>,
        order: SnapshotOrder,
    ) -> Result<Value, Refused> {
        let record = known_volume(state, volume)?;
        if record.driver.is_folder() {
            let why = format!("{volume} is {}: only replicated volumes have snapshots", record.driver);
            return Err(Refused::because(why));
        }
        let on = on.map(|name| holder(state, volume, record, name)).transpose()?;
        let node = match (&order, on) {
            (SnapshotOrder::List, _) => {
                let asked = on.map_or_else(|| record.replicas.keys().copied().collect(), |node| vec![node]);
                return value(&self.list(state, volume, asked).await);
            }
            (_, Some(node)) => node,
            (SnapshotOrder::Take { .. }, None) => {
                best(record, self.node.id()).ok_or_else(|| nobody(volume))?
            }
            (
                SnapshotOrder::Mount { name }
                | SnapshotOrder::Unmount { name }
                | SnapshotOrder::Remove { name },
                None,
            ) => {
                let all = self.list(state, volume, record.replicas.keys().copied().collect()).await;
                let found = whose(&all, volume, name, &state.name_of(self.node.id()))?;
                RadiatorName::new(found)
                    .ok()
                    .and_then(|name| state.node(&name))
                    .ok_or_else(|| nobody(volume))?
            }
        };
        let radiator = state.name_of(node);
        let done = self.ask_radiator(node, volume, order).await;
        let done = done.map_err(|e| Refused::because(format!("{radiator}: {e}")))?;
        let items = done.snapshots.into_iter().map(|s| SnapshotLine::of(&radiator, s)).collect();
        value(&SnapshotList { items, silent: vec![], radiator: Some(radiator), mount: done.mount })
    }

    async fn list(&self, state: &State, volume: &VolumeName, nodes: Vec<NodeId>) -> SnapshotList {
        let asked = nodes.into_iter().map(|node| async move {
            (state.name_of(node), self.ask_radiator(node, volume, SnapshotOrder::List).await)
        });
        let mut list = SnapshotList::default();
        for (radiator, said) in futures::future::join_all(asked).await {
            match said {
                Ok(said) => {
                    list.items.extend(said.snapshots.into_iter().map(|s| SnapshotLine::of(&radiator, s)));
                }
                Err(why) => list.silent.push(format!("{radiator}: {why}")),
            }
        }
        list.items.sort_by(|a, b| (a.taken_ms, &a.radiator).cmp(&(b.taken_ms, &b.radiator)));
        list
    }
}

fn nobody(volume: &VolumeName) -> Refused {
    Refused::because(format!("no radiator holds {volume} in sync: see `thermidor volume show {volume}`"))
}

/// A radiator that was named, if it keeps a replica.
fn holder(
    state: &State,
    volume: &VolumeName,
    record: &Volume,
    name: &RadiatorName,
) -> Result<NodeId, Refused> {
    let node = member(state, name)?;
    if record.replicas.contains_key(&node) {
        return Ok(node);
    }
    let holders: Vec<String> = record.replicas.keys().map(|n| state.name_of(*n)).collect();
    Err(Refused::because(format!("{name} keeps no replica of {volume}: {} do", holders.join(", "))))
}

/// Where a snapshot is taken when nobody says: here, where that can be read, else on the active.
fn best(record: &Volume, me: NodeId) -> Option<NodeId> {
    let in_sync = |node: &NodeId| record.in_sync.contains(node);
    Some(me).filter(in_sync).or(record.active.filter(in_sync)).or(record.in_sync.first().copied())
}

/// Which radiator has a snapshot of that name: this one, or the only one.
fn whose(list: &SnapshotList, volume: &VolumeName, name: &SnapshotName, me: &str) -> Result<String, Refused> {
    let mut found: Vec<&str> =
        list.items.iter().filter(|s| s.name == name.as_str()).map(|s| s.radiator.as_str()).collect();
    found.dedup();
    match found.as_slice() {
        [one] => Ok((*one).to_string()),
        several if several.contains(&me) => Ok(me.to_string()),
        [] => {
            let silent = match list.silent.as_slice() {
                [] => String::new(),
                silent => format!(" (not heard: {})", silent.join("; ")),
            };
            Err(Refused::because(format!(
                "there is no snapshot {name} of {volume}: `thermidor volume snapshots {volume}` lists them{silent}"
            )))
        }
        several => Err(Refused::because(format!(
            "{} each have a snapshot {name} of {volume}: say which with --on",
            several.join(" and ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::{box_volume, serving_home};

    fn list(of: &[(&str, &str)]) -> SnapshotList {
        let line = |(radiator, name): &(&str, &str)| SnapshotLine {
            radiator: (*radiator).into(),
            name: (*name).into(),
            taken_ms: 1,
            way: "reflink".into(),
            epoch: 1,
            kept_bytes: 0,
            mounted: None,
            lost: None,
        };
        SnapshotList { items: of.iter().map(line).collect(), ..SnapshotList::default() }
    }

    #[test]
    fn a_snapshot_is_looked_for_where_it_is() {
        let (volume, name) = (box_volume(), SnapshotName::new("s").unwrap());
        let found = |of: &[(&str, &str)]| whose(&list(of), &volume, &name, "salon").map_err(|e| e.text);
        assert_eq!(found(&[("bureau", "s"), ("salon", "t")]), Ok("bureau".into()));
        assert_eq!(found(&[("bureau", "s"), ("salon", "s")]), Ok("salon".into()));
        assert!(found(&[("bureau", "s"), ("ballon", "s")]).unwrap_err().contains("say which with --on"));
        assert!(found(&[("bureau", "t")]).unwrap_err().contains("thermidor volume snapshots box"));
    }

    #[test]
    fn it_is_taken_here_if_this_replica_is_in_sync_else_on_the_active() {
        let mut record = serving_home(3, 1).volumes[&box_volume()].clone();
        let active = record.active;
        assert_eq!(best(&record, 2), Some(2));
        record.in_sync.remove(&2);
        assert_eq!(best(&record, 2), active);
        record.in_sync.clear();
        assert_eq!(best(&record, 2), None);
    }

    #[test]
    fn whoever_keeps_no_replica_is_told_who_does() {
        let mut state = serving_home(3, 1);
        state.volumes.get_mut(&box_volume()).unwrap().replicas.remove(&2);
        let record = state.volumes[&box_volume()].clone();
        let second = RadiatorName::new(state.name_of(2)).unwrap();
        let refused = holder(&state, &box_volume(), &record, &second).unwrap_err().text;
        assert!(refused.contains("keeps no replica of box") && refused.contains("salon"), "{refused}");
    }
}
