//! What goes over a connection: length-delimited frames, each a version byte, what it is, a number
//! that pairs request and answer, then a body. Anything else closes the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::LengthDelimitedCodec;

/// Version of the frames.
pub(crate) const VERSION: u8 = 1;
/// Longest frame between members, bytes: a batch of log entries, packed build contexts among them.
pub(crate) const FRAME_MAX: usize = 64 << 20;
/// Longest frame from someone who has shown no certificate, bytes: room for a join request.
pub(crate) const STRANGER_FRAME_MAX: usize = 64 << 10;

/// A frame's meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Do this.
    Request { id: u64, deadline_ms: u32, verb: String, body: Bytes },
    /// Done.
    Answer { id: u64, body: Bytes },
    /// Not done, or failed on the way, in words.
    Failure { id: u64, text: String },
    /// Surely not done here: ask the leader, if known.
    NotLeader { id: u64, leader: Option<u64> },
    /// Surely not done: the asker has left this home.
    Expelled { id: u64 },
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

/// Why bytes are no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a frame ends too early")]
    Short,
    #[error("a frame of version {0}, not {VERSION}")]
    Version(u8),
    #[error("a frame of an unknown kind {0}")]
    Kind(u8),
    #[error("a frame's text is not UTF-8")]
    Text,
}

/// The framing of a connection.
pub(crate) fn framing(frame_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(frame_max).new_codec()
}

impl Frame {
    /// As bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.body_len());
        out.put_u8(VERSION);
        match self {
            Self::Request { id, deadline_ms, verb, body } => {
                out.put_u8(0);
                out.put_u64(*id);
                out.put_u32(*deadline_ms);
                out.put_u16(u16::try_from(verb.len()).unwrap_or(u16::MAX));
                out.put_slice(&verb.as_bytes()[..verb.len().min(usize::from(u16::MAX))]);
                out.put_slice(body);
            }
            Self::Answer { id, body } => {
                out.put_u8(1);
                out.put_u64(*id);
                out.put_slice(body);
            }
            Self::Failure { id, text } => {
                out.put_u8(2);
                out.put_u64(*id);
                out.put_slice(text.as_bytes());
            }
            Self::NotLeader { id, leader } => {
                out.put_u8(3);
                out.put_u64(*id);
                out.put_u64(leader.unwrap_or(0));
            }
            Self::Expelled { id } => {
                out.put_u8(6);
                out.put_u64(*id);
            }
            Self::Ping => out.put_u8(4),
            Self::Pong => out.put_u8(5),
        }
        out.freeze()
    }

    fn body_len(&self) -> usize {
        match self {
            Self::Request { verb, body, .. } => verb.len() + body.len(),
            Self::Answer { body, .. } => body.len(),
            Self::Failure { text, .. } => text.len(),
            Self::NotLeader { .. } | Self::Expelled { .. } | Self::Ping | Self::Pong => 0,
        }
    }

    /// From bytes; never panics, whatever they are.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        let version = bytes.try_get_u8().map_err(|_| WireError::Short)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = bytes.try_get_u8().map_err(|_| WireError::Short)?;
        if kind == 4 || kind == 5 {
            return Ok(if kind == 4 { Self::Ping } else { Self::Pong });
        }
        let id = bytes.try_get_u64().map_err(|_| WireError::Short)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Text);
        match kind {
            0 => {
                let deadline_ms = bytes.try_get_u32().map_err(|_| WireError::Short)?;
                let length = usize::from(bytes.try_get_u16().map_err(|_| WireError::Short)?);
                if bytes.len() < length {
                    return Err(WireError::Short);
                }
                let verb = text(&bytes.split_to(length))?;
                Ok(Self::Request { id, deadline_ms, verb, body: bytes })
            }
            1 => Ok(Self::Answer { id, body: bytes }),
            2 => Ok(Self::Failure { id, text: text(&bytes)? }),
            3 => {
                let leader = bytes.try_get_u64().map_err(|_| WireError::Short)?;
                Ok(Self::NotLeader { id, leader: (leader != 0).then_some(leader) })
            }
            6 => Ok(Self::Expelled { id }),
            other => Err(WireError::Kind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were() {
        let body = Bytes::from_static(b"\x00\xffbody");
        let frames = [
            Frame::Request { id: 7, deadline_ms: 900, verb: "raft/vote".into(), body: body.clone() },
            Frame::Answer { id: u64::MAX, body },
            Frame::Failure { id: 1, text: "salon n'est pas là".into() },
            Frame::NotLeader { id: 2, leader: Some(3) },
            Frame::NotLeader { id: 2, leader: None },
            Frame::Expelled { id: 4 },
            Frame::Ping,
            Frame::Pong,
        ];
        for frame in frames {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn every_truncation_and_a_flood_of_noise_is_an_error_or_a_frame_but_never_a_panic() {
        let whole =
            Frame::Request { id: 7, deadline_ms: 900, verb: "raft/vote".into(), body: Bytes::new() }.encode();
        for length in 0..whole.len() {
            assert!(Frame::decode(whole.slice(..length)).is_err(), "{length}");
        }
        assert_eq!(Frame::decode(Bytes::from_static(&[9, 0])), Err(WireError::Version(9)));
        assert_eq!(
            Frame::decode(Bytes::from_static(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0])),
            Err(WireError::Kind(9))
        );
        let mut seed = 1_u32;
        for length in 0..2000 {
            let noise: Vec<u8> = (0..length % 40)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8 & if length % 2 == 0 { 7 } else { 255 }
                })
                .collect();
            drop(Frame::decode(Bytes::from(noise)));
        }
    }
}
