//! The TLS identity that the daemon lends to the volume processes and the ingress:
//! they speak to their peers under the home's authority without knowing of consensus.

use futures::future::BoxFuture;
use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use thermidor_model::NodeId;

/// Reads a member's number out of a certificate that the handshake has verified.
pub type PeerOf = Arc<dyn Fn(&CertificateDer<'_>) -> Option<NodeId> + Send + Sync>;

/// Waits until a certificate that was accepted would be refused: its member left, or the home's keys were changed.
pub type UntilRefused = Arc<dyn Fn(CertificateDer<'static>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Both ends of a mutually authenticated connection inside the home.
#[derive(Clone)]
pub struct Link {
    /// This member's number.
    pub node: NodeId,
    /// For accepting: demands a certificate of the home.
    pub server: Arc<rustls::ServerConfig>,
    /// For dialling: presents ours, trusts only the home's authority.
    pub client: Arc<rustls::ClientConfig>,
    /// The name that every member's certificate carries beside its own.
    pub server_name: ServerName<'static>,
    /// Whose certificate it is.
    pub peer_of: PeerOf,
    /// Ends the connections of whoever is refused by now.
    pub until_refused: UntilRefused,
}

impl Link {
    /// Waits until whoever is at the other end of an accepted connection would be refused.
    pub async fn refused(&self, shown: Option<&[CertificateDer<'_>]>) {
        if let Some(certificate) = shown.and_then(<[_]>::first) {
            (self.until_refused)(certificate.clone().into_owned()).await;
        }
    }
}
