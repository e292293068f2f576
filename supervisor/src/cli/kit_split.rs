//! `kit split`: the recovery kit in shares among persons, printed or in a folder with one file for each.

use super::show::{print_bytes, print_line};
use crate::api::recovery::{KitShares, SharePage};
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::Args;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct SplitArgs {
    /// The persons, each once, with commas between them: any names, friends of this home or not.
    #[arg(long, required = true, value_delimiter = ',', value_name = "PERSON,...")]
    among: Vec<String>,
    /// How many of them together give the kit back: 2 or more.
    #[arg(long, value_name = "NUMBER")]
    needed: usize,
    /// Into this folder, one file for each person, rather than to the terminal.
    #[arg(short = 'o', long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub fn main(paths: &Paths, args: &SplitArgs) -> Result<(), Refused> {
    if let Some(dir) = &args.to {
        prepare(dir)?;
    }
    let request = Request::SplitKit { among: args.among.clone(), needed: args.needed };
    let shares: KitShares = client::ask_for(paths, &request)?;
    let pages = &shares.pages;
    match &args.to {
        None => {
            print_bytes(pages.iter().map(|p| p.page.as_str()).collect::<Vec<_>>().join("\n\n").as_bytes())
        }
        Some(dir) => {
            for page in pages {
                print_line(&write(dir, page, pages.len())?.display().to_string());
            }
        }
    }
    eprintln!(
        "Split {}: any {} of these {} pages are the recovery kit. Give each to its person, keep none, and leave no copy on \
         a disk or a printer. Shares of earlier splits of the same kit stay good among themselves.",
        shares.split,
        shares.needed,
        pages.len()
    );
    Ok(())
}

/// Looks, before anything is drawn, whether the folder can be written to.
fn prepare(dir: &Path) -> Result<(), Refused> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Refused::because(format!("{}: {e}", dir.display())))
}

/// Writes one person's page, which nobody else on this machine may read.
fn write(dir: &Path, page: &SharePage, of: usize) -> Result<PathBuf, Refused> {
    let letter = |c: char| if c.is_alphanumeric() { c } else { '-' };
    let person: String = page.person.chars().map(letter).collect();
    let path = dir.join(format!("share-{}-of-{of}-{person}.txt", page.number));
    let failed = |e: std::io::Error| {
        Refused::because(format!(
            "{}: {e}; remove the shares in {} and run it again with an empty folder",
            path.display(),
            dir.display()
        ))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(page.page.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_persons_file_is_for_nobody_else_and_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("shares");
        prepare(&dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let page = SharePage { person: "../La Plaine".into(), number: 2, page: "KIT SHARE".into() };
        let path = write(&dir, &page, 3).unwrap();
        assert_eq!(path, dir.join("share-2-of-3----La-Plaine.txt"));
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "KIT SHARE");
        let other = SharePage { page: "another".into(), ..page };
        let why = write(&dir, &other, 3).unwrap_err().text;
        assert!(why.contains("share-2-of-3") && why.contains("empty folder"), "{why}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "KIT SHARE");
        assert!(prepare(&path).is_err(), "a file is no folder");
    }
}
