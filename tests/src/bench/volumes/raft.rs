//! What stands in for a home's Raft: one state in this process, and a socket for the set changes that
//! volume processes propose. It answers at once; none is proposed while something is measured.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thermidor_model::command::Proposal;
use thermidor_model::state::Volume;
use thermidor_model::{Command, NodeId, Outcome, State, VolumeName};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// The state.
pub struct Raft(Mutex<State>);

impl Raft {
    /// Begins with that state.
    pub fn new(state: State) -> Self {
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A volume's record.
    pub fn volume(&self, name: &VolumeName) -> Result<Volume> {
        self.state().volumes.get(name).cloned().with_context(|| format!("no volume {name}"))
    }

    /// Applies a command.
    pub fn apply(&self, command: Command) -> Outcome {
        self.state().apply(&Proposal { at_ms: 0, command })
    }

    /// Raises a volume's epoch and makes that member the active, and drops the one before if that is lost, as a home
    /// does in one step when it fails over; returns the epoch.
    pub fn promote(&self, name: &VolumeName, node: NodeId, lost: Option<NodeId>) -> Result<u64> {
        let mut state = self.state();
        let record = state.volumes.get_mut(name).with_context(|| format!("no volume {name}"))?;
        ensure!(record.in_sync.contains(&node), "{node} is not in sync: {record:?}");
        record.epoch += 1;
        record.active = Some(node);
        if let Some(lost) = lost {
            ensure!(record.in_sync.remove(&lost), "{lost} is not in sync: {record:?}");
            record.set_version += 1;
        }
        Ok(record.epoch)
    }

    /// Applies what comes over the socket, until the runtime ends.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let raft = self.clone();
            tokio::spawn(async move {
                if let Err(e) = raft.answer(stream).await {
                    eprintln!("a proposal was not answered: {e:#}");
                }
            });
        }
    }

    async fn answer(&self, stream: UnixStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let mut answer = serde_json::to_vec(&self.apply(serde_json::from_str(&line)?))?;
        answer.push(b'\n');
        Ok(stream.write_all(&answer).await?)
    }
}

/// A volume process's way to it.
pub async fn propose(socket: &Path, command: &Command) -> Result<Outcome> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}
