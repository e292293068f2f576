//! A place to test on: an engine with a home of its own on the Docker that
//! `THERMIDOR_TEST_DOCKER` names, swept clean when it goes out of scope.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod letter;
pub mod podman;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use thermidor_services::docker::{
    CAPABILITIES, ContainerPlan, Engine, EngineConfig, Found, ImageSource, PIDS_MAX,
};

/// How long anything may take on a loaded machine before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The base image, made by `debootstrap` where no registry answers.
pub const BASE: &str = "debian:bookworm-slim";

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Stage {
    pub engine: Engine,
    pub config: EngineConfig,
    pub dir: tempfile::TempDir,
    /// Images to be removed at the end.
    pub images: Vec<String>,
}

impl Stage {
    /// The stage, unless there is no Docker: then says so and gives nothing.
    pub async fn set(test: &str) -> Option<Self> {
        let Some(socket) = std::env::var_os("THERMIDOR_TEST_DOCKER") else {
            println!("SKIPPED {test}: THERMIDOR_TEST_DOCKER names no Docker socket");
            return None;
        };
        Some(Self::on(PathBuf::from(socket), None).await)
    }

    /// The stage on the engine that listens there, its containers below that control group.
    pub async fn on(socket: PathBuf, cgroup_parent: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = format!("test-{}-{number}", std::process::id());
        let config = EngineConfig {
            socket,
            cgroup_parent,
            build_network: Some("host".into()),
            ..EngineConfig::new(home, dir.path())
        };
        let engine = Engine::connect(config.clone()).await.unwrap();
        Self { engine, config, dir, images: vec![] }
    }

    /// A folder of the stage that a container may see.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Waits until a container is as wanted.
    pub async fn until(&self, service: &ServiceName, what: &str, wanted: impl Fn(&Found) -> bool) -> Found {
        let begun = Instant::now();
        loop {
            let found = self.engine.find(service).await.unwrap();
            if let Some(found) = found.filter(&wanted) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{service} is never {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (engine, socket, images) =
            (self.engine.clone(), self.config.socket.clone(), std::mem::take(&mut self.images));
        // A runtime of its own: a test that panicked is unwinding within its own.
        let swept = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                engine.remove_trials().await.unwrap();
                for found in engine.list().await.unwrap() {
                    engine.remove(&found.service).await.unwrap();
                }
                let path = socket.to_string_lossy().into_owned();
                let docker =
                    bollard::Docker::connect_with_unix(&path, 60, bollard::API_DEFAULT_VERSION).unwrap();
                let docker = docker.negotiate_version().await.unwrap();
                for image in images {
                    let options =
                        bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
                    docker.remove_image(&image, Some(options), None).await.unwrap();
                }
            });
        })
        .join();
        if swept.is_err() && !std::thread::panicking() {
            panic!("the stage could not be swept");
        }
    }
}

pub fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// A container of the base image that runs a shell script.
pub fn script(service: &str, text: &str) -> ContainerPlan {
    ContainerPlan {
        service: name(service),
        image: ImageSource::Pull { reference: BASE.into() },
        command: Some(["bash", "-c", text].map(String::from).to_vec()),
        entrypoint: None,
        environment: BTreeMap::new(),
        ports: vec![],
        mounts: vec![],
        tmpfs: BTreeMap::new(),
        healthcheck: None,
        user: None,
        working_dir: None,
        hostname: service.into(),
        memory_max_bytes: None,
        cpus_max: None,
        pids_max: PIDS_MAX,
        capabilities: CAPABILITIES.map(String::from).to_vec(),
        read_only_root: false,
        stop_grace_s: 10,
    }
}
