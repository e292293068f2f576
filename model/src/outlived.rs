//! A home that was recovered elsewhere: what is left of the one before it hears that by a word which only the holder of
//! its recovery kit can have signed. Its services stop, its data stay, and it goes on only if a person says so.

use crate::command::Command;
use crate::name::{HomeName, UnixMs};
use crate::state::State;
use serde::{Deserialize, Serialize};

/// What is known of the generation that came after this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlived {
    /// Its number.
    pub generation: u64,
    /// When it began, by its own clock; 0: it did not say.
    pub since_ms: UnixMs,
    /// Whose vault has handed the word on.
    pub from: HomeName,
    /// When it was heard here.
    pub heard_ms: UnixMs,
    /// When a person said that this home goes on all the same.
    #[serde(default)]
    pub overruled_ms: Option<UnixMs>,
}

/// What a person is told to do, wherever it is told that services are stopped.
const NEXT: &str = "if that was you, let this radiator join it (`thermidor invite` there, `thermidor join TOKEN` here with a \
                    new --data); if it was not, somebody has your recovery kit: run `thermidor resume --kit-was-stolen`";

impl Outlived {
    /// What happened, in a sentence without a stop: whoever shows it says the date as people read it.
    pub fn what(&self, home: &str) -> String {
        format!(
            "{home} was recovered or rescued elsewhere as generation {}, by a word that its own recovery kit has signed \
             and {} has handed on",
            self.generation, self.from
        )
    }

    /// What is to be done.
    pub fn next(&self) -> &'static str {
        NEXT
    }
}

impl State {
    /// The later generation before which this home stands down: none of its services runs.
    pub fn stands_down(&self) -> Option<&Outlived> {
        self.outlived.as_ref().filter(|known| known.overruled_ms.is_none())
    }

    /// Whether a command would have a service run, or is about what runs: of no use to a home that stands down.
    pub(crate) fn is_in_vain(&self, command: &Command) -> bool {
        let places = matches!(
            command,
            Command::Activate { .. }
                | Command::Wish { .. }
                | Command::Declare { .. }
                | Command::Restore { .. }
                | Command::Promote { .. }
                | Command::HoldAddress { to: Some(_), .. }
        );
        places && self.stands_down().is_some()
    }
}
