//! The YaCy recipe, with the stand-in that speaks YaCy's documented endpoints: a file under DATA
//! is found again, a slow stop is waited for, a kill does not wait.

mod stage;

use stage::{PATIENCE, Stage, name};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_model::VolumeName;
use thermidor_model::observe::Readiness;
use thermidor_model::spec::{EnvValue, HeatClass, RecipeSpec, ServiceSpec, YacySpec};
use thermidor_model::testing::{mount, plain_service};
use thermidor_services::docker::ContainerPlan;
use thermidor_services::recipe::{Ground, VolumePlace, resolve, yacy};

fn plan(stage: &Stage, stop_s: u64) -> ContainerPlan {
    let volume = VolumeName::new("index").unwrap();
    let place = VolumePlace { folder: stage.folder("volume"), mountpoint: None };
    let environment = BTreeMap::from([("STANDIN_STOP_S".to_owned(), EnvValue::Plain(stop_s.to_string()))]);
    let spec = ServiceSpec {
        recipe: Some(RecipeSpec::Yacy(YacySpec { network: "intranet".into(), heap_mib: 600 })),
        image: Some(yacy::STAND_IN.into()),
        environment,
        volumes: vec![mount(volume.clone(), yacy::DATA)],
        heat: HeatClass::Elastic,
        ..plain_service()
    };
    let ground = Ground {
        volumes: &BTreeMap::from([(volume, place)]),
        config: &stage.folder("config"),
        run: std::path::Path::new("/r"),
        program: std::path::Path::new("/p"),
        secret: &|_| None,
        context: &|_| None,
    };
    resolve(&name("search"), &spec, &ground).unwrap()
}

/// Starts it and waits until the recipe's own probe is content.
async fn start(stage: &Stage, epoch: u64) {
    let search = name("search");
    let found = stage.engine.start(&search, epoch).await.unwrap();
    let begun = Instant::now();
    loop {
        let probed = yacy::probe(yacy::HTTP).run(&search, found.address.unwrap(), &stage.engine).await;
        if probed.healthy == Some(true) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{probed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn data_is_found_again_a_slow_stop_is_waited_for_and_a_kill_does_not_wait() {
    let Some(stage) = Stage::set("data_is_found_again_a_slow_stop_is_waited_for").await else { return };
    let search = name("search");
    let plan = plan(&stage, 12);
    assert_eq!(plan.stop_grace_s, 60);
    assert_eq!(stage.engine.prepare(&plan).await, Readiness::Ready);
    start(&stage, 1).await;
    // Longer than Docker's usual 10 s.
    stage.engine.stop(&search, Duration::from_secs(plan.stop_grace_s)).await.unwrap();
    assert_eq!(stage.engine.find(&search).await.unwrap().unwrap().exit_code, Some(0));
    let index = || std::fs::read_to_string(stage.folder("volume").join("INDEX/standin.txt")).unwrap();
    assert_eq!(index(), "# started\n# stopped in order\n");
    start(&stage, 2).await;
    stage.engine.kill(&search).await.unwrap();
    stage.until(&search, "killed", |found| found.exit_code == Some(137)).await;
    stage.engine.remove(&search).await.unwrap();
    assert_eq!(stage.engine.prepare(&plan).await, Readiness::Ready);
    start(&stage, 3).await;
    assert_eq!(index(), "# started\n# stopped in order\n# started\n# started\n");
}
