//! A figure, what is wished of it, and the file that keeps the last of each.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What was measured the same way in the same run, to compare with.
#[derive(Debug, Clone, PartialEq)]
pub struct Anchor {
    /// What it is, `etcd 3.4`.
    pub name: String,
    /// Its value, in the figure's unit.
    pub value: f64,
    /// Every measurement.
    pub samples: Vec<f64>,
}

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The value may not be greater.
    AtMost(f64),
    /// The ratio to the anchor may not be greater.
    RatioAtMost(f64),
    /// The ratio to the anchor may not be smaller.
    RatioAtLeast(f64),
}

impl Bound {
    /// Whether it is kept; a ratio that does not exist keeps none.
    pub fn is_kept(self, figure: &Figure) -> bool {
        match self {
            Bound::AtMost(most) => figure.value <= most,
            Bound::RatioAtMost(most) => figure.ratio().is_some_and(|ratio| ratio <= most),
            Bound::RatioAtLeast(least) => figure.ratio().is_some_and(|ratio| ratio >= least),
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::AtMost(most) => write!(f, "<= {most}"),
            Bound::RatioAtMost(most) => write!(f, "<= {most} x"),
            Bound::RatioAtLeast(least) => write!(f, ">= {least} x"),
        }
    }
}

/// A figure as a group returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name, `takeover_p50`.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// The value's unit, `s`.
    pub unit: &'static str,
    /// What it is compared with, if anything.
    pub anchor: Option<Anchor>,
    /// The same measured on a plain folder of the disk, where there is such a thing.
    pub plain: Option<f64>,
    /// Every measurement that the value was drawn from.
    pub samples: Vec<f64>,
    /// Wished for; a missed one is reported.
    pub aim: Option<Bound>,
    /// Promised; a missed one is a defect and fails the group.
    pub required: Option<Bound>,
}

impl Figure {
    /// A figure that is compared with nothing, and of which nothing is wished yet.
    pub fn new(name: &'static str, unit: &'static str, value: f64, samples: Vec<f64>) -> Self {
        Self { name, value, unit, anchor: None, plain: None, samples, aim: None, required: None }
    }

    /// The same, compared.
    #[must_use]
    pub fn against(mut self, name: &str, value: f64, samples: Vec<f64>) -> Self {
        self.anchor = Some(Anchor { name: name.to_owned(), value, samples });
        self
    }

    /// The same, beside a plain folder.
    #[must_use]
    pub fn beside_plain(mut self, value: f64) -> Self {
        self.plain = Some(value);
        self
    }

    /// The same, with what is wished of it.
    #[must_use]
    pub fn aimed_at(mut self, aim: Bound) -> Self {
        self.aim = Some(aim);
        self
    }

    /// The same, with what is promised of it.
    #[must_use]
    pub fn required(mut self, required: Bound) -> Self {
        self.required = Some(required);
        self
    }

    /// Ours / anchor.
    pub fn ratio(&self) -> Option<f64> {
        self.anchor.as_ref().filter(|anchor| anchor.value > 0.0).map(|anchor| self.value / anchor.value)
    }

    /// Ours / plain folder.
    pub fn ratio_plain(&self) -> Option<f64> {
        self.plain.filter(|plain| *plain > 0.0).map(|plain| self.value / plain)
    }
}

/// The middle of the samples, or that share of the way up (0.99: the 99th percentile); nearest rank.
///
/// # Panics
/// Where there are no samples: nothing was measured, and no figure may say otherwise.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    assert!(!samples.is_empty(), "a quantile of nothing");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A figure as kept in `figures.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    value: f64,
    unit: String,
    anchor: Option<String>,
    anchor_value: Option<f64>,
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio_plain: Option<f64>,
    n: usize,
    commit: String,
    time: String,
    samples: PathBuf,
}

/// The raw measurements beside it.
#[derive(Serialize)]
struct Samples<'a> {
    unit: &'a str,
    ours: &'a [f64],
    anchor: Option<&'a [f64]>,
}

/// `figures.json` and the folder of samples, both in the build's folder.
#[derive(Debug, Clone)]
pub struct Book {
    file: PathBuf,
    samples: PathBuf,
}

impl Book {
    /// The book in that folder (`target`).
    pub fn of(target: &Path) -> Self {
        Self { file: target.join("figures.json"), samples: target.join("bench") }
    }

    /// Takes figures of these names out: a group that fails leaves none of an earlier run behind.
    pub fn forget(&self, names: &[&str]) -> Result<()> {
        let mut kept = self.read()?;
        kept.retain(|name, _| !names.contains(&name.as_str()));
        self.write(&kept)?;
        for name in names {
            let path = self.samples_of(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Puts figures in, their samples first.
    pub fn keep(&self, figures: &[Figure], commit: &str, time: &str) -> Result<()> {
        fs::create_dir_all(&self.samples).with_context(|| format!("make {}", self.samples.display()))?;
        let mut kept = self.read()?;
        for figure in figures {
            let path = self.samples_of(figure.name);
            let anchor = figure.anchor.as_ref();
            let samples = Samples {
                unit: figure.unit,
                ours: &figure.samples,
                anchor: anchor.map(|anchor| anchor.samples.as_slice()),
            };
            replace(&path, &serde_json::to_vec(&samples)?)?;
            let entry = Kept {
                value: figure.value,
                unit: figure.unit.to_owned(),
                anchor: anchor.map(|anchor| anchor.name.clone()),
                anchor_value: anchor.map(|anchor| anchor.value),
                ratio: figure.ratio(),
                plain_value: figure.plain,
                ratio_plain: figure.ratio_plain(),
                n: figure.samples.len(),
                commit: commit.to_owned(),
                time: time.to_owned(),
                samples: path,
            };
            kept.insert(figure.name.to_owned(), entry);
        }
        self.write(&kept)
    }

    fn samples_of(&self, name: &str) -> PathBuf {
        self.samples.join(format!("{name}.json"))
    }

    fn read(&self) -> Result<BTreeMap<String, Kept>> {
        let bytes = match fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(e).with_context(|| format!("read {}", self.file.display())),
        };
        let why = || format!("{} is damaged: remove it", self.file.display());
        serde_json::from_slice(&bytes).with_context(why)
    }

    fn write(&self, kept: &BTreeMap<String, Kept>) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(kept)?;
        bytes.push(b'\n');
        replace(&self.file, &bytes)
    }
}

/// Whoever reads the file meanwhile sees all of the old or all of the new.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, bytes).with_context(|| format!("write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.join("figures.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_figure_is_kept_as_promised_and_its_samples_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::of(dir.path());
        let put = Figure::new("put_latency_p50", "ms", 1.2, vec![1.0, 1.2, 1.4]).against(
            "etcd 3.4",
            2.4,
            vec![2.4, 2.4],
        );
        let idle = Figure::new("idle_rss", "MiB", 18.5, vec![18.5]);
        book.keep(&[put, idle], "abc", "2026-01-01T00:00:00Z").unwrap();
        let kept = read(dir.path());
        let samples = dir.path().join("bench/put_latency_p50.json");
        let wanted = serde_json::json!({
            "value": 1.2, "unit": "ms", "anchor": "etcd 3.4", "anchor_value": 2.4, "ratio": 0.5, "n": 3,
            "commit": "abc", "time": "2026-01-01T00:00:00Z", "samples": samples,
        });
        assert_eq!(kept["put_latency_p50"], wanted);
        assert_eq!(kept["idle_rss"]["anchor"], serde_json::Value::Null);
        assert_eq!(kept["idle_rss"]["ratio"], serde_json::Value::Null);
        let raw: serde_json::Value = serde_json::from_slice(&fs::read(samples).unwrap()).unwrap();
        assert_eq!(raw["ours"], serde_json::json!([1.0, 1.2, 1.4]));
        assert_eq!(raw["anchor"], serde_json::json!([2.4, 2.4]));
    }

    #[test]
    fn beside_a_plain_folder_both_ratios_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mail = Figure::new("volume_mail", "1/s", 400.0, vec![400.0])
            .against("GlusterFS 10.3", 100.0, vec![100.0])
            .beside_plain(800.0);
        Book::of(dir.path()).keep(&[mail], "abc", "now").unwrap();
        let kept = &read(dir.path())["volume_mail"];
        assert_eq!((kept["ratio"].as_f64(), kept["ratio_plain"].as_f64()), (Some(4.0), Some(0.5)));
        assert_eq!(kept["plain_value"].as_f64(), Some(800.0));
    }

    #[test]
    fn a_group_forgets_its_own_figures_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::of(dir.path());
        let figure = |name| Figure::new(name, "s", 1.0, vec![1.0]);
        book.keep(&[figure("one"), figure("other")], "abc", "now").unwrap();
        book.forget(&["one", "never there"]).unwrap();
        let kept = read(dir.path());
        assert!(kept.get("one").is_none() && kept.get("other").is_some());
        assert!(!dir.path().join("bench/one.json").exists() && dir.path().join("bench/other.json").exists());
    }

    #[test]
    fn a_damaged_book_is_said_and_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("figures.json"), "{ half").unwrap();
        let error = Book::of(dir.path()).forget(&["one"]).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("figures.json")).unwrap(), "{ half");
    }

    #[test]
    fn a_bound_on_the_ratio_needs_one() {
        let alone = Figure::new("x", "1/s", 3.0, vec![3.0]);
        assert!(!Bound::RatioAtLeast(3.0).is_kept(&alone) && !Bound::RatioAtMost(9.0).is_kept(&alone));
        assert!(Bound::AtMost(3.0).is_kept(&alone) && !Bound::AtMost(2.9).is_kept(&alone));
        let dead = alone.clone().against("etcd 3.4", 0.0, vec![]);
        assert_eq!(dead.ratio(), None);
        let compared = alone.against("etcd 3.4", 1.0, vec![1.0]);
        assert!(Bound::RatioAtLeast(3.0).is_kept(&compared) && !Bound::RatioAtMost(2.9).is_kept(&compared));
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.5), 100.0);
        assert_eq!(quantile(&samples, 0.99), 198.0);
        assert_eq!(quantile(&samples, 1.0), 200.0);
        assert_eq!(quantile(&[7.0], 0.0), 7.0);
    }
}
