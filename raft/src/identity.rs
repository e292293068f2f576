//! Who is who in a home: its authority, each member's certificate, the home key, and the TLS
//! both ends speak. Everything lives under DATA/identity, readable by its owner only.

mod authority;
mod files;
mod home_key;
mod kept;
mod papers;
mod tls;

pub use authority::{Authority, SERVER_NAME, peer_of};
pub(crate) use authority::{MemberKey, fingerprint_of, key_of_request};
pub(crate) use files::{adopt, next_of};
pub use home_key::HomeKey;
pub use kept::KeptKeys;
pub use papers::Papers;
pub(crate) use papers::{Known, Shown};
pub(crate) use tls::pinned_client;
pub use tls::server_name;

use crate::{codec, disk};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thermidor_model::NodeId;
use thermidor_model::name::HomeName;
use thermidor_model::state::{Role, Sealed};
use thermidor_model::timing::Timing;

/// Why an identity can't be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No home here.
    #[error("{0} holds no member of a home: run `thermidor init` or `thermidor join`")]
    Missing(PathBuf),
    /// A file can't be read or written.
    #[error("{0}")]
    Io(String, #[source] io::Error),
    /// A certificate or key is not one.
    #[error("{0} is damaged: {1}")]
    Damaged(&'static str, String),
    /// rcgen refuses.
    #[error("a certificate can't be made")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses.
    #[error("TLS can't be set up with this identity")]
    Tls(#[from] rustls::Error),
    /// A witness was asked for what only radiators hold.
    #[error("a witness holds no {0}: ask a radiator")]
    Witness(&'static str),
    /// The home's keys were changed a moment ago, or while this member was off.
    #[error("this member has not got the home key number {0} yet: it asks the others for it")]
    NotYet(u64),
    /// Opening failed: another key, another name, or damaged bytes.
    #[error("the secret {0} can't be opened with this home's key")]
    Sealed(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// What a member knows about itself from the start, before it has heard anybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Own {
    /// Its number.
    pub node: NodeId,
    /// Its home.
    pub home: HomeName,
    /// Radiator or witness.
    pub role: Role,
    /// The IP address the others reach it at.
    pub advertise_ip: IpAddr,
    /// The home's times.
    pub timing: Timing,
    /// The number of the home's keys that it holds.
    #[serde(default)]
    pub keys: u64,
}

/// A member's identity.
pub struct Identity {
    /// What it knows about itself.
    pub own: Own,
    /// The generation its certificate was issued in.
    pub generation: u64,
    /// The authority's certificate, PEM.
    pub authority_pem: String,
    /// The home key; a witness has none.
    pub home_key: Option<HomeKey>,
    /// Every home key held, by its number.
    pub(crate) home_keys: BTreeMap<u64, HomeKey>,
    /// BLAKE3 of this member's public key, hex.
    pub(crate) member_key: String,
    authority_key: Option<String>,
    chain: Vec<CertificateDer<'static>>,
    certified: Arc<CertifiedKey>,
    papers: Arc<Papers>,
}

/// The parts of an identity as they are stored and sent to a newcomer.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) own: Own,
    pub(crate) certificate_pem: String,
    pub(crate) authority_pem: String,
    pub(crate) authority_key_pem: Option<String>,
    /// By their numbers; a witness has none.
    #[serde(default)]
    pub(crate) home_keys: BTreeMap<u64, HomeKey>,
}

/// Where a data directory's identity is.
pub(crate) fn dir_of(data: &Path) -> PathBuf {
    data.join("identity")
}

/// The present home key's file, or one before it, under which secrets may still be sealed.
fn home_key_file(number: u64, present: u64) -> String {
    if number == present { "home.key".into() } else { format!("home-{number}.key") }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let text = format!("{} can't be read or written", path.display());
    move |e| IdentityError::Io(text, e)
}

impl Parts {
    /// Writes all of it beside its place and then renames: an identity is there whole or not at all.
    pub(crate) fn store(&self, member_key_pem: &str, place: &Path) -> Result<(), IdentityError> {
        let building = place.with_extension("new");
        disk::remove_dir_if_there(&building).map_err(io_error(&building))?;
        disk::make_dir(&building).map_err(io_error(&building))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = building.join(name);
            disk::write_whole(&path, bytes).map_err(io_error(&path))
        };
        let own = codec::encode(&self.own).map_err(|e| IdentityError::Damaged("own", e.to_string()))?;
        write("own", &own)?;
        write("authority.pem", self.authority_pem.as_bytes())?;
        write("member.pem", self.certificate_pem.as_bytes())?;
        write("member.key", member_key_pem.as_bytes())?;
        if let Some(key) = &self.authority_key_pem {
            write("authority.key", key.as_bytes())?;
        }
        for (number, key) in &self.home_keys {
            write(&home_key_file(*number, self.own.keys), key.as_bytes())?;
        }
        std::fs::rename(&building, place).map_err(io_error(place))?;
        let parent = place.parent().unwrap_or(Path::new("."));
        disk::sync_dir(parent).map_err(io_error(parent))
    }
}

impl Identity {
    /// Whether a data directory belongs to a member already.
    pub fn exists(data: &Path) -> bool {
        dir_of(data).exists()
    }

    /// Reads the identity of a data directory.
    pub fn load(data: &Path) -> Result<Self, IdentityError> {
        Self::read(&dir_of(data)).map_err(|e| match e {
            IdentityError::Io(_, cause) if cause.kind() == io::ErrorKind::NotFound => {
                IdentityError::Missing(data.to_path_buf())
            }
            e => e,
        })
    }

    /// The one that was made ready to take its place, if it is there whole.
    pub(crate) fn ready(data: &Path) -> Option<Self> {
        Self::read(&next_of(data)).ok()
    }

    fn read(dir: &Path) -> Result<Self, IdentityError> {
        let bytes = |name: &str| std::fs::read(dir.join(name)).map_err(io_error(&dir.join(name)));
        let optional = |name: &str| disk::read_if_there(&dir.join(name)).map_err(io_error(&dir.join(name)));
        let text = |bytes: Vec<u8>, what| {
            String::from_utf8(bytes).map_err(|e| IdentityError::Damaged(what, e.to_string()))
        };
        let own: Own =
            codec::decode(&bytes("own")?).map_err(|e| IdentityError::Damaged("own", e.to_string()))?;
        let authority_pem = text(bytes("authority.pem")?, "authority.pem")?;
        let authority_key = optional("authority.key")?.map(|b| text(b, "authority.key")).transpose()?;
        let mut home_keys = BTreeMap::new();
        for number in 0..=own.keys {
            if let Some(key) = optional(&home_key_file(number, own.keys))? {
                home_keys.insert(number, HomeKey::from_bytes(&key)?);
            }
        }
        let pem = |what: &'static str, bytes: &[u8]| {
            CertificateDer::from_pem_slice(bytes).map_err(|e| IdentityError::Damaged(what, e.to_string()))
        };
        let member = pem("member.pem", &bytes("member.pem")?)?;
        let authority = pem("authority.pem", authority_pem.as_bytes())?;
        let (_, generation) = peer_of(&member)
            .ok_or_else(|| IdentityError::Damaged("member.pem", "it names no member".into()))?;
        let key_bytes = bytes("member.key")?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key_bytes)
            .map_err(|e| IdentityError::Damaged("member.key", e.to_string()))?;
        let chain = vec![member, authority];
        let certified = tls::certified(chain.clone(), PrivateKeyDer::Pkcs8(key))?;
        let known = Known { authority_pem: authority_pem.clone(), ..Known::default() };
        Ok(Self {
            home_key: home_keys.get(&own.keys).cloned(),
            member_key: MemberKey::from_pem(&text(key_bytes, "member.key")?)?.hash(),
            papers: Papers::new(certified.clone(), known)?,
            own,
            generation,
            authority_pem,
            home_keys,
            authority_key,
            chain,
            certified,
        })
    }

    /// This member's number.
    pub fn node(&self) -> NodeId {
        self.own.node
    }

    /// The authority with its key, for issuing certificates; a witness can't.
    pub fn authority(&self) -> Result<Authority, IdentityError> {
        let key = self.authority_key.as_deref().ok_or(IdentityError::Witness("authority key"))?;
        Authority::load(&self.authority_pem, key)
    }

    /// Whether this member holds the authority's key.
    pub fn may_issue(&self) -> bool {
        self.authority_key.is_some()
    }

    /// For accepting. A certificate of the home is demanded where `unknown_too` is false; else it is
    /// verified where one is shown, and the caller looks at the peer of each request (`join` has none).
    pub fn server_config(&self, unknown_too: bool) -> Result<Arc<ServerConfig>, IdentityError> {
        tls::server(&self.papers, unknown_too)
    }

    /// For dialling: shows our certificate, trusts the home's members alone.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        tls::client(&self.papers)
    }

    /// What this process shows and whom it believes.
    pub fn papers(&self) -> &Arc<Papers> {
        &self.papers
    }

    /// The same member with other keys, for connections that others have been made from: they show its certificate.
    pub(crate) fn in_place_of(mut self, before: &Self) -> Self {
        before.papers.show(self.certified.clone());
        self.papers = before.papers.clone();
        self
    }

    fn key_of_number(&self, number: u64) -> Result<&HomeKey, IdentityError> {
        if self.own.role == Role::Witness {
            return Err(IdentityError::Witness("home key"));
        }
        self.home_keys.get(&number).ok_or(IdentityError::NotYet(number))
    }

    /// Seals a secret under the home key of that number.
    pub fn seal(&self, number: u64, name: &str, secret: &[u8]) -> Result<Sealed, IdentityError> {
        Ok(Sealed { key: number, ..self.key_of_number(number)?.seal(name, secret)? })
    }

    /// Opens a secret, whichever home key it is sealed under.
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<zeroize::Zeroizing<Vec<u8>>, IdentityError> {
        self.key_of_number(sealed.key)?.open(name, sealed)
    }

    /// Secret bytes for a purpose, drawn from the home key of that number.
    pub fn derive(&self, number: u64, purpose: &str) -> Result<[u8; 32], IdentityError> {
        Ok(self.key_of_number(number)?.derive(purpose))
    }

    /// Fingerprint of the authority's certificate, hex.
    pub fn fingerprint(&self) -> String {
        self.chain.last().map(fingerprint_of).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::testing;
