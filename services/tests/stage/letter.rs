//! A mail service on the stage, and a sender that speaks SMTP by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use super::{PATIENCE, Stage, name};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thermidor_model::VolumeName;
use thermidor_model::observe::Readiness;
use thermidor_model::spec::{MailSpec, PROBE_ACCOUNT, RecipeSpec, ServiceSpec};
use thermidor_model::testing::{mount, plain_service};
use thermidor_services::docker::ContainerPlan;
use thermidor_services::probe::imap::{Imap, quoted};
use thermidor_services::probe::{MailProbe, client_config};
use thermidor_services::recipe::mail::{Account, MailConfig, hash_password, write_config};
use thermidor_services::recipe::{Ground, VolumePlace, resolve};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

pub const HOST: &str = "mail.example.org";

/// The home's authority, and a mail server's certificate under it.
pub struct Paper {
    pub authority_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

pub fn paper() -> Paper {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_pem = params.self_signed(&authority_key).unwrap().pem();
    let authority = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![HOST.into()]).unwrap().signed_by(&key, &authority).unwrap();
    Paper { authority_pem, certificate_pem: leaf.pem(), key_pem: key.serialize_pem() }
}

pub fn account(password: &str, aliases: &[&str]) -> Account {
    Account {
        password_hash: hash_password(password).unwrap(),
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect::<BTreeSet<_>>(),
    }
}

/// Marie, also known as contact, and Paul.
pub fn household(paper: &Paper) -> MailConfig {
    MailConfig {
        domain: "example.org".into(),
        hostname: HOST.into(),
        message_max_bytes: 1_000_000,
        accounts: BTreeMap::from([
            ("marie".to_owned(), account("sesame", &["contact"])),
            ("paul".to_owned(), account("open it", &[])),
        ]),
        probe_hash: Some(hash_password("only the home knows").unwrap()),
        certificate_pem: paper.certificate_pem.clone(),
        key_pem: paper.key_pem.clone(),
    }
}

/// The plan of a mail service whose volume and files are folders of the stage.
pub fn plan(stage: &Stage) -> ContainerPlan {
    let volume = VolumeName::new("mail").unwrap();
    let place = VolumePlace { folder: stage.folder("volume"), mountpoint: None };
    let settings = MailSpec {
        domain: "example.org".into(),
        hostname: HOST.into(),
        accounts: BTreeMap::new(),
        message_max_bytes: 1_000_000,
        certificate: None,
        probe_every_s: 300,
    };
    let spec = ServiceSpec {
        recipe: Some(RecipeSpec::Mail(settings)),
        image: None,
        volumes: vec![mount(volume.clone(), "/srv/mail")],
        ..plain_service()
    };
    let ground = Ground {
        volumes: &BTreeMap::from([(volume, place)]),
        config: &config_folder(stage),
        run: std::path::Path::new("/r"),
        program: std::path::Path::new("/p"),
        secret: &|_| None,
        context: &|_| None,
    };
    resolve(&name("mail"), &spec, &ground).unwrap()
}

pub fn config_folder(stage: &Stage) -> PathBuf {
    stage.folder("config")
}

/// Prepares, configures and starts mail; gives its address once it greets.
pub async fn serve(stage: &Stage, config: &MailConfig) -> IpAddr {
    write_config(&config_folder(stage), config).unwrap();
    let ready = stage.engine.prepare(&plan(stage)).await;
    assert_eq!(ready, Readiness::Ready);
    start(stage, 1).await
}

pub async fn start(stage: &Stage, epoch: u64) -> IpAddr {
    let found = stage.engine.start(&name("mail"), epoch).await.unwrap();
    let ip = found.address.unwrap();
    let begun = Instant::now();
    while let Err(why) = Sender::connect(SocketAddr::new(ip, 25), None).await {
        if begun.elapsed() > PATIENCE {
            let log = log(stage).await;
            panic!("mail never greets: {why}\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ip
}

pub async fn log(stage: &Stage) -> String {
    use futures::StreamExt;
    let lines = stage.engine.logs(&name("mail"), false, Some(200)).await.unwrap();
    lines.map(|l| l.unwrap().text).collect::<Vec<_>>().await.join("\n")
}

/// A probe as somebody, straight at the container's own ports.
pub fn probe(ip: IpAddr, paper: &Paper, user: &str, password: &str) -> MailProbe {
    MailProbe {
        smtp: Some(SocketAddr::new(ip, 25)),
        submission: SocketAddr::new(ip, 465),
        imap: SocketAddr::new(ip, 993),
        server_name: HOST.into(),
        authority_pem: paper.authority_pem.clone(),
        user: user.into(),
        address: format!("{user}@example.org"),
        password: password.into(),
        own_mailbox: user == PROBE_ACCOUNT,
        limit: PATIENCE,
    }
}

/// Logs in and opens the inbox.
pub async fn inbox(ip: IpAddr, paper: &Paper, user: &str, password: &str) -> Result<Imap, String> {
    let name = rustls::pki_types::ServerName::try_from(HOST).unwrap();
    let tls = client_config(&paper.authority_pem)?;
    let mut imap = Imap::connect(SocketAddr::new(ip, 993), &name, &tls).await?;
    imap.ask(&format!("LOGIN {} {}", quoted(user), quoted(password))).await?;
    imap.ask("SELECT INBOX").await?;
    Ok(imap)
}

/// Waits until a message is there, by its Message-ID.
pub async fn arrives(imap: &mut Imap, id: &str) -> u32 {
    let begun = Instant::now();
    loop {
        if let Some(number) = imap.search("Message-ID", id).await.unwrap().first() {
            return *number;
        }
        assert!(begun.elapsed() < PATIENCE, "{id} never arrives");
        tokio::time::sleep(Duration::from_millis(50)).await;
        imap.ask("NOOP").await.unwrap();
    }
}

/// One SMTP session in clear.
pub struct Sender(BufStream<TcpStream>);

impl Sender {
    /// Connects, says a PROXY header if there is one, and reads the greeting.
    pub async fn connect(to: SocketAddr, header: Option<&[u8]>) -> Result<Self, String> {
        let connect = async {
            let mut stream = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
            if let Some(header) = header {
                stream.write_all(header).await.map_err(|e| e.to_string())?;
            }
            let mut sender = Self(BufStream::new(stream));
            let greeting = sender.answer().await?;
            if greeting.starts_with("220") { Ok(sender) } else { Err(greeting) }
        };
        tokio::time::timeout(PATIENCE, connect).await.map_err(|_| "no greeting".to_owned())?
    }

    /// Says a line and reads the answer's last line.
    pub async fn say(&mut self, line: &str) -> Result<String, String> {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.map_err(|e| e.to_string())?;
        self.0.flush().await.map_err(|e| e.to_string())?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<String, String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.map_err(|e| e.to_string())? == 0 {
                return Err("hung up".into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    /// The answer to RCPT TO, after HELO and MAIL FROM.
    pub async fn recipient(&mut self, to: &str) -> String {
        assert!(self.say("EHLO client.example").await.unwrap().starts_with("250"));
        assert!(self.say("MAIL FROM:<someone@elsewhere.example>").await.unwrap().starts_with("250"));
        self.say(&format!("RCPT TO:<{to}>")).await.unwrap()
    }

    /// A whole message; the answer after the dot.
    pub async fn deliver(&mut self, to: &str, id: &str) -> String {
        let accepted = self.recipient(to).await;
        assert!(accepted.starts_with("250"), "{accepted}");
        assert!(self.say("DATA").await.unwrap().starts_with("354"));
        self.say(&format!(
            "From: someone@elsewhere.example\r\nTo: {to}\r\nMessage-ID: {id}\r\nSubject: hello\r\n\r\nhello\r\n."
        ))
        .await
        .unwrap()
    }
}

/// A PROXY v2 header: what the ingress says of its client.
pub fn header(client: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x21, 0x11, 0, 12]);
    bytes.extend(client);
    bytes.extend([10, 0, 0, 1]);
    bytes.extend(4711_u16.to_be_bytes());
    bytes.extend(25_u16.to_be_bytes());
    bytes
}

/// How many messages lie in somebody's folders.
pub fn messages_on_disk(volume: &Path, user: &str) -> usize {
    ["new", "cur"]
        .iter()
        .filter_map(|part| std::fs::read_dir(volume.join("boxes").join(user).join("Maildir").join(part)).ok())
        .map(Iterator::count)
        .sum()
}
