//! The routing table: what the daemon writes and the ingress follows, and the one
//! decision taken from it: which way a connection goes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thermidor_model::{NodeId, ServiceName};

/// The table's file in the run directory.
pub const ROUTES_FILE: &str = "routes.json";

/// Version of the table; one with another version is not read.
pub const ROUTES_VERSION: u32 = 1;

/// Larger files are no table.
const ROUTES_MAX_BYTES: u64 = 4 << 20;

/// Where the home's services are, as the daemon last knew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    /// [`ROUTES_VERSION`].
    pub version: u32,
    /// How long a connection is parked, ms.
    pub park_max_ms: u64,
    /// The tunnel listener of every member's ingress, this one's included.
    pub members: BTreeMap<NodeId, SocketAddr>,
    /// The services.
    pub services: Vec<Route>,
}

/// Where one service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name.
    pub name: ServiceName,
    /// Its epoch.
    pub epoch: u64,
    /// Who is active; `None`: nobody, so that connections are parked.
    pub active: Option<NodeId>,
    /// The container's address, where it runs on this radiator.
    pub backend: Option<IpAddr>,
    /// Its ports.
    pub ports: Vec<PortRoute>,
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRoute {
    /// The port every radiator answers.
    pub published: u16,
    /// The container's port.
    pub target: u16,
    /// The container is told the client's address by a PROXY header, version 2.
    pub proxy_protocol: bool,
}

/// Which way a connection goes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the container on this radiator.
    Here(SocketAddr),
    /// Through another radiator's ingress.
    Through(NodeId, SocketAddr),
    /// Nowhere yet, and why.
    Nowhere(&'static str),
}

/// From which attempt on members other than the active are asked as well: this radiator's
/// daemon may be dead and its table old.
const ASK_OTHERS_FROM: u32 = 6;

impl Default for Routes {
    fn default() -> Self {
        Self { version: ROUTES_VERSION, park_max_ms: 10_000, members: BTreeMap::new(), services: Vec::new() }
    }
}

impl Routes {
    /// Writes the table at once as a whole; for the daemon.
    pub fn save(&self, run_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(run_dir)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.persist(run_dir.join(ROUTES_FILE)).map(drop).map_err(|e| e.error)
    }

    /// A service by name.
    pub fn service(&self, name: &ServiceName) -> Option<&Route> {
        self.services.iter().find(|route| route.name == *name)
    }

    /// The service that a published port belongs to. Of two that claim it the first has it.
    pub fn by_port(&self, published: u16) -> Option<(&Route, PortRoute)> {
        self.services.iter().find_map(|route| route.port(published).map(|port| (route, port)))
    }

    /// Which way a connection to a published port goes at the `attempt`th try, 0 being the first.
    /// `holds` tells whether this radiator holds the service's lease in an epoch.
    pub fn way(
        &self,
        me: NodeId,
        published: u16,
        attempt: u32,
        holds: impl Fn(&ServiceName, u64) -> bool,
    ) -> Way {
        let Some((route, port)) = self.by_port(published) else {
            return Way::Nowhere("no service has this port");
        };
        let straight = match (route.active, route.backend) {
            (None, _) => Way::Nowhere("nobody is active"),
            (Some(active), _) if active != me => match self.members.get(&active) {
                Some(address) => Way::Through(active, *address),
                None => Way::Nowhere("the active is no member any more"),
            },
            (Some(_), _) if !holds(&route.name, route.epoch) => {
                Way::Nowhere("this radiator does not hold the lease")
            }
            (Some(_), None) => Way::Nowhere("the container has no address yet"),
            (Some(_), Some(ip)) => return Way::Here(SocketAddr::new(ip, port.target)),
        };
        // Every second attempt goes to the others in turn.
        let others = || self.members.iter().filter(|(node, _)| **node != me && Some(**node) != route.active);
        let count = others().count() as u32;
        if attempt < ASK_OTHERS_FROM || attempt.is_multiple_of(2) || count == 0 {
            return straight;
        }
        others()
            .nth((attempt / 2 % count) as usize)
            .map_or(straight, |(node, address)| Way::Through(*node, *address))
    }
}

impl Route {
    /// One of its ports.
    pub fn port(&self, published: u16) -> Option<PortRoute> {
        self.ports.iter().find(|port| port.published == published).copied()
    }
}

/// Why a table could not be read; the last good one is kept.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// No such file yet, or unreadable.
    #[error("cannot read the routing table {path}")]
    Read {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Not a table.
    #[error("{path} is no routing table")]
    Parse {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Of another version, or too large.
    #[error("{path} is no routing table: {why}")]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Looks for a new table. The table lives on a memory file system: a look is one `stat`.
pub struct RoutesFile {
    path: PathBuf,
    seen: Option<(SystemTime, u64, u64)>,
}

impl RoutesFile {
    /// The table in a run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join(ROUTES_FILE), seen: None }
    }

    /// The table, if it has changed since the last look. A fault is told once per change.
    pub fn look(&mut self) -> Option<Result<Routes, RoutesError>> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&self.path).ok()?;
        let now = (meta.modified().ok()?, meta.ino(), meta.len());
        if self.seen == Some(now) {
            return None;
        }
        self.seen = Some(now);
        Some(self.read(meta.len()))
    }

    fn read(&self, len: u64) -> Result<Routes, RoutesError> {
        let path = self.path.clone();
        if len > ROUTES_MAX_BYTES {
            return Err(RoutesError::Foreign { path, why: format!("it has {len} bytes") });
        }
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(RoutesError::Read { path, source }),
        };
        match serde_json::from_slice::<Routes>(&text) {
            Ok(routes) if routes.version == ROUTES_VERSION => Ok(routes),
            Ok(routes) => {
                Err(RoutesError::Foreign { path, why: format!("its version is {}", routes.version) })
            }
            Err(source) => Err(RoutesError::Parse { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(active: Option<NodeId>, backend: bool) -> Routes {
        let at = |node: u64| format!("127.0.0.{node}:7402").parse().unwrap();
        Routes {
            members: (1..=3).map(|node| (node, at(node))).collect(),
            services: vec![Route {
                name: "mail".parse().unwrap(),
                epoch: 4,
                active,
                backend: backend.then(|| "172.17.0.2".parse().unwrap()),
                ports: vec![PortRoute { published: 25, target: 2525, proxy_protocol: true }],
            }],
            ..Routes::default()
        }
    }

    #[test]
    fn a_connection_goes_to_the_active_and_to_the_container_only_under_the_lease() {
        let here = Way::Here("172.17.0.2:2525".parse().unwrap());
        let there = Way::Through(2, "127.0.0.2:7402".parse().unwrap());
        let holds = |_: &ServiceName, epoch| epoch == 4;
        let never = |_: &ServiceName, _| false;
        assert_eq!(routes(Some(1), true).way(1, 25, 0, holds), here);
        assert_eq!(routes(Some(2), true).way(1, 25, 0, never), there);
        for (routes, port, why) in [
            (routes(Some(1), true), 26, "no service has this port"),
            (routes(None, true), 25, "nobody is active"),
            (routes(Some(9), true), 25, "the active is no member any more"),
            (routes(Some(1), true), 25, "this radiator does not hold the lease"),
        ] {
            assert_eq!(routes.way(1, port, 0, never), Way::Nowhere(why));
        }
        assert_eq!(
            routes(Some(1), false).way(1, 25, 0, holds),
            Way::Nowhere("the container has no address yet")
        );
    }

    #[test]
    fn after_some_attempts_every_other_member_is_asked_in_turn() {
        let ways: Vec<Way> = (0..12).map(|n| routes(Some(2), false).way(1, 25, n, |_, _| false)).collect();
        let to = |node: u64| Way::Through(node, format!("127.0.0.{node}:7402").parse().unwrap());
        assert!(ways[..7].iter().all(|way| *way == to(2)));
        assert_eq!(ways[7..12], [to(3), to(2), to(3), to(2), to(3)]);
        let nobody: Vec<Way> = (6..12).map(|n| routes(None, false).way(1, 25, n, |_, _| false)).collect();
        assert!(nobody.contains(&to(2)) && nobody.contains(&to(3)));
    }

    #[test]
    fn a_table_is_read_once_per_change_and_a_broken_one_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RoutesFile::new(dir.path());
        assert!(file.look().is_none(), "no table yet");
        let table = routes(Some(1), true);
        table.save(dir.path()).unwrap();
        assert_eq!(file.look().unwrap().unwrap(), table);
        assert!(file.look().is_none());
        std::fs::write(dir.path().join(ROUTES_FILE), "{").unwrap();
        assert!(matches!(file.look(), Some(Err(RoutesError::Parse { .. }))));
        assert!(file.look().is_none());
        Routes { version: 9, ..table.clone() }.save(dir.path()).unwrap();
        assert!(matches!(file.look(), Some(Err(RoutesError::Foreign { .. }))));
        std::fs::write(dir.path().join(ROUTES_FILE), vec![b' '; ROUTES_MAX_BYTES as usize + 1]).unwrap();
        assert!(matches!(file.look(), Some(Err(RoutesError::Foreign { .. }))));
        table.save(dir.path()).unwrap();
        assert_eq!(file.look().unwrap().unwrap(), table);
    }
}
