//! From declarations to container plans.

use super::*;
use std::path::Path;
use thermidor_model::spec::{BuildSpec, EnvValue, MailSpec, YacySpec};
use thermidor_model::testing::plain_service;

fn spec() -> ServiceSpec {
    ServiceSpec { image: Some("example/notes:1".into()), ..plain_service() }
}

fn mount(path: &str) -> MountSpec {
    thermidor_model::testing::mount(VolumeName::new("data").unwrap(), path)
}

fn resolved(spec: &ServiceSpec) -> Result<ContainerPlan, RecipeError> {
    let place = VolumePlace { folder: "/v/data/files".into(), mountpoint: Some("/v/data".into()) };
    let volumes = BTreeMap::from([(VolumeName::new("data").unwrap(), place)]);
    let ground = Ground {
        volumes: &volumes,
        config: Path::new("/c/mail"),
        run: Path::new("/r"),
        program: Path::new("/p"),
        secret: &|name| (name.0 == "known").then(|| "sesame".into()),
        context: &|hash| (hash == blake3::hash(b"tar").to_hex().as_str()).then(|| Bytes::from_static(b"tar")),
    };
    resolve(&ServiceName::new("it").unwrap(), spec, &ground)
}

fn mail() -> ServiceSpec {
    let settings = MailSpec {
        domain: "example.org".into(),
        hostname: "mail.example.org".into(),
        accounts: BTreeMap::new(),
        message_max_bytes: 1000,
        certificate: None,
        probe_every_s: 300,
    };
    ServiceSpec {
        recipe: Some(RecipeSpec::Mail(settings)),
        image: None,
        volumes: vec![mount("/srv/mail")],
        ..spec()
    }
}

fn yacy() -> ServiceSpec {
    let settings = YacySpec { network: "intranet".into(), heap_mib: 900 };
    ServiceSpec {
        recipe: Some(RecipeSpec::Yacy(settings)),
        image: None,
        volumes: vec![mount(yacy::DATA)],
        ..spec()
    }
}

#[test]
fn a_compose_service_is_hardened_and_its_secrets_opened() {
    let known = EnvValue::Secret(SecretName("known".into()));
    let given = ServiceSpec {
        environment: BTreeMap::from([("P".to_owned(), known), ("A".to_owned(), EnvValue::Plain("b".into()))]),
        volumes: vec![mount("/data")],
        ..spec()
    };
    let plan = resolved(&given).unwrap();
    assert_eq!(plan.environment["P"], "sesame");
    assert_eq!(plan.image.reference(), "example/notes:1");
    assert_eq!(plan.hostname, "it");
    assert_eq!(plan.mounts[0].host, Path::new("/v/data/files"));
    assert_eq!(plan.mounts[0].mountpoint.as_deref(), Some(Path::new("/v/data")));
    assert!(plan.mounts[0].seed, "an empty volume is filled from the image");
    assert!(!plan.capabilities.contains(&"NET_RAW".to_owned()));
}

#[test]
fn what_is_missing_is_named_with_the_command_that_mends_it() {
    let unknown = EnvValue::Secret(SecretName("mail/marie".into()));
    let secretless = ServiceSpec { environment: BTreeMap::from([("P".to_owned(), unknown)]), ..spec() };
    assert!(resolved(&secretless).unwrap_err().to_string().contains("thermidor secret set mail/marie"));
    assert_eq!(
        resolved(&ServiceSpec { image: None, ..spec() }).unwrap_err(),
        RecipeError::NoImage(ServiceName::new("it").unwrap())
    );
    let elsewhere =
        MountSpec { volume: VolumeName::new("other").unwrap(), path: "/x".into(), read_only: false };
    let error = resolved(&ServiceSpec { volumes: vec![elsewhere], ..spec() }).unwrap_err();
    assert!(error.to_string().contains("volume other of it"), "{error}");
    for mut forgetful in [mail(), yacy()] {
        forgetful.volumes = vec![mount("/elsewhere")];
        let error = resolved(&forgetful).unwrap_err().to_string();
        assert!(error.contains("add `volumes:"), "{error}");
    }
}

#[test]
fn a_build_is_named_by_context_dockerfile_and_arguments() {
    let build = |dockerfile: &str, hash: Option<String>| ServiceSpec {
        build: Some(BuildSpec {
            context: ".".into(),
            dockerfile: dockerfile.into(),
            args: BTreeMap::new(),
            hash,
        }),
        ..spec()
    };
    let hash = Some(blake3::hash(b"tar").to_hex().to_string());
    let one = resolved(&build("Dockerfile", hash.clone())).unwrap().image.reference();
    assert!(one.starts_with("thermidor/it:"), "{one}");
    assert_eq!(one, resolved(&build("Dockerfile", hash.clone())).unwrap().image.reference());
    assert_ne!(one, resolved(&build("other", hash)).unwrap().image.reference());
    for absent in [None, Some("0".repeat(64))] {
        let error = resolved(&build("Dockerfile", absent)).unwrap_err();
        assert!(error.to_string().contains("thermidor apply"), "{error}");
    }
}

#[test]
fn a_damaged_context_is_not_built() {
    let volumes = BTreeMap::new();
    let ground = Ground {
        volumes: &volumes,
        config: Path::new("/c"),
        run: Path::new("/r"),
        program: Path::new("/p"),
        secret: &|_| None,
        context: &|_| Some(Bytes::from_static(b"damaged")),
    };
    let build = BuildSpec {
        context: ".".into(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        hash: Some(blake3::hash(b"tar").to_hex().to_string()),
    };
    let it = ServiceName::new("it").unwrap();
    let given = ServiceSpec { build: Some(build), ..spec() };
    assert_eq!(resolve(&it, &given, &ground).unwrap_err(), RecipeError::DamagedContext(it));
}

#[test]
fn mail_publishes_four_ports_that_lead_to_those_with_proxy_headers() {
    let plan = resolved(&mail()).unwrap();
    let led: Vec<_> = plan.ports.iter().map(|p| (p.published, p.target, p.proxy_protocol)).collect();
    assert_eq!(led, [(25, 10025, true), (465, 10465, true), (587, 10587, true), (993, 10993, true)]);
    let own = [PortSpec { published: 2525, target: 25, proxy_protocol: false }];
    let led = ports(&ServiceSpec { ports: own.to_vec(), ..mail() });
    assert_eq!(led, [PortSpec { published: 2525, target: 10025, proxy_protocol: true }]);
}

#[test]
fn mail_is_read_only_but_for_its_volume_and_reads_the_daemon_s_files() {
    let plan = resolved(&mail()).unwrap();
    assert!(plan.read_only_root);
    let config = plan.mounts.iter().find(|m| m.path == "/etc/thermidor").unwrap();
    assert!(config.read_only && config.host == Path::new("/c/mail"));
    assert!(plan.mounts.iter().all(|m| !m.seed));
    assert!(plan.image.reference().starts_with("thermidor/mail:"));
}

#[test]
fn yacy_takes_the_official_image_unless_told_and_never_less_than_its_stop_budget() {
    let plan = resolved(&yacy()).unwrap();
    assert_eq!(plan.image.reference(), "yacy/yacy_search_server:latest");
    assert_eq!(plan.stop_grace_s, 60);
    assert_eq!(plan.environment["YACY_NETWORK_UNIT_DEFINITION"], "defaults/yacy.network.intranet.unit");
    assert_eq!(plan.environment["YACY_JAVASTART_XMX"], "Xmx900m");
    assert!(plan.mounts[0].seed, "DATA must belong to the image's own user");
    let stand_in = ServiceSpec { image: Some(yacy::STAND_IN.into()), ..yacy() };
    let plan = resolved(&stand_in).unwrap();
    assert!(plan.image.reference().starts_with("thermidor/yacy-standin:"));
    let longer = ServiceSpec { stop_grace_s: 90, ..yacy() };
    assert_eq!(resolved(&longer).unwrap().stop_grace_s, 90);
}

#[test]
fn a_vault_runs_this_program_with_no_powers_and_what_it_needs_beside_it() {
    use thermidor_model::spec::VaultSpec;
    let settings = VaultSpec { addresses: vec![], lend_bytes: 1, friends: BTreeMap::new() };
    let spec = ServiceSpec {
        recipe: Some(RecipeSpec::Vault(settings)),
        volumes: vec![mount("/srv/vault")],
        image: None,
        ..plain_service()
    };
    let plan = resolved(&spec).unwrap();
    assert_eq!(plan.image.reference(), "debian:bookworm-slim");
    assert_eq!(plan.entrypoint.unwrap(), ["/usr/bin/thermidor"]);
    assert_eq!(plan.command.unwrap(), ["vault-process"]);
    let mounts: Vec<_> = plan
        .mounts
        .iter()
        .map(|m| (m.host.to_str().unwrap(), m.path.as_str(), m.read_only, m.seed))
        .collect();
    let wanted = [
        ("/v/data/files", "/srv/vault", false, false),
        ("/c/mail", "/etc/thermidor", true, false),
        ("/r", "/run/thermidor", false, false),
        ("/p", "/usr/bin/thermidor", true, false),
    ];
    assert_eq!(mounts, wanted);
    assert!(plan.read_only_root && plan.capabilities.is_empty());
    assert_eq!(ports(&spec), [PortSpec { published: 7746, target: 7746, proxy_protocol: false }]);
    let bare = ServiceSpec { volumes: vec![], ..spec };
    assert!(matches!(resolved(&bare), Err(RecipeError::NoVolumeAt { path: "/srv/vault", .. })));
}
