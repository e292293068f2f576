//! The recipe for mail: our own image of Debian's Postfix and Dovecot, and the files by which
//! the daemon tells it the household's accounts.

use super::context::{Asset, image};
use super::{Ground, RecipeError, compose, demand_volume_at};
use crate::docker::{BindMount, ContainerPlan, ImageSource};
use std::collections::BTreeMap;
use thermidor_model::ServiceName;
use thermidor_model::spec::{MailSpec, PortSpec, ServiceSpec};

pub use super::mail_config::{
    Account, ConfigError, MailConfig, SALT, hash_password, hash_password_with, is_account, write_config,
};

/// Where the volume with mailboxes and queue is seen in the container.
pub const DATA: &str = "/srv/mail";
/// The folder of it that holds the mailboxes: of each account a folder with its name.
pub const BOXES: &str = "boxes";
/// The Maildir in each.
pub const MAILDIR: &str = "Maildir";
/// Where the daemon's files are seen in the container.
pub const CONFIG: &str = "/etc/thermidor";
/// Ports of the container and, 10000 higher, their twins that demand a PROXY header and take
/// connections from the ingress only.
pub const PORTS: [u16; 4] = [25, 465, 587, 993];
/// What lies between a port and its twin.
pub const PROXY_OFFSET: u16 = 10_000;

/// What Postfix and Dovecot need: users of their own, low ports, files of several owners.
const CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// The mail image.
pub fn mail_image() -> ImageSource {
    let file = |path, bytes, executable| Asset { path, bytes, executable };
    image(
        "mail",
        &[
            file("Dockerfile", include_bytes!("../../mail/Dockerfile"), false),
            file("main.cf", include_bytes!("../../mail/main.cf"), false),
            file("master.cf", include_bytes!("../../mail/master.cf"), false),
            file("dovecot.conf", include_bytes!("../../mail/dovecot.conf"), false),
            file("entrypoint", include_bytes!("../../mail/entrypoint"), true),
        ],
    )
}

/// The declared ports (by default all four), led to the twins that take PROXY headers, so that
/// mail sees its clients' real addresses.
pub(super) fn ports(declared: &[PortSpec]) -> Vec<PortSpec> {
    let defaults: Vec<PortSpec> =
        PORTS.map(|port| PortSpec { published: port, target: port, proxy_protocol: false }).to_vec();
    let declared = if declared.is_empty() { &defaults } else { declared };
    let twin = |port: &PortSpec| {
        if PORTS.contains(&port.target) {
            PortSpec { target: port.target + PROXY_OFFSET, proxy_protocol: true, ..*port }
        } else {
            *port
        }
    };
    declared.iter().map(twin).collect()
}

pub(super) fn resolve(
    service: &ServiceName,
    spec: &ServiceSpec,
    _settings: &MailSpec,
    ground: &Ground<'_>,
) -> Result<ContainerPlan, RecipeError> {
    demand_volume_at(service, spec, DATA)?;
    let mut plan = compose::plan(service, spec, ground, mail_image())?;
    for mount in &mut plan.mounts {
        mount.seed = false;
    }
    plan.mounts.push(BindMount {
        host: ground.config.to_owned(),
        path: CONFIG.into(),
        read_only: true,
        mountpoint: None,
        seed: false,
    });
    plan.tmpfs = BTreeMap::from([
        ("/run".to_owned(), "rw,nosuid,nodev,mode=755,size=64m".to_owned()),
        ("/tmp".to_owned(), "rw,nosuid,nodev,mode=1777,size=64m".to_owned()),
    ]);
    plan.capabilities = CAPABILITIES.map(String::from).to_vec();
    plan.read_only_root = true;
    Ok(plan)
}
