//! `consensus`: puts of 256 bytes in a home of three and in etcd of three, on one disk, in turn.

mod etcd;
mod etcd_client;
mod home;
mod load;
mod losses;

use super::figures::{Bound, Figure, quantile};
use super::{Ground, Group};
use anyhow::{Context, Result, ensure};
use etcd::Etcd;
use home::Home;
use load::Measured;
use std::time::Duration;

/// The group.
pub const GROUP: Group = Group {
    name: "consensus",
    about: "puts of 256 bytes, on a majority's disks before the answer, against etcd",
    figures: &[
        "put_latency_p50",
        "put_latency_p99",
        "put_throughput_1",
        "put_throughput_10",
        "put_throughput_100",
        "put_throughput_1000",
    ],
    run: measure,
};

/// How many callers at once, and the figure of each.
const LOADS: [(usize, &str); 4] = [
    (1, "put_throughput_1"),
    (10, "put_throughput_10"),
    (100, "put_throughput_100"),
    (1000, "put_throughput_1000"),
];
/// How often each load is put on both, in turn; `THERMIDOR_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 5;
/// Connections that callers share, at most; equal for both.
const CONNECTIONS_MAX: usize = 10;
/// How long a load is put before it counts.
const WARM_UP: Duration = Duration::from_millis(1000);
/// How long a load counts.
const TIME: Duration = Duration::from_secs(4);

/// Both sides' measurements of one load, a round each.
#[derive(Default)]
struct Rounds {
    ours: Vec<Measured>,
    theirs: Vec<Measured>,
}

fn measure(ground: &Ground) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir_in(&ground.scratch).context("make a folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut home = Home::form(&ground.thermidor, dir.path())?;
    let mut etcd = Etcd::start(&dir.path().join("etcd"))?;
    let version = etcd.version()?;
    ensure!(version.starts_with("3.4."), "the anchor is etcd 3.4, and this is {version}");
    let rounds = super::setting("THERMIDOR_BENCH_ROUNDS", ROUNDS)?;
    ground.say(format!("a home of three and etcd {version} of three; {rounds} rounds"));
    let mut all: [Rounds; 4] = Default::default();
    for round in 0..rounds {
        for ((callers, _), both) in LOADS.into_iter().zip(&mut all) {
            // The values of each run are numbered apart.
            let first = (round as u64) << 48;
            let connections = callers.min(CONNECTIONS_MAX);
            let ours = runtime.block_on(in_home(&mut home, callers, connections, first))?;
            let theirs = runtime.block_on(in_etcd(&mut etcd, callers, connections, first))?;
            ground.say(format!(
                "round {}, {callers:>4} callers: {:>6.0} puts/s, etcd {:>6.0}; p50 {:>6.2} ms, etcd {:>6.2}",
                round + 1,
                ours.per_second,
                theirs.per_second,
                quantile(&ours.latencies_ms, 0.5),
                quantile(&theirs.latencies_ms, 0.5),
            ));
            both.ours.push(ours);
            both.theirs.push(theirs);
        }
    }
    let lost = runtime.block_on(losses::kill_the_leader(ground, &mut home))?;
    ensure!(lost.is_empty(), "{} acknowledged puts are lost, such as {:?}", lost.len(), lost[0]);
    Ok(figures(&all))
}

/// One load on the home, read back from both members that do not lead.
async fn in_home(home: &mut Home, callers: usize, connections: usize, first: u64) -> Result<Measured> {
    let doors = home.doors(connections)?;
    let measured = load::run(&doors, callers, first, WARM_UP, TIME).await?;
    home.all_run()?;
    let leader = home.leader()?;
    for index in (0..home::MEMBERS.len()).filter(|index| *index != leader) {
        let differing = home.differing(index, &measured.last)?;
        ensure!(differing.is_empty(), "not read back from {}: {differing:?}", home::MEMBERS[index]);
    }
    Ok(measured)
}

/// One load on etcd, read back from a member that does not lead.
async fn in_etcd(etcd: &mut Etcd, callers: usize, connections: usize, first: u64) -> Result<Measured> {
    let doors = etcd.doors(connections).await?;
    let measured = load::run(&doors, callers, first, WARM_UP, TIME).await?;
    etcd.all_run()?;
    let other = etcd.other().await?;
    for (key, values) in &measured.last {
        let read = other.read(key).await?.with_context(|| format!("not in etcd: {key}"))?;
        ensure!(values.iter().any(|value| read == value[..]), "not read back from etcd: {key}");
    }
    Ok(measured)
}

fn figures(all: &[Rounds; 4]) -> Vec<Figure> {
    const ANCHOR: &str = "etcd 3.4";
    let latencies = |side: &[Measured]| -> Vec<f64> {
        side.iter().flat_map(|measured| measured.latencies_ms.iter().copied()).collect()
    };
    let (ours, theirs) = (latencies(&all[0].ours), latencies(&all[0].theirs));
    let latency = |name, share| {
        Figure::new(name, "ms", quantile(&ours, share), ours.clone())
            .against(ANCHOR, quantile(&theirs, share), theirs.clone())
            .aimed_at(Bound::RatioAtMost(0.7))
    };
    let rate = |side: &[Measured]| side.iter().map(|measured| measured.per_second).collect::<Vec<f64>>();
    let throughput = LOADS.iter().zip(all).map(|((callers, name), both)| {
        let (ours, theirs) = (rate(&both.ours), rate(&both.theirs));
        let figure = Figure::new(name, "1/s", quantile(&ours, 0.5), ours.clone()).against(
            ANCHOR,
            quantile(&theirs, 0.5),
            theirs,
        );
        if *callers >= 100 { figure.aimed_at(Bound::RatioAtLeast(3.0)) } else { figure }
    });
    [latency("put_latency_p50", 0.5), latency("put_latency_p99", 0.99)]
        .into_iter()
        .chain(throughput)
        .collect()
}
