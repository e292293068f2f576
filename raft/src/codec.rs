//! How things are written to disk and sent between members: a version byte, then JSON.
//! JSON names its fields, so a member may gain optional ones without a new version.

use serde::{Serialize, de::DeserializeOwned};
use std::io;

/// Version of everything this program writes.
pub const VERSION: u8 = 1;

/// Why bytes can't be read or a value can't be written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("no bytes where a record was expected")]
    Empty,
    /// Written by a later program.
    #[error("written in version {0}, this program reads up to {VERSION}: install the newer thermidor")]
    Newer(u8),
    /// A version that never was.
    #[error("version 0 was never written: the record is damaged")]
    Damaged,
    /// Not what was expected.
    #[error("not a readable record")]
    Json(#[from] serde_json::Error),
}

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A value as bytes.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(VERSION);
    serde_json::to_writer(&mut bytes, value)?;
    Ok(bytes)
}

/// A value from bytes; a newer version is refused, not guessed at.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((0, _)) => Err(CodecError::Damaged),
        Some((&version, _)) if version > VERSION => Err(CodecError::Newer(version)),
        Some((_, json)) => Ok(serde_json::from_slice(json)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_refused_and_a_damaged_one_too() {
        let mut bytes = encode("salon").unwrap();
        assert_eq!(decode::<String>(&bytes).unwrap(), "salon");
        bytes[0] = VERSION + 1;
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Newer(2))));
        bytes[0] = 0;
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Damaged)));
        assert!(matches!(decode::<String>(&[]), Err(CodecError::Empty)));
        assert!(matches!(decode::<String>(&[VERSION, b'{']), Err(CodecError::Json(_))));
    }

    #[test]
    fn numbers_come_back_bit_for_bit() {
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = f64::from_bits(seed);
            if number.is_finite() {
                let back: f64 = decode(&encode(&number).unwrap()).unwrap();
                assert_eq!(back.to_bits(), number.to_bits());
            }
        }
    }
}
