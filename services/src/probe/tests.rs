//! Probes against servers that are well, ill, silent or strange.

use super::*;
use crate::docker::EngineConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// A server that says something to whoever connects, once, and perhaps hangs up.
async fn server(says: &'static str, hangs_up: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        if !hangs_up {
            std::future::pending::<()>().await;
        }
    });
    port
}

async fn probed(probe: Probe) -> Probed {
    let dir = tempfile::tempdir().unwrap();
    let config = EngineConfig { socket: dir.path().join("none"), ..EngineConfig::new("t", dir.path()) };
    let engine = Engine::new(config).unwrap();
    probe.run(&ServiceName::new("it").unwrap(), IpAddr::from([127, 0, 0, 1]), &engine).await
}

const LIMIT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_greeting_is_checked_and_every_way_of_failing_is_said() {
    let greeting = |port| Probe::Greeting { port, begins: "220 ".into(), limit: LIMIT };
    let good = probed(greeting(server("220 mail ESMTP\r\n", false).await)).await;
    assert_eq!(good.healthy, Some(true));
    assert_eq!(good.legs.iter().map(|l| l.name).collect::<Vec<_>>(), ["connect", "greeting"]);
    assert!(good.to_string().starts_with("healthy (connect "), "{good}");
    for (says, hangs_up, words) in
        [("554 no\r\n", false, "greets with"), ("", true, "hung up"), ("", false, "no answer in 0.3 s")]
    {
        let bad = probed(greeting(server(says, hangs_up).await)).await;
        assert_eq!(bad.healthy, Some(false));
        assert!(bad.trouble.contains(words), "{bad}");
    }
    let silent = Probe::Greeting { port: server("", false).await, begins: String::new(), limit: LIMIT };
    assert_eq!(probed(silent).await.healthy, Some(true));
    let closed = probed(greeting(1)).await;
    assert!(closed.trouble.contains("refused"), "{closed}");
}

#[tokio::test]
async fn a_page_must_answer_well() {
    let page = |port| Probe::Http { port, path: "/Status.html".into(), limit: LIMIT };
    assert_eq!(probed(page(server("HTTP/1.1 200 OK\r\n\r\n", false).await)).await.healthy, Some(true));
    for (says, hangs_up, words) in [
        ("HTTP/1.1 503 Busy\r\n\r\n", false, "answers 503"),
        ("220 mail\r\n", false, "does not speak HTTP"),
        ("", false, "no answer in 0.3 s"),
    ] {
        let bad = probed(page(server(says, hangs_up).await)).await;
        assert_eq!(bad.healthy, Some(false));
        assert!(bad.trouble.contains(words), "{bad}");
    }
}

#[tokio::test]
async fn health_is_unknown_while_docker_is_gone() {
    let unknown = probed(Probe::Health).await;
    assert_eq!(unknown.healthy, None);
    assert!(unknown.trouble.contains("Docker is gone"), "{unknown}");
}

#[test]
fn imap_strings_are_quoted_so_that_nothing_can_be_slipped_in() {
    assert_eq!(imap::quoted("a\"b\\c\r\nx LOGOUT"), "\"a\\\"b\\\\cx LOGOUT\"");
}

/// A mail probe whose submission and IMAP are a server of ours.
fn mail_probe(port: u16, authority_pem: &str) -> Probe {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Probe::Mail(Box::new(MailProbe {
        smtp: None,
        own_mailbox: false,
        submission: address,
        imap: address,
        server_name: "mail.example.org".into(),
        authority_pem: authority_pem.into(),
        user: "marie".into(),
        address: "marie@example.org".into(),
        password: "sesame".into(),
        limit: LIMIT,
    }))
}

#[tokio::test]
async fn a_mail_server_that_is_silent_hangs_up_or_cannot_be_trusted_is_said_and_the_password_is_not() {
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem();
    let silent = mail_probe(server("", false).await, &authority);
    assert!(!format!("{silent:?}").contains("sesame"));
    let bad = probed(silent).await;
    assert_eq!(bad.trouble, "submission: no answer in 0.3 s");
    assert_eq!((bad.healthy, bad.legs.len()), (Some(false), 0));
    let closed = probed(mail_probe(server("", true).await, &authority)).await;
    assert!(closed.trouble.starts_with("submission: "), "{closed}");
    let paperless = probed(mail_probe(server("", false).await, "no certificate")).await;
    assert_eq!(paperless.healthy, Some(false), "{paperless}");
}
