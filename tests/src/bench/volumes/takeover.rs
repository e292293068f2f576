//! The active's volume process is killed (-9) amid deliveries; how long it takes until the volume is
//! mounted on the next, and whether all that was acknowledged is there.

use super::home::{Home, NODES};
use super::load::{deliver_until, missing, wait_until};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long mail is delivered before the kill.
const BEFORE: Duration = Duration::from_millis(400);
/// How long a deliverer may take to hear that the device is gone.
const FAILS_WITHIN: Duration = Duration::from_secs(10);

/// Kills the active, at first radiator 1 with the volume mounted at `mount`, so many times; the times in s.
pub fn run(home: &mut Home, mut mount: PathBuf, times: usize, say: &dyn Fn(&str)) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for time in 0..times {
        let (active, next) = (NODES[time % NODES.len()], NODES[(time + 1) % NODES.len()]);
        let (taken, after) = one(home, &mount, active, next, time)?;
        say(&format!("take-over {} of {times}: {:.3} s", time + 1, taken.as_secs_f64()));
        samples.push(taken.as_secs_f64());
        mount = after;
        home.launch(active)?;
        home.until_in_sync()?;
    }
    Ok(samples)
}

/// One kill; how long it took, and where the volume is mounted now.
fn one(home: &mut Home, mount: &Path, active: u64, next: u64, time: usize) -> Result<(Duration, PathBuf)> {
    let dir = mount.join("takeover");
    let over = AtomicBool::new(false);
    let (taken, after, acknowledged) = std::thread::scope(|scope| -> Result<_> {
        let delivering =
            scope.spawn(|| deliver_until(&dir, &format!("run{time}"), &|| over.load(Ordering::Relaxed)));
        std::thread::sleep(BEFORE);
        let killed = home.kill9(active);
        let began = Instant::now();
        let promoted = killed.and_then(|()| home.promote(next, Some(active)));
        let taken = began.elapsed();
        // Whoever still waits for the dead device is told by its end; a deliverer that never failed would
        // have written nowhere.
        let failed = wait_until(FAILS_WITHIN, || delivering.is_finished());
        over.store(true, Ordering::Relaxed);
        let (acknowledged, error) =
            delivering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let after = promoted?;
        ensure!(failed && error.is_some(), "the deliverers did not notice that the device is gone");
        Ok((taken, after, acknowledged))
    })?;
    ensure!(!acknowledged.is_empty(), "nothing was delivered before the kill");
    let moved = |path: &PathBuf| -> Result<PathBuf> { Ok(after.join(path.strip_prefix(mount)?)) };
    let there = acknowledged.iter().map(moved).collect::<Result<Vec<_>>>()?;
    let lost = missing(&there);
    ensure!(lost.is_empty(), "{} of {} messages are lost, such as {:?}", lost.len(), there.len(), lost[0]);
    let dir = after.join("takeover");
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok((taken, after))
}
