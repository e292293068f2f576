//! A whole home as DESIGN.md writes it, and the defaults that it leaves unsaid.

use std::collections::BTreeMap;
use thermidor_model::spec::{
    AddressSpec, EnvValue, HeatClass, Heats, HomeSpec, Notice, OnDegraded, RecipeSpec, SecretName,
    SensorSpec, SpecErrors, VolumeDriver, VolumeSpec, parse,
};

fn read(text: &str) -> Result<(HomeSpec, Vec<Notice>), SpecErrors> {
    parse(text, "home.yaml", &BTreeMap::new(), &|name| Err(format!("no file {name}")))
}

fn good(text: &str) -> HomeSpec {
    match read(text) {
        Ok((spec, _)) => spec,
        Err(errors) => panic!("{}", errors.render(false)),
    }
}

const HOME: &str = r#"
home: maison
address: 192.168.1.50/24
radiators:
  salon:
    heats: room
    power: 250
    sensor: { http: { url: "http://salon-sensor.lan/state", path: temperature } }
    comfort: { target: 20.0, schedule: { "22:00-06:00": 17.0 } }
  bureau:
    heats: room
    power: 120
    sensor: { file: /run/sensors/bureau }
    comfort: { target: 19.0 }
  ballon:
    heats: water
    tank: 200
    power: 400
    sensor: { simulated: { start: 48.0, loss_w_per_k: 2, capacity_kj_per_k: 837, outdoor: 15, speed: 1 } }
    comfort: { target: 55.0 }
placement: { move_gain_w: 60, minimum_stay: 30m, moves_per_day: 6 }
services:
  mail:
    recipe: mail
    settings:
      domain: example.org
      accounts: { marie: { password: secret:mail/marie, aliases: [contact, postmaster] } }
    volumes: [ "mail:/srv/mail" ]          # mailboxes, queue, keys
    backup: { every: 1h, to: [alice] }
  search:
    recipe: yacy
    heat: elastic
    volumes: [ "index:/opt/yacy_search_server/DATA" ]
  notes:
    image: example/notes:1
    environment: { TZ: Europe/Paris }
    ports: [ "8080:80" ]
    volumes: [ "notes:/data" ]
    place: { never: [ballon] }
volumes:
  mail:  { size: 50g, replicas: 3, durability: 2, on_degraded: continue }
  index: { size: 100g, replicas: 2 }
  notes: { size: 5g }
notify: { to: [marie@elsewhere.example], smtp: { host: smtp.elsewhere.example, user: marie, password: secret:notify } }
"#;

#[test]
fn the_home_of_the_design_is_read() {
    let (spec, notices) = read(HOME).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(spec.home.as_str(), "maison");
    assert_eq!(spec.address, Some(AddressSpec { ip: "192.168.1.50".parse().unwrap(), prefix: 24 }));
    assert_eq!(spec.radiators["ballon"].heats, Heats::Water { tank_l: 200.0 });
    let comfort = spec.radiators["salon"].comfort.clone().unwrap();
    assert_eq!(
        (comfort.target_at(12 * 60), comfort.target_at(23 * 60), comfort.target_at(60)),
        (20.0, 17.0, 17.0)
    );
    assert!(matches!(spec.radiators["salon"].sensor, Some(SensorSpec::Http { stale_s: 300, .. })));
    assert!(matches!(spec.radiators["bureau"].sensor, Some(SensorSpec::File { stale_s: 600, .. })));
    assert_eq!((spec.placement.minimum_stay_s, spec.placement.moves_per_day), (1800, 6));

    let mail = &spec.services["mail"];
    let ports: Vec<_> = mail.ports.iter().map(|p| (p.published, p.target, p.proxy_protocol)).collect();
    assert_eq!(ports, [25, 465, 587, 993].map(|p| (p, p, true)));
    assert_eq!((mail.stop_grace_s, mail.restart, mail.heat), (10, true, HeatClass::Steady));
    let Some(RecipeSpec::Mail(settings)) = &mail.recipe else { panic!("{:?}", mail.recipe) };
    assert_eq!((settings.domain.as_str(), settings.hostname.as_str()), ("example.org", "mail.example.org"));
    assert_eq!(settings.accounts["marie"].password, SecretName("mail/marie".into()));
    assert_eq!(settings.accounts["marie"].aliases.len(), 2);

    let search = &spec.services["search"];
    assert_eq!((search.stop_grace_s, search.ports[0].published, search.heat), (60, 8090, HeatClass::Elastic));
    assert_eq!(search.volumes[0].path, "/opt/yacy_search_server/DATA");

    let notes = &spec.services["notes"];
    assert_eq!(notes.environment["TZ"], EnvValue::Plain("Europe/Paris".into()));
    assert!(notes.place.never.contains("ballon"));
    let volume = |size_g: u64, replicas, durability| VolumeSpec {
        size_bytes: size_g << 30,
        replicas,
        durability,
        on_degraded: OnDegraded::Continue,
        driver: VolumeDriver::Replicated,
    };
    assert_eq!(spec.volumes["mail"], volume(50, 3, 2));
    assert_eq!(spec.volumes["index"], volume(100, 2, 2));
    assert_eq!(spec.volumes["notes"], volume(5, 3, 2));
    let notify = spec.notify.unwrap();
    assert_eq!((notify.smtp.port, notify.smtp.tls), (465, true));
    assert_eq!(notify.smtp.password, Some(SecretName("notify".into())));

    let said: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert_eq!(said, [""; 0]);
    let backup = spec.services["mail"].backup.as_ref().unwrap();
    assert_eq!((backup.every_ms, backup.drill_ms, backup.retry_ms), (3_600_000, 7 * 86_400_000, 120_000));
    assert_eq!(backup.to.iter().map(|f| f.as_str()).collect::<Vec<_>>(), ["alice"]);
}

#[test]
fn a_home_without_services_or_radiators_is_a_home() {
    let spec = good("home: maison\n");
    assert!(spec.services.is_empty() && spec.radiators.is_empty() && spec.address.is_none());
    assert!(good("home: maison\nservices:\nvolumes: {}\n").services.is_empty());
}

#[test]
fn replicas_follow_the_number_of_radiators() {
    for (radiators, replicas, durability) in [(1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 3, 2)] {
        let mut text = "home: maison\nvolumes: { data: }\nradiators:\n".to_string();
        for i in 0..radiators {
            text.push_str(&format!("  r{i}: {{ heats: room, power: 250 }}\n"));
        }
        let volume = good(&text).volumes["data"].clone();
        assert_eq!((volume.replicas, volume.durability, volume.size_bytes), (replicas, durability, 10 << 30));
    }
    let one = "home: maison\nvolumes: { data: { replication: none } }\nradiators: { r: { heats: room, power: 9 } }\n";
    assert_eq!(good(one).volumes["data"].driver, VolumeDriver::Local);
}

#[test]
fn a_shared_volume_is_a_folder_that_every_radiator_has() {
    let text = "home: maison\nvolumes: { data: { driver: shared, path: /mnt/ceph/data/ } }\n\
                radiators: { a: { heats: room, power: 9 }, b: { heats: room, power: 9 } }\n";
    let volume = &good(text).volumes["data"];
    assert_eq!(volume.driver, VolumeDriver::Shared { path: "/mnt/ceph/data".into() });
    assert_eq!((volume.replicas, volume.durability, volume.size_bytes), (2, 1, 0));
}

fn service(lines: &str) -> String {
    format!(
        "home: maison\nradiators: {{ salon: {{ heats: room, power: 250 }} }}\nservices:\n  web:\n    image: x\n{lines}"
    )
}

#[test]
fn variables_env_files_and_secrets_meet_in_the_environment() {
    let text = service(
        "    env_file: [web.env, { path: gone.env, required: false }]\n    environment:\n      - A=${COLOUR:-red}\n      - B=secret:web/b\n      - PASSED\n      - UNSET\n      - V=1.10\n",
    );
    let env: BTreeMap<String, String> = [("PASSED".to_string(), "on".to_string())].into();
    let files = |name: &str| match name {
        "web.env" => Ok("A=overridden\nC='x y'\nD=${PASSED}\n".to_string()),
        other => Err(format!("no file {other}")),
    };
    let (spec, notices) = parse(&text, "home.yaml", &env, &files).unwrap_or_else(|e| panic!("{e}"));
    let plain = |t: &str| EnvValue::Plain(t.to_string());
    let expected: BTreeMap<String, EnvValue> = [
        ("A", plain("red")),
        ("B", EnvValue::Secret(SecretName("web/b".into()))),
        ("C", plain("x y")),
        ("D", plain("on")),
        ("PASSED", plain("on")),
        ("V", plain("1.10")),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into();
    assert_eq!(spec.services["web"].environment, expected);
    let said: Vec<&str> = notices.iter().map(|n| n.message.as_str()).collect();
    assert_eq!(said, ["gone.env is left out: no file gone.env", "`UNSET` is not set here: left out"]);
}

#[test]
fn numbers_in_an_environment_stay_as_written() {
    let spec =
        good(&service("    environment: { A: 1.10, B: 0755, C: yes, D: true, E: 1e3, F: \"\", G: 0x1F }\n"));
    let env = &spec.services["web"].environment;
    let shown: Vec<(&str, &EnvValue)> = env.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let expected =
        [("A", "1.10"), ("B", "0755"), ("C", "yes"), ("D", "true"), ("E", "1e3"), ("F", ""), ("G", "0x1F")];
    assert_eq!(shown.len(), expected.len());
    for ((key, value), (name, text)) in shown.into_iter().zip(expected) {
        assert_eq!((key, value), (name, &EnvValue::Plain(text.to_string())));
    }
}

#[test]
fn anchors_and_merges_are_yaml() {
    let text = "home: maison\nx-room: &room { heats: room, power: 250 }\nradiators:\n  salon: *room\n  bureau: { <<: *room, power: 120 }\n";
    let (spec, notices) = read(text).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!((spec.radiators["salon"].power_w, spec.radiators["bureau"].power_w), (250.0, 120.0));
    assert_eq!(notices[0].to_string(), "2:1: `x-room` is ignored: extensions mean nothing here");
}

#[test]
fn compose_s_forms_are_one() {
    let short = good(&format!(
        "{}volumes: {{ data: }}\n",
        service(
            "    command: run --name 'a b'\n    ports: [\"8080:80\"]\n    volumes: [data:/data:ro]\n    healthcheck: { test: curl -f localhost, interval: 1m30s }\n"
        )
    ));
    let long = good(&format!(
        "{}volumes: {{ data: }}\n",
        service(
            "    command: [run, --name, a b]\n    ports: [{ target: 80, published: \"8080\", protocol: tcp }]\n    volumes: [{ type: volume, source: data, target: /data, read_only: true }]\n    healthcheck: { test: [CMD-SHELL, curl -f localhost], interval: 90s, retries: 3 }\n"
        )
    ));
    assert_eq!(short, long);
    let disabled = good(&service("    healthcheck: { disable: true }\n"));
    assert_eq!(disabled.services["web"].healthcheck.as_ref().unwrap().test, ["NONE"]);
}

#[test]
fn a_vault_lends_to_all_alike_but_to_whom_other_terms_were_given() {
    let text = r#"
home: maison
radiators: { salon: { heats: room, power: 250 } }
services:
  vault:
    recipe: vault
    settings:
      addresses: ["maison.example.org:7746", "[2001:db8::1]", "2001:db8::2"]
      lend: 50g
      friends: { alice: { lend: 100g, up: 2m, hours: ["22:00-06:00"] }, bob: { down: 1m } }
    volumes: [ "vault:/srv/vault" ]
volumes: { vault: { size: 300g } }
"#;
    let (spec, _) = read(text).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let Some(RecipeSpec::Vault(vault)) = &spec.services["vault"].recipe else { panic!() };
    let of = |name: &str| vault.terms(&name.parse().unwrap());
    let (lent, alice) = of("alice");
    assert_eq!((lent, alice.up_bytes_s, alice.hours.len()), (100 << 30, Some(2 << 20), 1));
    assert_eq!((of("bob").0, of("bob").1.down_bytes_s), (50 << 30, Some(1 << 20)));
    assert_eq!(of("carol").0, 50 << 30);
    assert_eq!(vault.addresses.len(), 3);
    assert_eq!(spec.services["vault"].ports[0].published, 7746);
}
