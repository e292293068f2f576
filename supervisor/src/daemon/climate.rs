//! How warm it is where this radiator stands, how much heat it wants, and what power it takes.

use super::Context;
use crate::sensor::Sensor;
use crate::sensor::power::PowerMeter;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_model::heat::{Controller, Sample, target_c};
use thermidor_model::placement::Now;
use thermidor_model::spec::{RadiatorSpec, SensorSpec};
use thermidor_model::state::State;
use thermidor_model::{RadiatorName, ServiceName};
use thermidor_services::docker::cgroup_of;

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
        let cpu = self.cpu_so_far();
        let power_w = self.declared.as_ref().map_or(0.0, |(_, spec)| spec.power_w);
        let measured = self.meter.measure(power_w, &cpu);
        let mut reading = Reading {
            power_w: measured.power_w,
            service_w: measured.service_w,
            memory_free_bytes: measured.memory_free_bytes,
            cores: measured.cores,
            troubles: measured.trouble.into_iter().collect(),
            ..Reading::default()
        };
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        let Some((name, _)) = &self.declared else { return reading };
        reading.target_c = target_c(state, name, now.minute_of_day);
        let mut outdoor_c = None;
        if let Some(sensor) = &mut self.sensor {
            match sensor.read(reading.power_w).await {
                Ok(read) => reading.temperature_c = Some(read.celsius),
                Err(e) => reading.troubles.push(e.to_string()),
            }
            outdoor_c = sensor.simulated().map(|room| room.outdoor_c());
            if let Some(c) = sensor.simulated().and_then(|room| room.target_c()) {
                reading.target_c = Some(c);
            }
        }
        if let (Some(controller), Some(temperature_c), Some(target_c)) =
            (&mut self.controller, reading.temperature_c, reading.target_c)
        {
            let seconds = elapsed.as_secs_f64() * self.speed;
            let heat_w = reading.power_w;
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
            Some(Sensor::new(sensor, &self.context.paths.data))
        });
        self.controller = declared.as_ref().map(|(_, spec)| Controller::new(spec.power_w, HOLD_S));
        // A simulated room shares its machine with others (a demo): only its own services warm it.
        let simulated = declared.as_ref().and_then(|(_, spec)| spec.sensor.as_ref());
        let simulated = matches!(simulated, Some(SensorSpec::Simulated { .. }));
        self.meter = PowerMeter::of_this_machine().shared(simulated);
        self.declared = declared;
    }

    /// CPU time that each running service has taken so far, read from its control group.
    fn cpu_so_far(&self) -> BTreeMap<ServiceName, Duration> {
        let running: Vec<(ServiceName, u32)> = {
            let found = self.context.shared.lock();
            let pid = |s: &super::found::Seen| s.found.pid.filter(|_| s.found.running);
            found.containers.iter().filter_map(|(n, s)| Some((n.clone(), pid(s)?))).collect()
        };
        let time = |pid| cgroup_of(pid).and_then(|group| group.cpu_ns()).ok().map(Duration::from_nanos);
        running.into_iter().filter_map(|(name, pid)| Some((name, time(pid)?))).collect()
    }
}
