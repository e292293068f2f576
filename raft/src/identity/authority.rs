//! The home's certificate authority: made at `init`, held by every radiator, never by a witness.

use super::IdentityError;
use super::papers::{hash_of_key, key_of};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use thermidor_model::NodeId;
use thermidor_model::name::HomeName;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name every member's certificate carries beside its own.
pub const SERVER_NAME: &str = "thermidor.home";

/// The authority with its key.
pub struct Authority {
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A member's key pair.
pub(crate) struct MemberKey(KeyPair);

impl MemberKey {
    pub(crate) fn generate() -> Result<Self, IdentityError> {
        Ok(Self(KeyPair::generate()?))
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// BLAKE3 of the public key, hex: how the state knows this member.
    pub(crate) fn hash(&self) -> String {
        hash_of_key(&self.0.subject_public_key_info())
    }

    /// A request for a certificate; proves that we hold the key. Its names are not looked at.
    pub(crate) fn request(&self) -> Result<String, IdentityError> {
        Ok(CertificateParams::new(vec![SERVER_NAME.to_string()])?.serialize_request(&self.0)?.pem()?)
    }
}

/// Valid since the epoch and for long: a radiator without a battery-backed clock boots in 1970,
/// and who may take part is decided by the home's state, not by a date.
fn validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2170, 1, 1);
}

impl Authority {
    /// A new authority.
    pub fn generate(home: &HomeName) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("Thermidor home {home}"));
        validity(&mut params);
        let pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { pem, key_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority out of its certificate and key; refused where they are not of one another.
    pub fn load(pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| IdentityError::Damaged("authority.pem", e.to_string()))?;
        if key_of(&certificate).as_ref() != Some(&MemberKey::from_pem(key_pem)?.hash()) {
            return Err(IdentityError::Damaged("authority.key", "it is another authority's".into()));
        }
        let issuer = Issuer::from_ca_cert_pem(pem, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { pem: pem.to_string(), key_pem: key_pem.to_string(), issuer })
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key, PEM. A secret.
    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A member's certificate for a key we made ourselves.
    pub(crate) fn issue(
        &self,
        key: &MemberKey,
        home: &HomeName,
        node: NodeId,
        generation: u64,
    ) -> Result<String, IdentityError> {
        self.sign(&key.0, home, node, generation)
    }

    /// A member's certificate for a newcomer's request. Only its key is taken; who it is, we say.
    pub fn issue_for(
        &self,
        request_pem: &str,
        home: &HomeName,
        node: NodeId,
        generation: u64,
    ) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)?;
        self.sign(&request.public_key, home, node, generation)
    }

    /// A certificate and its key, PEM, for a service under a host name. It names no member and
    /// serves servers only, so nobody passes for a radiator with it.
    pub fn issue_for_service(&self, host: &str) -> Result<(String, String), IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_string()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        validity(&mut params);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        home: &HomeName,
        node: NodeId,
        generation: u64,
    ) -> Result<String, IdentityError> {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_string()])?;
        let own_name = format!("thermidor://{home}/member/{node}/{generation}");
        params.subject_alt_names.push(SanType::URI(own_name.try_into()?));
        params.distinguished_name.push(DnType::CommonName, format!("{home} member {node}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        validity(&mut params);
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// Whose certificate it is: member and generation. Only to be asked about a certificate that
/// the handshake has verified.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Option<(NodeId, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => {
            let mut path = uri.strip_prefix("thermidor://")?.split('/').skip(1);
            match (path.next(), path.next(), path.next(), path.next()) {
                (Some("member"), Some(node), Some(generation), None) => {
                    Some((node.parse().ok()?, generation.parse().ok()?))
                }
                _ => None,
            }
        }
        _ => None,
    })
}

/// BLAKE3 of the public key in a request for a certificate, hex.
pub(crate) fn key_of_request(request_pem: &str) -> Result<String, IdentityError> {
    let request = CertificateSigningRequestParams::from_pem(request_pem)?;
    Ok(hash_of_key(&request.public_key.subject_public_key_info()))
}

/// A certificate's fingerprint, hex.
pub(crate) fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    blake3::hash(certificate).to_hex().to_string()
}
