//! The harness for tests with real radiators: finds the binaries that were built beside the
//! test, makes labs whose names no other test has, and runs clients on the client's machine.

#![forbid(unsafe_code)]

pub mod alone;
pub mod bench;
pub mod garbage;
pub mod mail_load;
pub mod neighbours;
pub mod record;
pub mod replicas;
pub mod withheld;

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use thermidor_supervisor::demo::lab::images::Image;
use thermidor_supervisor::demo::lab::{Lab, Options, registry};

/// The program of that name built beside this test or bench.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let folder = this.parent().context("a program lies in target/PROFILE")?;
    // A test lies one deeper.
    let beside = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = beside.join(name);
    anyhow::ensure!(path.exists(), "{} is not built; run `cargo build --workspace --bins`", path.display());
    Ok(path)
}

/// Options of a lab that runs `thermidor` and whose engines hold these images.
pub fn options(images: &[Image]) -> Result<Options> {
    let mut options = Options::beside(&program("thermidor")?);
    if images.is_empty() {
        options.engine = false;
        return Ok(options);
    }
    Ok(options.with_images(images, &|text| eprintln!("{text}"))?)
}

/// A lab for the test of that name; engines, if any, answer.
pub fn lab(test: &str, radiators: &[&str], images: &[Image]) -> Result<Lab> {
    let name = format!("{test}-{}", std::process::id());
    let lab = Lab::new(&name, radiators, options(images)?)?;
    lab.engines_ready()?;
    Ok(lab)
}

/// What a lab has left on this computer: control groups, folders, mounts, loop devices.
pub fn traces(lab: &str, dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"] {
        let path = Path::new(root).join("thermidor-lab").join(lab);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    for path in [dir.to_owned(), format!("/run/thermidor-lab/{lab}.json").into()] {
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|l| l.contains(lab)).map(str::to_owned));
    let loops = registry::orphaned_loops().expect("the loop devices of this computer");
    found.extend(loops.iter().map(|device| device.display().to_string()));
    found
}
