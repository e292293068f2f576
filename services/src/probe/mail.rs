//! The mail round trip: submit a message with a token over TLS as an authenticated user, wait
//! until IMAP finds it, delete it.

use super::imap::{Imap, quoted};
use super::{Legs, Probed, within};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use rand::RngCore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// How often IMAP is asked whether the message has come.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Longest greeting, bytes.
const GREETING_MAX: u64 = 1024;
/// Header that holds the token.
const TOKEN: &str = "X-Thermidor-Probe";

/// Where and as whom mail is probed.
#[derive(Clone)]
pub struct MailProbe {
    /// Where other mail servers deliver (25): it must greet. `None`: is not published.
    pub smtp: Option<SocketAddr>,
    /// Submission over TLS from the start (465).
    pub submission: SocketAddr,
    /// IMAP over TLS (993).
    pub imap: SocketAddr,
    /// The name in the server's certificate.
    pub server_name: String,
    /// Whose signature it must carry, PEM.
    pub authority_pem: String,
    /// Login of the account, which also receives the message.
    pub user: String,
    /// The account's mail address.
    pub address: String,
    /// Its password.
    pub password: String,
    /// The mailbox is the probe's alone: whatever lies in it goes.
    pub own_mailbox: bool,
    /// For each leg.
    pub limit: Duration,
}

/// Leaves out the password.
impl fmt::Debug for MailProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailProbe")
            .field("submission", &self.submission)
            .field("imap", &self.imap)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl MailProbe {
    pub(super) async fn run(&self) -> Probed {
        let mut legs = Legs::new();
        let result = self.round_trip(&mut legs).await;
        legs.end(result)
    }

    async fn round_trip(&self, legs: &mut Legs) -> Result<(), String> {
        let mut random = [0; 12];
        rand::rng().fill_bytes(&mut random);
        let token: String = random.iter().map(|b| format!("{b:02x}")).collect();
        if let Some(smtp) = self.smtp {
            within(self.limit, greet(smtp)).await.map_err(|e| format!("SMTP: {e}"))?;
            legs.pass("greet");
        }
        within(self.limit, self.submit(&token)).await.map_err(|e| format!("submission: {e}"))?;
        legs.pass("submit");
        let mut imap = within(self.limit, self.login()).await.map_err(|e| format!("login: {e}"))?;
        legs.pass("login");
        let number =
            within(self.limit, wait_for(&mut imap, &token)).await.map_err(|e| format!("delivery: {e}"))?;
        legs.pass("deliver");
        within(self.limit, self.delete(&mut imap, number)).await.map_err(|e| format!("deletion: {e}"))?;
        legs.pass("delete");
        Ok(())
    }

    async fn submit(&self, token: &str) -> Result<(), String> {
        let address: Address = self.address.parse().map_err(|e| format!("{}: {e}", self.address))?;
        let mailbox = Mailbox::new(Some("Thermidor".into()), address);
        let message = Message::builder()
            .from(mailbox.clone())
            .to(mailbox)
            .subject("Thermidor's probe")
            .raw_header(token_header(token))
            .body("This message checks that mail goes all the way round; it deletes itself.\n".to_owned())
            .map_err(|e| e.to_string())?;
        let certificate =
            Certificate::from_pem(self.authority_pem.as_bytes()).map_err(|e| format!("authority: {e}"))?;
        let tls = TlsParameters::builder(self.server_name.clone())
            .add_root_certificate(certificate)
            .build()
            .map_err(|e| e.to_string())?;
        let transport =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.submission.ip().to_string())
                .port(self.submission.port())
                .tls(Tls::Wrapper(tls))
                .credentials(Credentials::new(self.user.clone(), self.password.clone()))
                .authentication(vec![Mechanism::Plain])
                .timeout(Some(self.limit))
                .build();
        transport.send(message).await.map(drop).map_err(|e| chain(&e))
    }

    /// Also what earlier probes left behind when they broke off.
    async fn delete(&self, imap: &mut Imap, number: u32) -> Result<(), String> {
        let which = if self.own_mailbox { "1:*".to_owned() } else { number.to_string() };
        imap.ask(&format!("UID STORE {which} +FLAGS.SILENT (\\Deleted)")).await?;
        imap.ask(&format!("UID EXPUNGE {which}")).await?;
        imap.ask("LOGOUT").await.map(drop)
    }

    async fn login(&self) -> Result<Imap, String> {
        let name = ServerName::try_from(self.server_name.clone()).map_err(|e| e.to_string())?;
        let mut imap = Imap::connect(self.imap, &name, &client_config(&self.authority_pem)?).await?;
        imap.ask(&format!("LOGIN {} {}", quoted(&self.user), quoted(&self.password))).await?;
        imap.ask("SELECT INBOX").await?;
        Ok(imap)
    }
}

/// TLS that trusts one authority alone.
pub fn client_config(authority_pem: &str) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority_pem.as_bytes()) {
        roots
            .add(certificate.map_err(|e| format!("authority: {e}"))?)
            .map_err(|e| format!("authority: {e}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn token_header(token: &str) -> lettre::message::header::HeaderValue {
    let name = lettre::message::header::HeaderName::new_from_ascii_str(TOKEN);
    lettre::message::header::HeaderValue::new(name, token.to_owned())
}

/// Bounded by the caller.
async fn wait_for(imap: &mut Imap, token: &str) -> Result<u32, String> {
    loop {
        if let Some(number) = imap.search(TOKEN, token).await?.first() {
            return Ok(*number);
        }
        tokio::time::sleep(ASK_EVERY).await;
        imap.ask("NOOP").await?;
    }
}

/// The greeting of the door for other mail servers, and a goodbye.
async fn greet(smtp: SocketAddr) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{smtp}: {e}");
    let mut stream = BufStream::new(TcpStream::connect(smtp).await.map_err(told)?);
    let mut line = String::new();
    (&mut stream).take(GREETING_MAX).read_line(&mut line).await.map_err(told)?;
    if !line.starts_with("220") {
        return Err(format!("{smtp} greets with {:?}", line.trim_end()));
    }
    stream.write_all(b"QUIT\r\n").await.map_err(told)?;
    stream.flush().await.map_err(told)
}

/// An error of the mail library with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}
