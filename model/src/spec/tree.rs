//! YAML as a tree whose every key and value knows its place, so that one pass can
//! name everything that is wrong, duplicate keys included.

use super::report::{Findings, Place};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::fmt;

/// Largest `home.yaml`, bytes: it travels through the log.
pub const TEXT_MAX_BYTES: usize = 1 << 20;

/// Most nodes of a `home.yaml` once its aliases are unfolded.
const NODES_MAX: usize = 100_000;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// A key of a mapping and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub place: Place,
    pub text: String,
}

/// What a node holds. Numbers and booleans stay text as written: `1.10` is no `1.1`.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// The kind in words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Where the value of a path stands, or the last part of the path that is there.
pub(super) fn place_of(text: &str, path: &[&str]) -> Place {
    let Some(root) = parse(text, &mut Findings::default()) else { return Place::START };
    let mut node = &root;
    let mut place = Place::START;
    for part in path {
        let Value::Map(entries) = &node.value else { break };
        let Some((_, value)) = entries.iter().find(|(key, _)| key.text == *part) else { break };
        (node, place) = (value, value.place);
    }
    place.within(text)
}

enum Raw {
    Null,
    Text(String),
    /// A number or boolean: the parser's rendering of it.
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_u128<E: de::Error>(self, v: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(v.to_string()))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Text(v.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

/// Parses a text into a tree; a syntax error or a breached budget is one finding.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Option<Node> {
    if text.len() > TEXT_MAX_BYTES {
        let size = format!("the file has {} bytes, at most {TEXT_MAX_BYTES} are taken", text.len());
        findings.error(Place::START, size);
        return None;
    }
    let budget = serde_saphyr::budget! { max_nodes: NODES_MAX, max_depth: 48, max_aliases: 1000 };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Some(node(raw, text)),
        Err(error) => {
            let place = error.location().map_or(Place::START, |l| Place::from(&l));
            let plain = error.without_snippet().render();
            let first = plain.lines().next().unwrap_or("it can't be read");
            let message = first.split(" at line ").next().unwrap_or(first).trim();
            findings.error(place.within(text), format!("this is no YAML: {message}"));
            None
        }
    }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let place = Place::from(&raw.defined).within(text);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(value) => Value::Text(value),
        Raw::Typed(value) => Value::Text(as_written(place, text).unwrap_or(value)),
        Raw::List(items) => Value::List(items.into_iter().map(|i| node(i, text)).collect()),
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(k, v)| (key(k, text), node(v, text))).collect())
        }
    };
    Node { place, value }
}

fn key(raw: Spanned<Raw>, text: &str) -> Key {
    let node = node(raw, text);
    let text = match node.value {
        Value::Text(text) => text,
        Value::Null => "null".to_string(),
        other => format!("({})", other.kind()),
    };
    Key { place: node.place, text }
}

/// The source's own spelling of a plain number or boolean.
fn as_written(place: Place, text: &str) -> Option<String> {
    let slice = text.get(place.offset..place.offset + place.len)?.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
    (!slice.is_empty() && slice.chars().all(plain)).then(|| slice.to_string())
}
