//! Blocks that a volume's file system does not use are given back when a person asks: by the radiator where it
//! is mounted.

use super::Context;
use super::orders::{known_volume, value};
use crate::api::Refused;
use crate::api::view::Trimmed;
use bytes::Bytes;
use serde_json::Value;
use std::time::Duration;
use thermidor_model::{State, VolumeName};
use thermidor_services::volume::control::{ControlError, VolumeControl};

/// How long it may take before whoever asked is told so.
const TRIM_MAX: Duration = Duration::from_secs(50);

/// What another member is answered: bytes in no use.
pub async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let volume: VolumeName = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let bytes = VolumeControl::new(&context.paths.run, volume).trim().await.map_err(|e| match e {
        ControlError::Refused { why, .. } => why.to_string(),
        other => other.to_string(),
    })?;
    serde_json::to_vec(&bytes).map(Bytes::from).map_err(|e| e.to_string())
}

impl Context {
    /// Trims a volume: [`Trimmed`].
    pub(super) async fn trim(&self, state: &State, volume: &VolumeName) -> Result<Value, Refused> {
        let record = known_volume(state, volume)?;
        if record.driver.is_folder() {
            let why = format!("{volume} is {}: what is deleted in a folder is free at once", record.driver);
            return Err(Refused::because(why));
        }
        let Some(node) = record.active else {
            return Err(Refused::because(format!(
                "{volume} is mounted nowhere, for its service does not run: see `thermidor status`"
            )));
        };
        let radiator = state.name_of(node);
        let refused = |words: String| Refused::because(format!("{radiator}: {words}"));
        let asked = serde_json::to_vec(volume).map_err(|e| refused(e.to_string()))?;
        let said = self.node.call(node, "trim", asked.into(), TRIM_MAX).await;
        let said = said.map_err(|e| refused(e.to_string()))?;
        let bytes = serde_json::from_slice(&said).map_err(|e| refused(e.to_string()))?;
        value(&Trimmed { radiator, bytes })
    }
}
