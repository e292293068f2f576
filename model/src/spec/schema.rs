//! The JSON Schema of `home.yaml`, for editors. Its types are shapes only: reading is done
//! with places, in the other files; a test holds both against each other.
#![allow(dead_code, reason = "the types below are only described, never built")]

use schemars::JsonSchema;
use std::collections::BTreeMap;

/// The JSON Schema of `home.yaml`.
pub fn schema() -> serde_json::Value {
    let mut value = schemars::schema_for!(Home).to_value();
    for definition in ["Home", "Service"] {
        allow_extensions(&mut value, definition);
    }
    value
}

/// Lets `x-` keys stand where Compose lets them.
fn allow_extensions(schema: &mut serde_json::Value, definition: &str) {
    let place =
        if definition == "Home" { Some(schema) } else { schema.pointer_mut(&format!("/$defs/{definition}")) };
    if let Some(object) = place.and_then(|p| p.as_object_mut()) {
        object.insert("patternProperties".into(), serde_json::json!({ "^x-": true }));
    }
}

/// A home: its radiators, and what runs on them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "home.yaml")]
struct Home {
    /// The home's name, as given to `thermidor init`.
    home: String,
    /// The floating address with its network's length: `192.168.1.50/24`.
    address: Option<String>,
    /// The radiators by name.
    radiators: Option<BTreeMap<String, Radiator>>,
    /// What a move must gain, and how often it may happen.
    placement: Option<Placement>,
    /// The services by name.
    services: Option<BTreeMap<String, Service>>,
    /// The volumes by name.
    volumes: Option<BTreeMap<String, Option<Volume>>>,
    /// Whom to mail when something happens.
    notify: Option<Notify>,
}

/// A radiator.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Radiator {
    /// What its heat goes into.
    heats: Heats,
    /// Litres of the tank, with `heats: water`.
    tank: Option<f64>,
    /// Full electric power, W.
    power: f64,
    /// Where its temperature is read.
    sensor: Option<Sensor>,
    /// The temperature that is wanted.
    comfort: Option<Comfort>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Heats {
    Room,
    Water,
}

/// Where a temperature is read; one of them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Sensor {
    /// GET a URL and take a number of its JSON.
    http: Option<TextOr<Http>>,
    /// A file that holds the number.
    file: Option<TextOr<File>>,
    /// A program that prints the number.
    command: Option<Command>,
    /// A room or tank that exists only on paper.
    simulated: Option<Simulated>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum TextOr<T> {
    Text(String),
    Long(T),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Http {
    /// `http://` or `https://`.
    url: String,
    /// Dotted path to the number in the JSON, `a.b.0.c`; none: the body is the number.
    path: Option<String>,
    /// A reading older than that counts no more; 5m unless given.
    stale: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct File {
    /// Absolute path.
    path: String,
    /// A reading older than that counts no more; 10m unless given.
    stale: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
    Long(CommandLong),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct CommandLong {
    /// Program and arguments.
    run: Words,
    /// A reading older than that counts no more; 5m unless given.
    stale: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Words {
    Line(String),
    Words(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Simulated {
    /// Temperature at the start, °C.
    start: f64,
    /// Loss to outdoors, W/K.
    loss_w_per_k: f64,
    /// Heat capacity, kJ/K.
    capacity_kj_per_k: f64,
    /// Outdoor temperature, °C.
    outdoor: f64,
    /// How many times faster than real time; 1 unless given.
    speed: Option<f64>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Comfort {
    /// Wanted temperature, °C: 5 to 30 in a room, 20 to 75 in a tank.
    target: f64,
    /// Other targets at times of the day: `"22:00-06:00": 17`.
    schedule: Option<BTreeMap<String, f64>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Placement {
    /// Least gain of a move, W; 60 unless given.
    move_gain_w: Option<f64>,
    /// Least stay after a start or move; 30m unless given.
    minimum_stay: Option<String>,
    /// Most heat moves of one service in 24 hours; 6 unless given.
    moves_per_day: Option<u32>,
}

/// A service: Compose's fields, and ours.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// What Thermidor knows how to run.
    recipe: Option<Recipe>,
    /// The recipe's settings.
    settings: Option<Settings>,
    /// The image to run.
    image: Option<String>,
    /// A folder beside the YAML to build the image from.
    build: Option<TextOr<Build>>,
    /// Program and arguments.
    command: Option<Words>,
    /// Program in front of the command.
    entrypoint: Option<Words>,
    /// Variables; `secret:NAME` takes a sealed secret.
    environment: Option<Environment>,
    /// Files of variables.
    env_file: Option<EnvFiles>,
    /// Published TCP ports: `"8080:80"`.
    ports: Option<Vec<Port>>,
    /// Named volumes: `"data:/data"`.
    volumes: Option<Vec<TextOr<Mount>>>,
    /// How to see that it is well.
    healthcheck: Option<Health>,
    /// `uid`, or `uid:gid`.
    user: Option<TextOrNumber>,
    /// Absolute path.
    working_dir: Option<String>,
    /// Most memory: `512m`.
    mem_limit: Option<TextOrNumber>,
    /// Most processors.
    cpus: Option<TextOrNumber>,
    /// How long it may take to stop on a move; 10s unless given.
    stop_grace_period: Option<String>,
    /// Whether it is started again when it ended; always unless `no`.
    restart: Option<String>,
    /// `elastic` work may be throttled for its heat.
    heat: Option<HeatShape>,
    /// Where it may run.
    place: Option<PlaceShape>,
    /// To which friends it is backed up, and how often.
    backup: Option<Backup>,
    /// Ignored.
    container_name: Option<String>,
    /// Ignored.
    labels: Option<serde_json::Value>,
    /// Ignored.
    logging: Option<serde_json::Value>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Backup {
    /// How often: `1h`.
    every: String,
    /// To which friends.
    to: Vec<String>,
    /// Times of the day at which a backup may begin: `22:00-06:00`; the whole day unless given.
    windows: Option<Vec<String>>,
    /// How often a restore is tried, aside; 7d unless given, `never` for never.
    drill: Option<String>,
    /// How long is waited before what passes by itself (a friend is away) is tried again, doubled each time, and after a
    /// start; 2m unless given.
    retry: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Recipe {
    Mail,
    Vault,
    Yacy,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Settings {
    Mail(MailSettings),
    Vault(VaultSettings),
    Yacy(YacySettings),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct VaultSettings {
    /// What each friend may keep here: `50g`.
    lend: String,
    /// Where friends reach this home: `maison.example.org:7746`; the home's `address` unless given.
    addresses: Option<Vec<String>>,
    /// Other terms for some friends, by their names.
    friends: Option<BTreeMap<String, VaultTerms>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct VaultTerms {
    /// What this friend may keep here.
    lend: Option<String>,
    /// Bytes a second it may send: `2m`.
    up: Option<String>,
    /// Bytes a second it may fetch.
    down: Option<String>,
    /// Times of the day at which it may send: `22:00-06:00`; the whole day unless given.
    hours: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct MailSettings {
    /// The mail domain.
    domain: String,
    /// The server's name; `mail.` and the domain unless given.
    hostname: Option<String>,
    /// Accounts by local part.
    accounts: Option<BTreeMap<String, Account>>,
    /// Largest message; 50m unless given.
    message_max: Option<String>,
    /// A certificate of your own; one of the home's authority unless given.
    certificate: Option<CertificateSettings>,
    /// How often the probe sends a message round; 5m unless given.
    probe_every: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct CertificateSettings {
    /// A PEM file beside this one: the server's certificate and those that signed it.
    chain: String,
    /// `secret:NAME`, or a PEM file beside this one, which `apply` seals.
    key: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Account {
    /// `secret:NAME`, set with `thermidor secret set NAME`.
    #[schemars(regex(pattern = "^secret:"))]
    password: String,
    /// Other local parts that reach it.
    aliases: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct YacySettings {
    /// `freeworld` unless given.
    network: Option<YacyNetwork>,
    /// Java heap; 600m unless given.
    heap: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum YacyNetwork {
    Freeworld,
    Webportal,
    Intranet,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Build {
    /// The folder, relative to the YAML.
    context: Option<String>,
    /// The Dockerfile inside of it.
    dockerfile: Option<String>,
    /// Build arguments.
    args: Option<Environment>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Environment {
    Map(BTreeMap<String, Option<Scalar>>),
    List(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Scalar {
    Text(String),
    Number(f64),
    Boolean(bool),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum TextOrNumber {
    Text(String),
    Number(f64),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum EnvFiles {
    One(String),
    Many(Vec<TextOr<EnvFile>>),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct EnvFile {
    /// The file, relative to the YAML.
    path: String,
    /// Whether it must be there; true unless given.
    required: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Port {
    Short(String),
    Long(PortLong),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PortLong {
    /// Port in the container.
    target: TextOrNumber,
    /// Port on the home's address.
    published: TextOrNumber,
    /// Only `tcp`.
    protocol: Option<String>,
    /// Whether the service takes a PROXY v2 header there.
    proxy_protocol: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Mount {
    /// Only `volume`.
    r#type: Option<String>,
    /// The volume's name.
    source: String,
    /// Absolute path in the container.
    target: String,
    /// Whether it may only be read.
    read_only: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Health {
    /// `["CMD", ...]`, `["CMD-SHELL", line]`, `["NONE"]` or a line of shell.
    test: Option<Words>,
    /// 30s unless given.
    interval: Option<String>,
    /// 30s unless given.
    timeout: Option<String>,
    /// 0s unless given.
    start_period: Option<String>,
    /// 3 unless given.
    retries: Option<u32>,
    /// Turns the image's own check off.
    disable: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum HeatShape {
    Steady,
    Elastic,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PlaceShape {
    /// Radiators it may run on; all unless given.
    only: Option<Vec<String>>,
    /// Radiators it must not run on.
    never: Option<Vec<String>>,
}

/// A volume.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Volume {
    /// Its size: `50g`; 10g unless given.
    size: Option<TextOrNumber>,
    /// How many radiators hold it; 3, or all where there are fewer.
    replicas: Option<u32>,
    /// How many must hold a write before it is acknowledged; 2, or `replicas` where that is less.
    durability: Option<u32>,
    /// What to do below `durability`; `continue` unless given.
    on_degraded: Option<Degraded>,
    /// `none`: a plain folder on one radiator.
    replication: Option<Replication>,
    /// `shared`: a folder of a file system that all radiators have mounted, at `path`.
    driver: Option<Driver>,
    /// With `driver: shared`, where: a folder below the mountpoint.
    path: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Driver {
    /// Compose's own, ignored.
    Local,
    Shared,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Degraded {
    Continue,
    Stop,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Replication {
    None,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Notify {
    /// Mail addresses.
    to: Recipients,
    /// The sender; `thermidor@` and the server's host unless given.
    from: Option<String>,
    /// An outside mail server.
    smtp: Smtp,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Recipients {
    One(String),
    Many(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Smtp {
    /// Its host name.
    host: String,
    /// 465 (TLS from the start) unless given; any other uses STARTTLS.
    port: Option<u16>,
    /// Whether TLS is demanded; true unless given.
    tls: Option<bool>,
    /// Login.
    user: Option<String>,
    /// `secret:NAME`.
    #[schemars(regex(pattern = "^secret:"))]
    password: Option<String>,
}
