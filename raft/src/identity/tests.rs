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
            keys: 0,
        },
        certificate_pem: authority.issue(&key, &home(), 2, 1).unwrap(),
        authority_pem: authority.pem().to_string(),
        authority_key_pem: Some(authority.key_pem().to_string()),
        home_keys: [(0, HomeKey::generate().unwrap())].into(),
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

/// For the tests of other modules.
pub(crate) mod testing {
    use super::*;

    /// A certificate of some member.
    pub(crate) fn own(authority: &Authority) -> Arc<CertifiedKey> {
        let key = MemberKey::generate().unwrap();
        let pem = authority.issue(&key, &home(), 1, 1).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.pem().as_bytes()).unwrap();
        tls::certified(vec![der], PrivateKeyDer::Pkcs8(key)).unwrap()
    }
}

#[test]
fn a_known_member_is_known_by_its_key_and_a_newcomer_by_the_authority() {
    use rustls::pki_types::UnixTime;
    let (old, new) = (Authority::generate(&home()).unwrap(), Authority::generate(&home()).unwrap());
    let (marie, thief) = (MemberKey::generate().unwrap(), MemberKey::generate().unwrap());
    let shows = |authority: &Authority, key: &MemberKey, node| {
        let pem = authority.issue(key, &home(), node, 1).unwrap();
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    };
    let known = |authority: &Authority| Known {
        authority_pem: authority.pem().to_string(),
        next_node: 4,
        members: [1, 2].into(),
        keys: [(1, MemberKey::generate().unwrap().hash()), (2, marie.hash())].into(),
    };
    let papers = Papers::new(testing::own(&old), known(&old)).unwrap();
    let judge = |certificate: &CertificateDer<'_>, gone_too| {
        papers.judge(certificate, UnixTime::now(), gone_too).is_ok()
    };
    assert!(judge(&shows(&old, &marie, 2), false) && judge(&shows(&new, &marie, 2), false));
    assert!(!judge(&shows(&old, &thief, 2), true), "signed by the authority, but another key");
    // 3 has left: it may be told so, at the home's own port alone.
    assert!(judge(&shows(&old, &thief, 3), true) && !judge(&shows(&old, &thief, 3), false));
    assert!(judge(&shows(&old, &thief, 4), false), "a newcomer as far as we know");
    papers.believe(known(&new)).unwrap();
    assert!(judge(&shows(&old, &marie, 2), false), "its own key has not changed");
    for node in [1, 2, 3, 4, 99] {
        assert!(!judge(&shows(&old, &thief, node), true), "{node}: the old authority's word is nothing");
    }
    let newcomer = shows(&old, &marie, 5);
    assert!(!judge(&newcomer, false));
    papers.vouch(5, marie.hash());
    assert!(judge(&newcomer, false) && !judge(&shows(&old, &thief, 5), false));
    let service = new.issue_for_service("mail.example.org").unwrap().0;
    let service = CertificateDer::from_pem_slice(service.as_bytes()).unwrap();
    assert!(!judge(&service, true), "a service's certificate names no member");
}

#[test]
fn an_authority_with_another_ones_key_is_none() {
    let (one, other) = (Authority::generate(&home()).unwrap(), Authority::generate(&home()).unwrap());
    assert!(Authority::load(one.pem(), one.key_pem()).is_ok());
    assert!(Authority::load(one.pem(), other.key_pem()).is_err());
}
