//! HTTP: who asks, what for, and the answer. Credentials are looked at before anything else.

use super::blob::Item;
use super::incoming::Incoming;
use super::outgoing;
use super::path::{self, Address, Folder, Place, Verb, View};
use super::refusal::Refusal;
use super::space::Space;
use super::{Caller, Vault, caller};
use crate::kit_change::Announcement;
use bytes::Bytes;
use http_body_util::{BodyExt, Full as Whole, Limited};
use hyper::body::{Body as _, Incoming as Sent};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(super) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Reply = Response<Body>;

/// Pieces of an upload that wait for the disk.
const PIECES_MAX: usize = 4;
/// What is read of a refused body so that the client gets to read the answer, in bytes.
const DRAIN_MAX: usize = 64 << 20;
/// A signed statement, in bytes: a full list of `LIST_MAX` names.
const STATEMENT_MAX: usize = 16 << 20;

/// The word about a generation, in bytes: it goes out with a refusal.
const WORD_MAX: usize = 2048;

const BLOB_METHODS: &str = "HEAD, GET, POST, DELETE";

/// Waits some µs.
pub(super) async fn pause(us: u64) {
    if us > 0 {
        tokio::time::sleep(Duration::from_micros(us)).await;
    }
}

/// Answers one request.
pub(super) async fn answer(vault: Vault, caller: Caller, request: Request<Sent>) -> Reply {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let done = match caller::authenticate(&vault, &caller, &path, &parts.headers) {
        Ok(space) => act(&vault, space, &caller, &parts, &mut body).await,
        Err(refusal) => Err(refusal),
    };
    let refusal = match done {
        Ok(reply) => return reply,
        Err(refusal) => refusal,
    };
    let status = refusal.status();
    let cause = refusal.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    if status.is_server_error() {
        tracing::warn!(method = %parts.method, path, "{refusal}{cause}");
    } else {
        tracing::debug!(method = %parts.method, path, "{refusal}");
    }
    // Nobody who is unknown is listened to, nor one who waits to be told to go on.
    let waits = parts.headers.contains_key(header::EXPECT);
    if !waits && !matches!(refusal, Refusal::Unknown | Refusal::Silent | Refusal::Short) {
        drain(&vault, &mut body).await;
    }
    refused(&refusal, status, parts.method == Method::HEAD)
}

fn refused(refusal: &Refusal, status: StatusCode, head_only: bool) -> Reply {
    let text = format!("{refusal}\n");
    let mut reply = Response::new(if head_only { Body::default() } else { whole(text.into()) });
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    match refusal {
        Refusal::Unknown => {
            let basic = header::HeaderValue::from_static("Basic realm=\"vault\"");
            headers.insert(header::WWW_AUTHENTICATE, basic);
        }
        Refusal::Method(allowed) => {
            headers.insert(header::ALLOW, header::HeaderValue::from_static(allowed));
        }
        Refusal::Hours(seconds) => {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(*seconds));
        }
        Refusal::Range(size) => {
            if let Ok(value) = format!("bytes */{size}").parse() {
                headers.insert(header::CONTENT_RANGE, value);
            }
        }
        _ => {}
    }
    reply
}

async fn drain(vault: &Vault, body: &mut Sent) {
    let mut left = DRAIN_MAX;
    while let Ok(Some(Ok(frame))) = timeout(vault.settings().silence, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn whole(content: Bytes) -> Body {
    Whole::new(content).map_err(|never| match never {}).boxed_unsync()
}

fn ok(content: Vec<u8>) -> Result<Reply, Refusal> {
    Ok(Response::new(whole(content.into())))
}

async fn act(
    vault: &Vault,
    space: Arc<Space>,
    caller: &Caller,
    parts: &hyper::http::request::Parts,
    body: &mut Sent,
) -> Result<Reply, Refusal> {
    let (folder, view, place) = match path::read(parts.uri.path()).ok_or(Refusal::NotFound)? {
        // Whoever may only read sees what is there now as it sees the past: no locks, and none is kept.
        Address::Restic(folder, View::Live, place) if caller.reads_only() => {
            (folder, View::AsOf(u64::MAX), place)
        }
        Address::Restic(folder, view, place) => (folder, view, place),
        Address::Own(Verb::Deletions | Verb::Head | Verb::Generation | Verb::Kit, _)
            if caller.reads_only() && parts.method != Method::GET =>
        {
            return Err(Refusal::Forbidden(PAST));
        }
        Address::Own(verb, folder) => return own(vault, space, verb, folder, parts, body).await,
    };
    let method = &parts.method;
    let item = match place {
        Place::Whole if method == Method::POST => {
            return create(space, folder, view, parts.uri.query().unwrap_or_default()).await;
        }
        Place::Whole => return Err(Refusal::Method("POST")),
        Place::List(kind) if method == Method::GET => {
            return outgoing::list(space, folder, kind, view, &parts.headers).await;
        }
        Place::List(_) => return Err(Refusal::Method("GET")),
        Place::Config => Item { folder, blob: None },
        Place::Blob(kind, name) => Item { folder, blob: Some((kind, name)) },
    };
    match *method {
        Method::GET => outgoing::item(space, item, view, &parts.headers, false).await,
        Method::HEAD => outgoing::item(space, item, view, &parts.headers, true).await,
        Method::POST => receive(vault, space, item, view, &parts.headers, body).await,
        Method::DELETE if view == View::Live => blocking(move || space.delete(&item)).await.and(ok(vec![])),
        Method::DELETE if item.is_lock() => ok(vec![]),
        Method::DELETE => Err(Refusal::Forbidden(PAST)),
        _ => Err(Refusal::Method(BLOB_METHODS)),
    }
}

const PAST: &str = "the past can only be read, and so can all that is kept for a home which came back, until its friend \
                    has confirmed that";

async fn create(space: Arc<Space>, folder: Folder, view: View, query: &str) -> Result<Reply, Refusal> {
    if !query.split('&').any(|pair| pair == "create=true") {
        return Err(Refusal::Bad("only `?create=true` is known here"));
    }
    if view != View::Live {
        return Err(Refusal::Forbidden(PAST));
    }
    blocking(move || space.create(&folder)).await.and(ok(vec![]))
}

/// Does what waits for the disk away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Refusal::Io(io::Error::other(e)))?
}

/// Takes an upload: pieces go to a thread that hashes and writes, and a last word says that the body came whole.
async fn receive(
    vault: &Vault,
    space: Arc<Space>,
    item: Item,
    view: View,
    headers: &HeaderMap,
    body: &mut Sent,
) -> Result<Reply, Refusal> {
    let length = body.size_hint().exact();
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Length);
    }
    if view != View::Live && !item.is_lock() {
        return Err(Refusal::Forbidden(PAST));
    }
    if !item.is_lock() {
        let minutes = space.terms().hours.open(vault.minute());
        minutes.map_err(|minutes| Refusal::Hours(u64::from(minutes) * 60))?;
    }
    let pacer = space.clone();
    let _place = pacer.uploads.acquire().await.map_err(|e| Refusal::Io(io::Error::other(e)))?;
    let (to, mut pieces) = mpsc::channel::<Option<Bytes>>(PIECES_MAX);
    let (serving, keeper) = (vault.clone(), space.clone());
    let (begun, ready) = oneshot::channel();
    let work = tokio::task::spawn_blocking(move || {
        let mut incoming = match view {
            View::Live => Incoming::begin(space, item, length)?,
            View::AsOf(_) => Incoming::to_nowhere(space, item),
        };
        // Whoever waits to be told to go on is told only now; one who has gone meanwhile is missed at the next piece.
        let _ = begun.send(());
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Some(piece) => incoming.write(&piece)?,
                None if !serving.lends(&keeper) => return Err(Refusal::Unknown),
                None => return incoming.finish(serving.now()),
            }
        }
        Err(Refusal::Short)
    });
    let came = match ready.await {
        Ok(()) => pass_on(vault, &pacer, body, &to).await,
        // The writer says why.
        Err(_) => Ok(()),
    };
    drop(to);
    // What the writer says goes before what the reader saw: a full disk ends the reading too.
    let written = work.await.map_err(|e| Refusal::Io(io::Error::other(e)))?;
    match (written, came) {
        (Err(Refusal::Short), Err(why)) | (Ok(()), Err(why)) => Err(why),
        (written, _) => written.and(ok(vec![])),
    }
}

/// Passes a body on in pieces. Ends without an error when nobody takes them any more: the writer says why.
async fn pass_on(
    vault: &Vault,
    space: &Space,
    body: &mut Sent,
    to: &mpsc::Sender<Option<Bytes>>,
) -> Result<(), Refusal> {
    loop {
        let frame = timeout(vault.settings().silence, body.frame()).await.map_err(|_| Refusal::Silent)?;
        let Some(frame) = frame else { break };
        let Ok(piece) = frame.map_err(|_| Refusal::Short)?.into_data() else { continue };
        pause(space.wait_up(piece.len()).max(vault.wait_up(piece.len()))).await;
        if to.send(Some(piece)).await.is_err() {
            return Ok(());
        }
    }
    // A writer that is gone has said why.
    let _ = to.send(None).await;
    Ok(())
}

/// What rest-server does not have.
async fn own(
    vault: &Vault,
    space: Arc<Space>,
    verb: Verb,
    folder: Folder,
    parts: &hyper::http::request::Parts,
    body: &mut Sent,
) -> Result<Reply, Refusal> {
    let method = &parts.method;
    let name = vault.settings().name.clone();
    let (now, uptime) = (vault.now(), vault.uptime());
    match (verb, method) {
        (Verb::Deletions, &Method::GET) => blocking(move || space.announced()).await.and_then(ok),
        (Verb::Head, &Method::GET) => blocking(move || space.head(&folder)).await.and_then(ok),
        (Verb::Deletions, &Method::POST) => {
            let signed = read(vault, body, STATEMENT_MAX).await?;
            blocking(move || space.hear(signed, &name, now, uptime)).await.and(ok(vec![]))
        }
        (Verb::Head, &Method::POST) => {
            let signed = read(vault, body, STATEMENT_MAX).await?;
            blocking(move || space.hear_head(signed, &folder, &name)).await.and(ok(vec![]))
        }
        (Verb::Generation, &Method::GET) if folder == Folder::ROOT => {
            blocking(move || space.generation()).await.and_then(ok)
        }
        (Verb::Generation, &Method::POST) if folder == Folder::ROOT => {
            let signed: super::Signed = read(vault, body, WORD_MAX).await?;
            blocking(move || space.hear_generation(&signed, &name)).await.and(ok(vec![]))
        }
        (Verb::Generation, &Method::GET | &Method::POST) => Err(Refusal::NotFound),
        (Verb::Kit, &Method::POST) if folder == Folder::ROOT => {
            let said: Announcement = read(vault, body, WORD_MAX).await?;
            blocking(move || space.hear_kit(&said, &name)).await.and(ok(vec![]))
        }
        (Verb::Kit, &Method::POST) => Err(Refusal::NotFound),
        (Verb::Challenge, &Method::POST) => {
            let question = read(vault, body, 4096).await?;
            let answer = blocking(move || space.answer(&folder, &question)).await?;
            ok(serde_json::to_vec(&answer).map_err(io::Error::from)?)
        }
        (Verb::Room, &Method::GET) => {
            let room = blocking(move || space.room()).await?;
            ok(serde_json::to_vec(&room).map_err(io::Error::from)?)
        }
        (Verb::Room, _) => Err(Refusal::Method("GET")),
        (Verb::Kit | Verb::Challenge, _) => Err(Refusal::Method("POST")),
        _ => Err(Refusal::Method("GET, POST")),
    }
}

async fn read<T: DeserializeOwned>(vault: &Vault, body: &mut Sent, max: usize) -> Result<T, Refusal> {
    let whole = timeout(vault.settings().silence, Limited::new(body, max).collect()).await;
    let content = whole.map_err(|_| Refusal::Silent)?.map_err(|_| Refusal::TooLong)?.to_bytes();
    serde_json::from_slice(&content).map_err(|_| Refusal::Bad("the body is not what is asked here"))
}
