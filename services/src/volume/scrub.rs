//! The search for bit rot in a volume process: what the protocol's machine wants of this radiator, and where how far
//! it is is kept between two lives of the process.

use super::active::{Arrived, bring};
use super::control::Refused;
use super::leading::Owner;
use super::roles::{Process, Role, lock};
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use thermidor_model::NodeId;
use thermidor_model::replication::scrub::Record;
use thermidor_model::replication::{Event, Fetched};

/// A record as kept: a version, then itself.
const VERSION: u32 = 1;
/// How long the machine may take to begin what was asked.
const BEGIN_MAX: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// Keeps how far it is. Should that fail, the next active begins further back.
pub fn note(path: &Path, record: &Record) {
    let made = path.with_extension("new");
    let written = serde_json::to_vec(&(VERSION, record))
        .map_err(io::Error::other)
        .and_then(|text| std::fs::write(&made, text))
        .and_then(|()| std::fs::rename(&made, path));
    if let Err(e) = written {
        tracing::warn!(error = %e, "how far the search for bit rot is could not be kept");
    }
}

/// How far it was. Nothing readable there: it begins.
pub fn noted(path: &Path) -> Record {
    let read = std::fs::read(path).and_then(|text| {
        let (version, record): (u32, serde_json::Value) = serde_json::from_slice(&text)?;
        if version != VERSION {
            return Err(io::Error::other(format!("version {version}")));
        }
        Ok(serde_json::from_value(record)?)
    });
    match read {
        Ok(record) => record,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!(error = %e, "how far the search for bit rot was cannot be read");
            }
            Record::default()
        }
    }
}

impl Owner {
    /// From where a record says.
    pub(super) fn begin_to_scrub(&mut self, record: Record) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let pace = self.pace;
        self.handle([Event::Scrub { record, pace, wall_ms: since.as_millis() as u64 }]);
    }

    pub(super) fn read_extent(&self, extent: u64) {
        let (entrance, from) = (self.entrance.clone(), self.node);
        self.disk.read_extent(extent, move |read| {
            bring(&entrance, Arrived::Fetched { from, extent, payload: read.ok().map(Bytes::from) });
        });
    }

    /// Bytes to write anew are held like those of the kernel's requests; nobody waits for their answer.
    pub(super) fn fetched(&mut self, from: NodeId, extent: u64, payload: Option<Bytes>) {
        let hash = payload.as_ref().map(|bytes| *blake3::hash(bytes).as_bytes());
        let request = self.await_answer(payload.unwrap_or_default(), Box::new(drop));
        self.handle([Event::Fetched(Fetched { request, from, extent, hash })]);
    }
}

impl Process {
    /// Has all replicas compared now; the number of the pass.
    pub(super) async fn check(&self) -> Result<u64, Refused> {
        let active = match &lock(&self.state).role {
            Role::Active { active, .. } => active.clone(),
            _ => return Err(Refused::NotActive("its device is not attached here".into())),
        };
        let begun = |view: &super::active::View| {
            view.examination.as_ref().map_or((0, false), |e| (e.pass, e.running && e.asked))
        };
        let (before, goes_on) = begun(&active.view());
        if goes_on {
            return Ok(before);
        }
        let queue = active.clone();
        super::roles::blocking(move || queue.tell(Event::Check)).await;
        let since = tokio::time::Instant::now();
        while since.elapsed() < BEGIN_MAX {
            let view = active.view();
            let (pass, _) = begun(&view);
            if pass > before {
                return Ok(pass);
            }
            if let Some(why) = view.fenced {
                return Err(Refused::Failed(why));
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Refused::Failed("the comparison did not begin".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_survives_and_nonsense_is_a_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scrub");
        assert_eq!(noted(&path), Record::default());
        let record = Record { pass: 4, running: true, next: 17, ..Record::default() };
        note(&path, &record);
        assert_eq!(noted(&path), record);
        for nonsense in ["", "{}", "[2,{}]"] {
            std::fs::write(&path, nonsense).unwrap();
            assert_eq!(noted(&path), Record::default(), "{nonsense}");
        }
    }
}
