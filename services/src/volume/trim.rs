//! Blocks that the file system does not use are given back, here and through the stream on every replica: now and
//! then by itself, or when a person asks.

use super::control::Refused;
use super::device::tool_path;
use super::roles::{Process, Role, lock};
use rand::Rng;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{Mutex, Notify};

/// One trim at a time, and its early end.
#[derive(Default)]
pub(super) struct Trimming {
    one: Mutex<()>,
    end: Notify,
}

impl Trimming {
    /// Ends a trim: the mount is needed no more, or is to go.
    pub(super) fn stop(&self) {
        self.end.notify_waiters();
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Refused {
    Refused::Failed(format!("{what}: {why}"))
}

impl Process {
    fn is_mounted(&self) -> bool {
        match &lock(&self.state).role {
            Role::Active { attached: Some(attached), .. } => !attached.is_gone(),
            _ => false,
        }
    }

    /// Gives blocks back that the mounted file system does not use; answers how many bytes those are. Ends early
    /// when the volume is detached.
    pub(super) async fn trim(&self) -> Result<u64, Refused> {
        let Ok(_one) = self.trimming.one.try_lock() else {
            return Err(Refused::Failed("it is being trimmed already".into()));
        };
        let ended = self.trimming.end.notified();
        tokio::pin!(ended);
        let child = {
            // Whoever attaches or detaches comes first; from here on detaching ends it.
            let _step = self.steps.lock().await;
            ended.as_mut().enable();
            if !self.is_mounted() {
                return Err(Refused::NotActive("the volume is not mounted here".into()));
            }
            Command::new("fstrim")
                .arg("-v")
                .arg(self.places.mount())
                .env("PATH", tool_path())
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| failed("fstrim can't be started", &e))?
        };
        let done = tokio::select! {
            done = child.wait_with_output() => done.map_err(|e| failed("fstrim is not heard", &e))?,
            () = ended => return Err(Refused::Failed("the volume is being detached".into())),
        };
        if !done.status.success() {
            return Err(failed("fstrim failed", &String::from_utf8_lossy(&done.stderr).trim()));
        }
        let said = String::from_utf8_lossy(&done.stdout).trim().to_string();
        counted(&said).ok_or_else(|| failed("fstrim said something else than how much", &said))
    }

    /// Trims every so often, at times that differ from radiator to radiator.
    pub(super) async fn trim_at_times(self: Arc<Self>) {
        let every = self.options.trim_every.max(Duration::from_millis(1));
        let mut wait = every.mul_f64(rand::rng().random_range(0.0..1.0));
        loop {
            tokio::time::sleep(wait).await;
            wait = every.mul_f64(rand::rng().random_range(0.9..1.1));
            if !self.is_mounted() {
                continue;
            }
            match self.trim().await {
                Ok(bytes) => tracing::info!(bytes, "what the file system does not use is given back"),
                Err(why) => tracing::warn!(%why, "the file system was not trimmed"),
            }
        }
    }
}

/// How many bytes, as in `/mnt: 1.5 GiB (1610612736 bytes) trimmed`.
fn counted(said: &str) -> Option<u64> {
    let (_, rest) = said.rsplit_once('(')?;
    rest.split_once(" bytes")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_trimmed_is_read_also_where_the_path_has_brackets() {
        assert_eq!(counted("/m (1)/mnt: 1.5 GiB (1610612736 bytes) trimmed"), Some(1_610_612_736));
        assert_eq!(counted("/mnt: nothing"), None);
    }
}
