//! Which sessions are open under which epoch, so that all of them can be cut at once, and the
//! gate that every chunk passes.

use super::routes::Routes;
use crate::lease_page::LeasePage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use thermidor_model::ServiceName;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The guard's page, opened when it is first there.
#[derive(Clone)]
pub struct Leases {
    path: Arc<PathBuf>,
    page: Arc<OnceLock<LeasePage>>,
}

impl Leases {
    /// The page at a path; it need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: Arc::new(path.to_path_buf()), page: Arc::new(OnceLock::new()) }
    }

    /// Whether this radiator holds that service's lease in that epoch now.
    pub fn hold(&self, service: &ServiceName, epoch: u64) -> bool {
        if self.page.get().is_none()
            && let Ok(page) = LeasePage::open(&self.path)
        {
            self.page.get_or_init(|| page);
        }
        self.page.get().is_some_and(|page| page.holds(service.as_str(), epoch))
    }
}

/// What a session runs under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Under {
    /// The service.
    pub service: ServiceName,
    /// The epoch it was reached in.
    pub epoch: u64,
    /// It is this radiator's lease that it needs; else it passes through another's ingress.
    pub leased: bool,
}

struct Cut {
    token: CancellationToken,
    sessions: usize,
}

/// All sessions of this ingress. Cheap to clone.
#[derive(Clone, Default)]
pub struct Cuts {
    open: Arc<Mutex<BTreeMap<Under, Cut>>>,
    entered: Arc<Notify>,
}

/// A session's place among [`Cuts`]; leaving is dropping it.
pub struct Seat {
    cuts: Cuts,
    under: Under,
    token: CancellationToken,
}

impl Cuts {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<Under, Cut>) -> T) -> T {
        f(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a place.
    pub fn enter(&self, under: Under) -> Seat {
        let token = self.with(|cuts| {
            let cut = cuts
                .entry(under.clone())
                .or_insert_with(|| Cut { token: CancellationToken::new(), sessions: 0 });
            cut.sessions += 1;
            cut.token.clone()
        });
        self.entered.notify_one();
        Seat { cuts: self.clone(), under, token }
    }

    /// Ends once a session has entered since the last call.
    pub async fn entered(&self) {
        self.entered.notified().await;
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.with(|cuts| cuts.values().map(|cut| cut.sessions).sum())
    }

    /// Cuts what has lost its lease, and what runs in an older epoch than the table's.
    pub fn sweep(&self, routes: &Routes, leases: &Leases) {
        self.with(|cuts| {
            cuts.retain(|under, cut| {
                let older = routes.service(&under.service).is_none_or(|route| route.epoch > under.epoch);
                let lost = older || (under.leased && !leases.hold(&under.service, under.epoch));
                if lost {
                    tracing::info!(service = %under.service, epoch = under.epoch, sessions = cut.sessions, "cut");
                    cut.token.cancel();
                }
                !lost
            });
        });
    }
}

impl Seat {
    /// Ends when the session is to be cut.
    pub async fn cut(&self) {
        self.token.cancelled().await;
    }

    /// Whether a byte may pass now.
    pub fn open(&self, leases: &Leases) -> bool {
        !self.token.is_cancelled()
            && (!self.under.leased || leases.hold(&self.under.service, self.under.epoch))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.cuts.with(|cuts| {
            if let Some(cut) = cuts.get_mut(&self.under)
                && !self.token.is_cancelled()
            {
                cut.sessions -= 1;
                if cut.sessions == 0 {
                    cuts.remove(&self.under);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::Route;
    use super::*;
    use crate::lease_page::Held;

    #[test]
    fn sessions_are_cut_with_their_lease_or_by_a_newer_epoch_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let leases = Leases::new(&path);
        let mail: ServiceName = "mail".parse().unwrap();
        assert!(!leases.hold(&mail, 4), "no page, no lease");
        let page = LeasePage::create(&path).unwrap();
        page.set("mail", Held { epoch: 4, until_ns: u64::MAX }).unwrap();
        let route = |epoch| Route { name: mail.clone(), epoch, active: None, backend: None, ports: vec![] };
        let table = |epoch| Routes { services: vec![route(epoch)], ..Routes::default() };
        let cuts = Cuts::default();
        let under = |epoch, leased| Under { service: mail.clone(), epoch, leased };
        let (here, through) = (cuts.enter(under(4, true)), cuts.enter(under(4, false)));
        drop(cuts.enter(under(4, true)));
        cuts.sweep(&table(4), &leases);
        assert!(here.open(&leases) && through.open(&leases) && cuts.sessions() == 2);
        page.set("mail", Held { epoch: 4, until_ns: 0 }).unwrap();
        assert!(!here.open(&leases), "shut before any sweep");
        cuts.sweep(&table(4), &leases);
        assert!(here.token.is_cancelled() && through.open(&leases));
        let next = cuts.enter(under(5, false));
        drop(here);
        cuts.sweep(&table(5), &leases);
        assert!(through.token.is_cancelled() && next.open(&leases));
        drop((through, next));
        assert_eq!(cuts.sessions(), 0);
    }
}
