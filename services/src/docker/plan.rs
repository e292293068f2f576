//! What a container is to be: everything the engine needs, decided beforehand by a recipe.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use thermidor_model::ServiceName;
use thermidor_model::spec::{HealthSpec, PortSpec};

/// Capabilities every container keeps of Docker's default set; a recipe may name fewer or others.
/// Left out: NET_RAW (forged packets on the bridge), MKNOD, SETPCAP, SETFCAP, AUDIT_WRITE.
pub const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
];

/// How many processes and threads a container may have unless its recipe says otherwise.
pub const PIDS_MAX: i64 = 2048;

/// Where an image comes from.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub enum ImageSource {
    /// A registry, or already on this machine.
    Pull {
        /// `name:tag` as in Compose.
        reference: String,
    },
    /// Built here from a packed context.
    Build {
        /// Tagged `thermidor/NAME:HASH`.
        name: String,
        /// BLAKE3 of the context and whatever else changes the result, hex.
        hash: String,
        /// Path of the Dockerfile in the context.
        dockerfile: String,
        /// Build arguments.
        args: BTreeMap<String, String>,
        /// The context, an uncompressed tar.
        #[serde(skip)]
        context: Bytes,
    },
}

impl ImageSource {
    /// The name under which Docker knows the image.
    pub fn reference(&self) -> String {
        match self {
            Self::Pull { reference } => {
                let name = reference.rsplit('/').next().unwrap_or(reference);
                if name.contains(':') || name.contains('@') {
                    reference.clone()
                } else {
                    format!("{reference}:latest")
                }
            }
            Self::Build { name, hash, .. } => {
                format!("thermidor/{name}:{}", hash.get(..16).unwrap_or(hash))
            }
        }
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference())
    }
}

/// A folder of the radiator seen inside of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// On the radiator; must exist when the container is created.
    pub host: PathBuf,
    /// Absolute path in the container.
    pub path: String,
    /// Whether the container may only read.
    pub read_only: bool,
    /// The mountpoint that must be mounted before a start (`host` or a folder above); `None`: no
    /// mountpoint is involved.
    pub mountpoint: Option<PathBuf>,
    /// Whether an empty folder is filled from the image at the first start, as Docker does
    /// with named volumes (owners included).
    pub seed: bool,
}

/// Everything about a service's container.
#[derive(Clone, PartialEq, Serialize)]
pub struct ContainerPlan {
    /// Whose container.
    pub service: ServiceName,
    /// Its image.
    pub image: ImageSource,
    /// Instead of the image's command.
    pub command: Option<Vec<String>>,
    /// Instead of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// In clear, secrets opened.
    pub environment: BTreeMap<String, String>,
    /// What the ingress publishes and leads where; Docker itself publishes nothing.
    pub ports: Vec<PortSpec>,
    /// Folders of the radiator.
    pub mounts: Vec<BindMount>,
    /// Folders in memory, with their mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// Docker's own health check.
    pub healthcheck: Option<HealthSpec>,
    /// `user:`
    pub user: Option<String>,
    /// `working_dir:`
    pub working_dir: Option<String>,
    /// Host name inside; the same on every radiator, for file names hold it.
    pub hostname: String,
    /// Memory limit, bytes.
    pub memory_max_bytes: Option<u64>,
    /// CPU limit, cores.
    pub cpus_max: Option<f64>,
    /// Processes and threads at most.
    pub pids_max: i64,
    /// Capabilities kept.
    pub capabilities: Vec<String>,
    /// Whether the image's files are read-only.
    pub read_only_root: bool,
    /// Stop budget of planned moves, s.
    pub stop_grace_s: u64,
}

impl ContainerPlan {
    /// BLAKE3 over everything a container is created from; the label `thermidor.plan`.
    /// Ports, which Docker is not told, don't count: changing them needs no new container.
    pub fn hash(&self) -> String {
        let created_from = Self { ports: Vec::new(), ..self.clone() };
        let bytes = serde_json::to_vec(&created_from).unwrap_or_default();
        blake3::hash(&bytes).to_hex()[..32].to_owned()
    }
}

/// Leaves out the environment's values: they may be secrets.
impl fmt::Debug for ContainerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerPlan")
            .field("service", &self.service)
            .field("image", &self.image)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("mounts", &self.mounts)
            .field("hash", &self.hash())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> ContainerPlan {
        ContainerPlan {
            service: ServiceName::new("notes").unwrap(),
            image: ImageSource::Pull { reference: "example/notes:1".into() },
            command: None,
            entrypoint: None,
            environment: BTreeMap::from([("KEY".to_owned(), "sesame".to_owned())]),
            ports: vec![],
            mounts: vec![],
            tmpfs: BTreeMap::new(),
            healthcheck: None,
            user: None,
            working_dir: None,
            hostname: "notes".into(),
            memory_max_bytes: None,
            cpus_max: None,
            pids_max: PIDS_MAX,
            capabilities: CAPABILITIES.map(String::from).to_vec(),
            read_only_root: false,
            stop_grace_s: 10,
        }
    }

    #[test]
    fn the_hash_follows_what_the_container_is_created_from_and_nothing_else() {
        let one = plan();
        assert_eq!(one.hash(), plan().hash());
        assert_eq!(one.hash().len(), 32);
        let port = PortSpec { published: 80, target: 80, proxy_protocol: false };
        assert_eq!(ContainerPlan { ports: vec![port], ..plan() }.hash(), one.hash());
        for other in [
            ContainerPlan { command: Some(vec![]), ..plan() },
            ContainerPlan { environment: BTreeMap::new(), ..plan() },
            ContainerPlan { stop_grace_s: 11, ..plan() },
        ] {
            assert_ne!(other.hash(), one.hash());
        }
    }

    #[test]
    fn a_plan_is_printed_without_the_values_of_its_environment() {
        let printed = format!("{:?}", plan());
        assert!(printed.contains("KEY") && !printed.contains("sesame"), "{printed}");
    }

    #[test]
    fn a_reference_without_a_tag_means_latest() {
        let of = |r: &str| ImageSource::Pull { reference: r.into() }.reference();
        assert_eq!(of("nginx"), "nginx:latest");
        assert_eq!(of("host:5000/nginx"), "host:5000/nginx:latest");
        assert_eq!(of("nginx:1"), "nginx:1");
        assert_eq!(of("nginx@sha256:abc"), "nginx@sha256:abc");
    }
}
