//! The certificate that a home shows: over its transport key, signed by itself, with its generation as a name. Nothing
//! else of it means anything.

use super::NoCertificate;
use super::key::{Transport, TransportKey};
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How the name begins that says the generation, and how it ends.
const GENERATION: (&str, &str) = ("generation-", ".thermidor");

/// Who this home is on the way: its key, and the generation it speaks for.
#[derive(Clone)]
pub struct Own {
    public: TransportKey,
    generation: u64,
    certified: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Own({}, generation {})", self.public, self.generation)
    }
}

impl Own {
    /// A certificate over this key for this generation of the home.
    pub fn new(key: &Transport, generation: u64) -> Result<Self, NoCertificate> {
        let pair = KeyPair::try_from(&key.pkcs8())?;
        let name = format!("{}{generation}{}", GENERATION.0, GENERATION.1);
        let mut params = CertificateParams::new(vec![name])?;
        params.distinguished_name.push(DnType::CommonName, "thermidor");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A radiator without a clock boots in 1970; who is believed is decided by key, not by date.
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(2170, 1, 1);
        let certificate = params.self_signed(&pair)?.der().clone();
        let signing = ring::default_provider().key_provider.load_private_key(key.pkcs8());
        let signing = signing.map_err(NoCertificate::Key)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], signing));
        Ok(Self { public: key.public(), generation, certified })
    }

    /// The key it is over.
    pub fn public(&self) -> TransportKey {
        self.public
    }

    /// The generation it says.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

/// The generation that a certificate says; only to be asked once the handshake has proved its key.
pub(super) fn generation_of(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => {
            name.strip_prefix(GENERATION.0)?.strip_suffix(GENERATION.1)?.parse().ok()
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn a_certificate_says_key_and_generation() {
        let key = Transport::from_seed(Zeroizing::new([7; 32])).unwrap();
        let own = Own::new(&key, 12).unwrap();
        let certified = own.certified();
        let shown = certified.end_entity_cert().unwrap().clone();
        assert_eq!(TransportKey::of(&shown), Some(key.public()));
        assert_eq!(generation_of(&shown), Some(12));
        // Another kind of key is none.
        let other = KeyPair::generate().unwrap();
        let other = CertificateParams::new(vec![]).unwrap().self_signed(&other).unwrap();
        assert_eq!((TransportKey::of(other.der()), generation_of(other.der())), (None, None));
    }
}
