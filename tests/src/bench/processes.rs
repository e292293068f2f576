//! Processes that a group starts: killed when it ends, however it ends.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that lives no longer than this value, nor than this program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts it; what it says goes to a file.
    ///
    /// The kernel kills it when the thread that started it ends: start it from one that stays.
    pub fn start<'a>(
        program: &Path,
        args: impl IntoIterator<Item = &'a str>,
        env: &[(&str, &OsStr)],
        log: &Path,
    ) -> Result<Self> {
        let say = || File::options().create(true).append(true).open(log).context("open its log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(say()?).stderr(say()?);
        let what = format!("{}, which says why in {}", program.display(), log.display());
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, what })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error where it has ended.
    pub fn runs(&mut self) -> Result<()> {
        let ended = self.child.try_wait().context("look after a process")?;
        ensure!(ended.is_none(), "ended by itself: {}", self.what);
        Ok(())
    }

    /// Kills it (-9) and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context("kill a process")?;
        self.child.wait().context("wait for a killed process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or now; either way it is reaped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
