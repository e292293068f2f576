//! A kit that was replaced comes to the friends: what lies there is made to open with the new one, the new one is announced,
//! and once a friend's person has confirmed it, what was signed is signed anew and the old one is let go of.

use super::backups::{backs_home_up, challenges, subjects_at};
use super::way::{Door, pin_of};
use super::{Context, within};
use crate::clock::unix_ms;
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_backup::generations::Between;
use thermidor_backup::kit::Kit;
use thermidor_backup::kit_change::Announcement;
use thermidor_backup::line::{ToVault, dial_vault};
use thermidor_backup::restic::Restic;
use thermidor_backup::round::Round;
use thermidor_backup::vault::{Visit, VisitError};
use thermidor_model::backup::{Failure, Subject};
use thermidor_model::friends::{Friend, PublicKey};
use thermidor_model::name::HomeName;
use thermidor_model::state::State;
use thermidor_model::{Command, Outcome};
use tracing::{debug, info, warn};

/// Between two looks at whether a kit was replaced, and at whether a friend has confirmed it; the latter doubles. What a
/// friend's vault was told it forgets with its process, so it is told each time.
const SOON: Duration = Duration::from_secs(5);
/// No longer than that.
const SOON_MAX: Duration = Duration::from_secs(60);
/// How long each address of a friend may take.
const DIAL_MAX: Duration = Duration::from_secs(15);
/// How long the vault may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a command may take.
const PROPOSE_MAX: Duration = Duration::from_secs(10);

/// Repositories that are known to open with a new kit, by its key.
type Admitted = BTreeSet<(HomeName, Subject, PublicKey)>;

/// A kit on its way to a friend.
struct Change<'a> {
    context: &'a Context,
    restic: &'a Restic,
    state: &'a State,
    home: HomeName,
    before: &'a Kit,
    new: &'a Kit,
    key: PublicKey,
}

/// Runs as long as the daemon.
pub async fn run(context: Context) {
    let mut admitted = Admitted::new();
    let mut wait = SOON;
    loop {
        tokio::time::sleep(wait).await;
        let state = context.node.state().borrow().clone();
        if state.kit_change.is_none() || state.stands_down().is_some() {
            admitted.clear();
            wait = SOON;
            continue;
        }
        wait = (wait * 2).min(SOON_MAX);
        let leader = context.node.leadership().borrow().leader;
        // One radiator speaks for the home, the one that backs it up.
        if backs_home_up(&state, leader) == Some(context.node.id())
            && let Err(e) = context.bring_kit_to_friends(&state, &mut admitted).await
        {
            warn!("the new recovery kit comes to no friend: {e:#}");
        }
    }
}

impl Context {
    async fn bring_kit_to_friends(&self, state: &State, admitted: &mut Admitted) -> anyhow::Result<()> {
        let (Some(new), Some(before)) = (self.kit()?, self.kit_before(state)?) else { return Ok(()) };
        let key = PublicKey(new.signer()?.public().0);
        // It was replaced once more since this state was read.
        if state.kit.as_ref().map(|kit| kit.key) != Some(key) {
            return Ok(());
        }
        let home = state.home.clone().context("this home is not founded yet")?;
        let restic = self.backups.restic(self).await?;
        let change = Change { context: self, restic, state, home, before: &before, new: &new, key };
        let waiting = state.kit_change.iter().flat_map(|change| change.waiting.keys());
        for friend in waiting {
            let Some(known) = state.friends.get(friend).filter(|known| known.lends()) else { continue };
            if let Err(e) = change.come_to(friend, known, admitted).await {
                info!(%friend, "the new recovery kit is still on its way there: {e:#}");
            }
        }
        Ok(())
    }
}

impl Change<'_> {
    /// Hands over where the friend believes in the new kit; where it does not, makes ready and tells it.
    async fn come_to(
        &self,
        friend: &HomeName,
        known: &Friend,
        admitted: &mut Admitted,
    ) -> anyhow::Result<()> {
        match self.dial(known, self.new).await {
            Ok(to) => {
                anyhow::ensure!(!to.welcome.read_only, "it takes nothing from this generation yet");
                return self.hand_over(friend).await;
            }
            Err(e) => debug!(%friend, "it does not believe in the new kit yet: {e:#}"),
        }
        let to = self.dial(known, self.before).await?;
        anyhow::ensure!(!to.welcome.read_only, "it takes nothing from this generation yet");
        // Who has the new paper alone can read there from the moment in which it is confirmed. A vault that is full, say,
        // must not hold up the word that a paper was stolen.
        if let Err(e) = self.admit_all(friend, self.before, admitted).await {
            warn!(%friend, "what lies there does not open with the new recovery kit yet: {e:#}");
        }
        self.announce(friend, to).await
    }

    async fn dial(&self, known: &Friend, kit: &Kit) -> anyhow::Result<ToVault> {
        let own = self.context.own_on_the_line(kit, self.state)?;
        Ok(dial_vault(&known.identity.addresses, &own, pin_of(known), DIAL_MAX).await?)
    }

    async fn announce(&self, friend: &HomeName, to: ToVault) -> anyhow::Result<()> {
        let between = Between { home: self.home.clone(), vault: friend.clone() };
        let said = Announcement::sign(self.before, self.new, &between, self.state.generation)?;
        let mut visit = Visit::begin(to.stream, self.home.clone(), friend.clone(), None, PATIENCE).await?;
        match visit.announce_kit(&said).await {
            Ok(()) => {}
            Err(VisitError::Refused { status, .. }) if status.as_u16() == 404 => {
                anyhow::bail!(
                    "its program is of before kits could be replaced: its person must install a newer one"
                );
            }
            Err(e) => return Err(e.into()),
        }
        let waits = self.state.kit_change.as_ref().and_then(|change| change.waiting.get(friend));
        if waits.is_some_and(|waits| waits.announced_ms.is_none()) {
            self.note(Command::AnnouncedKit { friend: friend.clone(), key: self.key }).await?;
            info!(%friend, "the new recovery kit was announced there");
        }
        Ok(())
    }

    /// Has the new kit open all that lies there.
    async fn admit_all(&self, friend: &HomeName, shown: &Kit, admitted: &mut Admitted) -> anyhow::Result<()> {
        let subjects: Vec<Subject> = subjects_at(self.state, friend)
            .into_iter()
            .filter(|subject| !admitted.contains(&(friend.clone(), subject.clone(), self.key)))
            .collect();
        if subjects.is_empty() {
            return Ok(());
        }
        let door = self.context.door_by(self.state, friend, shown).await?;
        for subject in subjects {
            if self.round(&door, friend, &subject).admit(self.before).await? {
                info!(%friend, %subject, "the new recovery kit opens what lies there");
                admitted.insert((friend.clone(), subject, self.key));
            }
        }
        Ok(())
    }

    /// The friend believes in the new kit. Interrupted, it is all done once more.
    async fn hand_over(&self, friend: &HomeName) -> anyhow::Result<()> {
        let door = self.context.door_by(self.state, friend, self.new).await?;
        for subject in subjects_at(self.state, friend) {
            let round = self.round(&door, friend, &subject);
            if !round.admit(self.before).await? {
                continue;
            }
            let now = self.context.node.state().borrow().clone();
            let was = now.backups.get(&subject).and_then(|records| records.get(friend)).cloned();
            let was = was.unwrap_or_default();
            let record = round.take_over(self.before, &was, unix_ms).await;
            let failure = record.failure.clone().filter(|_| record.failure != was.failure);
            let why = |failure: &Option<Failure>| failure.as_ref().map(|failure| failure.why.clone());
            // What fails for the same reason as before was told.
            if record != was && (failure.is_none() || why(&record.failure) != why(&was.failure)) {
                let (was, record) = (Box::new(was), Box::new(record));
                let subject = subject.clone();
                self.note(Command::NoteBackup { subject, friend: friend.clone(), was, record }).await?;
            }
            if let Some(failure) = failure {
                anyhow::bail!("{subject}: {}", failure.why);
            }
        }
        self.note(Command::TookKit { friend: friend.clone(), key: self.key }).await?;
        info!(%friend, "it has confirmed the new recovery kit");
        Ok(())
    }

    fn round<'a>(&'a self, door: &Door, friend: &HomeName, subject: &Subject) -> Round<'a> {
        Round {
            restic: self.restic,
            at: door.at(),
            kit: self.new,
            home: self.home.clone(),
            generation: self.state.generation,
            vault: friend.clone(),
            subject: subject.clone(),
            challenges: challenges(&self.context.paths.data, subject, friend),
        }
    }

    async fn note(&self, command: Command) -> anyhow::Result<()> {
        match self.context.node.propose(command, within(PROPOSE_MAX)).await? {
            Outcome::Refused(why) => anyhow::bail!("it is not noted: {why}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
