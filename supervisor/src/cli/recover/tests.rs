//! With real restic, friends' vaults as they run in their containers, and all that goes wrong at them.

use super::*;
use crate::testing::{Friend, free_port};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_backup::line::{Forwarder, Own, Pin};
use thermidor_backup::restic::Source;
use thermidor_model::backup::{Record, Subject};
use thermidor_model::testing::{RADIATORS, mail, serving_home};
use thermidor_raft::{Identity, InitOptions};

const PATIENCE: Duration = Duration::from_secs(30);

/// A home in generation 3 with its keys, as it would be exported.
fn home(dir: &Path) -> HomeItself {
    let mut state = serving_home(3, 2);
    let data = dir.join("burnt");
    let options = InitOptions {
        data: data.clone(),
        home: state.home.clone().unwrap(),
        radiator: RadiatorName::new(RADIATORS[0]).unwrap(),
        listen: "127.0.0.1:1".parse().unwrap(),
        advertise: None,
        timing: state.timing,
    };
    thermidor_raft::init(&options).unwrap();
    let identity = Identity::load(&data).unwrap();
    let kept = [(HomeName::new("alice").unwrap(), Record::default())].into();
    state.backups.insert(Subject::Service(mail()), kept);
    state.authority_pem = identity.authority_pem.clone();
    state.generation = 3;
    let sealed = identity.seal(0, "mail/marie", b"hunter2").unwrap();
    state.secrets.insert("mail/marie".into(), sealed);
    let keys = identity.keep(&state).unwrap();
    HomeItself { state, home_keys: keys.home_keys, authority_key_pem: keys.authority_key_pem }
}

/// The home backs itself up at a friend's, sealed with `sealed_by`.
async fn keep(dir: &Path, kit: &Kit, at: &Friend, home: &HomeItself, sealed_by: &Kit) {
    let own = Own::new(&kit.transport().unwrap(), 3).unwrap();
    let door = Forwarder::open(vec![at.address.clone()], own, Pin::Anybody, PATIENCE).await.unwrap();
    let repository = Repository {
        at: door.at(),
        home: HomeName::new("maison").unwrap(),
        folder: Folder::new(FOLDER).unwrap(),
        password: None,
        key: kit.repository(&at.name).unwrap(),
        as_of: None,
    };
    let restic = Restic::find(Settings::new(dir.join("cache"))).await.unwrap();
    if restic.snapshots(&repository).await.is_err() {
        restic.init(&repository).await.unwrap();
    }
    let folder = dir.join("staging");
    thermidor_backup::home_itself::make_private(&folder).unwrap();
    home.write_into(&folder, sealed_by).unwrap();
    let source = Source { dir: folder, home: repository.home.clone(), tag: FOLDER.into(), parent: None };
    restic.backup(&repository, &source, &Default::default()).await.unwrap();
}

struct Stage {
    dir: TempDir,
    kit: Kit,
    home: HomeItself,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        Self { kit: Kit::draw().unwrap(), home, dir }
    }

    async fn keep(&self, at: &Friend, change: impl FnOnce(&mut HomeItself)) {
        let mut home = self.home.clone();
        change(&mut home);
        keep(self.dir.path(), &self.kit, at, &home, &self.kit).await;
    }

    fn bare_machine(&self) -> (Paths, PathBuf) {
        let data = self.dir.path().join("new");
        let paths = Paths { data: data.clone(), run: self.dir.path().join("run") };
        paths.create().unwrap();
        (paths, data)
    }

    fn wanted(&self, friends: &[&Friend]) -> Wanted {
        Wanted {
            kit: self.kit.clone(),
            friends: friends.iter().map(|f| vec![f.address.clone()]).collect(),
            as_of: None,
            radiator: RadiatorName::new("neuf").unwrap(),
            listen: "127.0.0.1:7470".parse().unwrap(),
        }
    }
}

/// What a member's directory holds after a start that goes no further than reading it.
fn generation_of(data: &Path) -> u64 {
    Identity::load(data).unwrap().generation
}

fn blame(done: Result<String, Refused>, words: &[&str]) {
    let refused = done.expect_err("it went well").text;
    for word in words {
        assert!(refused.contains(word), "`{word}` is not in: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_comes_back_from_words_and_an_address_alone() {
    let stage = Stage::new();
    let alice = Friend::new("alice", &stage.kit, 3).await;
    stage.keep(&alice, |_| {}).await;
    let (paths, data) = stage.bare_machine();
    let said = recover(&paths, stage.wanted(&[&alice])).await.unwrap();
    assert!(
        said.contains("maison is recovered from alice: neuf alone is the home now, in generation 4"),
        "{said}"
    );
    assert!(said.contains("names bureau, cave, salon and not neuf"), "{said}");
    assert!(said.contains("mail starts once its data are here again"), "{said}");
    assert_eq!(generation_of(&data), 4);
    assert!(!data.join("recover").exists(), "the plain state is left nowhere");
    let identity = Identity::load(&data).unwrap();
    let opened = identity.open("mail/marie", &stage.home.state.secrets["mail/marie"]).unwrap();
    assert_eq!(opened.as_slice(), b"hunter2");
    // The friend believes the earlier generation until its person has asked: nothing of this wrote to the vault.
    blame(recover(&paths, stage.wanted(&[&alice])).await, &["belongs to a home already"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_is_taken_whoever_has_it_and_one_that_is_away_is_no_hindrance() {
    let stage = Stage::new();
    let (alice, carol) =
        (Friend::new("alice", &stage.kit, 3).await, Friend::new("carol", &stage.kit, 3).await);
    let away = Friend::new("dora", &stage.kit, 3).await;
    away.task.abort();
    stage.keep(&alice, |_| {}).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    stage.keep(&carol, |home| home.state.generation = 5).await;
    let (paths, data) = stage.bare_machine();
    let said = recover(&paths, stage.wanted(&[&away, &alice, &carol])).await.unwrap();
    assert!(said.contains("recovered from carol"), "{said}");
    assert_eq!(generation_of(&data), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_can_not_be_read_is_passed_over() {
    let stage = Stage::new();
    let alice = Friend::new("alice", &stage.kit, 3).await;
    stage.keep(&alice, |_| {}).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    keep(stage.dir.path(), &stage.kit, &alice, &stage.home, &Kit::draw().unwrap()).await;
    let (paths, data) = stage.bare_machine();
    recover(&paths, stage.wanted(&[&alice])).await.unwrap();
    assert_eq!(generation_of(&data), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_founded_where_nothing_comes_back() {
    let stage = Stage::new();
    let alice = Friend::new("alice", &stage.kit, 3).await;
    let (paths, data) = stage.bare_machine();
    let none = |data: &Path| assert!(!data.join("identity").exists() && !data.join("recover").exists());
    // Friends, and never a backup.
    blame(recover(&paths, stage.wanted(&[&alice])).await, &["nothing was changed here"]);
    none(&data);
    stage.keep(&alice, |_| {}).await;
    // Words of another kit: to alice that is a stranger.
    let other = Wanted { kit: Kit::draw().unwrap(), ..stage.wanted(&[&alice]) };
    blame(recover(&paths, other).await, &["does not know this home"]);
    none(&data);
    // Nobody there.
    let mut nowhere = stage.wanted(&[]);
    nowhere.friends = vec![vec![format!("127.0.0.1:{}", free_port())]];
    blame(recover(&paths, nowhere).await, &["can't be reached"]);
    none(&data);
    // Something else there.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut no_vault = stage.wanted(&[]);
    no_vault.friends = vec![vec![other.local_addr().unwrap().to_string()]];
    std::thread::spawn(move || drop(other.accept()));
    blame(recover(&paths, no_vault).await, &["is no vault of a home"]);
    none(&data);
    // Before there was anything.
    let early = Wanted { as_of: Some(1_700_000_000), ..stage.wanted(&[&alice]) };
    blame(recover(&paths, early).await, &["nothing was changed here"]);
    none(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_homes_export_is_not_taken_for_ours() {
    let stage = Stage::new();
    let alice = Friend::new("alice", &stage.kit, 3).await;
    stage.keep(&alice, |home| home.state.home = Some(HomeName::new("chalet").unwrap())).await;
    let (paths, data) = stage.bare_machine();
    blame(recover(&paths, stage.wanted(&[&alice])).await, &["another home's"]);
    assert!(!data.join("identity").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_friend_has_confirmed_another_kit_its_paper_opens_what_lies_there_and_the_old_one_is_refused()
{
    let mut stage = Stage::new();
    let old = stage.kit.clone();
    stage.kit = Kit::draw().unwrap();
    let alice = Friend::new("alice", &stage.kit, 3).await;
    stage.keep(&alice, |_| {}).await;
    let (paths, data) = stage.bare_machine();
    let by_old = Wanted { kit: old, ..stage.wanted(&[&alice]) };
    blame(
        recover(&paths, by_old).await,
        &["does not know this home", "if the recovery kit was replaced", "other paper"],
    );
    recover(&paths, stage.wanted(&[&alice])).await.unwrap();
    assert_eq!(generation_of(&data), 4);
}
