//! Containers on a real Docker, and what is said when Docker itself fails.

mod containers;
mod stage;

use stage::{PATIENCE, Stage, name, script};
use std::path::Path;
use std::time::Duration;
use thermidor_model::observe::Readiness;
use thermidor_services::docker::{Engine, EngineConfig, EngineError, Limits};
use tokio::net::UnixListener;

/// Whether a container killed for want of memory is always told from one killed otherwise.
const TELLS_OOM: bool = true;

/// A stage on Docker.
async fn set(test: &str) -> Option<Stage> {
    Stage::set(test).await
}

/// An engine on a socket of ours, with little patience.
fn hasty(socket: &Path, dir: &Path) -> Engine {
    let limit = Duration::from_millis(300);
    let limits = Limits { ask: limit, act: limit, image: limit, image_silence: limit };
    let config = EngineConfig { socket: socket.to_owned(), limits, ..EngineConfig::new("t", dir) };
    Engine::new(config).unwrap()
}

#[tokio::test]
async fn a_docker_that_accepts_and_never_answers_is_slow_in_words_and_never_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("hung");
    let listener = UnixListener::bind(&socket).unwrap();
    let accepting = tokio::spawn(async move {
        let mut kept = vec![];
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    let engine = hasty(&socket, dir.path());
    let notes = name("notes");
    let all = async {
        vec![
            engine.ping().await.unwrap_err(),
            engine.list().await.unwrap_err(),
            engine.start(&notes, 1).await.unwrap_err(),
            engine.stop(&notes, Duration::from_millis(100)).await.unwrap_err(),
            engine.kill(&notes).await.unwrap_err(),
            engine.remove(&notes).await.unwrap_err(),
        ]
    };
    for error in tokio::time::timeout(PATIENCE, all).await.expect("a hang") {
        assert!(matches!(error, EngineError::Slow { .. }) && error.may_pass(), "{error}");
        assert!(error.to_string().contains("no answer in 0.3 s"), "{error}");
    }
    let ready = engine.prepare(&script("notes", "true")).await;
    assert!(matches!(&ready, Readiness::Preparing(why) if why.contains("Docker is slow")), "{ready:?}");
    accepting.abort();
}

#[tokio::test]
async fn a_docker_that_is_gone_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = hasty(&dir.path().join("none"), dir.path());
    let error = nothing.list().await.unwrap_err();
    assert!(matches!(error, EngineError::Gone { .. }), "{error}");
    // An engine that has not started yet is waited for: it says nothing about the service.
    let ready = nothing.prepare(&script("notes", "true")).await;
    assert!(matches!(&ready, Readiness::Preparing(why) if why.contains("Docker is gone")), "{ready:?}");
    let socket = dir.path().join("deaf");
    drop(UnixListener::bind(&socket).unwrap());
    let error = hasty(&socket, dir.path()).start(&name("notes"), 1).await.unwrap_err();
    assert!(matches!(error, EngineError::Gone { .. }), "{error}");
}
