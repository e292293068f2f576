//! A kit is replaced on a real member of a home of one, with real restic and a friend's vault.

use super::*;
use crate::daemon::{RunOptions, context};
use crate::paths::Paths;
use crate::testing::Friend as Lender;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use thermidor_backup::kit_change::NewKeys;
use thermidor_backup::restic::{Progress, ResticError};
use thermidor_model::backup::Record;
use thermidor_model::friends::{FriendIdentity, KIT_BEFORE_SECRET, KIT_SECRET};
use thermidor_model::testing::mail;
use thermidor_model::{RadiatorName, State};
use thermidor_raft::{Identity, InitOptions, Node, StartOptions};
use tokio::sync::watch;

struct Home {
    context: Context,
    dir: TempDir,
}

impl Home {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { data: dir.path().join("data"), run: dir.path().join("run") };
        paths.create().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = InitOptions {
            data: paths.data.clone(),
            home: HomeName::new("maison").unwrap(),
            radiator: RadiatorName::new("salon").unwrap(),
            listen,
            advertise: None,
            timing: Default::default(),
        };
        thermidor_raft::init(&options).unwrap();
        let data = paths.data.clone();
        let start =
            StartOptions { data, listen, advertise: None, handlers: BTreeMap::new(), snapshot_every: None };
        let node = Node::start(start).await.unwrap();
        let identity = Identity::load(&paths.data).unwrap();
        let options = RunOptions { paths, listen, engine_socket: "/nowhere".into() };
        let leader = crate::daemon::leader::Leader::new(node.clone());
        Self { context: context(&options, &identity, node, leader).unwrap(), dir }
    }

    fn state(&self) -> Arc<State> {
        self.context.node.state().borrow().clone()
    }

    async fn done(&self, command: Command) {
        let outcome = self.context.node.propose(command, within(PATIENCE)).await.unwrap();
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    async fn befriend(&self, name: &str) -> Lender {
        let kit = self.context.kit_or_new().await.unwrap();
        let lender = Lender::new(name, &kit, 1).await;
        let identity = FriendIdentity {
            key: PublicKey([7; 32]),
            transport: PublicKey(lender.key.0),
            generation: 1,
            addresses: vec![lender.address.clone()],
        };
        let (home, words) = (lender.name.clone(), ["a", "b", "c", "d"].map(str::to_owned));
        self.done(Command::MeetFriend { home: home.clone(), identity, words: words.clone() }).await;
        self.done(Command::ConfirmFriend { home, words }).await;
        lender
    }

    fn record(&self, lender: &Lender) -> Record {
        let state = self.state();
        let records = state.backups.get(&Subject::Service(mail()));
        records.and_then(|records| records.get(&lender.name)).cloned().unwrap_or_default()
    }

    /// Mail is backed up by whichever kit the friend holds to.
    async fn back_up(&self, lender: &Lender, source: &Path) -> Record {
        let door = self.context.door_to(&lender.name).await.unwrap();
        let (restic, subject) =
            (self.context.backups.restic(&self.context).await.unwrap(), Subject::Service(mail()));
        let round = Round {
            restic,
            at: door.at(),
            kit: &door.kit,
            home: HomeName::new("maison").unwrap(),
            generation: 1,
            vault: lender.name.clone(),
            subject: subject.clone(),
            challenges: challenges(&self.context.paths.data, &subject, &lender.name),
        };
        let (was, progress) = (self.record(lender), watch::Sender::new(Progress::default()));
        let record = round.back_up(source, unix_ms(), &was, 1, unix_ms, &progress).await;
        let (friend, was, noted) = (lender.name.clone(), Box::new(was), Box::new(record.clone()));
        self.done(Command::NoteBackup { subject, friend, was, record: noted }).await;
        record
    }

    /// Whether that kit opens mail's repository, by a door that shows another.
    async fn opens(&self, lender: &Lender, shown: &Kit, kit: &Kit) -> bool {
        let state = self.state();
        let door = self.context.door_by(&state, &lender.name, shown).await.unwrap();
        let repository = thermidor_backup::restic::Repository {
            at: door.at(),
            home: door.home.clone(),
            folder: thermidor_backup::vault::Folder::new("mail").unwrap(),
            password: None,
            key: kit.repository(&lender.name).unwrap(),
            as_of: None,
        };
        match self.context.backups.restic(&self.context).await.unwrap().snapshots(&repository).await {
            Ok(_) => true,
            Err(ResticError::WrongPassword) => false,
            Err(e) => panic!("{e}"),
        }
    }

    async fn bring(&self, admitted: &mut Admitted) {
        self.context.bring_kit_to_friends(&self.state(), admitted).await.unwrap();
        assert_eq!(self.state().check(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_kit_comes_to_a_friend_who_holds_to_the_old_one_until_its_person_has_confirmed() {
    let home = Home::new().await;
    let none = home.context.replace_kit().await.unwrap_err().text;
    assert!(none.contains("`thermidor kit print` makes one"), "{none}");
    let alpes = home.befriend("alpes").await;
    let source = home.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("letter"), "dear all").unwrap();
    assert_eq!(home.back_up(&alpes, &source).await.failure, None);
    let old = home.context.kit().unwrap().unwrap();

    let said = home.context.replace_kit().await.unwrap();
    assert_eq!(said["waits"][0]["friend"], "alpes");
    let again = home.context.replace_kit().await.unwrap_err().text;
    assert!(again.contains("alpes must confirm that first"), "{again}");
    let (state, new) = (home.state(), home.context.kit().unwrap().unwrap());
    assert_ne!(new, old);
    assert_eq!(home.context.kit_for(&state, &alpes.name).unwrap(), Some(old.clone()));
    // What is left of the home itself opens with the old kit, and holds nothing else.
    let (left, sealed_by) = home.context.home_to_leave(&state, true).unwrap();
    assert_eq!(sealed_by, old);
    let entropy = home.context.node.identity().open(KIT_SECRET, &left.secrets[KIT_SECRET]).unwrap();
    assert_eq!(Kit::from_entropy(&entropy), Some(old.clone()));
    assert!(!left.secrets.contains_key(KIT_BEFORE_SECRET));
    assert!(!left.secrets.values().any(|sealed| *sealed == state.secrets[KIT_SECRET]));
    assert_eq!(home.context.home_to_leave(&state, false).unwrap().1, new);

    let mut admitted = Admitted::new();
    assert!(!home.opens(&alpes, &old, &new).await);
    for _ in 0..2 {
        home.bring(&mut admitted).await;
    }
    let state = home.state();
    assert!(state.kit_change.as_ref().unwrap().waiting[&alpes.name].announced_ms.is_some());
    assert_eq!(alpes.status().await.kit_said, Some(NewKeys::of(&new).unwrap()));
    assert!(home.opens(&alpes, &old, &new).await && home.opens(&alpes, &old, &old).await);
    std::fs::write(source.join("another"), "dear friends").unwrap();
    assert_eq!(home.back_up(&alpes, &source).await.failure, None, "backups go on");

    alpes.believe(&new, 1);
    let begun = Instant::now();
    while home.context.door_by(&home.state(), &alpes.name, &new).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new kit is not let in");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(home.context.door_to(&alpes.name).await.is_err(), "the old one is refused");
    home.bring(&mut admitted).await;
    let state = home.state();
    assert!(state.kit_change.is_none() && !state.secrets.contains_key(KIT_BEFORE_SECRET));
    assert!(home.record(&alpes).old_keys.is_empty() && home.record(&alpes).failure.is_none());
    assert!(home.opens(&alpes, &new, &new).await && !home.opens(&alpes, &new, &old).await);
    std::fs::write(source.join("third"), "dear").unwrap();
    assert_eq!(home.back_up(&alpes, &source).await.failure, None, "no loss is told");
    assert!(home.context.door_by(&state, &alpes.name, &old).await.is_err());
}
