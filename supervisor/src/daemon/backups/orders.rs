//! `backup ls`, `run` and `check`: told from the home's records and from whoever is at it, ordered from whoever does it.

use super::{backs_up, declared, records, wishes};
use crate::api::Refused;
use crate::api::backups::{BackupLine, BackupList, BackupStanding, Ordered};
use crate::clock::unix_ms;
use crate::daemon::Context;
use crate::daemon::orders::value;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_backup::restic::Progress;
use thermidor_backup::schedule::{Pair, Task};
use thermidor_model::NodeId;
use thermidor_model::backup::Subject;
use thermidor_model::name::HomeName;
use thermidor_model::state::{Role, State};

/// How long a radiator may take to say what it does, or to begin.
const ASK_MAX: Duration = Duration::from_secs(3);

/// What one radiator is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Asked {
    /// What it is doing.
    Running,
    /// To back that up soon, or only to read back a part of what was, or to try a restore of it. A program that knows no
    /// order for the last reads a part back.
    Do {
        subject: Subject,
        friend: HomeName,
        prove: bool,
        #[serde(default)]
        drill: bool,
    },
}

/// What one radiator answers.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Doing {
    /// Its clock, Unix ms.
    now_ms: u64,
    /// Pairs that it works on or will soon: bytes done, bytes found.
    running: Vec<(Subject, HomeName, u64, u64)>,
    /// How the last task of each pair ended.
    ended: Vec<(Subject, HomeName, super::Ended)>,
}

/// What another member is answered.
pub async fn answer(context: Context, body: Bytes) -> Result<Bytes, String> {
    let asked: Asked = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let doing = {
        let mut inner = context.backups.lock();
        if let Asked::Do { subject, friend, prove, drill } = asked {
            let task = match (drill, prove) {
                (true, _) => Task::Drill,
                (false, true) => Task::Prove,
                (false, false) => Task::Backup,
            };
            inner.ordered.insert((subject, friend), task);
        }
        let running = inner.running.iter().map(|((subject, friend), running)| {
            let Progress { bytes_done, total_bytes, .. } = *running.progress.borrow();
            (subject.clone(), friend.clone(), bytes_done, total_bytes)
        });
        let waiting = inner.ordered.keys().map(|(subject, friend)| (subject.clone(), friend.clone(), 0, 0));
        let ended =
            inner.ended.iter().map(|((subject, friend), e)| (subject.clone(), friend.clone(), e.clone()));
        Doing { now_ms: unix_ms(), running: running.chain(waiting).collect(), ended: ended.collect() }
    };
    context.backups.wake.notify_one();
    serde_json::to_vec(&doing).map(Bytes::from).map_err(|e| e.to_string())
}

impl Context {
    async fn ask_backups(&self, node: NodeId, asked: &Asked) -> Result<Doing, String> {
        let body = serde_json::to_vec(asked).map_err(|e| e.to_string())?;
        let said = self.node.call(node, "backup", body.into(), ASK_MAX).await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&said).map_err(|e| e.to_string())
    }

    /// How all backups stand: a [`BackupList`].
    pub(in crate::daemon) async fn backups(&self, state: &State) -> Result<Value, Refused> {
        let known = records(state);
        let mut pairs: BTreeSet<Pair> = known.keys().cloned().collect();
        for wish in wishes(state) {
            pairs.extend(wish.friends.iter().map(|friend| (wish.subject.clone(), friend.clone())));
        }
        let mut list = BackupList::default();
        for (subject, friend) in &pairs {
            let record = known.get(&(subject.clone(), friend.clone())).cloned().unwrap_or_default();
            let by = record.by.map(|node| state.name_of(node));
            list.items.push(BackupLine::of(subject.as_str(), friend.as_str(), &record, by));
        }
        let radiators = state.members.iter().filter(|(_, m)| m.role == Role::Radiator);
        let asked = radiators.map(|(node, member)| async move {
            (&member.name, self.ask_backups(*node, &Asked::Running).await)
        });
        for (name, said) in futures::future::join_all(asked).await {
            match said {
                Ok(doing) => mark(&mut list, doing),
                Err(why) => list.silent.push(format!("{name}: {why}")),
            }
        }
        value(&list)
    }

    /// Has backups made, or read back, or a restore of them tried, now: an [`Ordered`].
    pub(in crate::daemon) async fn order_backup(
        &self,
        state: &State,
        subject: Option<Subject>,
        to: Option<HomeName>,
        task: Task,
    ) -> Result<Value, Refused> {
        if let Some(outlived) = state.stands_down() {
            let home = state.home.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Refused::because(format!("{}: {}", outlived.what(&home), outlived.next())));
        }
        let pairs = wanted(state, subject.as_ref(), to.as_ref())?;
        let leader = self.node.leadership().borrow().leader;
        let mut ordered = Ordered { pairs: Vec::new() };
        for (subject, friend) in pairs {
            let able = backs_up(state, &subject, leader, &BTreeSet::new());
            let (prove, drill) = (task != Task::Backup, task == Task::Drill);
            let asked = Asked::Do { subject: subject.clone(), friend: friend.clone(), prove, drill };
            let doing = self.begun_by_one(state, &able, &asked).await.map_err(|why| match why {
                Some(why) => Refused::because(why),
                None => Refused::because(format!(
                    "no radiator holds {subject} in sync: see `thermidor explain {subject}`"
                )),
            })?;
            ordered.pairs.push((subject.to_string(), friend.to_string(), doing.now_ms));
        }
        value(&ordered)
    }

    /// Orders it from the first that answers; why nobody begins, `None` if nobody was to be asked. One that has just died is
    /// in sync for as long as nothing is written.
    async fn begun_by_one(
        &self,
        state: &State,
        able: &[NodeId],
        asked: &Asked,
    ) -> Result<Doing, Option<String>> {
        let mut silent = Vec::new();
        for node in able {
            match self.ask_backups(*node, asked).await {
                Ok(doing) => return Ok(doing),
                Err(why) => silent.push(format!("{} does not begin: {why}", state.name_of(*node))),
            }
        }
        Err((!silent.is_empty()).then(|| silent.join("; ")))
    }
}

fn mark(list: &mut BackupList, doing: Doing) {
    let find = |list: &mut BackupList, subject: &Subject, friend: &HomeName| {
        list.items.iter().position(|l| l.subject == subject.as_str() && l.friend == friend.as_str())
    };
    for (subject, friend, done, total) in doing.running {
        if let Some(at) = find(list, &subject, &friend) {
            list.items[at].state = "runs".into();
            list.items[at].progress = Some((done, total));
        }
    }
    for (subject, friend, ended) in doing.ended {
        if let Some(at) = find(list, &subject, &friend) {
            let known = list.items[at].ended.get_or_insert_with(|| ended.clone());
            if ended.0 > known.0 {
                *known = ended;
            }
        }
    }
}

/// Which pairs are meant, or why there are none.
fn wanted(state: &State, subject: Option<&Subject>, to: Option<&HomeName>) -> Result<Vec<Pair>, Refused> {
    if let Some(friend) = to {
        let why = match state.friends.get(friend) {
            None => Some(format!("there is no friend {friend}: `thermidor friend ls` lists them")),
            Some(known) if !known.is_confirmed() => {
                Some(format!("{friend} is not confirmed: run `thermidor friend confirm {friend}` first"))
            }
            Some(known) if known.identity.addresses.is_empty() => Some(format!("{friend} lends no space")),
            Some(_) => None,
        };
        if let Some(why) = why {
            return Err(Refused::because(why));
        }
    }
    if let Some(Subject::Service(service)) = subject {
        let spec = state.spec().and_then(|spec| spec.services.get(service));
        let spec = spec.ok_or_else(|| {
            Refused::because(format!("there is no service {service}: `thermidor service ls` lists them"))
        })?;
        if spec.backup.is_none() {
            return Err(Refused::because(format!(
                "home.yaml wishes no backup of {service}: write `backup: {{ every: 1h, to: [alice] }}`"
            )));
        }
    }
    let mut pairs = Vec::new();
    for wish in wishes(state).iter().filter(|wish| subject.is_none_or(|subject| wish.subject == *subject)) {
        let friends = wish.friends.iter().filter(|friend| to.is_none_or(|to| *friend == to));
        pairs.extend(friends.map(|friend| (wish.subject.clone(), friend.clone())));
    }
    if pairs.is_empty() {
        return Err(Refused::because(
            "no service is to be backed up to a confirmed friend that lends space: see `thermidor friend ls` and \
             `backup:` in home.yaml",
        ));
    }
    Ok(pairs)
}

/// How each wish is fulfilled, for `status`; what is declared for friends that are none yet is said too.
pub fn standings(state: &State) -> (Vec<BackupStanding>, Vec<String>) {
    let (known, now) = (records(state), unix_ms());
    let standings: Vec<_> = wishes(state).iter().map(|wish| BackupStanding::of(wish, &known, now)).collect();
    let mut warnings: Vec<String> =
        standings.iter().filter(|s| s.is_loud()).map(|s| format!("backup: {}", s.text)).collect();
    for (service, spec) in declared(state) {
        for friend in &spec.to {
            match state.friends.get(friend) {
                None => warnings.push(format!(
                    "{service} is to be backed up to {friend}, which is no friend yet: `thermidor friend invite`"
                )),
                Some(known) if !known.is_confirmed() => warnings.push(format!(
                    "{friend} was paired, the words are not compared yet: `thermidor friend confirm {friend}`"
                )),
                Some(known) if known.identity.addresses.is_empty() => {
                    warnings.push(format!("{service} is to be backed up to {friend}, which lends no space"));
                }
                Some(_) => {}
            }
        }
    }
    warnings.dedup();
    (standings, warnings)
}
