//! `make bench`: groups of figures, each measured in one run with what it is compared with.
//!
//! A group is a module with one function that returns its figures; [`GROUPS`] names it.

pub mod consensus;
pub mod figures;
pub mod footprint;
pub mod friends;
pub mod processes;
pub mod takeover;
pub mod volumes;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table};
use figures::{Book, Figure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A group of figures.
pub struct Group {
    /// Its name, as `BENCH=` takes it.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// The names of its figures.
    pub figures: &'static [&'static str],
    /// Measures them all.
    pub run: fn(&Ground) -> Result<Vec<Figure>>,
}

/// Every group, in the order in which they run.
pub const GROUPS: &[Group] =
    &[takeover::GROUP, consensus::GROUP, volumes::GROUP, friends::GROUP, footprint::GROUP];

/// Where a group works.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The `thermidor` that is measured.
    pub thermidor: PathBuf,
    /// A folder for what a group makes, on the disk that is measured.
    pub scratch: PathBuf,
}

impl Ground {
    /// Says what is being done.
    pub fn say(&self, text: impl AsRef<str>) {
        println!("  {}", text.as_ref());
    }
}

/// A setting of the environment, or what holds without it.
///
/// # Errors
/// Where it is set to something else than such a value.
pub fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T> {
    match std::env::var(name) {
        Err(std::env::VarError::NotPresent) => Ok(otherwise),
        Err(e) => Err(e).context(name.to_owned()),
        Ok(text) => match text.parse() {
            Ok(value) => Ok(value),
            Err(_) => bail!("{name}={text} is not understood"),
        },
    }
}

/// Runs the groups of these names, all where none is named.
///
/// # Errors
/// Unknown names, before anything runs; else, after every group has had its turn, which of them failed.
pub fn run(names: &[String]) -> Result<()> {
    let groups = chosen(names)?;
    let thermidor = crate::program("thermidor")?;
    let target = thermidor.parent().and_then(Path::parent).context("thermidor lies in target/PROFILE")?;
    let book = Book::of(target);
    let scratch = target.join("bench/scratch");
    std::fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let ground = Ground { scratch, thermidor };
    let mut failed = Vec::new();
    for group in groups {
        println!("{}: {}", group.name, group.about);
        if let Err(error) = run_group(group, &ground, &book) {
            eprintln!("{} failed: {error:#}", group.name);
            failed.push(group.name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Group>> {
    if names.is_empty() {
        return Ok(GROUPS.iter().collect());
    }
    let find = |name: &String| {
        let known = || GROUPS.iter().map(|g| g.name).collect::<Vec<_>>().join(", ");
        GROUPS
            .iter()
            .find(|group| group.name == name)
            .with_context(|| format!("there is no group `{name}`; there are: {}", known()))
    };
    names.iter().map(find).collect()
}

fn run_group(group: &Group, ground: &Ground, book: &Book) -> Result<()> {
    book.forget(group.figures)?;
    let commit = commit()?;
    let figures = (group.run)(ground)?;
    check(group, &figures)?;
    book.keep(&figures, &commit, &jiff::Timestamp::now().to_string())?;
    println!("{}", table(&figures));
    let missed: Vec<&str> =
        figures.iter().filter(|f| f.required.is_some_and(|r| !r.is_kept(f))).map(|f| f.name).collect();
    ensure!(missed.is_empty(), "what is required was not reached: {}", missed.join(", "));
    Ok(())
}

/// A group returns the figures it names, all of them, and an anchor that is named has run.
fn check(group: &Group, figures: &[Figure]) -> Result<()> {
    let named: BTreeSet<&str> = group.figures.iter().copied().collect();
    let had: BTreeSet<&str> = figures.iter().map(|f| f.name).collect();
    ensure!(named == had, "it measured {had:?}, not {named:?}");
    for figure in figures {
        ensure!(!figure.samples.is_empty() && figure.value.is_finite(), "{} was not measured", figure.name);
        if let Some(anchor) = &figure.anchor {
            ensure!(
                !anchor.samples.is_empty() && figure.ratio().is_some(),
                "{}: the anchor {} did not run",
                figure.name,
                anchor.name
            );
        }
    }
    Ok(())
}

/// The commit measured; marked where files differ from it.
fn commit() -> Result<String> {
    let git = |args: &[&str]| -> Result<String> {
        let here = env!("CARGO_MANIFEST_DIR");
        let said = Command::new("git").args(["-C", here]).args(args).output().context("start git")?;
        if !said.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Ok(git(&["rev-parse", "--short=12", "HEAD"])? + if changed { "-changed" } else { "" })
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["figure", "value", "unit", "anchor", "its value", "ratio", "n", "wished", ""]);
    for figure in figures {
        let anchor = figure.anchor.as_ref();
        let bound = figure.required.or(figure.aim);
        let verdict = bound.map_or("", |bound| if bound.is_kept(figure) { "reached" } else { "MISSED" });
        table.add_row([
            figure.name.to_owned(),
            number(figure.value),
            figure.unit.to_owned(),
            anchor.map_or_else(String::new, |a| a.name.clone()),
            anchor.map_or_else(String::new, |a| number(a.value)),
            figure.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            figure.samples.len().to_string(),
            bound.map_or_else(String::new, |bound| bound.to_string()),
            verdict.to_owned(),
        ]);
    }
    for column in [1, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let digits = if value == 0.0 || value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use figures::Bound;

    fn group(figures: &'static [&'static str]) -> Group {
        Group { name: "g", about: "", figures, run: |_| Ok(Vec::new()) }
    }

    #[test]
    fn an_unknown_group_is_refused_with_the_names_there_are() {
        let error = chosen(&["consensus".into(), "consensu".into()]).err().unwrap().to_string();
        assert!(
            error.contains("`consensu`") && error.contains("consensus, volumes, friends, footprint"),
            "{error}"
        );
        assert_eq!(chosen(&[]).unwrap().len(), GROUPS.len());
        assert_eq!(chosen(&["footprint".into()]).unwrap()[0].name, "footprint");
    }

    #[test]
    fn no_two_groups_share_a_figure() {
        let names: Vec<&str> = GROUPS.iter().flat_map(|g| g.figures).copied().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn a_figure_too_few_and_an_anchor_that_did_not_run_fail_the_group() {
        let one = Figure::new("one", "s", 1.0, vec![1.0]);
        assert!(check(&group(&["one"]), std::slice::from_ref(&one)).is_ok());
        assert!(check(&group(&["one", "two"]), std::slice::from_ref(&one)).is_err());
        assert!(check(&group(&["one"]), &[Figure::new("one", "s", 1.0, vec![])]).is_err());
        let dead = one.against("etcd 3.4", 2.0, vec![]);
        let error = check(&group(&["one"]), &[dead]).unwrap_err().to_string();
        assert!(error.contains("etcd 3.4 did not run"), "{error}");
    }

    #[test]
    fn a_missed_requirement_fails_the_group_after_its_figures_are_kept() {
        let run =
            |_: &Ground| Ok(vec![Figure::new("late", "s", 4.0, vec![4.0]).required(Bound::AtMost(3.5))]);
        let group = Group { name: "g", about: "", figures: &["late"], run };
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground { thermidor: "thermidor".into(), scratch: dir.path().to_owned() };
        let error = run_group(&group, &ground, &Book::of(dir.path())).unwrap_err();
        assert!(error.to_string().contains("late"), "{error}");
        let kept = std::fs::read_to_string(dir.path().join("figures.json")).unwrap();
        assert!(kept.contains("\"late\""), "{kept}");
    }
}
