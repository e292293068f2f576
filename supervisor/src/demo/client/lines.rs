//! A conversation in lines over a connection, as SMTP, IMAP and the record service have it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to be made: longer than the ingress parks one.
pub const CONNECT: Duration = Duration::from_secs(12);
/// How long an answer may take: longer than a take-over.
pub const ANSWER: Duration = Duration::from_secs(20);
/// The longest line taken, bytes.
const LINE_MAX: usize = 64 * 1024;

/// A connection whose other end is noticed to be gone within a few seconds.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    let alive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(1))
        .with_interval(Duration::from_secs(1))
        .with_retries(5);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&alive)?;
    Ok(stream)
}

/// A connection read line by line.
#[derive(Debug)]
pub struct Lines<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: Read + Write> Lines<S> {
    /// Over that stream.
    pub fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\r\n").as_bytes())?;
        self.stream.flush()
    }

    /// The next line, without its end.
    pub fn hear(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.read.len() > LINE_MAX {
                return Err(io::Error::other("a line without end"));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.read.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[derive(Default)]
    struct Script {
        pieces: VecDeque<Vec<u8>>,
        said: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let piece = self.pieces.pop_front().unwrap_or_default();
            to[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_whole_however_the_network_cuts_them() {
        let pieces = ["22", "0 hi\r\n250 ", "ok\n", "lost"];
        let script =
            Script { pieces: pieces.iter().map(|p| p.as_bytes().to_vec()).collect(), ..Default::default() };
        let mut lines = Lines::new(script);
        assert_eq!(lines.hear().unwrap(), "220 hi");
        assert_eq!(lines.hear().unwrap(), "250 ok");
        assert_eq!(lines.hear().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        lines.say("QUIT").unwrap();
        assert_eq!(lines.stream.said, b"QUIT\r\n");
    }
}
