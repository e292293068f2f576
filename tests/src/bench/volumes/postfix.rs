//! Real Postfix, out of the image of the home's mail recipe, with its queue and mailboxes on a side:
//! how many messages a second it accepts.

use super::load::wait_until;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use thermidor_services::recipe::mail::mail_image;
use thermidor_supervisor::demo::client::Stop;
use thermidor_supervisor::demo::client::deliver::{self, Load};
use thermidor_supervisor::demo::client::smtp::Smtp;

/// Connections at once.
const SENDERS: u64 = 8;
/// How long messages are sent, s.
const TIME_S: u64 = 4;
/// How long it may take to greet, and to stop.
const SETTLE: Duration = Duration::from_secs(30);
const CONTAINER: &str = "bench-postfix";
const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 25);

/// The recipe's Postfix without a household around it: eight mailboxes, delivered by Postfix itself.
const SCRIPT: &str = r#"set -e
mkdir -p /run/thermidor
install -d -m 0700 -o postfix -g root /run/postfix
users=
for n in 0 1 2 3 4 5 6 7; do users="$users { u$n@bench.example = u$n/ }"; done
# Each parameter stands once: every process warns of a second one, postlogd too, and waits for room in the socket
# that it alone reads.
mkdir /run/edited
cp /usr/share/thermidor/main.cf /run/edited/
postconf -c /run/edited -e \
  'myhostname = mail.bench.example' \
  'mydomain = bench.example' \
  'inet_interfaces = 127.0.0.1' \
  'virtual_mailbox_domains = bench.example' \
  "virtual_mailbox_maps = inline:{$users }" \
  'virtual_mailbox_base = /srv/mail/boxes' \
  'virtual_uid_maps = static:5000' \
  'virtual_gid_maps = static:5000' \
  'virtual_alias_maps =' \
  'virtual_transport = virtual' \
  'smtpd_recipient_restrictions =' \
  'smtpd_tls_security_level = none' \
  'smtpd_tls_chain_files ='
cp /run/edited/main.cf /run/thermidor/
{
  echo 'smtp inet n - n - - smtpd'
  grep '^[a-z]' /usr/share/thermidor/master.cf | grep -v ' inet '
  echo 'virtual unix - n n - - virtual'
} >/etc/postfix/master.cf
# Postfix waits until a file is a second old.
touch -d '10 seconds ago' /run/thermidor/main.cf /etc/postfix/master.cf
install -d -m 0755 /srv/mail/queue /srv/mail/queue/pid
install -d -m 0700 -o vmail -g vmail /srv/mail/boxes
cd /srv/mail/queue
install -d -m 0700 -o postfix -g root active bounce corrupt defer deferred flush hold incoming private saved trace
install -d -m 2710 -o postfix -g postdrop public
install -d -m 1730 -o postfix -g postdrop maildrop
cd /
trap 'kill $child; wait $child; exit 0' TERM
/usr/lib/postfix/sbin/master -s -c /etc/postfix &
child=$!
wait $child
"#;

fn docker(args: &[&str]) -> Result<String> {
    let said = Command::new("docker").args(args).output().context("start docker")?;
    let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    ensure!(said.status.success(), "`docker {}`: {error}", args[0]);
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The container; gone when this is dropped.
struct Container;

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(e) = docker(&["rm", "--force", CONTAINER]) {
            eprintln!("left to the lab's end: {e:#}");
        }
    }
}

/// What the container said last.
fn last_words() -> Result<String> {
    let logs =
        Command::new("docker").args(["logs", "--tail", "20", CONTAINER]).output().context("start docker")?;
    Ok([logs.stdout, logs.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

/// How many messages it accepts a second, with its files in that folder. No message that was accepted may
/// be missing afterwards.
pub fn accepted(dir: &Path) -> Result<f64> {
    let dir = dir.join("postfix");
    std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let (mount, image) = (format!("{}:/srv/mail", dir.display()), mail_image().reference());
    let container = Container;
    docker(&[
        "run",
        "--detach",
        "--name",
        CONTAINER,
        "--network=host",
        "--volume",
        &mount,
        "--entrypoint",
        "bash",
        &image,
        "-c",
        SCRIPT,
    ])?;
    let boxes: Vec<String> = (0..SENDERS).map(|n| format!("u{n}@bench.example")).collect();
    // The port is open long before anybody greets: the first processes wait for what was written before.
    let greets = wait_until(SETTLE, || Smtp::open(TO, "sender@elsewhere.example", &boxes[..1]).is_ok());
    ensure!(greets, "Postfix does not greet: {}", last_words()?);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let load = Load { count: None, prefix: "bench".into(), parallel: SENDERS, pause_ms: 0, limit_s: TIME_S };
    let delivered = deliver::run(&load, &Stop::default(), || {
        let to = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % boxes.len();
        Smtp::open(TO, "sender@elsewhere.example", &boxes[to..=to])
    });
    ensure!(delivered.refused.is_empty(), "Postfix refused: {:?}", delivered.refused.first_key_value());
    ensure!(
        !delivered.acknowledged.is_empty(),
        "nothing was accepted: {:?}; {}",
        delivered.not_opened,
        last_words()?
    );
    docker(&["stop", "--time", "10", CONTAINER])?;
    drop(container);
    let (accepted, there) = (delivered.acknowledged.len(), messages(&dir)?);
    ensure!(there >= accepted, "{accepted} messages were accepted, {there} are there");
    std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(accepted as f64 / (delivered.took_ms as f64 / 1000.0))
}

/// Messages in mailboxes and queues.
fn messages(dir: &Path) -> Result<usize> {
    let mut folders: Vec<_> =
        ["maildrop", "incoming", "active", "deferred"].map(|queue| dir.join("queue").join(queue)).into();
    for mailbox in std::fs::read_dir(dir.join("boxes"))? {
        folders.push(mailbox?.path().join("new"));
    }
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { count += 1 }
        }
    }
    Ok(count)
}
