//! A client of the home at work on the client's machine: a process that reports when its work
//! is done or it is told to end.

use super::Lab;
use super::command::{LabError, line};
use serde::de::DeserializeOwned;
use std::process::{Child, Stdio};

/// A client at work. Dropping it kills it.
#[derive(Debug)]
pub struct Guest {
    line: String,
    child: Option<Child>,
}

impl Guest {
    /// Starts one: `args` are those of `demo-client`, `env` is added to its environment.
    pub fn start(lab: &Lab, args: &[&str], env: &[(&str, &str)]) -> Result<Self, LabError> {
        let mut command = lab.client(&lab.options.helper.to_string_lossy());
        command.arg("demo-client").args(args).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = line(&command);
        let child = command.spawn().map_err(|source| LabError::Start { command: line.clone(), source })?;
        Ok(Self { line, child: Some(child) })
    }

    /// Waits until its work is done, and returns its report.
    pub fn report<T: DeserializeOwned>(self) -> Result<T, LabError> {
        self.finish(false)
    }

    /// Tells it to end, and returns its report.
    pub fn stop<T: DeserializeOwned>(self) -> Result<T, LabError> {
        self.finish(true)
    }

    fn finish<T: DeserializeOwned>(mut self, stop: bool) -> Result<T, LabError> {
        let start = |source| LabError::Start { command: self.line.clone(), source };
        let mut child = self.child.take().ok_or_else(|| LabError::NoPower("a client".into()))?;
        let stdin = child.stdin.take();
        if stop {
            drop(stdin);
        }
        let said = child.wait_with_output().map_err(start)?;
        if !said.status.success() {
            let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(LabError::Failed { command: self.line.clone(), status: said.status, said: text });
        }
        serde_json::from_slice(&said.stdout).map_err(|e| start(e.into()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Ended already, or now; either way it is reaped.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
