//! Fills an empty volume from the image before the first start, owners included, as Docker
//! does with its own named volumes: a service whose image keeps its data under another user
//! could not write there otherwise.

use super::inspect::Inspected;
use super::{BindMount, Engine, EngineError};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Stands in the volume while it is being filled; a fill that was interrupted begins anew.
const FILLING: &str = ".thermidor-filling";
/// What of an image's folder is copied at most, bytes.
const SEED_MAX: usize = 256 << 20;

/// Whether a volume holds nothing yet.
pub(super) fn is_empty(folder: &Path) -> Result<bool, EngineError> {
    let failed = |e| files(folder, e);
    let mut only_lost_and_found = true;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name == FILLING {
            return Ok(true);
        }
        only_lost_and_found &= name == "lost+found";
    }
    Ok(only_lost_and_found)
}

impl Engine {
    /// Fills a volume by way of a container beside the one of that name, with these labels.
    pub(super) async fn seed(
        &self,
        container: &str,
        labels: HashMap<String, String>,
        inspected: &Inspected,
        bind: &BindMount,
    ) -> Result<(), EngineError> {
        let archive = self.folder_of_image(container, labels, &inspected.image, &bind.path).await?;
        let Some(archive) = archive else { return Ok(()) };
        let folder = bind.host.clone();
        let filled = tokio::task::spawn_blocking(move || fill(&folder, &archive)).await;
        let filled = filled.unwrap_or_else(|e| Err(io::Error::other(e)));
        filled.map_err(|e| files(&bind.host, e))?;
        tracing::info!(container, path = %bind.path, "filled the empty volume from the image");
        Ok(())
    }

    /// A tar of the folder as the image has it; `None`: the image has none.
    async fn folder_of_image(
        &self,
        container: &str,
        labels: HashMap<String, String>,
        image: &str,
        path: &str,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let client = self.client().await?;
        let limit = self.config.limits.act;
        let name = format!("{container}_seed");
        let what = format!("read {path} of the image of {container}");
        let remove = || RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        // Left over from a daemon that was killed in the middle of it.
        match self.call(&what, limit, client.remove_container(&name, Some(remove()))).await {
            Err(e) if !e.is_status(404) => return Err(e),
            _ => {}
        }
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/never-started".into()]),
            labels: Some(labels),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        self.call(&what, limit, client.create_container(Some(options), body)).await?;
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut parts = client.download_from_container(&name, Some(options));
        let collect = async {
            let mut all = Vec::new();
            while let Some(part) = parts.next().await {
                let part: Bytes = part?;
                if all.len() + part.len() > SEED_MAX {
                    return Err(io::Error::other(format!("more than {} MiB", SEED_MAX >> 20)).into());
                }
                all.extend_from_slice(&part);
            }
            Ok(all)
        };
        let archive = self.call(&what, limit, collect).await;
        self.call(&what, limit, client.remove_container(&name, Some(remove()))).await?;
        match archive {
            Ok(archive) => Ok(Some(archive)),
            Err(e) if e.is_status(404) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Unpacks the tar's single top folder into `folder`, whose own owner and mode follow it.
fn fill(folder: &Path, archive: &[u8]) -> io::Result<()> {
    let marker = folder.join(FILLING);
    fs::write(&marker, b"")?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let below: PathBuf = path.components().skip_while(|c| *c == Component::CurDir).skip(1).collect();
        if below.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(io::Error::other(format!("the image's folder leads outside: {}", path.display())));
        }
        if below.as_os_str().is_empty() {
            let header = entry.header();
            let (uid, gid, mode) = (header.uid()?, header.gid()?, header.mode()?);
            let id = |n: u64| u32::try_from(n).map_err(io::Error::other);
            std::os::unix::fs::chown(folder, Some(id(uid)?), Some(id(gid)?))?;
            fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        } else {
            entry.unpack(folder.join(below))?;
        }
    }
    rustix::fs::syncfs(fs::File::open(folder)?)?;
    fs::remove_file(&marker)
}

fn files(folder: &Path, source: io::Error) -> EngineError {
    EngineError::Files { what: format!("could not fill {} from the image", folder.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            let folder = name.ends_with('/');
            header.set_entry_type(if folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
            header.set_mode(if folder { 0o750 } else { 0o640 });
            header.set_uid(u64::from(rustix::process::getuid().as_raw()));
            header.set_gid(u64::from(rustix::process::getgid().as_raw()));
            header.set_size(0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn an_empty_volume_is_filled_once_and_an_interrupted_fill_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert!(is_empty(dir.path()).unwrap());
        fs::write(dir.path().join(FILLING), b"").unwrap();
        fs::write(dir.path().join("half"), b"").unwrap();
        assert!(is_empty(dir.path()).unwrap(), "interrupted");
        fill(dir.path(), &archive(&["DATA/", "DATA/a/", "DATA/a/b"])).unwrap();
        assert!(dir.path().join("a/b").is_file());
        assert!(!is_empty(dir.path()).unwrap());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn an_archive_that_leads_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = fill(dir.path(), &archive(&["DATA/", "DATA/../../evil"])).unwrap_err();
        assert!(error.to_string().contains("leads outside"), "{error}");
        assert!(!dir.path().parent().unwrap().join("evil").exists());
    }
}
