//! What is to be killed for which service, kept in the run directory so that a guard that was
//! killed itself knows it again at once, before any daemon has told it.

use super::REGISTRY_FILE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use thermidor_model::ServiceName;
use thermidor_services::address::Floating;
use thermidor_services::fence::Place;

/// A service's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The epoch it was started in.
    pub epoch: u64,
    /// What is to be killed.
    #[serde(flatten)]
    pub place: Place,
    /// Its first process.
    pub pid: Option<u32>,
}

/// Everything registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// By service.
    pub services: BTreeMap<ServiceName, Registered>,
    /// The home's floating address.
    pub address: Option<Floating>,
}

impl Registry {
    /// As an earlier guard left it; empty where there is none, or where it cannot be read.
    pub fn load(run_dir: &Path) -> Self {
        let path = run_dir.join(REGISTRY_FILE);
        let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.unwrap_or_else(|e: io::Error| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), error = %e, "what an earlier guard knew is lost; waiting for the daemon");
            }
            Self::default()
        })
    }

    /// Keeps it for the next guard.
    pub fn save(&self, run_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(run_dir)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.persist(run_dir.join(REGISTRY_FILE)).map(drop).map_err(|e| e.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_guard_knows_what_was_registered_and_survives_a_broken_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Registry::load(dir.path()), Registry::default());
        let mut registry = Registry::default();
        let place = Place::Cgroup("/sys/fs/cgroup/pids/docker/x".into());
        registry.services.insert("mail".parse().unwrap(), Registered { epoch: 3, place, pid: Some(7) });
        let place = Place::Container("5".repeat(64));
        registry.services.insert("notes".parse().unwrap(), Registered { epoch: 4, place, pid: None });
        registry.save(dir.path()).unwrap();
        assert_eq!(Registry::load(dir.path()), registry);
        std::fs::write(dir.path().join(REGISTRY_FILE), "{").unwrap();
        assert_eq!(Registry::load(dir.path()), Registry::default());
    }
}
