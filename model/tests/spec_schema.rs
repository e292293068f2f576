//! The schema for editors and the reader of `home.yaml` know the same keys.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use thermidor_model::spec::{parse, schema};

fn keys(schema: &Value, pointer: &str) -> BTreeSet<String> {
    let place = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {schema:#}"));
    place["properties"].as_object().expect("properties").keys().cloned().collect()
}

/// The keys that the reader says it knows, when asked for one it does not.
fn known(text: &str, path: &str) -> BTreeSet<String> {
    let read = parse(text, "home.yaml", &BTreeMap::new(), &|_| Err("gone".to_string()));
    let errors = read.expect_err("an unknown key");
    let message = if path.is_empty() {
        "unknown key `zzzzzzzz`".to_string()
    } else {
        format!("unknown key `zzzzzzzz` in `{path}`")
    };
    let problem = errors.problems.iter().find(|p| p.message == message).unwrap_or_else(|| panic!("{errors}"));
    let help = problem.help.as_deref().and_then(|h| h.strip_prefix("known here: ")).expect("the known keys");
    help.split(", ").map(str::to_string).collect()
}

#[test]
fn the_schema_has_the_keys_that_are_read() {
    let schema = schema();
    let z = "zzzzzzzz: 1";
    let service = |inner: &str| format!("home: a\nservices: {{ w: {{ image: x, {inner} }} }}\n");
    let radiator = |inner: &str| format!("home: a\nradiators: {{ r: {{ {inner} }} }}\n");
    let recipe = |name: &str| service(&format!("recipe: {name}, settings: {{ {z} }}"));
    let cases = [
        ("", format!("home: a\n{z}\n"), ""),
        ("/$defs/Radiator", radiator(z), "radiators.r"),
        ("/$defs/Sensor", radiator(&format!("sensor: {{ {z} }}")), "radiators.r.sensor"),
        ("/$defs/Http", radiator(&format!("sensor: {{ http: {{ {z} }} }}")), "radiators.r.sensor.http"),
        ("/$defs/File", radiator(&format!("sensor: {{ file: {{ {z} }} }}")), "radiators.r.sensor.file"),
        (
            "/$defs/CommandLong",
            radiator(&format!("sensor: {{ command: {{ {z} }} }}")),
            "radiators.r.sensor.command",
        ),
        (
            "/$defs/Simulated",
            radiator(&format!("sensor: {{ simulated: {{ {z} }} }}")),
            "radiators.r.sensor.simulated",
        ),
        ("/$defs/Comfort", radiator(&format!("comfort: {{ {z} }}")), "radiators.r.comfort"),
        ("/$defs/Placement", format!("home: a\nplacement: {{ {z} }}\n"), "placement"),
        ("/$defs/PlaceShape", service(&format!("place: {{ {z} }}")), "services.w.place"),
        ("/$defs/Build", service(&format!("build: {{ {z} }}")), "services.w.build"),
        ("/$defs/PortLong", service(&format!("ports: [{{ {z} }}]")), "services.w.ports"),
        ("/$defs/Mount", service(&format!("volumes: [{{ {z} }}]")), "services.w.volumes"),
        ("/$defs/EnvFile", service(&format!("env_file: [{{ {z} }}]")), "services.w.env_file"),
        ("/$defs/MailSettings", recipe("mail"), "services.w.settings"),
        ("/$defs/YacySettings", recipe("yacy"), "services.w.settings"),
        ("/$defs/VaultSettings", recipe("vault"), "services.w.settings"),
        (
            "/$defs/VaultTerms",
            service(&format!("recipe: vault, settings: {{ friends: {{ alice: {{ {z} }} }} }}")),
            "services.w.settings.friends.alice",
        ),
        ("/$defs/Volume", format!("home: a\nvolumes: {{ v: {{ {z} }} }}\n"), "volumes.v"),
        ("/$defs/Notify", format!("home: a\nnotify: {{ {z} }}\n"), "notify"),
        ("/$defs/Smtp", format!("home: a\nnotify: {{ smtp: {{ {z} }} }}\n"), "notify.smtp"),
    ];
    for (pointer, text, path) in cases {
        assert_eq!(keys(&schema, pointer), known(&text, path), "{pointer}");
    }
    // Of a service the schema also knows what is said and ignored.
    let read = known(&service(z), "services.w");
    let described = keys(&schema, "/$defs/Service");
    assert!(read.is_subset(&described), "{:?}", read.difference(&described));
}

#[test]
fn the_schema_refuses_unknown_keys_and_lets_extensions_stand() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], Value::Bool(false));
    assert_eq!(schema["patternProperties"]["^x-"], Value::Bool(true));
    assert_eq!(schema["required"], serde_json::json!(["home"]));
    assert_eq!(schema.pointer("/$defs/Service/patternProperties/^x-"), Some(&Value::Bool(true)));
}
