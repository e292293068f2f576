//! What containers say and do: logs, events, use of CPU and memory.

use super::{Engine, EngineError, LABEL_HOME, LABEL_SERVICE};
use bollard::container::LogOutput;
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptions, LogsOptionsBuilder, StatsOptionsBuilder};
use futures::{Stream, StreamExt};
use std::collections::HashMap;
use thermidor_model::ServiceName;

/// One piece of a container's output, mostly a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Whether it came by standard error.
    pub stderr: bool,
    /// The text, without its end of line.
    pub text: String,
}

/// Something a container of this home did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Whose.
    pub service: ServiceName,
    /// `start`, `die`, `oom`, `kill`, `stop`, `destroy` or `health_status: ...`.
    pub action: String,
    /// With `die`.
    pub exit_code: Option<i64>,
}

/// The events that are asked for: Docker's names, and Podman's own for two of them.
const EVENTS: [&str; 9] =
    ["start", "die", "died", "oom", "kill", "stop", "destroy", "remove", "health_status"];

/// What a container has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start, ns.
    pub cpu_ns: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
}

impl Engine {
    /// A container's output: the last `tail` lines (all: `None`), and with `follow` what comes.
    pub async fn logs(
        &self,
        service: &ServiceName,
        follow: bool,
        tail: Option<usize>,
    ) -> Result<impl Stream<Item = Result<LogLine, EngineError>> + Send + use<>, EngineError> {
        let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).follow(follow).tail(&tail).build();
        self.log_lines(service, options).await
    }

    async fn log_lines(
        &self,
        service: &ServiceName,
        options: LogsOptions,
    ) -> Result<impl Stream<Item = Result<LogLine, EngineError>> + Send + use<>, EngineError> {
        let client = self.client().await?;
        let what = format!("read the log of {service}");
        let lines = client.logs(&self.container(service), Some(options));
        Ok(lines.map(move |line| match line {
            Ok(out) => {
                let stderr = matches!(out, LogOutput::StdErr { .. });
                let text =
                    String::from_utf8_lossy(&out.into_bytes()).trim_end_matches(['\r', '\n']).to_owned();
                Ok(LogLine { stderr, text })
            }
            Err(e) => Err(EngineError::from_bollard(&what, e)),
        }))
    }

    /// The last `tail` lines, each after its moment (RFC 3339) and a blank; since a Unix second, if given.
    pub async fn stamped_logs(
        &self,
        service: &ServiceName,
        tail: usize,
        since_s: Option<i32>,
    ) -> Result<impl Stream<Item = Result<LogLine, EngineError>> + Send + use<>, EngineError> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .since(since_s.unwrap_or(0))
            .tail(&tail.to_string())
            .build();
        self.log_lines(service, options).await
    }

    /// What the containers of this home have done since a Unix second, and do from now on. Ends when the engine
    /// does: then list anew.
    pub async fn events(
        &self,
        since_s: u64,
    ) -> Result<impl Stream<Item = Result<ContainerEvent, EngineError>> + Send + use<>, EngineError> {
        let client = self.client().await?;
        let of = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        // Health checks run as `exec_*` events every few seconds: only what matters is asked for.
        let filters = HashMap::from([
            ("label", vec![format!("{LABEL_HOME}={}", self.config.home)]),
            ("type", of(&["container"])),
            ("event", of(&EVENTS)),
        ]);
        let options = EventsOptionsBuilder::default().since(&since_s.to_string()).filters(&filters).build();
        Ok(client.events(Some(options)).filter_map(|event| async move {
            match event {
                Ok(event) => {
                    let mut attributes = event.actor?.attributes?;
                    let service = ServiceName::new(attributes.remove(LABEL_SERVICE)?).ok()?;
                    let code = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode"));
                    let exit_code = code.and_then(|code| code.parse().ok());
                    let action = match event.action? {
                        died if died == "died" => "die".to_owned(),
                        removed if removed == "remove" => "destroy".to_owned(),
                        action => action,
                    };
                    Some(Ok(ContainerEvent { service, action, exit_code }))
                }
                Err(e) => Some(Err(EngineError::from_bollard("follow the events", e))),
            }
        }))
    }

    /// What a running container has used, asked of Docker. The guard and the heat meter read
    /// [`super::Cgroup::cpu_ns`] instead, which costs nothing.
    pub async fn usage(&self, service: &ServiceName) -> Result<Usage, EngineError> {
        let client = self.client().await?;
        let what = format!("measure {service}");
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let mut stats = client.stats(&self.container(service), Some(options));
        let first = async { stats.next().await.transpose() };
        let garbled = || EngineError::Garbled { what: what.clone(), why: "no figures".into() };
        let stats = self.call(&what, self.config.limits.ask, first).await?.ok_or_else(garbled)?;
        let cpu = stats.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage);
        let memory = stats.memory_stats.and_then(|m| m.usage);
        Ok(Usage { cpu_ns: cpu.ok_or_else(garbled)?, memory_bytes: memory.unwrap_or(0) })
    }
}
