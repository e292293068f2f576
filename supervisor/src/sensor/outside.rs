//! Readings from a URL, a command and a file.

use super::{ANSWER_MAX, PLAUSIBLE_C, READ_TIMEOUT, SensorError};
use std::process::Stdio;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt};

type Fresh = Result<(f64, Duration), SensorError>;

/// A client that waits no longer than [`READ_TIMEOUT`].
pub(super) fn client() -> Result<reqwest::Client, SensorError> {
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("somebody else installed the crypto provider just now");
    }
    reqwest::Client::builder().timeout(READ_TIMEOUT).build().map_err(SensorError::Client)
}

/// GETs a URL and takes the number at a dotted path of its JSON.
pub(super) async fn http(client: &reqwest::Client, url: &str, path: &str) -> Fresh {
    let failed = |source: reqwest::Error| match source.is_timeout() {
        true => SensorError::Slow { from: url.to_string() },
        false => SensorError::Http { url: url.to_string(), source: source.without_url() },
    };
    let answer = client.get(url).send().await.and_then(|a| a.error_for_status());
    let mut answer = answer.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(SensorError::Long { from: url.to_string() });
        }
        body.extend_from_slice(&chunk);
    }
    let celsius = at_path(&body, path).and_then(plausible);
    celsius
        .map(|celsius| (celsius, Duration::ZERO))
        .map_err(|why| SensorError::Garbage { from: url.to_string(), why })
}

/// The number at `a.b.0.c`; an empty path: the body is the number.
pub(super) fn at_path(body: &[u8], path: &str) -> Result<f64, String> {
    if path.is_empty() {
        return number(&String::from_utf8_lossy(body));
    }
    let json: serde_json::Value = serde_json::from_slice(body).map_err(|e| format!("no JSON ({e})"))?;
    let mut at = &json;
    for step in path.split('.') {
        let next = match at {
            serde_json::Value::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            other => other.get(step),
        };
        at = next.ok_or_else(|| format!("its JSON has no `{step}` of `{path}`"))?;
    }
    match at {
        serde_json::Value::Number(n) => n.as_f64().ok_or_else(|| format!("`{path}` is too large")),
        serde_json::Value::String(text) => number(text),
        _ => Err(format!("`{path}` is no number")),
    }
}

/// The number that a text begins with.
fn number(text: &str) -> Result<f64, String> {
    let word = text.split_whitespace().next().ok_or("it is empty")?;
    word.parse().map_err(|_| format!("`{}` is no number", word.chars().take(40).collect::<String>()))
}

fn plausible(celsius: f64) -> Result<f64, String> {
    if PLAUSIBLE_C.contains(&celsius) { Ok(celsius) } else { Err(format!("{celsius} °C can't be")) }
}

async fn bounded(from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(ANSWER_MAX as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Runs a command and takes the number that its output begins with.
pub(super) async fn command(argv: &[String]) -> Fresh {
    let name = argv.join(" ");
    let failed = |source| SensorError::Command { command: name.clone(), source };
    let [program, arguments @ ..] = argv else {
        return Err(SensorError::Garbage { from: "command".into(), why: "it names no program".into() });
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed(std::io::Error::other("no pipe to it")));
    };
    // Dropped on time-out, and the child killed with it.
    let work = async {
        let (out, err) = tokio::try_join!(bounded(out), bounded(err))?;
        if out.len() > ANSWER_MAX || err.len() > ANSWER_MAX {
            return Ok(None);
        }
        Ok(Some((out, err, child.wait().await?)))
    };
    let ended: std::io::Result<_> = match tokio::time::timeout(READ_TIMEOUT, work).await {
        Ok(ended) => ended,
        Err(_) => return Err(SensorError::Slow { from: name }),
    };
    let Some((out, err, status)) = ended.map_err(failed)? else {
        return Err(SensorError::Long { from: name });
    };
    if !status.success() {
        let words = String::from_utf8_lossy(&err).lines().next().unwrap_or("it said nothing").to_string();
        return Err(SensorError::Ended { command: name, status, words });
    }
    let celsius = number(&String::from_utf8_lossy(&out)).and_then(plausible);
    celsius.map(|celsius| (celsius, Duration::ZERO)).map_err(|why| SensorError::Garbage { from: name, why })
}

/// Takes the number that a file begins with; the file's modification time dates it.
pub(super) async fn file(path: &str) -> Fresh {
    let failed = |source| SensorError::File { path: path.to_string(), source };
    let work = async {
        let file = tokio::fs::File::open(path).await?;
        let modified = file.metadata().await?.modified()?;
        Ok((bounded(file).await?, modified))
    };
    let read: std::io::Result<_> = match tokio::time::timeout(READ_TIMEOUT, work).await {
        Ok(read) => read,
        Err(_) => return Err(SensorError::Slow { from: path.to_string() }),
    };
    let (bytes, modified) = read.map_err(failed)?;
    if bytes.len() > ANSWER_MAX {
        return Err(SensorError::Long { from: path.to_string() });
    }
    // A file from the future was written before the clock was set: it is as good as new.
    let age = SystemTime::now().duration_since(modified).unwrap_or_default();
    let celsius = number(&String::from_utf8_lossy(&bytes)).and_then(plausible);
    celsius.map(|celsius| (celsius, age)).map_err(|why| SensorError::Garbage { from: path.to_string(), why })
}
