//! A vault with a sheet of glass before it: what is read and written goes through. Either what is deleted is only noted:
//! restic's own prune runs against it and so tells what could go, whatever its version, for what is unreachable is known to
//! it alone. Or nothing is held back, and retention challenges are drawn of the packs that go by.

use super::repository::{Repository, Secret};
use super::trouble::ResticError;
use super::watched::{Drawn, Pending, Watched};
use crate::stock::Stock;
use crate::vault::path::{self, Address, Place, View};
use crate::vault::{BlobName, Kind};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thermidor_model::name::HomeName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The longest list that is read, in bytes: half a million names.
const LIST_MAX: usize = 64 << 20;
/// Connections at once; restic has five.
const CONNECTIONS_MAX: usize = 32;

type Failure = Box<dyn Error + Send + Sync>;
type Reply = Response<Either<Watched, Full<Bytes>>>;

/// What was deleted.
pub(super) type Deleted = BTreeSet<(Kind, BlobName)>;

struct Glass {
    vault: SocketAddr,
    home: HomeName,
    /// The way to say who asks, to the vault and to us.
    theirs: Option<String>,
    ours: String,
    /// `None`: what is deleted goes through.
    deleted: Option<Mutex<Deleted>>,
    /// `None`: nobody watches.
    drawn: Option<Drawn>,
}

/// The overlay, as long as it lives.
pub(super) struct Overlay {
    glass: Arc<Glass>,
    /// The repository seen through it.
    pub repository: Repository,
    task: JoinHandle<()>,
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Overlay {
    /// Lays the glass before a repository. Only whoever knows the password that is made for it can note a deletion.
    pub async fn lay(over: &Repository) -> io::Result<Self> {
        Self::before(over, Some(Mutex::default()), None).await
    }

    /// Watches what goes to and from a repository, and adds what is drawn of it to a stock.
    pub async fn watch(over: &Repository, stock: Stock) -> io::Result<Self> {
        Self::before(over, None, Some(Drawn::new(stock))).await
    }

    async fn before(
        over: &Repository,
        deleted: Option<Mutex<Deleted>>,
        drawn: Option<Drawn>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let basic =
            |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{password}", over.home)));
        let password = Secret::new(BlobName::of(&rand::random::<[u8; 32]>()).to_string());
        let glass = Arc::new(Glass {
            vault: over.at,
            home: over.home.clone(),
            theirs: over.password.as_ref().map(|p| basic(p.expose())),
            ours: basic(password.expose()),
            deleted,
            drawn,
        });
        let repository = Repository { at: listener.local_addr()?, password: Some(password), ..over.clone() };
        let task = tokio::spawn(accept(listener, glass.clone()));
        Ok(Self { glass, repository, task })
    }

    /// What was deleted so far.
    pub fn deleted(&self) -> Deleted {
        self.glass.deleted().map(|deleted| deleted.clone()).unwrap_or_default()
    }

    /// The stock with what was drawn so far.
    pub fn stock(&self) -> Stock {
        self.glass.drawn.as_ref().map(Drawn::stock_so_far).unwrap_or_default()
    }
}

impl Glass {
    /// What was deleted, where that is held back.
    fn deleted(&self) -> Option<MutexGuard<'_, Deleted>> {
        self.deleted.as_ref().map(|deleted| deleted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_gone(&self, blob: (Kind, BlobName)) -> bool {
        self.deleted().is_some_and(|deleted| deleted.contains(&blob))
    }
}

async fn accept(listener: TcpListener, glass: Arc<Glass>) {
    let mut served = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the overlay takes no connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        while served.len() >= CONNECTIONS_MAX {
            served.join_next().await;
        }
        let glass = glass.clone();
        served.spawn(async move {
            let onward = Arc::new(tokio::sync::Mutex::new(None));
            let service = service_fn(|request| {
                let (glass, onward) = (glass.clone(), onward.clone());
                async move { answer(&glass, &onward, request).await.map_err(io::Error::other) }
            });
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the overlay broke");
            }
        });
    }
}

type Onward = tokio::sync::Mutex<Option<SendRequest<Watched>>>;

/// Answers one request. An error ends the connection, as one to the vault that breaks would end.
async fn answer(glass: &Glass, onward: &Onward, request: Request<Incoming>) -> Result<Reply, Failure> {
    // The password is made for one run, and long: comparing it tells nothing in time.
    if request.headers().get(header::AUTHORIZATION).map(|given| given.as_bytes())
        != Some(glass.ours.as_bytes())
    {
        return Ok(plain(StatusCode::UNAUTHORIZED, Bytes::new()));
    }
    let place = match path::read(request.uri().path()) {
        Some(Address::Restic(_, View::Live, place)) => place,
        _ => return Ok(plain(StatusCode::NOT_FOUND, Bytes::new())),
    };
    match (place, request.method()) {
        (Place::Blob(kind, name), &Method::DELETE) if kind != Kind::Locks && glass.deleted.is_some() => {
            if let Some(mut deleted) = glass.deleted() {
                deleted.insert((kind, name));
            }
            Ok(plain(StatusCode::OK, Bytes::new()))
        }
        (Place::Config | Place::Whole, &Method::DELETE) => Ok(plain(StatusCode::FORBIDDEN, Bytes::new())),
        (Place::Blob(kind, name), method) => {
            let is_gone = glass.is_gone((kind, name));
            match *method {
                // What comes again is kept.
                Method::POST => {
                    if let Some(mut deleted) = glass.deleted() {
                        deleted.remove(&(kind, name));
                    }
                    upload(glass, onward, request, kind, name).await
                }
                _ if is_gone => Ok(plain(StatusCode::NOT_FOUND, Bytes::new())),
                Method::GET => download(glass, onward, request, kind, name).await,
                _ => pass(glass, onward, request.map(Watched::unseen)).await.map(unseen),
            }
        }
        (Place::List(kind), &Method::GET) if glass.deleted.is_some() => {
            list(glass, onward, request, kind).await
        }
        _ => pass(glass, onward, request.map(Watched::unseen)).await.map(unseen),
    }
}

/// Passes an upload on; what is drawn of a pack counts once the vault has said that it keeps it.
async fn upload(
    glass: &Glass,
    onward: &Onward,
    request: Request<Incoming>,
    kind: Kind,
    name: BlobName,
) -> Result<Reply, Failure> {
    let pending = Pending::default();
    let (parts, body) = request.into_parts();
    let body = match &glass.drawn {
        Some(_) if kind == Kind::Data => Watched::upload(body, &parts.headers, name, &pending),
        _ => Watched::unseen(body),
    };
    let reply = pass(glass, onward, Request::from_parts(parts, body)).await?;
    let challenge = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(drawn), Some(challenge), StatusCode::OK) = (&glass.drawn, challenge, reply.status()) {
        drawn.add(challenge);
    }
    Ok(unseen(reply))
}

async fn download(
    glass: &Glass,
    onward: &Onward,
    request: Request<Incoming>,
    kind: Kind,
    name: BlobName,
) -> Result<Reply, Failure> {
    let (parts, body) = pass(glass, onward, request.map(Watched::unseen)).await?.into_parts();
    let body = match &glass.drawn {
        Some(drawn) if kind == Kind::Data && parts.status.is_success() => {
            Watched::answer(body, &parts.headers, name, drawn)
        }
        _ => Watched::unseen(body),
    };
    Ok(Response::from_parts(parts, Either::Left(body)))
}

fn unseen(reply: Response<Incoming>) -> Reply {
    reply.map(|body| Either::Left(Watched::unseen(body)))
}

fn plain(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Either::Right(Full::new(body)));
    *reply.status_mut() = status;
    reply
}

/// Passes a request on; each connection to us has one to the vault, opened again when that has gone.
async fn pass(
    glass: &Glass,
    onward: &Onward,
    mut request: Request<Watched>,
) -> Result<Response<Incoming>, Failure> {
    let mut onward = onward.lock().await;
    let headers = request.headers_mut();
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::CONNECTION);
    headers.insert(header::HOST, glass.home.as_str().parse()?);
    if let Some(theirs) = &glass.theirs {
        headers.insert(header::AUTHORIZATION, theirs.parse()?);
    }
    let mut before: Option<SendRequest<Watched>> = onward.take();
    let is_open = match &mut before {
        Some(send) => send.ready().await.is_ok(),
        None => false,
    };
    let mut send = match before {
        Some(send) if is_open => send,
        _ => {
            let (send, connection) = handshake(TokioIo::new(TcpStream::connect(glass.vault).await?)).await?;
            tokio::spawn(connection);
            send
        }
    };
    let reply = send.send_request(request).await?;
    *onward = Some(send);
    Ok(reply)
}

/// A list without what was deleted, in either form of the protocol.
async fn list(
    glass: &Glass,
    onward: &Onward,
    request: Request<Incoming>,
    kind: Kind,
) -> Result<Reply, Failure> {
    let reply = pass(glass, onward, request.map(Watched::unseen)).await?;
    let (mut parts, body) = reply.into_parts();
    let body = Limited::new(body, LIST_MAX).collect().await?.to_bytes();
    if parts.status != StatusCode::OK {
        return Ok(Response::from_parts(parts, Either::Right(Full::new(body))));
    }
    let mut all: Vec<serde_json::Value> = serde_json::from_slice(&body)?;
    all.retain(|entry| {
        let name = entry.as_str().or_else(|| entry.get("name")?.as_str()).and_then(BlobName::read);
        name.is_none_or(|name| !glass.is_gone((kind, name)))
    });
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    Ok(Response::from_parts(parts, Either::Right(Full::new(serde_json::to_vec(&all)?.into()))))
}

/// A repository that is watched while restic reads and writes it: a retention challenge is drawn of each pack that goes by
/// whole. As long as it lives, the repository is reached through it.
pub struct Watch(Overlay);

impl Watch {
    /// Begins to watch; what is drawn is added to what is in stock.
    pub async fn begin(over: &Repository, stock: Stock) -> Result<Self, ResticError> {
        let overlay = Overlay::watch(over, stock).await;
        overlay.map(Self).map_err(|e| ResticError::Io("the loopback interface".into(), e))
    }

    /// The repository as restic is to be told of it.
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    /// The stock with what was drawn so far.
    pub fn stock(&self) -> Stock {
        self.0.stock()
    }
}
