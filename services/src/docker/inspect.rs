//! Reads what an engine knows of containers, taking no more of its answers than is used here: Docker's
//! client library refuses whole answers for a word it does not know, such as Podman's `stopped`.

use super::{Engine, EngineError, LABEL_HOME, LABEL_SERVICE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use thermidor_model::ServiceName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// What is read of an answer at most, bytes.
const ANSWER_MAX: u64 = 16 << 20;

/// A container, as its engine tells it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    pub id: String,
    /// Its image's id.
    pub image: String,
    pub config: Config,
    pub state: State,
    pub network_settings: Networks,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    pub labels: Option<HashMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub running: bool,
    /// 0: none.
    pub pid: i64,
    pub exit_code: i64,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub started_at: Option<String>,
    pub error: Option<String>,
    pub health: Option<Health>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    pub status: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Networks {
    pub networks: Option<HashMap<String, Network>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Network {
    #[serde(rename = "IPAddress")]
    pub ip_address: Option<String>,
}

impl Inspected {
    pub(super) fn label(&self, name: &str) -> Option<&String> {
        self.config.labels.as_ref()?.get(name)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    pub id: String,
    labels: Option<HashMap<String, String>>,
}

/// How engines say no.
#[derive(Debug, Deserialize)]
struct Said {
    message: String,
}

impl Engine {
    /// A service's container; `None`: it has none here.
    pub(super) async fn inspect(&self, service: &ServiceName) -> Result<Option<Inspected>, EngineError> {
        self.inspect_named(&self.container(service)).await
    }

    /// The container of that name, whatever it is for.
    pub(super) async fn inspect_named(&self, name: &str) -> Result<Option<Inspected>, EngineError> {
        match self.get(&format!("look at {name}"), &format!("/containers/{name}/json")).await {
            Ok(inspected) => Ok(Some(inspected)),
            Err(e) if e.is_status(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The services that have a container of this home here, sorted.
    pub(super) async fn services(&self) -> Result<Vec<ServiceName>, EngineError> {
        let listed = self.labelled(LABEL_HOME).await?;
        let mut services: Vec<ServiceName> = listed
            .into_iter()
            .filter_map(|c| c.labels?.remove(LABEL_SERVICE))
            .filter_map(|name| ServiceName::new(name).ok())
            .collect();
        services.sort();
        Ok(services)
    }

    /// The containers that bear this home's name under a label, running or not.
    pub(super) async fn labelled(&self, label: &str) -> Result<Vec<Listed>, EngineError> {
        let filters = serde_json::json!({ "label": [format!("{label}={}", self.config.home)] });
        let path = format!("/containers/json?all=true&filters={}", quoted(&filters.to_string()));
        self.get("list containers", &path).await
    }

    async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, EngineError> {
        let version = self.client().await?.client_version();
        let path = format!("/v{}.{}{path}", version.major_version, version.minor_version);
        let limit = self.config.limits.ask;
        let asked = tokio::time::timeout(limit, ask(&self.config.socket, &path)).await;
        let slow = |_| EngineError::Slow { what: what.to_owned(), limit };
        let gone = |e: io::Error| EngineError::Gone { what: what.to_owned(), why: e.to_string() };
        let answer = asked.map_err(slow)?.map_err(gone)?;
        read(what, &answer)
    }
}

/// One GET; the whole answer. In version 1.0, whose answers end with the connection and come in one piece.
async fn ask(socket: &std::path::Path, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

fn read<T: DeserializeOwned>(what: &str, answer: &[u8]) -> Result<T, EngineError> {
    let garbled = |why: String| EngineError::Garbled { what: what.to_owned(), why };
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or_else(|| garbled("it is no answer by HTTP".into()))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let body = &answer[end + 4..];
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    match status.ok_or_else(|| garbled("it has no status".into()))? {
        200 => serde_json::from_slice(body).map_err(|e| garbled(e.to_string())),
        status => {
            let why = serde_json::from_slice(body).map(|said: Said| said.message);
            let why = why.unwrap_or_else(|_| String::from_utf8_lossy(body).trim().to_owned());
            Err(EngineError::Refused { what: what.to_owned(), status, why })
        }
    }
}

/// As a part of an address.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(byte as char);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> Result<Inspected, EngineError> {
        read("look at mail", format!("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{body}").as_bytes())
    }

    #[test]
    fn a_word_that_nobody_knows_does_not_hide_a_container() {
        let podman = r#"{"Id":"1","State":{"Status":"stopped","Running":false,"Pid":0,"ExitCode":3,
            "OOMKilled":false,"StartedAt":"2026-11-26T07:00:00Z","Error":"","Health":null},
            "Config":{"Labels":{"thermidor.home":"maison"}},
            "NetworkSettings":{"Networks":{"podman":{"IPAddress":"10.88.0.2"}}}}"#;
        let inspected = told(podman).unwrap();
        assert_eq!((inspected.id.as_str(), inspected.state.exit_code), ("1", 3));
        assert_eq!(inspected.label("thermidor.home").unwrap(), "maison");
        let bare =
            told(r#"{"Id":"1","Config":{"Labels":null},"NetworkSettings":{"Networks":null}}"#).unwrap();
        assert!(!bare.state.running && bare.label("thermidor.home").is_none());
    }

    #[test]
    fn a_no_and_nonsense_are_told_apart() {
        let no = b"HTTP/1.0 404 Not Found\r\n\r\n{\"cause\":\"x\",\"message\":\"no such container\"}";
        let no = read::<Inspected>("look at mail", no).unwrap_err();
        assert_eq!(no.to_string(), "Docker refused to look at mail: no such container (status 404)");
        for nonsense in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n{", "HTTP/1.1 200 OK\r\n"] {
            let error = read::<Inspected>("look at mail", nonsense.as_bytes()).unwrap_err();
            assert!(matches!(error, EngineError::Garbled { .. }), "{nonsense:?}: {error}");
        }
        assert_eq!(quoted("{\"a\":[\"b=c\"]}"), "%7B%22a%22%3A%5B%22b%3Dc%22%5D%7D");
    }
}
