//! What people see of the kit and of restores.

use serde::{Deserialize, Serialize};
use thermidor_model::State;
use thermidor_model::friends::{Friend, KitSplit, KitWaits};
use thermidor_model::name::{HomeName, UnixMs};
use thermidor_model::restore::RestoreStage;

/// The recovery kit as `kit print` gets it. A secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct KitPrint {
    /// [`super::view::VERSION`].
    pub version: u32,
    /// The page.
    pub page: String,
    /// The words.
    pub words: Vec<String>,
}

/// The recovery kit in shares, as `kit split` gets it. A secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct KitShares {
    /// [`super::view::VERSION`].
    pub version: u32,
    /// The two words with which each share begins.
    pub split: String,
    /// Shares that give the kit back.
    pub needed: usize,
    /// One page for each person.
    pub pages: Vec<SharePage>,
}

/// One person's page.
#[derive(Clone, Serialize, Deserialize)]
pub struct SharePage {
    /// Whose.
    pub person: String,
    /// Which share it is.
    pub number: u8,
    /// The page.
    pub page: String,
}

/// What is known of the recovery kit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KitLine {
    /// When it was made.
    pub made_ms: UnixMs,
    /// When it was printed last.
    pub printed_ms: Option<UnixMs>,
    /// When a recovery was last tried with it, or done.
    pub rehearsed_ms: Option<UnixMs>,
    /// When it was last split among friends' persons, and how.
    #[serde(default)]
    pub split: Option<KitSplit>,
    /// Friends that still hold to the kit before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<KitWaitLine>,
}

/// A friend whose person must confirm the new kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitWaitLine {
    /// Who.
    pub friend: String,
    /// This home, as it is known there.
    pub home: String,
    /// What must be read there.
    pub words: [String; 4],
    /// When it was told there; `None`: not yet.
    pub announced_ms: Option<UnixMs>,
    /// Whether it lends space: one that does not is never come to, and can't be told.
    pub lends: bool,
}

/// The kit was replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KitReplaced {
    /// [`super::view::VERSION`].
    pub version: u32,
    /// Who must confirm it.
    pub waits: Vec<KitWaitLine>,
}

/// A restore under way, or one whose earlier files are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreLine {
    /// Of which service.
    pub service: String,
    /// From which friend; `None`: whoever has the newest.
    pub from: Option<String>,
    /// Since when.
    pub begun_ms: UnixMs,
    /// `files are brought`, ...
    pub state: String,
    /// Whether the service is held for it.
    pub held: bool,
    /// Whether nothing happens before a person says what becomes of the earlier files.
    pub waits_for_a_person: bool,
    /// Why it does not get on; empty: it does.
    pub trouble: String,
    /// Whether files are brought in this stage.
    #[serde(default)]
    pub brings: bool,
    /// Bytes that are there and all that come, while files are brought and the radiator that does it says so.
    #[serde(default)]
    pub progress: Option<(u64, u64)>,
}

/// What is known of the kit.
pub fn kit_line(state: &State) -> Option<KitLine> {
    let kit = state.kit.as_ref()?;
    Some(KitLine {
        made_ms: kit.made_ms,
        printed_ms: kit.printed_ms,
        rehearsed_ms: kit.rehearsed_ms,
        waits: kit_waits(state),
        split: kit.split,
    })
}

/// Who still holds to the kit before.
pub fn kit_waits(state: &State) -> Vec<KitWaitLine> {
    let home = state.home.as_ref().map(ToString::to_string).unwrap_or_default();
    let waiting = state.kit_change.iter().flat_map(|change| &change.waiting);
    let line = |(friend, waits): (&HomeName, &KitWaits)| KitWaitLine {
        friend: friend.to_string(),
        home: home.clone(),
        words: waits.words.clone(),
        announced_ms: waits.announced_ms,
        lends: state.friends.get(friend).is_some_and(|known| !known.identity.addresses.is_empty()),
    };
    waiting.map(line).collect()
}

/// Friends that say to have another kit: nothing changes before a person has asked.
pub fn kit_claims(state: &State) -> Vec<String> {
    let claim = |(home, friend): (&HomeName, &Friend)| match friend.kit_claims.len() {
        0 => None,
        1 => Some(format!(
            "{home} says that its recovery kit was replaced: ask its person, not by mail, then `thermidor friend confirm {home}`"
        )),
        count => Some(format!(
            "{home} says to have {count} different new kits: somebody has found its old paper; ask its person, not by mail, \
             then `thermidor friend confirm {home}`"
        )),
    };
    state.friends.iter().filter_map(claim).collect()
}

/// What is to be done about a friend that holds to the kit before.
pub fn kit_wait_words(line: &KitWaitLine) -> String {
    let KitWaitLine { friend, home, words, announced_ms, lends } = line;
    if !lends {
        return format!(
            "{friend} holds to the old kit and lends nothing where it could be told of the new one: `thermidor friend \
             rm` in both homes, then pair anew"
        );
    }
    let told = if announced_ms.is_some() { "" } else { " (it is not told yet: it has not been reached)" };
    format!(
        "{friend} must confirm the new kit{told}: its person runs `thermidor friend confirm {home}` and must read: {}",
        words.join(" ")
    )
}

/// All restores.
pub fn restore_lines(state: &State) -> Vec<RestoreLine> {
    let line = |(service, restore): (&thermidor_model::ServiceName, &thermidor_model::restore::Restore)| {
        RestoreLine {
            service: service.to_string(),
            from: restore.wish.from.as_ref().map(ToString::to_string),
            begun_ms: restore.begun_ms,
            state: words_of(restore.stage).into(),
            held: restore.stage.holds(),
            waits_for_a_person: restore.stage == RestoreStage::Swapped,
            trouble: restore.trouble.clone(),
            brings: matches!(restore.stage, RestoreStage::Filling { .. }),
            progress: None,
        }
    };
    state.restores.iter().map(line).collect()
}

fn words_of(stage: RestoreStage) -> &'static str {
    match stage {
        RestoreStage::Filling { held: true } => "its files are brought, it starts then",
        RestoreStage::Filling { held: false } => "its files are brought while it runs",
        RestoreStage::Merging => "files are merged",
        RestoreStage::Swapping => "files are swapped",
        RestoreStage::Swapped => "done; the earlier files are kept (`restore --keep` or `--undo`)",
        RestoreStage::Undoing => "the earlier files are put back",
        RestoreStage::Cleaning => "what is not wanted any more is removed",
    }
}

/// The stage in words, and what is in its way.
pub fn stage_words(line: &RestoreLine) -> String {
    let from = line.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
    let trouble = if line.trouble.is_empty() { String::new() } else { format!("; {}", line.trouble) };
    format!("restore of {}{from}: {}{trouble}", line.service, line.state)
}

/// What `status` says of them.
pub fn restore_words(line: &RestoreLine) -> String {
    match line.progress {
        Some((done, total)) if line.trouble.is_empty() => {
            format!("{}, {}", stage_words(line), progress_words(done, total))
        }
        _ => stage_words(line),
    }
}

/// `37 %, 1.2 GiB of 3.2 GiB`. Only what is compared too is all of it.
pub fn progress_words(done: u64, total: u64) -> String {
    let percent = (u128::from(done) * 100 / u128::from(total.max(1))).min(99);
    format!("{percent} %, {} of {}", crate::cli::bytes(done), crate::cli::bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::restore::{Restore, RestoreWish};
    use thermidor_model::testing::{mail, serving_home};

    #[test]
    fn a_restore_says_how_far_it_is_while_files_are_brought() {
        let mut state = serving_home(3, 2);
        let restore = Restore {
            number: 1,
            wish: RestoreWish { from: None, snapshot: None, as_of_s: None, path: None },
            stage: RestoreStage::Filling { held: false },
            begun_ms: 5,
            turn: 0,
            trouble: String::new(),
        };
        state.restores.insert(mail(), restore);
        let mut line = restore_lines(&state).remove(0);
        assert_eq!((line.brings, line.progress), (true, None));
        assert_eq!(restore_words(&line), "restore of mail: its files are brought while it runs");
        line.progress = Some((3 << 29, 4 << 30));
        assert_eq!(
            restore_words(&line),
            "restore of mail: its files are brought while it runs, 37 %, 1.5 GiB of 4.0 GiB"
        );
        assert_eq!(
            serde_json::to_value(&line).unwrap()["progress"],
            serde_json::json!([3u64 << 29, 4u64 << 30])
        );
        // One that rests because of a trouble brings nothing.
        line.trouble = "alice can't be reached".into();
        assert!(!restore_words(&line).contains('%'), "{}", restore_words(&line));
        assert_eq!(progress_words(0, 0), "0 %, 0 B of 0 B");
        assert_eq!(progress_words(9, 9), "99 %, 9 B of 9 B", "it is compared yet");
        state.restores.get_mut(&mail()).unwrap().stage = RestoreStage::Merging;
        assert!(!restore_lines(&state)[0].brings);
    }
}
