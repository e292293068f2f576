//! What a service says, wherever it runs: asked of the radiator that has it, a piece at a time, so
//! that a reader who goes on follows the service when it moves.

use super::Context;
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thermidor_model::ServiceName;

/// Most lines of one piece.
pub const LINES_MAX: u32 = 2000;

/// Most bytes of one piece; what is older is left out.
const BYTES_MAX: usize = 4 << 20;

/// How long a piece may be under way.
const PIECE_MAX: Duration = Duration::from_secs(8);

/// Which lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Whose.
    pub service: ServiceName,
    /// The last so many.
    pub tail: u32,
    /// Only those after this moment, as the engine stamps them.
    pub after: Option<String>,
}

/// A line with its moment (RFC 3339, UTC, nanoseconds: in order as text).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// When.
    pub at: String,
    /// What.
    pub text: String,
}

impl Context {
    /// The lines of a service's container on this radiator.
    pub async fn own_lines(&self, asked: &Asked) -> Result<Vec<Stamped>, String> {
        let since_s = asked.after.as_deref().and_then(seconds);
        let tail = asked.tail.min(LINES_MAX) as usize;
        let lines =
            self.engine.stamped_logs(&asked.service, tail, since_s).await.map_err(|e| e.to_string())?;
        let mut lines = Box::pin(lines);
        let mut taken: std::collections::VecDeque<Stamped> = Default::default();
        let mut bytes = 0;
        while let Some(line) = lines.next().await {
            let line = line.map_err(|e| e.to_string())?;
            let Some((at, text)) = line.text.split_once(' ') else { continue };
            if asked.after.as_deref().is_some_and(|after| at <= after) {
                continue;
            }
            bytes += line.text.len();
            taken.push_back(Stamped { at: at.into(), text: text.into() });
            while bytes > BYTES_MAX {
                let Some(oldest) = taken.pop_front() else { break };
                bytes -= oldest.at.len() + oldest.text.len();
            }
        }
        Ok(taken.into())
    }

    /// The same, from whichever radiator has the service.
    pub async fn lines(&self, asked: &Asked) -> Result<Vec<Stamped>, String> {
        let state = self.node.state().borrow().clone();
        let Some(service) = state.services.get(&asked.service) else {
            return Err(format!("there is no service {}: `thermidor service ls` lists them", asked.service));
        };
        let Some(active) = service.active else {
            return Err(format!("{0} runs nowhere: see `thermidor explain {0}`", asked.service));
        };
        if active == self.node.id() {
            return self.own_lines(asked).await;
        }
        let body = serde_json::to_vec(asked).map_err(|e| e.to_string())?;
        let said = self.node.call(active, "logs", body.into(), PIECE_MAX).await;
        let said = said.map_err(|e| format!("{} has it, and does not answer: {e}", state.name_of(active)))?;
        serde_json::from_slice(&said).map_err(|e| e.to_string())
    }
}

/// What another member is answered.
pub async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let asked: Asked = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let lines = context.own_lines(&asked).await?;
    serde_json::to_vec(&lines).map(Bytes::from).map_err(|e| e.to_string())
}

/// Whole seconds of a stamp, Unix.
fn seconds(stamp: &str) -> Option<i32> {
    let at: jiff::Timestamp = stamp.parse().ok()?;
    i32::try_from(at.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_gives_its_second_and_nonsense_none() {
        assert_eq!(seconds("2026-11-26T04:35:10.123456789Z"), Some(1_795_667_710));
        assert_eq!(seconds("yesterday"), None);
    }
}
