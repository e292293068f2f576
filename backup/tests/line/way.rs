//! Keys, protocols, patience, and the forwarder.

use crate::stage::{Alice, PATIENCE, home, key, own};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_backup::line::{Failed, Forwarder, Pin, VAULT, dial_pairing, dial_vault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn echoes(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_friend_is_let_in_by_its_key_and_both_hear_the_others_generation() {
    let alice = Alice::listens(PATIENCE).await;
    let pin = Pin::Key(key(1).public());
    let to = dial_vault(&alice.addresses(), &own(2, 4), pin, PATIENCE).await.unwrap();
    assert_eq!((to.generation, to.welcome.generation), (7, 4));
    assert_eq!((to.welcome.vault.clone(), to.welcome.home.clone()), (home("alice"), home("bob")));
    echoes(to.stream).await;
    // A home that has lost everything knows no key, and learns it.
    let to = dial_vault(&alice.addresses(), &own(2, 4), Pin::Anybody, PATIENCE).await.unwrap();
    assert_eq!(to.key, key(1).public());
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_a_stranger() {
    let alice = Alice::listens(PATIENCE).await;
    let pin = Pin::Key(key(3).public());
    let error = dial_vault(&alice.addresses(), &own(2, 1), pin, PATIENCE).await.unwrap_err();
    assert!(matches!(error.0[0].1, Failed::Stranger), "{error:?}");
    assert!(error.to_string().contains("another key than the one that was pinned"), "{error}");
    assert_eq!(alice.has_refused(1).await, ["the handshake failed"]);
}

#[tokio::test]
async fn whoever_is_no_friend_is_told_so_and_heard_no_further() {
    let alice = Alice::listens(PATIENCE).await;
    let pin = Pin::Key(key(1).public());
    let error = dial_vault(&alice.addresses(), &own(3, 1), pin, PATIENCE).await.unwrap_err();
    assert!(matches!(error.0[0].1, Failed::NotKnown), "{error:?}");
    assert!(error.to_string().contains("does not know this home"), "{error}");
    // One who was a friend is none from the moment on in which its key is taken out.
    alice.pins.set([].into());
    let error = dial_vault(&alice.addresses(), &own(2, 1), pin, PATIENCE).await.unwrap_err();
    assert!(matches!(error.0[0].1, Failed::NotKnown), "{error:?}");
    alice.has_refused(2).await;
}

/// A client of rustls' own, which believes anybody.
fn client(
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &rustls::pki_types::CertificateDer<'_>,
        _chain: &[rustls::pki_types::CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands and reads to the end; the text of what went wrong.
async fn tries(alice: &Alice, connector: tokio_rustls::TlsConnector) -> String {
    let stream = TcpStream::connect(alice.at).await.unwrap();
    let name = ServerName::try_from("friend.thermidor").unwrap();
    match connector.connect(name, stream).await {
        Err(error) => error.to_string(),
        Ok(mut stream) => stream.read_u8().await.unwrap_err().to_string(),
    }
}

#[tokio::test]
async fn without_a_certificate_nobody_comes_to_the_vault() {
    let alice = Alice::listens(PATIENCE).await;
    let error = tries(&alice, client(&[&rustls::version::TLS13], &[VAULT])).await;
    assert!(error.contains("CertificateRequired"), "{error}");
    assert_eq!(alice.has_refused(1).await, ["the handshake failed"]);
}

#[tokio::test]
async fn another_protocol_or_an_older_tls_is_hung_up_on() {
    let alice = Alice::listens(PATIENCE).await;
    let alpn = "it does not say that it comes to a vault or to pair";
    for spoken in [&[][..], &[b"h2".as_slice()], &[VAULT, b"http/1.1"]] {
        tries(&alice, client(&[&rustls::version::TLS13], spoken)).await;
    }
    assert_eq!(alice.has_refused(3).await, [alpn; 3]);
    tries(&alice, client(&[&rustls::version::TLS12], &[VAULT])).await;
    assert_eq!(alice.has_refused(4).await[3], "the handshake failed");
    // A guest needs no certificate, and is no friend.
    echoes(dial_pairing(&alice.addresses(), PATIENCE).await.unwrap()).await;
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_is_hung_up_on() {
    let alice = Alice::listens(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(alice.at).await.unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // One that begins and stops is no better.
    let mut slow = TcpStream::connect(alice.at).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert_eq!(slow.read(&mut [0; 8]).await.unwrap(), 0);
    alice.has_refused(2).await;
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_each_ones_trouble_is_told() {
    let alice = Alice::listens(PATIENCE).await;
    // One that takes connections and says nothing, and one that nobody listens to.
    let dumb = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let dumb_at = dumb.local_addr().unwrap().to_string();
    let all = vec![gone.clone(), dumb_at.clone(), alice.at.to_string()];
    let patience = Duration::from_millis(500);
    let pin = Pin::Key(key(1).public());
    let to = dial_vault(&all, &own(2, 1), pin, patience).await.unwrap();
    assert_eq!(to.address, alice.at.to_string());
    let error = dial_vault(&all[..2], &own(2, 1), pin, patience).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{gone} can't be reached")), "{error}");
    assert!(error.contains(&format!("{dumb_at} has not answered in 0 s")), "{error}");
    let nobody = dial_vault(&[], &own(2, 1), pin, patience).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no address is known");
}

#[tokio::test]
async fn a_forwarder_leads_there_tells_its_trouble_and_ends_with_its_guard() {
    let alice = Alice::listens(PATIENCE).await;
    let pin = Pin::Key(key(1).public());
    let door = Forwarder::open(alice.addresses(), own(2, 1), pin, PATIENCE).await.unwrap();
    assert!(door.at().ip().is_loopback());
    let mut open = TcpStream::connect(door.at()).await.unwrap();
    echoes(&mut open).await;
    echoes(TcpStream::connect(door.at()).await.unwrap()).await;
    assert_eq!(door.trouble(), None);
    assert_eq!(door.welcome().unwrap().vault, home("alice"));
    // Alice is no friend any more: what restic sees is a closed connection, and here is why.
    alice.pins.set([].into());
    let mut refused = TcpStream::connect(door.at()).await.unwrap();
    assert_eq!(refused.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(door.trouble().unwrap().contains("does not know this home"), "{:?}", door.trouble());
    let at = door.at();
    drop(door);
    assert_eq!(open.read(&mut [0; 8]).await.unwrap_or(0), 0);
    for _ in 0..100 {
        if TcpStream::connect(at).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the door is open still");
}

#[tokio::test]
async fn a_forwarder_dials_first_where_it_was_let_in_last() {
    let alice = Alice::listens(PATIENCE).await;
    // The kernel takes connections, and nobody answers them.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [vec![dead.local_addr().unwrap().to_string()], alice.addresses()].concat();
    let patience = Duration::from_secs(2);
    let pin = Pin::Key(key(1).public());
    let door = Forwarder::open(addresses, own(2, 1), pin, patience).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        echoes(TcpStream::connect(door.at()).await.unwrap()).await;
        took.push(begun.elapsed());
    }
    assert!(took[0] >= patience && took[1] < patience, "{took:?}");
}
