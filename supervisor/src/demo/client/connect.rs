//! Connects again and again, each time waiting for the greeting: shows whether anyone is
//! refused or reset while a service moves, and how long the longest had to wait.

use super::lines::{ANSWER, CONNECT, Lines};
use super::{Stop, pause, stopped};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Connections under way at once at most; beyond that one is skipped, and counted.
const UNDER_WAY_MAX: u64 = 600;

/// How the connections fared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connected {
    /// Tried.
    pub tried: u64,
    /// Got the greeting.
    pub greeted: u64,
    /// Refused.
    pub refused: u64,
    /// Reset or closed before the greeting.
    pub reset: u64,
    /// No connection or no greeting in time.
    pub timed_out: u64,
    /// Any other failure, with the first one's text.
    pub other: u64,
    /// The first failure of any kind.
    pub first_failure: Option<String>,
    /// Longest wait for a greeting, ms.
    pub longest_wait_ms: u64,
    /// Longest time between two greetings, ms.
    pub longest_gap_ms: u64,
    /// Not tried, for too many were under way.
    pub skipped: u64,
}

impl Connected {
    /// How many were turned away: refused or reset before the greeting.
    pub fn turned_away(&self) -> u64 {
        self.refused + self.reset
    }

    fn count(&mut self, outcome: &Outcome) {
        self.tried += 1;
        match &outcome.fared {
            Ok(()) => {
                self.greeted += 1;
                self.longest_wait_ms = self.longest_wait_ms.max(outcome.waited.as_millis() as u64);
            }
            Err((kind, text)) => {
                match kind {
                    ErrorKind::ConnectionRefused => self.refused += 1,
                    ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof => self.reset += 1,
                    ErrorKind::TimedOut | ErrorKind::WouldBlock => self.timed_out += 1,
                    _ => self.other += 1,
                }
                self.first_failure.get_or_insert_with(|| text.clone());
            }
        }
    }
}

struct Outcome {
    fared: Result<(), (ErrorKind, String)>,
    waited: Duration,
    at: Instant,
}

fn once(to: SocketAddr) -> Outcome {
    let began = Instant::now();
    let greeting = || {
        let stream = TcpStream::connect_timeout(&to, CONNECT)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Lines::new(stream).hear().map(|_| ())
    };
    let fared = greeting().map_err(|e: std::io::Error| (e.kind(), e.to_string()));
    Outcome { fared, waited: began.elapsed(), at: Instant::now() }
}

/// Connects every so often until told to end, or for at most `limit`; those under way are
/// waited for.
pub fn run(to: SocketAddr, every: Duration, limit: Duration, stop: &Stop) -> Connected {
    let began = Instant::now();
    let mut connected = Connected::default();
    let mut last_greeting: Option<Instant> = None;
    let mut under_way = 0;
    let (sender, outcomes) = mpsc::channel();
    let mut take = |connected: &mut Connected, outcome: Outcome| {
        connected.count(&outcome);
        if outcome.fared.is_ok() {
            let gap = last_greeting.map(|last| outcome.at.saturating_duration_since(last));
            connected.longest_gap_ms =
                connected.longest_gap_ms.max(gap.unwrap_or_default().as_millis() as u64);
            last_greeting = Some(outcome.at);
        }
    };
    while !stopped(stop) && began.elapsed() < limit {
        if under_way < UNDER_WAY_MAX {
            under_way += 1;
            let sender = sender.clone();
            // The receiver outlives every sender: it is drained below.
            std::thread::spawn(move || sender.send(once(to)).ok());
        } else {
            connected.skipped += 1;
        }
        pause(stop, every);
        for outcome in outcomes.try_iter() {
            under_way -= 1;
            take(&mut connected, outcome);
        }
    }
    drop(sender);
    for outcome in outcomes {
        take(&mut connected, outcome);
    }
    connected
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn greeted_refused_and_reset_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            first.write_all(b"220 hi\r\n").unwrap();
            drop(listener.accept().unwrap());
        });
        let mut connected = Connected::default();
        connected.count(&once(to));
        connected.count(&once(to));
        server.join().unwrap();
        connected.count(&once(to));
        assert_eq!((connected.tried, connected.greeted, connected.reset, connected.refused), (3, 1, 1, 1));
        assert_eq!(connected.turned_away(), 2);
        assert!(connected.first_failure.is_some());
    }

    #[test]
    fn those_under_way_at_the_end_are_counted_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::sleep(Duration::from_millis(50));
                (&stream).write_all(b"220 hi\r\n").ok();
            }
        });
        let connected = run(to, Duration::from_millis(5), Duration::from_millis(60), &Stop::default());
        assert!(connected.tried >= 1);
        assert_eq!(connected.greeted, connected.tried);
    }
}
