//! Bytes in JSON: base64 text. A list of numbers, as serde has it by itself, takes three times the
//! room and ten times the time; it is still read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Writes bytes as text where the format is for people, else as they are.
pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(&STANDARD.encode(bytes))
    } else {
        bytes.serialize(serializer)
    }
}

/// Reads what [`serialize`] wrote, and a list of numbers.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_any(Text)
    } else {
        Vec::deserialize(deserializer)
    }
}

struct Text;

impl<'de> Visitor<'de> for Text {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes in base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        STANDARD.decode(text).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

/// Bytes of the state that may be many: a clone shares them.
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use crate::Command;
    use crate::state::{Sealed, State};

    #[test]
    fn bytes_are_text_in_json_and_come_back_in_both_formats() {
        let put = Command::Put { value: (0..=255).collect() };
        let json = serde_json::to_string(&put).unwrap();
        assert!(json.contains("\"AAECAwQF") && json.len() < 400, "{json}");
        assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), put);
        let dense = postcard::to_stdvec(&put).unwrap();
        assert_eq!(postcard::from_bytes::<Command>(&dense).unwrap(), put);
    }

    #[test]
    fn a_list_of_numbers_is_still_read_and_nonsense_is_not() {
        let sealed = |bytes| format!(r#"{{"nonce":[0,0,0,0,0,0,0,0,0,0,0,0],"bytes":{bytes}}}"#);
        let old: Sealed = serde_json::from_str(&sealed("[1,2,255]")).unwrap();
        assert_eq!(old.bytes, [1, 2, 255]);
        for nonsense in ["[256]", "[-1]", "\"no base64!\"", "7"] {
            assert!(serde_json::from_str::<Sealed>(&sealed(nonsense)).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn packed_contexts_come_back() {
        let mut state = State::default();
        state.contexts.insert("hash".into(), vec![0, 1, 254, 255].into());
        let json = serde_json::to_string(&state).unwrap();
        assert!(json.contains(r#""contexts":{"hash":"AAH+/w=="}"#), "{json}");
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert_eq!(format!("{:?}", state.contexts["hash"]), "4 bytes");
    }
}
