//! A home at its friend's vault: what it sends and asks beyond what restic does. Nothing that comes back is believed for
//! being said: lists are compared with what is known, heads must bear the home's own signature, and all is bounded.

use super::blob::{BlobName, Kind};
use super::challenge::{Answer, Challenge, Outcome};
use super::head::{Finding, Head, compare_heads};
use super::outgoing::V2;
use super::path::Folder;
use super::room::Room;
use super::signed::{HomeKey, NotBelieved, Says, Signed};
use super::waiting::List;
use crate::kit_change::Announcement;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use thermidor_model::name::HomeName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest answer that is read: a list of half a million names.
const ANSWER_MAX: usize = 64 << 20;
/// The longest blob that is read: no pack of restic's is half as long.
const BLOB_MAX: usize = 256 << 20;
/// The longest text of a refusal that is kept.
const REASON_MAX: usize = 500;

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// No connection, or it broke.
    #[error("the vault can't be spoken to")]
    Broken(#[source] hyper::Error),
    /// No answer in time.
    #[error("the vault has not answered in {} s", .0.as_secs())]
    Silent(Duration),
    /// It says no.
    #[error("the vault says {status}: {reason}")]
    Refused {
        /// HTTP's word for it.
        status: StatusCode,
        /// The vault's own words.
        reason: String,
    },
    /// An answer that is none.
    #[error("the vault answers what can't be read: {0}")]
    Nonsense(String),
    /// A head that this home has not signed, or signed for something else.
    #[error("the vault shows a head that is not this home's")]
    Forged(#[source] NotBelieved),
    /// The head of another repository or for another vault.
    #[error("the vault shows the head of something else")]
    Misplaced,
}

impl VisitError {
    /// Whether the vault was heard and knows this home: then it answers for what it keeps.
    pub fn is_an_answer(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Silent(_) => false,
            Self::Refused { status, .. } => *status != StatusCode::UNAUTHORIZED,
            Self::Nonsense(_) | Self::Forged(_) | Self::Misplaced => true,
        }
    }
}

/// A connection to a friend's vault.
#[derive(Debug)]
pub struct Visit {
    send: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    home: HomeName,
    vault: HomeName,
    authorization: Option<String>,
    patience: Duration,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[derive(Deserialize)]
struct Listed {
    name: BlobName,
}

impl Visit {
    /// Begins to speak on a connection to `vault` as `home`, with a password where the transport proves nothing.
    /// Waits `patience` at most for each answer.
    pub async fn begin<IO>(
        io: IO,
        home: HomeName,
        vault: HomeName,
        password: Option<&str>,
        patience: Duration,
    ) -> Result<Self, VisitError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = handshake(TokioIo::new(io)).await.map_err(VisitError::Broken)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a vault broke");
            }
        });
        let basic = |password| format!("Basic {}", BASE64_STANDARD.encode(format!("{home}:{password}")));
        let authorization = password.map(basic);
        Ok(Self { send, connection, home, vault, authorization, patience })
    }

    /// What the vault lists of a repository, at a time in ms since the Unix epoch.
    pub async fn list(&mut self, folder: &Folder, now: u64) -> Result<Head, VisitError> {
        let mut all = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Locks) {
            let path = format!("{}{}/", below(folder), kind.as_str());
            let listed: Vec<Listed> = read(&self.ask(Method::GET, &path, Vec::new()).await?)?;
            all.extend(listed.into_iter().map(|entry| (kind, entry.name)));
        }
        Ok(Head::of(now, all))
    }

    /// The head that the vault keeps, with the number of its statement.
    pub async fn head(&mut self, folder: &Folder, key: &HomeKey) -> Result<Option<(u64, Head)>, VisitError> {
        let answer = match self.ask(Method::GET, &own("head", folder), Vec::new()).await {
            Err(VisitError::Refused { status: StatusCode::NOT_FOUND, .. }) => return Ok(None),
            answer => answer?,
        };
        let statement = read::<Signed>(&answer)?.open(key).map_err(VisitError::Forged)?;
        let is_ours = statement.home == self.home && statement.vault == self.vault;
        match statement.says {
            Says::Head(head) if is_ours && statement.folder == folder.as_str() => {
                Ok(Some((statement.number, head)))
            }
            _ => Err(VisitError::Misplaced),
        }
    }

    /// Sends a signed head.
    pub async fn send_head(&mut self, folder: &Folder, signed: &Signed) -> Result<(), VisitError> {
        self.ask(Method::POST, &own("head", folder), json(signed)?).await.map(|_| ())
    }

    /// Sends a signed deletion list, or a signed word that takes one back.
    pub async fn announce(&mut self, signed: &Signed) -> Result<(), VisitError> {
        self.ask(Method::POST, &own("deletions", &Folder::ROOT), json(signed)?).await.map(|_| ())
    }

    /// What room this home has in the vault. One of an earlier version has never heard of the question.
    pub async fn room(&mut self) -> Result<Room, VisitError> {
        read(&self.ask(Method::GET, &own("room", &Folder::ROOT), Vec::new()).await?)
    }

    /// What waits for deletion.
    pub async fn deletions(&mut self) -> Result<Vec<List>, VisitError> {
        read(&self.ask(Method::GET, &own("deletions", &Folder::ROOT), Vec::new()).await?)
    }

    /// Compares what the vault shows with the last head that was sent to it, and its number. No finding is good news.
    pub async fn compare(
        &mut self,
        folder: &Folder,
        key: &HomeKey,
        known: (u64, &Head),
    ) -> Result<Vec<Finding>, VisitError> {
        let shown = self.head(folder, key).await?;
        let mut findings: Vec<Finding> =
            compare_heads(known, shown.as_ref().map(|(number, head)| (*number, head))).into_iter().collect();
        findings.extend(known.1.compare(&self.list(folder, known.1.taken).await?));
        Ok(findings)
    }

    /// The word about this home's generation that lies there.
    pub async fn generation_word(&mut self) -> Result<Option<Signed>, VisitError> {
        match self.ask(Method::GET, &own("generation", &Folder::ROOT), Vec::new()).await {
            Err(VisitError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            answer => read(&answer?).map(Some),
        }
    }

    /// Leaves such a word there.
    pub async fn leave_generation_word(&mut self, signed: &Signed) -> Result<(), VisitError> {
        self.ask(Method::POST, &own("generation", &Folder::ROOT), json(signed)?).await.map(drop)
    }

    /// Says that this home's kit was replaced.
    pub async fn announce_kit(&mut self, said: &Announcement) -> Result<(), VisitError> {
        self.ask(Method::POST, &own("kit", &Folder::ROOT), json(said)?).await.map(drop)
    }

    /// Puts a retention challenge to the vault. Whatever it says instead of an answer is one; an error is that nothing
    /// was heard, or that it does not know this home any more.
    pub async fn challenge(&mut self, folder: &Folder, challenge: &Challenge) -> Result<Outcome, VisitError> {
        let question = json(&challenge.question)?;
        let said = self.ask(Method::POST, &own("challenge", folder), question).await;
        match said.and_then(|answer| read::<Answer>(&answer)) {
            Err(e) if !e.is_an_answer() => Err(e),
            said => Ok(challenge.judge(said.map_err(|e| e.to_string()))),
        }
    }

    /// Reads a blob to its end and says whether it is what its name says. Waits for each piece of it.
    pub async fn is_whole(
        &mut self,
        folder: &Folder,
        kind: Kind,
        name: BlobName,
    ) -> Result<bool, VisitError> {
        let path = format!("{}{}/{name}", below(folder), kind.as_str());
        let patience = self.patience;
        let silent = |_| VisitError::Silent(patience);
        let answer = timeout(patience, self.send(Method::GET, &path, Vec::new())).await.map_err(silent)??;
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let body = timeout(patience, Limited::new(body, ANSWER_MAX).collect()).await.map_err(silent)?;
            let body = body.map_err(|e| VisitError::Nonsense(e.to_string()))?.to_bytes();
            return Err(refused(status, &body));
        }
        let (mut whole, mut seen) = (Context::new(&SHA256), 0);
        while let Some(frame) = timeout(patience, body.frame()).await.map_err(silent)? {
            let piece = frame.map_err(VisitError::Broken)?.into_data().unwrap_or_default();
            whole.update(&piece);
            seen += piece.len();
            if seen > BLOB_MAX {
                return Ok(false);
            }
        }
        Ok(BlobName::digest(whole.finish()) == name)
    }

    async fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, VisitError> {
        let patience = self.patience;
        let spoken = async {
            let answer = self.send(method, path, body).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|e| VisitError::Nonsense(e.to_string()))?.to_bytes();
            if status == StatusCode::OK { Ok(body) } else { Err(refused(status, &body)) }
        };
        timeout(patience, spoken).await.map_err(|_| VisitError::Silent(patience))?
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, VisitError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/{}/{path}", self.home))
            .header(header::HOST, self.vault.as_str())
            .header(header::ACCEPT, V2);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request =
            request.body(Full::new(body.into())).map_err(|e| VisitError::Nonsense(e.to_string()))?;
        self.send.ready().await.map_err(VisitError::Broken)?;
        self.send.send_request(request).await.map_err(VisitError::Broken)
    }
}

fn refused(status: StatusCode, body: &[u8]) -> VisitError {
    let reason = String::from_utf8_lossy(body).trim().chars().take(REASON_MAX).collect();
    VisitError::Refused { status, reason }
}

/// The path of a repository below its home's.
fn below(folder: &Folder) -> String {
    if *folder == Folder::ROOT { String::new() } else { format!("{folder}/") }
}

fn own(verb: &str, folder: &Folder) -> String {
    if *folder == Folder::ROOT { format!("-/{verb}") } else { format!("-/{verb}/{folder}") }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, VisitError> {
    serde_json::to_vec(value).map_err(|e| VisitError::Nonsense(e.to_string()))
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, VisitError> {
    serde_json::from_slice(answer).map_err(|e| VisitError::Nonsense(e.to_string()))
}
