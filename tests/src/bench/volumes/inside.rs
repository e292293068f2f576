//! What runs on the lab's machine: all sides in turn, then the take-overs. Mounts, loop devices and processes
//! are that machine's and end with it, however this ends.

use super::report::{Measure, Report, Side};
use super::sides::Sides;
use super::{fio, load, postfix, takeover};
use crate::bench::footprint::usage::{TICKS, field, ticks};
use crate::bench::setting;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The verb by which this program is that.
pub const INSIDE: &str = "volumes-inside";
/// How often each workload runs on each side, in turn; `THERMIDOR_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 3;
/// Kills of the active; `THERMIDOR_BENCH_RUNS` overrides it.
const RUNS: usize = 20;
/// Round trips measured.
const ROUND_TRIPS: usize = 2000;

/// What it is told.
#[derive(Debug, clap::Args)]
pub struct Orders {
    /// A folder on the disk that is measured.
    dir: PathBuf,
    /// This machine's address.
    address: Ipv4Addr,
    /// Where the report goes.
    report: PathBuf,
}

/// Measures all of it and writes the report.
pub fn run(orders: &Orders) -> Result<()> {
    let say = |text: &str| println!("  {text}");
    let mut report = Report {
        round_trip_ms: round_trips()?,
        gluster: super::gluster::Gluster::version()?,
        ..Report::default()
    };
    let mut sides = Sides::make(&orders.dir, orders.address)?;
    let rounds = setting("THERMIDOR_BENCH_ROUNDS", ROUNDS)?;
    for round in 1..=rounds {
        for side in Side::ALL {
            let began = Instant::now();
            one_round(&mut sides, side, &mut report)?;
            let last = |measure| report.of(measure, side).last().copied().unwrap_or_default();
            say(&format!(
                "round {round}, {side:?}: fsync {:.0}/s, {:.0}/s after 32, p50 {:.2} ms, write {:.0} MB/s, \
                 read {:.0} MB/s, mail {:.0}/s, small files {:.0}/s, Postfix {:.0}/s ({:.0} s)",
                last(Measure::FsyncIops),
                last(Measure::Fsync32Iops),
                last(Measure::FsyncP50),
                last(Measure::SeqWrite),
                last(Measure::SeqRead),
                last(Measure::Mail),
                last(Measure::SmallFiles),
                last(Measure::Postfix),
                began.elapsed().as_secs_f64(),
            ));
        }
        sides.home.all_run()?;
    }
    report.rss_mib = sides.home.pids().into_iter().map(most_memory).collect::<Result<_>>()?;
    let mount = sides.dir(Side::Volume);
    report.takeovers = takeover::run(&mut sides.home, mount, setting("THERMIDOR_BENCH_RUNS", RUNS)?, &say)?;
    let text = serde_json::to_vec(&report)?;
    fs::write(&orders.report, text).with_context(|| format!("write {}", orders.report.display()))
}

/// All workloads on one side.
fn one_round(sides: &mut Sides, side: Side, report: &mut Report) -> Result<()> {
    let dir = sides.dir(side);
    let mut add = |measure, value: Result<f64>| -> Result<()> {
        let value = value.with_context(|| format!("{measure:?} on {side:?}"))?;
        report.add(measure, side, value);
        Ok(())
    };
    let before = processor_time(&sides.home.pids())?;
    add(Measure::SeqWrite, fio::seq_write(&dir))?;
    let spent = processor_time(&sides.home.pids())? - before;
    sides.forget(side, fio::FILE)?;
    add(Measure::SeqRead, fio::seq_read(&dir))?;
    let random = fio::random(&dir, 1).with_context(|| format!("fsync on {side:?}"))?;
    add(Measure::FsyncIops, Ok(random.iops))?;
    add(Measure::FsyncP50, Ok(random.sync_p50_ms))?;
    add(Measure::FsyncP99, Ok(random.sync_p99_ms))?;
    add(Measure::Fsync32Iops, fio::random(&dir, 32).map(|random| random.iops))?;
    fs::remove_file(dir.join(fio::FILE)).context("remove fio's file")?;
    add(Measure::Mail, load::mail(&dir))?;
    add(Measure::SmallFiles, load::small_files(&dir))?;
    add(Measure::Postfix, postfix::accepted(&dir))?;
    if side == Side::Volume {
        report.cpu_s_per_gb.push(spent / fio::gigabytes());
    }
    Ok(())
}

/// Processor time that these processes have had, s.
fn processor_time(pids: &[u32]) -> Result<f64> {
    let of = |pid: &u32| -> Result<u64> { ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?) };
    Ok(pids.iter().map(of).sum::<Result<u64>>()? as f64 / TICKS)
}

/// The most memory that a process has had at a time, MiB.
fn most_memory(pid: u32) -> Result<f64> {
    Ok(field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM")? as f64 / 1024.0)
}

/// Round trips of 4 KiB there and a byte back over loopback, ms.
fn round_trips() -> Result<Vec<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while far.read_exact(&mut bytes).is_ok() && far.write_all(&[1]).is_ok() {}
    });
    let mut samples = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        near.write_all(&[0; 4096])?;
        near.read_exact(&mut [0])?;
        samples.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    drop(near);
    ensure!(echo.join().is_ok(), "the other end of the round trips failed");
    Ok(samples)
}

/// Reads the report.
pub fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a report", path.display()))
}
