//! How long a household is without its mail once it has a bare machine: the home is backed up to a friend, burnt, and
//! recovered from its words, until the whole inbox is seen by IMAP.

use super::mail;
use crate::bench::Ground;
use crate::mail_load::imap::{Imap, NotDone};
use crate::options;
use anyhow::{Context, Result, anyhow, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::{Duration, Instant};
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::Lab;

/// Messages in the inbox.
pub const MESSAGES: u64 = 5000;
/// The home's radiator, and its friend's.
const SALON: &str = "salon";
const CHALET: &str = "chalet";
const USER: &str = "marie@maison.example";
const PASSWORD: &str = "lavande-et-thym-7";
/// The user to whom the mail's files belong.
const VMAIL: u32 = 5000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);

fn maison_yaml(address: &str) -> String {
    format!(
        "home: maison\naddress: {address}/24\nradiators: {{ {SALON}: {{ heats: room, power: 250 }} }}\nservices:\n  mail:\n    \
         recipe: mail\n    settings:\n      domain: maison.example\n      \
         accounts: {{ marie: {{ password: secret:mail/marie }} }}\n    volumes: [ \"mail:/srv/mail\" ]\n    \
         backup: {{ every: 12h, to: [alpes], drill: never }}\nvolumes: {{ mail: {{ size: 1g }} }}\n"
    )
}

fn alpes_yaml(address: &str) -> String {
    format!(
        "home: alpes\nradiators: {{ {CHALET}: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    recipe: vault\n    \
         settings: {{ addresses: [\"{address}\"], lend: 1g }}\n    volumes: [ \"vault:/srv/vault\" ]\n\
         volumes: {{ vault: {{ size: 2g }} }}\n"
    )
}

/// Burns a home and recovers it, so many times, each time on another bare machine: its engine runs and has the images.
/// Answers the seconds from `recover` to the first login that shows every message.
pub fn measure(ground: &Ground, runs: usize) -> Result<Vec<f64>> {
    let name = format!("bench-recovery-{}", std::process::id());
    let mut home = Home::new(Lab::new(&name, &[SALON], options(&home_images())?)?, SALON);
    let words = found(ground, &mut home)?;
    home.lab.radiator(SALON)?.power_off()?;
    let mut took = Vec::new();
    for run in 1..=runs {
        let bare = format!("neuf-{run}");
        home.lab.add(&bare)?.engine_ready()?;
        let seconds = recover(&mut home, &bare, &words)?;
        ground.say(format!("recovery {run} of {runs}: {seconds:.1} s until {MESSAGES} messages are seen"));
        took.push(seconds);
        home.lab.radiator(&bare)?.power_off()?;
    }
    Ok(took)
}

/// A home with mail, all of it at a friend's; answers its words.
fn found(ground: &Ground, home: &mut Home) -> Result<String> {
    home.form()?;
    home.tell_secret("mail/marie", PASSWORD)?;
    home.apply(&maison_yaml(&home.lab.floating().to_string()))?;
    home.wait(PATIENCE.as_secs(), "mail to run", |s| s.runs_on("mail").is_some())?;
    let bytes = fill(&home.lab.radiator(SALON)?.paths()?.volume("mail").join("mnt"))?;
    ground.say(format!("{MESSAGES} messages, {} MB", bytes >> 20));
    seen(home)?;
    home.lab.add(CHALET)?.engine_ready()?;
    let alpes = alpes_yaml(&home.lab.radiator(CHALET)?.address().to_string());
    home.found("alpes", CHALET, &alpes, "vault")?;
    home.sit_at(SALON);
    home.befriend(CHALET, SALON, "maison")?;
    home.reaches_its_friend(60, SALON)?;
    let ask = |args: &[&str]| -> Result<String> {
        let said = home.lab.radiator(SALON)?.thermidor(args, PATIENCE.as_secs())?;
        let words = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "`thermidor {}`: {words}", args.join(" "));
        Ok(String::from_utf8(said.stdout)?)
    };
    let words = ask(&["kit", "print", "-o", "words"])?;
    ask(&["backup", "run"])?;
    Ok(words)
}

/// Puts the messages into marie's inbox, as Dovecot would have left them; answers their bytes.
fn fill(volume: &Path) -> Result<u64> {
    let mut drawn = StdRng::seed_from_u64(1789);
    let mut dir = volume.join("boxes/marie");
    let mut folders = vec![dir.clone()];
    for below in ["Maildir", "cur"] {
        dir.push(below);
        folders.push(dir.clone());
    }
    for beside in ["new", "tmp"] {
        folders.push(volume.join("boxes/marie/Maildir").join(beside));
    }
    for folder in &folders {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        chown(folder, Some(VMAIL), Some(VMAIL))?;
    }
    let mut bytes = 0;
    for number in 0..MESSAGES {
        let text = mail::message(number, &mut drawn);
        bytes += text.len() as u64;
        let path = dir.join(format!("1790000000.M{number}P1.bench:2,S"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        chown(&path, Some(VMAIL), Some(VMAIL))?;
    }
    rustix::fs::syncfs(std::fs::File::open(volume)?).context("make the messages durable")?;
    Ok(bytes)
}

/// Waits until a login shows the whole inbox.
fn seen(home: &Home) -> Result<()> {
    let at = SocketAddr::from((home.lab.floating(), 993));
    let began = Instant::now();
    let all = format!("* {MESSAGES} EXISTS");
    loop {
        let look = || -> Result<bool, NotDone> {
            let mut session = Imap::open(at, USER, PASSWORD)?;
            Ok(session.ask("SELECT INBOX")?.iter().any(|line| line.eq_ignore_ascii_case(&all)))
        };
        let last = match home.lab.as_client(look)? {
            Ok(true) => return Ok(()),
            Ok(false) => "some are missing".to_owned(),
            Err(why) => format!("{why:?}"),
        };
        if began.elapsed() > PATIENCE {
            return Err(anyhow!("the inbox was never seen whole: {last}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn recover(home: &mut Home, bare: &str, words: &str) -> Result<f64> {
    let page = home.lab.radiator(bare)?.dir().join("page");
    std::fs::write(&page, words).context("the page")?;
    let (page, listen) = (page.display().to_string(), home.listener(bare)?);
    let friend = home.lab.radiator(CHALET)?.address().to_string();
    let began = Instant::now();
    let args = ["recover", "--kit", &page, "--friend", &friend, "--radiator", SALON, "--listen", &listen];
    home.type_on(bare, &[&args[..], &["--others-are-unplugged"]].concat())?;
    home.start_units(bare, true)?;
    home.sit_at(bare);
    seen(home)?;
    Ok(began.elapsed().as_secs_f64())
}
