//! The member's one listener: TLS, who is asking, frames in, answers out. Whatever is not understood
//! closes that connection and nothing else.

use crate::line::{LineError, tune, write_frames};
use crate::node::Node;
use crate::serving::{self, Asker};
use crate::wire::{FRAME_MAX, Frame, STRANGER_FRAME_MAX, framing};
use bytes::Bytes;
use futures::StreamExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::codec::FramedRead;

/// Connections at once; beyond it new ones wait unaccepted.
const CONNECTIONS_MAX: usize = 512;
/// Connections of strangers (newcomers, port scanners) at once; beyond it they are closed.
const STRANGERS_MAX: usize = 16;
/// Requests under way on one connection; beyond it no more are read from it.
const REQUESTS_MAX: usize = 1024;
/// Answers waiting to be written on one connection.
const ANSWERS_MAX: usize = 1024;
/// A handshake takes no longer.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A stranger has this long for its one request.
const STRANGER_MAX: Duration = Duration::from_secs(30);
/// The longest time a request may be worked on, whatever its deadline says.
const REQUEST_MAX: Duration = Duration::from_secs(120);
/// After a failed accept (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the member stops.
pub(crate) async fn serve(listener: TcpListener, node: Node) {
    let acceptor = match node.identity().server_config(true) {
        Ok(config) => TlsAcceptor::from(config),
        Err(e) => {
            tracing::error!(error = %e, "this member can't be reached: TLS does not start");
            return;
        }
    };
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(place) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (acceptor, strangers) = (acceptor.clone(), strangers.clone());
                let serving = node.clone();
                node.spawn(async move {
                    if let Err(why) = connection(stream, acceptor, serving, &strangers, place).await {
                        tracing::debug!(%from, why, "a connection was closed");
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    node: Node,
    strangers: &Semaphore,
    _place: OwnedSemaphorePermit,
) -> Result<(), String> {
    tune(&stream).map_err(|e| e.to_string())?;
    let from = stream.peer_addr().map_err(|e| e.to_string())?;
    let stream = timeout(HANDSHAKE_MAX, acceptor.accept(stream))
        .await
        .map_err(|_| "the handshake takes too long")?
        .map_err(|e| format!("no handshake: {e}"))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.map(|certificate| node.identity().papers().read(certificate)) {
        Some(None) => Err("its certificate names no member".into()),
        Some(Some(shown)) => carry(stream, FRAME_MAX, node, Asker::Member(Arc::new(shown)), from).await,
        None => {
            let _place = strangers.try_acquire().map_err(|_| "too many strangers at once")?;
            let carried = carry(stream, STRANGER_FRAME_MAX, node, Asker::Stranger, from);
            timeout(STRANGER_MAX, carried).await.map_err(|_| "a stranger stayed too long")?
        }
    }
}

async fn carry(
    stream: TlsStream<TcpStream>,
    frame_max: usize,
    node: Node,
    asker: Asker,
    from: SocketAddr,
) -> Result<(), String> {
    let (read, write) = tokio::io::split(stream);
    let (answer, answers) = mpsc::channel::<Bytes>(ANSWERS_MAX);
    tokio::select! {
        written = write_frames(write, answers) => written.map_err(|e| e.to_string()),
        read = read_requests(FramedRead::new(read, framing(frame_max)), node, asker.clone(), answer) => {
            if let Err(why) = &read {
                tracing::warn!(%from, ?asker, why, "closes a connection that speaks nonsense");
            }
            read
        }
    }
}

type Frames = FramedRead<ReadHalf<TlsStream<TcpStream>>, tokio_util::codec::LengthDelimitedCodec>;

async fn read_requests(
    mut frames: Frames,
    node: Node,
    asker: Asker,
    answer: mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    while let Some(bytes) = frames.next().await {
        let bytes = match bytes {
            Ok(bytes) => bytes.freeze(),
            // A cut or a crash of the other end; a frame that is too long is nonsense.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Err(e.to_string()),
            Err(e) => {
                tracing::debug!(?asker, error = %e, "a connection broke");
                return Ok(());
            }
        };
        match Frame::decode(bytes).map_err(|e| e.to_string())? {
            Frame::Ping => {
                if answer.send(Frame::Pong.encode()).await.is_err() {
                    return Ok(());
                }
            }
            Frame::Request { id, deadline_ms, verb, body } => {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let time = Duration::from_millis(u64::from(deadline_ms)).min(REQUEST_MAX);
                let deadline = Instant::now() + time;
                let (answer, serving, asker) = (answer.clone(), node.clone(), asker.clone());
                node.spawn(async move {
                    let result = serving::serve(&serving, &asker, &verb, body, deadline).await;
                    // Err: the connection has closed meanwhile; the other end counts the answer as lost.
                    drop(answer.send(frame_of(id, result).encode()).await);
                    drop(place);
                });
            }
            _ => return Err("it answers where it should ask".into()),
        }
    }
    Ok(())
}

fn frame_of(id: u64, result: Result<Bytes, LineError>) -> Frame {
    match result {
        Ok(body) => Frame::Answer { id, body },
        Err(LineError::NotLeader(leader)) => Frame::NotLeader { id, leader },
        Err(LineError::Expelled) => Frame::Expelled { id },
        Err(LineError::Failed(text)) => Frame::Failure { id, text },
        Err(e @ (LineError::NotSent(_) | LineError::Lost(_))) => Frame::Failure { id, text: e.to_string() },
    }
}
