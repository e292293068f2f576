//! How warm it is where this radiator stands, how much heat it wants, and what power it takes.

use super::Context;
use crate::sensor::{PowerMeter, Sensor};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_model::heat::{Controller, Sample, target_c};
use thermidor_model::placement::Now;
use thermidor_model::spec::{RadiatorSpec, SensorSpec};
use thermidor_model::state::State;
use thermidor_model::{RadiatorName, ServiceName};

/// How long a demand is held in a real room, s; simulated rooms are as much faster as they say.
const HOLD_S: f64 = 300.0;

/// What is read at one moment.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// W; `None`: unknown.
    pub demand_w: Option<f64>,
    /// °C
    pub temperature_c: Option<f64>,
    /// °C
    pub target_c: Option<f64>,
    /// W
    pub power_w: f64,
    /// W, by service.
    pub service_w: BTreeMap<ServiceName, f64>,
    /// Bytes.
    pub memory_free_bytes: u64,
    /// Cores.
    pub cores: u32,
    /// What is wrong, in words.
    pub troubles: Vec<String>,
}

/// The sensor, meter and controller of this radiator, made anew when it is declared otherwise.
pub struct Climate {
    context: Context,
    declared: Option<(RadiatorName, RadiatorSpec)>,
    sensor: Option<Sensor>,
    meter: PowerMeter,
    controller: Option<Controller>,
    /// How much faster than real time the room is.
    speed: f64,
    last: Instant,
}

impl Climate {
    /// Knows nothing yet.
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            declared: None,
            sensor: None,
            meter: PowerMeter::of_this_machine(),
            controller: None,
            speed: 1.0,
            last: Instant::now(),
        }
    }

    /// Reads sensor and meter, and asks the controller.
    pub async fn read(&mut self, state: &State, now: Now) -> Reading {
        self.follow(state);
        let declared_w = self.declared.as_ref().map_or(0.0, |(_, spec)| spec.power_w);
        let measured = self.meter.measure(declared_w, &self.cpu_seconds().await);
        let mut reading = Reading {
            power_w: measured.power_w,
            service_w: measured.service_w,
            memory_free_bytes: measured.memory_free_bytes,
            cores: measured.cores,
            ..Reading::default()
        };
        let Some((name, _)) = &self.declared else { return reading };
        reading.target_c = target_c(state, name, now.minute_of_day);
        if let Some(sensor) = &mut self.sensor {
            match sensor.read(measured.power_w).await {
                Ok(now) => reading.temperature_c = Some(now.celsius),
                Err(e) => reading.troubles.push(e.to_string()),
            }
        }
        let seconds = self.last.elapsed().as_secs_f64() * self.speed;
        self.last = Instant::now();
        if let (Some(controller), Some(temperature_c), Some(target_c)) =
            (&mut self.controller, reading.temperature_c, reading.target_c)
        {
            let outdoor_c = self.sensor.as_ref().and_then(Sensor::outdoor_c);
            let heat_w = measured.power_w;
            reading.demand_w =
                controller.demand_w(Sample { temperature_c, target_c, outdoor_c, heat_w, seconds });
        }
        // A radiator that is off wants no heat, however cold it is.
        if state.members.get(&self.context.node.id()).is_some_and(|m| m.off.is_some()) {
            reading.demand_w = reading.demand_w.map(|w| w.min(0.0));
        }
        reading
    }

    /// Takes over what is declared, if it changed.
    fn follow(&mut self, state: &State) {
        let name = state.members.get(&self.context.node.id()).map(|m| m.name.clone());
        let declared =
            name.and_then(|name| Some((name.clone(), state.spec()?.radiators.get(&name)?.clone())));
        if declared == self.declared {
            return;
        }
        self.speed = match declared.as_ref().and_then(|(_, spec)| spec.sensor.as_ref()) {
            Some(SensorSpec::Simulated { speed, .. }) => *speed,
            _ => 1.0,
        };
        self.sensor = declared.as_ref().and_then(|(_, spec)| {
            let sensor = spec.sensor.as_ref()?;
            Some(Sensor::new(sensor, spec.heats, &self.context.paths.data))
        });
        self.controller = declared.as_ref().map(|(_, spec)| Controller::new(spec.power_w, HOLD_S));
        self.declared = declared;
    }

    /// CPU time of each running service, as far as it can be had without waiting long.
    async fn cpu_seconds(&self) -> BTreeMap<ServiceName, Duration> {
        let running: Vec<ServiceName> = {
            let found = self.context.shared.lock();
            found.containers.iter().filter(|(_, c)| c.found.running).map(|(n, _)| n.clone()).collect()
        };
        let mut times = BTreeMap::new();
        for service in running {
            if let Ok(time) = self.context.engine.cpu_time(&service).await {
                times.insert(service, time);
            }
        }
        times
    }
}
