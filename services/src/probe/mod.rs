//! Checks, from outside, that a service does its job: a greeting, a page, Docker's own health
//! check, or a mail sent, received, read back and deleted. Every leg is timed and bounded.

mod http;
pub mod imap;
mod mail;
pub mod mailboxes;

pub use http::page;
pub use mail::{MailProbe, client_config};

use crate::docker::Engine;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What is checked, and how.
#[derive(Debug, Clone)]
pub enum Probe {
    /// A TCP port answers; with `begins`, by itself and with these bytes.
    Greeting {
        /// Port of the container.
        port: u16,
        /// What the server says first; empty: nothing need be said.
        begins: String,
        /// For all of it.
        limit: Duration,
    },
    /// GET over plain HTTP answers 2xx or 3xx.
    Http {
        /// Port of the container.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
        /// For all of it.
        limit: Duration,
    },
    /// Docker's health check.
    Health,
    /// A message goes all the way round.
    Mail(Box<MailProbe>),
}

/// One timed part of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// `connect`, `greeting`, `submit`, `deliver`, `delete`, ...
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// Whether the service does its job; `None`: can't be told.
    pub healthy: Option<bool>,
    /// Legs that were passed.
    pub legs: Vec<Leg>,
    /// Why not, in words; empty when healthy.
    pub trouble: String,
}

impl fmt::Display for Probed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self.healthy {
            Some(true) => "healthy",
            Some(false) => "not healthy",
            None => "unknown",
        };
        f.write_str(said)?;
        if !self.trouble.is_empty() {
            write!(f, ": {}", self.trouble)?;
        }
        for (i, leg) in self.legs.iter().enumerate() {
            let before = if i == 0 { " (" } else { ", " };
            write!(f, "{before}{} {} ms", leg.name, leg.took.as_millis())?;
        }
        if self.legs.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// Collects legs while a probe is under way.
struct Legs {
    passed: Vec<Leg>,
    since: Instant,
}

impl Legs {
    fn new() -> Self {
        Self { passed: Vec::new(), since: Instant::now() }
    }

    fn pass(&mut self, name: &'static str) {
        self.passed.push(Leg { name, took: self.since.elapsed() });
        self.since = Instant::now();
    }

    fn end(self, result: Result<(), String>) -> Probed {
        let trouble = result.err();
        Probed { healthy: Some(trouble.is_none()), legs: self.passed, trouble: trouble.unwrap_or_default() }
    }
}

impl Probe {
    /// Runs it against a service at an address. `engine` is asked only for [`Probe::Health`].
    pub async fn run(&self, service: &ServiceName, address: IpAddr, engine: &Engine) -> Probed {
        match self {
            Self::Health => health(service, engine).await,
            Self::Mail(probe) => probe.run().await,
            Self::Greeting { port, begins, limit } => {
                let mut legs = Legs::new();
                let asked = greeting(SocketAddr::new(address, *port), begins, &mut legs);
                let result = within(*limit, asked).await;
                legs.end(result)
            }
            Self::Http { port, path, limit } => {
                let mut legs = Legs::new();
                let asked = http::get(SocketAddr::new(address, *port), path, &mut legs);
                let result = within(*limit, asked).await;
                legs.end(result)
            }
        }
    }
}

/// Bounds a probe, or a leg of it.
async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(limit, asked).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer in {} s", limit.as_secs_f32())),
    }
}

async fn greeting(address: SocketAddr, begins: &str, legs: &mut Legs) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    legs.pass("connect");
    if begins.is_empty() {
        return Ok(());
    }
    let mut said = vec![0; begins.len()];
    stream.read_exact(&mut said).await.map_err(|e| format!("{address} hung up before its greeting: {e}"))?;
    if said != begins.as_bytes() {
        return Err(format!("{address} greets with {:?}, not {begins:?}", String::from_utf8_lossy(&said)));
    }
    legs.pass("greeting");
    Ok(())
}

async fn health(service: &ServiceName, engine: &Engine) -> Probed {
    let (healthy, trouble) = match engine.find(service).await {
        Ok(Some(found)) if found.running => match found.healthy {
            Some(false) => (Some(false), "its health check fails".to_owned()),
            known => (known, String::new()),
        },
        Ok(Some(found)) => (Some(false), format!("it does not run, exit code {:?}", found.exit_code)),
        Ok(None) => (Some(false), "it has no container here".to_owned()),
        Err(e) => (None, e.to_string()),
    };
    Probed { healthy, legs: Vec::new(), trouble }
}

#[cfg(test)]
mod tests;
