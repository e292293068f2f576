//! Frames on a stream: a length, the frame, and its payload. Sessions run over the home's
//! mutual TLS; each has one queue out and one reader.

use super::image::Image;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;
use thermidor_model::replication::{EXTENT_BYTES, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsStream;

/// Longest frame without its payload, bytes.
const FRAME_MAX_BYTES: usize = 1 << 20;
/// Longest payload, bytes.
const PAYLOAD_MAX_BYTES: u64 = EXTENT_BYTES;
/// Frames waiting to be sent on one session; the protocol's window keeps their bytes bounded.
const QUEUE_MAX: usize = 16_384;
/// Frames put into one write.
const BATCH_MAX: usize = 256;
/// Payloads up to this size are copied together with their frames, bytes.
const GATHER_BYTES: usize = 16 << 10;
/// After so long without an acknowledgement of the peer's kernel a connection is given up.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame.
    pub frame: Frame,
    /// Its payload; for a `Copy` or an `Extent` it is read from the image when its turn comes.
    pub payload: Bytes,
}

/// Options of a connection that carries a session.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, DEAD_AFTER.as_millis() as u32)?)
}

/// Appends a frame without its payload.
pub fn encode(frame: &Frame, to: &mut Vec<u8>) -> io::Result<()> {
    let at = to.len();
    to.extend_from_slice(&[0; 4]);
    let mut whole = postcard::to_extend(frame, std::mem::take(to)).map_err(io::Error::other)?;
    let length = (whole.len() - at - 4) as u32;
    whole[at..at + 4].copy_from_slice(&length.to_le_bytes());
    *to = whole;
    Ok(())
}

/// Reads a frame and its payload; `None`: the stream ended between two frames.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Frame, Bytes)>> {
    let invalid = |words: &'static str| io::Error::new(io::ErrorKind::InvalidData, words);
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_MAX_BYTES {
        return Err(invalid("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    let frame: Frame = postcard::from_bytes(&bytes).map_err(|_| invalid("a frame makes no sense"))?;
    let payload = frame.payload();
    if payload > PAYLOAD_MAX_BYTES {
        return Err(invalid("a payload is too long"));
    }
    let mut bytes = vec![0; payload as usize];
    from.read_exact(&mut bytes).await?;
    Ok(Some((frame, bytes.into())))
}

/// The near end of a session. Dropping it ends the session after what is queued was sent.
#[derive(Debug)]
pub struct Session {
    queue: mpsc::Sender<Outgoing>,
}

impl Session {
    /// Queues a frame; false: the session has ended, or is so far behind that it must.
    pub fn send(&self, outgoing: Outgoing) -> bool {
        self.queue.try_send(outgoing).is_ok()
    }
}

/// Takes what a session receives; false: nobody listens any more.
pub trait Receive: FnMut(Frame, Bytes) -> bool + Send + 'static {}
impl<F: FnMut(Frame, Bytes) -> bool + Send + 'static> Receive for F {}

/// Hands something to the queue of whoever owns the sessions; false: nobody listens any more. The owner may be busy with
/// its disk: while its queue is full this connection waits, and the others do not.
pub fn hand_over<T>(queue: &SyncSender<T>, what: T) -> bool {
    match queue.try_send(what) {
        Ok(()) => true,
        // Leaving the others to another thread costs more than what is handed over: only where it must be.
        Err(TrySendError::Full(what)) => tokio::task::block_in_place(|| queue.send(what).is_ok()),
        Err(TrySendError::Disconnected(_)) => false,
    }
}

/// Starts a session on a connection. The future ends with it, whichever side or error ended it.
pub fn session(
    stream: TlsStream<TcpStream>,
    image: Arc<Image>,
    receive: impl Receive,
) -> (Session, impl Future<Output = io::Result<()>> + Send) {
    let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
    let (reader, writer) = tokio::io::split(stream);
    let life = async move {
        let mut reading = Aborting(tokio::spawn(read_all(reader, receive)));
        tokio::select! {
            done = write_all(writer, outgoing, image) => done,
            done = &mut reading.0 => done.map_err(io::Error::other)?,
        }
    };
    (Session { queue }, life)
}

/// A task that ends with whoever waits for it.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_all(stream: ReadHalf<TlsStream<TcpStream>>, mut receive: impl Receive) -> io::Result<()> {
    let mut stream = tokio::io::BufReader::with_capacity(256 << 10, stream);
    while let Some((frame, payload)) = read_frame(&mut stream).await? {
        if !receive(frame, payload) {
            break;
        }
    }
    Ok(())
}

async fn write_all(
    mut stream: WriteHalf<TlsStream<TcpStream>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    image: Arc<Image>,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut buffer = Vec::with_capacity(4 * GATHER_BYTES);
    while outgoing.recv_many(&mut batch, BATCH_MAX).await > 0 {
        for Outgoing { mut frame, mut payload } in batch.drain(..) {
            if let Frame::Copy { extent, len, hole, .. } | Frame::Extent { extent, len, hole } = &mut frame {
                let image = image.clone();
                let extent = *extent;
                let read = tokio::task::spawn_blocking(move || image.extent(extent));
                let mut bytes = read.await.map_err(io::Error::other)??;
                // The last extent of a device that grows: the image may be behind its machine or ahead of it, and
                // what is new is zero.
                bytes.resize(*len as usize, 0);
                payload = bytes.into();
                *hole = payload.iter().all(|b| *b == 0);
            }
            encode(&frame, &mut buffer)?;
            let payload = if frame.payload() == 0 { Bytes::new() } else { payload };
            if payload.len() <= GATHER_BYTES {
                buffer.extend_from_slice(&payload);
            } else {
                stream.write_all(&buffer).await?;
                buffer.clear();
                stream.write_all(&payload).await?;
            }
            if buffer.len() > 3 * GATHER_BYTES {
                stream.write_all(&buffer).await?;
                buffer.clear();
            }
        }
        stream.write_all(&buffer).await?;
        buffer.clear();
        stream.flush().await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::replication::{Op, OpKind};

    fn op(len: u64) -> Frame {
        Frame::Op { seq: 9, op: Op { kind: OpKind::Write, offset: 4096, len } }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let mut stream = vec![];
        encode(&op(3), &mut stream).unwrap();
        stream.extend_from_slice(b"abc");
        encode(&Frame::Ping, &mut stream).unwrap();
        let mut read = stream.as_slice();
        assert_eq!(read_frame(&mut read).await.unwrap(), Some((op(3), Bytes::from_static(b"abc"))));
        assert_eq!(read_frame(&mut read).await.unwrap(), Some((Frame::Ping, Bytes::new())));
        assert_eq!(read_frame(&mut read).await.unwrap(), None);
    }

    #[tokio::test]
    async fn garbage_and_oversized_frames_end_the_session() {
        let oversized = u32::MAX.to_le_bytes();
        assert!(read_frame(&mut oversized.as_slice()).await.is_err());
        let garbage = [2, 0, 0, 0, 0xff, 0xff];
        assert!(read_frame(&mut garbage.as_slice()).await.is_err());
        let mut long = vec![];
        encode(&op(PAYLOAD_MAX_BYTES + 1), &mut long).unwrap();
        assert!(read_frame(&mut long.as_slice()).await.is_err());
        let mut cut = vec![];
        encode(&op(3), &mut cut).unwrap();
        cut.push(b'a');
        assert!(read_frame(&mut cut.as_slice()).await.is_err(), "cut in its payload");
    }
}
