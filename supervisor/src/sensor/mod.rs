//! Where temperatures come from. A stale reading is no reading: whoever asks then gets the
//! reason in words, and the radiator's demand is unknown.

mod outside;
pub mod power;
mod simulated;

use std::path::Path;
use std::time::{Duration, Instant};
use thermidor_model::spec::SensorSpec;

pub use power::{Measured, PowerMeter};
pub use simulated::{CONTROL_FILE, Control, SimulatedRoom};

/// Below and above these a reading is nonsense, °C.
const PLAUSIBLE_C: std::ops::RangeInclusive<f64> = -60.0..=150.0;

/// How long one attempt to read may take.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer that is looked at, bytes.
pub const ANSWER_MAX: usize = 64 * 1024;

/// A temperature and how old it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// °C
    pub celsius: f64,
    /// Since it was measured.
    pub age: Duration,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The HTTP client can't be made.
    #[error("the sensor's HTTP client can't be set up")]
    Client(#[source] reqwest::Error),
    /// The URL gave no answer.
    #[error("{url} can't be read")]
    Http {
        /// Which.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The command can't be run.
    #[error("`{command}` can't be run")]
    Command {
        /// Which.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("`{command}` ended with {status}: {words}")]
    Ended {
        /// Which.
        command: String,
        /// How.
        status: std::process::ExitStatus,
        /// The first line it wrote to standard error.
        words: String,
    },
    /// The file can't be read.
    #[error("{path} can't be read")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{from} gave no answer within {} s", READ_TIMEOUT.as_secs())]
    Slow {
        /// The URL, command or file.
        from: String,
    },
    /// More than [`ANSWER_MAX`].
    #[error("{from} answers with more than {ANSWER_MAX} bytes")]
    Long {
        /// The URL, command or file.
        from: String,
    },
    /// What came is no temperature.
    #[error("{from} gives no temperature: {why}")]
    Garbage {
        /// The URL, command or file.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// The last reading is too old.
    #[error("{from} was last measured {age_s} s ago, and counts for {stale_s} s")]
    Stale {
        /// The URL, command or file.
        from: String,
        /// Age, s.
        age_s: u64,
        /// Limit, s.
        stale_s: u64,
    },
}

enum Kind {
    /// The client is made at the first reading.
    Http {
        url: String,
        path: String,
        client: Option<reqwest::Client>,
    },
    Command {
        argv: Vec<String>,
    },
    File {
        path: String,
    },
    Simulated(SimulatedRoom),
}

/// One radiator's sensor.
pub struct Sensor {
    kind: Kind,
    stale: Duration,
    last: Option<(f64, Instant)>,
}

impl Sensor {
    /// Makes the sensor; `data` is the radiator's data directory, where a simulated room finds
    /// its [`CONTROL_FILE`].
    pub fn new(spec: &SensorSpec, data: &Path) -> Self {
        let (kind, stale_s) = match spec {
            SensorSpec::Http { url, path, stale_s } => {
                let (url, path) = (url.clone(), path.clone());
                (Kind::Http { url, path, client: None }, *stale_s)
            }
            SensorSpec::Command { argv, stale_s } => (Kind::Command { argv: argv.clone() }, *stale_s),
            SensorSpec::File { path, stale_s } => (Kind::File { path: path.clone() }, *stale_s),
            SensorSpec::Simulated { start_c, loss_w_per_k, capacity_kj_per_k, outdoor_c, speed } => {
                let room = thermidor_model::heat::room::Room {
                    temperature_c: *start_c,
                    loss_w_per_k: *loss_w_per_k,
                    capacity_j_per_k: capacity_kj_per_k * 1000.0,
                };
                (Kind::Simulated(SimulatedRoom::new(room, *outdoor_c, *speed, data)), u64::MAX)
            }
        };
        Self { kind, stale: Duration::from_secs(stale_s), last: None }
    }

    /// Reads. `heat_w` is the radiator's measured power: a simulated room is warmed by it. When
    /// a reading fails, the last one serves until it is stale.
    pub async fn read(&mut self, heat_w: f64) -> Result<Reading, SensorError> {
        let fresh = match &mut self.kind {
            Kind::Simulated(room) => {
                let celsius = room.pass(Instant::now(), heat_w);
                return Ok(Reading { celsius, age: Duration::ZERO });
            }
            Kind::Http { url, path, client } => match client.clone().map_or_else(outside::client, Ok) {
                Ok(made) => outside::http(client.insert(made), url, path).await,
                Err(why) => Err(why),
            },
            Kind::Command { argv } => outside::command(argv).await,
            Kind::File { path } => outside::file(path).await,
        };
        let now = Instant::now();
        match fresh {
            Ok((celsius, age)) if age <= self.stale => {
                self.last = now.checked_sub(age).map(|measured| (celsius, measured));
                Ok(Reading { celsius, age })
            }
            Ok((_, age)) => Err(SensorError::Stale {
                from: self.from(),
                age_s: age.as_secs(),
                stale_s: self.stale.as_secs(),
            }),
            Err(why) => match self.last.map(|(celsius, at)| (celsius, now.duration_since(at))) {
                Some((celsius, age)) if age <= self.stale => {
                    tracing::warn!(error = &why as &dyn std::error::Error, "the last reading still serves");
                    Ok(Reading { celsius, age })
                }
                _ => Err(why),
            },
        }
    }

    /// The simulated room, if it is one: its outdoor temperature is known, and the control file
    /// may set a target.
    pub fn simulated(&self) -> Option<&SimulatedRoom> {
        match &self.kind {
            Kind::Simulated(room) => Some(room),
            _ => None,
        }
    }

    /// Outdoors, °C, where the sensor knows it.
    pub fn outdoor_c(&self) -> Option<f64> {
        self.simulated().map(SimulatedRoom::outdoor_c)
    }

    fn from(&self) -> String {
        match &self.kind {
            Kind::Http { url, .. } => url.clone(),
            Kind::Command { argv } => argv.join(" "),
            Kind::File { path } => path.clone(),
            Kind::Simulated(_) => "the simulated room".into(),
        }
    }
}

#[cfg(test)]
mod tests;
