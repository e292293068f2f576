//! The harness for tests with real radiators: finds the binaries that were built beside the
//! test, makes labs whose names no other test has, and runs clients on the client's machine.

#![forbid(unsafe_code)]

pub mod garbage;
pub mod record;

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use thermidor_supervisor::demo::lab::images::Image;
use thermidor_supervisor::demo::lab::{Lab, Options};

/// The program of that name built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("where this test is")?;
    let beside = test.parent().and_then(Path::parent).context("a test lies in target/PROFILE/deps")?;
    let path = beside.join(name);
    anyhow::ensure!(path.exists(), "{} is not built; run `cargo build --workspace --bins`", path.display());
    Ok(path)
}

/// Options of a lab that runs `thermidor` and whose engines hold these images.
pub fn options(images: &[Image]) -> Result<Options> {
    let mut options = Options::beside(&program("thermidor")?);
    options.helper = program("thermidor-lab")?;
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
