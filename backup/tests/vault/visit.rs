//! A home at its friend's vault, over TLS with keys that both have pinned; and what a hostile vault shows it.

use crate::restic::{good, mail, restic, run, skip};
use crate::stage::{PATIENCE, Stage, home, noise, statement, terms};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thermidor_backup::vault::{
    BlobName, Caller, Challenge, Finding, Folder, Head, Kind, Outcome, Says, Signed, Signer, Statement,
    Vault, Visit, VisitError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

fn signer() -> Signer {
    Signer::from_seed(&[42; 32]).unwrap()
}

fn sign(folder: &str, vault: &str, number: u64, says: Says) -> Signed {
    signer().sign(&Statement { vault: home(vault), ..statement(folder, number, says) }).unwrap()
}

/// A connection of bob's that the vault knows to be his.
async fn visit(vault: &Vault) -> Visit {
    let (here, there) = tokio::io::duplex(64 << 10);
    let vault = vault.clone();
    tokio::spawn(async move { vault.serve(there, Caller::Proved(home("bob"))).await });
    Visit::begin(here, home("bob"), home("alice"), None, PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_keeps_an_eye_on_what_its_friend_keeps() {
    let mut terms = terms();
    terms.key = Some(signer().public());
    let stage = Stage::with(terms, |_| {}).await;
    assert_eq!(stage.ask("POST", "/bob/mail/?create=true", b"").await.status, 200);
    let mut visit = visit(&stage.vault).await;
    let mail = Folder::new("mail").unwrap();
    let key = signer().public();
    let contents: Vec<_> = (0..5).map(|n| noise(n, 100_000)).collect();
    let mut names = Vec::new();
    for content in &contents {
        let name = BlobName::of(content);
        assert_eq!(stage.ask("POST", &format!("/bob/mail/data/{name}"), content).await.status, 200);
        names.push((Kind::Data, name));
    }
    let challenge = Challenge::draw(Kind::Data, &contents[0], &mut rand::rng());
    assert_eq!(visit.challenge(&mail, &challenge).await.unwrap(), Outcome::Kept);
    assert!(visit.is_whole(&mail, Kind::Data, names[0].1).await.unwrap());
    let listed = visit.list(&mail, 7).await.unwrap();
    assert_eq!(listed, Head::of(7, names.clone()));
    assert_eq!(visit.compare(&mail, &key, (0, &listed)).await.unwrap(), [Finding::HeadMissing]);
    visit.send_head(&mail, &sign("mail", "alice", 1, Says::Head(listed.clone()))).await.unwrap();
    assert_eq!(visit.compare(&mail, &key, (1, &listed)).await.unwrap(), []);

    // What the home itself lets go is no loss.
    visit.announce(&sign("mail", "alice", 2, Says::Delete(names[..2].to_vec()))).await.unwrap();
    assert_eq!(visit.deletions().await.unwrap().len(), 1);
    let less = listed.clone().without(&names[..2]);
    visit.send_head(&mail, &sign("mail", "alice", 3, Says::Head(less.clone()))).await.unwrap();
    assert_eq!(visit.compare(&mail, &key, (3, &less)).await.unwrap(), []);
    let more = sign("mail", "alice", 4, Says::Delete(names[2..].to_vec()));
    match visit.announce(&more).await {
        Err(VisitError::Refused { status, reason }) if status == 422 => {
            assert!(reason.contains("50 percent"))
        }
        other => panic!("{other:?}"),
    }
    visit.announce(&sign("mail", "alice", 4, Says::Cancel(2))).await.unwrap();
    assert_eq!(visit.deletions().await.unwrap(), []);

    // A pack is gone, without a word.
    let name = names[4].1.to_string();
    std::fs::remove_file(stage.folder("repo/mail/data").join(&name[..2]).join(&name)).unwrap();
    let missing = Finding::Missing { kind: Kind::Data, names: [names[4].1].into() };
    assert_eq!(visit.compare(&mail, &key, (3, &less)).await.unwrap(), [missing]);
    let challenge = Challenge::draw(Kind::Data, &contents[4], &mut rand::rng());
    let outcome = visit.challenge(&mail, &challenge).await.unwrap();
    assert!(matches!(outcome, Outcome::Unanswered(_, ref why) if why.contains("404")), "{outcome:?}");
    // A friend that has ended the friendship says so.
    stage.vault.close(&home("bob"));
    let unknown = visit.challenge(&mail, &challenge).await.unwrap_err();
    assert!(!unknown.is_an_answer(), "{unknown}");
    let refused = visit.list(&mail, 7).await;
    assert!(matches!(refused, Err(VisitError::Refused { status, .. }) if status == 401), "{refused:?}");
}

/// A vault that gives the same answer to whatever it is asked.
async fn hostile(answer: Vec<u8>) -> Visit {
    let (here, mut there) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let mut asked = [0; 4096];
        while there.read(&mut asked).await.is_ok_and(|count| count > 0) {
            let _ = there.write_all(&answer).await;
        }
    });
    Visit::begin(here, home("bob"), home("alice"), None, Duration::from_millis(500)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_vault_is_not_believed() {
    let key = signer().public();
    let with = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        hostile([head.as_bytes(), body].concat())
    };
    let show = |signed: &Signed| with(&serde_json::to_vec(signed).unwrap());
    let head = Says::Head(Head::default());
    // Another's signature, another folder, another vault, another kind of word.
    let mut forged = sign("", "alice", 9, head.clone());
    forged.statement = forged.statement.replace("\"number\":9", "\"number\":10");
    let shown = show(&forged).await.head(&Folder::ROOT, &key).await;
    assert!(matches!(shown, Err(VisitError::Forged(_))), "{shown:?}");
    for signed in [
        sign("mail", "alice", 9, head.clone()),
        sign("", "carol", 9, head.clone()),
        sign("", "alice", 9, Says::Cancel(1)),
    ] {
        let shown = show(&signed).await.head(&Folder::ROOT, &key).await;
        assert!(matches!(shown, Err(VisitError::Misplaced)), "{shown:?}");
    }
    let listed = with(b"[{\"name\":\"../../etc/passwd\",\"size\":1}]").await.list(&Folder::ROOT, 0).await;
    assert!(matches!(listed, Err(VisitError::Nonsense(_))), "{listed:?}");
    // Silence, half an answer, no HTTP, and more than anybody wants.
    let silent = hostile(vec![]).await.list(&Folder::ROOT, 0).await;
    assert!(matches!(silent, Err(VisitError::Silent(_))), "{silent:?}");
    let half = hostile(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec()).await;
    let half = { half }.list(&Folder::ROOT, 0).await;
    assert!(matches!(half, Err(VisitError::Silent(_))), "{half:?}");
    let nonsense = hostile(b"220 mail.example ESMTP\r\n".to_vec()).await.list(&Folder::ROOT, 0).await;
    assert!(matches!(nonsense, Err(VisitError::Broken(_))), "{nonsense:?}");
    let huge = hostile(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec()).await;
    let huge = { huge }.list(&Folder::ROOT, 0).await;
    assert!(huge.is_err(), "{huge:?}");
}

/// An authority with a server's certificate and bob's and carol's; all in PEM below `dir`.
fn papers(dir: &Path) -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "test friends");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = leaf.signed_by(&key, &authority).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), signed.pem() + &key.serialize_pem()).unwrap();
        (signed.der().clone(), key)
    };
    let (server, key) = leaf("127.0.0.1");
    let (bob, _) = leaf("bob");
    leaf("carol");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let key: PrivateKeyDer = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server], key)
        .unwrap();
    (config.into(), bob)
}

/// Serves whoever shows a certificate of the authority; who it is depends on the pinned one.
async fn serve(vault: Vault, config: Arc<ServerConfig>, bob: CertificateDer<'static>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            let (vault, config, bob) = (vault.clone(), config.clone(), bob.clone());
            tokio::spawn(async move {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                let caller = if shown == bob { home("bob") } else { home("carol") };
                vault.serve(stream, Caller::Proved(caller)).await;
            });
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_settings() {
    if skip("tls_settings") {
        return;
    }
    let stage = Stage::new().await;
    stage.vault.lend(&home("carol"), terms()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (config, bob) = papers(dir.path());
    let at = serve(stage.vault.clone(), config, bob).await;
    let mail = mail(dir.path(), 3);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let to = |who: &str, args: &[&str]| {
        let mut command = restic(dir.path(), at, "", args);
        std::fs::write(dir.path().join("repository-tls"), format!("rest:https://{at}/bob/")).unwrap();
        command.env("RESTIC_REPOSITORY_FILE", dir.path().join("repository-tls"));
        command.args(["--cacert", &path("ca.pem"), "--tls-client-cert", &path(who)]);
        command
    };
    // By the certificate alone, without a password.
    good(to("bob.pem", &["init"])).await;
    good(to("bob.pem", &["backup", mail.to_str().unwrap()])).await;
    good(to("bob.pem", &["check", "--read-data"])).await;
    let other = run(to("carol.pem", &["cat", "config", "--no-lock"])).await;
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && errors.contains("401"), "{errors}");
}
