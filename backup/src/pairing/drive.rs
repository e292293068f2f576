//! A pairing over a stream. Frames are bounded and none is waited for without end.

use super::{Act, Code, Introduction, Invitation, Paired, Pairing, PairingError};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The longest frame, in bytes.
pub const FRAME_MAX: usize = 16 << 10;

/// Receives a guest on a stream. `burn` writes down durably that the code is spent, before the one guess is looked at, and
/// answers whether it was still good; `now` tells ms since the Unix epoch. Each frame is waited for `patience` at most.
pub async fn host<IO>(
    io: IO,
    invitation: Invitation,
    own: Introduction,
    burn: impl AsyncFnOnce() -> io::Result<bool>,
    now: impl Fn() -> u64,
    patience: Duration,
) -> Result<Paired, PairingError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    go_on(io, Pairing::host(invitation, own), Vec::new(), burn, now, patience).await
}

/// Comes as a guest with a code that somebody typed.
pub async fn guest<IO>(
    io: IO,
    code: &Code,
    own: Introduction,
    patience: Duration,
) -> Result<Paired, PairingError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (pairing, first) = Pairing::guest(code, own);
    go_on(io, pairing, vec![first], async || Ok(false), || 0, patience).await
}

async fn go_on<IO>(
    mut io: IO,
    mut pairing: Pairing,
    mut acts: Vec<Act>,
    burn: impl AsyncFnOnce() -> io::Result<bool>,
    now: impl Fn() -> u64,
    patience: Duration,
) -> Result<Paired, PairingError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut burn = Some(burn);
    loop {
        let mut burns = false;
        for act in std::mem::take(&mut acts) {
            match act {
                Act::Say(frame) => {
                    let said = timeout(patience, say(&mut io, &frame)).await;
                    said.map_err(|_| PairingError::Silent)?
                        .map_err(|_| PairingError::Cut { spent: pairing.is_spent() })?;
                }
                Act::Burn => burns = true,
                Act::Paired(paired) => return Ok(*paired),
            }
        }
        let done = if burns {
            let burn = burn.take().ok_or(PairingError::OutOfTurn)?;
            let first = burn().await.map_err(PairingError::Unwritten)?;
            pairing.burnt(first)
        } else {
            let frame = timeout(patience, listen(&mut io)).await.map_err(|_| PairingError::Silent)?;
            match frame.map_err(|_| PairingError::Cut { spent: pairing.is_spent() })? {
                Some(frame) => pairing.hear(&frame, now()),
                None => Err(PairingError::OutOfTurn),
            }
        };
        match done {
            Ok(more) => acts = more,
            Err(error) => {
                // That the other side hears why is a courtesy; it may be gone.
                let _ = timeout(patience, say(&mut io, &Pairing::farewell(&error))).await;
                return Err(error);
            }
        }
    }
}

async fn say(io: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(frame).await?;
    io.flush().await
}

/// The next frame; `None` if it is too long to be one.
async fn listen(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = io.read_u32().await? as usize;
    if length > FRAME_MAX {
        return Ok(None);
    }
    let mut frame = vec![0; length];
    io.read_exact(&mut frame).await?;
    Ok(Some(frame))
}
