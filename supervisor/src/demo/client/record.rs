//! The record service's client: what it acknowledged must be in its list for ever.

use super::deliver::{Session, Trouble};
use super::lines::{Lines, connect};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// A session with the record service after its greeting.
#[derive(Debug)]
pub struct Record(Lines<TcpStream>);

impl Record {
    /// Connects and waits for the greeting.
    pub fn open(to: SocketAddr) -> Result<Self, Trouble> {
        let mut lines = Lines::new(connect(to)?);
        let greeting = lines.hear()?;
        if greeting.starts_with("220 ") { Ok(Self(lines)) } else { Err(Trouble::Again(greeting)) }
    }
}

impl Session for Record {
    fn put(&mut self, name: &str) -> Result<(), Trouble> {
        self.0.say(&format!("PUT {name}"))?;
        let answer = self.0.hear()?;
        if answer.starts_with("ok ") { Ok(()) } else { Err(Trouble::Refused(answer)) }
    }
}

/// All lines that the service holds.
pub fn list(to: SocketAddr) -> io::Result<Vec<String>> {
    let mut lines = Lines::new(connect(to)?);
    lines.hear()?;
    lines.say("LIST")?;
    let mut list = Vec::new();
    loop {
        let line = lines.hear()?;
        if line == "." {
            return Ok(list);
        }
        list.push(line);
    }
}
