//! What nobody should ever send: noise, broken handshakes, endless lines and frames, silence.

use anyhow::{Context, Result, ensure};
use rand::{RngCore, SeedableRng};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thermidor_supervisor::demo::client::any_server::any_server;

/// How long one write or the wait for an answer may hold us up.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longer than any line or frame that is taken anywhere, bytes.
const FLOOD_BYTES: usize = 96 << 20;
/// How much of a flood is written at once, bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Each kind of nonsense, short ones first.
fn nonsense() -> Vec<Vec<u8>> {
    let mut noise = vec![0; 64 << 10];
    rand::rngs::StdRng::seed_from_u64(2).fill_bytes(&mut noise);
    vec![
        vec![0],
        b"\n\n\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: home\r\n\r\n".to_vec(),
        // A TLS record that says it is as long as it may be, and is not.
        b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc".to_vec(),
        b"TMI1\xff\xff".to_vec(),
        // A frame without end, a frame of nothing.
        b"\xff\xff\xff\xff\x01\x00".to_vec(),
        b"\x00\x00\x00\x00".to_vec(),
        b"{\"do\":\"status\",\"do\":\"nothing\"}\n".to_vec(),
        [vec![b'['; 200_000], b"\n".to_vec()].concat(),
        noise,
    ]
}

/// Whether the other end hung up or did not take more: what it should do.
fn turned_away(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof
            | ErrorKind::NotConnected
    )
}

/// Says something and waits a moment for an answer, whatever it is; being turned away is fine.
fn say(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<()> {
    let mut answer = [0; 4096];
    let said = stream.write_all(bytes).and_then(|()| stream.flush()).and_then(|()| stream.read(&mut answer));
    match said {
        Err(e) if !turned_away(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Sends far more than anybody may take.
fn flood(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let piece = vec![b'x'; PIECE_BYTES];
    for _ in 0..FLOOD_BYTES / PIECE_BYTES {
        match stream.write_all(&piece) {
            Err(e) if turned_away(&e) => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends all of it to a TCP port, each on a connection of its own: it must go on accepting.
pub fn assault(address: SocketAddr) -> Result<()> {
    let at = || format!("nonsense to {address}");
    for bytes in nonsense() {
        say(&mut dial(address).with_context(at)?, &bytes).with_context(at)?;
    }
    flood(&mut dial(address).with_context(at)?).with_context(at)?;
    for bytes in strange_frames() {
        stranger(address, &bytes).with_context(at)?;
    }
    dial(address).map(drop).with_context(at)
}

/// The same to a Unix socket.
pub fn assault_local(path: &Path) -> Result<()> {
    let at = || format!("nonsense to {}", path.display());
    let dial = || -> io::Result<UnixStream> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    for bytes in nonsense() {
        say(&mut dial().with_context(at)?, &bytes).with_context(at)?;
    }
    flood(&mut dial().with_context(at)?).with_context(at)?;
    dial().map(drop).with_context(at)
}

/// Connections that say nothing, for as long as they are held.
pub fn silence(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| dial(address)).collect()
}

/// The same over a Unix socket; as many as its queue takes.
pub fn local_silence(path: &Path, count: usize) -> Result<Vec<UnixStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(UnixStream::connect(path).with_context(|| path.display().to_string())?);
    }
    ensure!(held.len() == count, "{} of {count} connections", held.len());
    Ok(held)
}

/// Frames of someone who has shown no certificate: endless, empty, and asking for what no stranger may.
fn strange_frames() -> Vec<Vec<u8>> {
    let request = |verb: &str, body: &[u8]| {
        let mut frame = vec![1, 0];
        frame.extend(7_u64.to_be_bytes());
        frame.extend(60_000_u32.to_be_bytes());
        frame.extend((verb.len() as u16).to_be_bytes());
        frame.extend(verb.as_bytes());
        frame.extend(body);
        [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
    };
    let mut endless = u32::MAX.to_be_bytes().to_vec();
    endless.resize(1 << 20, b'x');
    vec![
        endless,
        vec![0; 64],
        request("home/join", &[b'['; 60_000]),
        request("home/join", b"\x01{\"secret\":\"\",\"name\":\"x\"}"),
        request("home/propose", b"\x01{\"Leave\":{\"node\":1}}"),
        request("lead/lease", b"{}"),
        request("raft/vote", b"\x01{}"),
        request("\u{0}", b""),
    ]
}

/// Speaks TLS without a certificate, and then those bytes.
fn stranger(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let connection = ClientConnection::new(Arc::new(any_server()?), ServerName::try_from("home")?)?;
    let mut stream = StreamOwned::new(connection, dial(address)?);
    match say(&mut stream, bytes) {
        // The other end does not speak TLS, or does not speak it with strangers.
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(()),
        said => Ok(said?),
    }
}
