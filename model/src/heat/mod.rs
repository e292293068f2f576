//! Heat: how much of it a radiator wants, and what it does to a room or a tank.

mod controller;
mod learn;
pub mod room;

pub use controller::{Controller, Sample};
pub use learn::Learned;

use crate::name::RadiatorName;
use crate::spec::HomeSpec;
use crate::state::State;

/// The temperature wanted of a radiator at a minute of the local day, °C: the command line's
/// override before the declaration's schedule.
pub fn target_c(state: &State, radiator: &RadiatorName, minute_of_day: u16) -> Option<f64> {
    let declared =
        |spec: &HomeSpec| Some(spec.radiators.get(radiator)?.comfort.as_ref()?.target_at(minute_of_day));
    state.overrides.targets_c.get(radiator).copied().or_else(|| state.spec().and_then(declared))
}

#[cfg(test)]
mod tests;
