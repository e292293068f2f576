//! Passes bytes both ways between two streams, half-closed ends included, as long as the
//! session's gate is open.

use super::cuts::{Leases, Seat};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes in flight per direction and session.
const CHUNK: usize = 16 << 10;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides had finished, or one broke off.
    Closed,
    /// The lease ended, or a newer epoch began.
    Cut,
}

/// Passes until both directions are done or the session is cut. `first` is what `b` has said already.
pub async fn pass<A, B>(a: &mut A, b: &mut B, first: &[u8], seat: &Seat, leases: &Leases) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let forth = flow(&mut a_read, &mut b_write, &[], seat, leases);
    let back = flow(&mut b_read, &mut a_write, first, seat, leases);
    let both = async { tokio::try_join!(forth, back) };
    tokio::select! {
        biased;
        () = seat.cut() => End::Cut,
        done = both => match done {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => End::Cut,
            Ok(_) | Err(_) => End::Closed,
        },
    }
}

async fn flow<R, W>(from: &mut R, to: &mut W, first: &[u8], seat: &Seat, leases: &Leases) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let shut = || io::Error::from(io::ErrorKind::PermissionDenied);
    if !first.is_empty() {
        if !seat.open(leases) {
            return Err(shut());
        }
        to.write_all(first).await?;
        to.flush().await?;
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if !seat.open(leases) {
            return Err(shut());
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..count]).await?;
        to.flush().await?;
    }
}
