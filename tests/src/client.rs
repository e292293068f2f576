//! Clients of the home, run as processes on the lab's client machine.

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use std::process::{Child, Command, Stdio};
use thermidor_supervisor::demo::lab::Lab;

/// A client at work.
#[derive(Debug)]
pub struct Client(Option<Child>);

impl Client {
    /// Starts one with the arguments of `demo-client`.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::spawn(lab.client(&crate::program("thermidor-lab")?.to_string_lossy()), args, &[])
    }

    /// Starts one with environment beside its arguments.
    pub fn start_with(lab: &Lab, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        Self::spawn(lab.client(&crate::program("thermidor-lab")?.to_string_lossy()), args, env)
    }

    fn spawn(mut command: Command, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        command.arg("demo-client").args(args).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(Some(command.spawn().context("start a client")?)))
    }

    /// Waits until its work is done, and returns its report.
    pub fn report<T: DeserializeOwned>(mut self) -> Result<T> {
        self.finish(false)
    }

    /// Tells it to end, and returns its report.
    pub fn stop<T: DeserializeOwned>(mut self) -> Result<T> {
        self.finish(true)
    }

    fn finish<T: DeserializeOwned>(&mut self, stop: bool) -> Result<T> {
        let mut child = self.0.take().context("a client reports once")?;
        let stdin = child.stdin.take();
        if stop {
            drop(stdin);
        }
        let said = child.wait_with_output()?;
        ensure!(said.status.success(), "the client failed: {}", String::from_utf8_lossy(&said.stderr).trim());
        serde_json::from_slice(&said.stdout).context("read a client's report")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Ended already, or now; either way it is reaped.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
