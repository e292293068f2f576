//! The header of a replica's image: who it is and how far it is known to be durable.
//! Two slots are written in turn, so that a torn write costs the newer slot only.

use serde::{Deserialize, Serialize};
use thermidor_model::replication::{ImageHeader, WIRE_VERSION};
use thermidor_model::{ReplicaId, VolumeName};

/// First bytes of a slot.
const MAGIC: [u8; 8] = *b"THERMVOL";
/// Version of the header as persisted.
pub const HEADER_VERSION: u32 = 2;
/// Bytes of one slot: no disk tears less than a sector, and each slot has a page of its own.
pub const SLOT_BYTES: usize = 4096;
/// Longest words of a failure that are kept, bytes.
const WORDS_MAX: usize = 500;
const PREFIX: usize = 8 + 4;
const SUM: usize = 32;

/// What a replica's image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this structure.
    pub version: u32,
    /// Raised with each write of the header: the newer valid slot counts.
    pub count: u64,
    /// What the replication protocol keeps here.
    pub image: ImageHeader,
    /// Whether the file system inside was made.
    pub formatted: bool,
    /// The words of the failure, once `image.failed` is set.
    pub words: String,
}

/// The header of version 1: there was no dirty-extent map.
#[derive(Debug, Serialize, Deserialize)]
struct HeaderV1 {
    version: u32,
    count: u64,
    image: ImageHeaderV1,
    formatted: bool,
    words: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageHeaderV1 {
    version: u32,
    volume: VolumeName,
    replica: ReplicaId,
    size_bytes: u64,
    promised: u64,
    epoch: u64,
    durable_seq: u64,
    torn: bool,
    failed: bool,
}

impl HeaderV1 {
    /// As it is kept now: its map says nothing yet.
    fn migrate(self) -> Header {
        let old = self.image;
        let image = ImageHeader {
            version: WIRE_VERSION,
            promised: old.promised,
            epoch: old.epoch,
            durable_seq: old.durable_seq,
            torn: old.torn,
            failed: old.failed,
            ..ImageHeader::new(old.volume, old.replica, old.size_bytes)
        };
        let Self { count, formatted, words, .. } = self;
        Header { version: HEADER_VERSION, count, image, formatted, words }
    }
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Neither slot begins with the magic bytes.
    #[error("it holds no header of a volume")]
    NoHeader,
    /// Magic bytes, but both checksums are wrong.
    #[error("both copies of its header are damaged")]
    Damaged,
    /// Written by a newer program.
    #[error("its header has version {0}, newer than this program")]
    TooNew(u32),
}

impl Header {
    /// The slot's bytes. Words of a failure are cut to what fits.
    pub fn encode(&self) -> Result<[u8; SLOT_BYTES], postcard::Error> {
        let mut cut = self.clone();
        let mut end = cut.words.len().min(WORDS_MAX);
        while !cut.words.is_char_boundary(end) {
            end -= 1;
        }
        cut.words.truncate(end);
        let body = postcard::to_stdvec(&cut)?;
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..PREFIX].copy_from_slice(&(body.len() as u32).to_le_bytes());
        slot[PREFIX..PREFIX + body.len()].copy_from_slice(&body);
        let sum = blake3::hash(&slot[..SLOT_BYTES - SUM]);
        slot[SLOT_BYTES - SUM..].copy_from_slice(sum.as_bytes());
        Ok(slot)
    }

    fn decode(slot: &[u8; SLOT_BYTES]) -> Result<Self, BadHeader> {
        if slot[..8] != MAGIC {
            return Err(BadHeader::NoHeader);
        }
        if blake3::hash(&slot[..SLOT_BYTES - SUM]).as_bytes() != &slot[SLOT_BYTES - SUM..] {
            return Err(BadHeader::Damaged);
        }
        let length = u32::from_le_bytes([slot[8], slot[9], slot[10], slot[11]]) as usize;
        let body = slot[PREFIX..SLOT_BYTES - SUM].get(..length).ok_or(BadHeader::Damaged)?;
        // The version comes first, so that a newer header is told from a damaged one.
        let (version, _) = postcard::take_from_bytes::<u32>(body).map_err(|_| BadHeader::Damaged)?;
        if version > HEADER_VERSION {
            return Err(BadHeader::TooNew(version));
        }
        let header = match version {
            1 => postcard::from_bytes(body).map(HeaderV1::migrate),
            _ => postcard::from_bytes(body),
        };
        header.map_err(|_| BadHeader::Damaged)
    }

    /// The newer valid header of two slots.
    pub fn choose(slots: [&[u8; SLOT_BYTES]; 2]) -> Result<Self, BadHeader> {
        let read = slots.map(Self::decode);
        for slot in &read {
            if let Err(BadHeader::TooNew(version)) = slot {
                return Err(BadHeader::TooNew(*version));
            }
        }
        match read {
            [Ok(a), Ok(b)] => Ok(if a.count > b.count { a } else { b }),
            [Ok(one), Err(_)] | [Err(_), Ok(one)] => Ok(one),
            [Err(BadHeader::NoHeader), Err(BadHeader::NoHeader)] => Err(BadHeader::NoHeader),
            _ => Err(BadHeader::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::{ReplicaId, VolumeName};

    fn header(count: u64) -> Header {
        let mut image = ImageHeader::new(VolumeName::new("mail").unwrap(), ReplicaId(7), 1 << 20);
        image.promised = 3;
        Header { version: HEADER_VERSION, count, image, formatted: true, words: String::new() }
    }

    #[test]
    fn a_torn_newer_slot_leaves_the_older_one() {
        let (old, mut new) = (header(4).encode().unwrap(), header(5).encode().unwrap());
        assert_eq!(Header::choose([&old, &new]), Ok(header(5)));
        new[700] ^= 1;
        assert_eq!(Header::choose([&old, &new]), Ok(header(4)));
        let mut both = old;
        both[20] ^= 1;
        assert_eq!(Header::choose([&both, &new]), Err(BadHeader::Damaged));
    }

    #[test]
    fn blank_slots_and_newer_versions_are_told_apart() {
        let blank = [0; SLOT_BYTES];
        assert_eq!(Header::choose([&blank, &blank]), Err(BadHeader::NoHeader));
        let newer = Header { version: HEADER_VERSION + 1, ..header(1) }.encode().unwrap();
        assert_eq!(Header::choose([&blank, &newer]), Err(BadHeader::TooNew(HEADER_VERSION + 1)));
    }

    #[test]
    fn a_header_of_version_1_is_read_and_its_map_says_nothing() {
        let now = header(4);
        let image = ImageHeaderV1 {
            version: 1,
            volume: now.image.volume.clone(),
            replica: now.image.replica,
            size_bytes: now.image.size_bytes,
            promised: 3,
            epoch: 0,
            durable_seq: 0,
            torn: false,
            failed: false,
        };
        let old = HeaderV1 { version: 1, count: 4, image, formatted: true, words: String::new() };
        let body = postcard::to_stdvec(&old).unwrap();
        let mut slot = now.encode().unwrap();
        slot[8..PREFIX].copy_from_slice(&(body.len() as u32).to_le_bytes());
        slot[PREFIX..PREFIX + body.len()].copy_from_slice(&body);
        let sum = blake3::hash(&slot[..SLOT_BYTES - SUM]);
        slot[SLOT_BYTES - SUM..].copy_from_slice(sum.as_bytes());
        assert_eq!(Header::choose([&slot, &[0; SLOT_BYTES]]), Ok(now));
    }

    #[test]
    fn long_words_of_a_failure_are_cut_not_refused() {
        let long = Header { words: "é".repeat(4000), ..header(1) };
        let slot = long.encode().unwrap();
        let back = Header::choose([&slot, &[0; SLOT_BYTES]]).unwrap();
        assert!(back.words.len() <= WORDS_MAX && back.words.starts_with('é'));
    }
}
