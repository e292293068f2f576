//! `volumes`: a replicated volume beside GlusterFS with three replicas, a folder of the same disk and ext4
//! on a loop file: synced writes, mail, small files, streams, real Postfix; and what taking over takes.

mod fio;
mod gluster;
mod home;
mod inside;
mod load;
mod postfix;
mod raft;
mod report;
mod sides;
mod takeover;
mod tls;

use super::figures::{Bound, Figure, quantile};
use super::{Ground, Group, number};
use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table};
pub use home::{REPLICA, WATCHDOG, be_a_replica, be_a_watchdog};
pub use inside::{INSIDE, Orders, run as run_inside};
use report::{Measure, Report, Side};
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::Lab;

/// The group.
pub const GROUP: Group = Group {
    name: "volumes",
    about: "a volume of three replicas beside GlusterFS, a folder and a loop file, all on one disk",
    figures: &[
        "volume_fsync_iops",
        "volume_fsync_p50",
        "volume_fsync_p99",
        "volume_fsync32_iops",
        "volume_seq_write",
        "volume_seq_read",
        "volume_mail",
        "volume_small_files",
        "volume_postfix",
        "volume_takeover_p50",
        "volume_process_rss",
        "volume_cpu_per_gb",
    ],
    run: measure,
};

/// The machine on which all of it runs.
const MACHINE: &str = "bench";

fn measure(ground: &Ground) -> Result<Vec<Figure>> {
    let lab = Lab::new(
        &format!("bench-volumes-{}", std::process::id()),
        &[MACHINE],
        crate::options(&home_images())?,
    )?;
    lab.engines_ready()?;
    let machine = lab.radiator(MACHINE)?;
    // The machine's data folder as it sees it itself: on the disk that is measured, its path short enough for sockets.
    let dir = format!("/run/thermidor-lab/{}/{MACHINE}/data", lab.name());
    let seen = machine.dir().join("data");
    let mut command = machine.command("sh")?;
    command.args(["-c", r#"mount --make-rshared / && exec "$@""#, "lab"]);
    command.arg(std::env::current_exe().context("where this program is")?);
    command.args([INSIDE, &dir, &machine.address().to_string(), &format!("{dir}/report.json")]);
    let status = command.status().context("measure in the lab")?;
    keep_logs(ground, &seen);
    ensure!(status.success(), "measuring in the lab failed; logs are in {}", ground.scratch.display());
    let report = inside::read(&seen.join("report.json"))?;
    println!("{}", table(&report));
    figures(&report)
}

/// The processes' logs, which the lab's end would take.
fn keep_logs(ground: &Ground, dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some(name) = path.file_name()
            && let Err(e) = std::fs::copy(&path, ground.scratch.join(name))
        {
            eprintln!("{}: {e}", path.display());
        }
    }
}

/// What is wished of a workload.
fn aim(measure: Measure, report: &Report) -> Option<Bound> {
    match measure {
        Measure::FsyncIops | Measure::Fsync32Iops | Measure::Mail | Measure::Postfix => {
            Some(Bound::RatioAtLeast(5.0))
        }
        Measure::SeqWrite => Some(Bound::RatioAtLeast(1.0)),
        Measure::SmallFiles => Some(Bound::RatioAtLeast(100.0)),
        Measure::FsyncP50 => {
            let (looped, trips) = (report.of(measure, Side::Loop), &report.round_trip_ms);
            let measured = !looped.is_empty() && !trips.is_empty();
            measured.then(|| Bound::AtMost(1.5 * quantile(looped, 0.5) + quantile(trips, 0.5)))
        }
        Measure::FsyncP99 | Measure::SeqRead => None,
    }
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let gluster = format!("GlusterFS {}, replica 3", report.gluster);
    let mut figures = Vec::new();
    for measure in Measure::ALL {
        let (name, unit, _) = measure.words();
        let of = |side: Side| -> Result<(f64, Vec<f64>)> {
            let samples = report.of(measure, side);
            ensure!(!samples.is_empty(), "{name} was not measured on {side:?}");
            Ok((quantile(samples, 0.5), samples.to_vec()))
        };
        let (ours, samples) = of(Side::Volume)?;
        let (theirs, their_samples) = of(Side::Gluster)?;
        let (plain, _) = of(Side::Directory)?;
        let figure = Figure::new(name, unit, ours, samples)
            .against(&gluster, theirs, their_samples)
            .beside_plain(plain);
        figures.push(match aim(measure, report) {
            Some(aim) => figure.aimed_at(aim),
            None => figure,
        });
    }
    let alone = |name, unit, samples: &[f64], share| -> Result<Figure> {
        ensure!(!samples.is_empty(), "{name} was not measured");
        Ok(Figure::new(name, unit, quantile(samples, share), samples.to_vec()))
    };
    figures.push(alone("volume_takeover_p50", "s", &report.takeovers, 0.5)?.aimed_at(Bound::AtMost(0.3)));
    figures.push(alone("volume_process_rss", "MiB", &report.rss_mib, 1.0)?.aimed_at(Bound::AtMost(64.0)));
    figures.push(alone("volume_cpu_per_gb", "s", &report.cpu_s_per_gb, 0.5)?);
    Ok(figures)
}

/// Every side's median and spread, and ours / GlusterFS.
fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(vec![
        "",
        "unit",
        "directory",
        "loop on file",
        "volume",
        "GlusterFS",
        "volume / GlusterFS",
        "volume / directory",
    ]);
    for measure in Measure::ALL {
        let (_, unit, words) = measure.words();
        let cell = |side| {
            let samples = report.of(measure, side);
            if samples.is_empty() {
                return String::new();
            }
            let [low, middle, high] = [0.0, 0.5, 1.0].map(|share| number(quantile(samples, share)));
            format!("{middle} ({low}..{high})")
        };
        let ratio = |side| {
            let (ours, theirs) = (report.of(measure, Side::Volume), report.of(measure, side));
            if ours.is_empty() || theirs.is_empty() {
                return String::new();
            }
            number(quantile(ours, 0.5) / quantile(theirs, 0.5))
        };
        let mut row = vec![words.to_owned(), unit.to_owned()];
        row.extend(Side::ALL.map(cell));
        row.extend([ratio(Side::Gluster), ratio(Side::Directory)]);
        table.add_row(row);
    }
    for column in 2..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report {
            takeovers: vec![0.2, 0.3, 0.4],
            rss_mib: vec![20.0, 70.0, 30.0],
            cpu_s_per_gb: vec![9.0],
            round_trip_ms: vec![0.1],
            gluster: "10.3".into(),
            ..Report::default()
        };
        for measure in Measure::ALL {
            for (n, side) in Side::ALL.into_iter().enumerate() {
                report.add(measure, side, (n + 1) as f64);
            }
        }
        report
    }

    #[test]
    fn every_figure_is_there_against_glusterfs_and_the_folder() {
        let figures = figures(&report()).unwrap();
        let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        assert_eq!(names, GROUP.figures);
        for figure in &figures[..Measure::ALL.len()] {
            assert_eq!((figure.ratio(), figure.ratio_plain()), (Some(0.75), Some(3.0)), "{}", figure.name);
        }
        let value = |name: &str| figures.iter().find(|f| f.name == name).map(|f| f.value);
        assert_eq!(value("volume_takeover_p50"), Some(0.3));
        assert_eq!(value("volume_process_rss"), Some(70.0), "the most of the three");
    }

    #[test]
    fn the_latency_wished_for_follows_the_loop_file_and_the_network() {
        assert_eq!(aim(Measure::FsyncP50, &report()), Some(Bound::AtMost(1.5 * 2.0 + 0.1)));
    }

    #[test]
    fn a_side_that_did_not_run_fails_the_group() {
        let mut report = report();
        report.samples.get_mut(&Measure::Mail).unwrap().remove(&Side::Gluster);
        let error = figures(&report).unwrap_err().to_string();
        assert!(error.contains("volume_mail was not measured on Gluster"), "{error}");
    }
}
