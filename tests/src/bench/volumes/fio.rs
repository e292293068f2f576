//! The workloads that fio does, on one file of a folder.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The file's name.
pub const FILE: &str = "fio";
/// Its size, MiB.
const SIZE_MIB: u64 = 256;
/// How long each random load is put, s.
const TIME_S: u64 = 3;

/// What fio says of one job; what is not read is left out.
#[derive(Debug, Deserialize)]
struct Said {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    error: i64,
    read: Way,
    write: Way,
    sync: Sync,
    job_runtime: f64,
}

#[derive(Debug, Deserialize)]
struct Way {
    iops: f64,
    io_bytes: f64,
}

#[derive(Debug, Deserialize)]
struct Sync {
    lat_ns: Latency,
}

#[derive(Debug, Default, Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

/// A random load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Random {
    /// Writes a second.
    pub iops: f64,
    /// The median fsync, ms.
    pub sync_p50_ms: f64,
    /// Its 99th percentile, ms.
    pub sync_p99_ms: f64,
}

fn run(dir: &Path, args: &[&str]) -> Result<Job> {
    let mut command = Command::new("fio");
    command.args(["--name=bench", "--ioengine=psync", "--output-format=json", "--filename"]);
    command.arg(dir.join(FILE)).arg(format!("--size={SIZE_MIB}m")).args(args);
    let said = command.output().context("start fio")?;
    let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    ensure!(said.status.success(), "fio in {}: {error}", dir.display());
    parse(&String::from_utf8_lossy(&said.stdout))
}

/// Warnings may stand before the report.
fn parse(text: &str) -> Result<Job> {
    let from = text.find("\n{").map_or(0, |at| at + 1);
    let said: Said = serde_json::from_str(&text[from..]).context("fio's report")?;
    let job = said.jobs.into_iter().next().context("fio reported no job")?;
    ensure!(job.error == 0, "fio's job failed with {}", job.error);
    Ok(job)
}

/// Writes the file in sequence, 1 MiB at a time, and fsyncs it; MB/s, the fsync included.
pub fn seq_write(dir: &Path) -> Result<f64> {
    let job = run(dir, &["--rw=write", "--bs=1m", "--end_fsync=1", "--fallocate=none"])?;
    megabytes(job.write.io_bytes, job.job_runtime)
}

/// Reads the file in sequence, 1 MiB at a time, MB/s.
pub fn seq_read(dir: &Path) -> Result<f64> {
    let job = run(dir, &["--rw=read", "--bs=1m"])?;
    megabytes(job.read.io_bytes, job.job_runtime)
}

/// How much is written in sequence, GB.
pub fn gigabytes() -> f64 {
    (SIZE_MIB << 20) as f64 / 1e9
}

fn megabytes(bytes: f64, ms: f64) -> Result<f64> {
    ensure!(bytes >= (SIZE_MIB << 20) as f64 && ms > 0.0, "fio did {bytes} bytes in {ms} ms");
    Ok(bytes / ms / 1000.0)
}

/// Writes 4 KiB at random over the file, with an fsync after every so many.
pub fn random(dir: &Path, writes_per_fsync: u32) -> Result<Random> {
    let (time, fsync) = (format!("--runtime={TIME_S}"), format!("--fsync={writes_per_fsync}"));
    let job = run(dir, &["--rw=randwrite", "--bs=4k", "--time_based", "--overwrite=1", &time, &fsync])?;
    let percentile = |name: &str| {
        let ns = job.sync.lat_ns.percentile.get(name).copied();
        Ok::<_, anyhow::Error>(ns.with_context(|| format!("fio says no {name} of fsync"))? / 1e6)
    };
    Ok(Random {
        iops: job.write.iops,
        sync_p50_ms: percentile("50.000000")?,
        sync_p99_ms: percentile("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_report_is_read_past_its_warnings_and_a_failed_job_is_an_error() {
        let way = r#"{ "iops": 328.5, "io_bytes": 1346938 }"#;
        let report = |error: i64| {
            format!(
                "fio: a warning\n{{ \"jobs\": [ {{ \"error\": {error}, \"read\": {way}, \"write\": {way}, \
                 \"sync\": {{ \"lat_ns\": {{ \"percentile\": {{ \"50.000000\": 3686400 }} }} }}, \
                 \"job_runtime\": 2003 }} ] }}"
            )
        };
        let job = parse(&report(0)).unwrap();
        assert_eq!((job.write.iops, job.job_runtime), (328.5, 2003.0));
        assert_eq!(job.sync.lat_ns.percentile["50.000000"], 3_686_400.0);
        assert!(parse(&report(5)).is_err() && parse("fio: no").is_err());
    }

    #[test]
    fn half_a_file_is_no_rate() {
        assert!(megabytes(1e6, 10.0).is_err() && megabytes(3e8, 0.0).is_err());
        assert_eq!(megabytes(3e8, 1000.0).unwrap(), 300.0);
    }
}
