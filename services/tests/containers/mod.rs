//! What every container engine must do for us, Docker and Podman alike: containers prepared, started,
//! adopted, stopped, killed, kept within their limits. Whoever includes it says by `set` on which engine.

use crate::stage::{self, PATIENCE, name, script};
use crate::{TELLS_OOM, set};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use thermidor_model::observe::Readiness;
use thermidor_services::docker::{
    BindMount, ContainerPlan, Engine, EngineConfig, EngineError, ImageSource, cgroup_of,
};
use thermidor_services::fence::Place;
use thermidor_services::inside::Inside;
use thermidor_services::probe::page;
use tokio::net::{UnixListener, UnixStream};

const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn bind(host: &Path, path: &str) -> BindMount {
    BindMount { host: host.to_owned(), path: path.into(), read_only: false, mountpoint: None, seed: false }
}

#[tokio::test]
async fn a_prepared_container_is_started_adopted_and_stopped() {
    let Some(stage) = set("a_prepared_container_is_started_adopted_and_stopped").await else { return };
    let notes = name("notes");
    let plan = script("notes", FOREVER);
    let unprepared = stage.engine.start(&notes, 1).await.unwrap_err();
    assert!(matches!(unprepared, EngineError::NotPrepared { .. }), "{unprepared}");
    assert_eq!(stage.engine.prepare(&plan).await, Readiness::Ready);
    assert_eq!(stage.engine.prepare(&plan).await, Readiness::Ready, "again: nothing to do");
    let standby = stage.engine.find(&notes).await.unwrap().unwrap();
    assert!(!standby.running && standby.epoch == 0 && standby.exit_code.is_none());

    let started = stage.engine.start(&notes, 7).await.unwrap();
    assert!(started.running && started.epoch == 7 && started.address.is_some() && started.pid.is_some());

    let restarted = Engine::connect(stage.config.clone()).await.unwrap();
    assert_eq!(
        restarted.list().await.unwrap(),
        std::slice::from_ref(&started),
        "adopted after a restart of the daemon"
    );
    assert_eq!(restarted.start(&notes, 7).await.unwrap(), started, "it runs already: well");
    let stale = restarted.start(&notes, 8).await.unwrap_err();
    assert!(matches!(stale, EngineError::OtherEpoch { running: 7, wanted: 8, .. }), "{stale}");

    restarted.stop(&notes, Duration::from_secs(30)).await.unwrap();
    let stopped = restarted.find(&notes).await.unwrap().unwrap();
    assert_eq!((stopped.running, stopped.exit_code), (false, Some(0)));
    restarted.stop(&notes, Duration::from_secs(30)).await.unwrap();
    restarted.kill(&notes).await.unwrap();
    assert_eq!(restarted.start(&notes, 8).await.unwrap().epoch, 8);
    restarted.kill(&notes).await.unwrap();
    stage.until(&notes, "killed", |found| found.exit_code == Some(137)).await;
    restarted.remove(&notes).await.unwrap();
    restarted.remove(&notes).await.unwrap();
    restarted.stop(&notes, Duration::ZERO).await.unwrap();
    assert_eq!(restarted.list().await.unwrap(), []);
}

#[tokio::test]
async fn another_plan_makes_another_container_but_never_under_a_running_service() {
    let Some(stage) = set("another_plan_makes_another_container").await else { return };
    let notes = name("notes");
    let old = script("notes", FOREVER);
    let new = ContainerPlan { environment: BTreeMap::from([("A".into(), "b".into())]), ..old.clone() };
    stage.engine.prepare(&old).await;
    let first = stage.engine.start(&notes, 1).await.unwrap();
    let waits = stage.engine.prepare(&new).await;
    assert!(matches!(&waits, Readiness::Preparing(why) if why.contains("older plan")), "{waits:?}");
    assert_eq!(stage.engine.find(&notes).await.unwrap().unwrap(), first, "it runs on, untouched");
    stage.engine.stop(&notes, Duration::from_secs(30)).await.unwrap();
    assert_eq!(stage.engine.prepare(&new).await, Readiness::Ready);
    let second = stage.engine.find(&notes).await.unwrap().unwrap();
    assert!(second.id != first.id && second.plan_hash == new.hash() && second.epoch == 0);
}

/// Tells of its routes (a head line and no more: it has none), then gives a page on loopback to whoever asks.
const ALONE: &str = r#"wc -l < /proc/net/route > /data/routes; echo "up at last"
exec perl -MIO::Socket::INET -e '
  my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8090, Listen => 5) or die;
  while (my $c = $s->accept) {
    while (my $line = <$c>) { last if $line =~ /^\r?\n$/ }
    print $c "HTTP/1.0 200 OK\r\n\r\n"; close $c
  }'"#;

#[tokio::test]
async fn a_service_on_trial_has_no_network_and_is_nobodys_instance_and_goes_after_its_daemon_was_killed() {
    let Some(stage) = set("a_service_on_trial_has_no_network_and_is_nobodys_instance").await else { return };
    let notes = name("notes");
    stage.engine.prepare(&script("notes", FOREVER)).await;
    let serving = stage.engine.start(&notes, 7).await.unwrap();
    let data = stage.folder("restored");
    let plan = ContainerPlan { mounts: vec![bind(&data, "/data")], ..script("notes", ALONE) };
    let trial = stage.engine.start_trial(&plan).await.unwrap();
    assert!(trial.running && trial.epoch == 0 && trial.id != serving.id, "{trial:?}");
    assert_eq!(trial.address, None);

    let inside = Inside::of(trial.pid.unwrap()).unwrap();
    let begun = std::time::Instant::now();
    loop {
        let asked = async {
            let stream = inside.connect(8090).await.map_err(|e| e.to_string())?;
            page(stream, &"the trial", "/").await
        };
        match asked.await {
            Ok(()) => break,
            Err(why) => assert!(begun.elapsed() < PATIENCE, "it never answers: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(std::fs::read_to_string(data.join("routes")).unwrap().trim(), "1", "no way to anywhere");
    assert_eq!(stage.engine.trial_words(&notes, 3).await.unwrap(), ["up at last"]);
    // Whoever looks for the home's services sees one instance, and it is the one that serves.
    assert_eq!(stage.engine.list().await.unwrap(), std::slice::from_ref(&serving));

    // The daemon that started it is gone; the next one knows nothing but the home's name.
    let next = Engine::connect(stage.config.clone()).await.unwrap();
    assert_eq!(next.remove_trials().await.unwrap(), 1);
    assert_eq!(next.find_trial(&notes).await.unwrap(), None);
    assert_eq!(next.remove_trials().await.unwrap(), 0);
    assert_eq!(next.list().await.unwrap(), [serving]);
}

#[tokio::test]
async fn a_trial_that_ends_at_once_is_seen_with_its_code_and_its_words() {
    let Some(stage) = set("a_trial_that_ends_at_once_is_seen").await else { return };
    let notes = name("notes");
    let text = "echo first; echo 'no such folder' >&2; exit 3";
    stage.engine.start_trial(&script("notes", text)).await.unwrap();
    let begun = std::time::Instant::now();
    let ended = loop {
        let found = stage.engine.find_trial(&notes).await.unwrap().unwrap();
        if !found.running {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "it never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ended.exit_code, Some(3));
    let mut words = stage.engine.trial_words(&notes, 5).await.unwrap();
    words.sort();
    assert_eq!(words, ["first", "no such folder"]);
    assert_eq!(stage.engine.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_stop_waits_for_its_budget_and_no_longer() {
    let Some(stage) = set("a_stop_waits_for_its_budget_and_no_longer").await else { return };
    let data = stage.folder("data");
    let slow =
        "trap 'sleep 3; echo saved > /data/saved; exit 0' TERM; echo > /data/up; while :; do sleep 0.1; done";
    let plan = ContainerPlan { mounts: vec![bind(&data, "/data")], ..script("slow", slow) };
    stage.engine.prepare(&plan).await;
    let service = name("slow");
    for (budget, code, saved) in [(30, 0, true), (1, 137, false)] {
        stage.engine.start(&service, budget).await.unwrap();
        while !data.join("up").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage.engine.stop(&service, Duration::from_secs(budget)).await.unwrap();
        let ended = stage.engine.find(&service).await.unwrap().unwrap();
        assert_eq!((ended.exit_code, data.join("saved").exists()), (Some(code), saved), "budget {budget} s");
        for file in ["up", "saved"] {
            std::fs::remove_file(data.join(file)).ok();
        }
    }
}

#[tokio::test]
async fn a_control_group_is_killed_and_measured_without_docker() {
    let Some(stage) = set("a_control_group_is_killed_and_measured_without_docker").await else {
        return;
    };
    let busy = name("busy");
    let many = "for i in 1 2 3; do (trap '' TERM; while :; do :; done) & done; wait";
    stage.engine.prepare(&ContainerPlan { cpus_max: Some(0.5), ..script("busy", many) }).await;
    let found = stage.engine.start(&busy, 1).await.unwrap();
    let group = cgroup_of(found.pid.unwrap()).unwrap();
    while group.cpu_ns().unwrap() < 50_000_000 || group.processes().unwrap().len() < 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let usage = stage.engine.usage(&busy).await.unwrap();
    assert!(usage.cpu_ns >= 50_000_000 && usage.memory_bytes > 0);
    thermidor_services::fence::kill(group.folder(), PATIENCE).unwrap();
    assert_eq!(group.processes().unwrap(), []);
    let ended = stage.until(&busy, "seen as ended", |found| !found.running).await;
    assert_eq!((ended.exit_code, ended.pid), (Some(137), None));
}

#[tokio::test]
async fn a_container_is_killed_by_its_id_before_anybody_knows_its_control_group() {
    let Some(stage) = set("a_container_is_killed_by_its_id").await else { return };
    let busy = name("busy");
    stage.engine.prepare(&script("busy", "trap '' TERM; while :; do sleep 0.1; done")).await;
    let standby = stage.engine.find(&busy).await.unwrap().unwrap();
    let place = Place::Container(standby.id);
    assert!(place.is_empty().unwrap(), "created, not started");
    let found = stage.engine.start(&busy, 1).await.unwrap();
    assert!(!place.is_empty().unwrap());
    let group = cgroup_of(found.pid.unwrap()).unwrap();
    assert!(place.is_same(&Place::Cgroup(group.folder().to_owned())), "{group:?}");
    place.kill(PATIENCE).unwrap();
    assert_eq!(group.processes().unwrap(), []);
    let ended = stage.until(&busy, "seen as ended", |found| !found.running).await;
    assert_eq!(ended.exit_code, Some(137), "its engine hears of it");
    assert!(place.is_empty().unwrap());
}

#[tokio::test]
async fn limits_of_memory_and_processes_are_in_force_and_nothing_is_restarted_by_the_engine() {
    let Some(stage) = set("limits_of_memory_and_processes_are_in_force").await else { return };
    let many = "my $n = 0; for (1..100) { my $p = fork; last unless defined $p; if (!$p) { sleep 5; exit } $n++ } \
                print $n < 100 ? 'refused' : 'forked', qq(\\n); kill 9, -1";
    let perl = |text: &str| Some(["perl", "-e", text].map(String::from).to_vec());
    let forks = ContainerPlan { command: perl(many), pids_max: 30, ..script("forks", "") };
    assert_eq!(stage.engine.prepare(&forks).await, Readiness::Ready);
    stage.engine.start(&name("forks"), 1).await.unwrap();
    stage.until(&name("forks"), "ended", |found| !found.running).await;
    let lines = stage.engine.logs(&name("forks"), false, None).await.unwrap();
    let lines: Vec<_> = lines.map(|l| l.unwrap().text).collect().await;
    assert_eq!(lines, ["refused"]);

    let eats = "my $x = 'x' x (256 << 20); sleep 1; print length $x";
    let eats = ContainerPlan { command: perl(eats), memory_max_bytes: Some(64 << 20), ..script("eats", "") };
    assert_eq!(stage.engine.prepare(&eats).await, Readiness::Ready);
    stage.engine.start(&name("eats"), 1).await.unwrap();
    let ended = stage.until(&name("eats"), "ended", |found| !found.running).await;
    assert!(ended.exit_code == Some(137) && (ended.oom || !TELLS_OOM), "{ended:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for found in stage.engine.list().await.unwrap() {
        assert!(!found.running, "restarted: {found:?}");
    }
}

#[tokio::test]
async fn a_container_without_its_volume_is_not_started() {
    let Some(stage) = set("a_container_without_its_volume_is_not_started").await else { return };
    let data = stage.folder("data");
    let mount = BindMount { mountpoint: Some(data.clone()), ..bind(&data, "/data") };
    stage.engine.prepare(&ContainerPlan { mounts: vec![mount], ..script("notes", FOREVER) }).await;
    let error = stage.engine.start(&name("notes"), 1).await.unwrap_err();
    assert!(matches!(error, EngineError::NotMounted { .. }), "{error}");
    assert!(!stage.engine.find(&name("notes")).await.unwrap().unwrap().running);
}

#[tokio::test]
async fn a_container_that_dies_at_once_is_seen_with_its_code_its_words_and_its_event() {
    let Some(stage) = set("a_container_that_dies_at_once").await else { return };
    let mut events = Box::pin(stage.engine.events(0).await.unwrap());
    let script = script("frail", "echo to out; echo to err >&2; sleep 0.2; exit 3");
    stage.engine.prepare(&script).await;
    let frail = name("frail");
    stage.engine.start(&frail, 1).await.unwrap();
    let next = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.action == "die" {
                return event;
            }
        }
    };
    let died = tokio::time::timeout(PATIENCE, next).await.unwrap();
    assert_eq!((died.service, died.exit_code), (frail.clone(), Some(3)));
    let ended = stage.until(&frail, "ended", |found| !found.running).await;
    assert_eq!(ended.exit_code, Some(3));
    let lines = stage.engine.logs(&frail, false, Some(10)).await.unwrap();
    let mut lines: Vec<_> = lines.map(|l| l.unwrap()).map(|l| (l.stderr, l.text)).collect().await;
    lines.sort();
    assert_eq!(lines, [(false, "to out".to_owned()), (true, "to err".to_owned())]);
}

#[tokio::test]
async fn an_image_is_built_from_its_context_and_a_failed_build_says_its_last_words() {
    let Some(mut stage) = set("an_image_is_built_from_its_context").await else { return };
    let built = |line: &str| {
        let text = format!("FROM {}\nRUN {line}\n", stage::BASE);
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "Dockerfile", text.as_bytes()).unwrap();
        let context = Bytes::from(tar.into_inner().unwrap());
        let hash = blake3::hash(format!("{}{text}", std::process::id()).as_bytes()).to_hex().to_string();
        ImageSource::Build {
            name: "test".into(),
            hash,
            dockerfile: "Dockerfile".into(),
            args: BTreeMap::new(),
            context,
        }
    };
    let broken = ContainerPlan { image: built("echo so far; exit 9"), ..script("notes", "true") };
    let failed = stage.engine.prepare(&broken).await;
    let Readiness::Failed(why) = failed else { panic!("{failed:?}") };
    let code = ["returned a non-zero code: 9", "exit status 9"];
    assert!(code.iter().any(|code| why.contains(code)) && why.contains("so far"), "{why}");

    // An empty volume is filled from the image, owners included, and only once.
    let image = built("mkdir -p /data/sub && echo from-image > /data/sub/file && chown -R 1234:1235 /data");
    stage.images.push(image.reference());
    let data = stage.folder("data");
    let mount = BindMount { seed: true, ..bind(&data, "/data") };
    let text = "id -u; echo mine >> /data/sub/file && cat /data/sub/file; sleep 0.1";
    let plan =
        ContainerPlan { image, mounts: vec![mount], user: Some("1234".into()), ..script("notes", text) };
    assert_eq!(stage.engine.prepare(&plan).await, Readiness::Ready);
    for epoch in 1..=2 {
        stage.engine.start(&name("notes"), epoch).await.unwrap();
        let ended = stage.until(&name("notes"), "ended", |found| !found.running).await;
        assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    }
    let text = std::fs::read_to_string(data.join("sub/file")).unwrap();
    assert_eq!(text, "from-image\nmine\nmine\n");
}

#[tokio::test]
async fn an_image_that_cannot_be_had_is_said() {
    let Some(stage) = set("an_image_that_cannot_be_had_is_said").await else { return };
    let image = ImageSource::Pull { reference: "localhost:1/never/there:1".into() };
    let failed = stage.engine.prepare(&ContainerPlan { image, ..script("notes", "true") }).await;
    assert!(matches!(&failed, Readiness::Failed(why) if why.contains("localhost:1")), "{failed:?}");
    assert_eq!(stage.engine.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_container_has_few_rights_and_no_way_to_more() {
    let Some(stage) = set("a_container_has_few_rights_and_no_way_to_more").await else { return };
    let text = "grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; touch /x || echo read-only; hostname";
    stage.engine.prepare(&ContainerPlan { read_only_root: true, ..script("notes", text) }).await;
    stage.engine.start(&name("notes"), 1).await.unwrap();
    stage.until(&name("notes"), "ended", |found| !found.running).await;
    let lines = stage.engine.logs(&name("notes"), false, None).await.unwrap();
    let lines: Vec<_> = lines.map(|l| l.unwrap().text).collect().await;
    let all = lines.join("\n");
    assert!(all.contains("NoNewPrivs:\t1") && all.contains("read-only") && all.contains("\nnotes"), "{all}");
    let bounding = lines.iter().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
    let bounding = u64::from_str_radix(bounding, 16).unwrap();
    const NET_RAW: u64 = 1 << 13;
    const SYS_ADMIN: u64 = 1 << 21;
    assert_eq!(bounding & (NET_RAW | SYS_ADMIN), 0);
}

/// Leads a socket of ours to the real one until it is dropped.
fn bridge(from: &Path, to: &Path) -> tokio::task::JoinHandle<()> {
    let (listener, to) = (UnixListener::bind(from).unwrap(), to.to_owned());
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = UnixStream::connect(&to).await.unwrap();
            connections.spawn(async move {
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    })
}

#[tokio::test]
async fn a_docker_that_comes_back_is_used_again_and_its_containers_found() {
    let Some(stage) = set("a_docker_that_comes_back_is_used_again").await else { return };
    let socket = stage.dir.path().join("bridge");
    let up = bridge(&socket, &stage.config.socket);
    let engine = Engine::new(EngineConfig { socket: socket.clone(), ..stage.config.clone() }).unwrap();
    engine.prepare(&script("notes", FOREVER)).await;
    let started = engine.start(&name("notes"), 1).await.unwrap();
    up.abort();
    assert!(up.await.unwrap_err().is_cancelled());
    std::fs::remove_file(&socket).unwrap();
    let error = engine.list().await.unwrap_err();
    assert!(error.may_pass() && matches!(error, EngineError::Gone { .. }), "{error}");
    let up = bridge(&socket, &stage.config.socket);
    assert_eq!(engine.list().await.unwrap(), [started]);
    up.abort();
}

/// A shared mount, unmounted with all below it at the end.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(folder: std::path::PathBuf) -> Self {
        use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
        mount_bind(&folder, &folder).unwrap();
        mount_change(&folder, MountPropagationFlags::SHARED).unwrap();
        Self(folder)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

/// An unmount reaches mounts that stand *below* a shared one. A container's volume is a mount of its
/// own, of the same file system, below the container's root: no propagation reaches it. So the
/// container ends first, always, and what must not be written any more is made to fail instead.
#[tokio::test]
async fn a_running_container_keeps_its_volume_when_that_is_unmounted_so_it_ends_first() {
    let Some(stage) = set("a_running_container_keeps_its_volume").await else { return };
    let shared = Shared::new(stage.folder("shared"));
    let volume = stage.folder("shared/volume");
    let mount = BindMount { mountpoint: Some(volume.clone()), ..bind(&volume, "/data") };
    let text = "[ -e /data/file ] || exit 9; while [ -e /data/file ]; do sleep 0.1; done; exit 8";
    let text = format!("trap 'exit 0' TERM; {text}");
    stage.engine.prepare(&ContainerPlan { mounts: vec![mount], ..script("notes", &text) }).await;
    // Created before, mounted afterwards: as on a standby that takes over.
    let none = None::<&std::ffi::CStr>;
    rustix::mount::mount("none", &volume, "tmpfs", rustix::mount::MountFlags::empty(), none).unwrap();
    std::fs::write(volume.join("file"), "").unwrap();
    stage.engine.start(&name("notes"), 1).await.unwrap();
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(!volume.join("file").exists(), "gone on the radiator");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = stage.engine.find(&name("notes")).await.unwrap().unwrap();
    assert!(found.running, "and still there in the container: {found:?}");
    stage.engine.stop(&name("notes"), PATIENCE).await.unwrap();
    assert_eq!(stage.engine.find(&name("notes")).await.unwrap().unwrap().exit_code, Some(0));
    let again = stage.engine.start(&name("notes"), 2).await.unwrap_err();
    assert!(matches!(again, EngineError::NotMounted { .. }), "it is not started without: {again}");
    drop(shared);
}
