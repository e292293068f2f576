//! Lines of a stream, of a bounded length, read so that a read may be broken off between any two bytes.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// The lines of a stream.
pub(super) struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    /// Up to where there is no end of a line.
    looked: usize,
    max: usize,
    /// Whether all has been read.
    pub at_end: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `max` bytes.
    pub fn new(from: R, max: usize) -> Self {
        Self { from, buffer: Vec::new(), looked: 0, max, at_end: false }
    }

    /// The next line without its end, or `None` at the end of all. Nothing is lost if it is dropped while it waits.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = self.buffer[self.looked..].iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(self.looked + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.looked = 0;
                return Ok(Some(text(&line)));
            }
            self.looked = self.buffer.len();
            if self.looked > self.max {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            self.buffer.reserve(PIECE);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                self.at_end = true;
                let line = std::mem::take(&mut self.buffer);
                self.looked = 0;
                return Ok((!line.is_empty()).then(|| text(&line)));
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_never_too_long() {
        let mut lines = Lines::new(&b"one\r\n\ntwo\xff\nthree"[..], 100);
        for expected in ["one", "", "two\u{fffd}", "three"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(expected));
        }
        assert_eq!(lines.next().await.unwrap(), None);
        let endless = [b'x'; 1000];
        assert!(Lines::new(&endless[..], 100).next().await.is_err());
    }
}
