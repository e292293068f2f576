//! What a home keeps of itself at its friends', beside its services' data: the whole state, and its keys sealed with what
//! only the recovery kit gives. A bare machine becomes the home from this one file and the words.

use crate::kit::{CryptoFailed, Kit};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use thermidor_model::State;
use thermidor_model::state::STATE_VERSION;
use zeroize::Zeroizing;

/// The folder of the repository in a friend's vault. It is no service's name.
pub const FOLDER: &str = thermidor_model::backup::HOME_ITSELF;
/// The file in its snapshots.
pub const FILE: &str = "home.json";
/// Version of the file.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 256 << 20;

/// A home as it leaves its radiators. Never printed: it has no Debug.
#[derive(Clone)]
pub struct HomeItself {
    /// Everything the members agree on. Its secrets are sealed under the home keys.
    pub state: State,
    /// The home keys by their numbers.
    pub home_keys: BTreeMap<u64, Zeroizing<[u8; 32]>>,
    /// The key of the home's authority, PEM.
    pub authority_key_pem: Zeroizing<String>,
}

/// Why an export can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file is not there, or not readable.
    #[error("the home's export can't be read")]
    Io(#[from] io::Error),
    /// Larger than any home's.
    #[error("the home's export is larger than {} MiB: it is none", FILE_MAX >> 20)]
    TooLarge,
    /// Not what such a file looks like.
    #[error("the home's export is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Parts of it are not what they are said to be.
    #[error("the home's export is damaged: {0}")]
    Unsound(&'static str),
    /// A later program's.
    #[error("the home's export has version {0}, this program reads up to {1}: install the newer thermidor")]
    Newer(u32, u32),
    /// Other words, or bytes that were changed.
    #[error(
        "these words do not open the home's keys: they are another home's, or an earlier kit's, or the export is damaged"
    )]
    Words,
    /// The system's fault.
    #[error(transparent)]
    Crypto(#[from] CryptoFailed),
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// As text that programs of other versions leave as it is: what is sealed is bound to it.
    state: Value,
    home_keys: BTreeMap<u64, Sealed>,
    authority_key: Sealed,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    nonce: String,
    bytes: String,
}

/// What a sealed key is bound to: what it is, and the state beside it.
fn bound_to(what: &str, state: &Value) -> Result<Vec<u8>, ExportError> {
    let state = serde_json::to_vec(state).map_err(ExportError::Damaged)?;
    let mut bound = format!("thermidor {FOLDER} 1\0{what}\0").into_bytes();
    bound.extend_from_slice(digest(&SHA256, &state).as_ref());
    Ok(bound)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, CryptoFailed> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| CryptoFailed)?))
}

fn seal(key: &[u8; 32], bound: &[u8], clear: &[u8]) -> Result<Sealed, CryptoFailed> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| CryptoFailed)?;
    let mut bytes = Zeroizing::new(clear.to_vec());
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut bytes)
        .map_err(|_| CryptoFailed)?;
    bytes.extend_from_slice(tag.as_ref());
    let text = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
    Ok(Sealed { nonce: text(&nonce), bytes: text(&bytes) })
}

fn open(key: &[u8; 32], bound: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, ExportError> {
    let unsound = || ExportError::Unsound("a sealed key is no text of base64");
    let bytes = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| unsound());
    let nonce: [u8; NONCE_LEN] = bytes(&sealed.nonce)?.try_into().map_err(|_| unsound())?;
    let mut clear = Zeroizing::new(bytes(&sealed.bytes)?);
    let length = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut clear)
        .map_err(|_| ExportError::Words)?
        .len();
    clear.truncate(length);
    Ok(clear)
}

/// Makes a folder that only its owner reads, for what is to be backed up or was restored; one that is there is emptied.
pub fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl HomeItself {
    /// The file's bytes. Keys are sealed anew each time: two exports of one state differ.
    pub fn write(&self, kit: &Kit) -> Result<Vec<u8>, ExportError> {
        let state = serde_json::to_value(&self.state).map_err(ExportError::Damaged)?;
        let home_seal = kit.home_seal()?;
        let home_keys = self.home_keys.iter().map(|(number, key)| {
            let bound = bound_to(&format!("home key {number}"), &state)?;
            Ok((*number, seal(&home_seal, &bound, &key[..])?))
        });
        let home_keys = home_keys.collect::<Result<_, ExportError>>()?;
        let bound = bound_to("authority key", &state)?;
        let authority_key = seal(&*kit.authority_seal()?, &bound, self.authority_key_pem.as_bytes())?;
        let file = File { version: VERSION, state, home_keys, authority_key };
        serde_json::to_vec(&file).map_err(ExportError::Damaged)
    }

    /// Reads a file's bytes with the words it was written for. Nothing of it is believed before the keys are open:
    /// whoever changed a bit of the state has made that impossible.
    pub fn read(bytes: &[u8], kit: &Kit) -> Result<Self, ExportError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(ExportError::Damaged)?;
        if version > VERSION {
            return Err(ExportError::Newer(version, VERSION));
        }
        if version == 0 {
            return Err(ExportError::Unsound("version 0 was never written"));
        }
        let file: File = serde_json::from_slice(bytes).map_err(ExportError::Damaged)?;
        let home_seal = kit.home_seal()?;
        let mut home_keys = BTreeMap::new();
        for (number, sealed) in &file.home_keys {
            let bound = bound_to(&format!("home key {number}"), &file.state)?;
            let key = open(&home_seal, &bound, sealed)?;
            let key = <[u8; 32]>::try_from(&key[..]);
            let key = key.map_err(|_| ExportError::Unsound("a home key is not 32 bytes long"))?;
            home_keys.insert(*number, Zeroizing::new(key));
        }
        let bound = bound_to("authority key", &file.state)?;
        let authority = open(&*kit.authority_seal()?, &bound, &file.authority_key)?;
        let authority = String::from_utf8(authority.to_vec());
        let authority = authority.map_err(|_| ExportError::Unsound("the authority's key is no text"))?;
        let version = file.state.get("version").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok());
        match version {
            Some(version) if version > STATE_VERSION => {
                return Err(ExportError::Newer(version, STATE_VERSION));
            }
            Some(_) => {}
            None => return Err(ExportError::Unsound("the state has no version")),
        }
        let state = serde_json::from_value(file.state).map_err(ExportError::Damaged)?;
        Ok(Self { state, home_keys, authority_key_pem: Zeroizing::new(authority) })
    }

    /// Writes the file into a folder that is to be backed up: whole or not at all, for its owner only.
    pub fn write_into(&self, dir: &Path, kit: &Kit) -> Result<(), ExportError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let (new, place) = (dir.join(format!("{FILE}.new")), dir.join(FILE));
        let bytes = self.write(kit)?;
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(std::fs::rename(&new, &place)?)
    }

    /// Reads the file from a folder into which it was restored.
    pub fn read_from(dir: &Path, kit: &Kit) -> Result<Self, ExportError> {
        let path = dir.join(FILE);
        if std::fs::metadata(&path)?.len() > FILE_MAX {
            return Err(ExportError::TooLarge);
        }
        Self::read(&std::fs::read(&path)?, kit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::serving_home;

    fn export() -> HomeItself {
        let mut state = serving_home(3, 2);
        state.overrides.targets_c.insert(thermidor_model::RadiatorName::new("salon").unwrap(), 19.1 + 0.2);
        HomeItself {
            state,
            home_keys: [(0, Zeroizing::new([5; 32])), (1, Zeroizing::new([6; 32]))].into(),
            authority_key_pem: Zeroizing::new("-----BEGIN PRIVATE KEY-----".into()),
        }
    }

    #[test]
    fn a_home_is_read_as_it_was_written() {
        let kit = Kit::draw().unwrap();
        let written = export().write(&kit).unwrap();
        let read = HomeItself::read(&written, &kit).unwrap();
        assert_eq!(read.state, export().state);
        assert_eq!(read.home_keys, export().home_keys);
        assert_eq!(read.authority_key_pem, export().authority_key_pem);
        assert_ne!(written, export().write(&kit).unwrap(), "no nonce is used twice");
        let text = String::from_utf8(written).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "the authority's key is sealed");
        assert!(text.contains("\"home\":\"maison\""), "the rest is plain, for restic encrypts it");
    }

    #[test]
    fn another_kit_opens_nothing() {
        let kit = Kit::draw().unwrap();
        let written = export().write(&kit).unwrap();
        let refused = HomeItself::read(&written, &Kit::draw().unwrap());
        assert!(matches!(refused, Err(ExportError::Words)));
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let kit = Kit::draw().unwrap();
        let written = export().write(&kit).unwrap();
        for end in [0, 1, written.len() / 2, written.len() - 1] {
            assert!(HomeItself::read(&written[..end], &kit).is_err(), "cut at {end}");
        }
        for at in (0..written.len()).step_by(53) {
            let mut changed = written.clone();
            changed[at] ^= 1;
            assert!(HomeItself::read(&changed, &kit).is_err(), "byte {at}: {}", changed[at] as char);
        }
        let mut file: Value = serde_json::from_slice(&written).unwrap();
        file["state"]["generation"] = 77.into();
        let changed = serde_json::to_vec(&file).unwrap();
        assert!(matches!(HomeItself::read(&changed, &kit), Err(ExportError::Words)), "another generation");
        let mut file: Value = serde_json::from_slice(&written).unwrap();
        file["home_keys"]["1"] = file["home_keys"]["0"].clone();
        let changed = serde_json::to_vec(&file).unwrap();
        assert!(
            matches!(HomeItself::read(&changed, &kit), Err(ExportError::Words)),
            "a key in another's place"
        );
    }

    #[test]
    fn what_a_later_program_wrote_is_refused_in_words_and_fields_it_added_are_no_damage() {
        let kit = Kit::draw().unwrap();
        let mut file: Value = serde_json::from_slice(&export().write(&kit).unwrap()).unwrap();
        file["version"] = 2.into();
        let newer = HomeItself::read(&serde_json::to_vec(&file).unwrap(), &kit).err().unwrap();
        assert!(newer.to_string().contains("install the newer thermidor"), "{newer}");

        let rewritten = |change: &dyn Fn(&mut Value)| {
            let mut state = serde_json::to_value(export().state).unwrap();
            change(&mut state);
            let sealed = |what: &str, key: &[u8; 32], clear: &[u8]| {
                seal(key, &bound_to(what, &state).unwrap(), clear).unwrap()
            };
            let home_keys = [(0, sealed("home key 0", &kit.home_seal().unwrap(), &[5; 32]))].into();
            let authority_key = sealed("authority key", &kit.authority_seal().unwrap(), b"pem");
            let file = File { version: VERSION, state, home_keys, authority_key };
            HomeItself::read(&serde_json::to_vec(&file).unwrap(), &kit)
        };
        let read = rewritten(&|state| state["cellar"] = "wine".into()).ok().unwrap();
        assert_eq!(read.state, export().state);
        let newer = rewritten(&|state| state["version"] = (STATE_VERSION + 1).into()).err().unwrap();
        assert!(matches!(newer, ExportError::Newer(..)), "{newer}");
        assert!(matches!(rewritten(&|state| *state = Value::Null), Err(ExportError::Unsound(_))));
    }

    #[test]
    fn it_lies_in_a_folder_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let kit = Kit::draw().unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(HomeItself::read_from(dir.path(), &kit), Err(ExportError::Io(_))));
        for _ in 0..2 {
            export().write_into(dir.path(), &kit).unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(HomeItself::read_from(dir.path(), &kit).ok().unwrap().state, export().state);
    }
}
