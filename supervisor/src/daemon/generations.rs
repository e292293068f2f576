//! What this home says of its generation, and hears of a later one. A recovered or rescued home leaves a signed word at each
//! friend that believes in it; one that was recovered elsewhere is handed that word when it comes, and stands down. It comes
//! every few minutes, for its backups may be a week apart.

use super::backups::{backs_home_up, retry_ms};
use super::way::pin_of;
use super::{Context, within};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_backup::generations::{Between, Later, hear, sign};
use thermidor_backup::kit::Kit;
use thermidor_backup::line::{Own, ToVault, dial_vault};
use thermidor_backup::vault::{Signed, Visit, VisitError};
use thermidor_model::friends::Friend;
use thermidor_model::name::HomeName;
use thermidor_model::state::State;
use thermidor_model::{Command, Outcome};
use tracing::{debug, info, warn};

/// After the start, and between two looks while a friend is not reached, or not sure of this home yet; doubles, up to what is
/// declared as `retry`.
const SOON: Duration = Duration::from_secs(10);
/// Between two looks once every friend has said what there is to say.
const LOOK: Duration = Duration::from_secs(300);
/// How long each address of a friend may take.
const DIAL_MAX: Duration = Duration::from_secs(15);
/// How long the vault may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a command about what was heard may take.
const PROPOSE_MAX: Duration = Duration::from_secs(10);

/// Friends at which the word of a generation of ours lies.
type Left = BTreeSet<(HomeName, u64)>;

/// Runs as long as the daemon.
pub async fn run(context: Context) {
    let mut left = Left::new();
    let mut wait = SOON;
    loop {
        let was_refused = tokio::select! {
            _ = tokio::time::sleep(wait) => false,
            _ = context.refused.notified() => true,
        };
        let state = context.node.state().borrow().clone();
        let leader = context.node.leadership().borrow().leader;
        // One radiator speaks for the home, the one that backs it up: it has the keys. Whoever was refused asks why.
        if !was_refused && backs_home_up(&state, leader) != Some(context.node.id()) {
            wait = SOON;
            continue;
        }
        let retry = Duration::from_millis(retry_ms(&state));
        wait = match context.look_at_generations(&state, &mut left).await {
            Ok(true) => LOOK,
            Ok(false) => next(wait, retry),
            Err(e) => {
                warn!("nothing is heard or said of generations: {e:#}");
                next(wait, retry)
            }
        };
    }
}

fn next(wait: Duration, retry: Duration) -> Duration {
    (wait * 2).max(SOON).min(retry)
}

/// Friends at whose vaults this home is known.
fn lenders(state: &State) -> impl Iterator<Item = (&HomeName, &Friend)> {
    state.friends.iter().filter(|(_, friend)| friend.lends())
}

impl Context {
    /// Comes to every friend; says whether all has been said and heard that there is.
    async fn look_at_generations(&self, state: &State, left: &mut Left) -> anyhow::Result<bool> {
        if lenders(state).next().is_none() {
            return Ok(true);
        }
        let Some(home) = state.home.clone() else { return Ok(true) };
        let mut all_said = true;
        for (friend, known) in lenders(state) {
            let Some(kit) = self.kit_for(state, friend)? else { return Ok(true) };
            let own = self.own_on_the_line(&kit, state)?;
            let between = Between { home: home.clone(), vault: friend.clone() };
            all_said &= match self.come_to(&own, known).await {
                Come::Heard(word) => self.heard(state, &kit, &between, &word).await?,
                Come::Welcome(to) => leave_word(state, &kit, &between, *to, left).await?,
                Come::Nothing => false,
            };
        }
        Ok(all_said)
    }

    async fn come_to(&self, own: &Own, known: &Friend) -> Come {
        match dial_vault(&known.identity.addresses, own, pin_of(known), DIAL_MAX).await {
            // Its person has not confirmed this generation yet.
            Ok(to) if to.welcome.read_only => Come::Nothing,
            Ok(to) => Come::Welcome(Box::new(to)),
            Err(error) => match error.refusal().and_then(|refused| refused.word.clone()) {
                Some(word) => Come::Heard(word),
                None => {
                    debug!("a friend is not reached: {error}");
                    Come::Nothing
                }
            },
        }
    }

    /// A vault refuses this home and hands a word on. It counts if this home's own kit has signed it.
    async fn heard(
        &self,
        state: &State,
        kit: &Kit,
        between: &Between,
        word: &Signed,
    ) -> anyhow::Result<bool> {
        let Later { generation, since } = match hear(word, &kit.signer()?.public(), between, state.generation)
        {
            Ok(later) => later,
            Err(why) => {
                warn!(friend = %between.vault, "it refuses this home, with a word that stops nobody: {why}");
                return Ok(true);
            }
        };
        if state.outlived.as_ref().is_some_and(|known| known.generation >= generation) {
            return Ok(true);
        }
        warn!(friend = %between.vault, generation, "this home was recovered or rescued elsewhere: its services stop");
        let from = between.vault.clone();
        let command = Command::StandDown { generation, since_ms: since, from };
        match self.node.propose(command, within(PROPOSE_MAX)).await {
            Ok(Outcome::Refused(why)) => {
                info!("that this home was recovered elsewhere is not noted: {why}");
                Ok(true)
            }
            Ok(_) => Ok(true),
            Err(e) => {
                warn!("that this home was recovered elsewhere is not noted yet: {e}");
                Ok(false)
            }
        }
    }
}

/// What came of coming to a friend.
enum Come {
    /// It lets this home in.
    Welcome(Box<ToVault>),
    /// It refuses this home and hands on a word.
    Heard(Signed),
    /// It is not reached, or says nothing that counts.
    Nothing,
}

/// Leaves the word of a generation that is not the first at a friend that believes in it; says whether it lies there.
async fn leave_word(
    state: &State,
    kit: &Kit,
    between: &Between,
    to: ToVault,
    left: &mut Left,
) -> anyhow::Result<bool> {
    let generation = state.generation;
    let here = (between.vault.clone(), generation);
    // The first generation has none before it that could come.
    if generation <= 1 || left.contains(&here) {
        return Ok(true);
    }
    let signer = kit.signer()?;
    let word = sign(&signer, between, Later { generation, since: state.generation_ms })?;
    let (home, vault) = (between.home.clone(), between.vault.clone());
    let left_there = async {
        let mut visit = Visit::begin(to.stream, home, vault, None, PATIENCE).await?;
        if visit.generation_word().await?.as_ref() != Some(&word) {
            visit.leave_generation_word(&word).await?;
            info!(friend = %between.vault, generation, "this generation's word is left there");
        }
        Ok::<_, VisitError>(())
    };
    match left_there.await {
        Ok(()) => {
            left.insert(here);
            Ok(true)
        }
        Err(why) => {
            // A vault of an earlier program knows no such word.
            debug!(friend = %between.vault, "this generation's word is not left there: {why}");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Friend as Lender;
    use thermidor_backup::line::{DialError, Pin};
    use thermidor_model::testing::serving_home;

    /// Comes to alpes as a generation of maison.
    async fn come(lender: &Lender, kit: &Kit, generation: u64) -> Result<ToVault, DialError> {
        let own = Own::new(&kit.transport().unwrap(), generation).unwrap();
        dial_vault(std::slice::from_ref(&lender.address), &own, Pin::Key(lender.key), PATIENCE).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_word_that_a_later_generation_leaves_is_handed_to_the_earlier_one_and_no_other() {
        let kit = Kit::draw().unwrap();
        let lender = Lender::new("alpes", &kit, 2).await;
        let between = Between { home: HomeName::new("maison").unwrap(), vault: lender.name.clone() };
        let refused = async || come(&lender, &kit, 1).await.unwrap_err().refusal().unwrap().word.clone();
        assert_eq!(refused().await, None, "nothing was left there: a refusal alone stops nobody");

        let mut state = serving_home(3, 1);
        (state.generation, state.generation_ms) = (2, 77);
        let mut left = Left::new();
        let to = come(&lender, &kit, 2).await.unwrap();
        assert!(leave_word(&state, &kit, &between, to, &mut left).await.unwrap());
        assert_eq!(left.len(), 1);
        // Another radiator finds it there.
        let to = come(&lender, &kit, 2).await.unwrap();
        assert!(leave_word(&state, &kit, &between, to, &mut Left::new()).await.unwrap());

        let word = refused().await.unwrap();
        let key = kit.signer().unwrap().public();
        assert_eq!(hear(&word, &key, &between, 1), Ok(Later { generation: 2, since: 77 }));
        assert!(hear(&word, &key, &between, 2).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_leaves_a_word_of_the_first_generation_or_of_one_that_no_person_has_confirmed() {
        let kit = Kit::draw().unwrap();
        let lender = Lender::new("alpes", &kit, 1).await;
        let between = Between { home: HomeName::new("maison").unwrap(), vault: lender.name.clone() };
        let mut state = serving_home(3, 1);
        let mut left = Left::new();
        let to = come(&lender, &kit, 1).await.unwrap();
        assert!(leave_word(&state, &kit, &between, to, &mut left).await.unwrap());
        assert!(left.is_empty());
        // A thief with the paper recovers the home, and the friend's person has not been asked.
        state.generation = 2;
        let to = come(&lender, &kit, 2).await.unwrap();
        assert!(to.welcome.read_only);
        assert!(!leave_word(&state, &kit, &between, to, &mut left).await.unwrap());
        assert!(left.is_empty());
        assert!(!come(&lender, &kit, 1).await.unwrap().welcome.read_only, "the home goes on");
    }

    #[test]
    fn looks_come_seldom_once_all_is_said_and_soon_while_a_friend_is_not_reached() {
        let (mut wait, retry) = (SOON, Duration::from_secs(120));
        for _ in 0..10 {
            wait = next(wait, retry);
            assert!((SOON..=retry).contains(&wait));
        }
        assert_eq!((wait, next(LOOK, retry)), (retry, retry));
        let hasty = Duration::from_secs(2);
        assert_eq!((next(SOON, hasty), next(LOOK, hasty)), (hasty, hasty));
    }
}
