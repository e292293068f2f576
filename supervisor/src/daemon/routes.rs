//! The routing table for the ingress, written whenever something of it changes.

use super::Context;
use crate::paths::TUNNEL_PORT;
use std::net::SocketAddr;
use std::time::Duration;
use thermidor_model::state::State;
use thermidor_model::{NodeId, ServiceName};
use thermidor_services::ingress::{PortRoute, Route, Routes};
use tracing::warn;

/// How often a table that could not be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Writes the table for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut state = context.node.state();
    let mut written: Option<Routes> = None;
    let mut seen = context.shared.containers_changed.subscribe();
    loop {
        let home = state.borrow_and_update().clone();
        seen.borrow_and_update();
        let table = draw(&home, context.node.id(), |service| context.backend(service));
        if written.as_ref() != Some(&table) {
            match table.save(&context.paths.run) {
                Ok(()) => written = Some(table),
                Err(e) => warn!("the routing table can't be written: {e}"),
            }
        }
        if let Some(address) = home.spec().map(|s| s.address) {
            let (ip, prefix) = address.map_or((None, 0), |a| (Some(a.ip), a.prefix));
            if let Err(e) = context.guard.float(ip, prefix).await {
                tracing::debug!("the guard was not told of the address: {e:#}");
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = seen.changed() => if changed.is_err() { return },
            _ = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn draw(state: &State, node: NodeId, backend: impl Fn(&ServiceName) -> Option<std::net::IpAddr>) -> Routes {
    let spec = state.spec();
    let services = state.services.iter().filter_map(|(name, service)| {
        let declared = spec?.services.get(name)?;
        let ports = thermidor_services::recipe::ports(declared).into_iter().map(|p| PortRoute {
            published: p.published,
            target: p.target,
            proxy_protocol: p.proxy_protocol,
        });
        let mine = service.active == Some(node);
        Some(Route {
            name: name.clone(),
            epoch: service.epoch,
            active: service.active,
            backend: if mine { backend(name) } else { None },
            ports: ports.collect(),
        })
    });
    Routes {
        version: thermidor_services::ingress::ROUTES_VERSION,
        park_max_ms: state.timing.park_max_ms,
        members: state
            .members
            .iter()
            .map(|(n, m)| (*n, SocketAddr::new(m.address.ip(), TUNNEL_PORT)))
            .collect(),
        services: services.collect(),
    }
}
