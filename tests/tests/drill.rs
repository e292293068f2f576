//! Restores that are tried: what a friend keeps of mail is restored aside and started there without network, and its
//! mailboxes show by IMAP what was delivered, while mail itself goes on. Data on which mail can't start are told, and a
//! daemon that is killed in the middle leaves nothing behind.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::demo::home::Home;
use thermidor_supervisor::demo::home_images;
use thermidor_supervisor::demo::lab::command::until;
use thermidor_supervisor::demo::lab::{Guest, Lab};
use thermidor_tests::mail_load::imap::Imap;
use thermidor_tests::{options, program};

/// Maison's radiator, and that of the friend alpes.
const SALON: &str = "salon";
const CHALET: &str = "chalet";
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one order may take, s.
const ORDER_S: u64 = 240;
const ACCOUNTS: [(&str, &str); 2] = [("marie", "lavande-et-thym-7"), ("paul", "romarin-et-sauge-8")];

fn run(home: &Home, script: &str) -> Result<String> {
    Ok(home.lab.radiator(SALON)?.run("sh", &["-ec", script])?.trim().to_owned())
}

fn in_mail(home: &Home, script: &str) -> Result<String> {
    let radiator = home.lab.radiator(SALON)?;
    Ok(radiator.run("docker", &["exec", "thermidor.maison.mail", "sh", "-ec", script])?.trim().to_owned())
}

/// The ids of the containers that have a label, running or not.
fn containers(home: &Home, label: &str) -> Result<Vec<String>> {
    let listed = run(home, &format!("docker ps --all --no-trunc --quiet --filter label={label}"))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// The one instance of a service.
fn instance(home: &Home, service: &str) -> Result<String> {
    let mut all = containers(home, &format!("thermidor.service={service}"))?;
    ensure!(all.len() == 1, "{service} has {all:?}");
    all.pop().context("an instance")
}

/// What is there of a restore that was tried: containers, then what its folder holds.
fn left(home: &Home) -> Result<(Vec<String>, String)> {
    let folder = run(home, "ls -A \"$THERMIDOR_DATA/backup/drill\" 2>/dev/null || :")?;
    Ok((containers(home, "thermidor.trial")?, folder))
}

fn nothing_is_left(home: &Home) -> Result<()> {
    let left = left(home)?;
    ensure!(left.0.is_empty() && left.1.is_empty(), "a restore that was tried has left {left:?}");
    Ok(())
}

fn text(said: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
}

/// Orders something of backups to its end; what it says, and whether it went well.
fn order(home: &Home, args: &[&str]) -> Result<(bool, String)> {
    let said = home.lab.radiator(SALON)?.thermidor(args, ORDER_S)?;
    println!("  {SALON}# thermidor {}\n{}", args.join(" "), text(&said));
    Ok((said.status.success(), text(&said)))
}

fn back_up(home: &Home, service: &str) -> Result<()> {
    let (done, said) = order(home, &["backup", "run", service, "--to", "alpes"])?;
    ensure!(done, "{said}");
    Ok(())
}

fn drill(home: &Home, service: &str) -> Result<(bool, String)> {
    order(home, &["backup", "check", service, "--from", "alpes", "--drill"])
}

/// What `backup ls` says of a service.
fn listed(home: &Home, service: &str) -> Result<Value> {
    let said = home.lab.radiator(SALON)?.thermidor(&["backup", "ls", "-o", "json"], 60)?;
    let list: Value = serde_json::from_slice(&said.stdout).with_context(|| text(&said))?;
    let lines = list["items"].as_array().cloned().unwrap_or_default();
    lines.into_iter().find(|line| line["subject"] == service).context("a line of `backup ls`")
}

/// What was told, the oldest first.
fn events(home: &Home) -> Result<Vec<String>> {
    let said = home.lab.radiator(SALON)?.thermidor(&["events", "-o", "json"], 60)?;
    let all = String::from_utf8(said.stdout)?;
    let of = |line: &str| -> Result<String> {
        let event: Value = serde_json::from_str(line)?;
        Ok(event["text"].as_str().unwrap_or_default().to_owned())
    };
    all.lines().map(of).collect()
}

fn warns(home: &Home, words: &str) -> Result<bool> {
    let status = home.status()?.context("a status")?;
    Ok(status.warnings.iter().any(|warning| warning.contains(words)))
}

#[test]
fn a_restore_is_tried_with_the_service_on_it_and_leaves_nothing_whatever_happens() {
    let name = format!("drill-{}", std::process::id());
    let lab = Lab::new(&name, &[SALON, CHALET], options(&home_images()).unwrap()).unwrap();
    lab.engines_ready().unwrap();
    let mut home = Home::new(lab, SALON);
    form(&mut home).unwrap();
    let messages = deliver(&home).unwrap();
    goes_well(&home, messages).unwrap();
    cannot_start(&home).unwrap();
    shows_less(&home).unwrap();
    is_killed(&home).unwrap();
}

fn form(home: &mut Home) -> Result<()> {
    let chalet = home.lab.radiator(CHALET)?.address();
    let maison = "home: maison\nradiators: { salon: { heats: room, power: 250 } }\nservices:\n  mail:\n    \
                  recipe: mail\n    settings: { domain: maison.example, probe_every: 1h }\n    \
                  volumes: [ \"mail:/srv/mail\" ]\n    backup: { every: 6h, to: [alpes], drill: never }\n  notes:\n    \
                  image: debian:bookworm-slim\n    command: [ sh, -c, \"echo it > /data/it; exec sleep infinity\" ]\n    \
                  volumes: [ \"notes:/data\" ]\n    stop_grace_period: 1s\n    \
                  backup: { every: 6h, to: [alpes], drill: never }\n\
                  volumes: { mail: { size: 256m }, notes: { size: 64m } }\n";
    let alpes = format!(
        "home: alpes\nradiators: {{ chalet: {{ heats: room, power: 250 }} }}\nservices:\n  vault:\n    recipe: vault\n    \
         settings: {{ addresses: [\"{chalet}\"], lend: 128m }}\n    volumes: [ \"vault:/srv/vault\" ]\n\
         volumes: {{ vault: {{ size: 256m }} }}\n"
    );
    home.found("maison", SALON, maison, "mail")?;
    home.wait(60, "the notes to run", |s| s.runs_on("notes").is_some())?;
    home.found("alpes", CHALET, &alpes, "vault")?;
    home.befriend(CHALET, SALON, "maison")?;
    home.sit_at(SALON);
    home.reaches_its_friend(PATIENCE.as_secs(), SALON)
}

/// Two accounts whose passwords the home does not know; mail by SMTP, and by IMAP into a folder. Says how many messages
/// there are.
fn deliver(home: &Home) -> Result<u64> {
    let thermidor = program("thermidor")?.display().to_string();
    for (account, password) in ACCOUNTS {
        run(home, &format!("echo '{password}' | '{thermidor}' mail account add {account}"))?;
    }
    let salon = home.lab.radiator(SALON)?.address();
    let door = |port: u16| SocketAddr::from((salon, port));
    let send = |prefix: &str, count: u64, to: &[&str]| -> Result<Delivered, _> {
        let (to_door, count) = (door(25).to_string(), count.to_string());
        let addresses: Vec<String> = to.iter().map(|account| format!("{account}@maison.example")).collect();
        let mut args = vec!["smtp", "--to", &to_door, "--prefix", prefix, "--count", &count];
        args.extend(addresses.iter().flat_map(|address| ["--rcpt", address]));
        Guest::start(&home.lab, &args, &[])?.report()
    };
    // Postfix hears of new accounts within a second or two, and refuses their mail until then.
    let mut tries = 0;
    until(Duration::from_secs(60), "the accounts to be known to Postfix", || {
        std::thread::sleep(Duration::from_secs(2));
        tries += 1;
        let first = send(&format!("first-{tries}"), 1, &["marie", "paul"])?;
        Ok((first.acknowledged.len() == 1).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(2));
    let more = send("more", 20, &["marie"])?;
    ensure!(more.acknowledged.len() == 20, "{more:?}");

    let (account, password) = ACCOUNTS[0];
    let kept = home.lab.as_client(|| -> Result<(), String> {
        let told = |e| format!("{e:?}");
        let user = format!("{account}@maison.example");
        let mut imap = Imap::open(door(993), &user, password).map_err(told)?;
        imap.ask("CREATE \"Vieux papiers\"").map_err(told)?;
        for n in 0..3 {
            imap.append("\"Vieux papiers\"", &BTreeSet::new(), &format!("kept-{n}")).map_err(told)?;
        }
        Ok(())
    })?;
    kept.map_err(anyhow::Error::msg)?;
    // Postfix answers before it delivers.
    let expected = 2 + 20 + 3;
    let count =
        "cd /srv/mail/boxes; find marie paul \\( -path '*/cur/*' -o -path '*/new/*' \\) -type f | wc -l";
    until(Duration::from_secs(60), "every message to lie in its mailbox", || {
        std::thread::sleep(Duration::from_millis(300));
        Ok(in_mail(home, count).is_ok_and(|n| n == expected.to_string()).then_some(()))
    })
    .with_context(|| format!("there are {:?}", in_mail(home, count)))?;
    // A message that lies in its mailbox may still lie in the queue, and come once more in a restore.
    let queued =
        "find /srv/mail/queue/incoming /srv/mail/queue/active /srv/mail/queue/deferred -type f | wc -l";
    until(Duration::from_secs(60), "the queue to be empty", || {
        std::thread::sleep(Duration::from_millis(300));
        Ok(in_mail(home, queued).is_ok_and(|n| n == "0").then_some(()))
    })?;
    in_mail(home, "sync -f /srv/mail")?;
    Ok(expected)
}

/// All that was delivered is seen by IMAP in the restored mail, while mail itself goes on.
fn goes_well(home: &Home, messages: u64) -> Result<()> {
    let (mail, before) = (instance(home, "mail")?, epoch(home)?);
    back_up(home, "mail")?;
    let (done, said) = drill(home, "mail")?;
    ensure!(done, "{said}");
    let words = format!("{messages} messages by IMAP, the service started in ");
    ensure!(said.contains(&words), "{said}");
    nothing_is_left(home)?;
    ensure!(instance(home, "mail")? == mail && epoch(home)? == before, "mail itself was touched");

    let line = listed(home, "mail")?;
    let tried = &line["drill"];
    ensure!(tried["by_imap"] == messages && tried["message_files"] == messages, "{line}");
    ensure!(tried["failure"].is_null() && line["drilled_ms"].is_u64() && line["state"] == "proved", "{line}");
    ensure!(tried["started_ms"].as_u64().is_some_and(|ms| ms < 120_000), "{line}");
    ensure!(tried["text"].as_str().is_some_and(|text| text.contains(&words)), "{line}");
    let told = events(home)?;
    let is_it = |text: &&String| text.starts_with("a restore of mail from alpes was tried: ");
    ensure!(told.iter().find(is_it).is_some_and(|text| text.contains(&words)), "{told:?}");
    let status = home.type_here(&["status"])?;
    ensure!(status.contains("a restore from alpes was last tried less than a minute ago"), "{status}");
    Ok(())
}

fn epoch(home: &Home) -> Result<u64> {
    Ok(home.status()?.context("a status")?.service("mail").context("mail is declared")?.epoch)
}

/// What is backed up holds a file where mail's queue should be. Mail itself has it back before anybody misses it.
fn cannot_start(home: &Home) -> Result<()> {
    let mail = instance(home, "mail")?;
    in_mail(home, "cd /srv/mail; mv queue queue.away; : > queue; sync -f /srv/mail")?;
    let backed_up = back_up(home, "mail");
    in_mail(home, "cd /srv/mail; rm queue; mv queue.away queue; sync -f /srv/mail")?;
    backed_up?;
    let (done, said) = drill(home, "mail")?;
    ensure!(!done && said.contains("the restored mail ended by itself with code 1"), "{said}");
    ensure!(said.contains("its last words: "), "{said}");
    nothing_is_left(home)?;
    ensure!(instance(home, "mail")? == mail, "mail itself goes on");
    let line = listed(home, "mail")?;
    let why = line["drill"]["failure"].as_str().unwrap_or_default();
    ensure!(why.contains("ended by itself with code 1") && line["drill"]["failures"] == 1, "{line}");
    ensure!(line["state"] == "proved", "the backup is as good as it was: {line}");
    let told = events(home)?;
    let failed = "a restore of mail from alpes was tried and failed: the restored mail ended by itself";
    ensure!(told.iter().any(|text| text.starts_with(failed)), "{told:?}");
    ensure!(warns(home, "the last restore tried from alpes failed")?, "{:?}", home.status()?);
    again_well(home)
}

/// A backup of what is whole again, and a restore of it: nothing is shouted any more.
fn again_well(home: &Home) -> Result<()> {
    back_up(home, "mail")?;
    let (done, said) = drill(home, "mail")?;
    ensure!(done, "{said}");
    ensure!(listed(home, "mail")?["drill"]["failure"].is_null(), "{said}");
    ensure!(!warns(home, "the last restore tried")?, "{:?}", home.status()?);
    Ok(())
}

/// A message lies in a mailbox that nobody can log in to: there are fewer by IMAP than there are files.
fn shows_less(home: &Home) -> Result<()> {
    let stray = "mkdir -p /srv/mail/boxes/Marie/Maildir/cur; echo lost > /srv/mail/boxes/Marie/Maildir/cur/1; sync -f /srv/mail";
    in_mail(home, stray)?;
    let backed_up = back_up(home, "mail");
    in_mail(home, "rm -r /srv/mail/boxes/Marie; sync -f /srv/mail")?;
    backed_up?;
    let (done, said) = drill(home, "mail")?;
    ensure!(!done && said.contains("Marie: 1 messages lie where nobody can log in"), "{said}");
    let line = listed(home, "mail")?;
    let (shown, lie) = (line["drill"]["by_imap"].as_u64(), line["drill"]["message_files"].as_u64());
    ensure!(shown.is_some() && shown < lie, "{line}");
    nothing_is_left(home)?;
    again_well(home)
}

/// The daemon is killed while the restored notes run, and stays down for as long as it takes to look.
fn is_killed(home: &Home) -> Result<()> {
    let notes = instance(home, "notes")?;
    back_up(home, "notes")?;
    std::thread::scope(|scope| -> Result<()> {
        let ordered = scope.spawn(|| drill(home, "notes"));
        // Whoever can't be asked anything must run for ten seconds: so long it is there.
        let trial = until(PATIENCE, "the restored notes to run", || {
            std::thread::sleep(Duration::from_millis(50));
            Ok(run(home, "docker ps --no-trunc --quiet --filter label=thermidor.trial").ok())
                .map(|id| id.filter(|id| !id.is_empty()))
        })?;
        home.lab.radiator(SALON)?.unit("run", |unit| unit.down9())?;
        let about = "{{.HostConfig.NetworkMode}} {{index .Config.Labels \"thermidor.service\"}}";
        let seen = run(home, &format!("docker inspect --format '{about}' {trial}"))?;
        ensure!(seen == "none" || seen == "none <no value>", "{seen}");
        let (containers, folder) = left(home)?;
        ensure!(containers == [trial] && folder == "notes-alpes", "{containers:?}, {folder:?}");
        ensure!(instance(home, "notes")? == notes, "the notes themselves go on");
        // Long enough for whoever waits for the end to hear that nobody answers.
        std::thread::sleep(Duration::from_secs(2));
        home.lab.radiator(SALON)?.unit("run", |unit| unit.up())?;
        let (done, said) = ordered.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        ensure!(!done, "nobody was there to answer: {said}");
        Ok(())
    })?;
    until(PATIENCE, "what was left to be removed", || {
        std::thread::sleep(Duration::from_millis(300));
        Ok(nothing_is_left(home).ok())
    })?;
    home.wait(60, "the notes to run as before", |s| s.runs_on("notes") == Some(SALON))?;
    ensure!(instance(home, "notes")? == notes, "the notes themselves were touched");
    let (done, said) = drill(home, "notes")?;
    ensure!(done && said.contains("the service started in "), "{said}");
    ensure!(listed(home, "notes")?["drill"]["message_files"].is_null(), "notes are no mail");
    nothing_is_left(home)
}
