//! Friends: how two homes become friends, what is known of each, and what their vaults say.

mod look;
mod pair;
mod part;
mod vaults;

pub(super) use vaults::{answer, run, run_folder, vault_status_of};

use super::Context;
use anyhow::Context as _;
use std::time::Duration;
use thermidor_backup::kit::Kit;
use thermidor_backup::line::Own;
use thermidor_backup::pairing::Introduction;
use thermidor_model::ServiceName;
use thermidor_model::spec::{RecipeSpec, ServiceSpec, VAULT_PORT, VaultSpec};
use thermidor_model::state::State;
use thermidor_services::recipe;

/// How long each frame of a pairing may take.
const FRAME_MAX: Duration = Duration::from_secs(15);

/// The home's vault: its name, what is declared of it, its settings. Of several the first counts.
fn vault_of(state: &State) -> Option<(&ServiceName, &ServiceSpec, &VaultSpec)> {
    state.spec()?.services.iter().find_map(|(name, spec)| match &spec.recipe {
        Some(RecipeSpec::Vault(settings)) => Some((name, spec, settings)),
        _ => None,
    })
}

/// Where friends reach this home's vault; none without a vault, or where nobody has said it.
fn own_addresses(state: &State) -> Vec<String> {
    let Some((_, spec, settings)) = vault_of(state) else { return Vec::new() };
    if !settings.addresses.is_empty() {
        return settings.addresses.clone();
    }
    let port = recipe::ports(spec).into_iter().find(|p| p.target == VAULT_PORT).map(|p| p.published);
    let address = state.spec().and_then(|spec| spec.address);
    match (address, port) {
        (Some(address), Some(port)) => vec![std::net::SocketAddr::new(address.ip, port).to_string()],
        _ => Vec::new(),
    }
}

impl Context {
    /// What this home tells of itself to one that knows the code.
    fn introduction(&self, kit: &Kit, state: &State) -> anyhow::Result<Introduction> {
        Ok(Introduction {
            version: Introduction::VERSION,
            home: state.home.clone().context("this home is not founded yet")?,
            generation: state.generation,
            key: kit.signer()?.public(),
            transport: kit.transport()?.public(),
            addresses: own_addresses(state),
        })
    }

    /// How this home shows itself to its friends.
    pub(super) fn own_on_the_line(&self, kit: &Kit, state: &State) -> anyhow::Result<Own> {
        Ok(Own::new(&kit.transport()?, state.generation)?)
    }
}
