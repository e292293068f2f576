//! Certificates, keys and sealed secrets.

use super::*;

fn home() -> HomeName {
    HomeName::new("maison").unwrap()
}

#[test]
fn a_secret_opens_only_under_its_name_and_key() {
    let key = HomeKey::generate().unwrap();
    let sealed = key.seal("mail/marie", b"hunter2").unwrap();
    assert_eq!(key.open("mail/marie", &sealed).unwrap().as_slice(), b"hunter2");
    assert!(key.open("mail/paul", &sealed).is_err());
    assert!(HomeKey::generate().unwrap().open("mail/marie", &sealed).is_err());
    let mut damaged = sealed;
    damaged.bytes[0] ^= 1;
    assert!(key.open("mail/marie", &damaged).is_err());
}

#[test]
fn a_certificate_says_whose_it_is_whatever_was_asked_for() {
    let authority = Authority::generate(&home()).unwrap();
    let again = Authority::load(authority.pem(), authority.key_pem()).unwrap();
    let request = MemberKey::generate().unwrap().request().unwrap();
    let pem = again.issue_for(&request, &home(), 7, 3).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(peer_of(&der), Some((7, 3)));
    let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    assert_eq!(peer_of(&own), None);
    assert!(again.issue_for("no request", &home(), 7, 3).is_err());
}

#[test]
fn an_identity_is_stored_for_its_owner_only_and_read_back() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    assert!(matches!(Identity::load(data.path()), Err(IdentityError::Missing(_))));
    let authority = Authority::generate(&home()).unwrap();
    let key = MemberKey::generate().unwrap();
    let parts = Parts {
        own: Own {
            node: 2,
            home: home(),
            role: Role::Radiator,
            advertise_ip: "127.0.0.1".parse().unwrap(),
            timing: Timing::default(),
        },
        certificate_pem: authority.issue(&key, &home(), 2, 1).unwrap(),
        authority_pem: authority.pem().to_string(),
        authority_key_pem: Some(authority.key_pem().to_string()),
        home_key: Some(HomeKey::generate().unwrap()),
    };
    parts.store(&key.pem(), &dir_of(data.path())).unwrap();
    let identity = Identity::load(data.path()).unwrap();
    assert_eq!((identity.node(), identity.generation), (2, 1));
    assert!(identity.authority().is_ok() && identity.home_key.is_some());
    assert!(identity.server_config(true).is_ok() && identity.client_config().is_ok());
    for file in std::fs::read_dir(dir_of(data.path())).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
