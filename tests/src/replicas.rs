//! What the replicas of a volume hold once nobody writes: the same bytes everywhere, and a file system
//! without an error.

use anyhow::{Result, ensure};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use thermidor_services::volume::device::Places;
use thermidor_services::volume::image::DATA_OFFSET;
use thermidor_supervisor::demo::lab::Lab;
use thermidor_supervisor::demo::lab::command::{LabError, until};

/// How much of each image is compared at once, bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// How long replicas may take to become alike, s.
const ALIKE_S: u64 = 60;

/// The images of a volume on these radiators, as this computer sees them while they have power.
fn images(lab: &Lab, radiators: &[&str], volume: &str) -> Result<Vec<PathBuf>> {
    let image = |name: &&str| -> Result<PathBuf> {
        let dir = lab.radiator(name)?.paths()?.volume(volume);
        Ok(Places { dir }.image())
    };
    radiators.iter().map(image).collect()
}

/// Demands that all replicas come to hold the same bytes: nobody but the active's epoch wrote.
pub fn alike(lab: &Lab, radiators: &[&str], volume: &str) -> Result<()> {
    let images = images(lab, radiators, volume)?;
    let alike = || {
        let failed = |source| LabError::File { what: "compare", path: images[0].clone(), source };
        Ok(same_data(&images).map_err(failed)?.then_some(()))
    };
    Ok(until(Duration::from_secs(ALIKE_S), "all replicas to be alike", alike)?)
}

/// Demands that the file system in each replica's image has no error; the volume must be attached nowhere.
pub fn clean(lab: &Lab, radiators: &[&str], volume: &str) -> Result<()> {
    for image in images(lab, radiators, volume)? {
        let device = format!("{}?offset={DATA_OFFSET}", image.display());
        let checked = Command::new("e2fsck").arg("-fn").arg(&device).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&checked.stdout);
        ensure!(checked.status.success(), "e2fsck -fn {device} ({}): {said}", checked.status);
    }
    Ok(())
}

/// Whether the images hold the same bytes of the device, whatever their headers say.
fn same_data(images: &[PathBuf]) -> io::Result<bool> {
    let mut files = images.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
    for file in &mut files {
        file.seek(SeekFrom::Start(DATA_OFFSET))?;
    }
    loop {
        let mut pieces = Vec::new();
        for file in &mut files {
            let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
            file.take(PIECE_BYTES).read_to_end(&mut piece)?;
            pieces.push(piece);
        }
        if pieces.windows(2).any(|pair| pair[0] != pair[1]) {
            return Ok(false);
        }
        if pieces[0].is_empty() {
            return Ok(true);
        }
    }
}
