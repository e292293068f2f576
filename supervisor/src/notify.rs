//! Telling people: the events that matter are mailed through an outside SMTP server, never only
//! through the home's own. The outbox is the home's event list itself: what was mailed is agreed
//! on through Raft, so a new leader goes on where the old one stopped.

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_model::NodeId;
use thermidor_model::name::UnixMs;
use thermidor_model::spec::NotifySpec;
use thermidor_model::state::{State, Weight};

/// Two events of one key within this span are mailed once, ms.
const SAME_KEY_MS: u64 = 3_600_000;

/// How long an event waits for company before it is mailed, ms.
const GATHER_MS: u64 = 5_000;

/// How long one delivery may take; lettre's own limit covers the connect only.
const SEND_MAX: Duration = Duration::from_secs(60);

/// One mail to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The last event it covers.
    pub up_to: u64,
    /// Its subject.
    pub subject: String,
    /// Its text; empty where every event was a repetition: then nothing is sent.
    pub body: String,
}

/// What is to be mailed now, if anything. Pure.
pub fn due(state: &State, now_ms: UnixMs) -> Option<Digest> {
    let fresh: Vec<_> =
        state.events.iter().filter(|e| e.number > state.notified && e.weight == Weight::Mail).collect();
    let first = fresh.first()?;
    if first.at_ms + GATHER_MS > now_ms {
        return None;
    }
    let told = |key: &str, at_ms: UnixMs| {
        let earlier = state.events.iter().filter(|e| e.weight == Weight::Mail && e.number <= state.notified);
        earlier.into_iter().any(|e| e.key == key && e.at_ms + SAME_KEY_MS > at_ms)
    };
    let mut keys = BTreeSet::new();
    // Of one key the last word counts: "below durability", then "in sync again" is told as the latter.
    let lines: Vec<_> =
        fresh.iter().rev().filter(|e| !told(&e.key, e.at_ms) && keys.insert(e.key.clone())).collect();
    let home = state.home.as_ref().map(|h| h.to_string()).unwrap_or_default();
    let subject = match lines.as_slice() {
        [one] => format!("[{home}] {}", one.text),
        many => format!("[{home}] {} events", many.len()),
    };
    let body = lines.iter().rev().map(|e| format!("{}\n", e.text)).collect();
    Some(Digest { up_to: fresh.last().map_or(first.number, |e| e.number), subject, body })
}

/// Who sends: the leader says so in the Message-ID, so that a mail sent twice shows as one.
pub fn message(spec: &NotifySpec, digest: &Digest, home: &str, node: NodeId) -> Result<Message, String> {
    let mailbox =
        |text: &str| text.parse::<Mailbox>().map_err(|e| format!("`{text}` is no mail address: {e}"));
    let from = spec.from.clone().unwrap_or_else(|| format!("thermidor@{}", spec.smtp.host));
    let mut builder = Message::builder()
        .from(mailbox(&from)?)
        .subject(digest.subject.clone())
        .message_id(Some(format!("<{}.{node}.{home}@thermidor>", digest.up_to)));
    for to in &spec.to {
        builder = builder.to(mailbox(to)?);
    }
    builder.body(digest.body.clone()).map_err(|e| e.to_string())
}

/// Hands a message to the outside server.
pub async fn send(spec: &NotifySpec, password: Option<String>, message: Message) -> Result<(), String> {
    let smtp = &spec.smtp;
    let tls = match (smtp.tls, smtp.port) {
        (false, _) => Tls::None,
        (true, port) => {
            let parameters = TlsParameters::new(smtp.host.clone()).map_err(|e| e.to_string())?;
            if port == 465 { Tls::Wrapper(parameters) } else { Tls::Required(parameters) }
        }
    };
    let mut transport =
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host).port(smtp.port).tls(tls);
    if let (Some(user), Some(password)) = (&smtp.user, password) {
        transport = transport.credentials(Credentials::new(user.clone(), password));
    }
    match tokio::time::timeout(SEND_MAX, transport.build().send(message)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(format!("{}:{}: {e}", smtp.host, smtp.port)),
        Err(_) => {
            Err(format!("{}:{} did not take the mail within {} s", smtp.host, smtp.port, SEND_MAX.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::spec::SmtpSpec;
    use thermidor_model::{Command, Proposal};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    fn tell(state: &mut State, at_ms: u64, weight: Weight, key: &str, text: &str) {
        state.apply(&Proposal {
            at_ms,
            command: Command::Tell { weight, key: key.into(), text: text.into() },
        });
    }

    fn spec(port: u16) -> NotifySpec {
        NotifySpec {
            to: vec!["marie@elsewhere.example".into()],
            from: None,
            smtp: SmtpSpec { host: "127.0.0.1".into(), port, tls: false, user: None, password: None },
        }
    }

    #[test]
    fn notes_are_not_mailed_and_of_one_key_only_the_last_word_is() {
        let mut state = State::default();
        tell(&mut state, 1_000, Weight::Note, "a", "for the record");
        assert_eq!(due(&state, 99_000), None);
        tell(&mut state, 2_000, Weight::Mail, "volume/box", "box is below its durability");
        tell(&mut state, 3_000, Weight::Mail, "volume/box", "box is whole again");
        tell(&mut state, 3_000, Weight::Mail, "home", "cave left");
        assert_eq!(due(&state, 4_000), None, "gathers first");
        let digest = due(&state, 99_000).unwrap();
        assert_eq!(digest.body, "box is whole again\ncave left\n");
        assert_eq!(digest.up_to, 4);
        state.apply(&Proposal { at_ms: 0, command: Command::Notified { up_to: 4 } });
        assert_eq!(due(&state, 99_000), None, "not twice");
        tell(&mut state, 50_000, Weight::Mail, "volume/box", "box is below its durability");
        assert_eq!(due(&state, 99_000).unwrap().body, "", "told within the hour");
        tell(&mut state, 9_000_000, Weight::Mail, "volume/box", "box is below its durability");
        assert!(due(&state, 9_900_000).unwrap().body.contains("below"));
    }

    #[tokio::test]
    async fn a_digest_reaches_an_outside_server_and_a_closed_port_is_an_error_in_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let mut heard = Vec::new();
            let mut in_data = false;
            write.write_all(b"220 outside\r\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: &[u8] = match (&line[..], in_data) {
                    (".", true) => {
                        in_data = false;
                        b"250 ok\r\n"
                    }
                    (_, true) => b"",
                    ("DATA", _) => {
                        in_data = true;
                        b"354 go on\r\n"
                    }
                    ("QUIT", _) => b"221 bye\r\n",
                    _ => b"250 ok\r\n",
                };
                heard.push(line);
                write.write_all(answer).await.unwrap();
            }
            heard.join("\n")
        });
        let digest = Digest { up_to: 7, subject: "[maison] gone".into(), body: "mail failed over\n".into() };
        let mail = message(&spec(port), &digest, "maison", 1).unwrap();
        send(&spec(port), None, mail.clone()).await.unwrap();
        let heard = server.await.unwrap();
        assert!(heard.contains("Message-ID: <7.1.maison@thermidor>"), "{heard}");
        assert!(heard.contains("mail failed over"), "{heard}");
        let refused = send(&spec(1), None, mail).await.unwrap_err();
        assert!(refused.contains("127.0.0.1:1"), "{refused}");
    }
}
