//! What a process shows at a handshake and whom it believes. Shared by every connection made from one identity,
//! so that both may change while the process runs.
//!
//! A member that the state knows is known by its own key, whoever signed the certificate: the authority's key is
//! on every radiator's disk, so a thief may have it; a member's key never leaves its own. The authority's
//! word counts for members that the state does not know yet.

use super::{IdentityError, SERVER_NAME, fingerprint_of, peer_of, tls};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use thermidor_model::{NodeId, State};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whom a process knows, as the state says or said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The authority's certificate, PEM.
    pub(crate) authority_pem: String,
    /// The number the next member gets; 0: the state was never seen here.
    pub(crate) next_node: NodeId,
    /// The members.
    pub(crate) members: BTreeSet<NodeId>,
    /// BLAKE3 of members' public keys, hex.
    pub(crate) keys: BTreeMap<NodeId, String>,
}

impl Known {
    /// As a state says; `None`: it was never applied to.
    pub(crate) fn of(state: &State) -> Option<Self> {
        (!state.authority_pem.is_empty()).then(|| Self {
            authority_pem: state.authority_pem.clone(),
            next_node: state.next_node,
            members: state.members.keys().copied().collect(),
            keys: state.keys.members.clone(),
        })
    }
}

/// Whom a certificate names, by which key, and under which authority as far as we know that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) member: NodeId,
    pub(crate) generation: u64,
    pub(crate) key: String,
    /// Fingerprint of the authority that signed it, if that was the home's when we looked.
    pub(crate) under: Option<String>,
}

/// Who is verified, with the authority ready for use.
struct Believed {
    known: Known,
    fingerprint: String,
    authority: Arc<WebPkiServerVerifier>,
}

/// Shared by the TLS settings of one process; see the module.
pub struct Papers {
    own: RwLock<Arc<CertifiedKey>>,
    believed: RwLock<Arc<Believed>>,
    /// Members that a known one has vouched for, until the state knows them.
    vouched: Mutex<BTreeMap<NodeId, String>>,
    /// Somebody unknown who showed a number that we have not given out.
    newcomer: watch::Sender<Option<(NodeId, String)>>,
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for Papers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Papers").finish_non_exhaustive()
    }
}

/// BLAKE3 of a public key (SubjectPublicKeyInfo, DER), hex: by it the state knows a member.
pub(super) fn hash_of_key(public_key: &[u8]) -> String {
    blake3::hash(public_key).to_hex().to_string()
}

/// The same of a certificate's key.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(hash_of_key(parsed.public_key().raw))
}

fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn believed(known: Known) -> Result<Arc<Believed>, IdentityError> {
    let authority = CertificateDer::from_pem_slice(known.authority_pem.as_bytes())
        .map_err(|e| IdentityError::Damaged("the authority", e.to_string()))?;
    let fingerprint = fingerprint_of(&authority);
    let authority = tls::verifier_under(authority)?;
    Ok(Arc::new(Believed { known, fingerprint, authority }))
}

impl Papers {
    pub(crate) fn new(own: Arc<CertifiedKey>, known: Known) -> Result<Arc<Self>, IdentityError> {
        Ok(Arc::new(Self {
            own: RwLock::new(own),
            believed: RwLock::new(believed(known)?),
            vouched: Mutex::default(),
            newcomer: watch::Sender::new(None),
            changed: watch::Sender::new(()),
        }))
    }

    pub(crate) fn own(&self) -> Arc<CertifiedKey> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another certificate from now on.
    pub(crate) fn show(&self, own: Arc<CertifiedKey>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    fn believed(&self) -> Arc<Believed> {
        self.believed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Believes those from now on.
    pub(crate) fn believe(&self, known: Known) -> Result<(), IdentityError> {
        if self.believed().known == known {
            return Ok(());
        }
        let next = known.next_node;
        *self.believed.write().unwrap_or_else(PoisonError::into_inner) = believed(known)?;
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| *node >= next);
        self.changed.send_replace(());
        Ok(())
    }

    /// The fingerprint of the authority that is believed.
    pub(crate) fn authority(&self) -> String {
        self.believed().fingerprint.clone()
    }

    /// A known member vouches for one that the state does not know yet.
    pub(crate) fn vouch(&self, node: NodeId, key: String) {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner).insert(node, key);
    }

    /// Whether somebody has vouched for that key.
    pub(crate) fn is_vouched(&self, node: NodeId, key: &str) -> bool {
        let vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        vouched.get(&node).is_some_and(|known| known == key)
    }

    /// Whoever was refused though its number may have been given out while we were away.
    pub(crate) fn newcomers(&self) -> watch::Receiver<Option<(NodeId, String)>> {
        self.newcomer.subscribe()
    }

    /// What a certificate says that a handshake has accepted.
    pub(crate) fn read(&self, certificate: &CertificateDer<'_>) -> Option<Shown> {
        let (member, generation) = peer_of(certificate)?;
        let believed = self.believed();
        let under = under(&believed, certificate, UnixTime::now()).is_ok();
        let under = under.then(|| believed.fingerprint.clone());
        Some(Shown { member, generation, key: key_of(certificate)?, under })
    }

    /// Whether a certificate's holder is who it says. `gone_too`: members that have left are let in, to be told.
    pub(crate) fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
        gone_too: bool,
    ) -> Result<(), Error> {
        let (node, _) = peer_of(certificate).ok_or_else(refused)?;
        let key = key_of(certificate).ok_or_else(refused)?;
        let believed = self.believed();
        let known = &believed.known;
        if let Some(pinned) = known.keys.get(&node) {
            return if *pinned == key { Ok(()) } else { Err(refused()) };
        }
        let never_given = node >= known.next_node;
        if never_given && self.is_vouched(node, &key) {
            return Ok(());
        }
        if !never_given && !gone_too && !known.members.contains(&node) {
            return Err(refused());
        }
        let judged = under(&believed, certificate, now);
        if judged.is_err() && never_given {
            self.newcomer.send_replace(Some((node, key)));
        }
        judged
    }

    /// Waits until a certificate that was accepted would be refused.
    pub fn until_refused(self: &Arc<Self>, certificate: CertificateDer<'static>) -> BoxFuture<'static, ()> {
        let papers = self.clone();
        let mut changed = papers.changed.subscribe();
        async move {
            while papers.judge(&certificate, UnixTime::now(), false).is_ok() {
                if changed.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
        .boxed()
    }
}

/// Whether the authority signed it.
fn under(believed: &Believed, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let name = ServerName::try_from(SERVER_NAME).map_err(|_| refused())?;
    believed.authority.verify_server_cert(certificate, &[], &name, &[], now).map(drop)
}
