//! The mail image on a real Docker: mail goes in and comes out, nobody relays who may not, and
//! changes of accounts arrive without a restart.

mod stage;

use stage::letter::{
    Sender, account, arrives, config_folder, header, household, inbox, log, messages_on_disk, paper, probe,
    serve, start,
};
use stage::{PATIENCE, Stage, name, script};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use thermidor_model::spec::PROBE_ACCOUNT;
use thermidor_services::probe::{Probe, mailboxes};
use thermidor_services::recipe::mail::{MailConfig, write_config};

#[tokio::test]
async fn mail_goes_in_by_smtp_and_comes_out_by_imap_also_by_alias_and_detail() {
    let Some(stage) = Stage::set("mail_goes_in_by_smtp_and_comes_out_by_imap").await else { return };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    for (to, user, password) in [
        ("marie@example.org", "marie", "sesame"),
        ("contact@example.org", "marie", "sesame"),
        ("postmaster@example.org", "marie", "sesame"),
        ("paul+bills@example.org", "paul@example.org", "open it"),
    ] {
        let id = format!("<{}@test>", to.replace('@', ".at."));
        let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
        let accepted = sender.deliver(to, &id).await;
        assert!(accepted.starts_with("250 2.0.0 Ok: queued as"), "{accepted}");
        let mut imap = inbox(ip, &paper, user, password).await.unwrap();
        arrives(&mut imap, &id).await;
    }
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    let nobody = sender.recipient("nobody@example.org").await;
    assert!(nobody.starts_with("550 5.1.1"), "refused at the door, not bounced later: {nobody}");
}

#[tokio::test]
async fn messages_are_counted_alike_by_imap_and_in_the_maildir_whatever_the_folders_are_called() {
    let Some(stage) = Stage::set("messages_are_counted_alike_by_imap_and_in_the_maildir").await else {
        return;
    };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    assert!(sender.deliver("marie@example.org", "<counted@test>").await.starts_with("250"));
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    let number = arrives(&mut imap, "<counted@test>").await;
    // The parent of the last is none that can be opened.
    for folder in ["\"Aunt M &- co\"", "\"a (b) \\\"c\\\"\"", "Sent", "Parent.Child"] {
        match imap.ask(&format!("CREATE {folder}")).await {
            Err(why) if why.contains("ALREADYEXISTS") => {}
            made => drop(made.unwrap()),
        }
        imap.ask(&format!("UID COPY {number} {folder}")).await.unwrap();
    }
    assert_eq!(mailboxes::count(&mut imap).await, Ok(5));
    let maildir = stage.folder("volume").join("boxes/marie/Maildir");
    assert_eq!(mailboxes::lie_in(&maildir).unwrap(), 5);
    let mut empty = inbox(ip, &paper, "paul", "open it").await.unwrap();
    assert_eq!(mailboxes::count(&mut empty).await, Ok(0));
}

#[tokio::test]
async fn nobody_relays_without_a_password_wherever_he_comes_from() {
    let Some(stage) = Stage::set("nobody_relays_without_a_password").await else { return };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let abroad = "victim@elsewhere.example";
    let ours = [127, 0, 0, 1];
    let IpAddr::V4(own) = ip else { panic!("{ip}") };
    // The radiator itself; through the ingress: a machine of the LAN, and forged as loopback, as the
    // container itself and as its own network.
    let origins: [(u16, Option<Vec<u8>>); 5] = [
        (25, None),
        (10025, Some(header([192, 168, 1, 77]))),
        (10025, Some(header(ours))),
        (10025, Some(header(own.octets()))),
        (10025, Some(b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 25\r\n".to_vec())),
    ];
    for (port, header) in origins {
        let mut sender = Sender::connect(SocketAddr::new(ip, port), header.as_deref()).await.unwrap();
        let refused = sender.recipient(abroad).await;
        assert!(refused.contains("Relay access denied"), "port {port} {header:?}: {refused}");
    }
    // Submission: nothing at all before a login, and no login without TLS.
    for (port, header) in [(587, None), (10587, Some(header(ours)))] {
        let mut sender = Sender::connect(SocketAddr::new(ip, port), header.as_deref()).await.unwrap();
        let refused = sender.say("EHLO client.example").await.unwrap();
        assert!(refused.starts_with("250"), "{refused}");
        let refused = sender.say("MAIL FROM:<marie@example.org>").await.unwrap();
        assert!(refused.contains("Must issue a STARTTLS command first"), "{refused}");
        let refused = sender.say("AUTH PLAIN AG1hcmllAHNlc2FtZQ==").await.unwrap();
        assert!(refused.starts_with('5'), "{refused}");
    }
    // Another container on the same bridge: as a client refused, with a header not even heard.
    let text = format!(
        "say() {{ exec 3<>/dev/tcp/{ip}/$1; printf \"$2\" >&3; shift 2; \
           for line in \"$@\"; do read -t 20 -r answer <&3 || {{ echo \"$1 deaf\"; return; }}; \
           echo \"answer: $answer\"; printf '%s\\r\\n' \"$line\" >&3; done; \
           read -t 20 -r answer <&3; echo \"last: $answer\"; }}\n\
         say 25 '' 'HELO x' 'MAIL FROM:<a@b.example>' 'RCPT TO:<{abroad}>'\n\
         say 10025 'PROXY TCP4 127.0.0.1 127.0.0.1 4711 25\\r\\n' 'HELO x'\n\
         say 10587 'PROXY TCP4 127.0.0.1 127.0.0.1 4711 25\\r\\n' 'HELO x'\n\
         timeout 20 bash -c 'exec 3<>/dev/tcp/{ip}/10993; printf \"PROXY TCP4 127.0.0.1 127.0.0.1 4711 25\\r\\n\" >&3; \
           read -r answer <&3; echo \"imaps: $?\"'\n"
    );
    stage.engine.prepare(&script("stranger", &text)).await;
    stage.engine.start(&name("stranger"), 1).await.unwrap();
    stage.until(&name("stranger"), "ended", |found| !found.running).await;
    use futures::StreamExt;
    let lines = stage.engine.logs(&name("stranger"), false, None).await.unwrap();
    let said = lines.map(|l| l.unwrap().text).collect::<Vec<_>>().await.join("\n");
    assert!(said.contains("Relay access denied"), "{said}");
    assert_eq!(said.matches("deaf").count(), 2, "both gates are shut: {said}");
    assert!(said.contains("imaps: 1"), "Dovecot hangs up: {said}");
    assert_eq!(said.matches("220 ").count(), 1, "{said}\n{}", log(&stage).await);
}

#[tokio::test]
async fn the_ingress_s_header_tells_the_client_s_address() {
    let Some(stage) = Stage::set("the_ingress_s_header_tells_the_client_s_address").await else { return };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let proxied = SocketAddr::new(ip, 10025);
    let mut sender = Sender::connect(proxied, Some(&header([192, 0, 2, 55]))).await.unwrap();
    assert!(sender.deliver("marie@example.org", "<proxied@test>").await.starts_with("250"));
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    let number = arrives(&mut imap, "<proxied@test>").await;
    let text = imap.ask(&format!("UID FETCH {number} BODY[HEADER]")).await.unwrap().join("\n");
    assert!(text.contains("[192.0.2.55]"), "{text}");
}

#[tokio::test]
async fn the_probe_goes_all_the_way_round_and_leaves_nothing_behind() {
    let Some(stage) = Stage::set("the_probe_goes_all_the_way_round").await else { return };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let mail = name("mail");
    let good = Probe::Mail(Box::new(probe(ip, &paper, "marie", "sesame")));
    let result = good.run(&mail, ip, &stage.engine).await;
    assert_eq!(result.healthy, Some(true), "{result}\n{}", log(&stage).await);
    let legs: Vec<_> = result.legs.iter().map(|leg| leg.name).collect();
    assert_eq!(legs, ["greet", "submit", "login", "deliver", "delete"]);
    assert_eq!(messages_on_disk(&stage.folder("volume"), "marie"), 0);

    // The home's own mailbox: nobody outside reaches it, and what a broken probe left goes too.
    let reserved = probe(ip, &paper, PROBE_ACCOUNT, "only the home knows");
    for to in [reserved.address.clone(), reserved.address.replace('@', "+x@")] {
        let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
        let refused = sender.recipient(&to).await;
        assert!(refused.starts_with("554"), "{to}: {refused}");
    }
    let left = stage.folder("volume").join("boxes").join(PROBE_ACCOUNT).join("Maildir/new");
    let own = Probe::Mail(Box::new(reserved));
    assert_eq!(own.run(&mail, ip, &stage.engine).await.healthy, Some(true), "{}", log(&stage).await);
    std::fs::write(left.join("1.left.mail"), "Subject: left behind\n\n").unwrap();
    std::os::unix::fs::chown(left.join("1.left.mail"), Some(5000), Some(5000)).unwrap();
    assert_eq!(own.run(&mail, ip, &stage.engine).await.healthy, Some(true), "{}", log(&stage).await);
    assert_eq!(messages_on_disk(&stage.folder("volume"), PROBE_ACCOUNT), 0);

    let wrong = Probe::Mail(Box::new(probe(ip, &paper, "marie", "wrong")));
    let result = wrong.run(&mail, ip, &stage.engine).await;
    assert_eq!(result.healthy, Some(false));
    assert!(result.trouble.starts_with("submission: ") && !result.trouble.contains("wrong"), "{result}");
    let stranger = Probe::Mail(Box::new(probe(ip, &stage::letter::paper(), "marie", "sesame")));
    let result = stranger.run(&mail, ip, &stage.engine).await;
    assert!(result.trouble.contains("certificate"), "another authority: {result}");
    let greeting = Probe::Greeting { port: 25, begins: "220 ".into(), limit: PATIENCE };
    assert_eq!(greeting.run(&mail, ip, &stage.engine).await.healthy, Some(true));
}

/// Whether that many configurations were taken since the start.
async fn took(stage: &Stage, times: usize) -> bool {
    log(stage).await.matches("took configuration").count() >= times
}

#[tokio::test]
async fn locks_of_an_instance_that_was_killed_hold_nothing_up() {
    let Some(stage) = Stage::set("locks_of_an_instance_that_was_killed").await else { return };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    assert!(sender.deliver("marie@example.org", "<before@locks>").await.starts_with("250"));
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    arrives(&mut imap, "<before@locks>").await;
    stage.engine.kill(&name("mail")).await.unwrap();

    // As Dovecot writes them: by process 1 of this host, which lives again after the start.
    let maildir = stage.folder("volume").join("boxes/marie/Maildir");
    let held = ["dovecot-uidlist.lock", "dovecot.index.log.lock"].map(|lock| maildir.join(lock));
    for lock in &held {
        std::fs::write(lock, "1:mail").unwrap();
        std::os::unix::fs::chown(lock, Some(5000), Some(5000)).unwrap();
    }
    let message = maildir.join("cur/of-somebody.lock");
    std::fs::write(&message, "Subject: no lock\n\nhello\n").unwrap();
    let ip = start(&stage, 2).await;
    assert!(held.iter().all(|lock| !lock.exists()), "taken away before anybody waits: {}", log(&stage).await);
    let begun = Instant::now();
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    assert!(sender.deliver("marie@example.org", "<after@locks>").await.starts_with("250"));
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    arrives(&mut imap, "<after@locks>").await;
    println!("mail was there {} ms after the start", begun.elapsed().as_millis());
    assert!(message.exists(), "a message is none, whatever its name");
    assert!(!log(&stage).await.contains("dotlock"), "nobody waited: {}", log(&stage).await);
}

#[tokio::test]
async fn a_changed_household_is_taken_over_without_a_restart() {
    let Some(stage) = Stage::set("a_changed_household_is_taken_over_without_a_restart").await else { return };
    let paper = paper();
    let before = household(&paper);
    let ip = serve(&stage, &before).await;
    let mut session = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    let mut gone = inbox(ip, &paper, "paul", "open it").await.unwrap();
    let running = stage.engine.find(&name("mail")).await.unwrap().unwrap();
    let mut after = before.clone();
    after.accounts.insert("marie".into(), account("changed", &["info"]));
    after.accounts.insert("lea".into(), account("new", &[]));
    after.accounts.remove("paul");
    write_config(&config_folder(&stage), &after).unwrap();
    let begun = Instant::now();
    while inbox(ip, &paper, "marie", "changed").await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new password is never taken: {}", log(&stage).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = inbox(ip, &paper, "marie", "sesame").await.err().unwrap();
    assert!(refused.contains("refuses LOGIN"), "{refused}");
    assert!(inbox(ip, &paper, "paul", "open it").await.is_err());
    inbox(ip, &paper, "lea", "new").await.unwrap();
    while gone.ask("NOOP").await.is_ok() {
        assert!(
            begun.elapsed() < PATIENCE,
            "who has no account any more stays logged in: {}",
            log(&stage).await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let to = async |address: &'static str| {
        let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
        sender.recipient(address).await
    };
    while !to("info@example.org").await.starts_with("250") {
        assert!(begun.elapsed() < PATIENCE, "the new alias is never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(to("paul@example.org").await.starts_with("550"));
    assert!(to("contact@example.org").await.starts_with("550"));
    let now = stage.engine.find(&name("mail")).await.unwrap().unwrap();
    assert_eq!((now.pid, now.started_at), (running.pid, running.started_at), "no restart");
    session.ask("NOOP").await.expect("an open session survives");
    let other = MailConfig { message_max_bytes: 2_000_000, ..after.clone() };
    write_config(&config_folder(&stage), &other).unwrap();
    while !took(&stage, 2).await {
        assert!(begun.elapsed() < PATIENCE, "{}", log(&stage).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    session.ask("NOOP").await.expect("also when Dovecot reads its settings anew");

    // A set of files that is not whole changes nothing.
    let folder = config_folder(&stage);
    std::fs::create_dir(folder.join("v-broken")).unwrap();
    std::fs::write(folder.join("v-broken/version"), "broken\n").unwrap();
    std::fs::remove_file(folder.join("current")).unwrap();
    std::os::unix::fs::symlink("v-broken", folder.join("current")).unwrap();
    while !log(&stage).await.contains("configuration broken cannot be used yet") {
        assert!(begun.elapsed() < PATIENCE, "{}", log(&stage).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    inbox(ip, &paper, "lea", "new").await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill_and_another_container() {
    let Some(stage) = Stage::set("what_was_accepted_survives_a_kill_and_another_container").await else {
        return;
    };
    let paper = paper();
    let ip = serve(&stage, &household(&paper)).await;
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    for n in 0..20 {
        let accepted = sender.deliver("marie@example.org", &format!("<{n}@kill>")).await;
        assert!(accepted.starts_with("250"), "{accepted}");
    }
    stage.engine.kill(&name("mail")).await.unwrap();
    stage.engine.remove(&name("mail")).await.unwrap();
    let ip = serve(&stage, &household(&paper)).await;
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    for n in 0..20 {
        arrives(&mut imap, &format!("<{n}@kill>")).await;
    }
    // In order, too.
    stage.engine.stop(&name("mail"), Duration::from_secs(30)).await.unwrap();
    let stopped = stage.engine.find(&name("mail")).await.unwrap().unwrap();
    assert_eq!(stopped.exit_code, Some(0), "{}", log(&stage).await);
    let ip = start(&stage, 2).await;
    let mut imap = inbox(ip, &paper, "marie", "sesame").await.unwrap();
    arrives(&mut imap, "<19@kill>").await;
}

#[tokio::test]
async fn the_container_ends_when_one_of_its_daemons_does_and_without_a_configuration() {
    let Some(stage) = Stage::set("the_container_ends_when_one_of_its_daemons_does").await else { return };
    let paper = paper();
    let mail = name("mail");
    serve(&stage, &household(&paper)).await;
    for (epoch, daemon) in [(1, "dovecot"), (2, "master")] {
        if epoch > 1 {
            start(&stage, epoch).await;
        }
        let found = stage.engine.find(&mail).await.unwrap().unwrap();
        let group = thermidor_services::docker::cgroup_of(found.pid.unwrap()).unwrap();
        let comm = |pid: &rustix::process::Pid| {
            std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default()
        };
        let pid = group.processes().unwrap().into_iter().find(|pid| comm(pid).trim() == daemon).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let ended = stage.until(&mail, "ended", |found| !found.running).await;
        assert_eq!(ended.exit_code, Some(1), "{daemon}: {}", log(&stage).await);
    }
    std::fs::remove_file(config_folder(&stage).join("current")).unwrap();
    stage.engine.start(&mail, 3).await.unwrap();
    let ended = stage.until(&mail, "ended", |found| !found.running).await;
    assert_eq!(ended.exit_code, Some(78), "{}", log(&stage).await);
    assert!(log(&stage).await.contains("no usable configuration"));
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_limit_follows_the_configuration() {
    let Some(stage) = Stage::set("a_message_over_the_limit_is_refused").await else { return };
    let paper = paper();
    let ip = serve(&stage, &MailConfig { message_max_bytes: 5000, ..household(&paper) }).await;
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    assert!(sender.say("EHLO x").await.unwrap().starts_with("250"));
    let refused = sender.say("MAIL FROM:<a@b.example> SIZE=6000").await.unwrap();
    assert!(refused.starts_with("552"), "{refused}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_newcomers_and_ends_no_session() {
    let Some(stage) = Stage::set("a_renewed_certificate_is_shown_to_newcomers").await else { return };
    let (old, new) = (paper(), paper());
    let before = household(&old);
    let ip = serve(&stage, &before).await;
    let mut session = inbox(ip, &old, "marie", "sesame").await.unwrap();
    let mut sender = Sender::connect(SocketAddr::new(ip, 25), None).await.unwrap();
    let renewed = MailConfig {
        certificate_pem: new.certificate_pem.clone(),
        key_pem: new.key_pem.clone(),
        ..before.clone()
    };
    write_config(&config_folder(&stage), &renewed).unwrap();
    let begun = Instant::now();
    let round = Probe::Mail(Box::new(probe(ip, &new, "marie", "sesame")));
    // Submission and IMAP both show it, for the probe trusts the new authority alone.
    while round.run(&name("mail"), ip, &stage.engine).await.healthy != Some(true) {
        assert!(begun.elapsed() < PATIENCE, "the new certificate is never shown: {}", log(&stage).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    session.ask("NOOP").await.expect("a session of the old certificate goes on");
    assert!(sender.deliver("marie@example.org", "<across@renewal>").await.starts_with("250"));
    arrives(&mut session, "<across@renewal>").await;
}
