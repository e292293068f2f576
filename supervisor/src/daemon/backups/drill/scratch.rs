//! Where a restore is tried: a folder, and the container that is started on it. Both go whatever happens, the container
//! first, for the folder is mounted into it: at the end, when the trial is dropped in the middle, and, where the daemon
//! was killed, by the next one.

use super::NotWell;
use crate::daemon::Context;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use thermidor_backup::home_itself::make_private;
use thermidor_model::VolumeName;
use thermidor_model::backup::Subject;
use thermidor_model::name::HomeName;
use thermidor_services::docker::Engine;

/// How long a daemon that ends in the middle of a trial may take to clear it away.
const DROP_MAX: Duration = Duration::from_secs(10);
/// How often a folder is removed anew, and after what pause: what writes there may be ending just now.
const REMOVALS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

fn place(data: &Path) -> PathBuf {
    data.join("backup").join("drill")
}

/// A place for one trial.
pub struct Scratch {
    /// Where its container is; `None`: nothing is started.
    engine: Option<Engine>,
    dir: PathBuf,
    is_clear: bool,
}

impl Scratch {
    /// Makes one; what an earlier trial has left goes first. Without an engine no service can be tried, and nothing is
    /// brought.
    pub async fn make(context: &Context, subject: &Subject, friend: &HomeName) -> Result<Self, NotWell> {
        let place = place(&context.paths.data);
        let engine = match subject {
            Subject::HomeItself => None,
            Subject::Service(service) => {
                let cleared = clear(Some(&context.engine), &place).await;
                let here = context.node.state().borrow().name_of(context.node.id());
                cleared.map_err(|e| {
                    NotWell::for_now(format!("{here} can't start {service} to try it: {e:#}"))
                })?;
                context.backups.lock().swept = true;
                Some(context.engine.clone())
            }
        };
        let scratch = Self { engine, dir: place.join(format!("{subject}-{friend}")), is_clear: false };
        for folder in [scratch.dir(), &scratch.config(), &scratch.run()] {
            make_private(folder).map_err(|e| NotWell::for_now(format!("{}: {e}", folder.display())))?;
        }
        Ok(scratch)
    }

    /// Where all of it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the snapshot is restored to.
    pub fn restored(&self) -> PathBuf {
        self.dir.join("restored")
    }

    /// A restored volume.
    pub fn volume(&self, name: &VolumeName) -> PathBuf {
        self.restored().join("volumes").join(name.as_str())
    }

    /// For the files that the service is told things by.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// For its sockets.
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Clears all of it away. What can't be removed now is tried again until it is gone.
    pub async fn clear(mut self, context: &Context) {
        if let Err(e) = clear(self.engine.as_ref(), &self.dir).await {
            tracing::warn!("what was restored to be looked at is still there: {e:#}");
            context.backups.lock().swept = false;
        }
        self.is_clear = true;
    }
}

impl Drop for Scratch {
    /// Dropped in the middle: the daemon is ending, and nobody will be there to wait for it. Blocks for a moment.
    fn drop(&mut self) {
        if self.is_clear {
            return;
        }
        let (dir, engine) = (self.dir.clone(), self.engine.clone());
        let (tell, told) = mpsc::channel();
        let clearing = std::thread::Builder::new().name("clear-drill".into()).spawn(move || {
            // Whoever waits has given up: the next daemon does it.
            let _nobody_waits = tell.send(clear_now(engine.as_ref(), &dir));
        });
        let cleared = match clearing {
            Ok(_) => told.recv_timeout(DROP_MAX).unwrap_or_else(|e| Err(e.into())),
            Err(e) => Err(e.into()),
        };
        if let Err(e) = cleared {
            tracing::warn!("what was restored to be looked at stays until the next start: {e:#}");
        }
    }
}

/// On a thread of its own, for the daemon's runtime is ending.
fn clear_now(engine: Option<&Engine>, dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = engine.map(Engine::afresh).transpose()?;
    runtime.block_on(clear(engine.as_ref(), dir))
}

/// Removes every container on trial, of which there is one at a time, then a folder.
async fn clear(engine: Option<&Engine>, dir: &Path) -> anyhow::Result<()> {
    if let Some(engine) = engine {
        let left = engine.remove_trials().await?;
        tracing::debug!(left, "containers of restores that were tried are removed");
    }
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || remove(&dir)).await?
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    for again in 0.. {
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
            Err(_) if again < REMOVALS => std::thread::sleep(PAUSE),
            Err(e) => return Err(e).context(dir.display().to_string()),
        }
    }
    Ok(())
}

/// Removes what a daemon that was killed in the middle of a trial has left, once the engine answers.
pub async fn sweep_once(context: &Context) {
    let (swept, is_drilling) = {
        let inner = context.backups.lock();
        let is_drill = |task| task == thermidor_backup::schedule::Task::Drill;
        (inner.swept, inner.running.values().any(|running| is_drill(running.task)))
    };
    if swept || is_drilling {
        return;
    }
    match clear(Some(&context.engine), &place(&context.paths.data)).await {
        Ok(()) => context.backups.lock().swept = true,
        Err(e) => tracing::debug!("what restores that were tried have left is not removed yet: {e:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};
    use thermidor_services::docker::EngineConfig;

    /// An engine that knows two containers on trial, and notes in what order things are asked; each request by a
    /// connection of its own or several by one.
    fn engine_with_leftovers(dir: &Path, place: &Path) -> (Engine, Arc<Mutex<Vec<String>>>) {
        let socket = dir.join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (notes, place) = (asked.clone(), place.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, notes, place) = (stream.unwrap(), notes.clone(), place.clone());
                std::thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|n| n > 0) {
                        head.push(byte[0]);
                        if !head.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                        let line = text.lines().next().unwrap().to_owned();
                        let (status, body) = if line.contains("/version") {
                            ("200 OK", r#"{"ApiVersion":"1.41"}"#)
                        } else if line.starts_with("GET") {
                            ("200 OK", r#"[{"Id":"one"},{"Id":"two"}]"#)
                        } else {
                            ("204 No Content", "")
                        };
                        if !line.contains("/version") {
                            let there = if place.exists() { "with its folder" } else { "after its folder" };
                            notes.lock().unwrap().push(format!("{line} {there}"));
                        }
                        let length = format!("Content-Length: {}", body.len());
                        let kind = "Content-Type: application/json";
                        let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\n{length}\r\n\r\n{body}");
                        stream.write_all(answer.as_bytes()).unwrap();
                        // By HTTP/1.0 an answer ends with the connection.
                        if text.contains("HTTP/1.0") {
                            return;
                        }
                    }
                });
            }
        });
        let config = EngineConfig { socket, ..EngineConfig::new("maison", dir) };
        (Engine::new(config).unwrap(), asked)
    }

    fn filled(dir: &Path) -> PathBuf {
        let place = place(dir);
        let volume = place.join("mail-alpes/restored/volumes/mail");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("letter"), "").unwrap();
        place
    }

    fn in_order(asked: &Mutex<Vec<String>>) {
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked[0].contains("thermidor%2Etrial%3Dmaison"), "{asked:?}");
        for (at, id) in [(1, "one"), (2, "two")] {
            assert!(asked[at].starts_with("DELETE") && asked[at].contains(&format!("/containers/{id}?")));
            assert!(asked[at].contains("force=true") && asked[at].ends_with("with its folder"), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_goes_the_containers_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = filled(dir.path());
        let (engine, asked) = engine_with_leftovers(dir.path(), &place);
        clear(Some(&engine), &place).await.unwrap();
        assert!(!place.exists());
        in_order(&asked);
    }

    #[tokio::test]
    async fn while_the_engine_does_not_answer_the_folder_stays_for_a_container_may_be_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = filled(dir.path());
        let config =
            EngineConfig { socket: dir.path().join("none"), ..EngineConfig::new("maison", dir.path()) };
        let error = clear(Some(&Engine::new(config).unwrap()), &place).await.unwrap_err();
        assert!(error.to_string().contains("Docker is gone"), "{error:#}");
        assert!(place.exists());
        // Where nothing was started no engine is asked.
        clear(None, &place).await.unwrap();
        assert!(!place.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_trial_that_is_dropped_in_the_middle_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = filled(dir.path());
        let (engine, asked) = engine_with_leftovers(dir.path(), &place);
        let aside = place.join("mail-alpes");
        let scratch = Scratch { engine: Some(engine), dir: aside.clone(), is_clear: false };
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let trial = tokio::spawn(async move {
            let _scratch = scratch;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        is_begun.await.unwrap();
        trial.abort();
        assert!(trial.await.unwrap_err().is_cancelled());
        assert!(!aside.exists());
        in_order(&asked);
    }
}
