//! The vault's first words on a friend's connection, before HTTP: who is spoken to and what may be done, or why nothing.
//! So a home learns at the dial, and in words, what would else be a connection that breaks for no reason told.

use crate::vault::Signed;
use serde::{Deserialize, Serialize};
use std::io;
use thermidor_model::name::HomeName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest first words that are read, in bytes.
pub const WORDS_MAX: usize = 4096;

/// The vault lets the caller in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The home whose vault it is: its name goes into the repository's password and into what is signed.
    pub vault: HomeName,
    /// The name under which the caller is known there: the first part of each path.
    pub home: HomeName,
    /// The generation of the caller that is believed there.
    pub generation: u64,
    /// Whether nothing can be written: the caller's generation is higher, and no person has confirmed it yet.
    pub read_only: bool,
}

/// The vault lets nobody in, and says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// In words. They are the vault's, and nothing but a log may follow from them.
    pub why: String,
    /// The word of a later generation of the caller's home, if one was left there: what it says is in its signature.
    pub word: Option<Signed>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First {
    Welcome(Welcome),
    Refused(String),
}

async fn say(io: &mut (impl AsyncWrite + Unpin), first: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(first)?;
    let length = u16::try_from(text.len()).map_err(io::Error::other)?;
    io.write_all(&[&length.to_be_bytes()[..], &text].concat()).await?;
    io.flush().await
}

/// Lets a friend in.
pub async fn welcome(io: &mut (impl AsyncWrite + Unpin), welcome: Welcome) -> io::Result<()> {
    say(io, &First::Welcome(welcome)).await
}

/// Says why not, then hands a later generation's word on if there is one, and ends the connection. Whoever knows nothing of
/// such a word reads the first words alone.
pub async fn refuse(io: &mut (impl AsyncWrite + Unpin), why: &str, word: Option<&Signed>) -> io::Result<()> {
    say(io, &First::Refused(why.chars().take(WORDS_MAX / 8).collect())).await?;
    if let Some(word) = word {
        say(io, word).await?;
    }
    io.shutdown().await
}

/// Hears the vault's first words.
pub(super) async fn hear(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Welcome, Refused>> {
    Ok(match serde_json::from_slice(&words(io).await?)? {
        First::Welcome(welcome) => Ok(welcome),
        First::Refused(why) => {
            // A vault that has no such word ends the connection here, and so does one that breaks off.
            let word = words(io).await.ok().and_then(|text| serde_json::from_slice(&text).ok());
            Err(Refused { why: why.chars().filter(|c| !c.is_control()).collect(), word })
        }
    })
}

async fn words(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = io.read_u16().await? as usize;
    if length > WORDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first words are too many"));
    }
    let mut text = vec![0; length];
    io.read_exact(&mut text).await?;
    Ok(text)
}
