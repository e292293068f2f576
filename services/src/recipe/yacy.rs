//! The recipe for YaCy, a search engine: the official image, its DATA on a replicated volume,
//! a stop budget long enough for its index, and a patient probe.

use super::context::{Asset, image};
use super::{Ground, RecipeError, compose, demand_volume_at};
use crate::docker::{ContainerPlan, ImageSource};
use crate::probe::Probe;
use std::time::Duration;
use thermidor_model::ServiceName;
use thermidor_model::spec::{PortSpec, ServiceSpec, YacySpec};

/// The official image.
pub const IMAGE: &str = "yacy/yacy_search_server:latest";
/// `image:` that asks for the stand-in instead; for tests, where no registry can be reached.
pub const STAND_IN: &str = "thermidor/yacy-standin";
/// Where YaCy keeps everything.
pub const DATA: &str = "/opt/yacy_search_server/DATA";
/// Its own hook waits up to 30 s for the index; Docker's usual 10 s would kill it.
pub const STOP_GRACE_S: u64 = 60;
/// Without login; answers as soon as YaCy is up.
pub const ALIVE: &str = "/Status.html";
/// Port of its pages.
pub const HTTP: u16 = 8090;
const HTTPS: u16 = 8443;

/// Image of the stand-in, which speaks YaCy's documented endpoints.
pub fn stand_in() -> ImageSource {
    image(
        "yacy-standin",
        &[
            Asset {
                path: "Dockerfile",
                bytes: include_bytes!("../../yacy-standin/Dockerfile"),
                executable: false,
            },
            Asset {
                path: "standin.py",
                bytes: include_bytes!("../../yacy-standin/standin.py"),
                executable: false,
            },
        ],
    )
}

pub(super) fn ports(declared: &[PortSpec]) -> Vec<PortSpec> {
    if !declared.is_empty() {
        return declared.to_vec();
    }
    [HTTP, HTTPS].map(|port| PortSpec { published: port, target: port, proxy_protocol: false }).to_vec()
}

pub(super) fn resolve(
    service: &ServiceName,
    spec: &ServiceSpec,
    settings: &YacySpec,
    ground: &Ground<'_>,
) -> Result<ContainerPlan, RecipeError> {
    demand_volume_at(service, spec, DATA)?;
    let source = match spec.image.as_deref() {
        Some(STAND_IN) => stand_in(),
        Some(other) => ImageSource::Pull { reference: other.to_owned() },
        None => ImageSource::Pull { reference: IMAGE.to_owned() },
    };
    let mut plan = compose::plan(service, spec, ground, source)?;
    // YaCy turns YACY_FOO_BAR into its setting foo.bar. The heap counts from the second start on:
    // a first start always takes 600 MB.
    let defaults = [
        ("YACY_NETWORK_UNIT_DEFINITION", format!("defaults/yacy.network.{}.unit", settings.network)),
        ("YACY_JAVASTART_XMX", format!("Xmx{}m", settings.heap_mib)),
    ];
    for (name, value) in defaults {
        plan.environment.entry(name.to_owned()).or_insert(value);
    }
    Ok(plan)
}

/// Liveness, at a published port. After a crash YaCy may rebuild its index for hours: silence is told, but only a
/// container that ends counts as dead. So callers must not restart on this probe's word.
pub fn probe(port: u16) -> Probe {
    Probe::Http { port, path: ALIVE.into(), limit: Duration::from_secs(10) }
}
