//! Packs our own images' files into build contexts: the same bytes, and so the same hash,
//! on every radiator.

use crate::docker::ImageSource;
use bytes::Bytes;
use std::collections::BTreeMap;

/// One file of a context.
pub(super) struct Asset {
    /// Path in the context.
    pub path: &'static str,
    /// What it holds.
    pub bytes: &'static [u8],
    /// Whether it is a program.
    pub executable: bool,
}

/// An image built from these files, its `Dockerfile` among them.
pub(super) fn image(name: &str, assets: &[Asset]) -> ImageSource {
    let context = pack(assets);
    ImageSource::Build {
        name: name.to_owned(),
        hash: blake3::hash(&context).to_hex().to_string(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        context: Bytes::from(context),
    }
}

/// A ustar archive without times or owners, so that equal files give equal bytes.
fn pack(assets: &[Asset]) -> Vec<u8> {
    let mut out = Vec::new();
    for asset in assets {
        let mut header = tar::Header::new_ustar();
        // Paths are ours and short: they fit the header's field.
        header.as_old_mut().name[..asset.path.len()].copy_from_slice(asset.path.as_bytes());
        header.set_mode(if asset.executable { 0o755 } else { 0o644 });
        header.set_size(asset.bytes.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(asset.bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_context_unpacks_to_its_files_and_is_named_by_their_content() {
        let assets = [
            Asset { path: "Dockerfile", bytes: b"FROM scratch\n", executable: false },
            Asset { path: "run", bytes: &[7; 700], executable: true },
        ];
        let packed = pack(&assets);
        assert_eq!(packed, pack(&assets));
        let mut archive = tar::Archive::new(&packed[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            seen.push((
                entry.path().unwrap().display().to_string(),
                entry.header().mode().unwrap(),
                bytes.len(),
            ));
        }
        assert_eq!(seen, [("Dockerfile".to_owned(), 0o644, 13), ("run".to_owned(), 0o755, 700)]);
        let other = [Asset { path: "Dockerfile", bytes: b"FROM debian\n", executable: false }];
        assert_ne!(image("x", &assets).reference(), image("x", &other).reference());
        assert!(image("x", &assets).reference().starts_with("thermidor/x:"));
    }
}
