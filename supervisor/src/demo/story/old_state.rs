//! An act of the second half: one friend's vault is set back to an earlier copy, its house loses its power, and it comes
//! back with that old state. The home names both, and goes on with the other friend.

use super::acts::{Demo, SERVICE, title};
use super::friends::{ALPES, FERME, PLAINE};
use crate::demo::lab::command::until;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the friend may take to be there again, s.
const BACK_S: u64 = 90;
/// How long it may take to copy what a friend keeps, uploads that come and go included.
const COPY: Duration = Duration::from_secs(20);

impl Demo {
    /// What plaine keeps of the home, and where it lays a copy of that aside.
    fn kept_by_plaine(&self) -> Result<(PathBuf, PathBuf)> {
        let ferme = self.home.lab.radiator(FERME)?;
        Ok((ferme.paths()?.volume("vault").join("mnt/friends/maison"), ferme.dir().join("old")))
    }

    fn copy_on_ferme(&self, from: &Path, to: &Path) -> Result<()> {
        let ferme = self.home.lab.radiator(FERME)?;
        let script = format!(
            "rm -rf '{to}' && cp -a '{from}' '{to}' && sync",
            from = from.display(),
            to = to.display()
        );
        let mut last = None;
        let copied = until(COPY, "what plaine keeps to be copied", || {
            let run = ferme.run("sh", &["-c", &script]);
            Ok(run.map_err(|e| last = Some(e)).ok())
        });
        copied.with_context(|| last.map(|e| e.to_string()).unwrap_or_default()).map(drop)
    }

    /// Before the backup that it will not know of.
    pub(super) fn copy_what_plaine_keeps(&self) -> Result<()> {
        let (kept, old) = self.kept_by_plaine()?;
        self.copy_on_ferme(&kept, &old)
    }

    pub(super) fn come_back_with_an_old_state(&mut self, seat: &str) -> Result<()> {
        title("A friend's house loses its power, and its vault comes back with an old state");
        self.home.type_here(&["backup", "run"])?;
        let (kept, old) = self.kept_by_plaine()?;
        self.copy_on_ferme(&old, &kept)?;
        let ferme = self.home.lab.radiator(FERME)?;
        let address = ferme.address().to_string();
        ferme.power_off()?;
        println!("  {PLAINE}'s vault is set back to before the last backup, and {FERME} loses its power");
        let run = ["backup", "run", SERVICE];
        let done = format!("{SERVICE} at {ALPES}'s: done");
        let away = self.home.refused_on(seat, &run)?;
        let claim = "a friend that is away is named, and the other has the backup";
        self.ledger.claim(claim, away.contains(&done) && away.contains(&address), address);

        self.home.lab.radiator(FERME)?.power_on()?;
        self.home.reaches(BACK_S, seat, PLAINE)?;
        println!("  {FERME} has its power back");
        let lost = self.home.refused_on(seat, &run)?;
        self.home.type_here(&["backup", "ls"])?;
        let status = self.home.wait(30, "a status", |s| s.quorum)?;
        let told = status.warnings.iter().find(|w| w.contains(PLAINE) && w.contains("has lost something"));
        let held = lost.contains("rolled back") && told.is_some();
        let seen = told.cloned().unwrap_or(lost.clone());
        self.ledger.claim("the old state that it shows is noticed, and `status` names it", held, seen);
        self.ledger.claim("the other friend is used all the same", lost.contains(&done), done);
        Ok(())
    }
}
