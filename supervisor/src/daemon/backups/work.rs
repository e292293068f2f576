//! One subject, one task, some friends: the source is frozen once, the friends are served side by side, and one that
//! fails holds no other up.

use super::stage::Stage;
use super::{Running, drill};
use crate::clock::unix_ms;
use crate::daemon::way::Door;
use crate::daemon::{Context, within};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thermidor_backup::line::{DialError, Failed};
use thermidor_backup::restic::{Keep, Progress, Restic};
use thermidor_backup::round::Round;
use thermidor_backup::schedule::Task;
use thermidor_model::backup::{Failure, Passes, Record, Subject};
use thermidor_model::name::HomeName;
use thermidor_model::state::State;
use thermidor_model::{Command, Outcome};
use tokio::sync::watch;

/// How long noting what came of it may take: without a majority it is tried again until there is one.
const NOTE_MAX: Duration = Duration::from_secs(10);
/// How often.
const NOTES_MAX: u32 = 30;
/// How long what was noted may take to be seen here: who decides anew before that would do it once more.
const SEEN_MAX: Duration = Duration::from_secs(5);

/// How often old snapshots are looked for, ms.
const TIDY_EVERY: u64 = 24 * 3_600_000;

/// What is to be done.
pub struct Work {
    subject: Subject,
    task: Task,
    friends: BTreeMap<HomeName, watch::Sender<Progress>>,
    desk: super::Desk,
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        for friend in self.friends.keys() {
            inner.running.remove(&(self.subject.clone(), friend.clone()));
        }
    }
}

impl Work {
    /// Takes note that it is being done, from now on.
    pub fn begin(context: &Context, subject: Subject, task: Task, friends: BTreeSet<HomeName>) -> Self {
        let desk = context.backups.clone();
        let friends: BTreeMap<_, _> =
            friends.into_iter().map(|friend| (friend, watch::Sender::new(Progress::default()))).collect();
        let mut inner = desk.lock();
        for (friend, progress) in &friends {
            let pair = (subject.clone(), friend.clone());
            inner.ordered.remove(&pair);
            inner.running.insert(pair, Running { task, progress: progress.subscribe() });
        }
        drop(inner);
        Self { subject, task, friends, desk }
    }

    /// Does it, and has the home take note of what came of it.
    pub async fn run(self, context: &Context, state: &State) {
        let done = match self.prepared(context, state).await {
            Ok(prepared) => prepared,
            Err(e) => {
                let why = format!("{e:#}");
                tracing::warn!(subject = %self.subject, "no backup can be begun: {why}");
                for friend in self.friends.keys() {
                    let was = self.known(state, friend);
                    self.note(context, friend, &was, failed(&was, Passes::ByItself, why.clone())).await;
                }
                return;
            }
        };
        let (restic, stage) = done;
        let with = With { work: &self, context, state, restic, stage: stage.as_ref() };
        let all = self.friends.iter().map(|(friend, progress)| with.serve(friend, progress));
        futures::future::join_all(all).await;
        if let Some(stage) = stage {
            stage.give_back().await;
        }
    }

    fn known(&self, state: &State, friend: &HomeName) -> Record {
        let records = state.backups.get(&self.subject);
        records.and_then(|records| records.get(friend)).cloned().unwrap_or_default()
    }

    async fn prepared(&self, context: &Context, state: &State) -> anyhow::Result<(&Restic, Option<Stage>)> {
        anyhow::ensure!(state.kit.is_some(), "the home has no recovery kit: run `thermidor kit print`");
        let restic = self.desk.restic(context).await?;
        // Friends that hold to different kits are served one after the other.
        let before = self.friends.keys().any(|friend| state.holds_to_kit_before(friend));
        let stage = match self.task {
            Task::Backup => Some(Stage::take(context, state, &self.subject, before).await?),
            Task::Prove | Task::Drill | Task::Ask => None,
        };
        Ok((restic, stage))
    }

    async fn note(&self, context: &Context, friend: &HomeName, was: &Record, record: Record) {
        let ended = (unix_ms(), came_to(self.task, was, &record).map(|failure| failure.why.clone()));
        self.desk.lock().ended.insert((self.subject.clone(), friend.clone()), ended);
        if record == *was {
            return;
        }
        for _ in 0..NOTES_MAX {
            let command = Command::NoteBackup {
                subject: self.subject.clone(),
                friend: friend.clone(),
                was: Box::new(was.clone()),
                record: Box::new(record.clone()),
            };
            match context.node.propose(command, within(NOTE_MAX)).await {
                Ok(Outcome::Refused(why)) => {
                    // Noted before its answer was lost, or the friend was removed meanwhile.
                    tracing::info!(subject = %self.subject, %friend, "what came of a backup is not noted: {why}");
                    return;
                }
                Ok(_) => return self.seen(context, friend, was).await,
                Err(e) => {
                    tracing::warn!(subject = %self.subject, %friend, "what came of a backup is not noted yet: {e}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Waits until this radiator has applied what the home has taken note of.
    async fn seen(&self, context: &Context, friend: &HomeName, was: &Record) {
        let mut applied = context.node.state();
        let seen = applied.wait_for(|state| self.known(state, friend) != *was);
        match tokio::time::timeout(SEEN_MAX, seen).await {
            // Seen, or the daemon ends.
            Ok(_) => {}
            Err(_) => {
                tracing::info!(subject = %self.subject, %friend, "what came of a backup is noted, not here yet")
            }
        }
    }
}

/// A work with all that it needs.
struct With<'a> {
    work: &'a Work,
    context: &'a Context,
    state: &'a State,
    restic: &'a Restic,
    stage: Option<&'a Stage>,
}

impl With<'_> {
    async fn serve(&self, friend: &HomeName, progress: &watch::Sender<Progress>) {
        let (subject, task) = (&self.work.subject, self.work.task);
        let was = self.work.known(self.state, friend);
        let record = self.at(friend, &was, progress).await;
        match came_to(task, &was, &record) {
            None => tracing::info!(%subject, %friend, ?task, "done"),
            Some(failure) => tracing::warn!(%subject, %friend, ?task, "{}", failure.why),
        }
        self.work.note(self.context, friend, &was, record).await;
    }

    async fn carried_out(
        &self,
        round: &Round<'_>,
        door: &Door,
        was: &Record,
        progress: &watch::Sender<Progress>,
    ) -> Record {
        let (context, state, work) = (self.context, self.state, self.work);
        match self.stage {
            Some(stage) => {
                let me = context.node.id();
                let mut record = round.back_up(&stage.dir, stage.taken, was, me, unix_ms, progress).await;
                let is_untidy = record.tidied.is_none_or(|at| unix_ms().saturating_sub(at) >= TIDY_EVERY);
                if record.failure.is_none() && is_untidy {
                    record = round.tidy(&Keep::default(), &record, unix_ms).await;
                }
                if record.failure.is_none() {
                    record = round.let_go_of_old_keys(&record, unix_ms).await;
                }
                if work.subject == Subject::HomeItself && record.made == Some(stage.taken) {
                    record.content = Some(super::content(state));
                }
                record
            }
            None if work.task == Task::Drill => drill::run(context, state, round, door, was).await,
            None if work.task == Task::Ask => round.ask(was, unix_ms).await,
            None => round.prove(was, unix_ms).await,
        }
    }

    async fn at(&self, friend: &HomeName, was: &Record, progress: &watch::Sender<Progress>) -> Record {
        let (context, state, work) = (self.context, self.state, self.work);
        let Some(home) = state.home.clone() else { return was.clone() };
        let door = match context.door_to(friend).await {
            Ok(door) => door,
            Err(e) => {
                // Perhaps this home was recovered elsewhere: the friend has a word for that.
                if e.downcast_ref::<DialError>().is_some_and(|e| e.refusal().is_some()) {
                    context.refused.notify_one();
                }
                return failed(was, passes_of(&e), format!("{e:#}"));
            }
        };
        if work.task == Task::Backup && door.read_only {
            let why = format!(
                "{friend} takes nothing before its person has confirmed this home's generation {}: there, \
                 `thermidor friend confirm {home}`",
                state.generation
            );
            return failed(was, Passes::ByItself, why);
        }
        let round = Round {
            restic: self.restic,
            at: door.at(),
            kit: &door.kit,
            home,
            generation: state.generation,
            vault: friend.clone(),
            subject: work.subject.clone(),
            challenges: super::challenges(&context.paths.data, &work.subject, friend),
        };
        let mut record = tokio::select! {
            record = self.carried_out(&round, &door, was, progress) => record,
            // restic would try again for minutes what can't get better by that.
            why = door.refused() => {
                context.refused.notify_one();
                return failed(was, Passes::ByAPerson, why);
            }
        };
        if work.task == Task::Drill {
            return record;
        }
        // What restic calls unreachable, in the words of whoever was dialed.
        if let (Some(failure), Some(trouble)) = (&mut record.failure, door.trouble())
            && failure.passes == Passes::ByItself
        {
            failure.why = trouble;
        }
        record
    }
}

/// Whether a door that stays shut opens by itself: a friend that is away comes back, one whose person has not confirmed yet
/// does so in time; one that says no in words, or shows another key, is to be asked.
fn passes_of(error: &anyhow::Error) -> Passes {
    let says_no = |failed: &Failed| matches!(failed, Failed::Stranger | Failed::Refused(_));
    match error.downcast_ref::<DialError>() {
        Some(DialError(all)) if all.iter().any(|(_, failed)| says_no(failed)) => Passes::ByAPerson,
        _ => Passes::ByItself,
    }
}

fn failed(was: &Record, passes: Passes, why: String) -> Record {
    let failure = Failure::next(was.failure.as_ref(), unix_ms(), passes, why);
    Record { failure: Some(failure), ..was.clone() }
}

/// Why a task failed, if it did. A restore that was tried says so beside the backups; whoever was not reached at all
/// is a trouble of both.
fn came_to<'a>(task: Task, was: &Record, record: &'a Record) -> Option<&'a Failure> {
    match task {
        Task::Drill if record.failure == was.failure => record.drill.as_ref()?.failure.as_ref(),
        _ => record.failure.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    #[test]
    fn an_old_failure_of_a_backup_is_none_of_a_restore_that_was_tried() {
        let was = failed(&Record::default(), Passes::ByAPerson, "the vault is full".into());
        let well = was.after_drill(Default::default(), None, 1);
        assert_eq!(came_to(Task::Drill, &was, &well), None);
        assert_eq!(came_to(Task::Backup, &was, &well).unwrap().why, "the vault is full");
        let short = was.after_drill(Default::default(), Some((Passes::ByAPerson, "3 of 57".into())), 1);
        assert_eq!(came_to(Task::Drill, &was, &short).unwrap().why, "3 of 57");
        let away = failed(&was, Passes::ByItself, "nobody answers".into());
        assert_eq!(came_to(Task::Drill, &was, &away).unwrap().why, "nobody answers");
    }

    #[test]
    fn a_friend_that_is_away_is_waited_for_and_one_that_says_no_is_a_persons_matter() {
        let door = |failed: Failed| anyhow::Error::from(DialError(vec![("alice".into(), failed)]));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(passes_of(&door(Failed::Unreachable(refused))), Passes::ByItself);
        assert_eq!(passes_of(&door(Failed::Silent(Duration::from_secs(1)))), Passes::ByItself);
        assert_eq!(passes_of(&door(Failed::NotKnown)), Passes::ByItself);
        assert_eq!(passes_of(&door(Failed::Stranger)), Passes::ByAPerson);
        assert_eq!(passes_of(&anyhow::anyhow!("the home has no recovery kit")), Passes::ByItself);
    }
}
