//! A member's keys are changed by one exchange of directories; processes that have read the old ones look
//! now and then, and take up the new.

use super::{Identity, IdentityError, Papers, dir_of, io_error};
use crate::{disk, members_file};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// Between two looks at the files. A theft was hours ago when a person finds out.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where an identity with new keys is made ready.
pub(crate) fn next_of(data: &Path) -> PathBuf {
    dir_of(data).with_extension("next")
}

/// Puts the identity that was made ready in the present one's place, and the old keys away for good.
pub(crate) fn adopt(data: &Path) -> Result<Identity, IdentityError> {
    let (next, place) = (next_of(data), dir_of(data));
    renameat_with(CWD, &next, CWD, &place, RenameFlags::EXCHANGE)
        .map_err(|e| io_error(&place)(io::Error::from(e)))?;
    disk::sync_dir(data).map_err(io_error(data))?;
    let identity = Identity::load(data)?;
    disk::remove_dir_if_there(&next).map_err(io_error(&next))?;
    Ok(identity)
}

impl Identity {
    /// Believes whom the daemon of this radiator has last written down, and goes on doing so for as long as
    /// these papers are used: for processes that run beside the daemon. A file that can't be read is
    /// looked at again; a thread of its own waits for the disk.
    pub fn follow_files(&self, data: &Path) -> Result<(), IdentityError> {
        let known = |authority_pem: &str| {
            members_file::known(data, authority_pem).map_err(io_error(&data.join("members.json")))
        };
        self.papers().believe(known(&self.authority_pem)?)?;
        let (papers, data) = (Arc::downgrade(self.papers()), data.to_path_buf());
        let seen = stamps(&data);
        std::thread::Builder::new()
            .name("papers".into())
            .spawn(move || look(&papers, &data, seen))
            .map(drop)
            .map_err(|e| IdentityError::Io("a thread that looks at the identity can't begin".into(), e))
    }
}

/// When the files were last changed.
fn stamps(data: &Path) -> [Option<SystemTime>; 2] {
    let at = |path: PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    [at(data.join("members.json")), at(dir_of(data).join("member.pem"))]
}

fn look(papers: &Weak<Papers>, data: &Path, mut seen: [Option<SystemTime>; 2]) {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let Some(papers) = papers.upgrade() else { return };
        let now = stamps(data);
        if now == seen {
            continue;
        }
        let taken = Identity::load(data).and_then(|identity| {
            let known = members_file::known(data, &identity.authority_pem);
            papers.believe(known.map_err(io_error(&data.join("members.json")))?)?;
            papers.show(identity.certified.clone());
            Ok(())
        });
        match taken {
            Ok(()) => seen = now,
            Err(e) => tracing::warn!(error = %e, "the home's members or keys can't be read anew"),
        }
    }
}
