//! Frames on a stream: a length, the frame, and its payload.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use thermidor_model::replication::{EXTENT_BYTES, Frame};

/// Longest frame without its payload, bytes.
const FRAME_MAX_BYTES: usize = 1 << 20;
/// Longest payload, bytes.
const PAYLOAD_MAX_BYTES: u64 = EXTENT_BYTES;
/// Bytes of the length before a frame.
const LENGTH_BYTES: usize = 4;

/// A frame on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame.
    pub frame: Frame,
    /// Its payload; for a `Copy` or an `Extent` it is read from the image when its turn comes.
    pub payload: Bytes,
}

/// Appends a frame without its payload.
pub fn encode(frame: &Frame, to: &mut Vec<u8>) -> io::Result<()> {
    let at = to.len();
    to.extend_from_slice(&[0; LENGTH_BYTES]);
    let mut whole = postcard::to_extend(frame, std::mem::take(to)).map_err(io::Error::other)?;
    let length = (whole.len() - at - LENGTH_BYTES) as u32;
    whole[at..at + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    *to = whole;
    Ok(())
}

/// Takes a frame and its payload off what was received; `None`: the rest of it has to come yet.
pub fn decode(received: &mut BytesMut) -> io::Result<Option<(Frame, Bytes)>> {
    let invalid = |words: &'static str| io::Error::new(io::ErrorKind::InvalidData, words);
    let Some(length) = received.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_MAX_BYTES {
        return Err(invalid("a frame is too long"));
    }
    let Some(bytes) = received.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
    let frame: Frame = postcard::from_bytes(bytes).map_err(|_| invalid("a frame makes no sense"))?;
    let payload = frame.payload();
    if payload > PAYLOAD_MAX_BYTES {
        return Err(invalid("a payload is too long"));
    }
    let whole = LENGTH_BYTES + length + payload as usize;
    if received.len() < whole {
        received.reserve(whole - received.len());
        return Ok(None);
    }
    received.advance(LENGTH_BYTES + length);
    Ok(Some((frame, received.split_to(payload as usize).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::replication::{Op, OpKind};

    fn op(len: u64) -> Frame {
        Frame::Op { seq: 9, op: Op { kind: OpKind::Write, offset: 4096, len } }
    }

    #[test]
    fn frames_come_out_as_they_went_in_wherever_they_are_cut() {
        let mut stream = vec![];
        encode(&op(3), &mut stream).unwrap();
        stream.extend_from_slice(b"abc");
        encode(&Frame::Ping, &mut stream).unwrap();
        for cut in 0..stream.len() {
            let (mut received, mut found) = (BytesMut::new(), vec![]);
            for part in [&stream[..cut], &stream[cut..]] {
                received.extend_from_slice(part);
                while let Some(frame) = decode(&mut received).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, [(op(3), Bytes::from_static(b"abc")), (Frame::Ping, Bytes::new())]);
            assert!(received.is_empty());
        }
    }

    #[test]
    fn garbage_and_oversized_frames_are_refused() {
        let decode = |bytes: &[u8]| decode(&mut BytesMut::from(bytes));
        assert!(decode(&u32::MAX.to_le_bytes()).is_err());
        assert!(decode(&[2, 0, 0, 0, 0xff, 0xff]).is_err());
        let mut long = vec![];
        encode(&op(PAYLOAD_MAX_BYTES + 1), &mut long).unwrap();
        assert!(decode(&long).is_err());
    }
}
