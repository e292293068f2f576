//! Homes to copy from, each parsed and checked by a test.

#![forbid(unsafe_code)]

/// The examples by file name.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("home-minimal.yaml", include_str!("../home-minimal.yaml")),
    ("home-mail.yaml", include_str!("../home-mail.yaml")),
    ("home-yacy.yaml", include_str!("../home-yacy.yaml")),
    ("home-compose.yaml", include_str!("../home-compose.yaml")),
];

#[cfg(test)]
mod tests {
    use super::EXAMPLES;
    use std::collections::{BTreeMap, BTreeSet};
    use thermidor_model::spec::{EnvValue, parse};

    #[test]
    fn every_example_is_a_home_without_anything_to_say() {
        for (name, text) in EXAMPLES {
            let read = parse(text, name, &BTreeMap::new(), &|_| Err("no file".to_string()));
            let (spec, notices) = read.unwrap_or_else(|e| panic!("{}", e.render(false)));
            assert!(!spec.services.is_empty() && !spec.volumes.is_empty(), "{name}");
            let said: Vec<String> = notices.iter().map(ToString::to_string).collect();
            let expected: &[&str] = match *name {
                "home-compose.yaml" => &["17:1: `x-household` is ignored: extensions mean nothing here"],
                _ => &[],
            };
            assert_eq!(said, expected, "{name}");
        }
    }

    #[test]
    fn every_yaml_of_the_folder_is_among_them() {
        let listed: BTreeSet<String> = EXAMPLES.iter().map(|(name, _)| name.to_string()).collect();
        let present: BTreeSet<String> = std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".yaml"))
            .collect();
        assert_eq!(listed, present);
    }

    #[test]
    fn the_compose_example_merges_its_anchor() {
        let text = EXAMPLES.iter().find(|(name, _)| *name == "home-compose.yaml").expect("it").1;
        let env = BTreeMap::from([("TZ".to_string(), "Europe/Rome".to_string())]);
        let (spec, _) = parse(text, "home.yaml", &env, &|_| Err("no file".to_string())).expect("a home");
        for service in spec.services.values() {
            assert_eq!(service.environment["TZ"], EnvValue::Plain("Europe/Rome".to_string()));
        }
        assert_eq!(spec.services["passwords"].image.as_deref(), Some("vaultwarden/server:latest"));
    }
}
