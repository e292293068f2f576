//! The CLI's side of the socket.

use super::{Refused, Reply, Request};
use crate::paths::Paths;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an order may take before the CLI says that it goes on in the home.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Asks once.
pub fn ask(paths: &Paths, request: &Request) -> Result<serde_json::Value, Refused> {
    let mut value = None;
    follow(paths, request, Some(ANSWER_MAX), |reply| {
        if let Reply::Ok(v) = reply {
            value = Some(v);
        }
        true
    })?;
    value.ok_or_else(|| {
        Refused::because("the daemon hung up without an answer: see `journalctl -u thermidor`")
    })
}

/// Asks once, and reads the answer as what it should be.
pub fn ask_for<T: serde::de::DeserializeOwned>(paths: &Paths, request: &Request) -> Result<T, Refused> {
    let value = ask(paths, request)?;
    serde_json::from_value(value)
        .map_err(|e| Refused::because(format!("the daemon is of another version than this command: {e}")))
}

/// Asks, and hands over every reply until the daemon ends or `more` says no.
pub fn follow(
    paths: &Paths,
    request: &Request,
    silent_max: Option<Duration>,
    mut more: impl FnMut(Reply) -> bool,
) -> Result<(), Refused> {
    let socket = paths.api_socket();
    let mut stream = UnixStream::connect(&socket).map_err(|e| {
        let what = socket.display();
        Refused::because(format!(
            "no daemon answers at {what} ({e}): start it with `thermidor run`, or give --data"
        ))
    })?;
    let broken = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            Refused::because("no answer yet; it may go on in the home: watch `thermidor status`")
        }
        _ => Refused::because(format!("the daemon hung up: {e}")),
    };
    stream.set_read_timeout(silent_max).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(|e| Refused::because(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    for line in BufReader::new(stream).lines() {
        let reply: Reply = serde_json::from_str(&line.map_err(broken)?).map_err(|e| {
            Refused::because(format!("the daemon is of another version than this command: {e}"))
        })?;
        match reply {
            Reply::Refused(refused) => return Err(refused),
            reply => {
                if !more(reply) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
