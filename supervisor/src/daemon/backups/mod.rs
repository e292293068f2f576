//! Backups to friends: each service by the radiator that is least in its way, the home itself by whoever leads. What is
//! due is decided in the crate `backup` over the records that the home keeps; here it is carried out.

mod drill;
mod orders;
mod stage;
mod tidy;
mod work;

pub use orders::{answer, standings};

use super::Context;
use crate::clock::unix_ms;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thermidor_backup::restic::{Progress, Restic, ResticError, Settings};
use thermidor_backup::schedule::{Decision, Pair, Task, Wish, decide};
use thermidor_model::backup::{BackupSpec, RETRY_DEFAULT_MS, Record, Subject};
use thermidor_model::friends::Friend;
use thermidor_model::name::HomeName;
use thermidor_model::state::{Role, State, Volume};
use thermidor_model::{NodeId, ServiceName};
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::JoinSet;

/// Between two looks at what is due.
const EVERY: Duration = Duration::from_secs(5);
/// Subjects that are worked on at once: a backup reads the disk that mail is on.
const AT_ONCE: usize = 2;
/// The home itself is backed up after each change of it, and at least so often, ms.
const HOME_EVERY: u64 = 24 * 3_600_000;
/// Who was not heard for longer, by any way, backs nothing up, ms: a daemon that is started again is silent for a moment.
const GONE_MS: u64 = 10_000;
/// What is due again and again at once must not spin.
const SOON: u64 = 1;

/// What is being done here, and what was ordered.
#[derive(Clone, Default)]
pub struct Desk {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
    /// One for all that is done here: it keeps its cache in order only while nobody else uses it.
    restic: Arc<OnceCell<Restic>>,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<Pair, Running>,
    ordered: BTreeMap<Pair, Task>,
    ended: BTreeMap<Pair, Ended>,
    /// Nothing is left of restores that were tried.
    swept: bool,
}

struct Running {
    task: Task,
    progress: watch::Receiver<Progress>,
}

/// How the last task of a pair ended here: when, Unix ms, and why it failed.
type Ended = (u64, Option<String>);

impl Desk {
    pub(super) async fn restic(&self, context: &Context) -> Result<&Restic, ResticError> {
        let cache = context.paths.data.join("backup").join("cache");
        self.restic.get_or_try_init(|| Restic::find(Settings::new(cache))).await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the retention challenges of a pair are kept. On this radiator alone: what a copy, an export or another radiator
/// brought back could be asked a second time.
pub(super) fn challenges(data: &Path, subject: &Subject, friend: &HomeName) -> PathBuf {
    data.join("backup").join("challenges").join(friend.as_str()).join(format!("{subject}.json"))
}

/// Backs up for as long as the daemon lives.
pub async fn run(context: Context) {
    if let Err(e) = stage::sweep(&context.paths.data) {
        tracing::warn!("what an earlier backup left is still there: {e:#}");
    }
    let awake = unix_ms();
    let mut jobs = JoinSet::new();
    let mut tidied = None;
    loop {
        drill::sweep_once(&context).await;
        while jobs.try_join_next().is_some() {
            tidied = None;
        }
        let state = context.node.state().borrow().clone();
        context.tidy(&state, &mut tidied);
        let leader = context.node.leadership().borrow().leader;
        let gone = context.gone(&state).await;
        for (subject, task, friends) in context.due(&state, leader, &gone, awake) {
            if jobs.len() >= AT_ONCE {
                break;
            }
            let (context, state) = (context.clone(), state.clone());
            let work = work::Work::begin(&context, subject, task, friends);
            jobs.spawn(async move { work.run(&context, &state).await });
        }
        tokio::select! {
            _ = tokio::time::sleep(EVERY) => {}
            _ = context.backups.wake.notified() => {}
            Some(_) = jobs.join_next() => tidied = None,
        }
    }
}

impl Context {
    /// Radiators that could back something up and that nobody has heard for long, as the leader says: on an idle volume a dead
    /// one is in sync for as long as nothing is written. Whoever would do it anyway asks nobody.
    async fn gone(&self, state: &State) -> BTreeSet<NodeId> {
        let me = self.node.id();
        let is_second = |(service, _): (&ServiceName, _)| {
            let able = service_backers(state, service);
            able.first() != Some(&me) && able.contains(&me)
        };
        if !declared(state).any(is_second) {
            return BTreeSet::new();
        }
        match self.leader_view().await {
            Some(view) => state.members.keys().copied().filter(|n| view.silence_ms(*n) > GONE_MS).collect(),
            // Without a leader nothing could be noted either.
            None => BTreeSet::new(),
        }
    }

    /// What is to be begun now, by subject: tasks for several friends share one frozen source.
    fn due(
        &self,
        state: &State,
        leader: Option<NodeId>,
        gone: &BTreeSet<NodeId>,
        awake: u64,
    ) -> Vec<(Subject, Task, BTreeSet<HomeName>)> {
        // The later generation's backups are the home's from now on.
        if state.stands_down().is_some() {
            return Vec::new();
        }
        let me = self.node.id();
        let mut wishes = wishes(state);
        wishes.retain(|wish| backs_up(state, &wish.subject, leader, gone).first() == Some(&me));
        let (running, ordered) = {
            let inner = self.backups.lock();
            let running: BTreeMap<Pair, Task> =
                inner.running.iter().map(|(pair, running)| (pair.clone(), running.task)).collect();
            // An order stays until it is begun.
            (running, inner.ordered.clone())
        };
        let now = unix_ms();
        let (records, pairs) = (records(state), running.keys().cloned().collect());
        let due = decide(&wishes, &records, &pairs, awake, now, &TimeZone::system());
        let mut due: Vec<Decision> = due.into_iter().filter(|decision| decision.at <= now).collect();
        put_first(&mut due, ordered, &running, now);
        // What is not whole is no backup: it would be the newest, and be taken for what is to be restored.
        due.retain(|d| !matches!(&d.subject, Subject::Service(service) if state.is_being_restored(service)));
        of_one_kit(&mut due, state);
        grouped(due, &running)
    }
}

/// What was ordered goes before all else.
fn put_first(
    due: &mut Vec<Decision>,
    ordered: BTreeMap<Pair, Task>,
    running: &BTreeMap<Pair, Task>,
    now: u64,
) {
    for ((subject, friend), task) in ordered {
        // A restore that has to wait for another holds up no backup meanwhile.
        if task == Task::Drill && is_drilling(running) {
            continue;
        }
        due.retain(|d| d.subject != subject || d.friend != friend);
        due.insert(0, Decision { subject, friend, task, at: now, why: "somebody asked for it".into() });
    }
}

/// What is left of the home itself differs with the kit that a friend holds to: those of the other one have their turn
/// afterwards.
fn of_one_kit(due: &mut Vec<Decision>, state: &State) {
    let is_home = |decision: &Decision| decision.subject == Subject::HomeItself;
    let before = |decision: &Decision| state.holds_to_kit_before(&decision.friend);
    let Some(first) = due.iter().find(|decision| is_home(decision)).map(before) else { return };
    due.retain(|decision| !is_home(decision) || before(decision) == first);
}

fn is_drilling(running: &BTreeMap<Pair, Task>) -> bool {
    running.values().any(|task| *task == Task::Drill)
}

/// What is begun of what is due: a subject's friends together, but restores are tried one at a time on a radiator, for
/// each takes the room and the memory of a whole service.
fn grouped(due: Vec<Decision>, running: &BTreeMap<Pair, Task>) -> Vec<(Subject, Task, BTreeSet<HomeName>)> {
    let busy: BTreeSet<&Subject> = running.keys().map(|(subject, _)| subject).collect();
    let mut is_drilling = is_drilling(running);
    let mut grouped: Vec<(Subject, Task, BTreeSet<HomeName>)> = Vec::new();
    for decision in due.into_iter().filter(|d| !busy.contains(&d.subject)) {
        if decision.task == Task::Drill && std::mem::replace(&mut is_drilling, true) {
            continue;
        }
        match grouped.iter_mut().find(|(subject, _, _)| *subject == decision.subject) {
            Some((_, task, friends)) if *task == decision.task => {
                friends.insert(decision.friend);
            }
            // Another task of this subject has its turn afterwards.
            Some(_) => {}
            None => {
                tracing::info!(subject = %decision.subject, task = ?decision.task, "{}", decision.why);
                grouped.push((decision.subject, decision.task, [decision.friend].into()));
            }
        }
    }
    grouped
}

/// What is known, by pair.
pub(super) fn records(state: &State) -> BTreeMap<Pair, Record> {
    let all = state.backups.iter().flat_map(|(subject, records)| {
        records.iter().map(move |(friend, record)| ((subject.clone(), friend.clone()), record.clone()))
    });
    all.collect()
}

/// What may lie at a friend's.
pub(super) fn subjects_at(state: &State, friend: &HomeName) -> BTreeSet<Subject> {
    let known = state.backups.iter().filter(|(_, records)| records.contains_key(friend));
    let wished = wishes(state).into_iter().filter(|wish| wish.friends.contains(friend));
    known.map(|(subject, _)| subject.clone()).chain(wished.map(|wish| wish.subject)).collect()
}

/// What is wished: of each service what home.yaml says, as far as those are friends that lend space; of the home itself,
/// at each of them.
pub(super) fn wishes(state: &State) -> Vec<Wish> {
    let lends = |friend: &&HomeName| state.friends.get(*friend).is_some_and(Friend::lends);
    let mut wishes = Vec::new();
    let mut all: BTreeSet<&HomeName> = BTreeSet::new();
    for (service, spec) in declared(state) {
        let friends: Vec<HomeName> = spec.to.iter().filter(lends).cloned().collect();
        if friends.is_empty() {
            continue;
        }
        all.extend(spec.to.iter().filter(lends));
        wishes.push(Wish {
            subject: Subject::Service(service.clone()),
            friends,
            every: spec.every_ms,
            windows: spec.windows.clone(),
            drill_every: spec.drill_ms,
            retry: spec.retry_ms,
        });
    }
    if all.is_empty() {
        return wishes;
    }
    let (retry, content) = (retry_ms(state), content(state));
    for friend in all {
        let record = state.backups.get(&Subject::HomeItself).and_then(|records| records.get(friend));
        let is_same = record.is_some_and(|record| record.content.as_ref() == Some(&content));
        wishes.push(Wish {
            subject: Subject::HomeItself,
            friends: vec![friend.clone()],
            every: if is_same { HOME_EVERY } else { SOON },
            windows: Vec::new(),
            drill_every: 0,
            retry,
        });
    }
    wishes
}

/// How long the home itself waits before it tries again what passes by itself, ms: no longer than any service, for it is what
/// a home comes back from.
pub(super) fn retry_ms(state: &State) -> u64 {
    declared(state).map(|(_, spec)| spec.retry_ms).min().unwrap_or(RETRY_DEFAULT_MS)
}

/// The services that are to be backed up.
pub(super) fn declared(state: &State) -> impl Iterator<Item = (&ServiceName, &BackupSpec)> {
    let services = state.spec().into_iter().flat_map(|spec| &spec.services);
    services.filter_map(|(name, spec)| Some((name, spec.backup.as_ref()?)))
}

/// By which a change of the home itself is noticed: what a person declared, made or paired, nothing that moves by itself.
pub(super) fn content(state: &State) -> String {
    let friends: BTreeMap<_, _> =
        state.friends.iter().map(|(n, f)| (n, (&f.identity, f.confirmed_ms))).collect();
    let told = (
        state.generation,
        state.declared.as_ref().map(|d| (d.revision, &d.text)),
        &state.overrides,
        &state.secrets,
        &state.mail_accounts,
        state.contexts.keys().collect::<Vec<_>>(),
        &state.authority_pem,
        friends,
        // Whoever has taken a new kit is to have the home under it at once.
        state.kit_change.as_ref().map(|change| change.waiting.keys().collect::<Vec<_>>()),
    );
    // A map of names always is JSON; should it not be, the home is backed up once more than needed.
    let text = serde_json::to_vec(&told).unwrap_or_else(|_| unix_ms().to_le_bytes().to_vec());
    blake3::hash(&text).to_hex().to_string()
}

/// Who backs a subject up, while `leader` leads and nobody hears those who are `gone`: the first; the next if that one does
/// not answer.
pub(super) fn backs_up(
    state: &State,
    subject: &Subject,
    leader: Option<NodeId>,
    gone: &BTreeSet<NodeId>,
) -> Vec<NodeId> {
    let mut able = match subject {
        Subject::HomeItself => backs_home_up(state, leader).into_iter().collect(),
        Subject::Service(service) => service_backers(state, service),
    };
    // Where all are gone it is as if none were.
    able.sort_by_key(|node| gone.contains(node));
    able
}

/// Who can back a service up, the best first: a standby that is in sync in all of its volumes, for there nobody waits for
/// the disk; then the active; then those that are off. What is a folder is only where it is used.
fn service_backers(state: &State, service: &ServiceName) -> Vec<NodeId> {
    let active = state.services.get(service).and_then(|s| s.active);
    let is_folder = |volume: &Volume| volume.driver.is_folder();
    if state.volumes_of(service).any(|(_, volume)| is_folder(volume)) {
        return active.into_iter().collect();
    }
    let is_on = |node: &NodeId| state.members.get(node).is_some_and(|m| m.off.is_none());
    let standbys = state.holders(service).into_iter().filter(|node| Some(*node) != active);
    let (on, off): (Vec<NodeId>, Vec<NodeId>) = standbys.partition(is_on);
    on.into_iter().chain(active).chain(off).collect()
}

/// Whoever leads backs the home itself up. A witness holds no keys: while one leads, the active of the first service does
/// it, which is up, for its lease says so.
pub(super) fn backs_home_up(state: &State, leader: Option<NodeId>) -> Option<NodeId> {
    let is_radiator = |node: &NodeId| state.members.get(node).is_some_and(|m| m.role == Role::Radiator);
    leader.filter(is_radiator).or_else(|| state.services.values().find_map(|service| service.active))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::LeaderView;
    use thermidor_model::backup::Passes;
    use thermidor_model::friends::{Friend, FriendIdentity, PublicKey};
    use thermidor_model::state::Off;
    use thermidor_model::testing::{box_volume, mail, serving_home};

    fn home(name: &str) -> HomeName {
        HomeName::new(name).unwrap()
    }

    /// Three radiators serve mail, which is to be backed up to alice, who is a friend, and to carol, who is none.
    fn state() -> State {
        let mut state = serving_home(3, 1);
        let spec = &mut state.declared.as_mut().unwrap().spec;
        let backup = BackupSpec {
            every_ms: 3_600_000,
            to: vec![home("alice"), home("carol")],
            windows: vec![],
            drill_ms: 0,
            retry_ms: 120_000,
        };
        spec.services.get_mut(&mail()).unwrap().backup = Some(backup);
        let identity = FriendIdentity {
            key: PublicKey([1; 32]),
            transport: PublicKey([2; 32]),
            generation: 1,
            addresses: vec!["alice.example".into()],
        };
        let words = ["a", "b", "c", "d"].map(String::from);
        let friend = Friend { identity, words, confirmed_ms: Some(1), claims: None, kit_claims: vec![] };
        state.friends.insert(home("alice"), friend);
        state
    }

    #[test]
    fn a_standby_in_sync_backs_up_else_the_active() {
        let mut state = state();
        assert_eq!(state.services[&mail()].active, Some(1));
        assert_eq!(service_backers(&state, &mail()), [2, 3, 1]);
        state.members.get_mut(&2).unwrap().off = Some(Off { until_ms: None, power_off: false });
        assert_eq!(service_backers(&state, &mail()), [3, 1, 2]);
        let volume = state.volumes.get_mut(&box_volume()).unwrap();
        volume.in_sync = [1].into();
        assert_eq!(service_backers(&state, &mail()), [1]);
        let volume = state.volumes.get_mut(&box_volume()).unwrap();
        (volume.in_sync, volume.driver) = ([1, 2, 3].into(), thermidor_model::spec::VolumeDriver::Local);
        assert_eq!(service_backers(&state, &mail()), [1], "a folder is only where it is used");
    }

    #[test]
    fn a_standby_that_nobody_hears_backs_nothing_up_though_it_is_still_in_sync() {
        let state = state();
        let of = |gone: &[NodeId]| {
            let gone = gone.iter().copied().collect();
            backs_up(&state, &Subject::Service(mail()), Some(1), &gone)
        };
        assert_eq!(of(&[]), [2, 3, 1]);
        assert_eq!(of(&[2]), [3, 1, 2]);
        assert_eq!(of(&[2, 3]), [1, 2, 3]);
        assert_eq!(of(&[1, 2, 3]), of(&[]), "where nobody is heard it is as if all were");
    }

    #[test]
    fn whoever_a_leader_has_not_heard_since_it_began_is_silent_for_as_long_as_it_leads() {
        let mut view = LeaderView { leader: 1, silent_ms: [(2, 40)].into(), ..LeaderView::default() };
        assert_eq!([1, 2, 3].map(|node| view.silence_ms(node)), [0, 40, 0], "it has just begun");
        view.leading_ms = GONE_MS + 1;
        assert_eq!([1, 2, 3].map(|node| view.silence_ms(node)), [0, 40, GONE_MS + 1]);
    }

    #[test]
    fn what_is_left_of_the_home_itself_goes_to_friends_of_one_kit_at_a_time() {
        use thermidor_model::friends::{KitChange, KitRecord, KitWaits};
        let mut state = state();
        let before = KitRecord {
            made_ms: 1,
            printed_ms: None,
            rehearsed_ms: None,
            split: None,
            key: PublicKey([9; 32]),
        };
        let was = content(&state);
        let words = std::array::from_fn(|_| "word".to_owned());
        let waiting = [(home("alice"), KitWaits { words, announced_ms: None })].into();
        state.kit_change = Some(KitChange { begun_ms: 1, before, waiting });
        assert_ne!(content(&state), was, "it is left anew at once");
        let due = |subject: Subject, friend: &str| Decision {
            subject,
            friend: home(friend),
            task: Task::Backup,
            at: 1,
            why: String::new(),
        };
        let mut all: Vec<Decision> = ["carol", "alice", "dave"]
            .into_iter()
            .flat_map(|name| [due(Subject::HomeItself, name), due(Subject::Service(mail()), name)])
            .collect();
        of_one_kit(&mut all, &state);
        let friends = |subject: &Subject| {
            let of = all.iter().filter(|d| d.subject == *subject).map(|d| d.friend.to_string());
            of.collect::<Vec<_>>()
        };
        assert_eq!(friends(&Subject::HomeItself), ["carol", "dave"], "alice holds to the kit before");
        assert_eq!(friends(&Subject::Service(mail())), ["carol", "alice", "dave"]);
        let subjects = subjects_at(&state, &home("alice"));
        assert_eq!(subjects, [Subject::HomeItself, Subject::Service(mail())].into());
    }

    #[test]
    fn the_leader_backs_the_home_itself_up_and_while_a_witness_leads_an_active() {
        let mut state = state();
        let witness = thermidor_model::testing::join(&mut state, "grenier", Role::Witness);
        assert_eq!(backs_home_up(&state, Some(3)), Some(3));
        assert_eq!(backs_home_up(&state, Some(witness)), Some(1), "mail is active on it, so it is up");
        assert_eq!(backs_home_up(&state, None), Some(1));
    }

    #[test]
    fn only_friends_whose_words_were_compared_and_who_lend_space_are_backed_up_to() {
        let mut state = state();
        let all = wishes(&state);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (&all[0].subject, all[0].friends.as_slice()),
            (&Subject::Service(mail()), &[home("alice")][..])
        );
        assert_eq!((&all[1].subject, all[1].every), (&Subject::HomeItself, SOON));
        let (_, warnings) = standings(&state);
        assert!(warnings.iter().any(|w| w.contains("carol, which is no friend yet")), "{warnings:?}");
        assert!(warnings.iter().any(|w| w.contains("no backup has been proved yet")), "{warnings:?}");
        state.friends.get_mut(&home("alice")).unwrap().confirmed_ms = None;
        assert_eq!(wishes(&state), []);
    }

    #[test]
    fn a_friend_that_needs_a_person_is_a_warning_though_the_backup_there_is_in_time() {
        let mut state = state();
        let now = unix_ms();
        let record = |passes| {
            let failure =
                thermidor_model::backup::Failure::next(None, now, passes, "it has lost something".into());
            Record { made: Some(now), proven: Some(now), failure: Some(failure), ..Record::default() }
        };
        let mut warned = |passes| {
            let known = [(home("alice"), record(passes))].into();
            state.backups.insert(Subject::Service(mail()), known);
            let (standings, warnings) = standings(&state);
            assert!(!standings[0].late, "{standings:?}");
            warnings.iter().any(|w| w.contains("alice has failed") && w.contains("it has lost something"))
        };
        assert!(warned(Passes::ByAPerson));
        assert!(!warned(Passes::ByItself), "one that is away comes back");
    }

    #[test]
    fn the_home_itself_is_backed_up_again_when_something_of_it_has_changed() {
        let mut state = state();
        let record = Record { made: Some(1), content: Some(content(&state)), ..Record::default() };
        state.backups.entry(Subject::HomeItself).or_default().insert(home("alice"), record);
        assert_eq!(wishes(&state)[1].every, HOME_EVERY, "what is noted of a backup is no change");
        state.overrides.targets_c.insert(thermidor_model::RadiatorName::new("salon").unwrap(), 21.0);
        assert_eq!(wishes(&state)[1].every, SOON);
    }
}
