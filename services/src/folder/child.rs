//! Children that do what may hang.

use super::FolderError;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long one of these may take.
const LIMIT: Duration = Duration::from_secs(5);
/// So many characters are repeated of what a command said.
const SAID_MAX: usize = 300;

/// How it went otherwise.
#[derive(Debug)]
pub(super) enum Ended {
    /// With that status, which means this unless the script has a meaning of its own for it.
    With(i32, FolderError),
    /// Not in time, or not at all.
    Other(FolderError),
}

impl From<Ended> for FolderError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::With(_, error) | Ended::Other(error) => error,
        }
    }
}

/// Runs short scripts, each for a limited time.
#[derive(Debug, Clone)]
pub(super) struct Shell {
    pub(super) limit: Duration,
}

impl Default for Shell {
    fn default() -> Self {
        Self { limit: LIMIT }
    }
}

impl Shell {
    /// What the script printed. A child that hangs in the kernel outlives its SIGKILL; it is not waited for.
    pub(super) async fn run(&self, what: &str, script: &str, args: &[&Path]) -> Result<Vec<u8>, Ended> {
        let failed = |said: std::io::Error| {
            Ended::Other(FolderError::Failed { what: what.into(), said: said.to_string() })
        };
        let mut command = Command::new("sh");
        command.args(["-c", script, "folder"]).args(args).stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(self.limit, command.output()).await {
            Err(_) => {
                return Err(Ended::Other(FolderError::Hangs {
                    what: what.into(),
                    limit_s: self.limit.as_secs(),
                }));
            }
            Ok(output) => output.map_err(failed)?,
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID_MAX).collect();
        let said = if said.is_empty() { output.status.to_string() } else { said };
        Err(Ended::With(output.status.code().unwrap_or(-1), FolderError::Failed { what: what.into(), said }))
    }
}
