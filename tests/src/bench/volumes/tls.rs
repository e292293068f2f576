//! An authority for the three, and what a volume process makes of it.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use thermidor_model::NodeId;
use thermidor_services::link::Link;

const NAME: &str = "radiator.bench";

fn certificate(root: &Path, node: NodeId) -> Result<CertificateDer<'static>> {
    Ok(std::fs::read(root.join(format!("{node}.crt"))).context("read a certificate")?.into())
}

/// Makes the authority and a certificate for each, below that folder.
pub fn issue(root: &Path, nodes: &[NodeId]) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "bench home");
    std::fs::write(root.join("ca.crt"), authority.clone().self_signed(&key)?.der())?;
    let issuer = Issuer::new(authority, key);
    for node in nodes {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![NAME.to_owned()])?;
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(root.join(format!("{node}.crt")), leaf.signed_by(&key, &issuer)?.der())?;
        std::fs::write(root.join(format!("{node}.key")), key.serialize_der())?;
    }
    Ok(())
}

/// A volume process's identity; nobody is ever refused.
pub fn link(root: &Path, node: NodeId, nodes: &[NodeId]) -> Result<Link> {
    let mut roots = RootCertStore::empty();
    roots.add(std::fs::read(root.join("ca.crt"))?.into())?;
    let roots = Arc::new(roots);
    let key_bytes = std::fs::read(root.join(format!("{node}.key")))?;
    let key = || -> PrivateKeyDer<'static> { PrivatePkcs8KeyDer::from(key_bytes.clone()).into() };
    let chain = vec![certificate(root, node)?];
    let verifier = WebPkiClientVerifier::builder(roots.clone()).build()?;
    let server =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key())?;
    let client = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key())?;
    let known: Vec<_> = nodes.iter().map(|n| Ok((*n, certificate(root, *n)?))).collect::<Result<_>>()?;
    Ok(Link {
        node,
        server: Arc::new(server),
        client: Arc::new(client),
        server_name: ServerName::try_from(NAME)?,
        until_refused: Arc::new(|_| Box::pin(std::future::pending())),
        peer_of: Arc::new(move |given| known.iter().find(|(_, c)| c == given).map(|(n, _)| *n)),
    })
}
