//! The container engine of this radiator: Docker, or Podman behind Docker's API.
//!
//! Every call has a limit, so that a hung engine is an error in words and never a hang.
//! Containers carry labels by which a restarted daemon finds and adopts them; the epoch a
//! container was started in is kept in a small file beside the daemon's data.

mod cgroup;
mod create;
mod epoch;
mod error;
mod image;
mod inspect;
mod mounts;
mod pack;
mod plan;
mod run;
mod seed;
mod socket;
mod trial;
mod watch;

pub use cgroup::{Cgroup, cgroup_of};
pub use error::EngineError;
pub use pack::pack_context;
pub use plan::{BindMount, CAPABILITIES, ContainerPlan, ImageSource, PIDS_MAX};
pub use run::Found;
pub use socket::{podman_socket, usual_socket};
pub use trial::LABEL_TRIAL;
pub use watch::{ContainerEvent, LogLine, Usage};

use bollard::{API_DEFAULT_VERSION, Docker};
use epoch::Epochs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::ServiceName;
use tokio::sync::Mutex;

/// Label: which home (and, where radiators share an engine, which radiator) a container belongs to.
pub const LABEL_HOME: &str = "thermidor.home";
/// Label: which service.
pub const LABEL_SERVICE: &str = "thermidor.service";
/// Label: [`ContainerPlan::hash`].
pub const LABEL_PLAN: &str = "thermidor.plan";
/// Label: JSON of the mounts, read again at a start.
const LABEL_MOUNTS: &str = "thermidor.mounts";

/// The client library's own limit; ours below are what counts.
const CLIENT_LIMIT_S: u64 = 24 * 3600;

/// How long each kind of call may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Asking something.
    pub ask: Duration,
    /// Creating, starting, killing, removing; and what a stop may take beyond its budget.
    pub act: Duration,
    /// Building or pulling an image, all in all.
    pub image: Duration,
    /// Silence within a build or pull.
    pub image_silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(5),
            act: Duration::from_secs(20),
            image: Duration::from_secs(3600),
            image_silence: Duration::from_secs(600),
        }
    }
}

/// Which engine, and for whom.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// Value of [`LABEL_HOME`], also part of container names: the home's name, and where several
    /// radiators share an engine also the radiator's. Of `a-z0-9.-`.
    pub home: String,
    /// Where the epochs are kept: a folder of the daemon's data.
    pub epochs: PathBuf,
    /// Docker network of the containers; `None`: the engine's default bridge.
    pub network: Option<String>,
    /// Network of builds (`host` where containers have no way out); `None`: the engine's default.
    pub build_network: Option<String>,
    /// The control group below which the engine puts containers; `None`: the engine's default.
    pub cgroup_parent: Option<String>,
    /// How long calls may take.
    pub limits: Limits,
}

impl EngineConfig {
    /// The usual socket, network and limits.
    pub fn new(home: impl Into<String>, data: &Path) -> Self {
        Self {
            socket: usual_socket(),
            home: home.into(),
            epochs: data.join("epochs"),
            network: None,
            build_network: None,
            cgroup_parent: None,
            limits: Limits::default(),
        }
    }
}

/// The radiator's container engine. Cheap to clone; survives the engine's own restarts.
#[derive(Clone)]
pub struct Engine {
    config: Arc<EngineConfig>,
    epochs: Epochs,
    client: Arc<std::sync::OnceLock<Docker>>,
    building: Arc<Mutex<()>>,
}

impl Engine {
    /// Takes the configuration; speaks to nobody yet, so that a daemon starts while Docker is gone.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let epochs = Epochs::open(&config.epochs)?;
        Ok(Self { config: Arc::new(config), epochs, client: Arc::default(), building: Arc::default() })
    }

    /// As [`Engine::new`], and makes sure that the engine answers.
    pub async fn connect(config: EngineConfig) -> Result<Self, EngineError> {
        let engine = Self::new(config)?;
        engine.client().await?;
        Ok(engine)
    }

    /// Whether the engine answers now.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let client = self.client().await?;
        self.call("ping", self.config.limits.ask, client.ping()).await.map(drop)
    }

    /// The name of a service's container.
    pub fn container(&self, service: &ServiceName) -> String {
        format!("thermidor.{}.{service}", self.config.home)
    }

    /// The client, its version of the API agreed upon with the engine (1.41 and newer).
    async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        // Several may get here at once: each waits for its own limit, none for another's.
        let what = "connect";
        let path = self.config.socket.to_string_lossy().into_owned();
        let raw = Docker::connect_with_unix(&path, CLIENT_LIMIT_S, API_DEFAULT_VERSION)
            .map_err(|e| EngineError::from_bollard(what, e))?;
        let client = self.call(what, self.config.limits.ask, raw.negotiate_version()).await?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Waits for an answer, but no longer than `limit`.
    async fn call<T>(
        &self,
        what: &str,
        limit: Duration,
        answer: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(limit, answer).await {
            Err(_) => Err(EngineError::Slow { what: what.to_owned(), limit }),
            Ok(answer) => answer.map_err(|e| EngineError::from_bollard(what, e)),
        }
    }
}
