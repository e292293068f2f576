//! rustls settings of both ends, TLS 1.3 alone, sessions never resumed: a resumed one would not be judged anew.

use super::certificate::Own;
use super::key::TransportKey;
use super::{PAIRING, Pin, Pins, VAULT};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;

/// The name that is dialled, or what the name ends in that says which key is expected; whose it is says the key alone.
pub(super) const NAME: &str = "friend.thermidor";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// How a vault receives a friend, whose key must be among the pinned ones, or anybody who wants to become one. It shows
/// the first of its certificates but to whom expects another.
pub(super) fn server(own: &[Own], friends: Option<Pins>) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let speaks = if friends.is_some() { VAULT } else { PAIRING };
    let config = match friends {
        Some(pins) => config.with_client_cert_verifier(Arc::new(Judge::new(Believes::These(pins)))),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(Arc::new(ShowsExpected::new(own)));
    config.alpn_protocols = vec![speaks.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// How a home dials. Without `own` it shows nothing, to pair.
pub(super) fn client(own: Option<&Own>, pin: Pin) -> Result<Arc<ClientConfig>, Error> {
    let believes = match pin {
        Pin::Key(key) => Believes::This(key),
        Pin::Anybody => Believes::Anybody,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judge::new(believes)));
    let mut config = match own {
        Some(own) => config.with_client_cert_resolver(Arc::new(Shows(own.certified()))),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if own.is_some() { VAULT } else { PAIRING }.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

/// While a kit is replaced there are two keys, and each friend expects one of them.
#[derive(Debug)]
struct ShowsExpected(Vec<(String, Arc<CertifiedKey>)>);

impl ShowsExpected {
    fn new(own: &[Own]) -> Self {
        Self(own.iter().map(|own| (own.public().name(), own.certified())).collect())
    }
}

impl ResolvesServerCert for ShowsExpected {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let expected = hello.server_name();
        let meant = self.0.iter().find(|(name, _)| expected == Some(name.as_str()));
        meant.or(self.0.first()).map(|(_, certified)| certified.clone())
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
enum Believes {
    This(TransportKey),
    These(Pins),
    Anybody,
}

/// Compares keys; that the other side holds its own is proved by the handshake's signature.
#[derive(Debug)]
struct Judge {
    believes: Believes,
    provider: Arc<CryptoProvider>,
}

impl Judge {
    fn new(believes: Believes) -> Self {
        Self { believes, provider: provider() }
    }

    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let shown = TransportKey::of(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let believed = match &self.believes {
            Believes::This(key) => *key == shown,
            Believes::These(pins) => pins.holds(&shown),
            Believes::Anybody => true,
        };
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if believed { Ok(()) } else { Err(refused) }
    }

    fn check(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken between homes".into())
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
