//! Recipes: what Thermidor knows about a kind of service, and the settings each takes.

use super::environment::{password, secret_name};
use super::fields::{Fields, duration, filled, items, name as name_of, size, text};
use super::report::{Findings, Place};
use super::service::{Outside, choice};
use super::tree::{Key, Node};
use super::{
    CertificateSpec, MailAccountSpec, MailSpec, PortSpec, RecipeSpec, SecretName, VaultSpec, VaultTermsSpec,
    YacySpec,
};
use crate::friends::ADDRESSES_MAX;
use crate::name::HomeName;
use std::collections::{BTreeMap, BTreeSet};

/// What a recipe fills in where the YAML says nothing.
pub(super) struct Defaults {
    pub ports: Vec<PortSpec>,
    pub volume_path: Option<&'static str>,
    pub stop_grace_s: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { ports: Vec::new(), volume_path: None, stop_grace_s: 10 }
    }
}

/// SMTP, submissions, submission, IMAPS.
const MAIL_PORTS: [u16; 4] = [25, 465, 587, 993];

/// Port of a vault: friends' homes dial it.
pub const VAULT_PORT: u16 = 7746;

/// The longest address of a vault, bytes.
const ADDRESS_MAX: usize = 255;

/// What may be lent to a friend, bytes.
const LEND_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;

/// How fast a friend may send or fetch, bytes a second.
const RATE_BYTES_S: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 40;

/// YaCy's HTTP port.
const YACY_PORT: u16 = 8090;

/// YaCy writes its index out on a stop, which takes over half a minute.
const YACY_STOP_S: u64 = 60;

/// YaCy's Java heap unless said, MiB.
const YACY_HEAP_MIB: u64 = 600;

/// How often a service is probed unless said, s.
pub const PROBE_EVERY_DEFAULT_S: u64 = 300;

/// The mailbox that the probe of the mail recipe sends to itself with; nobody else may have it.
pub const PROBE_ACCOUNT: &str = "thermidor-probe";

/// How the names of secrets begin that `apply` makes of a certificate's key.
pub const CERTIFICATE_KEYS: &str = "certificate/key-of-";

/// Largest message unless said, bytes.
const MESSAGE_DEFAULT_BYTES: u64 = 50 << 20;

/// What the recipe of that name fills in.
fn defaults(recipe: &str) -> Defaults {
    match recipe {
        "mail" => Defaults {
            ports: MAIL_PORTS.map(|p| PortSpec { published: p, target: p, proxy_protocol: true }).to_vec(),
            volume_path: Some("/srv/mail"),
            stop_grace_s: 10,
        },
        "vault" => Defaults {
            ports: vec![PortSpec { published: VAULT_PORT, target: VAULT_PORT, proxy_protocol: false }],
            volume_path: Some("/srv/vault"),
            stop_grace_s: 10,
        },
        "yacy" => Defaults {
            ports: vec![PortSpec { published: YACY_PORT, target: YACY_PORT, proxy_protocol: false }],
            volume_path: Some("/opt/yacy_search_server/DATA"),
            stop_grace_s: YACY_STOP_S,
        },
        _ => Defaults::default(),
    }
}

/// Reads `recipe:` and `settings:` of a service. The defaults stand also where the settings are
/// wrong, so that one mistake is not told as several.
pub(super) fn read(
    fields: &mut Fields<'_>,
    outside: &Outside<'_>,
    findings: &mut Findings,
) -> (Option<RecipeSpec>, Defaults) {
    let recipe = fields.take("recipe");
    let settings = fields.take_entry("settings");
    let Some(recipe) = recipe else {
        if let Some((key, _)) = settings {
            findings
                .error(key.place, format!("`{}` without a recipe", fields.at("settings")))
                .help("settings are a recipe's; an image takes `environment:`");
        }
        return (None, Defaults::default());
    };
    let Some(name) = text(recipe, &fields.at("recipe"), findings) else { return (None, Defaults::default()) };
    let path = fields.at("settings");
    let inner = match settings {
        Some((key, node)) => Fields::of(node, key.place, &path, findings),
        None => Some(Fields::empty(fields.place, &path)),
    };
    let spec = inner.and_then(|inner| match name {
        "mail" => mail(inner, outside, findings).map(RecipeSpec::Mail),
        "vault" => vault(inner, findings).map(RecipeSpec::Vault),
        "yacy" => yacy(inner, findings).map(RecipeSpec::Yacy),
        other => {
            choice(recipe, &fields.at("recipe"), other, &["mail", "vault", "yacy"], findings);
            None
        }
    });
    (spec, defaults(name))
}

fn mail(mut fields: Fields<'_>, outside: &Outside<'_>, findings: &mut Findings) -> Option<MailSpec> {
    let domain = fields.need("domain", "example.org", findings);
    let domain = domain.and_then(|n| host_name(n, &fields.at("domain"), findings));
    let hostname = fields.take("hostname").map(|n| host_name(n, &fields.at("hostname"), findings));
    let message_max_bytes = fields.take("message_max").map_or(Some(MESSAGE_DEFAULT_BYTES), |n| {
        size(n, &fields.at("message_max"), 64 << 10..=1 << 30, findings)
    });
    let accounts = match fields.take("accounts") {
        Some(node) => accounts(node, &fields.at("accounts"), findings),
        None => BTreeMap::new(),
    };
    let probe_every_s = fields.take("probe_every").map_or(Some(PROBE_EVERY_DEFAULT_S), |n| {
        duration(n, &fields.at("probe_every"), 5_000..=86_400_000, findings).map(|ms| ms / 1000)
    });
    let certificate = fields.take_entry("certificate").map(|(k, n)| certificate(k, n, outside, findings));
    let known = ["domain", "hostname", "accounts", "message_max", "certificate", "probe_every"];
    fields.finish(&known, findings);
    let domain = domain?;
    let hostname = hostname.unwrap_or_else(|| Some(format!("mail.{domain}")))?;
    Some(MailSpec {
        domain,
        hostname,
        accounts,
        message_max_bytes: message_max_bytes?,
        certificate: certificate.map_or(Some(None), |given| given.map(Some))?,
        probe_every_s: probe_every_s?,
    })
}

/// `certificate:`: a chain beside the YAML, and its key as a sealed secret or beside it too. Whether
/// the two fit, and the clock, is looked at by `apply`.
fn certificate(
    key: &Key,
    node: &Node,
    outside: &Outside<'_>,
    findings: &mut Findings,
) -> Option<CertificateSpec> {
    const PATH: &str = "certificate";
    let mut fields = Fields::of(node, key.place, PATH, findings)?;
    let chain = fields.need("chain", "fullchain.pem", findings);
    let chain_pem = chain.and_then(|n| {
        let file = filled(n, "certificate.chain", findings)?;
        let text = match (outside.files)(file) {
            Ok(text) => text,
            Err(e) => {
                findings.error(n.place, e);
                return None;
            }
        };
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            findings
                .error(n.place, format!("`{file}` holds no certificate"))
                .help("name a PEM file, such as certbot's fullchain.pem");
            return None;
        }
        // What stands around the certificates, a key perhaps, is nobody's business.
        Some(certificates_of(&text))
    });
    let given = fields.need("key", "secret:mail/certificate-key", findings);
    let given = given.and_then(|n| Some((n, filled(n, "certificate.key", findings)?)));
    fields.finish(&["chain", "key"], findings);
    let (chain_pem, (key_node, given)) = (chain_pem?, given?);
    if given.starts_with("secret:") {
        let name = secret_name(given, key_node.place, findings)?;
        return Some(CertificateSpec { chain_pem, key: name, key_file: None });
    }
    if given.contains("-----BEGIN") {
        findings.conceal(key_node.place);
        findings
            .error(key_node.place, "the key stands in clear in the file")
            .help("name the file that holds it, or seal it and write `secret:NAME`");
        return None;
    }
    // Another chain is another secret, so that both change at one moment.
    let hash = blake3::hash(chain_pem.as_bytes()).to_hex();
    let name = SecretName(format!("{CERTIFICATE_KEYS}{}", &hash[..16]));
    Some(CertificateSpec { chain_pem, key: name, key_file: Some(given.to_string()) })
}

/// The certificates of a PEM file, one after the other.
fn certificates_of(text: &str) -> String {
    let (mut kept, mut inside) = (String::new(), false);
    for line in text.lines().map(str::trim_end) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    kept
}

fn host_name(node: &Node, path: &str, findings: &mut Findings) -> Option<String> {
    let given = filled(node, path, findings)?.trim().trim_end_matches('.').to_ascii_lowercase();
    let label_good = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if given.len() > 253 || !given.contains('.') || !given.split('.').all(label_good) {
        findings
            .error(node.place, format!("`{path}` is `{given}`, which is no domain"))
            .help("write it as in `example.org`");
        return None;
    }
    Some(given)
}

fn accounts(node: &Node, path: &str, findings: &mut Findings) -> BTreeMap<String, MailAccountSpec> {
    let mut read = BTreeMap::new();
    // Who already receives which local part, and where that is said.
    let mut taken: BTreeMap<String, (String, Place)> = BTreeMap::new();
    let Some(mut all) = Fields::of(node, node.place, path, findings) else { return read };
    let entries = all.take_all();
    for (key, _) in &entries {
        taken.insert(key.text.clone(), (format!("the account {}", key.text), key.place));
    }
    for (key, value) in entries {
        let path = format!("{path}.{}", key.text);
        local_part(&key.text, key.place, findings);
        let Some(mut fields) = Fields::of(value, key.place, &path, findings) else { continue };
        let suggest = format!("mail/{}", key.text);
        let password = fields
            .need("password", &format!("secret:{suggest}"), findings)
            .and_then(|n| password(n, &fields.at("password"), &suggest, findings));
        let mut aliases = BTreeSet::new();
        if let Some(node) = fields.take("aliases") {
            for item in items(node, &fields.at("aliases"), findings) {
                let Some(alias) = text(item, &fields.at("aliases"), findings) else { continue };
                if !local_part(alias, item.place, findings) {
                    continue;
                }
                if let Some((owner, place)) = taken.get(alias) {
                    findings
                        .error(item.place, format!("`{path}`: the alias `{alias}` is taken by {owner}"))
                        .also(*place, format!("{owner} here"))
                        .help("each address reaches one account");
                    continue;
                }
                taken.insert(alias.to_string(), (format!("an alias of {}", key.text), item.place));
                aliases.insert(alias.to_string());
            }
        }
        fields.finish(&["password", "aliases"], findings);
        if let Some(password) = password {
            read.insert(key.text.clone(), MailAccountSpec { password, aliases });
        }
    }
    read
}

fn local_part(given: &str, place: Place, findings: &mut Findings) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let sound = (1..=64).contains(&given.len())
        && given.chars().all(good)
        && given.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !given.ends_with('.')
        && !given.contains("..");
    if !sound {
        let help = match given.split_once('@') {
            Some((local, _)) => format!("write what stands before the @: `{local}`"),
            None => "use a-z, 0-9, `.`, `-` and `_`".to_string(),
        };
        findings.error(place, format!("`{given}` is no local part of an address")).help(help);
    }
    if given == PROBE_ACCOUNT {
        findings
            .error(place, format!("`{given}` is the mailbox of the home's own probe"))
            .help("take another name");
        return false;
    }
    sound
}

fn yacy(mut fields: Fields<'_>, findings: &mut Findings) -> Option<YacySpec> {
    const NETWORKS: &[&str] = &["freeworld", "webportal", "intranet"];
    let network = fields.take("network").map_or(Some("freeworld".to_string()), |n| {
        let given = text(n, &fields.at("network"), findings)?;
        if !NETWORKS.contains(&given) {
            choice(n, &fields.at("network"), given, NETWORKS, findings);
            return None;
        }
        Some(given.to_string())
    });
    let heap_mib = fields.take("heap").map_or(Some(YACY_HEAP_MIB), |n| {
        size(n, &fields.at("heap"), 256 << 20..=256 << 30, findings).map(|bytes| bytes >> 20)
    });
    fields.finish(&["network", "heap"], findings);
    Some(YacySpec { network: network?, heap_mib: heap_mib? })
}

fn vault(mut fields: Fields<'_>, findings: &mut Findings) -> Option<VaultSpec> {
    let lend = fields.need("lend", "50g", findings);
    let lend_bytes = lend.and_then(|n| size(n, &fields.at("lend"), LEND_BYTES, findings));
    let addresses = match fields.take("addresses") {
        Some(node) => addresses(node, &fields.at("addresses"), findings),
        None => Some(Vec::new()),
    };
    let mut friends = BTreeMap::new();
    if let Some((key, node)) = fields.take_entry("friends")
        && let Some(mut all) = Fields::of(node, key.place, &fields.at("friends"), findings)
    {
        for (key, node) in all.take_all() {
            let path = all.at(&key.text);
            let friend = name_of::<HomeName>(&key.text, key.place, findings);
            let terms = terms(key, node, &path, findings);
            if let (Some(friend), Some(terms)) = (friend, terms) {
                friends.insert(friend, terms);
            }
        }
    }
    fields.finish(&["addresses", "lend", "friends"], findings);
    Some(VaultSpec { addresses: addresses?, lend_bytes: lend_bytes?, friends })
}

/// Where this home is reached: host, or host and port.
fn addresses(node: &Node, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let mut read = Vec::new();
    for item in items(node, path, findings) {
        let given = filled(item, path, findings)?.trim();
        let host = match given.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => Some(host),
            Some((host, _)) => Some(given).filter(|_| host.contains(':')),
            None => Some(given),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        if given.len() > ADDRESS_MAX || !host.is_some_and(|host| !host.is_empty() && host.chars().all(plain))
        {
            findings
                .error(item.place, format!("`{path}`: `{given}` is no address"))
                .help("write a host, or host and port, as in `maison.example.org:7746`");
            return None;
        }
        read.push(given.to_string());
    }
    if read.len() > ADDRESSES_MAX {
        findings.error(node.place, format!("`{path}` names more than {ADDRESSES_MAX} addresses"));
        return None;
    }
    Some(read)
}

fn terms(key: &Key, node: &Node, path: &str, findings: &mut Findings) -> Option<VaultTermsSpec> {
    let mut fields = Fields::of(node, key.place, path, findings)?;
    let mut bytes = |key: &str, range, findings: &mut Findings| {
        fields.take(key).map(|n| size(n, &format!("{path}.{key}"), range, findings))
    };
    let lend_bytes = bytes("lend", LEND_BYTES, findings);
    let up_bytes_s = bytes("up", RATE_BYTES_S, findings);
    let down_bytes_s = bytes("down", RATE_BYTES_S, findings);
    let hours = match fields.take("hours") {
        Some(node) => super::backup::windows(node, &fields.at("hours"), findings),
        None => Vec::new(),
    };
    fields.finish(&["lend", "up", "down", "hours"], findings);
    let given = |read: Option<Option<u64>>| match read {
        None => Some(None),
        Some(read) => read.map(Some),
    };
    Some(VaultTermsSpec {
        lend_bytes: given(lend_bytes)?,
        up_bytes_s: given(up_bytes_s)?,
        down_bytes_s: given(down_bytes_s)?,
        hours,
    })
}
