//! What a radiator learns of its room: loss and heat capacity, from what its heat did.

/// Length of one observation, s: short enough to see a room react, long enough to drown a
/// sensor's steps of 0.1 K.
const WINDOW_S: f64 = 900.0;
/// How fast old observations fade, per window.
const FORGET: f64 = 0.995;
/// Windows before the figures are believed.
const WINDOWS_MIN: u32 = 16;
/// Units that make both unknowns of the order of one: 100 W and 10 K.
const HEAT_UNIT_W: f64 = 100.0;
const DIFFERENCE_UNIT_K: f64 = 10.0;
/// Bound of the uncertainty, so that a room at rest does not make it grow without end.
const DOUBT_MAX: f64 = 1e4;

/// Recursive least squares on `dT/dt = Q/C - (H/C)·(T - T_out)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// 1/C and H/C, in the units above and hours.
    x: [f64; 2],
    /// Their uncertainty.
    p: [[f64; 2]; 2],
    windows: u32,
    begun_c: Option<f64>,
    seconds: f64,
    heat_j: f64,
    above_ks: f64,
}

impl Default for Learned {
    fn default() -> Self {
        Self {
            x: [0.0; 2],
            p: [[100.0, 0.0], [0.0, 100.0]],
            windows: 0,
            begun_c: None,
            seconds: 0.0,
            heat_j: 0.0,
            above_ks: 0.0,
        }
    }
}

impl Learned {
    /// Takes what happened in the last `seconds`: heat given, temperature now, outdoors.
    pub fn observe(&mut self, temperature_c: f64, outdoor_c: f64, heat_w: f64, seconds: f64) {
        let Some(begun_c) = self.begun_c else {
            self.begun_c = Some(temperature_c);
            return;
        };
        self.seconds += seconds;
        self.heat_j += heat_w * seconds;
        self.above_ks += (temperature_c - outdoor_c) * seconds;
        if self.seconds < WINDOW_S {
            return;
        }
        let slope = (temperature_c - begun_c) / self.seconds * 3600.0;
        let heat = self.heat_j / self.seconds / HEAT_UNIT_W;
        let above = self.above_ks / self.seconds / DIFFERENCE_UNIT_K;
        self.update([heat, -above], slope);
        (self.begun_c, self.seconds, self.heat_j, self.above_ks) = (Some(temperature_c), 0.0, 0.0, 0.0);
    }

    /// Forgets the window under way, after a gap in the readings.
    pub fn gap(&mut self) {
        (self.begun_c, self.seconds, self.heat_j, self.above_ks) = (None, 0.0, 0.0, 0.0);
    }

    fn update(&mut self, phi: [f64; 2], y: f64) {
        let p = self.p;
        let p_phi = [p[0][0] * phi[0] + p[0][1] * phi[1], p[1][0] * phi[0] + p[1][1] * phi[1]];
        let scale = FORGET + phi[0] * p_phi[0] + phi[1] * p_phi[1];
        let error = y - (self.x[0] * phi[0] + self.x[1] * phi[1]);
        for (i, gain) in p_phi.iter().map(|v| v / scale).enumerate() {
            self.x[i] += gain * error;
            for j in 0..2 {
                let next = (p[i][j] - gain * p_phi[j]) / FORGET;
                self.p[i][j] = next.clamp(-DOUBT_MAX, DOUBT_MAX);
            }
        }
        self.windows = self.windows.saturating_add(1);
    }

    /// Loss to outdoors, W/K, once enough was seen and the figures make sense.
    pub fn loss_w_per_k(&self) -> Option<f64> {
        let believed = self.windows >= WINDOWS_MIN && self.x.iter().all(|v| v.is_finite() && *v > 1e-6);
        believed.then(|| self.x[1] / self.x[0] * HEAT_UNIT_W / DIFFERENCE_UNIT_K)
    }

    /// Heat capacity, J/K, likewise.
    pub fn capacity_j_per_k(&self) -> Option<f64> {
        self.loss_w_per_k()?;
        Some(3600.0 * HEAT_UNIT_W / self.x[0])
    }
}
