//! The keys of a test's home, and who is refused in it.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::NodeId;
use thermidor_services::link::Link;

fn certificate(root: &Path, node: NodeId) -> CertificateDer<'static> {
    std::fs::read(root.join(format!("{node}.crt"))).unwrap().into()
}

pub fn link(root: &Path, node: NodeId) -> Link {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(std::fs::read(root.join("ca.crt")).unwrap().into()).unwrap();
    let roots = Arc::new(roots);
    let key = || -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(std::fs::read(root.join(format!("{node}.key"))).unwrap()).into()
    };
    let chain = || vec![certificate(root, node)];
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(), key())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(), key())
        .unwrap();
    let known: Vec<_> = (1..=5).filter(|n| root.join(format!("{n}.crt")).exists()).collect();
    let known: Vec<_> = known.into_iter().map(|n| (n, certificate(root, n))).collect();
    Link {
        node,
        server: Arc::new(server),
        client: Arc::new(client),
        server_name: ServerName::try_from("radiator.test").unwrap(),
        until_refused: {
            let (root, known) = (root.to_owned(), known.clone());
            Arc::new(move |given| {
                let from = known.iter().find(|(_, c)| *c == given).map(|(n, _)| *n);
                let file = refusal(&root, node, from.unwrap());
                Box::pin(async move {
                    while !file.exists() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                })
            })
        },
        peer_of: Arc::new(move |given| known.iter().find(|(_, c)| c == given).map(|(n, _)| *n)),
    }
}

/// While it is there `node` refuses `from`.
pub fn refusal(root: &Path, node: NodeId, from: NodeId) -> PathBuf {
    root.join(format!("{node}-refuses-{from}"))
}

pub fn issue(root: &Path, nodes: &[NodeId]) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "test home");
    std::fs::write(root.join("ca.crt"), authority.clone().self_signed(&key).unwrap().der()).unwrap();
    let issuer = Issuer::new(authority, key);
    for node in nodes {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["radiator.test".to_string()]).unwrap();
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = leaf.signed_by(&key, &issuer).unwrap();
        std::fs::write(root.join(format!("{node}.crt")), signed.der()).unwrap();
        std::fs::write(root.join(format!("{node}.key")), key.serialize_der()).unwrap();
    }
}
