//! Where a service could run now.

use super::view::View;
use crate::name::{NodeId, ServiceName};
use crate::observe::Readiness;
use crate::spec::ServiceSpec;

/// Why a service can't run on a radiator now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// In words, as in "bureau: image is being built".
    pub words: String,
    /// Whether waiting may be all it takes.
    pub passing: bool,
}

fn lasting<T>(words: impl Into<String>) -> Result<T, Obstacle> {
    Err(Obstacle { words: words.into(), passing: false })
}

fn passing<T>(words: impl Into<String>) -> Result<T, Obstacle> {
    Err(Obstacle { words: words.into(), passing: true })
}

/// Whether the service could be started on a radiator at once. Whether it *should* (the
/// radiator is off, or the service died there) is for the rank to say: a service on a
/// radiator that is off is better than none.
pub(super) fn feasible(
    view: &View<'_>,
    service: &ServiceName,
    spec: &ServiceSpec,
    node: NodeId,
) -> Result<(), Obstacle> {
    let Some(member) = view.state.members.get(&node) else { return lasting("it left the home") };
    if let Some(words) = view.forbidden(spec, member) {
        return lasting(words);
    }
    if member.off.is_some_and(|off| off.power_off) {
        return lasting("its power is to be cut");
    }
    let behind: Vec<&str> = view
        .state
        .volumes_of(service)
        .filter(|(_, v)| !v.in_sync.contains(&node))
        .map(|(name, _)| name.as_str())
        .collect();
    if !behind.is_empty() {
        return passing(format!("not in sync for {}", behind.join(", ")));
    }
    let Some(report) = view.report(node).filter(|_| view.heard(node)) else {
        return passing("not heard");
    };
    if let Some(words) = view.broken_volume(service, node) {
        return lasting(words);
    }
    match report.images.get(service) {
        Some(Readiness::Ready) => {}
        Some(Readiness::Preparing(what)) => return passing(what.clone()),
        Some(Readiness::Failed(why)) => return lasting(why.clone()),
        None => return passing("its image is not there yet"),
    }
    match spec.memory_max_bytes {
        Some(wanted) if report.memory_free_bytes < wanted && !report.instances.contains_key(service) => {
            passing(format!(
                "{} MiB of memory free, it may take {}",
                report.memory_free_bytes >> 20,
                wanted >> 20
            ))
        }
        _ => Ok(()),
    }
}
