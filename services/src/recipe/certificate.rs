//! A certificate that a person gives: looked at before it is taken, so that what is wrong with it
//! is said then and not by a mail program.

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use thermidor_model::name::UnixMs;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is wrong with a certificate, or with the key beside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No PEM, or PEM of something else.
    #[error("it holds no certificate: {0}")]
    NoCertificate(String),
    /// Not valid yet or any more.
    #[error("it is valid from {from} to {to}, and now is neither")]
    Expired {
        /// From when.
        from: String,
        /// To when.
        to: String,
    },
    /// Made out to somebody else.
    #[error("it is made out to {names}, not to {host}")]
    OtherName {
        /// Whose it is.
        names: String,
        /// Whose it should be.
        host: String,
    },
    /// Clients could not follow it to an authority.
    #[error("the certificate that signed it is missing from the file: take the full chain (fullchain.pem)")]
    NoIssuer,
    /// No usable private key.
    #[error("it holds no private key: {0}")]
    NoKey(String),
    /// Of another pair.
    #[error("it does not belong to the certificate: both must come from one order")]
    OtherKey,
}

impl CertificateError {
    /// Whether the key is to blame, not the certificate.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey(_) | Self::OtherKey)
    }
}

fn chain_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bad = |e: String| CertificateError::NoCertificate(e);
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| bad(e.to_string()))?;
    if chain.is_empty() {
        return Err(bad("no `-----BEGIN CERTIFICATE-----` in it".into()));
    }
    Ok(chain)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, c)| c).map_err(|e| CertificateError::NoCertificate(e.to_string()))
}

/// Looks whether a server named `host` can show this chain with this key, now.
pub fn check(chain_pem: &str, key_pem: &str, host: &str, now_ms: UnixMs) -> Result<(), CertificateError> {
    check_chain(chain_pem, host, now_ms)?;
    fits(chain_pem, key_pem)
}

/// The same of the chain alone.
pub fn check_chain(chain_pem: &str, host: &str, now_ms: UnixMs) -> Result<(), CertificateError> {
    let chain = chain_of(chain_pem)?;
    let own = parsed(&chain[0])?;
    let validity = own.validity();
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    if now_s < validity.not_before.timestamp() || now_s > validity.not_after.timestamp() {
        return Err(CertificateError::Expired {
            from: validity.not_before.to_string(),
            to: validity.not_after.to_string(),
        });
    }
    check_name(&chain[0], &own, host)?;
    let signer = own.issuer().as_raw();
    let mut others = chain.iter().skip(1).filter_map(|c| parsed(c).ok());
    if own.subject().as_raw() != signer && !others.any(|c| c.subject().as_raw() == signer) {
        return Err(CertificateError::NoIssuer);
    }
    Ok(())
}

/// Looks whether chain and key are of one pair; asks no clock.
pub fn fits(chain_pem: &str, key_pem: &str) -> Result<(), CertificateError> {
    let chain = chain_of(chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    let key = key.map_err(|e| CertificateError::NoKey(e.to_string()))?;
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::OtherKey),
        Err(e) => Err(CertificateError::NoKey(e.to_string())),
    }
}

fn check_name(
    der: &CertificateDer<'_>,
    own: &X509Certificate<'_>,
    host: &str,
) -> Result<(), CertificateError> {
    let bad = |e: String| CertificateError::NoCertificate(e);
    let end = ParsedCertificate::try_from(der).map_err(|e| bad(e.to_string()))?;
    let name = ServerName::try_from(host).map_err(|e| bad(e.to_string()))?;
    if rustls::client::verify_server_name(&end, &name).is_ok() {
        return Ok(());
    }
    let names = own.subject_alternative_name().ok().flatten();
    let names: Vec<String> = names
        .into_iter()
        .flat_map(|n| &n.value.general_names)
        .map(|n| n.to_string().trim_start_matches("DNSName(").trim_end_matches(')').to_owned())
        .collect();
    let names = if names.is_empty() { "nobody".into() } else { names.join(", ") };
    Err(CertificateError::OtherName { names, host: host.into() })
}

/// When the first certificate of a chain ends, Unix ms.
pub fn ends_ms(chain_pem: &str) -> Result<UnixMs, CertificateError> {
    let chain = chain_of(chain_pem)?;
    let ends_s = parsed(&chain[0])?.validity().not_after.timestamp();
    Ok(u64::try_from(ends_s).unwrap_or(0) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "mail.example.org";
    /// In 2026.
    const NOW_MS: UnixMs = 1_780_000_000_000;

    struct Given {
        chain: String,
        key: String,
    }

    fn signed(names: &[&str], from: i32, to: i32, full: bool) -> Given {
        let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "An authority");
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut own = rcgen::CertificateParams::new(names).unwrap();
        own.not_before = rcgen::date_time_ymd(from, 1, 1);
        own.not_after = rcgen::date_time_ymd(to, 1, 1);
        own.distinguished_name.push(rcgen::DnType::CommonName, "The server");
        let mut chain = own.signed_by(&key, &issuer).unwrap().pem();
        if full {
            chain.push_str(&authority_pem);
        }
        Given { chain, key: key.serialize_pem() }
    }

    fn said(given: &Given) -> Result<(), CertificateError> {
        check(&given.chain, &given.key, HOST, NOW_MS)
    }

    #[test]
    fn a_full_chain_with_its_key_is_taken_also_for_a_wildcard() {
        assert_eq!(said(&signed(&[HOST, "example.org"], 2026, 2027, true)), Ok(()));
        assert_eq!(said(&signed(&["*.example.org"], 2026, 2027, true)), Ok(()));
        let ends = ends_ms(&signed(&[HOST], 2026, 2027, true).chain).unwrap();
        assert_eq!(ends, 1_798_761_600_000);
    }

    #[test]
    fn each_fault_has_its_own_words() {
        let good = signed(&[HOST], 2026, 2027, true);
        let expired = said(&signed(&[HOST], 2020, 2021, true)).unwrap_err();
        assert!(expired.to_string().contains("2021"), "{expired}");
        assert!(matches!(said(&signed(&[HOST], 2030, 2031, true)), Err(CertificateError::Expired { .. })));
        let other = said(&signed(&["www.example.org"], 2026, 2027, true)).unwrap_err();
        assert_eq!(other.to_string(), "it is made out to www.example.org, not to mail.example.org");
        assert_eq!(said(&signed(&[HOST], 2026, 2027, false)), Err(CertificateError::NoIssuer));
        let stranger = Given { key: signed(&[HOST], 2026, 2027, true).key, chain: good.chain.clone() };
        assert_eq!(said(&stranger), Err(CertificateError::OtherKey));
        assert!(said(&stranger).unwrap_err().is_of_key());
        let swapped = Given { chain: good.key.clone(), key: good.chain.clone() };
        assert!(said(&swapped).unwrap_err().to_string().contains("no certificate"));
        let keyless = Given { key: String::new(), chain: good.chain };
        assert!(matches!(said(&keyless), Err(CertificateError::NoKey(_))));
    }
}
