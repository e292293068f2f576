//! `recover`: a bare machine, the words on paper and a friend's address become the home again.

mod shares;

use super::home::listen_address;
use super::show::print_line;
use crate::api::Refused;
use crate::daemon::way::{ByKit, Door};
use crate::paths::Paths;
use clap::Args;
use std::io::{IsTerminal, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use thermidor_backup::home_itself::{FOLDER, HomeItself};
use thermidor_backup::kit::{Kit, Paper};
use thermidor_backup::line::{DialError, Failed};
use thermidor_backup::restic::{Repository, Restic, Restore, Settings, Snapshot};
use thermidor_backup::vault::Folder;
use thermidor_model::name::HomeName;
use thermidor_model::spec::VolumeDriver;
use thermidor_model::{RadiatorName, State};
use thermidor_raft::{KeptKeys, RecoverOptions};

/// Longest text that is read, bytes: all pages of a split are less than half of it.
const PAPER_MAX: u64 = 256 << 10;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The recovery kit: a file with the page or its words, or `-` to type or pipe them in.
    #[arg(long, value_name = "FILE", required_unless_present = "share")]
    kit: Option<PathBuf>,
    /// A share of a kit that was split, instead of --kit; again for each. A file with pages or words, or `-`.
    #[arg(long, value_name = "FILE", conflicts_with = "kit")]
    share: Vec<PathBuf>,
    /// Where a friend who keeps the backups is reached; again for each. Else those that the page names.
    #[arg(long, value_name = "HOST[:PORT]")]
    friend: Vec<String>,
    /// This radiator's name.
    #[arg(long)]
    radiator: RadiatorName,
    /// This radiator's address in the home's network, with an optional port.
    #[arg(long, value_name = "IP[:PORT]")]
    listen: Option<String>,
    /// Take the backup as it stood then: 2026-11-25, or a duration ago like 3d.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// No radiator of the old home runs, and none comes back as it was.
    #[arg(long)]
    others_are_unplugged: bool,
}

fn refused(error: impl std::fmt::Display) -> Refused {
    Refused::because(format!("{error:#}"))
}

pub fn main(paths: &Paths, args: &RecoverArgs) -> Result<(), Refused> {
    if thermidor_raft::Identity::exists(&paths.data) {
        return Err(refused(thermidor_raft::RecoverError::Already(paths.data.clone())));
    }
    if !args.others_are_unplugged {
        return Err(refused(
            "this makes a new generation of the home: should a radiator of the old one still run, two homes serve at \
             once. Unplug them all, then say --others-are-unplugged",
        ));
    }
    let listen = listen_address(args.listen.as_deref())?;
    let as_of = args.as_of.as_deref().map(super::restore::moment_s).transpose()?;
    let paper = match &args.kit {
        Some(kit) => Paper::read(&read_paper(kit)?).map_err(refused)?,
        None => shares::paper(&args.share, typed)?,
    };
    let friends = friends(args, &paper)?;
    paths.create().map_err(|e| refused(format!("{}: {e}", paths.data.display())))?;
    let wanted = Wanted { kit: paper.kit, friends, as_of, radiator: args.radiator.clone(), listen };
    let done = super::home::runtime()?.block_on(recover(paths, wanted))?;
    super::processes::remember_listener(paths, listen)?;
    print_line(&done);
    Ok(())
}

/// What is to be recovered from where, and as what.
struct Wanted {
    kit: Kit,
    friends: Vec<Vec<String>>,
    as_of: Option<u64>,
    radiator: RadiatorName,
    listen: SocketAddr,
}

/// Finds the home at a friend's and founds it again here. Answers what a person is told.
async fn recover(paths: &Paths, wanted: Wanted) -> Result<String, Refused> {
    let Wanted { kit, friends, as_of, radiator, listen } = wanted;
    let desk = Desk { dir: paths.data.join("recover"), kit: &kit, as_of };
    let found = desk.find(&friends).await;
    // It holds the home's plain state, and a cache that nothing needs any more.
    let cleaned = std::fs::remove_dir_all(&desk.dir);
    let (found, from) = found?;
    if let Err(e) = cleaned {
        eprintln!("{} can't be removed, remove it by hand: {e}", desk.dir.display());
    }
    let options = RecoverOptions {
        data: paths.data.clone(),
        keys: KeptKeys { authority_key_pem: found.authority_key_pem, home_keys: found.home_keys },
        state: found.state,
        radiator: radiator.clone(),
        address: listen,
    };
    let begins = thermidor_raft::found_again(options).await.map_err(refused)?;
    Ok(next(&begins, &radiator, &from))
}

/// The text of the page or the words.
fn read_paper(from: &Path) -> Result<String, Refused> {
    if from == Path::new("-") {
        return typed("Type the 24 words, then an empty line:").map(|(text, _)| text);
    }
    let mut text = String::new();
    let file = std::fs::File::open(from).map_err(|e| refused(format!("{}: {e}", from.display())))?;
    let read = file.take(PAPER_MAX).read_to_string(&mut text);
    read.map_err(|e| refused(format!("{}: {e}", from.display())))?;
    Ok(text)
}

/// Why a friend does not let whoever has these words in.
fn not_let_in(error: &anyhow::Error) -> String {
    let is_stranger = |failed: &Failed| matches!(failed, Failed::NotKnown);
    let hint = match error.downcast_ref::<DialError>() {
        Some(DialError(all)) if all.iter().any(|(_, failed)| is_stranger(failed)) => {
            "; if the recovery kit was replaced, it knows the one that its person has confirmed last: try the other paper"
        }
        _ => "",
    };
    format!("{error:#}{hint}")
}

/// What is typed until an empty line, and whether somebody is there who can be asked again; or all that is piped in.
fn typed(prompt: &str) -> Result<(String, bool), Refused> {
    let mut text = String::new();
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin.lock().take(PAPER_MAX).read_to_string(&mut text).map_err(refused)?;
        return Ok((text, false));
    }
    eprintln!("{prompt}");
    for line in stdin.lines() {
        let line = line.map_err(refused)?;
        if line.trim().is_empty() && !text.is_empty() {
            return Ok((text, true));
        }
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, false))
}

/// Whom to ask, each by the ways that lead there.
fn friends(args: &RecoverArgs, paper: &Paper) -> Result<Vec<Vec<String>>, Refused> {
    let friends: Vec<Vec<String>> = match args.friend.is_empty() {
        false => args.friend.iter().map(|address| vec![address.clone()]).collect(),
        true => paper.friends.iter().map(|friend| friend.addresses.clone()).collect(),
    };
    match friends.is_empty() {
        true => Err(refused("where is a friend who keeps the backups? Say it with --friend HOST[:PORT]")),
        false => Ok(friends),
    }
}

/// Where the home's export is looked for.
struct Desk<'a> {
    /// A folder of its own, for the cache and what is restored.
    dir: PathBuf,
    kit: &'a Kit,
    as_of: Option<u64>,
}

/// The newest snapshot at one friend's.
struct Offer {
    vault: HomeName,
    home: HomeName,
    door: Door,
    snapshot: Snapshot,
}

impl Desk<'_> {
    /// The newest export that can be read, whoever keeps it, and the name of that friend.
    async fn find(&self, friends: &[Vec<String>]) -> Result<(HomeItself, HomeName), Refused> {
        thermidor_backup::home_itself::make_private(&self.dir).map_err(refused)?;
        let restic = Restic::find(Settings::new(self.dir.join("cache"))).await.map_err(refused)?;
        let mut offers = Vec::new();
        let mut troubles = Vec::new();
        for addresses in friends {
            match self.ask(&restic, addresses).await {
                Ok(found) => offers.extend(found),
                Err(why) => troubles.push(format!("{}: {why}", addresses.join(", "))),
            }
        }
        offers.sort_by_key(|offer| std::cmp::Reverse(offer.snapshot.time));
        for trouble in &troubles {
            eprintln!("{trouble}");
        }
        for offer in offers {
            match self.take(&restic, &offer).await {
                Ok(home) => return Ok((home, offer.vault)),
                Err(why) => {
                    let text = format!("{}'s snapshot of {}: {why}", offer.vault, offer.snapshot.time);
                    eprintln!("{text}");
                    troubles.push(text);
                }
            }
        }
        Err(refused(format!(
            "no friend gives the home back; nothing was changed here. {}",
            troubles.join("; ")
        )))
    }

    /// What one friend keeps of the home itself, the newest first.
    async fn ask(&self, restic: &Restic, addresses: &[String]) -> Result<Vec<Offer>, String> {
        let door = ByKit(self.kit).open(addresses).await.map_err(|e| not_let_in(&e))?;
        let (vault, home) = (door.vault.clone(), door.home.clone());
        let repository = self.repository(&door)?;
        let blamed = |why: &dyn std::fmt::Display| door.trouble().unwrap_or_else(|| why.to_string());
        let mut snapshots = restic.snapshots(&repository).await.map_err(|e| blamed(&e))?;
        // A few: an export that can't be read is a reason to take the one before.
        snapshots.reverse();
        snapshots.truncate(3);
        if snapshots.is_empty() {
            return Err(format!("{vault} keeps no backup of {home} itself"));
        }
        eprintln!("{vault} keeps {home}, as of {}.", snapshots[0].time);
        let offer =
            |snapshot| Offer { vault: vault.clone(), home: home.clone(), door: door.clone(), snapshot };
        Ok(snapshots.into_iter().map(offer).collect())
    }

    fn repository(&self, door: &Door) -> Result<Repository, String> {
        let folder = Folder::new(FOLDER).ok_or_else(|| format!("{FOLDER} is no folder of a vault"))?;
        let key = self.kit.repository(&door.vault).map_err(|e| e.to_string())?;
        Ok(Repository {
            at: door.at(),
            home: door.home.clone(),
            folder,
            password: None,
            key,
            as_of: self.as_of,
        })
    }

    async fn take(&self, restic: &Restic, offer: &Offer) -> Result<HomeItself, String> {
        let target = self.dir.join(offer.snapshot.id.as_str());
        thermidor_backup::home_itself::make_private(&target).map_err(|e| e.to_string())?;
        let restore =
            Restore { snapshot: offer.snapshot.id.clone(), target: target.clone(), only: None, verify: true };
        let blamed = |why: &dyn std::fmt::Display| offer.door.trouble().unwrap_or_else(|| why.to_string());
        restic.restore(&self.repository(&offer.door)?, &restore).await.map_err(|e| blamed(&e))?;
        let home = HomeItself::read_from(&target, self.kit).map_err(|e| chain(&e))?;
        if home.state.home.as_ref() != Some(&offer.home) {
            return Err("it is another home's".into());
        }
        Ok(home)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// What a person is told, and what is to be done next.
fn next(state: &State, radiator: &RadiatorName, from: &HomeName) -> String {
    let generation = state.generation;
    let home = state.home.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut lines = vec![format!(
        "{home} is recovered from {from}: {radiator} alone is the home now, in generation {generation}."
    )];
    let declared: Vec<String> =
        state.spec().map(|s| s.radiators.keys().map(ToString::to_string).collect()).unwrap_or_default();
    if !declared.is_empty() && !declared.contains(&radiator.to_string()) {
        lines.push(format!(
            "home.yaml names {} and not {radiator}, which therefore hosts nothing: declare it with `thermidor apply`.",
            declared.join(", ")
        ));
    }
    for service in state.services.keys() {
        let own =
            |(_, v): (_, &thermidor_model::state::Volume)| !matches!(v.driver, VolumeDriver::Shared { .. });
        if state.held_by_restore(service).is_some() {
            lines.push(format!(
                "{service} starts once its data are here again: `thermidor status` shows how far they are."
            ));
        } else if state.volumes_of(service).any(own) {
            lines.push(format!("{service} was never backed up: it begins with empty volumes."));
        }
    }
    for friend in state.friends.keys() {
        lines.push(format!(
            "{friend}: backups go on once its person has run `thermidor friend confirm {home}` there."
        ));
    }
    lines.push("Next: `thermidor run` here, then `thermidor invite` for each further machine.".into());
    lines.join("\n")
}

#[cfg(test)]
mod tests;
