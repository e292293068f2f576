//! A session between an active and one of its replicas: frames over the home's mutual TLS, on threads of its own. Each
//! change of thread costs a flush more than its bytes do, so whoever has a small frame to send writes it at once; the
//! session's writer takes what is large, what has to be read first, and what the connection does not take at once.

use super::active::lock;
use super::image::Image;
use super::wire::{Outgoing, decode, encode};
use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use thermidor_model::replication::Frame;
use tokio::sync::oneshot;
use tokio_rustls::TlsStream;

/// Frames waiting to be sent on one session; the protocol's window keeps their bytes bounded.
const QUEUE_MAX: usize = 16_384;
/// Frames with payloads up to this size are written by whoever sends them, bytes.
const AT_ONCE_BYTES: usize = 16 << 10;
/// What is encrypted in one go by the writer, bytes: whoever reads waits for no more than that.
const PIECE_BYTES: usize = 64 << 10;
/// Read from the connection at once, bytes.
const READ_BYTES: usize = 128 << 10;
/// After so long without an acknowledgement of the peer's kernel a connection is given up.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Options of a connection that carries a session.
pub fn tune(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, DEAD_AFTER.as_millis() as u32)?)
}

/// Whom a session is for. Everything is called by its reader, in this order.
pub trait Ear: Send + 'static {
    /// The session stands, with its near end for sending; false: nobody listens any more.
    fn opened(&mut self, session: Session) -> bool;
    /// A frame came; false: nobody listens any more.
    fn frame(&mut self, frame: Frame, payload: Bytes) -> bool;
    /// Nothing comes any more.
    fn closed(&mut self);
}

/// The near end of a session. Dropping it ends the session after what is queued was sent.
#[derive(Debug)]
pub struct Session {
    wire: Arc<Wire>,
}

impl Session {
    /// Sends a frame, or queues it; false: the session has ended, or is so far behind that it must.
    pub fn send(&self, outgoing: Outgoing) -> bool {
        self.wire.send(outgoing)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.wire.line).closing = true;
        self.wire.more.notify_one();
    }
}

/// Waits for a session's end, whichever side or error ended it; dropping this ends it.
pub struct Life {
    wire: Arc<Wire>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Life {
    /// Until it has ended.
    pub async fn ended(mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.wire.end(Ok(()));
    }
}

/// What waits to be sent.
#[derive(Debug, Default)]
struct Line {
    frames: VecDeque<Outgoing>,
    /// The writer is at work: whoever sends queues behind.
    busy: bool,
    closing: bool,
    ended: bool,
    tell: Option<oneshot::Sender<io::Result<()>>>,
}

#[derive(Debug)]
struct Wire {
    socket: TcpStream,
    /// Locked after `line` where both are.
    tls: Mutex<rustls::Connection>,
    line: Mutex<Line>,
    /// For the writer.
    more: Condvar,
}

/// Starts a session on a connection.
pub fn start(stream: TlsStream<tokio::net::TcpStream>, image: Arc<Image>, ear: impl Ear) -> io::Result<Life> {
    let (socket, mut tls) = match stream {
        TlsStream::Client(stream) => {
            let (socket, tls) = stream.into_inner();
            (socket, rustls::Connection::Client(tls))
        }
        TlsStream::Server(stream) => {
            let (socket, tls) = stream.into_inner();
            (socket, rustls::Connection::Server(tls))
        }
    };
    // What is put in is sent on before more is.
    tls.set_buffer_limit(None);
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    let (tell, ended) = oneshot::channel();
    let line = Mutex::new(Line { tell: Some(tell), ..Line::default() });
    let wire = Arc::new(Wire { socket, tls: Mutex::new(tls), line, more: Condvar::new() });
    let life = Life { wire: wire.clone(), ended };
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    let writer = wire.clone();
    thread("volume-send").spawn(move || {
        let done = writer.write_all(&image);
        writer.end(done);
    })?;
    thread("volume-hear").spawn(move || {
        let mut ear = ear;
        if ear.opened(Session { wire: wire.clone() }) {
            let done = wire.read_all(&mut ear);
            wire.end(done);
        }
        wire.end(Ok(()));
        ear.closed();
    })?;
    Ok(life)
}

impl Wire {
    fn end(&self, done: io::Result<()>) {
        let mut line = lock(&self.line);
        line.ended = true;
        line.frames.clear();
        if let Some(tell) = line.tell.take() {
            // Nobody waits for it where it was given up.
            tell.send(done).ok();
        }
        drop(line);
        self.more.notify_one();
        if let Err(e) = self.socket.shutdown(Shutdown::Both) {
            tracing::trace!(error = %e, "the connection had ended");
        }
    }

    fn send(&self, outgoing: Outgoing) -> bool {
        let mut line = lock(&self.line);
        if line.ended {
            return false;
        }
        let is_small = outgoing.payload.len() <= AT_ONCE_BYTES && !is_read_first(&outgoing.frame);
        if line.busy || !line.frames.is_empty() || !is_small {
            if line.frames.len() >= QUEUE_MAX {
                return false;
            }
            line.frames.push_back(outgoing);
            self.more.notify_one();
            return true;
        }
        let mut buffer = Vec::with_capacity(64 + outgoing.payload.len());
        let sent = encode(&outgoing.frame, &mut buffer).and_then(|()| {
            buffer.extend_from_slice(payload_of(&outgoing.frame, &outgoing.payload));
            self.put(&buffer, is_followed(&outgoing.frame))
        });
        match sent {
            Ok(true) => {}
            Ok(false) => {
                line.busy = true;
                self.more.notify_one();
            }
            Err(e) => {
                drop(line);
                self.end(Err(e));
                return false;
            }
        }
        true
    }

    /// Encrypts and sends as much as the connection takes; whether that was all. `more`: the kernel may wait for what
    /// follows.
    fn put(&self, plain: &[u8], more: bool) -> io::Result<bool> {
        let mut tls = lock(&self.tls);
        tls.writer().write_all(plain)?;
        self.drain(&mut tls, more)
    }

    fn drain(&self, tls: &mut rustls::Connection, more: bool) -> io::Result<bool> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let flags = if more { flags | SendFlags::MORE } else { flags };
        while tls.wants_write() {
            match tls.write_tls(&mut AtOnce(&self.socket, flags)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Sends all that is encrypted, waiting for the connection.
    fn drain_all(&self) -> io::Result<()> {
        loop {
            if self.drain(&mut lock(&self.tls), false)? {
                return Ok(());
            }
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The writer: until the session is given up, and then to the end of what is queued.
    fn write_all(&self, image: &Image) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(PIECE_BYTES + AT_ONCE_BYTES);
        loop {
            self.drain_all()?;
            let mut line = lock(&self.line);
            line.busy = lock(&self.tls).wants_write();
            let next = loop {
                if line.ended {
                    return Ok(());
                }
                match line.frames.pop_front() {
                    Some(next) => break Some(next),
                    None if line.closing => break None,
                    // Something sent at once did not go out as a whole.
                    None if line.busy => break None,
                    None => line = self.more.wait(line).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let Some(mut next) = next else {
                if line.busy {
                    continue;
                }
                drop(line);
                lock(&self.tls).send_close_notify();
                return self.drain_all();
            };
            line.busy = true;
            drop(line);
            loop {
                self.write(next, image, &mut buffer)?;
                if buffer.len() >= PIECE_BYTES {
                    break;
                }
                match lock(&self.line).frames.pop_front() {
                    Some(another) => next = another,
                    None => break,
                }
            }
            self.put(&buffer, false)?;
            buffer.clear();
        }
    }

    /// Gathers a frame; what is large is sent piece by piece.
    fn write(&self, outgoing: Outgoing, image: &Image, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Outgoing { mut frame, mut payload } = outgoing;
        if let Frame::Copy { extent, len, hole, .. } | Frame::Extent { extent, len, hole } = &mut frame {
            let mut bytes = image.extent(*extent)?;
            // The last extent of a device that grows: the image may be behind its machine or ahead of it, and
            // what is new is zero.
            bytes.resize(*len as usize, 0);
            payload = bytes.into();
            *hole = payload.iter().all(|b| *b == 0);
        }
        encode(&frame, buffer)?;
        let payload = payload_of(&frame, &payload);
        if payload.len() <= AT_ONCE_BYTES {
            buffer.extend_from_slice(payload);
            return Ok(());
        }
        self.put(buffer, false)?;
        buffer.clear();
        for piece in payload.chunks(PIECE_BYTES) {
            self.put(piece, false)?;
            self.drain_all()?;
        }
        Ok(())
    }

    fn read_all(&self, ear: &mut impl Ear) -> io::Result<()> {
        let mut raw = vec![0; READ_BYTES];
        let mut received = BytesMut::with_capacity(READ_BYTES);
        let mut fresh: &[u8] = &[];
        loop {
            // The handshake may have brought some of it.
            let closed = self.decrypt(&mut fresh, &mut received)?;
            if fresh.is_empty() {
                while let Some((frame, payload)) = decode(&mut received)? {
                    if !ear.frame(frame, payload) {
                        return Ok(());
                    }
                }
                let length = if closed { 0 } else { self.read(&mut raw)? };
                if length == 0 {
                    return if received.is_empty() {
                        Ok(())
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    };
                }
                fresh = &raw[..length];
            }
        }
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.socket).read(into) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Decrypts some of `fresh`; whether the peer has closed the session.
    fn decrypt(&self, fresh: &mut &[u8], received: &mut BytesMut) -> io::Result<bool> {
        let mut tls = lock(&self.tls);
        if !fresh.is_empty() {
            tls.read_tls(fresh)?;
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let mut reader = tls.reader();
            let bytes = reader.fill_buf()?;
            received.extend_from_slice(bytes);
            let taken = bytes.len();
            left = left.saturating_sub(taken);
            reader.consume(taken);
        }
        let answers = tls.wants_write();
        drop(tls);
        if answers {
            let mut line = lock(&self.line);
            line.busy = true;
            self.more.notify_one();
        }
        Ok(state.peer_has_closed())
    }
}

fn is_read_first(frame: &Frame) -> bool {
    matches!(frame, Frame::Copy { .. } | Frame::Extent { .. })
}

fn payload_of<'a>(frame: &Frame, payload: &'a [u8]) -> &'a [u8] {
    if frame.payload() == 0 { &[] } else { payload }
}

/// Whether something surely follows soon: a write is worth nothing to whoever wrote it before its flush, and both in one
/// wake the replica once. The kernel waits for 200 ms at most, where none comes.
fn is_followed(frame: &Frame) -> bool {
    matches!(frame, Frame::Op { .. })
}

/// Sends what the connection takes without waiting.
struct AtOnce<'a>(&'a TcpStream, SendFlags);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, self.1)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use thermidor_model::replication::{Op, OpKind};
    use thermidor_model::{ReplicaId, VolumeName};
    use tokio::net::{TcpListener, TcpStream as Stream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    enum Heard {
        Opened(Session),
        Frame(Frame, Bytes),
        Closed,
    }

    struct Listener(Sender<Heard>);

    impl Ear for Listener {
        fn opened(&mut self, session: Session) -> bool {
            self.0.send(Heard::Opened(session)).is_ok()
        }

        fn frame(&mut self, frame: Frame, payload: Bytes) -> bool {
            self.0.send(Heard::Frame(frame, payload)).is_ok()
        }

        fn closed(&mut self) {
            self.0.send(Heard::Closed).ok();
        }
    }

    async fn pair() -> [TlsStream<Stream>; 2] {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["radiator.test".into()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = Stream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        tune(&near).unwrap();
        let name = ServerName::try_from("radiator.test").unwrap();
        let (connector, acceptor) =
            (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)));
        let (near, far) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        [near.unwrap().into(), far.unwrap().into()]
    }

    fn image(dir: &std::path::Path) -> Arc<Image> {
        let name = VolumeName::new("mail").unwrap();
        Arc::new(Image::create(&dir.join("image"), &name, ReplicaId(1), 1 << 20).unwrap())
    }

    fn op(seq: u64, payload: &Bytes) -> Outgoing {
        let op = Op { kind: OpKind::Write, offset: 0, len: payload.len() as u64 };
        Outgoing { frame: Frame::Op { seq, op }, payload: payload.clone() }
    }

    fn opened(heard: &Receiver<Heard>) -> Session {
        match heard.recv().unwrap() {
            Heard::Opened(session) => session,
            Heard::Frame(..) | Heard::Closed => panic!("it was not opened first"),
        }
    }

    #[tokio::test]
    async fn small_and_large_frames_arrive_whole_and_in_their_order_and_all_that_was_sent_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path());
        let [near, far] = pair().await;
        let ((near_tells, near_hears), (far_tells, far_hears)) = (channel(), channel());
        let near_life = start(near, image.clone(), Listener(near_tells)).unwrap();
        let far_life = start(far, image, Listener(far_tells)).unwrap();
        let (near, far) = (opened(&near_hears), opened(&far_hears));
        let sizes = [1, 4096, 1 << 20, 3, AT_ONCE_BYTES, AT_ONCE_BYTES + 1, 7, 700_000, 0, 5];
        let payloads: Vec<Bytes> =
            (0..400u64).map(|n| vec![n as u8; sizes[n as usize % sizes.len()]].into()).collect();
        let sent = payloads.clone();
        let sender = std::thread::spawn(move || {
            for (n, payload) in sent.iter().enumerate() {
                assert!(near.send(op(n as u64, payload)), "frame {n}");
            }
            assert!(near.send(Outgoing { frame: Frame::Ping, payload: Bytes::new() }));
            // Dropped with much of it still on its way.
        });
        for (n, payload) in payloads.iter().enumerate() {
            let Heard::Frame(frame, bytes) = far_hears.recv().unwrap() else {
                panic!("ended before frame {n}")
            };
            assert_eq!((frame, bytes.len()), (op(n as u64, payload).frame, payload.len()));
            assert!(bytes == payload, "frame {n} has other bytes");
        }
        assert!(matches!(far_hears.recv().unwrap(), Heard::Frame(Frame::Ping, _)));
        assert!(matches!(far_hears.recv().unwrap(), Heard::Closed));
        sender.join().unwrap();
        assert!(matches!(near_hears.recv().unwrap(), Heard::Closed));
        near_life.ended().await.unwrap();
        far_life.ended().await.unwrap();
        assert!(!far.send(op(0, &Bytes::new())), "it has ended");
    }

    #[tokio::test]
    async fn a_session_that_is_given_up_ends_at_both_ends_also_while_one_does_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path());
        let [near, far] = pair().await;
        let (tells, hears) = channel();
        let life = start(near, image, Listener(tells)).unwrap();
        let session = opened(&hears);
        let large = Bytes::from(vec![1; 1 << 20]);
        for n in 0..64 {
            assert!(session.send(op(n, &large)), "more than the connection takes is queued");
        }
        drop(life);
        assert!(matches!(hears.recv().unwrap(), Heard::Closed));
        assert!(!session.send(op(64, &large)));
        drop(far);
    }
}
