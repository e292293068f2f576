//! A room that exists only here, warmed by what the radiator really computes.

use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;
use thermidor_model::heat::room::Room;

/// Name of the file in the data directory through which a simulated room is changed while it
/// lives, `{"outdoor_c": -5, "target_c": 21}`; each field may be left out.
pub const CONTROL_FILE: &str = "sim.json";

/// What the control file may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Outdoors, °C.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outdoor_c: Option<f64>,
    /// Wanted instead of the declared target, °C.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_c: Option<f64>,
}

/// A simulated room.
#[derive(Debug)]
pub struct SimulatedRoom {
    room: Room,
    declared_outdoor_c: f64,
    control: Control,
    speed: f64,
    control_path: PathBuf,
    last: Option<Instant>,
}

impl SimulatedRoom {
    pub(super) fn new(room: Room, outdoor_c: f64, speed: f64, data: &Path) -> Self {
        let control_path = data.join(CONTROL_FILE);
        let control = Control::default();
        Self { room, declared_outdoor_c: outdoor_c, control, speed, control_path, last: None }
    }

    /// Lets the room live until `now` with the radiator's measured power; its temperature then, °C.
    pub(super) fn pass(&mut self, now: Instant, heat_w: f64) -> f64 {
        self.obey();
        let seconds = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        self.last = Some(now);
        let heat_w = if heat_w.is_finite() { heat_w.max(0.0) } else { 0.0 };
        self.room.step(heat_w, self.outdoor_c(), seconds * self.speed);
        self.room.temperature_c
    }

    /// Outdoors now, °C.
    pub fn outdoor_c(&self) -> f64 {
        self.control.outdoor_c.unwrap_or(self.declared_outdoor_c)
    }

    /// The target that the control file sets, °C.
    pub fn target_c(&self) -> Option<f64> {
        self.control.target_c
    }

    /// How many times faster than real time it lives.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Reads the control file; one that is broken (or half written) changes nothing.
    fn obey(&mut self) {
        match std::fs::read(&self.control_path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(control) => self.control = control,
                Err(error) => {
                    tracing::warn!(path = %self.control_path.display(), %error, "the simulated room stays as it is");
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => self.control = Control::default(),
            Err(error) => {
                tracing::warn!(path = %self.control_path.display(), %error, "the simulated room stays as it is");
            }
        }
    }
}
