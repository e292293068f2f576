//! `restore --to`: a service's files as they were, in a folder of this radiator. No service is touched.

use super::progress::counted;
use crate::api::{Refused, Reply};
use crate::daemon::Context;
use crate::daemon::serve::{Line, say};
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use thermidor_backup::restore;
use thermidor_model::ServiceName;
use thermidor_model::restore::RestoreWish;
use tokio::sync::watch;

/// Where files lie in the folder until they are whole.
const PART: &str = ".thermidor-part";

/// Restores into a folder, tells how far it is, and goes on where nobody listens any more.
pub async fn to_folder(
    context: &Context,
    line: &mut Line,
    service: ServiceName,
    wish: RestoreWish,
    dir: PathBuf,
) -> anyhow::Result<()> {
    let (telling, mut told) = watch::channel(String::new());
    let work = context.clone();
    let mut done = tokio::spawn(async move {
        let done = work.bring_to(&service, &wish, &dir, &telling).await;
        match &done {
            Ok(text) => tracing::info!("{text}"),
            Err(e) => tracing::warn!(%service, "not restored into {}: {e:#}", dir.display()),
        }
        done
    });
    loop {
        tokio::select! {
            done = &mut done => {
                let reply = match done.context("the restore ended")? {
                    Ok(text) => Reply::Ok(text.into()),
                    Err(e) => Reply::Refused(Refused::because(format!("{e:#}"))),
                };
                return say(line, reply).await;
            }
            Ok(()) = told.changed() => {
                let text = told.borrow_and_update().clone();
                say(line, Reply::Line(text)).await?;
            }
        }
    }
}

impl Context {
    pub(super) async fn bring_to(
        &self,
        service: &ServiceName,
        wish: &RestoreWish,
        dir: &Path,
        telling: &watch::Sender<String>,
    ) -> anyhow::Result<String> {
        let state = self.node.state().borrow().clone();
        ensure!(dir.is_absolute(), "{} is no absolute path", dir.display());
        let names = match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|e| Ok(e?.file_name())).collect::<std::io::Result<Vec<_>>>()?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).context(dir.display().to_string()),
        };
        // What an interrupted one has left is in the way of nothing.
        ensure!(
            names.iter().all(|name| name == PART),
            "{} is not empty: give an empty folder",
            dir.display()
        );
        let offer = self.find_offer(&state, service, wish, None, "folder").await?;
        let path = wish.path.as_ref().map_or("volumes".to_owned(), |path| format!("volumes/{path}"));
        let measured = offer.measure(&path).await?;
        ensure!(measured.files > 0, "{} of {} has no {path}", offer.snapshot.id, offer.vault);
        let part = dir.join(PART);
        thermidor_backup::home_itself::make_private(&part).with_context(|| part.display().to_string())?;
        restore::enough(&measured, restore::free_in(&part)?)
            .map_err(|short| anyhow::anyhow!("there is no room in {}: {short}", dir.display()))?;
        telling.send_replace(format!(
            "{} of {service}, as of {}, from {}",
            crate::cli::bytes(measured.bytes),
            offer.snapshot.time,
            offer.vault
        ));
        let tell = |there: u64| {
            let percent = (there.saturating_mul(100) / measured.bytes.max(1)).min(99);
            telling.send_replace(format!("{percent} % of {}", crate::cli::bytes(measured.bytes)));
        };
        counted(offer.bring(&path, &part), part.clone(), tell).await?;
        let (from, to) = (part.join("volumes"), dir.to_owned());
        tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&from)? {
                let entry = entry?;
                std::fs::rename(entry.path(), to.join(entry.file_name()))?;
            }
            std::fs::remove_dir_all(to.join(PART))
        })
        .await?
        .with_context(|| dir.display().to_string())?;
        Ok(format!("{service} as of {} is in {}", offer.snapshot.time, dir.display()))
    }
}
