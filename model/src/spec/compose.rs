//! What becomes of each field of a Compose service: taken, said and ignored, or refused.

use super::fields::{Fields, boolean, join, text, unknown};
use super::report::Findings;
use super::tree::{Key, Node, Value};

/// Keys of a service that are read.
pub(super) const TAKEN: &[&str] = &[
    "image",
    "build",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "ports",
    "volumes",
    "healthcheck",
    "user",
    "working_dir",
    "mem_limit",
    "cpus",
    "stop_grace_period",
    "restart",
    "recipe",
    "settings",
    "heat",
    "place",
    "backup",
];

/// Keys of a service that change nothing here, and why.
const IGNORED: &[(&str, &str)] = &[
    ("container_name", "containers are named after their service"),
    ("labels", "labels are not passed on"),
    ("label_file", "labels are not passed on"),
    ("annotations", "annotations are not passed on"),
    ("logging", "logs are kept bounded and shown by `thermidor logs`"),
    ("expose", "only `ports:` are reachable"),
    ("hostname", "a container's host name is Thermidor's to give"),
    ("domainname", "a container's host name is Thermidor's to give"),
    ("platform", "images are pulled for the radiator's own platform"),
    ("pull_policy", "images are pulled on every candidate before they are needed"),
    ("stdin_open", "services have no terminal"),
    ("tty", "services have no terminal"),
    ("attach", "logs are shown by `thermidor logs`"),
    ("init", "a container is stopped with its whole cgroup, so no process outlives it"),
    ("cap_drop", "capabilities are dropped to a short list anyway"),
    ("pids_limit", "a limit of processes is always set"),
    ("read_only", "only volumes survive a move anyway"),
    ("mem_reservation", "only `mem_limit:` counts"),
    ("memswap_limit", "only `mem_limit:` counts"),
    ("mem_swappiness", "only `mem_limit:` counts"),
    ("cpu_shares", "only `cpus:` counts"),
    ("oom_score_adj", "only `mem_limit:` counts"),
    ("develop", "that is for development"),
];

/// Keys of a service that are refused, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    (
        "privileged",
        "services run unprivileged; give the image what it needs as `environment:` and `volumes:`",
    ),
    ("network_mode", "services have their own network; publish what is needed with `ports:`"),
    (
        "depends_on",
        "services don't wait for one another yet; let this one retry, or use an image that holds both",
    ),
    (
        "networks",
        "services don't share networks yet; reach another by its published port on the home's address",
    ),
    ("secrets", "write `environment: { NAME: secret:NAME }` and `thermidor secret set NAME`"),
    ("configs", "put the file into a volume, or into the image with `build:`"),
    ("links", "reach another service by its published port on the home's address"),
    ("external_links", "reach another service by its published port on the home's address"),
    ("deploy", "write `mem_limit:` and `cpus:`; where it runs is `place:`, and one instance is active"),
    ("scale", "one instance of a service is active; the other radiators stand by"),
    ("profiles", "every declared service runs; take it out of the file to stop it"),
    ("extends", "write the fields out, or share them with a YAML anchor"),
    ("devices", "a service must run on any radiator: use what is reachable by network"),
    ("gpus", "a service must run on any radiator, with or without a GPU"),
    ("device_cgroup_rules", "a service must run on any radiator: use what is reachable by network"),
    ("cap_add", "services run with a short list of capabilities"),
    ("security_opt", "services always run with no new privileges and the default profiles"),
    ("sysctls", "services don't change their kernel's settings"),
    ("ulimits", "limits are `mem_limit:` and `cpus:`"),
    ("tmpfs", "write `/tmp` without it: what is not in a volume is gone after a move anyway"),
    ("shm_size", "shared memory has Docker's 64m"),
    ("extra_hosts", "use names that the home's DNS resolves"),
    ("dns", "services use the radiator's DNS"),
    ("dns_search", "services use the radiator's DNS"),
    ("dns_opt", "services use the radiator's DNS"),
    ("volumes_from", "a volume belongs to one service"),
    ("volume_driver", "say it for each volume under the top-level `volumes:`"),
    ("pid", "services have their own processes"),
    ("ipc", "services have their own IPC"),
    ("uts", "services have their own host name"),
    ("userns_mode", "services run under the radiator's own mapping"),
    ("cgroup", "a service's cgroup is how its lease is enforced"),
    ("cgroup_parent", "a service's cgroup is how its lease is enforced"),
    ("group_add", "set the group with `user: uid:gid`"),
    ("runtime", "services use Docker's default runtime"),
    ("isolation", "services use Docker's default isolation"),
    ("mac_address", "services are reached at the home's address"),
    ("stop_signal", "set STOPSIGNAL in the image, with `build:`"),
    ("post_start", "do it in the image's entrypoint"),
    ("pre_stop", "do it in the image, on its stop signal"),
    ("cpu_count", "write `cpus:`"),
    ("cpu_percent", "write `cpus:`"),
    ("cpu_period", "write `cpus:`"),
    ("cpu_quota", "write `cpus:`"),
    ("cpu_rt_period", "write `cpus:`"),
    ("cpu_rt_runtime", "write `cpus:`"),
    ("cpuset", "write `cpus:`"),
    ("blkio_config", "disk bandwidth is not shared out yet"),
    ("storage_opt", "give the data a volume of the right `size:`"),
    ("oom_kill_disable", "write a larger `mem_limit:`"),
    ("credential_spec", "that is for Windows"),
    ("provider", "run the service itself with `image:`"),
    ("models", "run the model as a service of its own"),
    ("use_api_socket", "services can't command Docker"),
];

/// Top-level keys that are read.
pub(super) const TOP_TAKEN: &[&str] =
    &["home", "address", "radiators", "placement", "services", "volumes", "notify"];

const TOP_IGNORED: &[(&str, &str)] =
    &[("version", "the version of a Compose file says nothing any more"), ("name", "the name is `home:`")];

const TOP_REFUSED: &[(&str, &str)] = &[
    (
        "networks",
        "services don't share networks yet; reach another by its published port on the home's address",
    ),
    ("secrets", "secrets are set with `thermidor secret set NAME` and used as `secret:NAME`"),
    ("configs", "put the file into a volume, or into the image with `build:`"),
    ("include", "one file declares the home: copy the services into it"),
    ("models", "run the model as a service of its own"),
];

/// Deals with what is left of a service once its taken fields were read.
pub(super) fn rest_of_service(mut fields: Fields<'_>, findings: &mut Findings) {
    for (key, node) in fields.take_all() {
        if harmless(key, node, findings) {
            continue;
        }
        sort_out(key, &fields.path, IGNORED, REFUSED, TAKEN, findings);
    }
}

/// Deals with what is left of the file once its taken fields were read.
pub(super) fn rest_of_file(mut fields: Fields<'_>, findings: &mut Findings) {
    for (key, node) in fields.take_all() {
        if !matches!(node.value, Value::Null) || !TOP_REFUSED.iter().any(|(k, _)| *k == key.text) {
            sort_out(key, "", TOP_IGNORED, TOP_REFUSED, TOP_TAKEN, findings);
        }
    }
}

/// Refused keys whose value asks for nothing beyond what is done anyway.
fn harmless(key: &Key, node: &Node, findings: &mut Findings) -> bool {
    let single = match &node.value {
        Value::Text(text) => Some(text.as_str()),
        Value::Null => return REFUSED.iter().any(|(k, _)| *k == key.text),
        Value::List(items) if items.is_empty() => return REFUSED.iter().any(|(k, _)| *k == key.text),
        Value::List(items) if items.len() == 1 => match &items[0].value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        },
        _ => None,
    };
    let why = match (key.text.as_str(), single) {
        ("privileged" | "oom_kill_disable" | "use_api_socket", Some("false")) => "that is the default",
        ("network_mode", Some("bridge" | "default")) => "services have their own network",
        ("networks", Some("default")) => "services have their own network",
        ("scale", Some("1")) => "one instance is active",
        ("security_opt", Some("no-new-privileges:true" | "no-new-privileges")) => "that is always on",
        _ => return false,
    };
    findings.notice(key.place, format!("`{}` is ignored: {why}", key.text));
    true
}

fn sort_out(
    key: &Key,
    path: &str,
    ignored: &[(&str, &str)],
    refused: &[(&str, &str)],
    taken: &[&str],
    findings: &mut Findings,
) {
    let name = key.text.as_str();
    if name.starts_with("x-") {
        findings.notice(key.place, format!("`{name}` is ignored: extensions mean nothing here"));
    } else if let Some((_, why)) = ignored.iter().find(|(k, _)| *k == name) {
        findings.notice(key.place, format!("`{name}` is ignored: {why}"));
    } else if let Some((_, instead)) = refused.iter().find(|(k, _)| *k == name) {
        findings.error(key.place, format!("`{}` is refused", join(path, name))).help(*instead);
    } else {
        unknown(key, path, taken, findings);
    }
}

/// `restart:`: whether the service is started again, by our back-off.
pub(super) fn restart(node: &Node, key: &Key, path: &str, findings: &mut Findings) -> Option<bool> {
    let given = text(node, path, findings)?;
    let counted = given.strip_prefix("on-failure:").is_some_and(|n| n.parse::<u32>().is_ok());
    match given {
        "no" | "false" => Some(false),
        "always" | "unless-stopped" | "on-failure" => {
            findings.notice(
                key.place,
                format!("`restart: {given}`: started again with Thermidor's own back-off"),
            );
            Some(true)
        }
        _ if counted => {
            findings.notice(
                key.place,
                format!("`restart: {given}`: started again with Thermidor's own back-off"),
            );
            Some(true)
        }
        _ => {
            findings
                .error(node.place, format!("`{path}` is `{given}`"))
                .help("write no, always, on-failure or unless-stopped");
            None
        }
    }
}

/// A boolean that must not be true: `external: true`.
pub(super) fn must_be_false(node: &Node, path: &str, instead: &str, findings: &mut Findings) {
    if boolean(node, path, findings) == Some(true) {
        findings.error(node.place, format!("`{path}: true` is refused")).help(instead);
    }
}
