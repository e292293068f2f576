//! Comparing a volume's replicas: an order goes to the radiator whose process takes its writes, and what a comparison
//! finds there is told to people once.

use super::orders::known_volume;
use super::{Context, within};
use crate::api::Refused;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_model::observe::ReplicaState;
use thermidor_model::replication::scrub::Record;
use thermidor_model::state::{State, Weight};
use thermidor_model::{Command, VolumeName};
use thermidor_services::volume::control::VolumeControl;
use tracing::warn;

/// How long another radiator may take to begin.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// How long the home may take to agree on a sentence.
const TELL_MAX: Duration = Duration::from_secs(5);
/// Between two looks at what was found.
const EVERY: Duration = Duration::from_secs(1);

impl Context {
    /// Has a volume's replicas compared now; answers the number of the pass.
    pub async fn check_volume(&self, volume: &VolumeName) -> Result<Value, Refused> {
        let state = self.node.state().borrow().clone();
        let record = known_volume(&state, volume)?;
        if record.driver.is_folder() {
            return Err(Refused::because(format!(
                "{volume} is {}: it has no replicas to compare",
                record.driver
            )));
        }
        let Some(active) = record.active else {
            return Err(Refused::because(format!(
                "{volume} is attached nowhere, and only its active compares it: see `thermidor explain {}`",
                record.service
            )));
        };
        let body = serde_json::to_vec(volume).map_err(|e| Refused::because(e.to_string()))?;
        let said = self.node.call(active, "check", body.into(), BEGIN_MAX).await;
        let said =
            said.map_err(|e| Refused::because(format!("{} does not begin: {e}", state.name_of(active))))?;
        let pass: u64 = serde_json::from_slice(&said).map_err(|e| Refused::because(e.to_string()))?;
        Ok(json!({ "pass": pass }))
    }

    async fn begin_check(&self, volume: &VolumeName) -> Result<u64, String> {
        VolumeControl::new(&self.paths.run, volume.clone()).check().await.map_err(|e| e.to_string())
    }

    async fn tell_what_was_found(&self, told: &mut BTreeSet<String>) -> anyhow::Result<()> {
        let state = self.node.state().borrow().clone();
        let found: Vec<(VolumeName, Record)> = {
            let found = self.shared.lock();
            let here = found.replicas.iter().filter(|(_, r)| r.state == ReplicaState::Active);
            here.filter_map(|(volume, r)| Some((volume.clone(), r.examination.clone()?))).collect()
        };
        for (volume, record) in found {
            for text in sentences(&state, &volume, &record) {
                // What another active told, or this daemon's last life, is among the events.
                if told.contains(&text) || state.events.iter().any(|event| event.text == text) {
                    continue;
                }
                warn!("{text}");
                let key = format!("check/{volume}");
                let tell = Command::Tell { weight: Weight::Mail, key, text: text.clone() };
                self.node.propose(tell, within(TELL_MAX)).await?;
                told.insert(text);
            }
        }
        Ok(())
    }
}

/// What is to be told of a comparison.
fn sentences(state: &State, volume: &VolumeName, record: &Record) -> Vec<String> {
    let name = |node| state.name_of(node);
    let repairs = record.repairs.iter().map(|repair| format!("{volume}: {}", repair.words(name)));
    let open = record.open.iter().map(|(x, finding)| format!("{volume}: {}", finding.words(*x, name)));
    repairs.chain(open).collect()
}

/// Tells for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(e) = context.tell_what_was_found(&mut told).await {
            tracing::debug!("what a comparison found is not told yet: {e:#}");
        }
    }
}

/// What another member is answered.
pub async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let volume: VolumeName = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let pass = context.begin_check(&volume).await?;
    serde_json::to_vec(&pass).map(Bytes::from).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::replication::scrub::{Finding, Repair};
    use thermidor_model::testing::{box_volume, serving_home};

    #[test]
    fn repairs_and_what_nobody_can_decide_are_told_with_the_radiators_names() {
        let state = serving_home(3, 1);
        let mut record = Record::default();
        assert!(sentences(&state, &box_volume(), &record).is_empty());
        record.repairs.push(Repair { at_ms: 1, extent: 4, wrong: vec![2] });
        let undecided =
            Finding { at_ms: 1, groups: vec![vec![1], vec![2]], unreadable: vec![], undecided: true };
        record.open.insert(9, undecided);
        assert_eq!(
            sentences(&state, &box_volume(), &record),
            [
                "box: MiB 4 was wrong on bureau and was repaired from another replica",
                "box: MiB 9 differs: salon against bureau; nobody can tell which is right, nothing was changed",
            ]
        );
    }
}
