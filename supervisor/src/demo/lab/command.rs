//! Running the system's tools (`ip`, `nft`, `nsenter`, `docker`) with errors that say
//! what was run and what it answered, and waiting with a bound.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program is missing or may not be run.
    #[error("`{command}` could not be started")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said on stderr, else on stdout.
        said: String,
    },
    /// A file or folder refused.
    #[error("could not {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something did not come about in time.
    #[error("after {seconds} s still waiting for {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long, s.
        seconds: u64,
    },
    /// The radiator has no power, so nothing can run on it.
    #[error("{0} has no power")]
    NoPower(String),
    /// A name that the lab does not know.
    #[error("the lab has no {what} named `{name}`")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// The name given.
        name: String,
    },
    /// A lab of that name is running, or its name is not usable.
    #[error("the lab `{name}` cannot be made: {why}")]
    Refused {
        /// The lab's name.
        name: String,
        /// Why.
        why: String,
    },
}

/// Turns an I/O error into one that names the path.
pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LabError {
    let path = path.to_owned();
    move |source| LabError::File { what, path, source }
}

/// A command line as one would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end, without standard input, and returns what it printed; an exit
/// other than 0 is an error.
pub fn output(command: &mut Command) -> Result<String, LabError> {
    ended(command.stdin(Stdio::null()))
}

/// The same, with the standard input that the command was given.
pub fn ended(command: &mut Command) -> Result<String, LabError> {
    let said = command.output().map_err(|source| LabError::Start { command: line(command), source })?;
    if said.status.success() {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    let text = if said.stderr.is_empty() { &said.stdout } else { &said.stderr };
    let said_text = String::from_utf8_lossy(text).trim().to_owned();
    Err(LabError::Failed { command: line(command), status: said.status, said: said_text })
}

/// Runs a command to its end, whatever its exit.
pub fn finish(command: &mut Command) -> Result<Output, LabError> {
    command.stdin(Stdio::null()).output().map_err(|source| LabError::Start { command: line(command), source })
}

/// Asks again and again until `done` gives a value, for at most `limit`.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<Option<T>, LabError>,
) -> Result<T, LabError> {
    let began = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if began.elapsed() > limit {
            return Err(LabError::Late { what: what.to_owned(), seconds: limit.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_quoted_with_its_command_line() {
        let error = output(Command::new("sh").args(["-c", "echo no such radiator >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("no such radiator") && text.contains('3'), "{text}");
        assert!(matches!(output(&mut Command::new("no-such-tool-here")), Err(LabError::Start { .. })));
    }

    #[test]
    fn waiting_ends_at_its_bound_and_says_for_what() {
        let error = until::<()>(Duration::ZERO, "the engine", || Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "after 0 s still waiting for the engine");
    }
}
