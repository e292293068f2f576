//! Restores on a real member of a home of one, with real restic and friends' vaults. The volume is a plain folder here.

use super::*;
use crate::daemon::{RunOptions, context};
use crate::paths::Paths;
use crate::testing::Friend;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use thermidor_backup::home_itself::make_private;
use thermidor_backup::restic::{Repository, Restic, Settings, Source};
use thermidor_backup::restore::{BEFORE, STAGING};
use thermidor_backup::vault::Folder;
use thermidor_model::backup::{Record, Subject};
use thermidor_model::command::Why;
use thermidor_model::friends::{FriendIdentity, PublicKey};
use thermidor_model::name::HomeName;
use thermidor_model::reconcile::Device;
use thermidor_model::restore::RestoreWish;
use thermidor_model::testing::{RADIATORS, box_volume, declare, home_spec, mail};
use thermidor_model::{RadiatorName, ReplicaId};
use thermidor_raft::{Identity, InitOptions, Node, StartOptions};

const PATIENCE: Duration = Duration::from_secs(60);

/// A home of one radiator on which mail is active, and its restores' task.
struct Home {
    context: Context,
    task: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Home {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().join("data"), run: dir.path().join("run") };
        paths.create().unwrap();
        let name = HomeName::new("maison").unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = InitOptions {
            data: paths.data.clone(),
            home: name,
            radiator: RadiatorName::new(RADIATORS[0]).unwrap(),
            listen,
            advertise: None,
            timing: Default::default(),
        };
        thermidor_raft::init(&options).unwrap();
        let start = StartOptions {
            data: paths.data.clone(),
            listen,
            advertise: None,
            handlers: BTreeMap::new(),
            snapshot_every: None,
        };
        let node = Node::start(start).await.unwrap();
        let identity = Identity::load(&paths.data).unwrap();
        let options = RunOptions { paths, listen, engine_socket: "/nowhere".into() };
        let leader = crate::daemon::leader::Leader::new(node.clone());
        let context = context(&options, &identity, node, leader).unwrap();
        let task = tokio::spawn(run(context.clone()));
        let home = Self { context, task, dir };
        let state = home.state();
        home.done(declare(&state, home_spec(1))).await;
        let set_was = home.state().volumes[&box_volume()].set_version;
        home.done(Command::AddReplica { volume: box_volume(), set_was, node: 1, id: ReplicaId(7) }).await;
        let sets = [(box_volume(), home.state().volumes[&box_volume()].set_version)].into();
        let reason = "mail starts".to_owned();
        home.done(Command::Activate { service: mail(), epoch_was: 0, to: 1, sets, why: Why::Start, reason })
            .await;
        std::fs::create_dir_all(home.root()).unwrap();
        home.context.shared.lock().devices.insert(box_volume(), Device::Attached(1));
        home
    }

    fn state(&self) -> Arc<State> {
        self.context.node.state().borrow().clone()
    }

    /// Where the volume is.
    fn root(&self) -> PathBuf {
        self.context.paths.volume("box").join("mnt")
    }

    async fn done(&self, command: Command) {
        let outcome = self.context.node.propose(command, within(PATIENCE)).await.unwrap();
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    async fn order(&self, order: RestoreOrder) {
        self.done(Command::Restore { service: mail(), order }).await;
    }

    async fn befriend(&self, name: &str) -> Friend {
        let kit = self.context.kit_or_new().await.unwrap();
        let friend = Friend::new(name, &kit, 1).await;
        let number = name.bytes().next().unwrap();
        let identity = FriendIdentity {
            key: PublicKey([number; 32]),
            transport: PublicKey(friend.key.0),
            generation: 1,
            addresses: vec![friend.address.clone()],
        };
        let words = ["a", "b", "c", "d"].map(str::to_owned);
        let home = friend.name.clone();
        self.done(Command::MeetFriend { home: home.clone(), identity, words: words.clone() }).await;
        self.done(Command::ConfirmFriend { home, words }).await;
        friend
    }

    /// The volume as it is now, into a friend's vault, laid out as backups are.
    async fn back_up(&self, friend: &Friend) -> String {
        let door = self.context.door_to(&friend.name).await.unwrap();
        let repository = Repository {
            at: door.at(),
            home: door.home.clone(),
            folder: Folder::new("mail").unwrap(),
            password: None,
            key: self.context.kit().unwrap().unwrap().repository(&friend.name).unwrap(),
            as_of: None,
        };
        let restic = Restic::find(Settings::new(self.dir.path().join("cache"))).await.unwrap();
        if restic.snapshots(&repository).await.is_err() {
            restic.init(&repository).await.unwrap();
        }
        let stage = self.dir.path().join("stage");
        make_private(&stage).unwrap();
        std::fs::create_dir(stage.join("volumes")).unwrap();
        let (from, to) = (self.root(), stage.join("volumes/box"));
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        let source = Source { dir: stage, home: door.home.clone(), tag: "mail".into(), parent: None };
        restic.backup(&repository, &source, &Default::default()).await.unwrap().snapshot.to_string()
    }

    async fn until(&self, what: &str, is: impl Fn(&State) -> bool) {
        let begun = Instant::now();
        while !is(&self.state()) {
            let now = self.state();
            assert!(begun.elapsed() < PATIENCE, "{what}: never; {:?}", now.restores.get(&mail()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.state().check(), Vec::<String>::new());
    }

    async fn until_stage(&self, stage: Option<RestoreStage>) {
        self.until(&format!("{stage:?}"), |s| s.restores.get(&mail()).map(|r| r.stage) == stage).await;
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(name)).ok()
    }
}

fn wish() -> RestoreWish {
    RestoreWish { from: None, snapshot: None, as_of_s: None, path: None }
}

fn begin(wish: RestoreWish) -> RestoreOrder {
    RestoreOrder::Begin { wish }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_its_files_back_and_may_have_those_of_now_again() {
    let home = Home::new().await;
    let alice = home.befriend("alice").await;
    home.put("marie/cur/1", "early");
    home.put("marie/cur/2", "lost since");
    home.back_up(&alice).await;
    std::fs::remove_file(home.root().join("marie/cur/2")).unwrap();
    home.put("marie/cur/1", "late");
    home.put("marie/new/3", "since");

    home.order(begin(wish())).await;
    home.until_stage(Some(RestoreStage::Swapped)).await;
    let now = |name: &str| home.read(name);
    assert_eq!(
        (now("marie/cur/1").as_deref(), now("marie/cur/2").as_deref()),
        (Some("early"), Some("lost since"))
    );
    assert_eq!(now("marie/new/3"), None);
    assert!(!home.root().join(STAGING).exists());

    home.order(RestoreOrder::Undo).await;
    home.until_stage(Some(RestoreStage::Swapped)).await;
    assert_eq!((now("marie/cur/1").as_deref(), now("marie/new/3").as_deref()), (Some("late"), Some("since")));
    home.order(RestoreOrder::Undo).await;
    home.until_stage(Some(RestoreStage::Swapped)).await;
    assert_eq!(now("marie/cur/1").as_deref(), Some("early"));
    home.order(RestoreOrder::Keep).await;
    home.until_stage(None).await;
    assert!(!home.root().join(BEFORE).exists());
    assert_eq!(std::fs::read_dir(home.root()).unwrap().count(), 1, "nothing of the restore is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_is_merged_without_a_message_twice() {
    let home = Home::new().await;
    let alice = home.befriend("alice").await;
    for folder in ["marie/cur", "marie/new", "marie/tmp", "luc/cur"] {
        std::fs::create_dir_all(home.root().join(folder)).unwrap();
    }
    home.put("marie/cur/1.a:2,", "one");
    home.put("marie/cur/2.a:2,S", "two");
    home.put("luc/cur/9.a:2,S", "luc's");
    let early = home.back_up(&alice).await;
    std::fs::rename(home.root().join("marie/cur/1.a:2,"), home.root().join("marie/cur/1.a:2,S")).unwrap();
    std::fs::remove_file(home.root().join("marie/cur/2.a:2,S")).unwrap();
    std::fs::remove_file(home.root().join("luc/cur/9.a:2,S")).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    home.back_up(&alice).await;

    let path = Some("box/marie".to_owned());
    home.order(begin(RestoreWish { snapshot: Some(early), path, ..wish() })).await;
    home.until_stage(None).await;
    assert_eq!(home.read("marie/cur/2.a:2,S").as_deref(), Some("two"));
    assert_eq!(std::fs::read_dir(home.root().join("marie/cur")).unwrap().count(), 2);
    assert_eq!(home.read("luc/cur/9.a:2,S"), None, "nothing else was asked for");
    assert!(!home.root().join(STAGING).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friend_who_is_away_is_told_of_and_another_helps() {
    let home = Home::new().await;
    let (alice, carol) = (home.befriend("alice").await, home.befriend("carol").await);
    home.put("a", "early");
    home.back_up(&alice).await;
    home.back_up(&carol).await;
    home.put("a", "late");
    alice.task.abort();
    home.order(begin(RestoreWish { from: Some(alice.name.clone()), ..wish() })).await;
    let told = |s: &State| s.restores.get(&mail()).is_some_and(|r| r.trouble.contains("alice: "));
    home.until("alice's absence", told).await;
    assert_eq!(home.read("a").as_deref(), Some("late"), "nothing was touched");
    // Whoever gives up has it as it was, and what lies beside it is removed.
    home.put(&format!("{STAGING}/half"), "x");
    home.order(RestoreOrder::Cancel).await;
    home.until_stage(None).await;
    let begun = Instant::now();
    while home.root().join(STAGING).exists() {
        assert!(begun.elapsed() < PATIENCE, "the half restore is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // From whoever can: one friend that is away is no reason.
    home.order(begin(wish())).await;
    home.until_stage(Some(RestoreStage::Swapped)).await;
    assert_eq!(home.read("a").as_deref(), Some("early"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_service_takes_what_was_made_before_the_fire() {
    let home = Home::new().await;
    let alice = home.befriend("alice").await;
    home.put("a", "before the fire");
    home.back_up(&alice).await;
    std::fs::remove_file(home.root().join("a")).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // As `recover` leaves it; the fire was now.
    let mut exported = (*home.state()).clone();
    let kept = [(alice.name.clone(), Record::default())].into();
    exported.backups.insert(Subject::Service(mail()), kept);
    let (_, recovered) = exported.recovered(crate::clock::unix_ms(), &recoverer());
    let restore = recovered.restores[&mail()].clone();
    assert_eq!(restore.stage, RestoreStage::Filling { held: true });
    home.back_up(&alice).await;
    home.context.do_stage(&home.state(), &mail(), &restore).await.unwrap();
    assert_eq!(home.read(&format!("{STAGING}/volumes/box/a")).as_deref(), Some("before the fire"));
}

fn recoverer() -> thermidor_model::recovered::Recoverer {
    let radiator = RadiatorName::new("neuf").unwrap();
    thermidor_model::recovered::Recoverer { radiator, address: ([10, 0, 0, 9], 7470).into(), key: "k".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_come_into_an_empty_folder_and_the_service_is_not_touched() {
    let home = Home::new().await;
    let alice = home.befriend("alice").await;
    home.put("marie/cur/1", "early");
    home.put("luc/cur/1", "luc's");
    home.back_up(&alice).await;
    home.put("marie/cur/1", "late");
    let told = tokio::sync::watch::Sender::default();
    let bring = async |wish: RestoreWish, dir: &Path| home.context.bring_to(&mail(), &wish, dir, &told).await;
    let dir = home.dir.path().join("look");
    let said = bring(wish(), &dir).await.unwrap();
    assert!(said.contains("mail as of") && said.contains("look"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.join("box/marie/cur/1")).unwrap(), "early");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing but the volume");
    assert_eq!(home.read("marie/cur/1").as_deref(), Some("late"));
    assert!(home.state().restores.is_empty());
    let refused = bring(wish(), &dir).await.unwrap_err().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    let one = home.dir.path().join("one");
    bring(RestoreWish { path: Some("box/luc".into()), ..wish() }, &one).await.unwrap();
    assert!(one.join("box/luc/cur/1").exists() && !one.join("box/marie").exists());
    let nothing = home.dir.path().join("nothing");
    let wrong = RestoreWish { path: Some("box/nobody".into()), ..wish() };
    let refused = format!("{:#}", bring(wrong, &nothing).await.unwrap_err());
    assert!(refused.contains("has no volumes/box/nobody"), "{refused}");
    let early = RestoreWish { as_of_s: Some(1_700_000_000), ..wish() };
    assert!(bring(early, &nothing).await.is_err());
}
