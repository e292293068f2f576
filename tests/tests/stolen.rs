//! A radiator is stolen, the active one: the home goes on without it, under other keys, and whoever has its disk can
//! do nothing with it, at any port.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use thermidor_model::State;
use thermidor_raft::Identity;
use thermidor_supervisor::api::{Request, client};
use thermidor_supervisor::demo::client::deliver::Delivered;
use thermidor_supervisor::paths::{HOME_PORT, TUNNEL_PORT};
use thermidor_tests::record::{RADIATORS, RecordHome, SERVICE};

/// A server that has not hung up by then waits for us to speak: it took our certificate.
const TAKEN_AFTER: Duration = Duration::from_millis(800);

fn state(home: &RecordHome, seat: &str) -> Result<State> {
    Ok(client::ask_for(&home.radiator(seat)?.paths()?, &Request::State)?)
}

/// As whoever has that radiator's files.
fn shows(data: &Path) -> Result<Arc<ClientConfig>> {
    let identity = Identity::load(data)?;
    // The members as that disk knows them: it is the server that shall refuse.
    identity.follow_files(data)?;
    Ok(identity.client_config()?)
}

/// Whether a server takes what we show.
fn is_taken(config: &Arc<ClientConfig>, door: SocketAddr) -> Result<bool> {
    let name = ServerName::try_from(thermidor_raft::identity::SERVER_NAME)?;
    let stream = TcpStream::connect_timeout(&door, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(TAKEN_AFTER))?;
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name)?, stream);
    match tls.read(&mut [0; 1]) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(true),
        Ok(0) => Ok(false),
        Ok(_) => anyhow::bail!("{door} speaks first"),
        Err(e) => {
            println!("{door}: {e}");
            Ok(false)
        }
    }
}

/// Whether whoever has those files is let in by a radiator at those ports, asked from the household's network.
fn taken_at(home: &RecordHome, files: &Path, name: &str, ports: &[u16]) -> Result<Vec<bool>> {
    let config = shows(files)?;
    let ip = IpAddr::V4(home.radiator(name)?.address());
    home.home.lab.as_client(|| ports.iter().map(|port| is_taken(&config, (ip, *port).into())).collect())?
}

/// What a thief copies from a radiator's disk.
fn copied(home: &RecordHome, name: &str) -> Result<TempDir> {
    let (data, copy) = (home.radiator(name)?.paths()?.data, tempfile::tempdir()?);
    std::fs::create_dir(copy.path().join("identity"))?;
    for file in std::fs::read_dir(data.join("identity"))? {
        let file = file?;
        std::fs::copy(file.path(), copy.path().join("identity").join(file.file_name()))?;
    }
    std::fs::copy(data.join("members.json"), copy.path().join("members.json"))?;
    Ok(copy)
}

#[test]
fn a_stolen_radiator_is_out_and_what_is_on_its_disk_opens_nothing() {
    let mut home = RecordHome::form("stolen").unwrap();
    home.home.tell_secret("notes/token", "correct horse").unwrap();
    let stolen = home.active().unwrap();
    home.sit_away_from(&[&stolen]).unwrap();
    let rest: Vec<&str> = RADIATORS.into_iter().filter(|name| *name != stolen).collect();
    let volume = state(&home, rest[0]).unwrap().volumes.values().next().unwrap().port;
    let thief = copied(&home, &stolen).unwrap();
    let doors = [HOME_PORT, TUNNEL_PORT, volume];
    // At the volume's door he would be taken for the active, and end its session.
    let taken = taken_at(&home, thief.path(), rest[0], &doors[..2]).unwrap();
    assert_eq!(taken, [true; 2], "a member is let in");

    let writer = home.writer(&home.to(), "theft").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    home.radiator(&stolen).unwrap().power_off().unwrap();
    let elsewhere = |s: &thermidor_supervisor::demo::home::Status| {
        s.runs_on(SERVICE).is_some_and(|active| active != stolen)
    };
    home.home.wait(60, "the service to be taken over", elsewhere).unwrap();
    let processes = |home: &RecordHome| -> Vec<Vec<u32>> {
        let of = |name: &&str| {
            let radiator = home.radiator(name).unwrap();
            ["run", "guard", "ingress", "volume-process"].map(|verb| radiator.pids_of(verb)).concat()
        };
        rest.iter().map(of).collect()
    };
    let before = (processes(&home), state(&home, rest[0]).unwrap());
    let said = home.home.type_here(&["leave", &stolen, "--stolen"]).unwrap();
    assert!(said.contains("notes/token") && said.contains("sealed under the new home key"), "{said}");
    std::thread::sleep(Duration::from_secs(2));
    let after = (processes(&home), state(&home, rest[0]).unwrap());
    assert_eq!(before.0, after.0, "no process ended");
    let epochs = |s: &State| s.services.values().map(|service| service.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(&before.1), epochs(&after.1), "no take-over");
    assert_ne!(before.1.authority_pem, after.1.authority_pem);
    for (name, other) in [(rest[0], rest[1]), (rest[1], rest[0])] {
        let taken = taken_at(&home, thief.path(), name, &doors).unwrap();
        assert!(!taken.contains(&true), "the thief is let in by {name}: {taken:?}");
        let member = copied(&home, other).unwrap();
        let taken = taken_at(&home, member.path(), name, &doors[..2]).unwrap();
        assert_eq!(taken, [true; 2], "{other} is let in by {name}");
    }

    // The thief plugs it in, in the household's own network.
    home.radiator(&stolen).unwrap().power_on().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let calm = state(&home, rest[0]).unwrap();
    assert_eq!(epochs(&after.1), epochs(&calm), "the thief moves nothing");
    assert!(calm.members.values().all(|m| m.name.as_str() != stolen));
    let delivered: Delivered = writer.stop().unwrap();
    enough(&delivered).unwrap();
    home.remember(&delivered);
    home.audit().unwrap();

    // The secret opens for services still.
    let notes = "  notes:\n    image: thermidor/record:1\n    command: [\"sleep\", \"infinity\"]\n    environment: { TOKEN: secret:notes/token }\n";
    home.declare(notes).unwrap();
    home.home.wait(60, "a service that needs the secret", |s| s.runs_on("notes").is_some()).unwrap();
}

fn enough(delivered: &Delivered) -> Result<()> {
    ensure!(delivered.acknowledged.len() > 50, "hardly anything was acknowledged: {delivered:?}");
    ensure!(delivered.refused.is_empty(), "refused: {:?}", delivered.refused);
    Ok(())
}
