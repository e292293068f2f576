//! Wrong files: each is refused at its line and column, saying what is wrong and what would be right.

use proptest::prelude::*;
use std::collections::BTreeMap;
use thermidor_model::spec::{SpecErrors, parse};

fn errors(text: &str) -> SpecErrors {
    match parse(text, "home.yaml", &BTreeMap::new(), &|_| Err("it is not there".to_string())) {
        Err(errors) => errors,
        Ok((spec, _)) => panic!("taken: {spec:?}\nfrom:\n{text}"),
    }
}

/// Checks that `text` has exactly this one error.
fn one(text: &str, place: &str, parts: &[&str]) {
    let errors = errors(text);
    let shown = errors.to_string();
    assert_eq!(errors.problems.len(), 1, "{shown}\nfrom:\n{text}");
    assert!(shown.starts_with(&format!("home.yaml:{place}: ")), "expected {place}: {shown}\nfrom:\n{text}");
    for part in parts {
        assert!(shown.contains(part), "expected {part:?}: {shown}");
    }
    let line = text.lines().nth(errors.problems[0].place.line - 1).unwrap_or("").trim();
    assert!(errors.render(false).contains(line), "the offending line is not shown: {}", errors.render(false));
}

const ROOMS: &str =
    "radiators:\n  salon: { heats: room, power: 250 }\n  bureau: { heats: room, power: 120 }\n";

/// A file whose own lines begin at line 1.
fn home(lines: &str) -> String {
    format!("{lines}home: maison\n{}", if lines.contains("radiators:") { "" } else { ROOMS })
}

/// A service `web` whose own lines begin at line 4.
fn web(lines: &str) -> String {
    home(&format!("services:\n  web:\n    image: x\n{lines}volumes: {{ data: }}\n"))
}

#[test]
fn backups_need_a_friend_and_a_time() {
    let backup = |fields: &str| web(&format!("    backup: {fields}\n"));
    one(&backup("{ to: [alice] }"), "4:5", &["`services.web.backup` needs `every:`"]);
    one(&backup("{ every: 1h, to: [] }"), "4:30", &["names nobody", "thermidor friend ls"]);
    one(&backup("{ every: 1h, to: [alice, alice] }"), "4:38", &["names alice twice"]);
    one(&backup("{ every: 1s, to: [alice] }"), "4:22", &["services.web.backup.every"]);
    one(&backup("{ every: 1h, to: [alice], windows: [\"at night\"] }"), "4:49", &["no span of the day"]);
    one(&backup("{ every: 1h, to: [alice], drill: often }"), "4:46", &["services.web.backup.drill"]);
    one(
        &backup("{ every: 1h, to: [alice], retry: 3h }"),
        "4:46",
        &["services.web.backup.retry", "from 1s to 2h"],
    );
    let reserved = home("services:\n  home-itself:\n    image: x\n");
    one(&reserved, "2:3", &["what a vault calls the home itself"]);
}

#[test]
fn the_file_itself() {
    one("radiators: {}\n", "1:1", &["the file needs `home:`", "write `home: maison`"]);
    one("- a\n", "1:1", &["the file is a list, not a mapping"]);
    one("home: [\n", "1:7", &["this is no YAML: unclosed bracket"]);
    one("home: maison\n  x: y\n", "2:4", &["this is no YAML"]);
    one("home: Maison!\n", "1:7", &["is no home's name", "`maison-` would do"]);
    one(&home("homme: x\n"), "1:1", &["unknown key `homme`", "did you mean `home`?"]);
    one(&home("colour: red\n"), "1:1", &["unknown key `colour`", "known here: home, address"]);
    one(&home("services:\n- web\n"), "1:1", &["`services` must be a mapping, not a list"]);
    one(&home("networks: { a: {} }\n"), "1:1", &["`networks` is refused", "published port"]);
    one(
        &home("secrets: { a: { file: x } }\n"),
        "1:1",
        &["`secrets` is refused", "thermidor secret set NAME"],
    );
    one("home: maison\nhome: autre\n", "2:1", &["`home` is given twice", "keep one"]);
}

#[test]
fn addresses() {
    one(&home("address: 192.168.1.50\n"), "1:10", &["write `192.168.1.50/24`"]);
    one(&home("address: maison.lan/24\n"), "1:10", &["not `maison.lan/24`", "DHCP"]);
    one(&home("address: 192.168.1.50/33\n"), "1:10", &["192.168.1.50/33"]);
    one(&home("address: 192.168.1.255/24\n"), "1:10", &["can't be a machine's address"]);
    one(&home("address: 127.0.0.1/8\n"), "1:10", &["can't be a machine's address"]);
}

#[test]
fn radiators() {
    let salon = |fields: &str| home(&format!("radiators:\n  salon: {{ {fields} }}\n"));
    one(&salon("power: 250"), "2:3", &["`radiators.salon` needs `heats:`", "heats: room"]);
    one(&salon("heats: rom, power: 250"), "2:19", &["room or water, not `rom`", "did you mean `room`?"]);
    one(&salon("heats: water, power: 250"), "2:19", &["how much is not said", "tank: 200"]);
    one(&salon("heats: room, power: 250, tank: 9"), "2:37", &["has no tank"]);
    one(&salon("heats: room, power: 250W"), "2:32", &["in watts, not `250W`", "write `power: 250`"]);
    one(&salon("heats: room, power: -5"), "2:32", &["is -5 in watts: it must be from 1 to 20000"]);
    one(&salon("heats: room, power: 250, comfort: { target: 68 }"), "2:56", &["5 to 30", "68 °F is 20.0"]);
    one(
        &salon("heats: room, power: 250, comfort: { target: 20C }"),
        "2:56",
        &["not `20C`", "write `target: 20`"],
    );
    one(
        &salon("heats: room, power: 250, comfort: { target: 20, schedule: { \"22-6\": 17 } }"),
        "2:72",
        &["`22-6` is no span of the day", "22:00-06:00"],
    );
    one(
        &salon(
            "heats: room, power: 250, comfort: { target: 20, schedule: { \"22:00-06:00\": 17, \"05:00-07:00\": 21 } }",
        ),
        "2:91",
        &["05:00-07:00 overlaps 22:00-06:00"],
    );
    one(&salon("heats: room, power: 250, sensor: { mqtt: x }"), "2:47", &["mqtt` is refused", "http:"]);
    one(
        &salon("heats: room, power: 250, sensor: { file: /a, http: \"http://b\" }"),
        "2:57",
        &["two sources"],
    );
    one(&salon("heats: room, power: 250, sensor: { file: a }"), "2:53", &["an absolute path", "write `/a`"]);
    one(&salon("heats: room, power: 250, sensor: { http: salon.lan }"), "2:53", &["http or https address"]);
    one(
        &home("radiators:\n  Salon: { heats: room, power: 250 }\n"),
        "2:3",
        &["no radiator's name", "`salon` would do"],
    );
    one(
        &home("radiators:\n  salon: { heats: room, power: 250 }\n  salon: { heats: room, power: 120 }\n"),
        "3:3",
        &["`radiators.salon` is given twice"],
    );
}

#[test]
fn services() {
    one(
        &home("services:\n  web: { ports: [\"80:80\"] }\n"),
        "2:3",
        &["`services.web` has nothing to run", "recipe:"],
    );
    one(&home("services:\n  my_web: { image: x }\n"), "2:3", &["no service's name", "`my-web` would do"]);
    one(&web("    imagee: y\n"), "4:5", &["unknown key `imagee` in `services.web`", "did you mean `image`?"]);
    one(&web("    privileged: true\n"), "4:5", &["`services.web.privileged` is refused", "unprivileged"]);
    one(&web("    network_mode: host\n"), "4:5", &["refused", "ports:"]);
    one(&web("    depends_on: [db]\n"), "4:5", &["`services.web.depends_on` is refused", "retry"]);
    one(&web("    deploy: { resources: { limits: { memory: 1g } } }\n"), "4:5", &["mem_limit:"]);
    one(&web("    stop_grace_period: 10\n"), "4:24", &["must be a duration, not `10`", "`10s`"]);
    one(&web("    mem_limit: 1gigabyte\n"), "4:16", &["must be a size", "`512m`"]);
    one(&web("    mem_limit: 512\n"), "4:16", &["512 bytes", "write `512g`"]);
    one(&web("    restart: sometimes\n"), "4:14", &["`sometimes`", "unless-stopped"]);
    one(&web("    heat: elastc\n"), "4:11", &["did you mean `elastic`?"]);
    one(&web("    command: run 'it\n"), "4:14", &["a ' is not closed"]);
    one(&web("    environment: [\"A=1\", \"A=2\"]\n"), "4:26", &["sets `A` twice"]);
    one(&web("    environment: { A: secret:Über }\n"), "4:23", &["no secret's name", "secret:mail/marie"]);
    one(&web("    environment: { A: \"${B:?say B}\" }\n"), "4:23", &["${B} must be set: say B"]);
    one(&web("    environment: { A: \"5 $\" }\n"), "4:23", &["no variable", "$$"]);
    one(&web("    env_file: gone.env\n"), "4:15", &["gone.env can't be read: it is not there"]);
    one(&web("    healthcheck: { test: [curl] }\n"), "4:26", &["CMD, CMD-SHELL or NONE"]);
    one(&web("    place: { only: [salon], never: [salon] }\n"), "4:37", &["under `only` and `never`"]);
    one(&web("    place: { never: [saln] }\n"), "4:22", &["no radiator `saln`", "did you mean `salon`?"]);
    one(&web("    place: { never: [salon, bureau] }\n"), "4:22", &["leaves no radiator"]);
    one(&web("    settings: { domain: a.b }\n"), "4:5", &["without a recipe", "environment:"]);
    one("home: maison\nservices: { web: { image: x } }\n", "2:13", &["no radiator to run them"]);
}

#[test]
fn ports_and_volumes() {
    one(&web("    ports: [\"8080\"]\n"), "4:13", &["where it is published", "`\"8080:8080\"`"]);
    one(&web("    ports: [\"53:53/udp\"]\n"), "4:13", &["udp is refused", "only TCP"]);
    one(&web("    ports: [\"8000-8010:8000-8010\"]\n"), "4:13", &["is a range", "its own line"]);
    one(&web("    ports: [\"127.0.0.1:80:80\"]\n"), "4:13", &["binds to 127.0.0.1", "write `\"80:80\"`"]);
    one(&web("    ports: [\"99999:80\"]\n"), "4:13", &["`99999` is not from 1 to 65535"]);
    one(&web("    ports: [\"80:80\", \"80:81\"]\n"), "4:22", &["port 80 is published twice by web"]);
    one(&web("    volumes: [\"./data:/data\"]\n"), "4:15", &["bind mount", "use a volume", "\"data:/data\""]);
    one(&web("    volumes: [\"/var/run/docker.sock:/x\"]\n"), "4:15", &["must not command the radiator"]);
    one(&web("    volumes: [\"dta:/data\"]\n"), "4:15", &["no volume `dta`", "did you mean `data`?"]);
    one(&web("    volumes: [\"music:/data\"]\n"), "4:15", &["no volume `music`", "declare it"]);
    one(&web("    volumes: [\"data:data\"]\n"), "4:15", &["no place for a volume"]);
    one(&web("    volumes: [\"data:/\"]\n"), "4:15", &["no place for a volume"]);
    one(&web("    volumes: [\"data:/a:rx\"]\n"), "4:15", &["`:rx`", "`:ro`"]);
    one(
        &home(
            "services:\n  a: { image: x, volumes: [\"d:/d\"] }\n  b: { image: x, volumes: [\"d:/d\"] }\nvolumes: { d: }\n",
        ),
        "3:28",
        &["volume `d` is used by a and by b"],
    );
    let volume = |fields: &str| home(&format!("volumes:\n  data: {{ {fields} }}\n"));
    one(&volume("replicas: 3"), "2:21", &["is 3, but 2 radiators are declared", "replicas: 2"]);
    one(&volume("replicas: 1, durability: 2"), "2:36", &["durability` is 2, but replicas is 1"]);
    one(&volume("replicas: 0"), "2:21", &["from 1 to 64"]);
    one(&volume("replicas: two"), "2:21", &["a whole number from 1 to 64, not `two`"]);
    one(
        &volume("replcias: 2"),
        "2:11",
        &["unknown key `replcias` in `volumes.data`", "did you mean `replicas`?"],
    );
    one(&volume("size: 50"), "2:17", &["50 bytes", "for gigabytes write `50g`"]);
    one(&volume("size: 50go"), "2:17", &["must be a size, not `50go`"]);
    one(&volume("size: 4t"), "2:17", &["is 4 TiB: it must be from 16 MiB to 3.8 TiB"]);
    one(&volume("on_degraded: contineu"), "2:24", &["did you mean `continue`?"]);
    one(&volume("replication: none, replicas: 2"), "2:40", &["counts replicas"]);
    one(&volume("external: true"), "2:21", &["external: true` is refused"]);
    one(&volume("driver: nfs"), "2:11", &["driver `nfs` is refused", "driver: shared"]);
    one(&volume("driver: shared"), "2:11", &["not where", "path: /mnt/ceph/data"]);
    one(&volume("path: /mnt/ceph/data"), "2:17", &["only `driver: shared` has a path"]);
    one(&volume("driver: shared, path: /data"), "2:33", &["no folder below a mountpoint"]);
    one(&volume("driver: shared, path: /mnt/../data"), "2:33", &["no folder below a mountpoint"]);
    one(&volume("driver: shared, path: /mnt/data, replicas: 2"), "2:54", &["counts replicas"]);
    one(&volume("replication: none, driver: shared"), "2:30", &["keep one of them"]);
}

/// A mail service whose settings' lines begin at line 5.
fn mail(lines: &str) -> String {
    home(&format!(
        "services:\n  mail:\n    recipe: mail\n    settings:\n{lines}    volumes: [mail]\nvolumes: {{ mail: }}\n"
    ))
}

#[test]
fn recipes_and_notifications() {
    one(
        &home("services:\n  m: { recipe: mial }\n"),
        "2:16",
        &["mail or vault or yacy, not `mial`", "did you mean `mail`?"],
    );
    one(&mail("      accounts: {}\n"), "4:5", &["`services.mail.settings` needs `domain:`"]);
    one(&mail("      domain: localhost\n"), "5:15", &["`localhost`, which is no domain"]);
    one(&mail("      domain: a.b\n      heap: 1g\n"), "6:7", &["unknown key `heap`"]);
    one(
        &mail("      domain: a.b\n      accounts: { marie: {} }\n"),
        "6:19",
        &["needs `password:`", "secret:mail/marie"],
    );
    let aliases = "      domain: a.b\n      accounts:\n        marie: { password: secret:m, aliases: [info] }\n        paul: { password: secret:p, aliases: [info, marie] }\n";
    let both = errors(&mail(aliases));
    assert_eq!(both.problems.len(), 2, "{both}");
    assert!(both.problems[0].message.contains("the alias `info` is taken by an alias of marie"), "{both}");
    assert!(both.problems[1].message.contains("the alias `marie` is taken by the account marie"), "{both}");
    one(
        &mail("      domain: a.b\n      accounts: { \"marie@a.b\": { password: secret:m } }\n"),
        "6:19",
        &["what stands before the @: `marie`"],
    );
    one(
        &home("services:\n  mail: { recipe: mail, settings: { domain: a.b } }\n"),
        "2:3",
        &["which needs a volume", "\"mail:/srv/mail\""],
    );
    one(&home("notify: { to: marie, smtp: { host: s } }\n"), "1:15", &["no mail address"]);
    one(&home("notify: { to: a@b.c }\n"), "1:1", &["`notify` needs `smtp:`"]);
    one(&home("notify: { to: a@b.c, smtp: { host: s, user: u } }\n"), "1:39", &["a user without a password"]);
}

#[test]
fn a_password_in_clear_is_refused_and_never_shown() {
    for text in [
        mail("      domain: a.b\n      accounts: { marie: { password: hunter2é } }\n"),
        home("notify: { to: a@b.c, smtp: { host: s, user: u, password: hunter2é } }\n"),
    ] {
        let errors = errors(&text);
        let shown = format!("{errors}\n{}\n{}\n{errors:?}", errors.render(false), errors.render(true));
        assert!(shown.contains("must not stand in the file") && shown.contains("secret:"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "home: maison\naddress: 192.168.1.50\nradiators:\n  salon: { heats: room, power: 1kW }\nservices:\n  a: { image: x, ports: [\"80:80\"] }\n  b: { image: x, ports: [\"80:80\"], privileged: true }\nvolumes:\n  data: { replicas: 4 }\n";
    let errors = errors(text);
    let places: Vec<(usize, usize)> =
        errors.problems.iter().map(|p| (p.place.line, p.place.column)).collect();
    assert_eq!(places, [(2, 10), (4, 32), (7, 26), (7, 36), (9, 21)], "{errors}");
    let rendered = errors.render(false);
    assert!(rendered.ends_with("home.yaml: 5 errors\n"), "{rendered}");
    assert!(!rendered.contains('\u{1b}') && errors.render(true).contains('\u{1b}'));
}

#[test]
fn two_clashing_values_are_both_shown() {
    let rendered = errors("home: maison\nhome: autre\n").render(false);
    let parts = ["home: maison", "home: autre", "first here", "and here", "help: keep one of them"];
    for part in parts {
        assert!(rendered.contains(part), "{part}: {rendered}");
    }
}

#[test]
fn an_alias_bomb_is_cut_short() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
    for i in 1..12 {
        let last = i - 1;
        text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{last}"); 10].join(", ")));
    }
    assert!(errors(&text).to_string().contains("this is no YAML"));
    let large = format!("home: maison\n# {}\n", "x".repeat(1 << 20));
    assert!(errors(&large).to_string().contains("at most 1048576"));
}

const SEED: &str = "home: maison\naddress: 192.168.1.50/24\nx: &a { b: [1, *a] }\nradiators:\n  salon: { heats: room, power: 250, comfort: { target: 20, schedule: { \"22:00-06:00\": 17 } } }\nservices:\n  mail:\n    recipe: mail\n    settings: { domain: é.org, accounts: { m: { password: \"secret:${X:-m}\", aliases: [a] } } }\n    ports: [\"80:80\", { target: 1 }]\n    command: |\n      a 'b'\n  web:\n    image: x\n    environment: [A=1, B]\n    volumes: [\"data:/data\", ./x:/y]\n    healthcheck: { test: [CMD, x], interval: 1h30m }\nvolumes: { data: { size: 10g, <<: { replicas: 2 } } }\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever a file became, reading it ends in a home or in errors that can be shown.
    #[test]
    fn no_file_makes_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[-a-z0-9:{}\\[\\]\"'$&*!|>#,\n é€/]{0,6}"), 1..6)
    ) {
        let mut chars: Vec<char> = SEED.chars().collect();
        for (at, removed, added) in edits {
            let at = at.index(chars.len() + 1);
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, added.chars());
        }
        let text: String = chars.into_iter().collect();
        let read = parse(&text, "home.yaml", &BTreeMap::new(), &|_| Err("gone".to_string()));
        if let Err(errors) = read {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(errors.render(false).contains("home.yaml"));
        }
    }
}

/// A mail service whose `settings:` hold one more line, line 7.
fn post(line: &str) -> String {
    format!(
        "services:\n  mail:\n    recipe: mail\n    volumes: [ mail ]\n    settings:\n      domain: example.org\n      {line}\n\
         home: maison\n{ROOMS}volumes: {{ mail: }}\n"
    )
}

#[test]
fn settings_of_mail() {
    let account = "accounts: { thermidor-probe: { password: \"secret:x\" } }";
    one(&post(account), "7:19", &["`thermidor-probe` is the mailbox of the home's own probe"]);
    let alias = "accounts: { m: { password: \"secret:x\", aliases: [thermidor-probe] } }";
    one(&post(alias), "7:56", &["the home's own probe"]);
    one(&post("probe_every: 1s"), "7:20", &["probe_every"]);
    one(&post("certificate: { key: secret:k, chain: none.pem }"), "7:44", &["it is not there"]);
    one(&post("certificate: fullchain.pem"), "7:20", &["`certificate` must be a mapping"]);
}

fn with_files(text: &str, file: &str) -> Result<thermidor_model::spec::HomeSpec, SpecErrors> {
    parse(text, "home.yaml", &BTreeMap::new(), &|_| Ok(file.to_string())).map(|(spec, _)| spec)
}

const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[test]
fn a_certificates_key_is_never_in_the_declaration() {
    let text = post("certificate: { chain: both.pem, key: both.pem }");
    let file = format!("-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n{CHAIN}");
    let spec = with_files(&text, &file).unwrap();
    let declared = serde_json::to_string(&spec).unwrap();
    assert!(declared.contains("AAAA") && !declared.contains("BBBB"), "{declared}");
    let refused =
        with_files(&post("certificate: { chain: a.pem, key: \"-----BEGIN PRIVATE KEY-----\" }"), CHAIN);
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("in clear") && !refused.render(false).contains("BEGIN PRIVATE"));
    let empty = with_files(&text, "nothing").unwrap_err();
    assert!(empty.to_string().starts_with("home.yaml:7:29: `both.pem` holds no certificate"), "{empty}");
}

#[test]
fn what_is_found_after_reading_is_shown_at_its_line_too() {
    let text = post("certificate: { chain: a.pem, key: b.pem }");
    let path = ["services", "mail", "settings", "certificate", "key"];
    let error = SpecErrors::later("home.yaml", &text, &path, "another pair".into(), None);
    assert_eq!(error.to_string(), "home.yaml:7:41: another pair");
    assert!(error.render(false).contains("certificate: { chain"));
    let unknown = SpecErrors::later("home.yaml", &text, &["services", "nope"], "x".into(), None);
    assert_eq!(unknown.problems[0].place.line, 2, "the nearest that is there");
}

#[test]
fn vaults() {
    let vault = |settings: &str| {
        home(&format!(
            "services:\n  vault:\n    recipe: vault\n    settings: {{ {settings} }}\n    volumes: [vault]\nvolumes: {{ vault: }}\n"
        ))
    };
    one(&vault("addresses: [a.example]"), "4:5", &["needs `lend:`", "write `lend: 50g`"]);
    one(&vault("lend: 50"), "4:23", &["for gigabytes write `50g`"]);
    one(
        &vault("lend: 1g, addresses: [\"a b\"]"),
        "4:39",
        &["`a b` is no address", "maison.example.org:7746"],
    );
    one(&vault("lend: 1g, addresses: [\"a:99999\"]"), "4:39", &["is no address"]);
    one(&vault("lend: 1g, friends: { alice: { lnd: 1g } }"), "4:47", &["did you mean `lend`?"]);
    one(
        &vault("lend: 1g, friends: { alice: { hours: [night] } }"),
        "4:55",
        &["`night` is no span of the day"],
    );
}
