//! Maison on two radiators and the homes of two friends that keep its backups, for tests in which something is in the way
//! between them: a cable, a quota, a disk, a friend.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::Duration;
use thermidor_supervisor::api::backups::BackupLine;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Lab, Options, Radiator};

/// Maison's radiators; commands are typed on the first.
pub const MAISON: [&str; 2] = ["salon", "bureau"];
/// Each friend with its radiator.
pub const FRIENDS: [(&str, &str); 2] = [("alpes", "chalet"), ("plaine", "ferme")];
/// The service that is backed up.
pub const NOTES: &str = "notes";
/// What is lent where nothing else is said.
pub const LENT: &str = "lend: 64m";
/// How long anything may take that goes on by itself; a friend that was away is asked again after [`RETRY`].
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How long maison waits before it tries again what passes by itself.
const RETRY: &str = "5s";
/// How often backups are wished where a test orders them.
pub const SELDOM: &str = "12h";
/// How long one command may take, s: friends are slow here.
const COMMAND_S: u64 = 240;
/// How often a vault looks at what was agreed, and a bit more.
const HEARD: Duration = Duration::from_secs(2);
/// `timeout` says so of a command that it has ended.
const TIMED_OUT: i32 = 124;

/// The three homes.
pub struct Neighbours {
    /// Maison, at whose first radiator commands are typed.
    pub home: Home,
    /// Each friend's radiators; on the first its vault is active.
    radiators: BTreeMap<&'static str, Vec<&'static str>>,
}

/// What one command came to.
pub struct Said {
    /// Whether it did what was asked.
    pub done: bool,
    /// All it said.
    pub text: String,
}

fn maison_yaml(every: &str) -> String {
    let [salon, bureau] = MAISON;
    let friends = FRIENDS.map(|(name, _)| name).join(", ");
    format!(
        "home: maison\nradiators:\n  {salon}: {{ heats: room, power: 250 }}\n  {bureau}: {{ heats: room, power: 250 }}\n\
         services:\n  {NOTES}:\n    image: debian:bookworm-slim\n    command: [ sleep, infinity ]\n    \
         volumes: [ \"{NOTES}:/data\" ]\n    stop_grace_period: 1s\n    \
         backup: {{ every: {every}, to: [{friends}], drill: never, retry: {RETRY} }}\nvolumes: {{ {NOTES}: {{ size: 128m }} }}\n"
    )
}

fn friend_yaml(friend: &str, radiators: &[&Radiator], terms: &str) -> String {
    let all =
        |of: &dyn Fn(&Radiator) -> String| radiators.iter().map(|r| of(r)).collect::<Vec<_>>().join(", ");
    let names = all(&|r| format!("{}: {{ heats: room, power: 250 }}", r.name()));
    let addresses = all(&|r| format!("\"{}\"", r.address()));
    format!(
        "home: {friend}\nradiators: {{ {names} }}\nservices:\n  vault:\n    recipe: vault\n    \
         settings: {{ addresses: [{addresses}], {LENT}, friends: {{ maison: {{ {terms} }} }} }}\n    \
         volumes: [ \"vault:/srv/vault\" ]\nvolumes: {{ vault: {{ size: 256m }} }}\n"
    )
}

impl Neighbours {
    /// Forms the homes, makes them friends, gives maison something to lose (eight files of 1 MiB, which come to lie in one
    /// pack) and has all of it backed up to both.
    pub fn new(test: &str) -> Result<Self> {
        let name = format!("{test}-{}", std::process::id());
        let options =
            Options::beside(&crate::program("thermidor")?).with_images(&[], &|text| eprintln!("{text}"))?;
        let mut home = Home::new(Lab::new(&name, &MAISON, options)?, MAISON[0]);
        home.form()?;
        home.apply(&maison_yaml(SELDOM))?;
        let is_up = |s: &thermidor_supervisor::demo::home::Status| {
            s.runs_on(NOTES).is_some() && MAISON.iter().all(|r| s.in_sync(r))
        };
        home.wait(120, "the notes to run, in sync on both radiators", is_up)?;
        for (friend, radiator) in FRIENDS {
            home.lab.add(radiator)?.engine_ready()?;
            let yaml = friend_yaml(friend, &[home.lab.radiator(radiator)?], LENT);
            home.found(friend, radiator, &yaml, "vault")?;
        }
        home.sit_at(MAISON[0]);
        let radiators = FRIENDS.map(|(friend, radiator)| (friend, vec![radiator]));
        let it = Self { home, radiators: radiators.into() };
        for (friend, _) in FRIENDS {
            it.befriend(friend)?;
        }
        for number in 1..=8 {
            it.write(&number.to_string(), 1)?;
        }
        it.done(&["backup", "run"])?;
        Ok(it)
    }

    /// Maison and a friend become friends, and the friend's vault lets it in.
    pub fn befriend(&self, friend: &str) -> Result<()> {
        self.home.befriend(self.radiators_of(friend)?[0], MAISON[0], "maison")?;
        self.reached(friend)
    }

    /// Waits until maison is let in by that friend's vault.
    pub fn reached(&self, friend: &str) -> Result<()> {
        self.home.reaches(PATIENCE.as_secs(), MAISON[0], friend)
    }

    /// The friend's radiators; on the first its vault is active.
    fn radiators_of(&self, friend: &str) -> Result<&[&'static str]> {
        let found = self.radiators.get(friend).map(Vec::as_slice);
        found.with_context(|| format!("{friend} is no friend here"))
    }

    /// The friend's radiator on which its vault is active.
    pub fn radiator(&self, friend: &str) -> Result<&Radiator> {
        Ok(self.home.lab.radiator(self.radiators_of(friend)?[0])?)
    }

    /// The friend's home becomes one of two radiators, both with a replica of its vault, and of a witness; maison is told of
    /// both addresses.
    pub fn grow(&mut self, friend: &'static str, second: &'static str, witness: &str) -> Result<()> {
        let first = self.radiators_of(friend)?[0];
        self.home.lab.add(second)?.engine_ready()?;
        self.home.lab.add_witness(witness)?;
        self.home.sit_at(first);
        self.home.join(second, &[])?;
        self.home.start_units(second, true)?;
        self.home.join(witness, &["--witness"])?;
        self.home.start_units(witness, false)?;
        let both = [self.home.lab.radiator(first)?, self.home.lab.radiator(second)?];
        self.home.apply(&friend_yaml(friend, &both, LENT))?;
        let addresses = both.map(|radiator| radiator.address().to_string());
        self.home.wait(120, "the vault on both, and three voters", |s| {
            s.runs_on("vault") == Some(first) && s.voters() == 3 && s.in_sync(first) && s.in_sync(second)
        })?;
        self.home.sit_at(MAISON[0]);
        self.done(&["friend", "readdress", friend, &addresses[0], &addresses[1]])?;
        self.radiators.insert(friend, vec![first, second]);
        Ok(())
    }

    /// Waits until the friend's vault is active on its second radiator, which counts as the first from then on.
    pub fn taken_over(&mut self, friend: &'static str) -> Result<()> {
        let [first, second] = self.radiators_of(friend)? else { bail!("{friend} has one radiator") };
        let (first, second) = (*first, *second);
        self.home.sit_at(second);
        let taken = self.home.wait(60, "the vault to be taken over", |s| s.runs_on("vault") == Some(second));
        self.home.sit_at(MAISON[0]);
        taken?;
        self.radiators.insert(friend, vec![second, first]);
        Ok(())
    }

    /// Asks again and again; what can't be asked at the moment is asked again too.
    pub fn until<T>(&self, what: &str, mut is: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut last = None;
        let found = until(PATIENCE, what, || match is() {
            Ok(Some(value)) => Ok(Some(value)),
            not_yet => {
                last = not_yet.err();
                sleep(Duration::from_millis(100));
                Ok(None)
            }
        });
        found.with_context(|| last.map_or_else(|| "nothing failed".into(), |e| format!("{e:#}")))
    }

    /// Types a command on maison's first radiator; one that does not end by itself is an error.
    pub fn say(&self, args: &[&str]) -> Result<Said> {
        self.say_on(MAISON[0], args)
    }

    fn say_on(&self, radiator: &str, args: &[&str]) -> Result<Said> {
        let said = self.home.lab.radiator(radiator)?.thermidor(args, COMMAND_S)?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        println!("  {radiator}# thermidor {}\n{}", args.join(" "), text.trim_end());
        if said.status.code() == Some(TIMED_OUT) {
            bail!("`thermidor {}` was not done in {COMMAND_S} s: {text}", args.join(" "));
        }
        Ok(Said { done: said.status.success(), text })
    }

    /// The same for one that must do what it is asked.
    pub fn done(&self, args: &[&str]) -> Result<String> {
        let Said { done, text } = self.say(args)?;
        ensure!(done, "`thermidor {}`: {text}", args.join(" "));
        Ok(text)
    }

    /// The same for one that must be refused, or must fail.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let Said { done, text } = self.say(args)?;
        ensure!(!done, "`thermidor {}` was not refused: {text}", args.join(" "));
        Ok(text)
    }

    /// What a command on maison's first radiator says in JSON.
    pub fn asked(&self, args: &[&str]) -> Result<Value> {
        let said = self.home.lab.radiator(MAISON[0])?.thermidor(args, 60)?;
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        serde_json::from_slice(&said.stdout)
            .with_context(|| format!("`thermidor {}`: {words}", args.join(" ")))
    }

    /// How the notes' backups at a friend's stand.
    pub fn line(&self, friend: &str) -> Result<BackupLine> {
        let list = self.asked(&["backup", "ls", "-o", "json"])?;
        let items: Vec<BackupLine> = serde_json::from_value(list["items"].clone())?;
        let found = items.into_iter().find(|line| line.subject == NOTES && line.friend == friend);
        found.with_context(|| format!("`backup ls` has no line of {NOTES} at {friend}'s"))
    }

    /// The sentences of `status` that a person is to read: warnings.
    pub fn warnings(&self) -> Result<String> {
        Ok(self.asked(&["status", "-o", "json"])?["warnings"].to_string())
    }

    /// The restore of the notes that `status` tells of: `null` if there is none.
    pub fn restore(&self) -> Result<Value> {
        let status = self.asked(&["status", "-o", "json"])?;
        ensure!(status["quorum"] == true, "no quorum");
        let all = status["restores"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|restore| restore["service"] == NOTES).unwrap_or_default())
    }

    /// Has a backup of the notes made meanwhile.
    pub fn back_up<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        friend: &'env str,
    ) -> ScopedJoinHandle<'scope, Result<Said>> {
        scope.spawn(move || self.say(&["backup", "run", NOTES, "--to", friend]))
    }

    /// Waits until one upload to a friend has come so far, bytes: it is in the middle of a pack then.
    pub fn until_coming(&self, friend: &str, bytes: u64) -> Result<u64> {
        self.until(&format!("{bytes} bytes of an upload to {friend}"), || {
            Ok(Some(self.coming(friend)?).filter(|come| *come >= bytes))
        })
    }

    /// Bytes of uploads that a friend's vault has received in part.
    pub fn coming(&self, friend: &str) -> Result<u64> {
        Ok(files(&self.kept(friend)?.join("tmp"))?.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Waits until nothing half is left of uploads to a friend; the home itself may be on its way.
    pub fn nothing_comes(&self, friend: &str) -> Result<()> {
        self.until(&format!("no half upload at {friend}'s"), || Ok((self.coming(friend)? == 0).then_some(())))
    }

    /// What a friend keeps of maison, as this computer sees it.
    pub fn kept(&self, friend: &str) -> Result<PathBuf> {
        Ok(self.vault(friend)?.join("friends/maison"))
    }

    /// The folder of the notes' packs at a friend's, as this computer sees it.
    pub fn packs(&self, friend: &str) -> Result<PathBuf> {
        Ok(self.kept(friend)?.join("repo").join(NOTES).join("data"))
    }

    /// The volume of a friend's vault, as this computer sees it.
    pub fn vault(&self, friend: &str) -> Result<PathBuf> {
        Ok(self.radiator(friend)?.paths()?.volume("vault").join("mnt"))
    }

    /// Where the notes are active.
    pub fn active(&self) -> Result<String> {
        let status = self.home.wait(120, "the notes to run", |s| s.runs_on(NOTES).is_some())?;
        status.runs_on(NOTES).map(str::to_owned).context("the notes run")
    }

    /// The volume of the notes where it is used, as this computer sees it.
    pub fn volume(&self) -> Result<PathBuf> {
        Ok(self.home.lab.radiator(&self.active()?)?.paths()?.volume(NOTES).join("mnt"))
    }

    /// Runs a shell in the notes' container.
    pub fn in_notes(&self, script: &str) -> Result<String> {
        let active = self.active()?;
        let container = format!("thermidor.maison.{NOTES}");
        let said =
            self.home.lab.radiator(&active)?.run("docker", &["exec", &container, "sh", "-ec", script])?;
        Ok(said.trim().to_owned())
    }

    /// A file of so many MiB that nothing compresses, on all replicas' disks.
    pub fn write(&self, name: &str, mib: u64) -> Result<()> {
        self.in_notes(&format!("head -c {} /dev/urandom > /data/{name}; sync", mib << 20)).map(drop)
    }

    /// The SHA-256 of each of the notes' files.
    pub fn sums(&self) -> Result<String> {
        self.in_notes(
            "find /data -maxdepth 1 -type f ! -name '.*' ! -name 'filler*' -print0 | sort -z | xargs -0 sha256sum",
        )
    }

    /// Waits until the notes' files are those again: their container is just being started, say.
    pub fn until_sums(&self, sums: &str) -> Result<()> {
        let mut last = String::new();
        let same = self.until("the notes' files as they were", || {
            last = self.sums()?;
            Ok((last == sums).then_some(()))
        });
        same.with_context(|| format!("{last} instead of {sums}"))
    }

    /// How often maison wishes a backup of the notes from now on.
    pub fn wish_every(&self, every: &str) -> Result<()> {
        let yaml = self.home.lab.radiator(MAISON[0])?.dir().join("home.yaml");
        std::fs::write(&yaml, maison_yaml(every))?;
        self.done(&["apply", &yaml.to_string_lossy(), "--yes"]).map(drop)
    }

    /// Other terms for maison, by the friend's home.yaml; waits until its vault goes by them.
    pub fn agree(&self, friend: &str, terms: &str) -> Result<()> {
        let all = self.radiators_of(friend)?.iter().map(|name| self.home.lab.radiator(name));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let radiator = self.radiator(friend)?;
        let told = radiator.paths()?.service("vault").join("config/vault.json");
        let read = || -> Result<Value> {
            let config: Value = serde_json::from_slice(&std::fs::read(&told)?)?;
            Ok(config["friends"]["maison"].clone())
        };
        let before = read()?;
        let yaml = radiator.dir().join("home.yaml");
        std::fs::write(&yaml, friend_yaml(friend, &all, terms))?;
        let said = self.say_on(radiator.name(), &["apply", &yaml.to_string_lossy(), "--yes"])?;
        ensure!(said.done, "{}", said.text);
        self.until(&format!("{friend}'s vault to be told of `{terms}`"), || {
            Ok((read()? != before).then_some(()))
        })?;
        sleep(HEARD);
        Ok(())
    }
}

/// Nothing half lies in a friend's vault: no upload under way, and each pack is what its name says. The packs.
pub fn all_whole(homes: &Neighbours, friend: &str) -> Result<BTreeSet<String>> {
    homes.nothing_comes(friend)?;
    let data = homes.packs(friend)?;
    let packs = files(&data)?;
    ensure!(!packs.is_empty(), "no packs in {}", data.display());
    let whole = packs.into_iter().map(|(path, _)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(thermidor_backup::vault::BlobName::of(&content).to_string() == name, "{name} is not whole");
        Ok(name)
    });
    whole.collect()
}

/// All regular files below a folder, with their sizes in bytes; none if there is no folder.
pub fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            // Uploads and restores come and go.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| folder.display().to_string())?,
        };
        for entry in entries {
            let path = entry?.path();
            match path.symlink_metadata() {
                Ok(about) if about.is_dir() => folders.push(path),
                Ok(about) if about.is_file() => found.push((path, about.len())),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).with_context(|| path.display().to_string()),
            }
        }
    }
    Ok(found)
}

/// A script that takes all room of a folder's file system, in files called `filler.N`.
pub fn fill_script(dir: &str) -> String {
    format!(
        "cd '{dir}'; n=0; for size in 64M 8M 1M 64K 4K; do while fallocate -l $size filler.$n 2>/dev/null; do \
         n=$((n+1)); done; done; sync"
    )
}
