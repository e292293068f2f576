//! The TLS identity that the daemon lends to the volume processes and the ingress:
//! they speak to their peers under the home's authority without knowing of consensus.

use rustls::pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use thermidor_model::NodeId;

/// Reads a member's number out of a certificate that the handshake has verified.
pub type PeerOf = Arc<dyn Fn(&CertificateDer<'_>) -> Option<NodeId> + Send + Sync>;

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
}
