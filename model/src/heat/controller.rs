//! A radiator's controller: proportional and integral on the error, with the loss to outdoors
//! fed forward. Its output is *all* the heat that is wanted of the radiator now, in watts,
//! whoever gives it; negative when the room is too warm.

use super::learn::Learned;

/// Proportional gain: share of full power per kelvin of error (Versatile Thermostat's 0.6).
const GAIN_PER_K: f64 = 0.6;
/// Integral time, s.
const INTEGRAL_S: f64 = 3600.0;
/// Largest share of full power the integral may hold.
const INTEGRAL_MAX: f64 = 0.5;
/// Loss assumed at first, per watt of full power: 18 W/K on 500 W.
const LOSS_PER_W: f64 = 0.036;
/// A learned loss further than this factor from the first is not believed.
const LOSS_FACTOR_MAX: f64 = 8.0;
/// A change of demand by this share of full power is told at once, a smaller one when the hold is over.
const HOLD_BAND: f64 = 0.1;
/// Demand at most, and at least negated, in full powers.
const DEMAND_MAX: f64 = 4.0;
/// Longer between two samples, and the controller begins anew, s.
const GAP_S: f64 = 1800.0;

/// What the controller sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Room or water, °C.
    pub temperature_c: f64,
    /// Wanted, °C.
    pub target_c: f64,
    /// Outdoors (for a tank: around it), °C, where known.
    pub outdoor_c: Option<f64>,
    /// Electric power now, W: all of it becomes heat.
    pub heat_w: f64,
    /// Since the last sample, s.
    pub seconds: f64,
}

/// One radiator's controller.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    declared_w: f64,
    seen_w: f64,
    hold_s: f64,
    integral_w: f64,
    learned: Learned,
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Told {
    demand_w: f64,
    target_c: f64,
    for_s: f64,
}

impl Controller {
    /// For a radiator of that full power, W; a demand is held for `hold_s` (300 in a real room)
    /// unless it changes by a tenth of the power or the target changes.
    pub fn new(power_w: f64, hold_s: f64) -> Self {
        Self {
            declared_w: power_w.max(1.0),
            seen_w: 0.0,
            hold_s,
            integral_w: 0.0,
            learned: Learned::default(),
            told: None,
        }
    }

    /// Full power, W: as declared, or what was seen beyond it.
    pub fn power_w(&self) -> f64 {
        self.declared_w.max(self.seen_w)
    }

    /// Loss to outdoors, W/K: learned, or assumed from the power.
    pub fn loss_w_per_k(&self) -> f64 {
        let assumed = self.declared_w * LOSS_PER_W;
        let learned = self.learned.loss_w_per_k();
        let sane = assumed / LOSS_FACTOR_MAX..=assumed * LOSS_FACTOR_MAX;
        learned.filter(|loss| sane.contains(loss)).unwrap_or(assumed)
    }

    /// What was learned of the room.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// The heat wanted now, W. `None` for a sample that is no number.
    pub fn demand_w(&mut self, sample: Sample) -> Option<f64> {
        let Sample { temperature_c, target_c, outdoor_c, heat_w, seconds } = sample;
        let numbers = [temperature_c, target_c, heat_w, seconds, outdoor_c.unwrap_or(0.0)];
        if numbers.iter().any(|n| !n.is_finite()) || seconds < 0.0 {
            return None;
        }
        let power = self.power_w();
        if heat_w > power {
            // Eased in, so that one wrong reading does not become the power.
            self.seen_w = (power + 0.1 * (heat_w - power)).min(2.0 * self.declared_w);
        }
        if seconds > GAP_S {
            self.learned.gap();
        } else if let Some(outdoor_c) = outdoor_c {
            self.learned.observe(temperature_c, outdoor_c, heat_w, seconds);
        }
        let error = target_c - temperature_c;
        let forward = outdoor_c.map_or(0.0, |outdoor| self.loss_w_per_k() * (target_c - outdoor));
        let plain = forward + GAIN_PER_K * power * error;
        self.integrate(plain, error, heat_w, power, seconds.min(GAP_S));
        let limit = DEMAND_MAX * power;
        Some(self.hold((plain + self.integral_w).clamp(-limit, limit), target_c, seconds))
    }

    /// The integral moves only while the radiator is in the loop: its heat follows the demand,
    /// and neither end is reached; what would lead it back to zero is always allowed. Where
    /// nobody gives the heat that is wanted, the integral fades: it has nothing to learn there.
    fn integrate(&mut self, plain: f64, error: f64, heat_w: f64, power: f64, seconds: f64) {
        let wanted = plain + self.integral_w;
        let step = GAIN_PER_K * power * error * seconds / INTEGRAL_S;
        let inside = wanted > 0.0 && wanted < power;
        let followed = heat_w >= 0.5 * wanted.max(0.0);
        if (inside && followed) || step * self.integral_w < 0.0 {
            let limit = INTEGRAL_MAX * power;
            self.integral_w = (self.integral_w + step).clamp(-limit, limit);
        } else if !followed {
            self.integral_w *= (-seconds / INTEGRAL_S).exp();
        }
    }

    fn hold(&mut self, demand_w: f64, target_c: f64, seconds: f64) -> f64 {
        let band = HOLD_BAND * self.power_w();
        if let Some(told) = &mut self.told {
            told.for_s += seconds;
            let held = told.for_s < self.hold_s && told.target_c == target_c;
            if held && (demand_w - told.demand_w).abs() < band && (demand_w > 0.0) == (told.demand_w > 0.0) {
                return told.demand_w;
            }
        }
        self.told = Some(Told { demand_w, target_c, for_s: 0.0 });
        demand_w
    }
}
