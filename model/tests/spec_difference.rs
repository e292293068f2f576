//! What `apply` says before it does anything.

use std::collections::BTreeMap;
use thermidor_model::spec::{HomeSpec, Kind, difference, parse};
use thermidor_model::state::{Overrides, State};

fn spec(text: &str) -> HomeSpec {
    let read = parse(text, "home.yaml", &BTreeMap::new(), &|_| Err("gone".to_string()));
    read.unwrap_or_else(|e| panic!("{}", e.render(false))).0
}

const OLD: &str = "
home: maison
address: 192.168.1.50/24
radiators:
  salon: { heats: room, power: 250, comfort: { target: 20 } }
  bureau: { heats: room, power: 120 }
services:
  notes: { image: notes:1, ports: [\"80:80\"], volumes: [\"notes:/data\"], environment: { A: 1, TOKEN: secret:t } }
  old: { image: old, volumes: [\"old:/data\"] }
volumes: { notes: { size: 5g }, old: { size: 1g } }
";

const NEW: &str = "
home: maison
radiators:
  salon: { heats: room, power: 300, comfort: { target: 20 } }
  cave: { heats: water, tank: 100, power: 400 }
  bureau: { heats: room, power: 120 }
placement: { minimum_stay: 1h }
services:
  notes: { image: notes:2, ports: [\"81:80\"], volumes: [\"notes:/data\"], environment: { A: 2, B: x },
    backup: { every: 1h, to: [alice], windows: [\"22:00-06:00\"], retry: 10m } }
  search: { recipe: yacy, volumes: [index] }
volumes: { notes: { size: 8g, durability: 1 }, index: }
notify: { to: a@b.c, smtp: { host: s.c } }
";

#[test]
fn the_same_home_changes_nothing() {
    let difference = difference(Some(&spec(OLD)), &spec(OLD), &State::default());
    assert!(difference.is_empty() && !difference.needs_consent());
    assert_eq!(difference.to_string(), "nothing changes\n");
}

#[test]
fn every_change_is_one_line_with_its_consequence() {
    let overrides = Overrides { targets_c: [("salon".parse().unwrap(), 21.0)].into() };
    let state = State { overrides, ..State::default() };
    let shown = difference(Some(&spec(OLD)), &spec(NEW), &state).to_string();
    let expected = "\
- address: 192.168.1.50/24  (clients must be sent there)
~ radiators.salon.power: 250 W -> 300 W
+ radiators.cave: water of 100 l, 400 W  (expected: it has not joined yet, see `thermidor invite`)
~ placement.minimum_stay: 30m -> 1h
~ services.notes.image: notes:1 -> notes:2  (the service restarts)
~ services.notes.environment.A  (the service restarts)
+ services.notes.environment.B  (the service restarts)
- services.notes.environment.TOKEN  (the service restarts)
- services.notes.ports: 80:80
+ services.notes.ports: 81:80
+ services.notes.backup: every 1h to alice, 22:00-06:00, tried every 168h, again after 10m
+ services.search: yacy in freeworld
- services.old: old  (it stops; its volumes are kept)
~ volumes.notes.size: 5 GiB -> 8 GiB  (it grows)
~ volumes.notes.replicas: 2 -> 3  (its data is copied)
~ volumes.notes.durability: 2 -> 1
+ volumes.index: 10 GiB, 3 replicas, durability 2
- volumes.old: 1 GiB, 2 replicas, durability 2  (kept until `thermidor volume rm old`)
+ notify: a@b.c through s.c:465
- target of salon: 21 by CLI, 20 in YAML  (cleared, unless with --keep-overrides)
";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&shown), sorted(expected), "{shown}");
}

#[test]
fn values_of_the_environment_are_not_shown() {
    let old = spec(OLD);
    let mut new = old.clone();
    let notes = new.services.get_mut("notes").unwrap();
    notes.environment.insert("A".into(), thermidor_model::spec::EnvValue::Plain("topsecret".into()));
    let shown = difference(Some(&old), &new, &State::default()).to_string();
    assert_eq!(shown, "~ services.notes.environment.A  (the service restarts)\n");
}

#[test]
fn a_first_home_is_all_new_and_removals_want_consent() {
    let first = difference(None, &spec(OLD), &State::default());
    assert!(first.changes.iter().all(|c| c.kind == Kind::Added), "{first}");
    assert!(!first.needs_consent());
    let last = difference(Some(&spec(OLD)), &spec("home: maison\n"), &State::default());
    assert!(last.needs_consent() && last.changes.iter().all(|c| c.kind == Kind::Removed), "{last}");
}

#[test]
fn a_shrinking_volume_and_a_foreign_home_are_refused_before_they_are_proposed() {
    let mut state = State { home: Some("chalet".parse().unwrap()), ..State::default() };
    state.volumes.insert(
        "notes".parse().unwrap(),
        thermidor_model::state::Volume {
            service: "notes".parse().unwrap(),
            size_bytes: 6 << 30,
            driver: Default::default(),
            replicas_wanted: 2,
            durability: 2,
            on_degraded: thermidor_model::spec::OnDegraded::Continue,
            port: 7500,
            epoch: 0,
            active: None,
            replicas: BTreeMap::new(),
            in_sync: Default::default(),
            set_version: 0,
        },
    );
    let difference = difference(None, &spec(OLD), &state);
    assert_eq!(
        difference.refusals,
        [
            "this home is chalet, the file declares maison",
            "volume notes has 6 GiB and can't shrink to 5 GiB: make one of another name, copy, and remove the old one",
        ]
    );
    assert!(difference.to_string().contains("the kept one is used again, with its data"));
}
