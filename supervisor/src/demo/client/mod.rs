//! A client of the home, as the lab starts it on the client's machine: it sends mail, reads it,
//! connects again and again, writes records. It prints one JSON report at its end, which comes
//! when its work is done or its standard input is closed.

pub mod any_server;
pub mod audit;
pub mod connect;
pub mod deliver;
pub mod imap;
pub mod lines;
pub mod record;
pub mod smtp;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the client does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ClientCommand {
    /// Sends mail by SMTP and reports what was acknowledged.
    Smtp {
        /// Where.
        #[arg(long)]
        to: SocketAddr,
        /// To whom.
        #[arg(long, required = true)]
        rcpt: Vec<String>,
        /// From whom.
        #[arg(long, default_value = "sender@elsewhere.example")]
        from: String,
        /// How much, how fast.
        #[command(flatten)]
        load: deliver::Load,
    },
    /// Lists the Message-IDs of a mailbox by IMAP; the password comes in THERMIDOR_IMAP_PASSWORD.
    Imap {
        /// Where.
        #[arg(long)]
        to: SocketAddr,
        /// Login.
        #[arg(long)]
        user: String,
    },
    /// Connects again and again and reports how each connection fared until the greeting.
    Connect {
        /// Where.
        #[arg(long)]
        to: SocketAddr,
        /// Time between two connections, ms.
        #[arg(long, default_value_t = 50)]
        every_ms: u64,
        /// End after that long, s.
        #[arg(long, default_value_t = 600)]
        limit_s: u64,
    },
    /// Writes lines to the record service and reports what was acknowledged.
    Record {
        /// Where.
        #[arg(long)]
        to: SocketAddr,
        /// How much, how fast.
        #[command(flatten)]
        load: deliver::Load,
    },
    /// Lists the lines that the record service holds.
    RecordList {
        /// Where.
        #[arg(long)]
        to: SocketAddr,
    },
}

/// Set once the client is to end.
pub type Stop = Arc<AtomicBool>;

/// Whether it is set.
pub fn stopped(stop: &Stop) -> bool {
    stop.load(Ordering::Relaxed)
}

/// Sleeps, but not past the moment at which the client is to end; looks every 10 ms.
pub fn pause(stop: &Stop, duration: Duration) {
    let until = std::time::Instant::now() + duration;
    while !stopped(stop) {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(10)));
    }
}

/// Runs the client to its end and returns its report as JSON.
pub fn run(command: ClientCommand) -> anyhow::Result<String> {
    let stop = Stop::default();
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut byte = [0];
            // Nothing is ever written: this returns at the end, or by an error that means the same.
            while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
            stop.store(true, Ordering::Relaxed);
        }
    });
    let report = match command {
        ClientCommand::Smtp { to, rcpt, from, load } => {
            serde_json::to_string(&deliver::run(&load, &stop, || smtp::Smtp::open(to, &from, &rcpt)))
        }
        ClientCommand::Imap { to, user } => {
            let password = std::env::var("THERMIDOR_IMAP_PASSWORD").unwrap_or_default();
            serde_json::to_string(&imap::list(to, &user, &password)?)
        }
        ClientCommand::Connect { to, every_ms, limit_s } => serde_json::to_string(&connect::run(
            to,
            Duration::from_millis(every_ms),
            Duration::from_secs(limit_s),
            &stop,
        )),
        ClientCommand::Record { to, load } => {
            serde_json::to_string(&deliver::run(&load, &stop, || record::Record::open(to)))
        }
        ClientCommand::RecordList { to } => serde_json::to_string(&record::list(to)?),
    };
    Ok(report?)
}
