//! Bytes that are kept in the state or carried by a command: everything persisted is JSON, so they
//! are written as base64 and not as a list of numbers, which would be three times as long.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes; a clone shares them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Packed(Arc<[u8]>);

impl From<Vec<u8>> for Packed {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Packed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Their number only: a context in a log line would be megabytes.
impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Text)
    }
}

struct Text;

impl<'de> de::Visitor<'de> for Text {
    type Value = Packed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes in base64")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Packed, E> {
        STANDARD.decode(text).map(Packed::from).map_err(E::custom)
    }

    /// As they were written before: a list of numbers.
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Packed, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = list.next_element::<u8>()? {
            bytes.push(byte);
        }
        Ok(Packed::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_in_json_and_come_back_also_from_the_older_form() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let packed = Packed::from(bytes.clone());
        let json = serde_json::to_string(&packed).unwrap();
        assert_eq!(json.len(), 4002);
        assert_eq!(serde_json::from_str::<Packed>(&json).unwrap(), packed);
        let older = serde_json::to_string(&bytes).unwrap();
        assert_eq!(serde_json::from_str::<Packed>(&older).unwrap(), packed);
        assert!(serde_json::from_str::<Packed>("\"no base64!\"").is_err());
        assert_eq!(format!("{packed:?}"), "3000 bytes");
    }
}
