//! Two homes on one network become friends by a code, back up to one another's vault with a real restic, and cease to be
//! friends.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::time::Duration;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Lab, Options};
use thermidor_tests::program;

/// The radiator of the home maison, and that of the home alpes.
const RADIATORS: [&str; 2] = ["salon", "chalet"];
/// How long a change of friends takes to reach the vault, s.
const SETTLE: Duration = Duration::from_secs(20);
/// Bytes of the service's data.
const DATA: u64 = 8 << 20;

/// What is read of `friend ls -o json`.
#[derive(Debug, Clone, Deserialize)]
struct Friend {
    home: String,
    confirmed: bool,
    reachable: Option<bool>,
    reach: String,
    lent_bytes: Option<u64>,
    used_bytes: Option<u64>,
    newest_there_ms: Option<u64>,
    newest_here_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Friends {
    items: Vec<Friend>,
}

fn friends(home: &Home, radiator: &str) -> Result<Vec<Friend>> {
    let said = home.lab.radiator(radiator)?.thermidor(&["friend", "ls", "-o", "json"], 60)?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(serde_json::from_slice::<Friends>(&said.stdout)?.items)
}

/// Waits until what one home says of its friends is as wanted.
fn wait(home: &Home, radiator: &str, what: &str, wanted: impl Fn(&[Friend]) -> bool) -> Result<Vec<Friend>> {
    let mut last = Vec::new();
    let found = until(SETTLE, what, || {
        std::thread::sleep(Duration::from_millis(300));
        last = friends(home, radiator).unwrap_or_default();
        Ok(wanted(&last).then(|| last.clone()))
    });
    found.with_context(|| format!("{radiator}'s friends are {last:?}"))
}

fn vault(home: &Home, radiator: &str, terms: &str) -> Result<String> {
    let address = home.lab.radiator(radiator)?.address();
    Ok(format!(
        "  vault:\n    recipe: vault\n    settings: {{ addresses: [\"{address}\"], lend: 64m{terms} }}\n    \
         volumes: [ \"vault:/srv/vault\" ]\n"
    ))
}

#[test]
fn two_homes_become_friends_back_up_to_one_another_and_part() {
    let name = format!("friends-{}", std::process::id());
    let options =
        Options::beside(&program("thermidor").unwrap()).with_images(&[], &|text| eprintln!("{text}"));
    let lab = Lab::new(&name, &RADIATORS, options.unwrap()).unwrap();
    lab.engines_ready().unwrap();
    let mut home = Home::new(lab, RADIATORS[0]);
    let [salon, chalet] = RADIATORS;

    // Maison has something to lose; alpes takes 512 KiB/s of it.
    let fill = format!(
        "test -e /data/it || {{ head -c {DATA} /dev/urandom > /data/it; sync; }}; exec sleep infinity"
    );
    let maison = format!(
        "home: maison\nradiators: {{ salon: {{ heats: room, power: 250 }} }}\nservices:\n{}  notes:\n    \
         image: debian:bookworm-slim\n    command: [ sh, -c, \"{fill}\" ]\n    volumes: [ \"notes:/data\" ]\n    \
         stop_grace_period: 1s\n    backup: {{ every: 1h, to: [alpes] }}\n\
         volumes: {{ vault: {{ size: 128m }}, notes: {{ size: 64m }} }}\n",
        vault(&home, salon, "").unwrap()
    );
    let alpes = format!(
        "home: alpes\nradiators: {{ chalet: {{ heats: room, power: 250 }} }}\nservices:\n{}\
         volumes: {{ vault: {{ size: 256m }} }}\n",
        vault(&home, chalet, ", friends: { maison: { lend: 96m, up: 512k } }").unwrap()
    );
    home.found("maison", salon, &maison, "vault").unwrap();
    home.wait(60, "the notes to run", |s| s.runs_on("notes").is_some()).unwrap();
    home.found("alpes", chalet, &alpes, "vault").unwrap();

    become_friends(&home).unwrap();
    backs_up(&home).unwrap();
    part(&home).unwrap();
}

fn become_friends(home: &Home) -> Result<()> {
    let [salon, chalet] = RADIATORS;
    let address = home.lab.radiator(salon)?.address().to_string();
    let invite = || home.friends_code(salon);
    // A code that is none costs nothing; one that is not this one is the one guess.
    let (void, code) = (invite()?, invite()?);
    let typo = home.refused_on(chalet, &["friend", "accept", "abandon-abilty-able", &address])?;
    ensure!(typo.contains("word 2, `abilty`"), "{typo}");
    let wrong = home.refused_on(chalet, &["friend", "accept", &void, &address])?;
    ensure!(wrong.contains("the codes are not the same"), "{wrong}");
    let burnt = home.refused_on(chalet, &["friend", "accept", &code, &address])?;
    ensure!(burnt.contains("this code has been used"), "{burnt}");
    ensure!(friends(home, salon)?.is_empty() && friends(home, chalet)?.is_empty(), "nobody is a friend yet");

    let code = invite()?;
    home.type_on(chalet, &["friend", "accept", &code, &address, "--yes"])?;
    // One side alone makes no friends: maison's person has not looked yet.
    let met = friends(home, salon)?;
    ensure!(met.len() == 1 && met[0].home == "alpes" && !met[0].confirmed, "{met:?}");
    let one_sided = wait(home, chalet, "maison to refuse", |all| {
        all.iter().any(|f| f.reach.contains("does not know this home"))
    })?;
    ensure!(one_sided[0].confirmed, "{one_sided:?}");
    home.type_on(salon, &["friend", "confirm", "alpes", "--yes"])?;
    for (radiator, other) in [(salon, "alpes"), (chalet, "maison")] {
        wait(home, radiator, "the friend to be reachable", |all| {
            all.iter().any(|f| f.home == other && f.confirmed && f.reachable == Some(true))
        })?;
    }
    let [maison] = friends(home, chalet)?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(maison.lent_bytes == Some(96 << 20), "{maison:?}");
    home.type_on(chalet, &["friend", "ls"]).map(drop)
}

/// The vault's container is killed while restic sends: it is started again, and restic goes on.
fn backs_up(home: &Home) -> Result<()> {
    let [salon, chalet] = RADIATORS;
    std::thread::scope(|scope| -> Result<()> {
        let run = ["backup", "run", "notes", "--to", "alpes"];
        let backup = scope.spawn(move || home.lab.radiator(salon).and_then(|r| r.thermidor(&run, 240)));
        until(Duration::from_secs(60), "something to have come", || {
            std::thread::sleep(Duration::from_millis(200));
            let used = friends(home, chalet).unwrap_or_default().first().and_then(|f| f.used_bytes);
            Ok(used.filter(|used| (1..DATA).contains(used)))
        })?;
        let chalet = home.lab.radiator(chalet)?;
        let vaults = chalet.pids_of("vault-process");
        ensure!(!vaults.is_empty(), "no vault runs");
        for pid in &vaults {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(i32::try_from(*pid)?).context("a process")?,
                rustix::process::Signal::KILL,
            )?;
        }
        let said = backup.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let text =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        ensure!(said.status.success(), "{text}");
        let now = chalet.pids_of("vault-process");
        ensure!(now.iter().all(|pid| !vaults.contains(pid)), "it was killed: {vaults:?}, {now:?}");
        Ok(())
    })?;
    let [alpes] = friends(home, salon)?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(alpes.newest_there_ms.is_some(), "{alpes:?}");
    let [maison] = friends(home, chalet)?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(maison.newest_here_ms.is_some() && maison.used_bytes > Some(DATA), "{maison:?}");
    // Who reads alpes' disk reads nothing of maison's notes.
    home.type_on(salon, &["backup", "check", "notes", "--from", "alpes"]).map(drop)
}

fn part(home: &Home) -> Result<()> {
    let [salon, chalet] = RADIATORS;
    let asks = home.refused_on(chalet, &["friend", "rm", "maison"])?;
    ensure!(asks.contains("maison keeps") && asks.contains("--yes` does it"), "{asks}");
    home.type_on(chalet, &["friend", "rm", "maison", "--yes"])?;
    ensure!(friends(home, chalet)?.is_empty(), "it is gone");
    wait(home, salon, "alpes to refuse", |all| all.iter().any(|f| f.reachable == Some(false)))?;
    let refused = home.refused_on(salon, &["backup", "run", "notes", "--to", "alpes"])?;
    ensure!(refused.contains("does not know this home"), "{refused}");
    what_it_kept_goes_when_a_person_says_so(home)
}

fn what_it_kept_goes_when_a_person_says_so(home: &Home) -> Result<()> {
    let [_, chalet] = RADIATORS;
    let left = || -> Result<Vec<serde_json::Value>> {
        let said = home.lab.radiator(chalet)?.thermidor(&["friend", "ls", "-o", "json"], 60)?;
        let list: serde_json::Value = serde_json::from_slice(&said.stdout)?;
        Ok(list["left"].as_array().cloned().unwrap_or_default())
    };
    let kept = left()?;
    let is_there = |line: &serde_json::Value| line["used_bytes"].as_u64().is_some_and(|used| used > DATA);
    ensure!(kept.len() == 1 && kept[0]["home"] == "maison" && is_there(&kept[0]), "{kept:?}");
    let asks = home.refused_on(chalet, &["friend", "rm", "maison", "--delete-data"])?;
    ensure!(asks.contains("deleted for good") && asks.contains("nothing was changed"), "{asks}");
    ensure!(left()?.len() == 1, "it was only asked");
    home.type_on(chalet, &["friend", "rm", "maison", "--delete-data", "--yes"])?;
    until(Duration::from_secs(60), "what maison kept to be deleted", || {
        std::thread::sleep(Duration::from_millis(300));
        Ok(left().is_ok_and(|left| left.is_empty()).then_some(()))
    })?;
    let again = home.refused_on(chalet, &["friend", "rm", "maison", "--delete-data", "--yes"])?;
    ensure!(again.contains("maison is no friend"), "{again}");
    Ok(())
}
